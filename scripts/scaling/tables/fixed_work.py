"""The fixed-work table: how throughput and wall time change with the number of GPUs."""

import math

from common.rounding import round_half_even
from scaling.runs.compare import WORK_TOLERANCE
from scaling.runs.study import Study, count
from scaling.tables.hardware import add_hardware
from scaling.tables.readme import explain_superlinear
from scaling.tables.table import ROUNDING, Cell, Table, join_notes, missing, say, show

BASES = ("throughput", "walltime")
_COLUMNS = {
    "throughput": ("throughput", "speedup", "efficiency_pct"),
    "walltime": ("wall", "wall_speedup", "wall_efficiency_pct"),
}
_FORMULAS = {
    "throughput": "throughput / the baseline's throughput",
    "walltime": "the baseline's wall time / wall time",
}


def make_fixed_work(study: Study, basis: str = "throughput") -> Table:
    """Return the table; `basis` is what speedup and efficiency are made from."""
    base = study.find_baseline(basis)
    base_name = count(int(base.gpus), "GPU")
    headers = {
        "gpus": "GPUs",
        "throughput_per_s": f"{study.noun.capitalize()}/sec (global)",
        "wall_s": "Wall time (s)",
        "speedup": f"Speedup vs {base_name}",
        "efficiency": "Scaling efficiency",
    }
    if study.scales["gpus"].duplicated().any():
        headers = {"config": "Configuration", **headers}
    scales = list(study.scales.itertuples())
    rows = [_make_row(study, row, basis) for row in scales]
    title = f"Fixed work: speedup by {'wall time' if basis == 'walltime' else 'throughput'}"
    definitions = (
        f"Basis: {basis}. Speedup = {_FORMULAS[basis]}; efficiency = speedup / (GPUs / "
        f"{base.gpus}). Baseline: {base_name} ({study.sources[base.latest].name}).",
        study.define_throughput(),
        "Wall time: all epochs, warm-up and validation included."
        if study.definition is None
        else "Wall time: as it stands there.",
        ROUNDING,
    )
    table = Table("fixed_work", title, headers, rows, definitions, study.list_remarks())
    return add_hardware(study, table, scales)


def _make_row(study: Study, row, basis: str) -> dict[str, Cell]:
    throughput, wall_s = study.spread(row, "throughput"), study.spread(row, "wall")
    speedup, efficiency = make_ratio_cells(study, row, basis)
    note = join_notes(throughput and throughput.describe(), *row.run_notes)
    return {
        "config": say(row.label),
        "gpus": say(row.gpus),
        "throughput_per_s": show(
            row.throughput_per_s, note=note, why=note or "no throughput is recorded"
        ),
        "wall_s": show(
            row.wall_s, note=wall_s and wall_s.describe(), why="no wall time is recorded"
        ),
        "speedup": speedup,
        "efficiency": efficiency,
    }


def make_ratio_cells(study: Study, row, basis: str) -> tuple[Cell, Cell]:
    """Return the cells of speedup and efficiency (a fraction of 1), or why there are none.

    row: of study.scales.
    """
    _, speedup_column, efficiency_column = _COLUMNS[basis]
    speedup, efficiency_pct = getattr(row, speedup_column), getattr(row, efficiency_column)
    if math.isnan(speedup):
        none = missing(study.explain_no_ratio(row, basis))
        return none, none
    unlike = f"unlike runs compared (--allow-unlike): {row.difference}" if row.difference else None
    other_work = None
    if basis == "walltime" and abs(row.work) > WORK_TOLERANCE:
        other_work = f"off by as much: {study.describe_work(row)}"
    note = join_notes(unlike, other_work)
    superlinear = explain_superlinear(efficiency_pct, round_half_even(efficiency_pct, 1))
    return (
        show(speedup, note=join_notes(note, _describe_interval(study, row, basis))),
        show(efficiency_pct / 100, note=join_notes(note, superlinear)),
    )


def _describe_interval(study: Study, row, basis: str) -> str | None:
    """Return a speedup's interval; it needs repeats of both scales, and of one nothing is said."""
    measure, speedup_column, _ = _COLUMNS[basis]
    base = study.find_baseline(basis)
    spreads = [study.spread(each, measure) for each in (row, base)]
    if row.config == base.config or any(s.kind != "repeats" for s in spreads):
        return None
    half = getattr(row, speedup_column) * math.hypot(*(s.half_width / s.mean for s in spreads))
    return f"± {round_half_even(half, 2)}: from both 95 % intervals, widths added in squares"
