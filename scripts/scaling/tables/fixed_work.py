"""The fixed-work table: how throughput and wall time change with the number of GPUs."""

import math
from fractions import Fraction

from common.console import shorten
from scaling.read.numbers import round_half_even
from scaling.runs.comparing import check_efficiency
from scaling.runs.study import Scale, Study, count, divide
from scaling.tables.cells import Cell, add_note, missing
from scaling.tables.grid import ROUNDING, Grid, say, show
from scaling.tables.quality import compare_quality

BASES = ("throughput", "walltime")
# Each rank drops its last, incomplete batch: on many GPUs that is some percent of an epoch.
WORK_TOLERANCE, WORK_LIMIT = 0.01, 0.10
_BASIS_WORDS = {
    "throughput": "throughput / the baseline's throughput",
    "walltime": "the baseline's wall time / wall time",
}


def compute_speedup(study: Study, scale: Scale, basis: str) -> Fraction | None:
    """Return the speedup over the baseline, None without figures; unlike runs are not asked.

    Wall times of runs that did not do the same work (10 % apart) give none.
    """
    here, there = scale, study.baseline
    if basis == "walltime":
        if abs(compare_work(study, scale)) > WORK_LIMIT and not study.allow_unlike:
            return None
        here, there = there, here
    figures = [getattr(each, "wall_s" if basis == "walltime" else "throughput")
               for each in (here, there)]  # fmt: skip
    return None if None in figures else divide(figures[0].mean, figures[1].mean)


def compute_efficiency(study: Study, scale: Scale, basis: str) -> Fraction | None:
    """Return speedup / (GPUs / the baseline's GPUs)."""
    speedup = compute_speedup(study, scale, basis)
    return None if speedup is None else speedup * study.baseline.gpus / scale.gpus


def explain_no_ratio(study: Study, scale: Scale, basis: str) -> str:
    """Say why a scale has no ratio."""
    if not study.is_compared(scale):
        return f"not compared with the baseline: {scale.difference}; --allow-unlike compares it"
    work = compare_work(study, scale)
    if basis == "walltime" and abs(work) > WORK_LIMIT:
        return f"not the same work: {_describe_work(study, work)}; --allow-unlike divides it"
    what = "wall time" if basis == "walltime" else "throughput"
    return f"no {what} of this scale, or none of the baseline"


def make_fixed_work(study: Study, basis: str = "throughput") -> Grid:
    """Return the table; `basis` is what speedup and efficiency are made from."""
    headers = {
        "gpus": "GPUs",
        "throughput_per_s": f"{study.word}/sec (global)",
        "wall_s": "Wall time (s)",
        "speedup": f"Speedup vs {study.base_name}",
        "efficiency": "Scaling efficiency",
    }
    rows = [_make_row(study, scale, basis) for scale in study.scales]
    if len({scale.gpus for scale in study.scales}) < len(study.scales):
        headers = {"config": "Configuration", **headers}
    title = f"Fixed work: speedup by {'wall time' if basis == 'walltime' else 'throughput'}"
    return Grid("fixed_work", title, headers, rows, _define(study, basis), list_remarks(study))


def _make_row(study: Study, scale: Scale, basis: str) -> dict[str, Cell]:
    wall_s = scale.wall_s
    repeats = wall_s.describe() if wall_s and wall_s.kind == "repeats" else None
    speedup, efficiency = make_ratio_cells(study, scale, basis)
    return {
        "config": say(scale.label),
        "gpus": say(scale.gpus),
        "throughput_per_s": make_throughput_cell(scale),
        "wall_s": show(wall_s and wall_s.mean, note=repeats, why="no wall time is recorded"),
        "speedup": speedup,
        "efficiency": efficiency,
    }


def make_throughput_cell(scale: Scale) -> Cell:
    """Return the mean throughput with its spread, and what is to know of it, as a note."""
    spread = scale.throughput
    notes = [spread.describe() if spread else None, *scale.run_notes]
    note = "; ".join(filter(None, notes)) or None
    return show(spread and spread.mean, note=note, why=note or "no throughput is recorded")


