"""The fixed-work table of any CSV with scales: numbers of a paper, or typed by hand.

What a header's words leave open (is a throughput per GPU? are two models one series?) is refused
in one line that names the option which settles it.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from common.console import shorten
from common.counts import LineCounts
from common.errors import UserError
from common.rounding import round_half_even, to_decimal
from scaling.read.typed_table import TypedTable, read_typed_table
from scaling.runs.study import Study, TableRow, build_study, rises_not
from scaling.tables import headers as words
from scaling.tables.headers import find_factor, find_role, find_unit, split_words
from scaling.tables.numbers import (
    THOUSANDS,
    TIME_UNITS_S,
    count_places,
    has_decimal_comma,
    is_rounding_of,
    parse_number,
    parse_seconds,
    split_number,
    strip_marks,
)
from scaling.tables.scaling import BASES, make_fixed_work
from scaling.tables.table import Table, add_note, is_missing

_SUMMARY_ROW = re.compile(r"(?:grand )?(?:total|sum|average|avg|mean|median|std|geo\w*)\b.*", re.I)
_SAYS_GPUS = re.compile(r"\d\s*[x×]?\s*(?:gpu|gcd)s?\b", re.I)
_SHAPE = re.compile(r"(\d{1,5})\s*(?:nodes?)?\s*[x×*]\s*(\d{1,5})\s*(?:gpus?)?", re.I)
_GPUS = re.compile(r"(\d[\d.,' _]*?)\s*(?:[x×]\s*)?((?!(?:nodes?|k|m|x)\b)[A-Za-z][\w ,-]*)?", re.I)
_NODES = re.compile(r"(\d{1,6})\s*nodes?\b|(\d{1,6})\s*[x×]\s*\d+$", re.I)


class _Open(UserError):
    """What a file leaves open, without the file's name; line: where it does."""

    def __init__(self, text: str, line: int | None = None):
        super().__init__(f": {text}" if line is None else f", line {line}: {text}")


# ---- Columns ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Header of each role, None where there is none.

    gpus_per_node: a header, or the number itself. per: job, gpu or node, what the throughput is
    of. ratios: (speedup or efficiency, header) of each column that prints one. remarks: columns
    that were left out.
    """

    gpus: str | None
    nodes: str | None
    gpus_per_node: str | int | None
    throughput: str | None
    time: str | None
    per: str
    ratios: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]

    @property
    def used(self) -> set:
        roles = (self.gpus, self.nodes, self.gpus_per_node, self.throughput, self.time)
        return {*roles, *(header for _, header in self.ratios)}

    @property
    def time_unit_s(self) -> Decimal | int | None:
        """Seconds in one of the time's unit, None where its header names none."""
        units = [word for word in split_words(self.time or "") if word in TIME_UNITS_S]
        return TIME_UNITS_S[units[-1]] if units else None


