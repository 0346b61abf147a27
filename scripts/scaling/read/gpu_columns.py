"""Which column of a GPU monitor's CSV is which: nvidia-smi, amd-smi, rocm-smi, a user's own.

A user's own header is read where its words are plain: `mem_used_MB`, `gpu_util%`.
Sources: `nvidia-smi --help-query-gpu`; amd-smi's `metric --csv` and `monitor --csv` (AMD SMI
CLI, "MB" there are 1024² bytes); `rocm-smi --showmeminfo vram --csv` (bytes, as its header says).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

from scaling.read.columns import BYTES

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
_PLACES = ("timestamp", "host", "index", "uuid", "name", "used", "total")
# What a column is -> the names that the tools give it, the most exact first.
_NAMES = {
    what: names.split(", ")
    for what, names in {
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
_TOOLS_NAMES = frozenset(name for known in _NAMES.values() for name in known)
# A header must name one of these; `gpu` or `time` alone are any program's.
_TELLING = re.compile(
    r"memory\.(?:used|total|free|reserved)|utilization\.\w+|power\.\w+(?:\.\w+)*|temperature\.\w+|"
    r"clocks\.\S+|clocks_\w+\.\S+|fan\.speed|(?:used|free|total)_vram|vram_\w+|vram .*memory|"
    r"gfx(?:_\w+)?|gpu use|gpu memory .*|(?:power_usage|socket_power)"
)
# Their values are names, versions or bit masks, though some look like numbers.
_NO_MEASURE = re.compile(
    r"row|unnamed: 0|(?:gpu_)?name|.*serial|count|driver_version|vbios.*|inforom.*|pci\..*|"
    r".*bus_id|.*bdf|pstate|.*reasons.*|compute_cap|.*\.mode.*|.*_mode|display_\w+|card \w+|"
    r"subsystem id|device (?:rev|id)|node id|guid|gfx version|unique id|xcp|throttle_status"
)
_USUAL_UNITS = {
    re.compile(names): unit
    for names, unit in {
        r"memory\.": "MiB",
        r"vram_percent": "%",
        r"(?:used|free|total)_\w+|vram_\w+": "MB",
        r"power\.|power_usage|socket_power|max_power": "W",
        r"utilization\.|fan\.speed|\w+_(?:util|activity|usage)$|(?:gfx|mem|umc)$": "%",
        r"temperature\.|\w+_temperature|hotspot$|edge$": "C",
        r"clocks\.|\w+_(?:clock|clk)$": "MHz",
        r"\w+_voltage$": "mV",
    }.items()
}
ASSUMED_MIB = "MiB (no unit is given)"
MOST_MIB, LEAST_TOTAL_MIB = 1 << 20, 512  # of one GPU
# A user's own words -> nvidia-smi's name: all of a header's words but its unit and those that say
# nothing must be in the two sets, and one of each must be there ("": none of the second need be).
_FREE_WORDS = {"gpu", "nvidia", "of", "in", "current", "device"}  # no avg: it may be of GPUs
_SIZES = ("MB", "MiB", "GB", "GiB", "KB", "KiB", "B", ASSUMED_MIB)
_MEMORY = {"mem", "memory", "vram", "fb"}
_LOAD = {"util", "utilization", "utilisation", "usage", "load"}
_PLAIN = (
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
# Beside these, `mem_used` may be the host's.
_HOSTS_WORDS = ("cpu", "ram", "swap", "disk", "rss")
_NUMBER_OF_GPUS = re.compile(r"(?:(?:num|n|number)[ _]?(?:of[ _])?gpus?|gpu[ _]?count|gpus|count)")
_PARTING = re.compile(
    r"(?:(?:gpu|device|card|id|idx|slot|bus|minor|serial|rank|local|node|host|worker|number|num|no)"
    r"(?:[ _.-]|$))+"
)
_NO_DATA = re.compile(r"\[.*\]|N/A", re.IGNORECASE)
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(?: ?([KMG]?i?B))?", re.ASCII)
_POINTED = re.compile(r"\s*[1-9]\d{0,2}(?:\.\d{3})+\s*[A-Za-z%]*\s*")
_DECIMAL_COMMA = re.compile(r"^(\s*[+-]?\d+),(\d+\s*[A-Za-z%]*\s*)$")
_FIELD = re.compile(r"([A-Za-z].*?)\s*(?:\[([^\]]*)\]|\(([^()]*)\))?:?")
_SPELLED = re.compile(r"^(memory|utilization|power)[ _](used|total|free|reserved|gpu|draw)$")


class DroppedError(ValueError):
    """Why a line gave no sample."""


@dataclass(frozen=True)
class Columns:
    """Where a row's fields stand; None when the log has no such column.

    `measures` is position -> (name, unit) of each field that may hold a measure; `figures` is
    the name of a sample's figure (FIGURES) -> position. `other_indices` may name the same GPU;
    `date` stands beside a timestamp that is a time of day. `parting` are columns that may part
    GPUs though nothing says how; `numbers_of_gpus` say how many there are.
    """

    separator: str
    units: tuple[str, ...]
    measures: dict[int, tuple[str, str]]
    figures: dict[str, int]
    other_indices: tuple[int, ...]
    parting: tuple[int, ...]
    numbers_of_gpus: tuple[int, ...]
    names: tuple[str, ...]
    timestamp: int | None = None
    host: int | None = None
    index: int | None = None
    uuid: int | None = None
    name: int | None = None
    used: int | None = None
    total: int | None = None
    date: int | None = None

    @property
    def identities(self) -> list[int]:
        """Where the cells stand that say of which GPU a row is, and its memory.total."""
        name = self.name if self.uuid is None else None
        places = (self.index, *self.other_indices, self.uuid, self.host, name, self.total)
        return [at for at in places if at is not None]

    @property
    def has_gpus(self) -> bool:
        """Whether a column says which GPU a row is of."""
        return self.index is not None or self.uuid is not None


def parse_header(line: str) -> Columns | None:
    """Return the columns when every field reads as a property's name, else None (a row)."""
    marks = [mark for mark in ",;\t" if mark in line] or [","]
    return next(filter(None, (_parse_header(line, mark) for mark in marks)), None)


