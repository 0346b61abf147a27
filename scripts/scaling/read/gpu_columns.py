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
from functools import cached_property

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
# What a column is -> the names that the tools give it, the most exact first.
_NAMES = {
    "timestamp": ("timestamp", "time", "datetime", "timestamp_utc", "time_utc", "elapsed_sec",
                  "elapsed_s", "elapsed", "seconds", "time_s", "time_sec", "t", "t_s", "ts",
                  "t_wall", "wall_time", "date"),
    "host": ("hostname", "host", "node", "node_name", "nodename"),
    "index": ("index", "gpu_index", "gpu_id", "gpuid", "gpu_idx", "device_id", "device_index",
              "gpu", "device"),
    "uuid": ("uuid", "gpu_uuid", "pci.bus_id", "gpu_bus_id", "gpu_bdf", "bdf", "unique id"),
    "name": ("name", "gpu_name", "device_name", "gpu_model", "gpu_type"),
    "used": ("memory.used", "used_vram", "vram_used", "vram total used memory",
             "vram used memory"),
    "total": ("memory.total", "total_vram", "vram_total", "vram total memory"),
}  # fmt: skip
# A figure of a sample -> likewise.
FIGURES = {
    "utilization_pct": ("utilization.gpu", "gfx_activity", "gfx", "gpu use"),
    "power_w": ("power.draw", "power.draw.instant", "power.draw.average", "power_usage",
                "socket_power", "average graphics package power",
                "current socket graphics package power"),
    "temperature_c": ("temperature.gpu", "hotspot_temperature", "hotspot",
                      "temperature (sensor junction)"),
    "sm_clock_mhz": ("clocks.sm", "clocks.current.sm", "gfx_clock", "gfx_clk"),
    "throttle_mask": ("clocks_throttle_reasons.active", "clocks_event_reasons.active"),
}  # fmt: skip
_TOOLS_NAMES = frozenset(name for known in (*_NAMES.values(), *FIGURES.values()) for name in known)
# A header must name one of these; `gpu` or `time` alone are any program's.
_TELLING = re.compile(
    r"memory\.(?:used|total|free|reserved)|utilization\.\w+|power\.\w+(?:\.\w+)*|temperature\.\w+|"
    r"clocks\.\S+|clocks_\w+\.\S+|fan\.speed|(?:used|free|total)_vram|vram_\w+|vram .*memory|"
    r"gfx(?:_\w+)?|gpu use|gpu memory .*|(?:power_usage|socket_power)"
)
# Their values are names, versions or bit masks, though some look like numbers.
_NO_MEASURE = re.compile(
    r"row|unnamed: 0|(?:gpu_)?name|.*serial|count|driver_version|vbios.*|inforom.*|pci\..*|"
    r".*bus_id|.*bdf|pstate|"
    r".*reasons.*|compute_cap|.*\.mode.*|.*_mode|display_\w+|card \w+|subsystem id|"
    r"device (?:rev|id)|node id|guid|gfx version|unique id|xcp|throttle_status"
)
_USUAL_UNITS = (
    (re.compile(r"memory\."), "MiB"),
    (re.compile(r"vram_percent"), "%"),
    (re.compile(r"(?:used|free|total)_\w+|vram_\w+"), "MB"),
    (re.compile(r"power\.|power_usage|socket_power|max_power"), "W"),
    (re.compile(r"utilization\.|fan\.speed|\w+_(?:util|activity|usage)$|(?:gfx|mem|umc)$"), "%"),
    (re.compile(r"temperature\.|\w+_temperature|hotspot$|edge$"), "C"),
    (re.compile(r"clocks\.|\w+_(?:clock|clk)$"), "MHz"),
    (re.compile(r"\w+_voltage$"), "mV"),
)
ASSUMED_MIB = "MiB (no unit is given)"
MOST_MIB, LEAST_TOTAL_MIB = 1 << 20, 512  # of one GPU
# A user's own words -> nvidia-smi's name: all of a header's words but its unit and those that say
# nothing must be in the first set, and one of each of the others must be there.
_FREE_WORDS = {"gpu", "nvidia", "of", "in", "current", "device"}  # no avg: it may be of GPUs
_SIZES = ("MB", "MiB", "GB", "GiB", "KB", "KiB", "B", ASSUMED_MIB)
_MEMORY = frozenset({"mem", "memory", "vram", "fb"})
_PLAIN = (
    ("memory.used", _MEMORY, {"used", "usage", "use"}, _SIZES),
    ("memory.total", _MEMORY, {"total", "max", "capacity"}, _SIZES),
    ("memory.free", _MEMORY, {"free"}, _SIZES),
    ("utilization.gpu", {"util", "utilization", "utilisation", "usage", "load"}, {"sm", ""}, "%"),
    ("power.draw", {"power"}, {"draw", "used", "usage", "consumption", ""}, "W"),
    ("temperature.gpu", {"temp", "temperature"}, {"core", ""}, "C"),
    ("clocks.sm", {"clock", "clk", "freq", "frequency"}, {"sm"}, ("MHz",)),
)  # fmt: skip
_UNITS = {
    "mb": "MB", "mib": "MiB", "gb": "GB", "gib": "GiB", "kb": "KB", "kib": "KiB", "bytes": "B",
    "b": "B", "w": "W", "watt": "W", "watts": "W", "c": "C", "celsius": "C", "degc": "C",
    "pct": "%", "percent": "%", "perc": "%", "mhz": "MHz",
}  # fmt: skip
# Beside these, `mem_used` may be the host's; a column that has one of the last may part GPUs.
_HOSTS_WORDS = {"cpu", "ram", "swap", "disk", "rss"}
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


