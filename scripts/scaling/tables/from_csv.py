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
from scaling.read import typed_table as typed
from scaling.runs.study import Study, TableRow, build_study, rises_not
from scaling.tables.scaling import make_fixed_work
from scaling.tables.table import Table, add_note, is_missing

_EITHER = re.compile(r"\d,\d|^\d{1,3}(?:\.\d{3})+\b")  # of thousands, or of decimals
_MOST_GPUS = 10**9
_SLACK = Decimal("0.002")  # a ratio was made from numbers that were not yet rounded
_SAYS_GPUS = re.compile(r"\d\s*[x×]?\s*(?:gpu|gcd)s?\b", re.I)
_COUNT = re.compile(
    r"(?P<nodes>\d{1,5})\s*(?:nodes?)?\s*[x×*]\s*(?P<each>\d{1,5})\s*(?:gpus?)?"
    r"|(?P<number>\d[\d.,' _]*?)\s*(?:[x×]\s*)?(?P<what>(?!(?:nodes?|k|m|x)\b)[A-Za-z][\w ,-]*)?"
    r"|(?P<hardware>[A-Za-z][\w -]*?)\s*[x×]\s*(?P<times>\d{1,6})",  # H100 x 8
    re.I,
)
_NODES = re.compile(r"(\d{1,6})\s*nodes?\b|(\d{1,6})\s*[x×]\s*\d+$", re.I)
# A column that varies and has one of the first words parts series; one of the second is a name of
# the run; one of the third, a result.
_SETTINGS = typed.words(
    "model seq sequence length len context layer layers hidden params parameters precision dtype "
    "stage zero tp pp image resolution input dataset optimizer strategy framework"
)
_RUN_NAMES = typed.words(
    "job jobid run id date day timestamp note notes comment comments remark remarks file log path "
    "seed trial repeat repetition commit hash row user nodelist hostlist hostname hostnames "
    "source link"
)
_RESULTS = typed.words(
    "loss acc accuracy perplexity ppl bleu score f1 memory mem mib gib gb vram util utilization "
    "utilisation power energy watt watts kwh temperature mfu hfu flops tflops tflop cost price usd "
    "std stdev stddev deviation err error ci var variance min max percentile peak overhead "
    "ideal expected hours gain improvement reduction latency comm communication wait idle"
)


class _Open(UserError):
    """What a file leaves open, without the file's name; line: where it does."""

    def __init__(self, text: str, line: int | None = None):
        super().__init__(f": {text}" if line is None else f", line {line}: {text}")


