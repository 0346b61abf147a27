"""The fixed-work table of any CSV with scales: numbers of a paper, or typed by hand.

What a header's words leave open (is a throughput per GPU? are two models one series?) is refused
in one line that names the option which settles it.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from common.console import shorten
from common.counts import LineCounts
from common.errors import UserError
from common.rounding import round_half_even, to_decimal
from scaling.read.typed_table import read_typed_table
from scaling.runs.study import Study, TableRow, build_study, rises_not
from scaling.tables.fixed_work import BASES, make_fixed_work
from scaling.tables.headers import (
    DEVICES,
    NODES,
    RESULTS,
    RUN_NAMES,
    SCALED,
    SETTINGS,
    WORK,
    find_factor,
    find_role,
    find_unit,
    split_words,
)
from scaling.tables.numbers import (
    THOUSANDS,
    TIME_UNITS_S,
    count_places,
    has_decimal_comma,
    is_grouped_or_decimal,
    is_rounding_of,
    parse_number,
    parse_seconds,
    split_number,
    strip_marks,
)
from scaling.tables.table import Table, add_note, is_missing

_SUMMARY_ROW = re.compile(r"(?:grand )?(?:total|sum|average|avg|mean|median|std|geo\w*)\b.*", re.I)

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
    per: str = "job"
    ratios: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def used(self) -> set:
        roles = (self.gpus, self.nodes, self.gpus_per_node, self.throughput, self.time)
        return {*roles, *(header for _, header in self.ratios)}

    @property
    def time_unit_s(self) -> Decimal | int | None:
        """Seconds in one of the time's unit, None where its header names none."""
        words = [word for word in split_words(self.time or "") if word in TIME_UNITS_S]
        return TIME_UNITS_S[words[-1]] if words else None


def find_columns(
    headers: list[str], given: dict[str, str | int | None], where: str, rows: list[dict] = ()
) -> Columns:
    """Return the columns of a table: those given by name, else those whose words leave no doubt.

    A throughput or time that is given leaves the other one out. Raises UserError for a name that
    is not there, and when GPUs or both measures cannot be found or may be several columns.
    """
    listed = shorten("its columns are " + ", ".join(headers), 300)
    for role, name in given.items():
        if role != "per" and isinstance(name, str) and name not in headers:
            option = role.replace("_", "-")
            raise UserError(f"{where}: no column {name!r} for --{option}; {listed}")
    found: dict[str, list[str]] = {}
    for header in headers:
        if header in given.values():  # it plays the role that it is given, and no other
            continue
        role, per = find_role(header)
        found.setdefault(role + ("_of_" + per if per else ""), []).append(header)

    def pick(role: str, *kinds: str, is_needed: bool = True) -> str | None:
        """Return the column that is given, else the only one of the first kind that has any."""
        if given.get(role) is not None:
            return given[role]
        columns = next((found[kind] for kind in kinds if found.get(kind)), [])
        if role == "gpus" and rows and (len(columns) > 1 or (nodes and per_node)):
            # `GPU` is often a name.
            columns = [c for c in columns if any(parse_count(row[c]) for row in rows)]
        alike = {tuple(row[column] for row in rows) for column in columns} if rows else columns
        if len(columns) < 2 or len(alike) == 1:
            return columns[0] if columns else None
        if is_needed:
            names = " and ".join(map(repr, columns[:3]))
            option = f"--{role} {_quote(columns[0])}"
            raise UserError(f"{where}: {names} are both columns of {role}; choose, as in {option}")
        return None

    nodes, per_node = pick("nodes", "nodes"), pick("gpus_per_node", "gpus_per_node")
    gpus = pick("gpus", "gpus", "gpus_of_turned") or _find_counts(headers, rows, nodes, per_node)
    if gpus is None and not (nodes and per_node):
        nodes_alone = f"; with {nodes!r} name --gpus-per-node N" if nodes else ""
        raise UserError(
            f"{where}: no column of GPUs is found, nor nodes with GPUs per node; {listed}; name it "
            f"with --gpus COL{nodes_alone}"
        )
    only_time = given.get("time") and not given.get("throughput")
    kinds = ("throughput", *(f"throughput_of_{each}" for each in ("gpu", "node", "?")))
    throughput = None if only_time else pick("throughput", *kinds)
    only_rate = given.get("throughput") and not given.get("time")
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
        raise UserError(f"{where}: no column of throughput or time is found; {listed}; {name}")
    if time and set(split_words(time)) & (DEVICES | NODES) and find_role(time)[0] != "time":
        raise UserError(
            f"{where}: {time!r} is a time of all GPUs, not of the run: no speedup of it"
        )
    per = given.get("per") or find_role(throughput or "")[1] or "job"
    if per == "?":
        raise UserError(
            f"{where}: is {throughput!r} of one GPU or of the job? Say --per gpu or --per job"
        )
    ratios = tuple((role, h) for role in ("speedup", "efficiency") for h in found.get(role, ()))
    return Columns(gpus, nodes, per_node, throughput, time, per, ratios, remarks)


