"""What diagnose.py prints: a finding a scale, as sentences or as tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.console import printable
from common.errors import UserError
from scaling.diagnose.loss import NAMED_POINTS, RULE, Cause
from scaling.diagnose.study import Finding, diagnose
from scaling.diagnose.words import say_points
from scaling.read import contract
from scaling.read.state import State
from scaling.runs.find import find_runs
from scaling.runs.run_record import Run, set_scale
from scaling.runs.study import make_study_of_runs
from scaling.tables import grid
from scaling.tables.cells import missing
from scaling.tables.grid import Grid, say, show

FORMATS = ("text", *grid.FORMATS)
DEFINITION = (
    "Points: of 100 % efficiency, from GPU-seconds a sample here and at the baseline, epochs after "
    "warm-up; by itself, % of a step. Data wait, optimizer and the rest are the typical rank's; "
    "communication is the least that the probe found on any rank, since who waits least is slow."
)
BATCH_DEFINITION = (
    "With a smaller batch per GPU than the baseline's, every other cause has the points it would "
    "cost at the baseline's batch; what that saves is the small batch's."
)


@dataclass(eq=False)
class WorkdirRun(Run):
    """A run outside Slurm: its --workdir holds the results files flat."""

    @property
    def results_dir(self) -> Path:
        return self.folder


def make_text(
    folders: Sequence[Path],
    workload: str,
    jobs: Sequence[str] = (),
    allow_unlike: bool = False,
    form: str = "text",
) -> str:
    """Return the findings on the runs below some folders; UserError when there is no run."""
    runs = [run for folder in folders for run in read_folder(folder)]
    found = {run.workload for run in runs if run.id}
    if all(isinstance(run, WorkdirRun) for run in runs) and len(found) == 1:
        workload = found.pop() or workload  # named one by one, so no need to say which
    study = make_study_of_runs(runs, workload, allow_unlike, ", ".join(map(str, folders)))
    findings = diagnose(study, jobs)
    if len({run.name for f in findings for run in f.scale.runs} & set(jobs)) < len(set(jobs)):
        names = ", ".join(run.name for scale in study.scales for run in scale.runs)
        raise UserError(f"--job {' '.join(jobs)}: not all are complete runs; there are: {names}")
    if form == "text":
        return "\n".join(map(write_finding, findings)) + f"\n{RULE}\n"
    return grid.FORMATS[form]([make_grid(finding) for finding in findings])


def read_folder(folder: Path) -> list[Run]:
    """Return the runs below a folder of jobs, or the one of a --workdir."""
    if not (folder / "run.json").is_file():
        return find_runs(folder)
    settings = contract.read_json(folder / "run.json")
    is_whole = (folder / "RUN_COMPLETE.txt").exists()
    run = WorkdirRun(
        folder,
        str(settings.get("run_id") or folder.resolve().name),
        settings=settings,
        start=contract.utc_time(settings, "start_utc"),
        state=State.COMPLETE if is_whole else State.FAILED,
        reason="complete" if is_whole else f"{folder} has no RUN_COMPLETE.txt",
    )
    workload = settings.get("workload")
    run.workload = workload if isinstance(workload, str) else None
    set_scale(run)
    return [run]


def write_finding(finding: Finding) -> str:
    """Return a finding as text: the causes that stand out first, then what else is known."""
    lines = [finding.headline]
    if finding.loss is not None:
        words, named = finding.words, finding.loss.named
        for place, cause in enumerate(named, start=1):
            lines.append(f"  {place}. {cause.label}: {words.explain(cause)}.")
            lines.append(f"     To do: {words.advise(cause, finding.run)}.")
        rest = [f"{c.name} {_say(c)}" for c in finding.loss.causes if c not in named]
        lines.append(f"  Not named: {', '.join(rest)}.")
        lines.append(f"  {finding.loss.unexplained.label}: {words.explain_rest()}.")
    lines += [f"  Seen: {text}." for text in finding.seen]
    lines += [f"  Not known: {text}." for text in finding.gaps]
    return "\n".join(map(_clean, lines)) + "\n"


def _clean(line: str) -> str:
    indent = len(line) - len(line.lstrip(" "))
    return " " * indent + printable(line)


def _say(cause: Cause) -> str:
    if cause.points is None:
        return "(not measured)"
    within = "" if cause.points < NAMED_POINTS or cause.stands_out else " (within the noise)"
    return say_points(cause.points) + within


def make_grid(finding: Finding) -> Grid:
    """Return a finding as a table: a row a cause, the costliest first, the sum last."""
    is_alone = finding.base is None
    headers = {
        "cause": "Cause",
        "place": "Named",
        "points": "Of a step (%)" if is_alone else "Points lost",
        "here_s": "Here (s a step)",
        "base_s": "Baseline (s)",
        "evidence": "From",
        "advice": "To do",
    }
    if is_alone:
        del headers["base_s"]
    loss, rows = finding.loss, []
    if loss is not None:
        rows = [_make_row(finding, cause) for cause in loss.causes]
        if not is_alone:
            rows.append(_make_row(finding, loss.unexplained))
        rows.append(_make_sum(finding))
    remarks = [finding.headline, *finding.seen]
    remarks += [f"Not known: {gap}" for gap in finding.gaps]
    title = f"Where a step's time goes: {finding.title}"
    if not is_alone:
        title = f"Why efficiency is lost: {finding.title}"
    definitions = (DEFINITION, BATCH_DEFINITION, RULE)
    return Grid("diagnosis", title, headers, rows, definitions, tuple(remarks))


def _make_row(finding: Finding, cause: Cause) -> dict:
    words, loss = finding.words, finding.loss
    is_named = cause in loss.named
    is_rest = cause.key == "unexplained"
    evidence = words.explain_rest() if is_rest else words.explain(cause)
    noise = None
    if cause.noise is not None and cause.points is not None:
        noise = f"± {cause.noise:.1f}: twice the standard error over the epochs"
    why = "this has no seconds of its own"
    return {
        "cause": say(cause.label),
        "place": say(loss.named.index(cause) + 1) if is_named else missing(_excuse(cause)),
        "points": show(cause.points, 1, noise, why="not measured"),
        "here_s": show(cause.here_s, 4, why=why),
        "base_s": show(cause.base_s, 4, why=why),
        "evidence": say(evidence),
        "advice": say(words.advise(cause, finding.run) if is_named else "—"),
    }


def _excuse(cause: Cause) -> str:
    """Return why a cause is not named."""
    if cause.key == "unexplained":
        return "no cause"
    if cause.points is None:
        return "not measured"
    if cause.points >= NAMED_POINTS and not cause.stands_out:
        return "within the noise of the epochs"
    return f"under {NAMED_POINTS:g} points, or as little is lost in all"


def _make_sum(finding: Finding) -> dict:
    loss = finding.loss
    what = "Together" if finding.base is None else "Lost in all"
    here_s = loss.here.mean.step_s
    base_s = loss.base.mean.cost("step") * loss.here.mean.samples if loss.base else None
    evidence = "all but forward, backward and optimizer"
    if finding.base is not None:
        evidence = f"100 % less the efficiency of {finding.efficiency_pct:.1f} %"
    return {
        "cause": say(what),
        "place": missing("a sum"),
        "points": show(loss.lost_points, 1),
        "here_s": show(here_s, 4, "the whole step"),
        "base_s": show(base_s, 4, "the whole step, for as many samples"),
        "evidence": say(evidence),
        "advice": say("—"),
    }
