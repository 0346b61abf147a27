"""A scaling study: the runs of each scale, repeats together, and the baseline they are set against.

The README's two tables show one run a row; everything that averages reads a Study.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from common.errors import UserError
from scaling.runs.choosing import is_of_workload
from scaling.runs.comparing import COMPARED_SETTINGS, list_differences
from scaling.runs.find import Run, find_runs, order_in_time
from scaling.runs.measured import Measured, measure_run
from scaling.runs.spread import Spread, over_repeats
from scaling.runs.workloads import DEFAULT_WORKLOAD, SUBJECTS, WORDS

# What metrics files of others record besides; `implementation` only between several GPUs.
LIKENESS = (*COMPARED_SETTINGS, "model_size", "seq_len")


class Comparable(Protocol):
    """What two runs are compared by: a Measured, or a Source of the charts."""

    name: str
    gpus: int
    nodes: int | None
    unit: str | None
    settings: dict | None
    run: Run | None


@dataclass(frozen=True)
class Scale:
    """One number of nodes and GPUs: its comparable runs, the last of them the latest.

    difference: why it is not set against the baseline, None when it is. left_out: runs at
    this scale that are not in the means, in words. notes: what to know of the comparison.
    """

    nodes: int | None
    gpus: int
    runs: tuple[Measured, ...]
    difference: str | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def latest(self) -> Measured:
        return self.runs[-1]

    @property
    def throughput(self) -> Spread | None:
        """Over repeats; of a single run over its epochs."""
        return _over([run.throughput for run in self.runs])

    @property
    def epoch_s(self) -> Spread | None:
        return _over([run.epoch_s for run in self.runs])

    @property
    def wall_s(self) -> Spread | None:
        walls = [run.wall_s for run in self.runs]
        return None if None in walls else over_repeats(walls)

    @property
    def label(self) -> str:
        """`Single GPU`, `4 GPUs (1 node)`; of unknown nodes `4 GPUs`."""
        if self.gpus == 1:
            return "Single GPU"
        return f"{self.gpus} GPUs" + (f" ({count(self.nodes, 'node')})" if self.nodes else "")

    @property
    def run_notes(self) -> list[str]:
        """What the runs say of their throughput, each once."""
        return list(dict.fromkeys(note for run in self.runs for note in run.notes))


@dataclass(frozen=True)
class Study:
    """The scales, smallest first, and which of them is the baseline."""

    scales: tuple[Scale, ...]
    baseline: Scale
    unit: str | None
    workload: str | None = None
    source: str = ""
    allow_unlike: bool = False
    left_out: tuple[str, ...] = field(default=())
    definition: str | None = None  # of throughput, when it is not the run contract's

    @property
    def base_name(self) -> str:
        """`1 GPU`: what ratios are over."""
        return count(self.baseline.gpus, "GPU")

    @property
    def word(self) -> str:
        """What throughput counts: Tokens or Samples."""
        return WORDS.get(self.unit or "", "samples").capitalize()

    def is_compared(self, scale: Scale) -> bool:
        return scale.difference is None or self.allow_unlike


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def read_study(
    folder: Path,
    workload: str = DEFAULT_WORKLOAD,
    allow_unlike: bool = False,
    now_s: float | None = None,
) -> Study:
    """Return the study of a workload's complete runs below a folder.

    Raises UserError when the folder does not exist or holds no complete run of it.
    """
    return make_study_of_runs(find_runs(folder, now_s), workload, allow_unlike, str(folder))


def make_study_of_runs(
    runs: list[Run], workload: str, allow_unlike: bool = False, source: str = "these runs"
) -> Study:
    """Return the study of a workload's complete runs; UserError when there is none."""
    runs = [run for run in runs if run.id and is_of_workload(run, workload)]
    usable = [run for run in order_in_time(runs) if run.is_usable]
    measured = [found for run in usable if (found := measure_run(run)) is not None]
    unusable = [run.account for run in runs if not run.is_usable]
    unknown = {run.id for run in usable} - {found.name for found in measured}
    unusable += [f"job {name}: how many GPUs it had is not known" for name in sorted(unknown)]
    if not measured:
        why = f": {unusable[-1]}" if unusable else ""
        raise UserError(
            f"{source}: no complete run of workload {workload}{why}; submit one with "
            "python scripts/submit.py"
        )
    return make_study(
        measured,
        allow_unlike=allow_unlike,
        unit=SUBJECTS[workload].unit if workload in SUBJECTS else None,
        workload=workload,
        source=source,
        left_out=tuple(unusable),
    )


