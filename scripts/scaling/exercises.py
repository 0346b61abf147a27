"""The exercises of experiments/EXERCISES.md: what their runs answer, and how answers are judged."""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.toml import tomllib
from scaling.diagnose import diagnose
from scaling.runs import Run, choose_workload, find_runs, make_study
from scaling.runs.find import EXERCISES

NEAR = 0.6  # of a point or per cent: a difference of two rounded figures is right, too
CLOSE = 1.1  # times the least: figures of single runs as near as this are the same


@dataclass(frozen=True)
class Answer:
    """value: a number, None where the answer is a name; names: those that count, the best first.

    shown: how the answer comes about, a line each.
    """

    value: float | None = None
    names: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.names[0] if self.value is None else f"{self.value:.1f}"


@dataclass(frozen=True)
class Exercise:
    """title: its heading in EXERCISES.md. folder: of its jobs, below exercises/.

    find: makes the answer from that folder's runs; None where answers.rot13 has it. is_to_fail:
    its job is meant to fail.
    """

    title: str
    folder: str
    find: Callable[[Path], Answer] | None
    is_to_fail: bool = False


def _measure_efficiency(folder: Path) -> float:
    """Return the efficiency, in %, of a folder's largest scale against its smallest."""
    study = _make_study(folder)
    largest = study.scales.loc[study.scales["gpus"].idxmax()]
    if largest["gpus"] == study.scales["gpus"].min():
        raise UserError(f"{folder}: its runs are all of one scale")
    if largest["efficiency_pct"] != largest["efficiency_pct"]:
        raise UserError(f"{folder}: {largest['label']} cannot be compared: {largest['difference']}")
    return float(largest["efficiency_pct"])


def _measure_parts(folder: Path, key: str, name: str) -> dict[str, float]:
    """Return the `points` (% of a step) or `here_s` (s per step) of a part of each job's steps."""
    found = {}
    for job in sorted(path for path in folder.iterdir() if path.is_dir()):
        (finding,) = diagnose(_make_study(job))
        parts = {factor.key: factor for factor in finding.loss.factors} if finding.loss else {}
        found[job.name] = getattr(parts.get(key), name, None)
        if found[job.name] is None:
            raise UserError(f"{job}: its run has no record of where the time of a step goes")
    return found


def _make_study(folder: Path):
    runs = find_runs(folder)
    return make_study(runs, choose_workload(runs), source=str(folder))


def _compare_efficiency(folder: Path, more: str, less: str) -> Answer:
    """The points of efficiency by which one sub-folder's runs are above another's."""
    found = {name: _measure_efficiency(folder / name) for name in (more, less)}
    shown = [f"{name}: {pct:.1f} % efficient" for name, pct in found.items()]
    return Answer(found[more] - found[less], shown=tuple(shown))


def _find_data_wait(folder: Path) -> Answer:
    """How many per cent of a step the job without loader processes waits for data."""
    found = _measure_parts(folder, "data", "points")
    shown = [f"{name}: {pct:.1f} % of a step" for name, pct in found.items()]
    return Answer(found["workers_0"], shown=tuple(shown))


def _find_least_communication(folder: Path) -> Answer:
    """The job whose steps have the least communication that nothing hides."""
    found = _measure_parts(folder, "communication", "here_s")
    best = sorted(found, key=found.get)
    near = [name for name in best if found[name] <= CLOSE * found[best[0]]]
    shown = tuple(f"{name}: {1e3 * found[name]:.1f} ms per step" for name in best)
    return Answer(names=tuple(near), shown=shown)


def _find_cause(folder: Path) -> Answer:
    """The cause that diagnose.py names first at the larger scale."""
    finding = diagnose(_make_study(folder))[-1]
    if not finding.named:
        raise UserError(f"{folder}: no cause stands out: was the link limited? {finding.headline}")
    names = (finding.named[0].label.lower(), *finding.named[0].label.lower().split())
    return Answer(names=names, shown=(finding.causes[0][0],))


EXERCISE_LIST = {
    1: Exercise(
        "Batch size and efficiency", "1_batch_size",
        lambda folder: _compare_efficiency(folder, "batch_256", "batch_32"),
    ),
    2: Exercise("Loader workers and the data wait", "2_loader_workers", _find_data_wait),
    3: Exercise("Bucket size and compression", "3_buckets", _find_least_communication),
    4: Exercise(
        "Strong against weak scaling", "4_strong_or_weak",
        lambda folder: _compare_efficiency(folder, "weak", "strong"),
    ),
    5: Exercise("A job that fails", "5_broken_job", None, is_to_fail=True),
    6: Exercise("A slow link", "6_slow_link", _find_cause),
}  # fmt: skip


def list_missing(exercise: Exercise, root: Path) -> list[str]:
    """Say which jobs of an exercise have no run that answers yet, and what to type for each.

    root: the folder that has exercises/. A folder counts when its job's latest run is complete, or
    has ended as it is meant to.
    """
    by_folder: dict[Path, list[Run]] = {}
    for run in find_runs(root / EXERCISES / exercise.folder):
        by_folder.setdefault(run.folder, []).append(run)
    missing = []
    for runs in by_folder.values():
        is_there = any(run.exit_status is not None if exercise.is_to_fail else run.is_usable
                       for run in runs if run.id)  # fmt: skip
        if not is_there:
            last = runs[-1]
            missing.append(f"job {last.id}: {last.reason}" if last.id else last.reason)
    return missing


def read_facts(number: int) -> dict:
    """Return what answers.rot13 has of an exercise: `why`, and `right` of one that runs do not."""
    path = Path(__file__).with_name("answers.rot13")
    return tomllib.loads(codecs.decode(path.read_text(encoding="utf-8"), "rot13"))[str(number)]


def find_answer(number: int, root: Path) -> Answer:
    """Return the answer of an exercise, from the runs below `root`; raises UserError without."""
    exercise = EXERCISE_LIST[number]
    if exercise.find is None:
        return Answer(names=tuple(read_facts(number)["right"]))
    return exercise.find(root / EXERCISES / exercise.folder)


def judge(answer: Answer, given: str) -> tuple[bool, str]:
    """Return whether an answer is right, and what to say of it."""
    text = given.strip().rstrip("% ").lower()
    if answer.value is None:
        is_right = text in answer.names
        return is_right, "right" if is_right else "not yet: look once more at what to look for"
    try:
        value = float(text.replace(",", ".").replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return False, f"not yet: {given!r} is no number, and the answer is one, such as 12.3"
    if abs(value - answer.value) <= NEAR:
        return True, "right"
    if abs(value + answer.value) <= NEAR:
        return False, "not yet: the number is right, its sign is not"
    return False, f"not yet: it is {'less' if value > answer.value else 'more'} than that"