# ---- Columns ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Header of each role, None where there is none.

    gpus_per_node: a header, or the number itself. per: job, gpu or node, what the throughput is
    of. ratios: (speedup or efficiency, header) of each column that prints one.
    """

    gpus: str | None
    nodes: str | None
    gpus_per_node: str | int | None
    throughput: str | None
    time: str | None
    per: str
    ratios: tuple[tuple[str, str], ...]

    @property
    def used(self) -> set:
        roles = (self.gpus, self.nodes, self.gpus_per_node, self.throughput, self.time)
        return {*roles, *(header for _, header in self.ratios)}

    @property
    def time_unit_s(self) -> Decimal | None:
        """Seconds in one of the time's unit, None where its header names none."""
        units = [word for word in typed.split_words(self.time or "") if word in typed.TIME_UNITS_S]
        return typed.TIME_UNITS_S[units[-1]] if units else None


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
            raise _Open(f"no column {name!r} for --{role.replace('_', '-')}; {listed}")
    found: dict[tuple[str, str], list[str]] = {}
    for header in headers:
        if header not in given.values():  # it plays the role that it is given, and no other
            found.setdefault(typed.find_role(header), []).append(header)

    def pick(role: str, *pers: str, is_needed: bool = True) -> str | None:
        """Return the column that is given, else the only one of the first kind that has any."""
        if given.get(role) is not None:
            return given[role]
        columns = next((found[role, per] for per in ("", *pers) if (role, per) in found), [])
        if role == "gpus" and rows and (len(columns) > 1 or is_told):  # `GPU` is often a name
            columns = [c for c in columns if any(parse_count(row[c]) for row in rows)]
        if len(columns) > 1 and is_needed:
            names = " and ".join(map(repr, columns[:3]))
            option = f"--{role} {_quote(columns[0])}"
            raise _Open(f"{names} are both columns of {role}; choose, as in {option}")
        return columns[0] if len(columns) == 1 else None

    nodes, per_node = pick("nodes"), pick("gpus_per_node")
    is_told = bool(nodes and per_node)
    gpus = pick("gpus", "turned")
    if gpus is None and not is_told:
        in_words = [h for h in headers if rows and all(_SAYS_GPUS.search(row[h]) for row in rows)]
        if len(in_words) != 1:
            nodes_alone = f"; with {nodes!r} name --gpus-per-node N" if nodes else ""
            raise _Open(
                f"no column of GPUs is found, nor nodes with GPUs per node; {listed}; name it with "
                f"--gpus COL{nodes_alone}"
            )
        gpus = in_words[0]
    only_time = given.get("time") and not given.get("throughput")
    only_rate = given.get("throughput") and not given.get("time")
    throughput = None if only_time else pick("throughput", "gpu", "node", "?")
    time = None if only_rate else pick("time", is_needed=not throughput)
    if throughput is None and time is None:
        name = "name one with --throughput COL or --time COL"
        for role, option in (("step_time", "time"), ("step_rate", "throughput")):
            for step in found.get((role, ""), ())[:1]:
                name = f"if a step is the same work in all rows, say --{option} {_quote(step)}"
        raise _Open(f"no column of throughput or time is found; {listed}; {name}")
    if time and typed.find_role(time)[0] != "time" and typed.NAMES & set(typed.split_words(time)):
        raise _Open(f"{time!r} is a time of all GPUs, not of the run: no speedup of it")
    role, per = typed.find_role(throughput or "")
    per = given.get("per") or (per if role == "throughput" else "") or "job"
    if per == "?":
        raise _Open(f"is {throughput!r} of one GPU or of the job? Say --per gpu or --per job")
    ratios = tuple((r, h) for r in ("speedup", "efficiency") for h in found.get((r, ""), ()))
    return Columns(gpus, nodes, per_node, throughput, time, per, ratios)


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
    match = _COUNT.fullmatch(text)
    if match and match["nodes"]:
        return int(match["nodes"]) * int(match["each"]), int(match["nodes"]), more
    value = match and typed.parse_number(match["number"] or match["times"], decimal_comma)
    if not value or not 1 <= value <= _MOST_GPUS or value != value.to_integral_value():
        return None
    said = f"{match['what'] or match['hardware'] or ''} {more}".lower()
    left = set(typed.DEVICES | {"baseline", "single", "node", "nodes"})
    return int(value), nodes, " ".join(w for w in re.findall(r"[\w-]+", said) if w not in left)