def find_columns(
    headers: list[str], given: dict[str, str | int | None], rows: list[dict] = ()
) -> Columns:
    """Return the columns of a table: those given by name, else those whose words leave no doubt.

    A throughput or time that is given leaves the other one out. Raises UserError for a name that
    is not there, and when GPUs or both measures cannot be found or may be several columns.
    """
    listed = shorten("its columns are " + ", ".join(headers), 300)
    for role, name in given.items():
        if role != "per" and isinstance(name, str) and name not in headers:
            option = role.replace("_", "-")
            raise _Open(f"no column {name!r} for --{option}; {listed}")
    found: dict[str, list[str]] = {}
    for header in headers:
        if header not in given.values():  # it plays the role that it is given, and no other
            found.setdefault("_of_".join(filter(None, find_role(header))), []).append(header)

    def pick(role: str, *kinds: str, is_needed: bool = True) -> str | None:
        """Return the column that is given, else the only one of the first kind that has any."""
        if given.get(role) is not None:
            return given[role]
        columns = next((found[kind] for kind in kinds if kind in found), [])
        if role == "gpus" and rows and (len(columns) > 1 or is_told):  # `GPU` is often a name
            columns = [c for c in columns if any(parse_count(row[c]) for row in rows)]
        differing = {tuple(row[column] for row in rows) for column in columns} if rows else columns
        if len(differing) < 2:
            return columns[0] if columns else None
        if is_needed:
            names = " and ".join(map(repr, columns[:3]))
            option = f"--{role} {_quote(columns[0])}"
            raise _Open(f"{names} are both columns of {role}; choose, as in {option}")
        return None

    nodes, per_node = pick("nodes", "nodes"), pick("gpus_per_node", "gpus_per_node")
    is_told = bool(nodes and per_node)
    gpus = pick("gpus", "gpus", "gpus_of_turned")
    if gpus is None and not is_told:
        in_words = [
            header for header in headers
            if rows and all(_SAYS_GPUS.search(r[header]) and parse_count(r[header]) for r in rows)
        ]  # fmt: skip
        if len(in_words) != 1:
            nodes_alone = f"; with {nodes!r} name --gpus-per-node N" if nodes else ""
            raise _Open(
                f"no column of GPUs is found, nor nodes with GPUs per node; {listed}; name it with "
                f"--gpus COL{nodes_alone}"
            )
        gpus = in_words[0]
    only_time = given.get("time") and not given.get("throughput")
    only_rate = given.get("throughput") and not given.get("time")
    kinds = ("throughput", *(f"throughput_of_{each}" for each in ("gpu", "node", "?")))
    throughput = None if only_time else pick("throughput", *kinds)
    time = None if only_rate else pick("time", "time", is_needed=not throughput)
    times = found.get("time", ())
    remarks = ()
    if time is None and len(times) > 1 and not only_rate:
        remarks = (f"columns of time that are not used: {', '.join(times)}; choose with --time",)
    if throughput is None and time is None:
        name = "name one with --throughput COL or --time COL"
        for role, option in (("step_time", "time"), ("step_rate", "throughput")):
            for step in found.get(role, ())[:1]:
                name = f"if a step is the same work in all rows, say --{option} {_quote(step)}"
        raise _Open(f"no column of throughput or time is found; {listed}; {name}")
    if time and find_role(time)[0] != "time" and words.NAMES & set(split_words(time)):
        raise _Open(f"{time!r} is a time of all GPUs, not of the run: no speedup of it")
    role, per = find_role(throughput or "")
    per = given.get("per") or (per if role == "throughput" else "") or "job"
    if per == "?":
        raise _Open(f"is {throughput!r} of one GPU or of the job? Say --per gpu or --per job")
    ratios = tuple((role, h) for role in ("speedup", "efficiency") for h in found.get(role, ()))
    return Columns(gpus, nodes, per_node, throughput, time, per, ratios, remarks)


def _quote(text: str) -> str:
    """Return a word for the shell, in double quotes where these do."""
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


# ---- Rows ------------------------------------------------------------------------------------


def parse_count(cell: str, decimal_comma: bool = False) -> tuple[int, int | None, str] | None:
    """Return (GPUs, nodes if it says, hardware) of `8`, `8 (1 node)`, `8xH100`, `2 x 4`."""
    text, nodes, more = re.sub(r"[*†‡`]|\[\^?\w{1,3}\]", "", cell).strip(), None, ""
    if bracket := re.search(r"\s*\(([^()]*)\)$", text):
        text, more = text[: bracket.start()], bracket[1].strip()
    if told := _NODES.match(more):
        nodes, more = int(told[1] or told[2]), ""
    if shape := _SHAPE.fullmatch(text):
        return int(shape[1]) * int(shape[2]), int(shape[1]), more
    if turned := re.fullmatch(r"([A-Za-z][\w -]*?)\s*[x×]\s*(\d{1,6})", text):  # H100 x 8
        text, more = turned[2], f"{turned[1]} {more}"
    match = _GPUS.fullmatch(text)
    value = parse_number(match[1], decimal_comma) if match else None
    if value is None or value < 1 or value != value.to_integral_value():
        return None
    left = [w for w in re.findall(r"[\w-]+", f"{match[2] or ''} {more}".lower())
            if w not in words.DEVICES | {"baseline", "single", "node", "nodes"}]  # fmt: skip
    return int(value), nodes, " ".join(left)


@dataclass(eq=False)
class CsvRow(TableRow):
    """A row as it was read. rounding: the half of its last digit's unit over its value."""

    line: int = 0
    cells: dict[str, str] = field(default_factory=dict)
    hardware: str = ""
    cell_unit: str = ""
    rounding: Decimal = Decimal(0)


