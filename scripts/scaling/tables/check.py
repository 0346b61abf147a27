"""Compare the tables that somebody filled in with what the logs hold, cell by cell."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

from common.console import shorten
from common.errors import UserError
from scaling.read.numbers import round_half_even, to_fraction
from scaling.runs.find import Run, order_in_time
from scaling.tables.cell_sources import describe_source
from scaling.tables.cells import Cell
from scaling.tables.csv_numbers import count_places
from scaling.tables.filled_in import FilledTable, is_empty, parse_cell, read_filled_tables, simplify
from scaling.tables.table_parts import Report, Row, Table

# Of the baseline's row: its ratios to itself, which the blank table holds.
_GIVEN = ("throughput_scaling", "memory_avg_scaling", "efficiency_pct")


class Verdict(StrEnum):
    RIGHT = "right"
    ROUNDED = "rounded differently but right"
    WRONG = "wrong"
    NOT_FILLED = "not filled"
    NOTHING = "nothing to fill in"


@dataclass(frozen=True)
class Checked:
    """One cell: what was written, the verdict, why, and the answer for those who ask."""

    table: str
    config: str
    header: str
    line: int
    written: str
    verdict: Verdict
    why: str
    answer: str


def check_tables(path: Path, report: Report, runs: Sequence[Run] = ()) -> list[Checked]:
    """Return a verdict a cell, in the file's order.

    runs: all there are, so that a value of another run at the same scale is told as such.

    Raises UserError when the file has no table of the report's, or a row or column that
    the report has not.
    """
    found = read_filled_tables(path)
    checked = []
    for filled in found:
        table = _find_table(filled, report)
        if table is None:
            raise UserError(
                f"{path}: the table {shorten(filled.heading, 60)!r} is none of: "
                + ", ".join(repr(table.title) for table in report.tables)
            )
        rows = {simplify(row.config): row for row in table.rows}
        columns = _match_columns(path, filled, table)
        for line, cells in filled.rows:
            row = rows.get(simplify(cells[filled.headers[0]]))
            if row is None:
                raise UserError(
                    f"{path}, line {line}: no row {shorten(cells[filled.headers[0]], 60)!r} in "
                    f"{table.title!r}; its rows are {', '.join(repr(r.config) for r in table.rows)}"
                )
            checked += [
                _check_cell(column, header, line, cells[header], row, table, report, runs)
                for header, column in columns.items()
            ]
    return checked


def _find_table(filled: FilledTable, report: Report) -> Table | None:
    """Return the table that a heading names; else the one whose rows are the same."""
    for table in report.tables:
        if simplify(table.title) == simplify(filled.heading):
            return table
    names = {simplify(cells[filled.headers[0]]) for _, cells in filled.rows}
    same = (t for t in report.tables if names <= {simplify(row.config) for row in t.rows})
    return next(same, None) if names else None


def _match_columns(path: Path, filled: FilledTable, table: Table) -> dict[str, str]:
    known = {simplify(header): name for name, header in table.headers.items()}
    unknown = [header for header in filled.headers[1:] if simplify(header) not in known]
    if unknown:
        raise UserError(
            f"{path}: no column {shorten(unknown[0], 60)!r} in {table.title!r}; its columns are "
            f"{', '.join(table.headers.values())}"
        )
    return {header: known[simplify(header)] for header in filled.headers[1:]}


def _check_cell(
    column: str,
    header: str,
    line: int,
    written: str,
    row: Row,
    table: Table,
    report: Report,
    runs: Sequence[Run],
) -> Checked:
    cell = row.cells[column]
    verdict, why = judge(written, cell, column, row)
    if verdict is Verdict.WRONG and not why:
        why = find_other_run(written, column, row, runs) or ""
    if verdict in (Verdict.WRONG, Verdict.NOT_FILLED) and cell.value is not None:
        source = describe_source(column, row, report.tables[0].rows[0])
        why = "; ".join(filter(None, [why, f"see {source}"]))
    name = f"{cell.text} ({cell.note})" if cell.value is None and cell.note else cell.text
    return Checked(table.title, row.config, header, line, written, verdict, why, name)


def judge(written: str, cell: Cell, column: str, row: Row) -> tuple[Verdict, str]:
    """Return the verdict on what was written, and a hint that does not name the answer."""
    if cell.value is None:
        if is_empty(written):
            return Verdict.NOTHING, cell.note or ""
        if (row.nodes, row.gpus_per_node) == (1, 1) and column in _GIVEN:
            return Verdict.NOTHING, f"the blank table has it; {cell.note}"
        return Verdict.WRONG, f"the logs give no value: {cell.note}"
    if is_empty(written):
        return Verdict.NOT_FILLED, ""
    exact = to_fraction(cell.value)
    if exact is None:  # nan in the log
        same = written.lower() == cell.text.lower()
        return (Verdict.RIGHT if same else Verdict.WRONG), ""
    verdicts = [_judge_number(own, written, cell, column, row) for own in parse_cell(written)]
    good = [found for found in verdicts if found[0] is not Verdict.WRONG]
    return (good or verdicts or [(Verdict.WRONG, "not a number")])[0]


def _judge_number(
    own: Fraction, written: str, cell: Cell, column: str, row: Row
) -> tuple[Verdict, str]:
    exact = to_fraction(cell.value)
    if own >= 1000 and own.denominator == 1:  # a comma in it parts thousands
        written = written.replace(",", "")
    if written == cell.text or own == exact or own == _rounded(exact, cell.text):
        return Verdict.RIGHT, ""
    if why := _explain_rounding(own, exact, written, column, row):
        return Verdict.ROUNDED, why
    return Verdict.WRONG, _find_slip(own, exact, written, column, row)


def _rounded(exact: Fraction, text: str) -> Fraction:
    return Fraction(round_half_even(exact, count_places(text)))


def is_rounding_of(own: Fraction, exact: Fraction, places: int) -> bool:
    """Whether own is exact with so many decimals, ties either way."""
    return abs(own - exact) <= Fraction(1, 2 * 10**places)


def _explain_rounding(
    own: Fraction, exact: Fraction, written: str, column: str, row: Row
) -> str | None:
    """Say how the two differ when they mean the same; None when they do not."""
    places = count_places(written)
    if "gib" in written.lower() or "gb" in written.lower():
        return "in GiB" if abs(own - exact) <= Fraction(1024, 2 * 10**places) else None
    if is_rounding_of(own, exact, places):
        return f"with {places} decimal{'' if places == 1 else 's'}"
    if column.endswith("accuracy_pct") and "%" not in written and places > 2:
        return "as a fraction of 1" if is_rounding_of(own * 100, exact, places - 2) else None
    if column == "efficiency_pct" and row.run and row.run.gpus:
        for scaling_places in (2, 1, 3):  # made from the scaling as it is printed
            scaling = Fraction(round_half_even(exact * row.run.gpus / 100, scaling_places))
            if is_rounding_of(own, scaling * 100 / row.run.gpus, places):
                return "made from the rounded scaling"
    return None


def _find_slip(own: Fraction, exact: Fraction, written: str, column: str, row: Row) -> str:
    """Name a usual mistake that explains a wrong number, or nothing."""
    places = count_places(written)
    if 0 < abs(exact) - abs(own) < Fraction(1, 10**places):
        return "cut off, not rounded"
    if column.endswith("efficiency_pct") and is_rounding_of(own, exact / 100, places):
        return "this column is in percent"
    attempt = row.run.attempt if row.run else None
    if attempt is None or attempt.last is None:
        return ""
    for epoch in reversed(attempt.epochs):
        value = getattr(epoch, column, None)
        if epoch is not attempt.last and value is not None and to_fraction(value) == own:
            return f"that is epoch {epoch.epoch}'s, not the last one's"
        other = getattr(epoch, column.replace("train_", "val_"), None)
        if column.startswith("train_") and other is not None and to_fraction(other) == own:
            return "that is the validation's, not the training's"
    return ""


def find_other_run(written: str, column: str, row: Row, runs: Sequence[Run]) -> str | None:
    """Name the other complete run at this scale whose last epoch has that value."""
    meant = parse_cell(written)
    for run in reversed(order_in_time([run for run in runs if run.is_usable])):
        last = run.attempt.last if run.attempt and run is not row.run else None
        value = getattr(last, column, None) if last else None
        at_scale = (run.nodes, run.gpus_per_node) == (row.nodes, row.gpus_per_node)
        is_shown = row.run is not None and run.id == row.run.id
        if at_scale and not is_shown and value is not None and to_fraction(value) in meant:
            return f"that is job {run.id}'s; take it with --job {run.id}"
    return None


def count_verdicts(checked: list[Checked]) -> dict[Verdict, int]:
    counts = Counter(cell.verdict for cell in checked)
    return {verdict: counts[verdict] for verdict in Verdict}


def format_checked(checked: list[Checked], show: bool = False) -> str:
    """Return a line a cell under its row, and the counts; answers only with `show`."""
    lines, row = [], None
    width = max(len(cell.header) for cell in checked)
    for cell in checked:
        if (cell.table, cell.config) != row:
            if row is None or row[0] != cell.table:
                lines += [*([""] if lines else []), cell.table]
            row = (cell.table, cell.config)
            lines.append(f"  {cell.config}")
        text = f"    {cell.header.ljust(width)}  {cell.verdict}"
        if cell.verdict not in (Verdict.NOT_FILLED, Verdict.NOTHING):
            text += f" ({shorten(cell.written, 40)})"
        text += f": {cell.why}" if cell.why else ""
        lines.append(shorten_line(text + (f" -> {cell.answer}" if show else "")))
    counts = ", ".join(f"{n} {verdict}" for verdict, n in count_verdicts(checked).items())
    return "\n".join([*lines, "", counts]) + "\n"


def shorten_line(text: str) -> str:
    indent = len(text) - len(text.lstrip())
    return " " * indent + "".join(c for c in text.strip() if c.isprintable())[:400]


def to_records(checked: list[Checked], show: bool = False) -> list[dict]:
    """Return a record a cell; `answer` only with `show`."""
    hidden = () if show else ("answer",)
    return [{k: v for k, v in vars(cell).items() if k not in hidden} for cell in checked]
