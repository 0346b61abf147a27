"""Columns of a monitor's log: what one holds, and which is which in a GPU monitor's CSV.

Sources: `nvidia-smi --help-query-gpu`; amd-smi's `metric --csv` and `monitor --csv` (AMD SMI
CLI, "MB" there are 1024² bytes); `rocm-smi --showmeminfo vram --csv` (bytes, as its header says).
A user's own header is read where its words are plain: `mem_used_MB`, `gpu_util%`.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

# What tools print in the place of a number: [N/A], [Not Supported], [Unknown Error], N/A, -, ''.
_NO_NUMBER = re.compile(r"\[[^\]]*\]|N/?A|NaN|None|null|-*", re.IGNORECASE)
_NUMBER = re.compile(r"([+-]?\d{1,18}(?:\.\d{1,18})?(?:[eE][+-]?\d{1,3})?) ?([A-Za-z%°/]{1,8})?")
# The GPU tools' and psrecord's "MB" are 1024² bytes, as MiB are.
_BYTES = {
    "B": 1, "BYTES": 1, "KIB": 1 << 10, "KB": 1 << 10, "MIB": 1 << 20, "MB": 1 << 20,
    "GIB": 1 << 30, "GB": 1 << 30,
}  # fmt: skip


@dataclass
class Column:
    """One column: n numbers, their sum and extremes, in `unit` ('' when it has none).

    Sums are made of the printed digits, so 3 x 251.3 / 3 is 251.3. `no_data` counts cells that
    say that there is none; `unreadable` those that are no number.
    """

    name: str
    unit: str = ""
    n: int = 0
    total: Decimal = Decimal(0)
    max: Decimal | None = None
    min: Decimal | None = None
    no_data: int = 0
    unreadable: int = 0

    def add(self, value: str | Decimal | float, times: int = 1) -> None:
        """Take a number in, or a cell as it was printed, so many times.

        A cell's unit is kept when the header gave none. nan and infinity count as no data.
        """
        if isinstance(value, str):
            match = _NUMBER.fullmatch(value.strip())
            factor = _convert(match[2], self.unit) if match else 0
            if not factor:
                says_none = _NO_NUMBER.fullmatch(value.strip())
                self.no_data += times if says_none else 0
                self.unreadable += 0 if says_none else times
                return
            self.unit = self.unit or match[2] or ""
            value = Decimal(match[1]) * factor
        number = value if isinstance(value, Decimal) else Decimal(str(value))
        if not number.is_finite():
            self.no_data += times
            return
        self.n += times
        self.total += number * times
        self.max = number if self.max is None else max(self.max, number)
        self.min = number if self.min is None else min(self.min, number)

    def merge(self, other: Column) -> None:
        """Take in what another column of the same unit holds."""
        for value in (other.max, other.min):
            if value is not None:
                self.add(value, 0)
        self.unit = self.unit or other.unit
        self.n += other.n
        self.total += other.total
        self.no_data += other.no_data
        self.unreadable += other.unreadable

    @property
    def mean(self) -> float | None:
        """The mean, None without a number or when it is beyond any float."""
        return plain_number(float(self.total / self.n)) if self.n else None

    def describe(self) -> dict:
        """Return n, mean, max, min and unit for JSON; cells without a number when there are."""
        record = {
            "n": self.n, "mean": self.mean, "max": plain_number(self.max),
            "min": plain_number(self.min), "unit": self.unit,
        }  # fmt: skip
        lacking = {"no_data": self.no_data, "unreadable": self.unreadable}
        return record | {name: count for name, count in lacking.items() if count}


def _convert(unit: str | None, wanted: str) -> Decimal | int:
    """Return what a number in `unit` is multiplied by to be in the wanted one; 0: it cannot be."""
    if unit is None or unit == wanted or not wanted:
        return 1
    sizes = _BYTES.get(unit.upper(), 0), _BYTES.get(wanted.upper(), 0)
    return Decimal(sizes[0]) / sizes[1] if all(sizes) else 0


def plain_number(value: Decimal | float | None) -> int | float | None:
    """Return a number for JSON: a whole printed one stays an int; None for nan and infinity."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Decimal) and value.is_finite() and value.as_tuple().exponent == 0:
        return int(value)
    return float(value) if math.isfinite(float(value)) else None


def describe_columns(columns: Iterable[Column]) -> dict[str, dict]:
    """Return name -> description of the columns that hold any number."""
    return {column.name: column.describe() for column in columns if column.n}


# ---- The header of a GPU monitor's CSV -------------------------------------------------------