def _parse_header(line: str, separator: str) -> Columns | None:
    fields = [field.strip() for field in split_fields(line, separator)]
    # A table saved by pandas begins with the rows' numbers, in a column without a name.
    matches = [_FIELD.fullmatch(f if f or at else "row") for at, f in enumerate(fields)]
    if not all(matches):
        return None
    columns = []
    for match in matches:
        unit = match[2] or match[3] or ""
        name = match[1].lower()
        name = _SPELLED.sub(r"\1.\2", name) if unit else name  # a unit leaves no doubt
        columns.append((name, "%" if unit.endswith("%") else unit))
    columns = _settle_own_names([match[1] for match in matches], columns)
    names = tuple(name for name, _ in columns)
    if not any(map(_TELLING.fullmatch, names)):
        return None
    units = tuple(unit or _find_usual_unit(name, names) for name, unit in columns)
    found = {what: [names.index(name) for name in known if name in names]
             for what, known in _NAMES.items()}  # fmt: skip
    places = {what: found[what][0] for what in _PLACES if found[what]}
    others = {places.get(what) for what in ("index", "uuid", "host", "timestamp")}
    measures = {
        at: (name, units[at])
        for at, name in enumerate(names)
        # Of a field that stands there twice the first counts.
        if at not in others and not _NO_MEASURE.fullmatch(name) and names.index(name) == at
    }
    if "date" in names and names.index("date") != places["timestamp"]:
        places["date"] = names.index("date")
    parting = {at for at, name in enumerate(names) if _PARTING.fullmatch(name)}
    return Columns(
        separator, units, measures,
        figures={name: found[name][0] for name in FIGURES if found[name]},
        other_indices=tuple(found["index"][1:]),
        parting=tuple(sorted({*parting, places.get("name")} - {None, places.get("host")})),
        numbers_of_gpus=tuple(at for at, n in enumerate(names) if _NUMBER_OF_GPUS.fullmatch(n)),
        names=names,
        **places,
    )  # fmt: skip


