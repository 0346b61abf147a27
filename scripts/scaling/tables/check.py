"""Compare the tables that somebody filled in with what the logs hold, cell by cell."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from itertools import groupby
from pathlib import Path

from common.console import printable, shorten
from common.errors import UserError
from common.rounding import round_half_even, to_decimal
from scaling.read.text import read_lines
from scaling.read.typed_table import count_places, is_rounding_of, parse_number
from scaling.runs.find import order_in_time
from scaling.runs.run import Run
from scaling.tables.readme import BASELINE, RATIOS, ReadmeTable, Row, find_last
from scaling.tables.table import Cell, join_notes

_EMPTY = ("", "—", "–", "-", "--", "---", "n/a", "na", "none", "?", "…", "...", "tbd", "x")
_NOTE = re.compile(r"\s*\[\^?\w{1,3}\]\s*$")  # a footnote's mark
_RULE = re.compile(r"[\s|:-]+")
_EPOCH = re.compile(r"\s*\(epoch \d+\)", re.IGNORECASE)
_MIB = re.compile(r"\s*Mi?B$", re.IGNORECASE)  # nvidia-smi's MiB are often called MB
_GIB = re.compile(r"\s*(GiB|GB)$", re.IGNORECASE)


class Verdict(str, Enum):
    RIGHT = "right"
    ROUNDED = "rounded differently but right"
    WRONG = "wrong"
    NOT_FILLED = "not filled"
    NOTHING = "nothing to fill in"

    def __str__(self) -> str:
        return self.value


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


def check_tables(
    path: Path, tables: Sequence[ReadmeTable], runs: Sequence[Run] = ()
) -> list[Checked]:
    """Return a verdict on each cell, in the file's order.

    runs: all there are, so that a value of another run at the same scale is called that.
    Raises UserError when the file has none of these tables, or a row or column that they lack.
    """
    return [
        cell for filled in read_filled_tables(path) for cell in _check(path, filled, tables, runs)
    ]


def _check(path: Path, filled: "FilledTable", tables, runs) -> Iterator[Checked]:
    table = _find(f"{path}: no table", filled.heading, {each.title: each for each in tables})
    columns = {header: name for name, header in list(table.headers.items())[1:]}
    rows = {row.config: (row, cells) for row, cells in zip(table.shown, table.rows, strict=True)}
    first, *headers = filled.headers
    names = {h: _find(f"{path}: {table.title!r} has no column", h, columns) for h in headers}
    for line, written in filled.rows:
        where = f"{path}, line {line}: {table.title!r} has no row"
        row, cells = _find(where, written[first], rows)
        for header, column in names.items():
            cell = cells[column]
            verdict, why = judge(written[header], cell, column, row)
            if verdict is Verdict.WRONG and not why:
                why = _find_slip(parse_cell(written[header]), column, row, runs)
            if verdict in (Verdict.WRONG, Verdict.NOT_FILLED) and cell.value is not None:
                why = join_notes(why, f"see {cell.source}")
            answer = f"{cell.text} ({cell.note})" if cell.value is None else cell.text
            yield Checked(table.title, row.config, header, line, written[header], verdict, why,
                          answer)  # fmt: skip


def _find(missing: str, name: str, known: dict):
    """Return what a heading, header or row's name stands for, however it is typed."""
    for each, found in known.items():
        if _simplify(each) == _simplify(name):
            return found
    listed = ", ".join(map(repr, known))
    raise UserError(f"{missing} {shorten(name, 60)!r}; there are: {listed}")


# ---- One cell --------------------------------------------------------------------------------


def judge(written: str, cell: Cell, column: str, row: Row) -> tuple[Verdict, str]:
    """Return the verdict on what was written, and a hint that does not name the answer."""
    is_empty = written.lower() in _EMPTY
    if cell.value is None:
        if is_empty:
            return Verdict.NOTHING, cell.note or ""
        if row.scale == BASELINE and column in RATIOS:
            return Verdict.NOTHING, f"the blank table has it; {cell.note}"
        return Verdict.WRONG, f"the logs give no value: {cell.note}"
    if is_empty:
        return Verdict.NOT_FILLED, ""
    exact, numbers = to_decimal(cell.value), parse_cell(written)
    if not exact.is_finite():  # nan in the log
        return Verdict.RIGHT if written.lower() == cell.text.lower() else Verdict.WRONG, ""
    verdicts = [_judge_number(written, number, cell, exact, column, row) for number in numbers]
    good = [found for found in verdicts if found[0] is not Verdict.WRONG]
    return (good or verdicts or [(Verdict.WRONG, "not a number")])[0]


def _judge_number(
    written: str, number: Decimal, cell: Cell, exact: Decimal, column: str, row: Row
) -> tuple[Verdict, str]:
    """Try what the number may mean, one reading after the other."""
    as_printed = Decimal(round_half_even(exact, count_places(cell.text)))
    if written == cell.text or number in (exact, as_printed):
        return Verdict.RIGHT, ""
    is_thousands = number >= 1000 and number == number.to_integral_value()
    places = count_places(written.replace(",", "") if is_thousands else written)
    unit = 1024 if _GIB.search(written) else 1
    rounded = "in GiB" if unit > 1 else f"with {places} decimal{'' if places == 1 else 's'}"
    readings = [(Verdict.ROUNDED, rounded, exact)]
    if column.endswith("accuracy_pct") and "%" not in written and places > 2:
        readings.append((Verdict.ROUNDED, "as a fraction of 1", exact / 100))
    if column == "efficiency_pct":
        gpus = row.run.gpus
        for scaling_places in (2, 1, 3):
            scaling = Decimal(round_half_even(exact * gpus / 100, scaling_places))
            why = "made from the rounded scaling"
            readings.append((Verdict.ROUNDED, why, scaling * 100 / gpus))
        readings.append((Verdict.WRONG, "this column is in percent", exact / 100))
    for verdict, why, value in readings:
        if is_rounding_of(number / unit, value / unit, places):
            return verdict, why
    is_cut = 0 < abs(exact) - abs(number) < Decimal(1).scaleb(-places)
    return Verdict.WRONG, "cut off, not rounded" if is_cut else ""