@dataclass
class _Reader:
    """Reads one file's rows by its columns, and refuses what they leave open.

    empty: why cells gave no number.
    """

    given: dict[str, str | int | None]
    columns: Columns
    decimal_comma: bool
    empty: list[UserError] = field(default_factory=list)

    def refuse(self, line: int, cells: dict[str, str], header: str, why: str) -> UserError:
        cell = shorten(cells[header], 40)
        return _Open(f"{shorten(header, 40)} is {cell!r}, {why}", line)

    def read(self, line: int, cells: dict[str, str]) -> CsvRow:
        gpus, nodes, hardware = self._read_shape(line, cells)
        known = {"line": line, "cells": cells, "hardware": hardware}
        row = CsvRow("", nodes, gpus, None, None, None, **known)
        if self.columns.throughput is not None:
            times = {"job": 1, "gpu": gpus, "node": nodes}[self.columns.per]
            value = self._read_measure(row, "throughput", self.columns.throughput)
            if value is not None and times is None:
                why = "per node, and its number of nodes is unknown: name it with --nodes COL"
                raise self.refuse(line, cells, self.columns.throughput, why)
            row.throughput_per_s = None if value is None else float(value * times)
        if self.columns.time is not None:
            value = self._read_measure(row, "time", self.columns.time)
            row.wall_s = None if value is None else float(value)
        return row

    def _read_shape(self, line: int, cells: dict[str, str]) -> tuple[int, int | None, str]:
        def count(header: str, option: str) -> tuple[int, int | None, str]:
            cell = cells[header]
            if option == "nodes":
                cell = re.sub(r"(?i)(?<=\d)\s*nodes?$", "", cell.strip())
            if not (found := parse_count(cell, self.decimal_comma)):
                why = "not a whole number of 1 or more; another column is named with"
                raise self.refuse(line, cells, header, f"{why} --{option} COL")
            return found

        columns, per_node = self.columns, self.columns.gpus_per_node
        nodes = count(columns.nodes, "nodes")[0] if columns.nodes else None
        if isinstance(per_node, str):
            per_node = count(per_node, "gpus-per-node")[0]
        if columns.gpus is None:
            return nodes * per_node, nodes, ""
        gpus, told, hardware = count(columns.gpus, "gpus")
        if told and find_role(columns.gpus)[1] == "turned":  # `GPUs x nodes`
            told = gpus // told
        if nodes and told and nodes != told:
            raise self.refuse(line, cells, columns.gpus, f"and {columns.nodes} is {nodes}")
        nodes = nodes or told
        if nodes and per_node and gpus != nodes * per_node:
            why = f"and {nodes} nodes of {per_node} GPUs have {nodes * per_node}"
            raise self.refuse(line, cells, columns.gpus, why)
        return gpus, nodes, hardware

    def _read_measure(self, row: CsvRow, role: str, header: str) -> Decimal | None:
        """Return a throughput or a time in s; None, noted at the row, for a cell without one."""
        cell = row.cells[header]
        number, size, unit = split_number(cell, self.decimal_comma) or (None, "", "")
        value = number
        if role == "time":
            value, unit = parse_seconds(cell, self.columns.time_unit_s or 1, self.decimal_comma), ""
        elif number and not size:
            value = number * find_factor(header)
        is_unit = not unit or find_role(unit)[0] == "throughput" or unit == find_unit(header)
        if value is None or not is_unit or value <= 0 or is_missing(float(value)):
            what = "not a number above 0" if is_unit else f"and {unit!r} is no unit of a throughput"
            why = f"{what}; another column is named with --{role} COL"
            error = self.refuse(row.line, row.cells, header, why)
            if not is_unit or (value is None and re.match(r"[^\w(]?\d", strip_marks(cell))):
                raise error
            self.empty.append(error)
            told = f"the file says {shorten(cell, 40)!r}" if cell else "the file says nothing"
            row.notes.append(f"{told} under {shorten(header, 40)}")
            return None
        row.cell_unit = row.cell_unit or unit
        if number:
            half = Decimal(5).scaleb(-count_places(cell) - 1) * THOUSANDS[size.lower()]
            row.rounding = max(row.rounding, abs(half / number))
        return value

    # ---- What the columns leave open, of all rows together ------------------------------------

    def settle_unit(self, rows: list[CsvRow]) -> str:
        """Return the throughput's unit: the header's, else the cells' own, if that is one."""
        units = sorted({find_unit(row.cell_unit) or row.cell_unit for row in rows} - {""})
        header = find_unit(self.columns.throughput or "")
        if len(units) > 1 or (units and header and units != [header]):
            told = ", ".join(dict.fromkeys([*([header] if header else []), *units]))
            raise _Open(f"throughputs in different units ({told}): no ratio of them")
        if units and find_role(rows[0].cell_unit)[1] and self.columns.per == "job":
            raise _Open(f"{rows[0].cell_unit!r} is per GPU: say --per gpu, or --per job")
        return header or (units[0] if units else "")

    def settle_time_unit(self, rows: list[CsvRow]) -> bool:
        """Return whether times have a unit: the header's, else their own in all cells or none."""
        name = self.columns.time
        if name is None or self.columns.time_unit_s:
            return True
        told = {bool(re.search("[A-Za-z:]", r.cells[name])) for r in rows if r.wall_s is not None}
        if len(told) > 1:
            raise _Open(f"{name!r} has times with a unit and times without: name it above")
        return True in told

    def check_per(self, rows: list[CsvRow]) -> None:
        """Refuse GPUs that may be per node, and a throughput that may be of one GPU."""
        columns, name = self.columns, self.columns.gpus
        if name and columns.nodes and not columns.gpus_per_node and not self.given.get("gpus"):
            shapes = {(row.gpus, row.nodes) for row in rows}
            alike = len({gpus for gpus, _ in shapes}) < len(shapes)  # the same on more nodes
            if alike or any(gpus < nodes for gpus, nodes in shapes):
                told = _quote(name)
                raise _Open(
                    f"is {name!r} in all or per node? Say --gpus {told} or --gpus-per-node {told}"
                )
        rated = [(r.gpus, r.throughput_per_s) for r in rows if r.throughput_per_s is not None]
        is_open = columns.per == "job" and not self.given.get("per")
        says_all = {"global", "total", "aggregate", "all"} & set(
            split_words(columns.throughput or "")
        )
        if rated and is_open and not says_all and rises_not(*zip(*rated, strict=True)):
            raise _Open(
                f"{columns.throughput!r} does not rise with the GPUs: is it of one GPU or of the "
                "job? Say --per gpu or --per job"
            )

    def check_series(self, rows: list[CsvRow], vary: Iterable[str], basis: str) -> None:
        """Refuse rows that another column, or the hardware, parts into several series."""
        hardware = sorted({row.hardware for row in rows} - {""})
        if len(hardware) > 1:
            raise _Open(
                f"{self.columns.gpus!r} names {hardware[0]!r} and {hardware[1]!r}: different "
                'series; put the type into a column of its own and choose with --where "COL=VALUE"'
            )
        for name in rows[0].cells:
            values = list(dict.fromkeys(row.cells[name] for row in rows))
            if name in self.columns.used or name in vary or len(values) < 2:
                continue
            if not _is_no_setting(name, rows, basis):
                short, *two = (shorten(text, 40) for text in (name, *values[:2]))
                raise _Open(
                    f"column {short!r} has {two[0]!r} and {two[1]!r}: different series; choose one "
                    f"with --where {_quote(f'{name}={values[0]}')}, or say --vary {_quote(name)}"
                )


