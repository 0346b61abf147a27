"""The fixed-work table of any CSV with scales: numbers of a paper, or typed by hand."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from common.console import shorten
from common.errors import UserError
from common.rounding import round_half_even, to_decimal
from scaling.read.text import read_lines
from scaling.runs.study import Study, TableRow, build_study
from scaling.tables.fixed_work import BASES, make_fixed_work
from scaling.tables.numbers import (
    TIME_UNITS_S,
    count_places,
    has_decimal_comma,
    is_rounding_of,
    parse_number,
    parse_seconds,
)
from scaling.tables.table import Table, add_note, is_missing

LARGEST_BYTES = 1 << 24
_SHAPE = re.compile(r"([1-9]\d{0,4}) ?[x×*] ?([1-9]\d{0,3})")  # nodes x GPUs per node
_NO_MEASURE = ("", "-", "--", "–", "—", "n/a", "na", "nan", "none", "null", "oom")
# Role -> what a header may say, as words without case, signs or units; the first found counts.
_NAMES = {
    "gpus": (
        "gpus", "gpu", "num gpus", "n gpus", "ngpus", "number of gpus", "gpu count", "total gpus",
        "no of gpus", "world size", "accelerators", "devices", "num devices", "ranks", "processes",
        "workers", "gcds", "tpus", "chips", "nodes x gpus", "nodes x gpus per node",
    ),
    "nodes": ("nodes", "num nodes", "n nodes", "nnodes", "number of nodes", "node count", "hosts"),
    "gpus_per_node": (
        "gpus per node", "gpu per node", "gpus node", "gpus x node", "ppn", "ngpus per node",
        "devices per node", "processes per node", "ranks per node", "tasks per node",
    ),
    "throughput": (
        "throughput", "global throughput", "tokens s", "tokens sec", "tokens per s",
        "tokens per sec", "tokens per second", "tokens sec global", "samples s", "samples sec",
        "samples per s", "samples per sec", "samples per second", "images s", "images sec",
        "images per sec", "images per second", "img s", "img sec", "imgs s", "imgs sec",
        "sequences per second", "seq s", "mean throughput", "throughput per s", "examples per sec",
        "examples s", "items s", "tok s", "tok sec", "toks s", "toks sec",
    ),
    "time": (
        "wall time", "walltime", "time", "wall s", "total time", "training time", "elapsed",
        "elapsed time", "runtime", "run time", "duration", "wall clock", "wall clock time",
        "epoch time", "time per epoch", "seconds", "total wall time", "train time",
        "time to solution", "execution time",
    ),
    "speedup": ("speedup", "speed up", "scaling", "scaling factor", "throughput scaling"),
    "efficiency": ("efficiency", "scaling efficiency", "parallel efficiency", "eff"),
}  # fmt: skip
_THOUSANDS = re.compile(
    r"(?<![A-Za-z])([kKM]|[Tt]housand|[Mm]illion)[ _]?"
    r"(?=tok|im|sample|seq|example|item|/s)"
)
# A column of numbers whose name holds one of these is a setting; a column of names is no series.
_SETTINGS = ("batch", "seq", "length", "layer", "hidden")
_RUN_NAMES = ("job", "run", "date", "note", "comment", "file")


@dataclass(frozen=True)
class Columns:
    """Header of each role, None where there is none.

    time_unit_s: seconds in one unit of time; throughput_factor: 1000 under `ktokens/s`.
    """

    gpus: str | None
    nodes: str | None
    gpus_per_node: str | None
    throughput: str | None
    time: str | None
    speedup: str | None
    efficiency: str | None

    @property
    def time_unit_s(self) -> Decimal | int:
        header = self.time or ""
        bracketed = re.findall(r"[(\[{]\s*([A-Za-z]+)\.?\s*[)\]}]", header)
        words = (*bracketed, *re.findall(r"[A-Za-z]+", header)[-1:])
        known = (TIME_UNITS_S.get(word.lower()) for word in words)
        return next((unit_s for unit_s in known if unit_s is not None), 1)

    @property
    def throughput_factor(self) -> int:
        match = _THOUSANDS.search(self.throughput or "")
        return 1 if match is None else 1000 if match[1].lower() in ("k", "thousand") else 1000**2

    @property
    def unit(self) -> str | None:
        """tokens/s, img/s or samples/s where the throughput's header says what it counts."""
        words = _THOUSANDS.sub("", self.throughput or "").lower()
        for part, unit in (("tok", "tokens/s"), ("im", "img/s"), ("sample", "samples/s")):
            if re.search(rf"\b{part}|_{part}", words):
                return unit
        return None