LOG_COMMAND = (
    "nvidia-smi --query-gpu=timestamp,index,name,memory.used,memory.total,utilization.gpu,"
    "power.draw,temperature.gpu,clocks.sm,uuid --format=csv --loop=5"
)
# What nvidia-smi prints in the place of a table (its own wording, several driver versions).
ERROR_TEXT = re.compile(
    r"NVIDIA-SMI has failed|No devices were found|Failed to initialize NVML|"
    r"Unable to determine the device handle|is not a valid field|GPU is lost|"
    r"Insufficient Permissions|Driver/library version mismatch|command not found|"
    r"AMDSMI_STATUS_\w+|ROCk module is NOT loaded|No AMD GPUs",
    re.IGNORECASE,
)
FIGURES = ("utilization_pct", "power_w", "temperature_c", "sm_clock_mhz", "throttle_mask")
# What a column is -> the names that the tools and loggers give it, the most exact first.
_ROLES = {
    role: names.split(", ")
    for role, names in {
        "timestamp": "timestamp, time, datetime, timestamp_utc, time_utc, elapsed_sec, elapsed_s, "
        "elapsed, seconds, time_s, time_sec, t, t_s, ts, t_wall, wall_time, date",
        "host": "hostname, host, node, node_name, nodename",
        "index": "index, gpu_index, gpu_id, gpuid, gpu_idx, device_id, device_index, gpu, device",
        "uuid": "uuid, gpu_uuid, pci.bus_id, gpu_bus_id, gpu_bdf, bdf, unique id",
        "name": "name, gpu_name, device_name, gpu_model, gpu_type",
        "used": "memory.used, used_vram, vram_used, vram total used memory, vram used memory",
        "total": "memory.total, total_vram, vram_total, vram total memory",
        "utilization_pct": "utilization.gpu, gfx_activity, gfx, gpu use",
        "power_w": "power.draw, power.draw.instant, power.draw.average, power_usage, socket_power, "
        "average graphics package power, current socket graphics package power",
        "temperature_c": "temperature.gpu, hotspot_temperature, hotspot, "
        "temperature (sensor junction)",
        "sm_clock_mhz": "clocks.sm, clocks.current.sm, gfx_clock, gfx_clk",
        "throttle_mask": "clocks_throttle_reasons.active, clocks_event_reasons.active",
    }.items()
}
_TOOLS_NAMES = frozenset(name for names in _ROLES.values() for name in names)
# A header must name one of these: `gpu`, `time` or `mem` alone are any program's. Each with its
# unit where the header names none.
_MEASURES = {
    r"clocks_\w+\.\S+|vram .*memory|gfx_\w+|gpu use|gpu memory .*|.*graphics package power": "",
    r"(?:used|free|total)_vram|vram_(?!percent)\w+": "MB",
    r"memory\.(?:used|total|free|reserved)": "MiB",
    r"utilization\.\w+|fan\.speed|vram_percent|gfx(?:_(?:util|activity|usage))?": "%",
    r"power\.\w+(?:\.\w+)*|power_usage|socket_power": "W",
    r"temperature(?:\.\w+| \(.*\))": "C",
    r"clocks\.\S+|gfx_(?:clock|clk)": "MHz",
}
# Columns that may part GPUs, though they are no index; or (1) that say how many there are.
PARTING = re.compile(
    r"(n(?:um|umber)?[ _]?(?:of[ _])?gpus?|gpu[ _]?count|gpus|count)|"
    r"(?:(?:gpu|device|card|id|idx|slot|bus|minor|serial|rank|local|node|host|worker|number|num|no)"
    r"(?:[ _.-]|$))+"
)
ASSUMED_MIB = "MiB (no unit is given)"
MOST_MIB, LEAST_TOTAL_MIB = 1 << 20, 512  # of one GPU
# A user's own words -> nvidia-smi's name and its units: all of a header's words but its unit and
# those that say nothing must be in the two sets, and one of each must be there ("": of the second
# none need be).
_SAY_NOTHING = {"gpu", "nvidia", "of", "in", "current", "device"}  # no avg: it may be of GPUs
_SIZES = ("MB", "MiB", "GB", "GiB", "KB", "KiB", "B", ASSUMED_MIB)
_MEMORY = {"mem", "memory", "vram", "fb"}
_LOAD = {"util", "utilization", "utilisation", "usage", "load"}
_PLAIN_WORDS = (
    ("memory.used", _MEMORY, {"used", "usage", "use"}, _SIZES),
    ("memory.total", _MEMORY, {"total", "max", "capacity"}, _SIZES),
    ("memory.free", _MEMORY, {"free"}, _SIZES),
    ("utilization.gpu", _LOAD, {"sm", ""}, ("", "%")),
    ("power.draw", {"power"}, {"draw", "used", "usage", "consumption", ""}, ("", "W")),
    ("temperature.gpu", {"temp", "temperature"}, {"core", ""}, ("", "C")),
    ("clocks.sm", {"clock", "clk", "freq", "frequency"}, {"sm"}, ("", "MHz")),
)
_UNITS = {unit.lower(): unit for unit in (*_SIZES[:-1], "W", "C", "MHz")} | {
    "bytes": "B", "watt": "W", "watts": "W", "celsius": "C", "degc": "C",
    "pct": "%", "percent": "%", "perc": "%",
}  # fmt: skip
_OF_HOST = {"cpu", "ram", "swap", "disk", "rss"}  # beside these, `mem_used` may be the host's
_INDEX = re.compile(r"(?:card)?(?:gpu)?(?:cuda:)?[ #:]*(\d{1,4})[ #:]*", re.ASCII)
_NO_DATA = re.compile(r"\[.*\]|N/A", re.IGNORECASE)
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(?: ?([KMG]?i?B))?", re.ASCII)
# With a decimal comma, beside which a point parts thousands.
_COMMA_NUMBER = re.compile(r"\s*[+-]?(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+)(,\d+)?\s*[A-Za-z%]*\s*")
_FIELD = re.compile(r"([A-Za-z].*?)\s*(?:\[([^\]]*)\]|\(([^()]*)\))?:?")