def _is_no_setting(name: str, rows: list[CsvRow], basis: str) -> bool:
    """Whether a column that varies names the run, the scale or a result."""
    said = set(split_words(name))
    bracket = re.search(r"[(\[](.*?)[)\]]", name)
    in_bracket = find_role(bracket[1])[0] if bracket else ""  # `FP32 (img/s)`
    if find_role(name)[0] in words.MEASURES or in_bracket in ("throughput", "time"):
        return True
    if said & words.SETTINGS:
        return False
    if said & (words.RUN_NAMES | words.RESULTS):
        return True
    if len({_strip_scale(row, row.cells[name]) for row in rows}) == 1:
        return True
    numbers = [parse_number(row.cells[name]) for row in rows]
    scaled = words.SCALED - (words.WORK if basis == "walltime" else set())
    if not said & scaled or not all(numbers):
        return False
    pairs = [(number, row.gpus) for number, row in zip(numbers, rows, strict=True)]
    shares = ([n / gpus for n, gpus in pairs], [n * gpus for n, gpus in pairs])
    return any(max(each) <= min(each) * Decimal("1.02") for each in shares)


def _strip_scale(row: CsvRow, cell: str) -> tuple[str, ...]:
    """Return a cell's words without those that say its scale: `8 GPUs, 1 Node` has none left."""
    sizes = {row.gpus, row.nodes, row.gpus // row.nodes if row.nodes else None, 1}
    found = re.findall(r"[a-z]+|[\d.]+", cell.lower())
    says_scale = {"single", "baseline"} & set(found) or any(map(str.isdigit, found))
    if not any(map(str.isalpha, found)) or not says_scale:
        return tuple(found)
    known = words.NAMES | {"g", "n", "x", "baseline", "single"}
    return tuple(w for w in found if w not in known and not (w.isdigit() and int(w) in sizes))


# ---- The file --------------------------------------------------------------------------------


@dataclass(frozen=True)
class CsvTable:
    """A table that was read: its study, whose sources are CsvRows, and where its lines went."""

    study: Study
    columns: Columns
    basis: str
    decimal_comma: bool
    unit: str
    has_time_unit: bool
    counts: LineCounts


def read_csv_table(
    path: Path,
    given: dict[str, str | int | None] | None = None,
    basis: str | None = None,
    where: Iterable[tuple[str, str]] = (),
    vary: Iterable[str] = (),
    decimal: str | None = None,
) -> CsvTable:
    """Read a CSV with a column of GPUs and one of throughput or time.

    given: header by role (gpus, nodes, gpus_per_node, throughput, time), and `per`: gpu or job.
    where: (column, value) that rows must have. vary: columns that may differ within one series.
    decimal: comma or point. Rows of the same GPUs are repeats. Raises UserError, with the option
    that settles it, for whatever the file leaves open.
    """
    file, given = read_typed_table(Path(path)), given or {}
    try:
        return _read_table(str(path), file, given, basis, where, vary, decimal)
    except _Open as error:
        raise UserError(f"{path}{error}") from None


def _read_table(path: str, file: TypedTable, given, basis, where, vary, decimal) -> CsvTable:
    found, counts = file.rows, file.counts
    for option, names in (("where", [name for name, _ in where]), ("vary", vary)):
        for name in names:
            if name not in file.headers:
                raise _Open(f"no column {name!r} for --{option}")
    for name, value in where:
        found = [each for each in found if each[1][name] == value]
        if not found:
            raise _Open(f"no row has {value!r} in column {name!r}")
    columns = find_columns(file.headers, given, [cells for _, cells in found])
    scale = columns.gpus or columns.nodes
    sums = [line for line, cells in found if _SUMMARY_ROW.fullmatch(cells[scale])]
    sums = sums if len(sums) < len(found) else []
    counts.ignored["not chosen by --where"] = len(file.rows) - len(found)
    counts.ignored["a total or an average"] = len(sums)
    counts.ignored = +counts.ignored
    counts.kept = counts.lines - counts.ignored.total() - counts.dropped.total()
    found = [(line, cells) for line, cells in found if line not in sums]
    for name, column in (("throughput", columns.throughput), ("walltime", columns.time)):
        if basis == name and not column:
            raise _Open(f"no column of {name.removeprefix('wall')}; leave --basis out")
    basis = basis or ("throughput" if columns.throughput else "walltime")
    is_comma = decimal == "comma"
    if not decimal:
        typed = [cells[name] for _, cells in found for name in columns.used if name in cells]
        try:
            is_comma = has_decimal_comma(typed, file.delimiter == ";")
        except ValueError as error:
            raise _Open(f"{error}; say --decimal comma or point") from None
    reader = _Reader(given, columns, is_comma)
    rows = [reader.read(line, cells) for line, cells in found]
    if not any(row.throughput_per_s if basis == "throughput" else row.wall_s for row in rows):
        raise reader.empty[0]
    unit, has_time_unit = reader.settle_unit(rows), reader.settle_time_unit(rows)
    reader.check_series(rows, vary, basis)
    reader.check_per(rows)
    for row in rows:
        row.name, row.unit = f"{path}, line {row.line}", unit or None
    by = "" if columns.per == "job" else f"; a throughput per {columns.per} is multiplied"
    definition = (
        f"Throughput and time: as they stand in {path}; rows of the same GPUs are averaged{by}."
    )
    study = build_study(rows, unit=unit or None, source=path, definition=definition)
    study.left_out += [f"line {line} is left out: a total or an average" for line in sums]
    study.left_out += columns.remarks
    return CsvTable(study, columns, basis, is_comma, unit, has_time_unit, counts)


# ---- The table -------------------------------------------------------------------------------


def make_csv_table(table: CsvTable) -> Table:
    """Return the fixed-work table; a printed ratio that its numbers do not give has a note."""
    study, made = table.study, make_fixed_work(table.study, table.basis)
    rows, problems = [dict(row) for row in made.rows], []
    for scale, row in zip(study.scales.itertuples(), rows, strict=True):
        for run in study.list_runs(scale)["run"]:
            for role, header in table.columns.ratios:
                text = study.sources[run].cells[header]
                if parse_number(text, table.decimal_comma):
                    problems.append(check_printed(role, header, text, scale, table))
                    row[role] = add_note(row[role], problems[-1])
    remarks = list(made.remarks)
    if problems:
        wrong = sum(map(bool, problems))
        remarks.append(
            f"of {len(problems)} printed speedups and efficiencies {wrong} are not what the file's "
            "own numbers give"
        )
    always = ("config", "speedup", "efficiency")
    headers = {
        name: header
        for name, header in made.headers.items()
        if name in always or any(row[name].value is not None for row in rows)
    }
    if "throughput_per_s" in headers and not table.unit.endswith(("tokens/s", "samples/s")):
        unit = {"img/s": "images/s"}.get(table.unit, table.unit)
        headers["throughput_per_s"] = f"Throughput ({unit})" if unit else "Throughput"
    if "wall_s" in headers and not table.has_time_unit:
        headers["wall_s"] = f"{shorten(table.columns.time, 40)} (no unit is given)"
    definitions = [text for text in made.definitions if not text.startswith("Wall time")]
    return replace(made, headers=headers, rows=rows, definitions=definitions, remarks=remarks)


def check_printed(role: str, header: str, text: str, scale, table: CsvTable) -> str | None:
    """Return what is wrong with a printed ratio; None when rounding explains the difference.

    role: speedup or efficiency. scale: a row of the study's scales. A ratio may be printed as a
    fraction or in percent, and `scaling` may mean either ratio; of a file without one GPU the
    speedup may be over as many times that GPU.
    """
    study, base = table.study, table.study.find_baseline(table.basis)
    own, shown = _compute(role, scale, table.basis), shorten(text, 40)
    if own is None:
        return f"printed {shown}: its own numbers give none"
    printed, places = parse_number(text, table.decimal_comma), count_places(text)
    said = set(split_words(header))
    is_pct = "%" in text + header or bool({"pct", "percent"} & said)
    factors = (1, 100) if not is_pct else (100,) if "%" in text else (100, 1)
    slack = sum(
        max(study.sources[run].rounding for run in study.list_runs(each)["run"])
        for each in (scale, base)
    )

    def agrees(value: Decimal | None) -> bool:
        return value is not None and any(
            is_rounding_of(printed, value * factor, places, slack) for factor in factors
        )

    (other_role,) = {"speedup", "efficiency"} - {role}
    others = [own * int(base.gpus)] if role == "speedup" else []
    if "scaling" in said and not said & {"speedup", "efficiency"}:
        others.append(_compute(other_role, scale, table.basis))
    if any(map(agrees, (own, *others))):
        return None
    in_pct = is_pct or (role == "efficiency" and printed > 3)
    right = round_half_even(own * (100 if in_pct else 1), max(places, 1 if in_pct else 2))
    found = f"printed {shown}; its own numbers give {right}{' %' if in_pct else ''}"
    if base.gpus > 1:
        found += f" over {base.gpus} GPUs, the smallest in the file"
    (other,) = set(BASES) - {table.basis}
    if agrees(_compute(role, scale, other)):
        found += f" (what is printed is by {other})"
    return found


def _compute(role: str, scale, basis: str) -> Decimal | None:
    prefix = "wall_" if basis == "walltime" else ""
    value = getattr(scale, f"{prefix}{'speedup' if role == 'speedup' else 'efficiency_pct'}")
    if is_missing(value):
        return None
    return to_decimal(float(value)) / (1 if role == "speedup" else 100)