@dataclass(frozen=True)
class Columns:
    """Where a row's fields stand; None when the log has no such column.

    `measures` is position -> (name, unit) of each field that may hold a measure; `figures` is
    the name of a sample's figure (FIGURES) -> position.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    measures: dict[int, tuple[str, str]]
    figures: dict[str, int]
    used: int | None = None
    total: int | None = None
    index: int | None = None
    uuid: int | None = None
    host: int | None = None
    name: int | None = None
    timestamp: int | None = None
    other_indices: tuple[int, ...] = ()  # columns that may name the same GPU's index
    date: int | None = None  # beside a timestamp that is a time of day
    separator: str = ","

    @property
    def count(self) -> int:
        return len(self.names)

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

    @cached_property
    def numbers_of_gpus(self) -> list[int]:
        """Where a row says how many GPUs there are."""
        return [at for at, name in enumerate(self.names) if _NUMBER_OF_GPUS.fullmatch(name)]

    @cached_property
    def parting(self) -> list[int]:
        """Columns that may part GPUs, though nothing says how."""
        named = (at for at, name in enumerate(self.names) if _PARTING.fullmatch(name))
        return sorted({*named, self.name} - {None, self.host})


def parse_header(line: str) -> Columns | None:
    """Return the columns when every field reads as a property's name, else None (a row)."""
    return next(filter(None, (_parse_header(line, mark) for mark in ",;\t" if mark in line)),
                None if "," in line else _parse_header(line, ","))  # fmt: skip


def _parse_header(line: str, separator: str) -> Columns | None:
    fields = [field.strip() for field in split_fields(line, separator)]
    # A table saved by pandas begins with the rows' numbers, in a column without a name.
    matches = [_FIELD.fullmatch(f if f or at else "row") for at, f in enumerate(fields)]
    if not all(matches):
        return None
    names = [_settle_name(match) for match in matches]
    units = [_tidy_unit(match[2] or match[3] or "") for match in matches]
    own_names, units = _settle_own_names([match[1] for match in matches], names, units)
    names = tuple(own_names)
    if not any(_TELLING.fullmatch(name) for name in names):
        return None
    units = tuple(
        unit or _find_usual_unit(name, names) for name, unit in zip(names, units, strict=True)
    )
    places = {what: _find(names, known) for what, known in _NAMES.items()}
    date = _find(names, ("date",))
    identities = {places[what] for what in ("index", "uuid", "host", "timestamp")}
    measures = {
        at: (name, unit)
        for at, (name, unit) in enumerate(zip(names, units, strict=True))
        # Of a field that stands there twice the first counts.
        if at not in identities and not _NO_MEASURE.fullmatch(name) and names.index(name) == at
    }
    figures = {figure: _find(names, known) for figure, known in FIGURES.items()}
    figures = {figure: at for figure, at in figures.items() if at is not None}
    indices = [names.index(name) for name in _NAMES["index"] if name in names]
    date = date if date != places["timestamp"] else None
    return Columns(names, units, measures, figures, **places, other_indices=tuple(indices[1:]),
                   date=date, separator=separator)  # fmt: skip