@dataclass(frozen=True)
class CsvTable:
    """A table that was read: its study, and the ratios that it prints itself.

    printed: of each of the study's sources, column (speedup, efficiency) -> what stands there.
    """

    study: Study
    columns: Columns
    printed: list[dict[str, str]]
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
    decimal_comma = has_decimal_comma(cell for _, row in rows for cell in row.values())
    scales = [_read_scale(path, line, row, columns, decimal_comma) for line, row in rows]
    _check_series(path, columns, scales, [row for _, row in rows])
    for name, column in (("throughput", columns.throughput), ("walltime", columns.time)):
        if basis == name and not column:
            what = "throughput" if name == "throughput" else "time"
            raise UserError(f"{path}: no column of {what}; leave --basis out")
    study = build_study(
        scales,
        unit=columns.unit,
        source=str(path),
        definition=f"Throughput and time: as they stand in {path}; rows of the same GPUs are "
        "averaged.",
    )
    ratios = {role: getattr(columns, role) for role in ("speedup", "efficiency")}
    printed = [
        {role: row[name] for role, name in ratios.items() if name and row[name].strip()}
        for _, row in rows
    ]
    default = "throughput" if columns.throughput else "walltime"
    return CsvTable(study, columns, printed, basis or default, decimal_comma)


def find_columns(headers: list[str], given: dict[str, str | None], where: str) -> Columns:
    """Return the columns of a table: those given by name, the others guessed.

    A throughput or time that is given leaves the other one out. Raises UserError for a
    name that is not there, and when GPUs or both measures cannot be found.
    """
    listed = shorten("its columns are " + ", ".join(headers), 300)
    for role, name in given.items():
        if name is not None and name not in headers:
            raise UserError(f"{where}: no column {name!r} for --{role}; {listed}")
    found = {role: given.get(role) or _guess(headers, role) for role in _NAMES}
    for role, other in (("throughput", "time"), ("time", "throughput")):
        if given.get(role) and not given.get(other):
            found[other] = None
    if found["gpus"] is None and not (found["nodes"] and found["gpus_per_node"]):
        raise UserError(
            f"{where}: no column of GPUs is found, nor nodes with GPUs per node; {listed}; "
            "name it with --gpus COL"
        )
    if found["throughput"] is None and found["time"] is None:
        raise UserError(
            f"{where}: no column of throughput or time is found; {listed}; name one with "
            "--throughput COL or --time COL"
        )
    return Columns(**found)


def _guess(headers: list[str], role: str) -> str | None:
    """Return the header that a role's names fit; the earliest name in the list wins."""
    plain = {}
    for header in headers:
        for form in _simplify(header):
            plain.setdefault(form, header)
    return next((plain[name] for name in _NAMES[role] if name in plain), None)


def _simplify(header: str) -> Iterator[str]:
    """Yield a header as words: with its bracketed unit, without it, without a last unit."""
    header = _THOUSANDS.sub("", header)
    header = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", header)  # trainTime
    for text in (header, re.sub(r"[(\[{].*?[)\]}]", " ", header)):
        words = re.findall(r"[a-z]+", text.lower().replace("#", " num "))
        words = [word for word in words if word != "avg"]
        yield " ".join(words)
        while words and words[-1] in ("pct", "percent", "x", *TIME_UNITS_S):
            words = words[:-1]
            yield " ".join(words)
        if " vs " in f" {' '.join(words)} ":  # `Speedup vs 1 GPU`
            yield " ".join(words[: words.index("vs")])


# ---- The file --------------------------------------------------------------------------------


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line number, header -> cell) of each row, without `#` lines and empty ones."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"{path}: larger than {LARGEST_BYTES >> 20} MiB: no table by hand")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = [line for line, _ in read_lines(path)]
    text = "\n".join(
        "" if line.lstrip().startswith("#") and not _is_header(line) else line for line in lines
    )
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
        raise UserError(f"{path}: a line of column names and one row per scale are needed")
    headers = found[0][1]
    if len(set(headers)) < len(headers):
        twice = next(name for name in headers if headers.count(name) > 1)
        raise UserError(f"{path}: two columns are called {shorten(twice, 40)!r}; rename one")
    for line, cells in found[1:]:
        if len(cells) != len(headers):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells under {len(headers)} column names"
            )
    return [(line, dict(zip(headers, cells, strict=True))) for line, cells in found[1:]]


def _unbar(line: str) -> str:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return "" if re.fullmatch(r"[\s|:-]+", inner) else inner


def _is_header(line: str) -> bool:
    return line.lower().lstrip().startswith(("#gpu", "# gpu", "#nodes", "# nodes"))