def _find_counts(headers, rows, nodes, per_node) -> str | None:
    """Return the only column whose every cell says GPUs, as `4 GPUs` does under `Config`."""
    if nodes and per_node:
        return None
    says = re.compile(r"\d\s*[x×]?\s*(?:gpu|gcd)s?\b", re.IGNORECASE)
    found = [
        header for header in headers
        if rows and all(says.search(row[header]) and parse_count(row[header]) for row in rows)
    ]  # fmt: skip
    return found[0] if len(found) == 1 else None


def _quote(text: str) -> str:
    """Return a word for the shell, in double quotes where these do."""
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


# ---- Rows ------------------------------------------------------------------------------------


def parse_count(cell: str, decimal_comma: bool = False) -> tuple[int, int | None, str] | None:
    """Return (GPUs, nodes if it says, hardware) of `8`, `8 (1 node)`, `8xH100`, `2 x 4`."""
    text, nodes, words = re.sub(r"[*†‡`]|\[\^?\w{1,3}\]", "", cell).strip(), None, ""
    if bracket := re.search(r"\s*\(([^()]*)\)$", text):
        text, words = text[: bracket.start()], bracket[1]
    if told := re.match(r"(\d{1,6})\s*nodes?\b|(\d{1,6})\s*[x×]\s*\d+$", words.strip(), re.I):
        nodes, words = int(told[1] or told[2]), ""
    if shape := re.fullmatch(r"(\d{1,5})\s*(?:nodes?)?\s*[x×*]\s*(\d{1,5})\s*(gpus?)?", text, re.I):
        return int(shape[1]) * int(shape[2]), int(shape[1]), words
    turned = re.fullmatch(r"([A-Za-z][\w -]*?)\s*[x×]\s*(\d{1,6})", text)  # H100 x 8
    number, more = (turned[2], turned[1]) if turned else (text, "")
    match = re.fullmatch(r"(\d[\d.,' _]*?)\s*(?:[x×]\s*)?([A-Za-z][\w ,-]*)?", number)
    if match is None or re.match(r"(?:nodes?|k|m|x)\b", match[2] or "", re.IGNORECASE):
        return None
    value = parse_number(match[1], decimal_comma)
    if value is None or value < 1 or value != value.to_integral_value():
        return None
    left = [w for w in re.findall(r"[\w-]+", f"{match[2] or ''} {more} {words}".lower())
            if w not in DEVICES | {"baseline", "single", "node", "nodes"}]  # fmt: skip
    return int(value), nodes, " ".join(left)


@dataclass
class _Scale:
    """A row as it was read. rounding: the half of its last digit's unit over its value."""

    line: int
    row: dict[str, str]
    gpus: int
    nodes: int | None
    hardware: str
    throughput: Decimal | None = None
    time_s: Decimal | None = None
    cell_unit: str = ""
    rounding: Decimal = Decimal(0)
    notes: tuple[str, ...] = ()