def _settle_own_names(
    raw: list[str], names: list[str], units: list[str]
) -> tuple[list[str], list[str]]:
    """Return nvidia-smi's names and the units of a user's own header, where its words are plain.

    One must speak of a GPU, else three of a GPU's measures stand there and nothing of the host.
    raw: as it is typed; names: of a tool, where they are.
    """
    spaced = (re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for name in raw)  # memUsedMB
    words = [re.findall(r"[a-z]+", name.lower().replace("%", " pct ")) for name in spaced]
    # Of a tool's own name nothing is to be found; gpu0_mem_used is one GPU's column of several.
    known = [
        (name in _TOOLS_NAMES and unit != "%") or re.search(r"[.\d]", name)
        for name, unit in zip(names, units, strict=True)
    ]
    words = [[] if is_known else each for each, is_known in zip(words, known, strict=True)]
    found = [_find_plain(each, unit) for each, unit in zip(words, units, strict=True)]
    has_host = any(word in name.lower() for name in raw for word in _HOSTS_WORDS)
    says_gpu = [bool(re.search(r"gpu|vram|\bsm", name)) for name in names]
    settled = [
        plain if plain and (of_gpu or not has_host) else None
        for plain, of_gpu in zip(found, says_gpu, strict=True)
    ]
    times = Counter(plain[0] for plain in settled if plain)
    settled = [plain if plain and times[plain[0]] == 1 else None for plain in settled]
    measures = {plain[0] for plain in settled if plain}
    is_of_process = any(re.search(r"pid\b|process", name) for name in names)
    if is_of_process or len(names) < 2 or not (any(says_gpu) or len(measures) >= 3):
        return names, units
    return (
        [plain[0] if plain else name for plain, name in zip(settled, names, strict=True)],
        [plain[1] if plain else unit for plain, unit in zip(settled, units, strict=True)],
    )


def _find_plain(words: list[str], unit: str) -> tuple[str, str] | None:
    """Return (nvidia-smi's name, unit) of a header's words, None where they leave it open."""
    unit = next((_UNITS[word] for word in reversed(words) if word in _UNITS), "") or unit
    core = {word for word in words if word not in _UNITS and word not in _FREE_WORDS}
    if not core and "gpu" in words and unit == "%":
        return "utilization.gpu", unit
    for name, first, second, known_units in _PLAIN:
        if core <= first | second and core & first and (core & second or "" in second):
            if known_units is _SIZES and not unit and not core & {"usage", "use"}:  # a share?
                unit = ASSUMED_MIB
            return (name, unit) if unit in ("", *known_units) and (
                unit or known_units is not _SIZES) else None  # fmt: skip
    return None


def _settle_name(match: re.Match) -> str:
    """Return a field's name; `memory_used [MiB]` is memory.used where a unit leaves no doubt."""
    name = match[1].lower()
    return _SPELLED.sub(r"\1.\2", name) if match[2] or match[3] else name


def _find(names: tuple[str, ...], wanted: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _tidy_unit(unit: str) -> str:
    return "%" if unit.endswith("%") else unit


def _find_usual_unit(name: str, beside: tuple[str, ...]) -> str:
    if name == "mem" and "hotspot" in beside:
        return "C"  # amd-smi metric's temperatures are edge, hotspot, mem; monitor's mem is a load
    return next((unit for pattern, unit in _USUAL_UNITS if pattern.match(name)), "")


def parse_mib(text: str, unit: str) -> int | Decimal:
    """Return a cell in MiB; `unit` is the header's, '' for MiB. The GPU tools' "MB" are MiB too.

    Raises ValueError, with the reason, when the cell holds no amount.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError("no data" if says_no_data(text) else "memory.used is no number")
    unit_of_cell = match[2] or unit or "MiB"
    size = BYTES.get("MIB" if unit_of_cell == ASSUMED_MIB else unit_of_cell.upper())
    if size is None:
        raise ValueError("memory.used is in an unknown unit")
    mib = Decimal(match[1])
    if unit == ASSUMED_MIB and not match[2] and (mib != int(mib) or mib > MOST_MIB):
        raise ValueError("memory.used has no unit")
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
    if separator != ",":
        points = [_DECIMAL_COMMA.sub(r"\1.\2", field) for field in fields]
        if points != fields:  # beside a decimal comma a point parts thousands
            points = [
                old.replace(".", "") if _POINTED.fullmatch(old) else new
                for old, new in zip(fields, points, strict=True)
            ]
        return points
    return fields
