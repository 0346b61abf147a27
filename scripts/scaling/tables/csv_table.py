"""Read the scales in any CSV: numbers of a paper, or typed by hand."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from common.console import shorten
from common.errors import UserError
from scaling.read.text import read_lines
from scaling.runs.measured import Measured
from scaling.runs.spread import Spread
from scaling.runs.study import Study, make_study
from scaling.tables.csv_columns import Columns, find_columns
from scaling.tables.csv_numbers import has_decimal_comma, parse_number, parse_seconds

LARGEST_BYTES = 1 << 24
_SHAPE = re.compile(r"([1-9]\d{0,4}) ?[x×*] ?([1-9]\d{0,3})")  # nodes x GPUs per node
_NOTHING = ("", "-", "--", "–", "—", "n/a", "na", "nan", "none", "null", "oom")  # no measure


@dataclass(frozen=True)
class CsvTable:
    """A table that was read: its study, and what it printed of its own, by row of the file."""

    study: Study
    columns: Columns
    printed: dict[Measured, dict[str, str]]
    basis: str
    decimal_comma: bool


def read_csv_table(
    path: Path,
    given: dict[str, str | None] | None = None,
    basis: str | None = None,
    where: Iterable[tuple[str, str]] = (),
) -> CsvTable:
    """Read a CSV with a column of GPUs and one of throughput or time.

    given: header by role (gpus, throughput, time). where: (column, value) that rows must have.
    Rows of the same GPUs are repeats. Raises UserError when a number cannot be read, and
    when rows of the same GPUs differ in a column of words: are they repeats of one thing?
    """
    rows = _read_rows(Path(path))
    columns = find_columns(list(rows[0][1]), given or {}, str(path))
    for name, value in where:
        if name not in rows[0][1]:
            raise UserError(f"{path}: no column {name!r} for --where")
        rows = [row for row in rows if row[1][name] == value]
        if not rows:
            raise UserError(f"{path}: no row has {value!r} in column {name!r}")
    reader = _RowReader(path, columns, has_decimal_comma([c for _, r in rows for c in r.values()]))
    measured, printed = [], {}
    for line, row in rows:
        run = reader.read(line, row)
        measured.append(run)
        printed[run] = {
            role: row[header]
            for role in ("speedup", "efficiency")
            if (header := getattr(columns, role)) and row[header].strip()
        }
    _check_series(path, columns, measured, [row for _, row in rows])
    default = "throughput" if columns.throughput else "walltime"
    if basis == "throughput" and not columns.throughput:
        raise UserError(f"{path}: no column of throughput; leave --basis out")
    if basis == "walltime" and not columns.time:
        raise UserError(f"{path}: no column of time; leave --basis out")
    definition = (
        f"Throughput and time: as they stand in {path}; rows of the same GPUs are averaged."
    )
    study = make_study(measured, unit=columns.unit, source=str(path), definition=definition)
    return CsvTable(study, columns, printed, basis or default, reader.decimal_comma)


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line number, header -> cell) of each row, without `#` lines and empty ones."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"{path}: larger than {LARGEST_BYTES >> 20} MiB: no table by hand")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = [line for line, _ in read_lines(path)]
    text = "\n".join("" if line.lstrip().startswith("#") and not _is_header(line) else line
                     for line in lines)  # fmt: skip
    first = next((line for line in text.split("\n") if line.strip()), "")
    if first.lstrip().startswith("|"):  # a table of Markdown: its outer bars and its ruler
        text = "\n".join(_unbar(line) for line in text.split("\n"))
        first = _unbar(first)
    delimiter = max("\t;,|", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    found: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: no CSV: {error}") from error
    if len(found) < 2:
        raise UserError(f"{path}: a line of column names and a row a scale are needed")
    headers = found[0][1]
    if len(set(headers)) < len(headers):
        twice = next(name for name in headers if headers.count(name) > 1)
        raise UserError(f"{path}: two columns are called {shorten(twice, 40)!r}; rename one")
    rows = []
    for line, cells in found[1:]:
        if len(cells) != len(headers):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells under {len(headers)} column names"
            )
        rows.append((line, dict(zip(headers, cells, strict=True))))
    return rows


def _unbar(line: str) -> str:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return "" if re.fullmatch(r"[\s|:-]+", inner) else inner


def _is_header(line: str) -> bool:
    return line.lower().lstrip().startswith(("#gpu", "# gpu", "#nodes", "# nodes"))


class _RowReader:
    def __init__(self, path: Path, columns: Columns, decimal_comma: bool):
        self.path, self.columns, self.decimal_comma = path, columns, decimal_comma

    def read(self, line: int, row: dict[str, str]) -> Measured:
        columns = self.columns
        nodes = self._count(line, row, columns.nodes) if columns.nodes else None
        if columns.gpus and (shape := _SHAPE.fullmatch(row[columns.gpus].strip())):
            nodes = int(shape[1])
            gpus = nodes * int(shape[2])
        elif columns.gpus:
            gpus = self._count(line, row, columns.gpus)
        else:
            gpus = nodes * self._count(line, row, columns.gpus_per_node)
        throughput = self._measure(line, row, columns.throughput)
        wall_s = self._measure(line, row, columns.time, columns.time_unit_s)
        return Measured(
            f"{self.path}, line {line}",
            nodes,
            gpus,
            columns.unit,
            None if throughput is None else Spread(throughput, 1, None, "single"),
            wall_s,
        )

    def _count(self, line: int, row: dict[str, str], header: str) -> int:
        value = parse_number(row[header], self.decimal_comma)
        if value is None or value.denominator != 1 or value < 1:
            why = "not a whole number of 1 or more; another column is named with --gpus COL"
            self._refuse(line, header, row[header], why)
        return int(value)

    def _measure(
        self, line: int, row: dict[str, str], header: str | None, unit_s: Fraction | None = None
    ) -> Fraction | None:
        if header is None or row[header].strip().lower() in _NOTHING:
            return None
        if unit_s is None:
            value = parse_number(row[header], self.decimal_comma)
            if value is not None and not re.search(r"\d\s*[kKM]", row[header]):
                value *= self.columns.throughput_factor
        else:
            value = parse_seconds(row[header], unit_s, self.decimal_comma)
        if value is None or value <= 0:
            role = "throughput" if unit_s is None else "time"
            why = f"not a number above 0; another column is named with --{role} COL"
            self._refuse(line, header, row[header], why)
        return value

    def _refuse(self, line: int, header: str, cell: str, why: str) -> None:
        raise UserError(
            f"{self.path}, line {line}: {shorten(header, 40)} is {shorten(cell, 40)!r}, {why}"
        )


def _check_series(
    path: Path, columns: Columns, measured: list[Measured], rows: list[dict[str, str]]
) -> None:
    """Refuse to average rows of the same GPUs that a column of words tells apart."""
    used = {value for value in vars(columns).values() if isinstance(value, str)}
    words = [
        name
        for name in rows[0]
        if name not in used and (_tells_series(name) or _has_words(row[name] for row in rows))
    ]
    seen: dict[tuple, dict[str, str]] = {}
    for run, row in zip(measured, rows, strict=True):
        first = seen.setdefault((run.nodes, run.gpus), row)
        for name in words:
            if first[name] != row[name] and not _is_name_of_run(name):
                pair = f"{first[name]!r} and {row[name]!r}"
                raise UserError(
                    f"{path}: rows of {run.gpus} GPUs have {pair} in column {name!r}: repeats, or "
                    f"two series? Choose one with --where {name}={first[name]}"
                )


def _has_words(cells: Iterable[str]) -> bool:
    return any(cell and parse_number(cell) is None for cell in cells)


def _tells_series(header: str) -> bool:
    """Whether a column of numbers is a setting, not a measure."""
    return any(word in header.lower() for word in ("batch", "seq", "length", "layer", "hidden"))


def _is_name_of_run(header: str) -> bool:
    return any(word in header.lower() for word in ("job", "run", "date", "note", "comment", "file"))