class _RowReader:
    """Reads rows by their columns; `empty` has why cells gave no number."""

    def __init__(self, path: Path, columns: Columns, decimal_comma: bool):
        self.path, self.columns, self.comma = path, columns, decimal_comma
        self.empty: list[UserError] = []

    def refuse(self, line: int, row: dict[str, str], header: str, why: str) -> UserError:
        cell = shorten(row[header], 40)
        return UserError(f"{self.path}, line {line}: {shorten(header, 40)} is {cell!r}, {why}")

    def read(self, line: int, row: dict[str, str]) -> _Scale:
        gpus, nodes, hardware = self._read_shape(line, row)
        scale = _Scale(line, row, gpus, nodes, hardware)
        for role, header in (("throughput", self.columns.throughput), ("time", self.columns.time)):
            if header is not None:
                self._read_measure(scale, role, header)
        if scale.throughput is not None and self.columns.per != "job":
            times = gpus if self.columns.per == "gpu" else nodes
            if times is None:
                why = "per node, and its number of nodes is unknown: name it with --nodes COL"
                raise self.refuse(line, row, self.columns.throughput, why)
            scale.throughput *= times
        return scale

    def _read_shape(self, line: int, row: dict[str, str]) -> tuple[int, int | None, str]:
        def count(header: str, option: str) -> tuple[int, int | None, str]:
            found = parse_count(row[header], self.comma)
            if found is None and header == self.columns.nodes:
                number = re.fullmatch(r"(\d{1,6})(?:\s*nodes?)?", row[header].strip(), re.I)
                found = number and (int(number[1]), None, "")
            if not found:
                raise self.refuse(
                    line, row, header, "not a whole number of 1 or more; another column is named "
                    f"with --{option} COL",
                )  # fmt: skip
            return found

        columns = self.columns
        nodes = count(columns.nodes, "nodes")[0] if columns.nodes else None
        per_node = columns.gpus_per_node
        if isinstance(per_node, str):
            per_node = count(per_node, "gpus-per-node")[0]
        if columns.gpus is None:
            return nodes * per_node, nodes, ""
        gpus, told, hardware = count(columns.gpus, "gpus")
        if told and find_role(columns.gpus)[1] == "turned":  # `GPUs x nodes`
            told = gpus // told
        if nodes and told and nodes != told:
            raise self.refuse(line, row, columns.gpus, f"and {columns.nodes} is {nodes}")
        nodes = nodes or told
        if nodes and per_node and gpus != nodes * per_node:
            why = f"and {nodes} nodes of {per_node} GPUs have {nodes * per_node}"
            raise self.refuse(line, row, columns.gpus, why)
        return gpus, nodes, hardware

    def _read_measure(self, scale: _Scale, role: str, header: str) -> None:
        cell, unit, value = scale.row[header], "", None
        found = split_number(cell, self.comma)
        if role == "time":
            value = parse_seconds(cell, self.columns.time_unit_s or 1, self.comma)
        elif found:
            value, size, unit = found
            if not size:
                value *= find_factor(header)
        is_unit = not unit or find_role(unit)[0] == "throughput" or unit == find_unit(header)
        if value is None or not is_unit or value <= 0 or is_missing(float(value)):
            what = "not a number above 0" if is_unit else f"and {unit!r} is no unit of a throughput"
            why = f"{what}; another column is named with --{role} COL"
            error = self.refuse(scale.line, scale.row, header, why)
            looks_like_one = re.match(r"[^\w(]?\d", strip_marks(cell)) and value is None
            if looks_like_one or not is_unit:
                raise error
            self.empty.append(error)
            word = f"the file says {shorten(cell, 40)!r}" if cell else "the file says nothing"
            scale.notes += (f"{word} under {shorten(header, 40)}",)
            return
        if role == "throughput":
            scale.throughput, scale.cell_unit = value, unit
        else:
            scale.time_s = value
        if found and found[0]:
            half = Decimal(5).scaleb(-count_places(cell) - 1) * THOUSANDS[found[1].lower()]
            scale.rounding = max(scale.rounding, abs(half / found[0]))


