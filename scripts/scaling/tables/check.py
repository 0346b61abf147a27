"""Compare the tables that somebody filled in with what the logs hold, cell by cell."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path

from common.console import printable, shorten
from common.errors import UserError
from common.rounding import round_half_even, to_decimal
from scaling.read.text import read_lines
from scaling.runs.find import order_in_time
from scaling.runs.run import Run
from scaling.tables.numbers import count_places, is_rounding_of, parse_number
from scaling.tables.readme import BASELINE, RATIOS, ReadmeTable, Shown
from scaling.tables.table import Cell

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
    baseline, checked = tables[0].shown[0], []
    for filled in read_filled_tables(path):
        table = _find_table(path, filled, tables)
        places = {_simplify(shown.config): at for at, shown in enumerate(table.shown)}
        columns = {_simplify(header): name for name, header in list(table.headers.items())[1:]}
        first, *headers = filled.headers
        for header in headers:
            if _simplify(header) not in columns:
                raise UserError(
                    f"{path}: no column {shorten(header, 60)!r} in {table.title!r}; its columns "
                    f"are {', '.join(list(table.headers.values())[1:])}"
                )
        for line, cells in filled.rows:
            at = places.get(_simplify(cells[first]))
            if at is None:
                rows = ", ".join(repr(shown.config) for shown in table.shown)
                raise UserError(
                    f"{path}, line {line}: no row {shorten(cells[first], 60)!r} in "
                    f"{table.title!r}; its rows are {rows}"
                )
            for header in headers:
                column, shown, written = columns[_simplify(header)], table.shown[at], cells[header]
                cell = table.rows[at][column]
                verdict, why = _Judge(written, cell, column, shown).judge()
                if verdict is Verdict.WRONG and not why:
                    why = _find_other_run(written, column, shown, runs)
                if verdict in (Verdict.WRONG, Verdict.NOT_FILLED) and cell.value is not None:
                    source = f"see {describe_source(column, shown, baseline)}"
                    why = f"{why}; {source}" if why else source
                answer = f"{cell.text} ({cell.note})" if cell.value is None else cell.text
                checked.append(
                    Checked(table.title, shown.config, header, line, written, verdict, why, answer)
                )
    return checked


def _find_table(path: Path, filled: "FilledTable", tables: Sequence[ReadmeTable]) -> ReadmeTable:
    """Return the table that a heading names; else the one whose rows are the same."""
    names = {_simplify(cells[filled.headers[0]]) for _, cells in filled.rows}
    by_title = [each for each in tables if _simplify(each.title) == _simplify(filled.heading)]
    by_rows = [
        table for table in tables
        if names and names <= {_simplify(shown.config) for shown in table.shown}
    ]  # fmt: skip
    if not by_title + by_rows:
        raise UserError(
            f"{path}: the table {shorten(filled.heading, 60)!r} is none of: "
            + ", ".join(repr(table.title) for table in tables)
        )
    return (by_title + by_rows)[0]


# ---- One cell --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judge:
    """Sets what was written beside a cell; its hints do not name the answer."""

    written: str
    cell: Cell
    column: str
    shown: Shown

    def judge(self) -> tuple[Verdict, str]:
        """Return the verdict on what was written, and a hint."""
        is_empty, cell = self.written.lower() in _EMPTY, self.cell
        if cell.value is None:
            if is_empty:
                return Verdict.NOTHING, cell.note or ""
            if self.shown.scale == BASELINE and self.column in RATIOS:
                return Verdict.NOTHING, f"the blank table has it; {cell.note}"
            return Verdict.WRONG, f"the logs give no value: {cell.note}"
        if is_empty:
            return Verdict.NOT_FILLED, ""
        exact = to_decimal(cell.value)
        if not exact.is_finite():  # nan in the log
            is_same = self.written.lower() == cell.text.lower()
            return (Verdict.RIGHT if is_same else Verdict.WRONG), ""
        verdicts = [self._judge_number(number, exact) for number in parse_cell(self.written)]
        good = [found for found in verdicts if found[0] is not Verdict.WRONG]
        return (good or verdicts or [(Verdict.WRONG, "not a number")])[0]

    def _judge_number(self, number: Decimal, exact: Decimal) -> tuple[Verdict, str]:
        as_printed = Decimal(round_half_even(exact, count_places(self.cell.text)))
        if self.written == self.cell.text or number in (exact, as_printed):
            return Verdict.RIGHT, ""
        is_thousands = number >= 1000 and number == number.to_integral_value()
        places = count_places(self.written.replace(",", "") if is_thousands else self.written)
        if why := self._explain_rounding(number, exact, places):
            return Verdict.ROUNDED, why
        return Verdict.WRONG, self._find_slip(number, exact, places)

    def _explain_rounding(self, number: Decimal, exact: Decimal, places: int) -> str | None:
        """Say how the two differ when they mean the same; None when they do not."""
        if _GIB.search(self.written):
            return "in GiB" if is_rounding_of(number / 1024, exact / 1024, places) else None
        if is_rounding_of(number, exact, places):
            return f"with {places} decimal{'' if places == 1 else 's'}"
        if self.column.endswith("accuracy_pct") and "%" not in self.written and places > 2:
            return "as a fraction of 1" if is_rounding_of(number * 100, exact, places - 2) else None
        if self.column == "efficiency_pct" and self.shown.run and (gpus := self.shown.run.gpus):
            for scaling_places in (2, 1, 3):  # made from the scaling as it is printed
                scaling = Decimal(round_half_even(exact * gpus / 100, scaling_places))
                if is_rounding_of(number, scaling * 100 / gpus, places):
                    return "made from the rounded scaling"
        return None

    def _find_slip(self, number: Decimal, exact: Decimal, places: int) -> str:
        """Name a usual mistake that explains a wrong number, or nothing."""
        if 0 < abs(exact) - abs(number) < Decimal(1).scaleb(-places):
            return "cut off, not rounded"
        if self.column == "efficiency_pct" and is_rounding_of(number, exact / 100, places):
            return "this column is in percent"
        attempt = self.shown.run.attempt if self.shown.run else None
        for epoch in reversed(attempt.epochs if attempt and attempt.last else ()):
            if epoch is not attempt.last and epoch.get(self.column) == number:
                return f"that is epoch {epoch.epoch}'s, not the last one's"
            validation = self.column.replace("train_", "val_")
            if validation != self.column and epoch.get(validation) == number:
                return "that is the validation's, not the training's"
        return ""


def _find_other_run(written: str, column: str, shown: Shown, runs: Sequence[Run]) -> str:
    """Name the other complete run at this scale whose last epoch has that value."""
    others = [
        run
        for run in runs
        if run.is_usable
        and (run.nodes, run.gpus_per_node) == shown.scale
        and (shown.run is None or run.id != shown.run.id)
    ]
    for run in reversed(order_in_time(others)):
        last = run.attempt.last if run.attempt else None
        if last is not None and last.get(column) in parse_cell(written):
            return f"that is job {run.id}'s; take it with --job {run.id}"
    return ""


# ---- Where a value stands --------------------------------------------------------------------


def describe_source(column: str, shown: Shown, baseline: Shown | None) -> str:
    """Say in which file and line the value of a cell is, or those that it is computed from."""
    if shown.run is None:
        return shown.reason or "there is no run"
    here = _find_line(RATIOS.get(column, column), shown.run)
    if column not in RATIOS:
        return here
    if baseline is None or baseline.run is None:
        return f"{here}, over the 1-GPU run's, which is missing"
    over = f"{here}, over {_find_line(RATIOS[column], baseline.run)}"
    return f"{over}, over the GPUs in all, times 100" if column == "efficiency_pct" else over


def _find_line(column: str, run: Run) -> str:
    """Name the line that the job printed, else the log that the value was computed from."""
    last = run.attempt.last if run.attempt else None
    name, paths, end = f"{column[:3]}_memory_log", run.cpu_log_paths, ""
    if column.startswith("gpu0_"):
        log = run.gpu_logs.get(0)
        # On a shared node the job's lowest GPU may be another than 0.
        paths, end = run.gpu_log_paths, f" - GPU {log.gpus[0].index if log and log.gpus else 0}"
    elif not column.startswith("cpu_"):
        if run.log_path is None or last is None:
            return f"job {run.id} has no epoch line"
        return f"{run.log_path}, line {last.line_number}"
    printed = run.log.memory_lines if run.log else {}
    for node in ("", "_node0"):
        if number := printed.get(f"{name}{node}{end}"):
            return f"{run.log_path}, line {number}"
    return f"{paths[0]}" if 0 in paths else f"job {run.id} has no {name}"


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
    lines, row = [], (None, None)
    width = max(len(cell.header) for cell in checked)
    for cell in checked:
        if cell.table != row[0]:
            lines += [*([""] if lines else []), cell.table]
        if (cell.table, cell.config) != row:
            row = (cell.table, cell.config)
            lines.append(f"  {cell.config}")
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