@dataclass(eq=False)
class CsvRow(TableRow):
    """A row as it was read."""

    line: int = 0
    cells: dict[str, str] = field(default_factory=dict)
    hardware: str = ""
    cell_unit: str = ""


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
        return _Open(f"{shorten(header, 40)} is {shorten(cells[header], 40)!r}, {why}", line)

    def read(self, line: int, cells: dict[str, str]) -> CsvRow:
        gpus, nodes, hardware = self._read_shape(line, cells)
        row = CsvRow("", nodes, gpus, None, line=line, cells=cells, hardware=hardware)
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
        def count(header: str | int | None, option: str) -> tuple[int | None, int | None, str]:
            if not isinstance(header, str):
                return header, None, ""
            cell = re.sub(r"(?i)(?<=\d)\s*nodes?$", "", cells[header].strip())
            found = parse_count(cells[header] if option == "gpus" else cell, self.decimal_comma)
            if not found:
                why = "not a whole number of 1 or more: take the row out, or name another column"
                raise self.refuse(line, cells, header, f"{why} with --{option} COL")
            return found

        columns = self.columns
        nodes, per_node = count(columns.nodes, "nodes")[0], count(columns.gpus_per_node,
                                                                  "gpus-per-node")[0]  # fmt: skip
        if columns.gpus is None:
            return nodes * per_node, nodes, ""
        gpus, told, hardware = count(columns.gpus, "gpus")
        if told and typed.find_role(columns.gpus)[1] == "turned":  # `GPUs x nodes`
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
        value, unit = typed.split_number(cell, self.decimal_comma) or (None, "")
        if role == "time":
            unit_s = self.columns.time_unit_s or 1
            value, unit = typed.parse_seconds(cell, unit_s, self.decimal_comma), ""
        elif value is not None and (factor := typed.find_factor(header)) > 1:
            if re.search(r"\d\s*[kMG]", cell, re.I):
                raise self.refuse(row.line, row.cells, header, "thousands in both: leave one out")
            value *= factor
        is_unit = (
            not unit or typed.find_role(unit)[0] == "throughput" or unit == typed.find_unit(header)
        )
        if value is None or not is_unit or value <= 0 or is_missing(float(value)):
            what = "not a number above 0" if is_unit else f"and {unit!r} is no unit of a throughput"
            why = f"{what}; another column is named with --{role} COL"
            error = self.refuse(row.line, row.cells, header, why)
            if not is_unit or (value is None and re.match(r"[^\w(]?\d", typed.strip_marks(cell))):
                raise error
            self.empty.append(error)
            told = f"the file says {shorten(cell, 40)!r}" if cell else "the file says nothing"
            row.notes.append(f"{told} under {shorten(header, 40)}")
            return None
        row.cell_unit = row.cell_unit or unit
        return value

    # ---- What the columns leave open, of all rows together ------------------------------------

    def settle_unit(self, rows: list[CsvRow]) -> str:
        """Return the throughput's unit: the header's, else the cells' own, if that is one."""
        units = {typed.find_unit(row.cell_unit) or row.cell_unit for row in rows} - {""}
        header = typed.find_unit(self.columns.throughput or "")
        if header:
            units.add(header)
        if len(units) > 1:
            told = ", ".join(sorted(units))
            raise _Open(f"throughputs in different units ({told}): no ratio of them")
        if typed.find_role(rows[0].cell_unit)[1] and self.columns.per == "job":
            raise _Open(f"{rows[0].cell_unit!r} is per GPU: say --per gpu, or --per job")
        return next(iter(units), "")

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
        said = set(typed.split_words(columns.throughput or ""))
        is_open = columns.per == "job" and not self.given.get("per")
        is_open = is_open and not said & {"global", "total", "aggregate", "all"}
        if rated and is_open and rises_not(*zip(*rated, strict=True)):
            raise _Open(
                f"{columns.throughput!r} does not rise with the GPUs: is it of one GPU or of the "
                "job? Say --per gpu or --per job"
            )

    def check_series(self, rows: list[CsvRow], vary: Iterable[str]) -> None:
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
            if not _is_no_setting(name, rows):
                short, *two = (shorten(text, 40) for text in (name, *values[:2]))
                raise _Open(
                    f"column {short!r} has {two[0]!r} and {two[1]!r}: different series; choose one "
                    f"with --where {_quote(f'{name}={values[0]}')}, or say --vary {_quote(name)}"
                )


def _is_no_setting(name: str, rows: list[CsvRow]) -> bool:
    """Whether a column that varies names the run, the scale or a result."""
    said = set(typed.split_words(name))
    bracket = re.search(r"[(\[](.*?)[)\]]", name)
    in_bracket = typed.find_role(bracket[1])[0] if bracket else ""  # `FP32 (img/s)`
    if typed.find_role(name)[0] in typed.MEASURES or in_bracket in ("throughput", "time"):
        return True
    is_named = said & (_RUN_NAMES | _RESULTS) and not said & _SETTINGS
    return bool(is_named) or len({_strip_scale(row, row.cells[name]) for row in rows}) == 1