@dataclass(frozen=True)
class CsvTable:
    """A table that was read: its study, and the ratios that it prints itself.

    printed: of each of the study's sources, (role, header, what stands there). rounding: of each,
    how far off its figure may be since it was rounded, as a fraction. counts: where the file's
    lines went.
    """

    study: Study
    columns: Columns
    printed: list[list[tuple[str, str, str]]]
    rounding: list[Decimal]
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
    path, given = Path(path), given or {}
    file = read_typed_table(path)
    rows, counts = file.rows, file.counts
    for name in (*(name for name, _ in where), *vary):
        if name not in file.headers:
            option = "where" if name not in vary else "vary"
            raise UserError(f"{path}: no column {name!r} for --{option}")
    for name, value in where:
        rows = [row for row in rows if row[1][name] == value]
        if not rows:
            raise UserError(f"{path}: no row has {value!r} in column {name!r}")
    columns = find_columns(file.headers, given, str(path), [row for _, row in rows])
    scale_column = columns.gpus or columns.nodes
    left_out = [line for line, row in rows if _SUMMARY_ROW.fullmatch(row[scale_column])]
    rows = [(line, row) for line, row in rows if line not in left_out or len(left_out) == len(rows)]
    counts.ignored["not chosen by --where"] = len(file.rows) - len(rows) - len(left_out)
    counts.ignored["a total or an average"] = len(left_out)
    counts.ignored = +counts.ignored
    counts.kept = counts.lines - counts.ignored.total() - counts.dropped.total()
    for name, column in (("throughput", columns.throughput), ("walltime", columns.time)):
        if basis == name and not column:
            what = "throughput" if name == "throughput" else "time"
            raise UserError(f"{path}: no column of {what}; leave --basis out")
    basis = basis or ("throughput" if columns.throughput else "walltime")
    comma = _settle_decimals(path, file.delimiter, rows, columns, decimal)
    reader = _RowReader(path, columns, comma)
    scales = [reader.read(line, row) for line, row in rows]
    measured = [s for s in scales if (s.throughput if basis == "throughput" else s.time_s)]
    if not measured:
        raise reader.empty[0]
    _check_nodes(path, columns, scales, given)
    unit = _settle_unit(path, columns, scales)
    has_time_unit = _settle_time_unit(path, columns, scales)
    _check_series(path, columns, scales, vary, basis)
    if columns.per == "job" and not given.get("per"):
        _check_per_gpu(path, columns, scales)
    sources = [
        TableRow(
            f"{path}, line {s.line}", s.nodes, s.gpus, unit or None,
            None if s.throughput is None else float(s.throughput),
            None if s.time_s is None else float(s.time_s), list(s.notes),
        ) for s in scales
    ]  # fmt: skip
    by = "" if columns.per == "job" else f"; a throughput per {columns.per} is multiplied"
    study = build_study(
        sources,
        unit=unit or None,
        source=str(path),
        definition=f"Throughput and time: as they stand in {path}; rows of the same GPUs are "
        f"averaged{by}.",
    )
    remarks = [f"line {line} is left out: a total or an average" for line in left_out]
    study.left_out += [*remarks, *columns.remarks]
    printed = [
        [(role, h, s.row[h]) for role, h in columns.ratios if parse_number(s.row[h], comma)]
        for s in scales
    ]
    rounding = [s.rounding for s in scales]
    return CsvTable(study, columns, printed, rounding, basis, comma, unit, has_time_unit, counts)


def _settle_decimals(
    path: Path, delimiter: str, rows: list, columns: Columns, decimal: str | None
) -> bool:
    """Return whether a comma parts decimals; refuse what may be thousands as well."""
    if decimal:
        return decimal == "comma"
    cells = [row[name] for _, row in rows for name in columns.used if isinstance(name, str)]
    try:
        found = has_decimal_comma(cells)
    except ValueError as error:
        raise UserError(f"{path}: {error}; say --decimal comma or point") from None
    if found is None and delimiter == ";":
        for cell in filter(is_grouped_or_decimal, cells):
            raise UserError(
                f"{path}: {cell!r} may be thousands or three decimals; say --decimal comma or point"
            )
    return bool(found)