def make_study(
    measured: list[Measured], allow_unlike: bool = False, unit: str | None = None, **known: object
) -> Study:
    """Group runs (oldest first) into scales and set each against the baseline.

    The baseline is 1 GPU when there is one, else the smallest; of several runs there, the
    latest says which settings are meant. Raises UserError for no run at all.
    """
    if not measured:
        raise UserError("no run to make a table of")
    groups: dict[tuple[int, int], list[Measured]] = {}
    for run in measured:
        groups.setdefault((run.gpus, run.nodes or 0), []).append(run)
    keys = sorted(groups)
    base = groups[keys[0]][-1]
    scales = tuple(_make_scale(groups[key], base) for key in keys)
    unit = unit or next((run.unit for run in reversed(measured) if run.unit), None)
    return Study(scales, scales[0], unit, allow_unlike=allow_unlike, **known)


def _make_scale(runs: list[Measured], base: Measured) -> Scale:
    """Keep the runs that are like the baseline; if none is, those that are like the latest."""
    checked = [(run, compare(run, base)) for run in runs]
    alike = [run for run, (difference, _) in checked if difference is None]
    difference, latest = None, runs[-1]
    if not alike:
        difference = checked[-1][1][0]
        alike = [run for run in runs if compare(run, latest)[0] is None]
    left_out = [
        f"job {run.name}: not in the means: {why or f'unlike job {latest.name}'}"
        for run, (why, _) in checked
        if run not in alike
    ]
    notes = dict.fromkeys(note for run in alike if (note := compare(run, base)[1]))
    first = alike[0]
    return Scale(first.nodes, first.gpus, tuple(alike), difference, tuple(left_out), tuple(notes))


def compare(run: Comparable, base: Comparable) -> tuple[str | None, str | None]:
    """Return (what differs, what to know): the first None when the two may be compared."""
    if run is base:
        return None, None
    if run.unit != base.unit:
        return f"counted in {run.unit}, the baseline in {base.unit}", None
    known, other = run.settings, base.settings
    if known is None and other is None:
        return None, "settings unknown (no run.json)" if run.run or base.run else None
    if known is None or other is None:
        without = run if known is None else base
        return f"the settings of {without.name} are unknown (no run.json)", None
    names, note = LIKENESS, None
    here, there = known.get("implementation"), other.get("implementation")
    if here != there and 1 in (run.gpus, base.gpus):
        note = f"implementation {here}, baseline {there}: one GPU shares nothing, so not compared"
    else:
        names += ("implementation",)
    return "; ".join(list_differences(known, other, names)) or None, note


def part_alike(runs: list[Comparable]) -> list[list[Comparable]]:
    """Part runs (oldest first) into groups that may be compared, by the rule of make_study.

    The latest run at the smallest scale says which settings the first group has; so it goes on
    with those that are left. Each group keeps the order of the runs.
    """
    groups = []
    while runs:
        least = min((run.gpus, run.nodes or 0) for run in runs)
        base = next(run for run in reversed(runs) if (run.gpus, run.nodes or 0) == least)
        alike = [run for run in runs if compare(run, base)[0] is None]
        groups.append(alike)
        taken = set(map(id, alike))
        runs = [run for run in runs if id(run) not in taken]
    return groups


def _over(spreads: list[Spread | None]) -> Spread | None:
    if None in spreads:
        return None
    return spreads[0] if len(spreads) == 1 else over_repeats([spread.mean for spread in spreads])


def divide(value: Fraction | None, by: Fraction | None) -> Fraction | None:
    return None if value is None or not by else value / by