def _find_slip(numbers: list[Decimal], column: str, row: Row, runs: Sequence[Run]) -> str:
    """Say which other value of the logs a wrong number is: of another epoch, column or run."""
    last, validation = find_last(row.run), column.replace("train_", "val_")
    for epoch in reversed(row.run.attempt.epochs if last else ()):
        if epoch is not last and epoch.get(column) in numbers:
            return f"that is epoch {epoch.epoch}'s, not the last one's"
        if validation != column and epoch.get(validation) in numbers:
            return "that is the validation's, not the training's"
    others = [
        run for run in runs
        if run.is_usable and (run.nodes, run.gpus_per_node) == row.scale
        and (row.run is None or run.id != row.run.id)
    ]  # fmt: skip
    for run in reversed(order_in_time(others)):
        other = find_last(run)
        if other is not None and other.get(column) in numbers:
            return f"that is job {run.id}'s; take it with --job {run.id}"
    return ""


# ---- The file --------------------------------------------------------------------------------


@dataclass(frozen=True)
class FilledTable:
    """A Markdown table: the heading above it, and (line number, header -> cell) of each row."""

    heading: str
    headers: list[str]
    rows: list[tuple[int, dict[str, str]]]


def read_filled_tables(path: Path) -> list[FilledTable]:
    """Return every table of a Markdown file whose first column is `Config`.

    Raises UserError when there is none, and for a row with too few or too many cells.
    """
    tables: list[FilledTable] = []
    heading, headers = "", None
    for number, (line, _) in enumerate(read_lines(Path(path)), start=1):
        if line.startswith("#"):
            heading, headers = line.lstrip("# ").strip(), None
        elif "|" not in line:
            headers = None
        elif headers is None:
            headers = _split(line)
            if _simplify(headers[0]) == "config":
                tables.append(FilledTable(heading, headers, []))
        elif tables and headers is tables[-1].headers and not _RULE.fullmatch(line):
            cells = _split(line)
            if len(cells) != len(headers):
                raise UserError(
                    f"{path}, line {number}: {len(cells)} cells under {len(headers)} headers; "
                    "count its | characters"
                )
            tables[-1].rows.append((number, dict(zip(headers, cells, strict=True))))
    if not tables:
        raise UserError(
            f"{path}: no table whose first column is Config; fill in a copy of "
            "experiments/TABLES.md"
        )
    return tables


def _split(line: str) -> list[str]:
    text = line.strip().removeprefix("|")
    text = text[:-1] if text.endswith("|") and not text.endswith("\\|") else text
    cells = (cell.strip().strip("*`_ ") for cell in re.split(r"(?<!\\)\|", text))
    return [_NOTE.sub("", cell).strip("*`_ ") for cell in cells]


def _simplify(header: str) -> str:
    """Return a header or a row's name without case, spaces and the number of the epoch."""
    return " ".join(_EPOCH.sub("", header).lower().replace("x", "×").split())


def parse_cell(cell: str) -> list[Decimal]:
    """Return the numbers that somebody may have meant, GiB as MiB; none when it is none.

    A comma may part thousands or be the decimal one: `5,149` is both.
    """
    text = _MIB.sub("", _GIB.sub("", cell))
    values = [parse_number(text), parse_number(text, decimal_comma=True) if "," in text else None]
    factor = 1024 if _GIB.search(cell) else 1
    return list(dict.fromkeys(value * factor for value in values if value is not None))


# ---- What is printed -------------------------------------------------------------------------


def count_verdicts(checked: Sequence[Checked]) -> dict[Verdict, int]:
    counts = Counter(cell.verdict for cell in checked)
    return {verdict: counts[verdict] for verdict in Verdict}


def format_checked(checked: Sequence[Checked], show: bool = False) -> str:
    """Return one line per cell under its row, and the counts; answers only with `show`."""
    lines, width = [], max(len(cell.header) for cell in checked)
    for (table, config), cells in groupby(checked, lambda cell: (cell.table, cell.config)):
        if table not in lines:
            lines += [*([""] if lines else []), table]
        lines.append(f"  {config}")
        for cell in cells:
            text = f"{cell.header.ljust(width)}  {cell.verdict}"
            if cell.verdict not in (Verdict.NOT_FILLED, Verdict.NOTHING):
                text += f" ({shorten(cell.written, 40)})"
            text += f": {cell.why}" if cell.why else ""
            lines.append("    " + printable(text + (f" -> {cell.answer}" if show else ""))[:400])
    counts = ", ".join(f"{n} {verdict}" for verdict, n in count_verdicts(checked).items())
    return "\n".join([*lines, "", counts]) + "\n"


def list_checked(checked: Sequence[Checked], show: bool = False) -> list[dict]:
    """Return one record per cell; `answer` only with `show`."""
    hidden = () if show else ("answer",)
    return [{k: v for k, v in vars(cell).items() if k not in hidden} for cell in checked]