def _settle_unit(path: Path, columns: Columns, scales: list[_Scale]) -> str:
    """Return the throughput's unit: the header's, else the cells' own, if that is one."""
    units = sorted({find_unit(s.cell_unit) or s.cell_unit for s in scales if s.cell_unit})
    header = find_unit(columns.throughput or "")
    if len(units) > 1 or (units and header and units != [header]):
        words = ", ".join(dict.fromkeys([*([header] if header else []), *units]))
        raise UserError(f"{path}: throughputs in different units ({words}): no ratio of them")
    if units and find_role(scales[0].cell_unit)[1] and columns.per == "job":
        raise UserError(f"{path}: {scales[0].cell_unit!r} is per GPU: say --per gpu, or --per job")
    return header or (units[0] if units else "")


def _settle_time_unit(path: Path, columns: Columns, scales: list[_Scale]) -> bool:
    """Return whether times have a unit: the header's, else their own; refuse some with and some
    without.
    """
    if columns.time is None or columns.time_unit_s:
        return True
    told = {bool(re.search(r"[A-Za-z:]", scale.row[columns.time]))
            for scale in scales if scale.time_s is not None}  # fmt: skip
    if len(told) > 1:
        raise UserError(
            f"{path}: {columns.time!r} has times with a unit and times without: name it above"
        )
    return True in told


def _check_nodes(path: Path, columns: Columns, scales: list[_Scale], given: dict) -> None:
    """Refuse a column of GPUs that may be per node: fewer than nodes, or the same on more."""
    if not (columns.gpus and columns.nodes) or given.get("gpus") or columns.gpus_per_node:
        return
    nodes_of: dict[int, set[int]] = {}
    for scale in scales:
        nodes_of.setdefault(scale.gpus, set()).add(scale.nodes)
    if any(len(nodes) > 1 for nodes in nodes_of.values()) or any(s.gpus < s.nodes for s in scales):
        name = _quote(columns.gpus)
        raise UserError(
            f"{path}: is {columns.gpus!r} in all or per node? Say --gpus {name} or "
            f"--gpus-per-node {name}"
        )


def _check_per_gpu(path: Path, columns: Columns, scales: list[_Scale]) -> None:
    """Refuse a throughput that more GPUs never raise: it is most likely of one GPU."""
    rated = [(s.gpus, s.throughput) for s in scales if s.throughput is not None]
    says_all = set(split_words(columns.throughput or "")) & {"global", "total", "aggregate", "all"}
    if rated and not says_all and rises_not(*zip(*rated, strict=True)):
        raise UserError(
            f"{path}: {columns.throughput!r} does not rise with the GPUs: is it of one GPU or of "
            "the job? Say --per gpu or --per job"
        )


def _check_series(
    path: Path, columns: Columns, scales: list[_Scale], vary: Iterable[str], basis: str
) -> None:
    """Refuse rows that another column parts into several series."""
    hardware = sorted({scale.hardware for scale in scales if scale.hardware})
    if len(hardware) > 1:
        raise UserError(
            f"{path}: {columns.gpus!r} names {hardware[0]!r} and {hardware[1]!r}: different "
            f'series; put the type into a column of its own and choose with --where "COL=VALUE"'
        )
    for name in scales[0].row:
        if name in columns.used or name in vary:
            continue
        values = list(dict.fromkeys(scale.row[name] for scale in scales))
        if len(values) < 2 or _is_no_setting(name, scales, basis):
            continue
        raise UserError(
            f"{path}: column {shorten(name, 40)!r} has {shorten(values[0], 40)!r} and "
            f"{shorten(values[1], 40)!r}: different series; choose one with "
            f"--where {_quote(f'{name}={values[0]}')}, or say --vary {_quote(name)}"
        )


def _is_no_setting(name: str, scales: list[_Scale], basis: str) -> bool:
    """Whether a column that varies names the run, the scale or a result."""
    words = set(split_words(name))
    role = find_role(name)[0]
    if role in ("throughput", "time", "step_time", "step_rate", "speedup", "efficiency"):
        return True
    bracket = re.search(r"[(\[](.*?)[)\]]", name)
    if bracket and find_role(bracket[1])[0] in ("throughput", "time"):  # `FP32 (img/s)`
        return True
    if not words & SETTINGS and words & (RUN_NAMES | RESULTS):
        return True
    if words & SETTINGS:
        return False
    if len({_strip_scale(scale, scale.row[name]) for scale in scales}) == 1:
        return True
    if not words & (SCALED - (WORK if basis == "walltime" else set())):
        return False
    numbers = [parse_number(scale.row[name]) for scale in scales]
    if not all(numbers):
        return False
    for shares in ([n / s.gpus for n, s in zip(numbers, scales, strict=True)],
                   [n * s.gpus for n, s in zip(numbers, scales, strict=True)]):  # fmt: skip
        if max(shares) <= min(shares) * Decimal("1.02"):
            return True
    return False