class DroppedError(ValueError):
    """Why a line gave no sample."""


@dataclass(frozen=True)
class GpuColumns:
    """Where a row's fields stand.

    places: role (timestamp, host, index, uuid, name, used, total, FIGURES) -> position, for those
    that the log has. measures: position -> (name, unit) of each field that may hold one.
    other_indices: positions that may name the same GPU. parting: of columns that may part GPUs
    though nothing says how.
    """

    separator: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    places: dict[str, int]
    measures: dict[int, tuple[str, str]]
    other_indices: tuple[int, ...]
    parting: tuple[int, ...]

    def cell(self, cells: Sequence[str], role: str) -> str:
        """Return a row's cell of some role; '' without such a column, or when it says no data."""
        text = cells[self.places[role]].strip() if role in self.places else ""
        return "" if says_no_data(text) else text

    def settle_index(self, cells: Sequence[str]) -> GpuColumns:
        """Return the columns as a log's first row shows them: a `gpu` that holds a name is none."""
        places, others = dict(self.places), list(self.other_indices)
        cell = self.cell(cells, "index")
        is_name = parse_index(cell) is None and re.search(r"[A-Za-z]{2}", cell)
        if is_name and not {"uuid", "name"} & places.keys():
            places["name"] = places.pop("index")
            if others:
                places["index"] = others.pop(0)
        return replace(self, places=places, other_indices=tuple(others))

    @property
    def has_gpus(self) -> bool:
        """Whether a column says which GPU a row is of."""
        return "index" in self.places or "uuid" in self.places

    @property
    def identities(self) -> list[int]:
        """Where the cells stand that say of which GPU a row is, and its memory.total."""
        roles = ("index", "uuid", "host", "name", "total")
        return [self.places[role] for role in roles if role in self.places] + [*self.other_indices]


@lru_cache
def parse_gpu_header(line: str) -> GpuColumns | None:
    """Return the columns when every field reads as a property's name, else None (a row)."""
    marks = [mark for mark in ",;\t" if mark in line] or [","]
    return next(filter(None, (_parse_header(line, mark) for mark in marks)), None)


def _parse_header(line: str, separator: str) -> GpuColumns | None:
    # A table saved by pandas begins with the rows' numbers, in a column without a name.
    fields = [text.strip() for text in split_fields(line, separator)]
    matches = [_FIELD.fullmatch(text if text or at else "row") for at, text in enumerate(fields)]
    if not all(matches):
        return None
    typed = [match[1] for match in matches]
    told = ["%" if (unit := m[2] or m[3] or "").endswith("%") else unit for m in matches]
    columns = _translate(typed, list(zip(map(str.lower, typed), told, strict=True)))
    names = tuple(name for name, _ in columns)
    usual = {name: unit for pattern, unit in _MEASURES.items()
             for name in names if re.fullmatch(pattern, name)}  # fmt: skip
    if not usual:
        return None
    units = tuple(unit or usual.get(name, "") for name, unit in columns)
    found = {role: [names.index(name) for name in known if name in names]
             for role, known in _ROLES.items()}  # fmt: skip
    places = {role: at[0] for role, at in found.items() if at}
    measures = {}
    for at, name in enumerate(names):  # of a field that stands there twice the first counts
        if name in usual and name not in names[:at] and "reasons" not in name:
            measures[at] = name, units[at]
    parts = [places.get("name"), *(at for at, n in enumerate(names) if PARTING.fullmatch(n))]
    parting = tuple(at for at in parts if at not in (None, places.get("host")))
    return GpuColumns(separator, names, units, places, measures, (*found["index"][1:],), parting)