def _strip_scale(row: CsvRow, cell: str) -> tuple[str, ...]:
    """Return a cell's words without those that say its scale: `8 GPUs, 1 Node` has none left."""
    sizes = {row.gpus, row.nodes, row.gpus // row.nodes if row.nodes else None, 1}
    found = re.findall(r"[a-z]+|[\d.]+", cell.lower())
    says_scale = {"single", "baseline"} & set(found) or any(map(str.isdigit, found))
    if not says_scale or not any(map(str.isalpha, found)):
        return tuple(found)
    known = typed.NAMES | {"g", "n", "x", "baseline", "single"}
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
    file, given = typed.read_typed_table(Path(path)), given or {}
    try:
        return _read_table(str(path), file, given, basis, where, vary, decimal)
    except _Open as error:
        raise UserError(f"{path}{error}") from None


def _read_table(path: str, file: typed.TypedTable, given, basis, where, vary, decimal) -> CsvTable:
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
    counts.ignored["not chosen by --where"] = len(file.rows) - len(found)
    counts.ignored = +counts.ignored
    counts.kept = len(found)
    for name, column in (("throughput", columns.throughput), ("walltime", columns.time)):
        if basis == name and not column:
            raise _Open(f"no column of {name.removeprefix('wall')}; leave --basis out")
    basis = basis or ("throughput" if columns.throughput else "walltime")
    is_comma = decimal == "comma"
    if not decimal:
        cells = [row[name] for _, row in found for name in columns.used if name in row]
        is_comma = _find_decimal(cells, file.delimiter)
    reader = _Reader(given, columns, is_comma)
    rows = [reader.read(line, cells) for line, cells in found]
    if not any(row.throughput_per_s if basis == "throughput" else row.wall_s for row in rows):
        raise reader.empty[0]
    unit, has_time_unit = reader.settle_unit(rows), reader.settle_time_unit(rows)
    reader.check_series(rows, vary)
    reader.check_per(rows)
    for row in rows:
        row.name, row.unit = f"{path}, line {row.line}", unit or None
    by = "" if columns.per == "job" else f"; a throughput per {columns.per} is multiplied"
    definition = (
        f"Throughput and time: as they stand in {path}; rows of the same GPUs are averaged{by}."
    )
    study = build_study(rows, unit=unit or None, source=path, definition=definition)
    return CsvTable(study, columns, basis, is_comma, unit, has_time_unit, counts)


def _find_decimal(cells: list[str], delimiter: str) -> bool:
    """Return whether a comma parts the decimals, as a cell says that can be read in one way only.

    `29600,05` is such a cell; `29,600` in a file of `;` may be either, and is refused.
    """
    has_comma = has_point = False
    for cell in cells:
        as_point, as_comma = typed.parse_number(cell), typed.parse_number(cell, True)
        has_comma |= as_point is None and as_comma is not None
        has_point |= as_point is not None and "." in cell and as_comma in (None, as_point)
    bare = map(typed.strip_marks, cells)
    is_open = [cell for cell in bare if delimiter == ";" and _EITHER.search(cell)]
    if has_comma and has_point:
        raise _Open("a comma parts decimals in some cells, a point in others; make them one")
    if is_open and not (has_comma or has_point):
        raise _Open(f"what parts decimals in {is_open[0]!r}? Say --decimal comma or point")
    return has_comma


# ---- The table -------------------------------------------------------------------------------


def make_csv_table(table: CsvTable) -> Table:
    """Return the fixed-work table; a printed ratio that its numbers do not give has a note."""
    study, made = table.study, make_fixed_work(table.study, table.basis)
    rows, problems = [dict(row) for row in made.rows], []
    for scale, row in zip(study.scales.itertuples(), rows, strict=True):
        for run in study.list_runs(scale)["run"]:
            for role, header in table.columns.ratios:
                text = study.sources[run].cells[header]
                if typed.parse_number(text, table.decimal_comma):
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
    if "throughput_per_s" in headers and table.unit not in ("tokens/s", "samples/s"):
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
    base, shown = table.study.find_baseline(table.basis), shorten(text, 40)
    prefix = "wall_" if table.basis == "walltime" else ""
    speedup, efficiency_pct = (
        getattr(scale, f"{prefix}{name}") for name in ("speedup", "efficiency_pct")
    )
    if is_missing(speedup):
        return f"printed {shown}: its own numbers give none"
    ratios = {"speedup": to_decimal(float(speedup)),
              "efficiency": to_decimal(float(efficiency_pct)) / 100}  # fmt: skip
    own = ratios[role]
    printed, places = typed.parse_number(text, table.decimal_comma), typed.count_places(text)
    said = set(typed.split_words(header))
    is_pct = "%" in text + header or bool({"pct", "percent"} & said)
    factors = (1, 100) if not is_pct else (100,) if "%" in text else (100, 1)
    meant = [own, own * int(base.gpus)] if role == "speedup" else [own]
    if "scaling" in said and not said & {"speedup", "efficiency"}:
        meant = [*meant, *ratios.values()]
    exact = [value * factor for value in meant for factor in factors]
    if any(typed.is_rounding_of(printed, value, places, _SLACK) for value in exact):
        return None
    in_pct = is_pct or (role == "efficiency" and printed > 3)
    right = round_half_even(own * (100 if in_pct else 1), max(places, 1 if in_pct else 2))
    over = f" over {base.gpus} GPUs, the smallest in the file" if base.gpus > 1 else ""
    return f"printed {shown}; its own numbers give {right}{' %' if in_pct else ''}{over}"