def _strip_scale(scale: _Scale, cell: str) -> tuple[str, ...]:
    """Return a cell's words without those that say its scale: `8 GPUs, 1 Node` has none left."""
    sizes = {scale.gpus, scale.nodes, scale.gpus // scale.nodes if scale.nodes else None, 1}
    words = re.findall(r"[a-z]+|[\d.]+", cell.lower())
    if not any(map(str.isalpha, words)):
        return tuple(words)
    if not {"single", "baseline"} & set(words) and not any(map(str.isdigit, words)):
        return tuple(words)
    known = DEVICES | NODES | {"g", "n", "x", "baseline", "single"}
    return tuple(w for w in words if w not in known and not (w.isdigit() and int(w) in sizes))


# ---- The table -------------------------------------------------------------------------------


def make_csv_table(table: CsvTable) -> Table:
    """Return the fixed-work table; a printed ratio that its numbers do not give has a note."""
    made = make_fixed_work(table.study, table.basis)
    rows, wrong = [], 0
    for scale, row in zip(table.study.scales.itertuples(), made.rows, strict=True):
        row = dict(row)
        for run in table.study.list_runs(scale)["run"]:
            for role, header, text in table.printed[run]:
                problem = check_printed(role, header, text, scale, table)
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
    base_gpus = int(table.study.find_baseline(table.basis).gpus)
    own = _compute(role, scale, table.basis)
    shown = shorten(text, 40)
    if own is None:
        return f"printed {shown}: its own numbers give none"
    printed, places = parse_number(text, table.decimal_comma), count_places(text)
    is_pct = "%" in text + header or bool({"pct", "percent"} & set(split_words(header)))
    slack = sum(_find_rounding(table, row) for row in (
        scale, table.study.find_baseline(table.basis)))  # fmt: skip

    def agrees(value: Decimal | None) -> bool:
        factors = (1, 100) if not is_pct else (100,) if "%" in text else (100, 1)
        return value is not None and any(
            is_rounding_of(printed, exact, places) or
            abs(printed - exact) <= Decimal(5).scaleb(-places - 1) + abs(exact) * slack
            for exact in (value * factor for factor in factors)
        )  # fmt: skip

    (other_role,) = {"speedup", "efficiency"} - {role}
    either = "speedup" not in split_words(header) and "efficiency" not in split_words(header)
    others = [own * base_gpus] if role == "speedup" else []
    if either and "scaling" in split_words(header):
        others.append(_compute(other_role, scale, table.basis))
    if any(map(agrees, (own, *others))):
        return None
    in_pct = is_pct or (role == "efficiency" and printed > 3)
    right = round_half_even(own * (100 if in_pct else 1), max(places, 1 if in_pct else 2))
    found = f"printed {shown}; its own numbers give {right}{' %' if in_pct else ''}"
    if base_gpus > 1:
        found += f" over {base_gpus} GPUs, the smallest in the file"
    (other,) = set(BASES) - {table.basis}
    if agrees(_compute(role, scale, other)):
        found += f" (what is printed is by {other})"
    return found


def _find_rounding(table: CsvTable, row) -> Decimal:
    return max(table.rounding[run] for run in table.study.list_runs(row)["run"])


def _compute(role: str, scale, basis: str) -> Decimal | None:
    prefix = "wall_" if basis == "walltime" else ""
    value = getattr(scale, f"{prefix}{'speedup' if role == 'speedup' else 'efficiency_pct'}")
    if is_missing(value):
        return None
    return to_decimal(float(value)) / (1 if role == "speedup" else 100)