def _settle_own_names(raw: list[str], columns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return nvidia-smi's names and the units of a user's own header, where its words are plain.

    One must speak of a GPU, else three of a GPU's measures stand there and nothing of the host.
    raw: as it is typed; columns: (name, unit) of a tool, where they are.
    """
    says_gpu = [bool(re.search(r"gpu|vram|\bsm", name)) for name, _ in columns]
    has_host = any(word in name.lower() for name in raw for word in _HOSTS_WORDS)
    found: list[tuple[str, str] | None] = []
    for typed, (name, unit), of_gpu in zip(raw, columns, says_gpu, strict=True):
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", typed)  # memUsedMB
        words = re.findall(r"[a-z]+", spaced.lower().replace("%", " pct "))
        # A tool's own name stays; gpu0_mem_used is one GPU's column of several.
        is_known = (name in _TOOLS_NAMES and unit != "%") or re.search(r"[.\d]", name)
        may_be_hosts = has_host and not of_gpu
        found.append(None if is_known or may_be_hosts else _find_plain(words, unit))
    times = Counter(plain[0] for plain in found if plain)
    found = [plain if plain and times[plain[0]] == 1 else None for plain in found]
    is_of_gpus = any(says_gpu) or sum(map(bool, found)) >= 3
    is_of_process = any(re.search(r"pid\b|process", name) for name, _ in columns)
    if is_of_process or len(columns) < 2 or not is_of_gpus:
        return columns
    return [plain or column for plain, column in zip(found, columns, strict=True)]


def _find_plain(words: list[str], unit: str) -> tuple[str, str] | None:
    """Return (nvidia-smi's name, unit) of a header's words, None where they leave it open."""
    unit = next((_UNITS[word] for word in reversed(words) if word in _UNITS), "") or unit
    core = {word for word in words if word not in _UNITS and word not in _FREE_WORDS}
    if not core and "gpu" in words and unit == "%":
        return "utilization.gpu", unit
    for name, first, second, units in _PLAIN:
        if core <= first | second and core & first and (core & second or "" in second):
            if units is _SIZES and not unit and not core & {"usage", "use"}:  # these: a share?
                unit = ASSUMED_MIB
            return (name, unit) if unit in units else None
    return None


def _find_usual_unit(name: str, beside: tuple[str, ...]) -> str:
    if name == "mem" and "hotspot" in beside:
        return "C"  # amd-smi metric's temperatures are edge, hotspot, mem; monitor's mem is a load
    return next((unit for pattern, unit in _USUAL_UNITS.items() if pattern.match(name)), "")


def parse_mib(text: str, unit: str) -> int | Decimal:
    """Return a cell in MiB; `unit` is the header's, '' for MiB. The GPU tools' "MB" are MiB too.

    Raises DroppedError, with the reason, when the cell holds no amount.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise DroppedError("no data" if says_no_data(text) else "memory.used is no number")
    unit_of_cell = match[2] or unit or "MiB"
    size = BYTES.get("MIB" if unit_of_cell == ASSUMED_MIB else unit_of_cell.upper())
    if size is None:
        raise DroppedError("memory.used is in an unknown unit")
    mib = Decimal(match[1])
    if unit == ASSUMED_MIB and not match[2] and (mib != int(mib) or mib > MOST_MIB):
        raise DroppedError("memory.used has no unit")
    if size != BYTES["MIB"]:
        mib = mib * size / BYTES["MIB"]
    return int(mib) if mib == int(mib) and (size != BYTES["MIB"] or "." not in match[1]) else mib


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
    if separator != "," and any(map(_DECIMAL_COMMA.match, fields)):
        return [  # beside a decimal comma a point parts thousands
            field.replace(".", "") if _POINTED.fullmatch(field)
            else _DECIMAL_COMMA.sub(r"\1.\2", field)
            for field in fields
        ]  # fmt: skip
    return fields
