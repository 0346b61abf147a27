"""The fixed-work table of a CSV, with a mark at each printed ratio that its numbers do not give."""

from fractions import Fraction

from common.console import shorten
from scaling.read.numbers import round_half_even
from scaling.runs.study import Scale
from scaling.tables.cells import Cell, add_note
from scaling.tables.csv_numbers import count_places, parse_number
from scaling.tables.csv_table import CsvTable
from scaling.tables.fixed_work import BASES, compute_efficiency, compute_speedup, make_fixed_work
from scaling.tables.grid import Grid

FLOAT_ERROR = Fraction(1, 10**12)


def make_csv_grid(table: CsvTable) -> Grid:
    """Return the fixed-work table; a printed ratio that its numbers do not give has a note."""
    grid = make_fixed_work(table.study, table.basis)
    pairs = zip(table.study.scales, grid.rows, strict=True)
    rows = [_mark_row(table, scale, row) for scale, row in pairs]
    remarks = list(grid.remarks)
    marked = sum(_disagrees(row[name]) for row in rows for name in ("speedup", "efficiency"))
    checked = sum(map(len, table.printed.values()))
    if checked:
        remarks.append(
            f"of {checked} printed speedups and efficiencies {marked} are not what the file's own "
            "numbers give"
        )
    headers = {k: v for k, v in grid.headers.items() if any(row[k].value for row in rows)
               or k in ("config", "speedup", "efficiency")}  # fmt: skip
    definitions = (*grid.definitions[:2], *grid.definitions[3:])
    return Grid(grid.name, grid.title, headers, rows, definitions, tuple(remarks))


def _disagrees(cell: Cell) -> int:
    return (cell.note or "").count("its own numbers give")


def _mark_row(table: CsvTable, scale: Scale, row: dict[str, Cell]) -> dict[str, Cell]:
    row = dict(row)
    for run in scale.runs:
        for role, text in table.printed[run].items():
            row[role] = add_note(row[role], check_printed(role, text, scale, table))
    return row


def check_printed(role: str, text: str, scale: Scale, table: CsvTable) -> str | None:
    """Return what is wrong with a printed ratio; None when rounding explains the difference."""
    own = _compute(role, scale, table, table.basis)
    shown = shorten(text, 40)
    if own is None:
        return f"printed {shown}: its own numbers give none"
    if (printed := parse_number(text, table.decimal_comma)) is None:
        return f"printed {shown!r}, no number; its own numbers give {float(own):.4g}"
    in_pct = role == "efficiency" and _is_percent(text + getattr(table.columns, role), printed)
    places, factor = count_places(text), 100 if in_pct else 1
    if _is_rounded(printed, own * factor, places):
        return None
    right = round_half_even(own * factor, max(places, 1 if in_pct else 2))
    found = f"printed {shown}; its own numbers give {right}{' %' if in_pct else ''}"
    if table.study.baseline.gpus > 1:
        found += f" over {table.study.base_name}, the smallest in the file"
    (other,) = set(BASES) - {table.basis}
    by_other = _compute(role, scale, table, other)
    if by_other is not None and _is_rounded(printed, by_other * factor, places):
        found += f" (what is printed is by {other})"
    return found


def _compute(role: str, scale: Scale, table: CsvTable, basis: str) -> Fraction | None:
    compute = compute_speedup if role == "speedup" else compute_efficiency
    return compute(table.study, scale, basis)


def _is_percent(text: str, printed: Fraction) -> bool:
    return "%" in text or "pct" in text or "percent" in text.lower() or printed > 3


def _is_rounded(printed: Fraction, own: Fraction, places: int) -> bool:
    """Whether own could be printed so, with ties rounded either way, or as a binary float."""
    return abs(printed - own) <= max(Fraction(1, 2 * 10**places), own * FLOAT_ERROR)