def make_ratio_cells(study: Study, scale: Scale, basis: str, places: int = 2) -> tuple[Cell, Cell]:
    """Return the cells of speedup and efficiency (a fraction of 1), or why there are none."""
    speedup = compute_speedup(study, scale, basis)
    if speedup is None or not study.is_compared(scale):
        none = missing(explain_no_ratio(study, scale, basis))
        return none, none
    efficiency = compute_efficiency(study, scale, basis)
    unlike = f"unlike runs compared (--allow-unlike): {scale.difference}"
    work = compare_work(study, scale) if basis == "walltime" else 0
    off = f"off by as much: {_describe_work(study, work)}" if abs(work) > WORK_TOLERANCE else None
    note = "; ".join(filter(None, [unlike if scale.difference else None, off])) or None
    in_pct = check_efficiency(show(efficiency * 100, places=1))
    cell = add_note(show(efficiency, places, note), in_pct.note)
    return add_note(show(speedup, places, note), _describe_error(study, scale, basis)), cell


def _describe_error(study: Study, scale: Scale, basis: str) -> str | None:
    """Return a speedup's interval; it needs repeats of both scales, and of one nothing is said."""
    name = "wall_s" if basis == "walltime" else "throughput"
    parts = [getattr(each, name) for each in (scale, study.baseline)]
    if scale is study.baseline or any(part.kind != "repeats" for part in parts):
        return None
    relative = math.hypot(*(part.half_width / float(part.mean) for part in parts))
    half = float(compute_speedup(study, scale, basis)) * relative
    return f"± {round_half_even(half, 2)}: from both 95 % intervals, widths added in squares"


def _define(study: Study, basis: str) -> tuple[str, ...]:
    return (
        f"Basis: {basis}. Speedup = {_BASIS_WORDS[basis]}; efficiency = speedup / (GPUs / "
        f"{study.baseline.gpus}). Baseline: {study.base_name} ({study.baseline.latest.name}).",
        define_throughput(study),
        "Wall time: all epochs, warm-up and validation included."
        if study.definition is None
        else "Wall time: as it stands there.",
        ROUNDING,
    )


def define_throughput(study: Study) -> str:
    """Say what the throughput of a study is: the run contract's, else what its source says."""
    return study.definition or (
        f"Throughput: {study.word.lower()} of all ranks / seconds of the slowest rank, training "
        "part of the epoch only, mean over the epochs after warm-up, then over repeated runs."
    )


def list_remarks(study: Study) -> tuple[str, ...]:
    """List runs that are not in the table, and what differs."""
    remarks = list(study.left_out)
    for scale in study.scales:
        remarks += scale.left_out
        remarks += [f"{scale.label}: {note}" for note in scale.notes]
        if scale.difference and not study.allow_unlike:
            remarks.append(f"{scale.label}: unlike the baseline: {scale.difference}")
    remarks += [text for text in compare_quality(study) if text.startswith("FLAG")]
    remarks += _list_commits(study)
    if study.baseline.gpus != 1:
        remarks.append(f"no 1-GPU run: ratios are over {count(study.baseline.gpus, 'GPU')}")
    return tuple(dict.fromkeys(remarks))


def _list_commits(study: Study) -> list[str]:
    """Show the git commits of the runs: they may differ, since the sources' hash is compared."""
    by_commit: dict[str, list[str]] = {}
    for scale in study.scales:
        for run in scale.runs:
            commit = (run.settings or {}).get("git_commit")
            if isinstance(commit, str) and commit not in ("", "unknown"):
                labels = by_commit.setdefault(shorten(commit, 48), [])
                labels += [scale.label] if scale.label not in labels else []
    if len(by_commit) == 1:
        return [f"git commit: {next(iter(by_commit))}"]
    return [f"git commit {commit}: {', '.join(labels)}" for commit, labels in by_commit.items()]


def compare_work(study: Study, scale: Scale) -> float:
    """Return how much more a scale trained on than the baseline, as a fraction; 0 if unknown."""
    work, done = study.baseline.latest.samples, scale.latest.samples
    return done / work - 1 if work and done else 0.0


def _describe_work(study: Study, work: float) -> str:
    side = "more" if work > 0 else "fewer"
    word = study.word.lower()
    return f"trained on {round_half_even(abs(work) * 100, 1)} % {side} {word} than the baseline"