def _translate(typed: list[str], columns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return nvidia-smi's names and the units of a user's own header, where its words are plain.

    One column must speak of a GPU, else three of a GPU's measures stand there; none of a process.
    typed: the names as they stand; columns: (name, unit), as they are where they stay.
    """
    spaced = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for name in typed]  # memUsedMB
    words = [re.findall(r"[a-z]+", name.lower().replace("%", " pct ")) for name in spaced]
    all_words = {word for each in words for word in each}
    of_gpu = [bool(re.search(r"gpu|vram|\bsm", name)) for name, _ in columns]
    found: list[tuple[str, str] | None] = []
    for (name, unit), said, is_gpus in zip(columns, words, of_gpu, strict=True):
        # A tool's own name stays; gpu0_mem_used is one GPU's column of several.
        is_known = (name in _TOOLS_NAMES and unit != "%") or re.search(r"[.\d]", name)
        may_be_hosts = all_words & _OF_HOST and not is_gpus
        found.append(None if is_known or may_be_hosts else _find_plain(said, unit))
    times = Counter(plain[0] for plain in found if plain)
    found = [plain if plain and times[plain[0]] == 1 else None for plain in found]
    if len(columns) < 2 or all_words & {"pid", "process"} or not (any(of_gpu) or len(times) >= 3):
        return columns
    return [plain or column for plain, column in zip(found, columns, strict=True)]


def _find_plain(words: list[str], unit: str) -> tuple[str, str] | None:
    """Return (nvidia-smi's name, unit) of a header's words, None where they leave it open."""
    told = next((_UNITS[word] for word in reversed(words) if word in _UNITS), "")
    unit = told or _UNITS.get(unit.lower(), unit)
    core = {word for word in words if word not in _UNITS and word not in _SAY_NOTHING}
    if not core and "gpu" in words and unit == "%":
        return "utilization.gpu", unit
    for name, first, second, units in _PLAIN_WORDS:
        if core <= first | second and core & first and (core & second or "" in second):
            if units is _SIZES and not unit and not core & {"usage", "use"}:  # these: a share?
                unit = ASSUMED_MIB
            return (name, unit) if unit in units else None
    return None


def parse_mib(text: str, unit: str) -> int | Decimal:
    """Return a cell in MiB; `unit` is the header's, '' for MiB. The GPU tools' "MB" are MiB too.

    Raises DroppedError, with the reason, when the cell holds no amount.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise DroppedError("no data" if says_no_data(text) else "memory.used is no number")
    unit_of_cell = match[2] or unit or "MiB"
    size = _BYTES.get("MIB" if unit_of_cell == ASSUMED_MIB else unit_of_cell.upper())
    if size is None:
        raise DroppedError("memory.used is in an unknown unit")
    mib = Decimal(match[1])
    if unit == ASSUMED_MIB and not match[2] and (mib != int(mib) or mib > MOST_MIB):
        raise DroppedError("memory.used has no unit")
    if size != _BYTES["MIB"]:
        mib = mib * size / _BYTES["MIB"]
    return int(mib) if mib == int(mib) else mib


def parse_index(cell: str) -> int | None:
    """Return the index in `0`, `card0`, `gpu0`, `GPU 0` or `cuda:0`."""
    match = _INDEX.fullmatch(cell.strip().lower())
    return int(match[1]) if match else None


def says_no_data(text: str) -> bool:
    """Whether a cell is `[N/A]`, `[Not Supported]`, `[Unknown Error]` or `N/A`."""
    return bool(_NO_DATA.fullmatch(text))


def split_fields(line: str, separator: str = ",") -> list[str]:
    """Return a record's fields, quotes taken off; decimal commas become points."""
    fields = line.split(separator)
    if '"' in line:
        try:
            fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
        except (csv.Error, StopIteration):
            return [line]
    found = [_COMMA_NUMBER.fullmatch(field) for field in fields] if separator != "," else []
    if any(match and match[1] for match in found):
        return [field.replace(".", "").replace(",", ".") if match else field
                for field, match in zip(fields, found, strict=True)]  # fmt: skip
    return fields