def _read_scale(
    path: Path, line: int, row: dict[str, str], columns: Columns, decimal_comma: bool
) -> TableRow:
    def refuse(header: str, why: str) -> UserError:
        cell = shorten(row[header], 40)
        return UserError(f"{path}, line {line}: {shorten(header, 40)} is {cell!r}, {why}")

    def count(header: str) -> int:
        value = parse_number(row[header], decimal_comma)
        if value is None or value < 1 or value != value.to_integral_value():
            raise refuse(
                header, "not a whole number of 1 or more; another column is named with --gpus COL"
            )
        return int(value)

    def measure(role: str) -> float | None:
        header = getattr(columns, role)
        if header is None or row[header].strip().lower() in _NO_MEASURE:
            return None
        if role == "time":
            value = parse_seconds(row[header], columns.time_unit_s, decimal_comma)
        else:
            value = parse_number(row[header], decimal_comma)
            if value is not None and not re.search(r"\d\s*[kKM]", row[header]):
                value *= columns.throughput_factor
        if value is None or value <= 0 or is_missing(float(value)):
            raise refuse(header, f"not a number above 0; another column is named with --{role} COL")
        return float(value)

    nodes = count(columns.nodes) if columns.nodes else None
    shape = _SHAPE.fullmatch(row[columns.gpus].strip()) if columns.gpus else None
    if shape:
        nodes = int(shape[1])
        gpus = nodes * int(shape[2])
    elif columns.gpus:
        gpus = count(columns.gpus)
    else:
        gpus = nodes * count(columns.gpus_per_node)
    name = f"{path}, line {line}"
    return TableRow(name, nodes, gpus, columns.unit, measure("throughput"), measure("time"))


def _check_series(
    path: Path, columns: Columns, scales: list[TableRow], rows: list[dict[str, str]]
) -> None:
    """Refuse to average rows of the same GPUs that a column of words tells apart."""
    used = set(vars(columns).values())
    telling = [
        name
        for name in rows[0]
        if name not in used
        and not _has_any(name, _RUN_NAMES)
        and (
            _has_any(name, _SETTINGS)
            or any(r[name] and parse_number(r[name]) is None for r in rows)
        )
    ]
    seen: dict[tuple, dict[str, str]] = {}
    for scale, row in zip(scales, rows, strict=True):
        first = seen.setdefault((scale.nodes, scale.gpus), row)
        for name in telling:
            if first[name] != row[name]:
                pair = f"{first[name]!r} and {row[name]!r}"
                raise UserError(
                    f"{path}: rows of {scale.gpus} GPUs have {pair} in column {name!r}: repeats, "
                    f"or two series? Choose one with --where {name}={first[name]}"
                )


def _has_any(header: str, words: Iterable[str]) -> bool:
    return any(word in header.lower() for word in words)


# ---- The table -------------------------------------------------------------------------------


def make_csv_table(table: CsvTable) -> Table:
    """Return the fixed-work table; a printed ratio that its numbers do not give has a note."""
    made = make_fixed_work(table.study, table.basis)
    rows, wrong = [], 0
    for scale, row in zip(table.study.scales.itertuples(), made.rows, strict=True):
        row = dict(row)
        for run in table.study.list_runs(scale)["run"]:
            for role, text in table.printed[run].items():
                problem = check_printed(role, text, scale, table)
                row[role] = add_note(row[role], problem)
                wrong += problem is not None and "its own numbers give" in problem
        rows.append(row)
    remarks = list(made.remarks)
    if checked := sum(map(len, table.printed)):
        remarks.append(
            f"of {checked} printed speedups and efficiencies {wrong} are not what the file's own "
            "numbers give"
        )
    always = ("config", "speedup", "efficiency")
    headers = {
        name: header
        for name, header in made.headers.items()
        if name in always or any(row[name].value is not None for row in rows)
    }
    definitions = [text for text in made.definitions if not text.startswith("Wall time")]
    return replace(made, headers=headers, rows=rows, definitions=definitions, remarks=remarks)


def check_printed(role: str, text: str, scale, table: CsvTable) -> str | None:
    """Return what is wrong with a printed ratio; None when rounding explains the difference.

    role: speedup or efficiency. scale: a row of the study's scales.
    """
    own = _compute(role, scale, table.basis)
    shown = shorten(text, 40)
    if own is None:
        return f"printed {shown}: its own numbers give none"
    if (printed := parse_number(text, table.decimal_comma)) is None:
        return f"printed {shown!r}, no number; its own numbers give {own:.4g}"
    header = getattr(table.columns, role).lower()
    in_pct = role == "efficiency" and (
        "%" in text + header or "pct" in header or "percent" in text.lower() + header or printed > 3
    )
    places, factor = count_places(text), 100 if in_pct else 1
    if is_rounding_of(printed, own * factor, places):
        return None
    right = round_half_even(own * factor, max(places, 1 if in_pct else 2))
    found = f"printed {shown}; its own numbers give {right}{' %' if in_pct else ''}"
    if table.study.baseline.gpus > 1:
        found += f" over {table.study.base_name}, the smallest in the file"
    (other,) = set(BASES) - {table.basis}
    by_other = _compute(role, scale, other)
    if by_other is not None and is_rounding_of(printed, by_other * factor, places):
        found += f" (what is printed is by {other})"
    return found


def _compute(role: str, scale, basis: str) -> Decimal | None:
    prefix = "wall_" if basis == "walltime" else ""
    value = getattr(scale, f"{prefix}{'speedup' if role == 'speedup' else 'efficiency_pct'}")
    if is_missing(value):
        return None
    return to_decimal(float(value)) / (1 if role == "speedup" else 100)
