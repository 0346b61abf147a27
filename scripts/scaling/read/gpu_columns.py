"""Which column of a GPU monitor's CSV is which: nvidia-smi, amd-smi and rocm-smi.

Sources: `nvidia-smi --help-query-gpu`; amd-smi's `metric --csv` and `monitor --csv` (AMD SMI
CLI, "MB" there are 1024² bytes); `rocm-smi --showmeminfo vram --csv` (bytes, as its header says).
"""

from __future__ import annotations

import csv
import re
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
# What a column is -> the names that the tools give it, the most exact first.
_NAMES = {
    "timestamp": ("timestamp", "time", "datetime", "date", "timestamp_utc"),
    "host": ("hostname", "host", "node"),
    "index": ("index", "gpu_index", "gpu_id", "gpu", "device"),
    "uuid": ("uuid", "gpu_uuid", "pci.bus_id", "gpu_bus_id", "gpu_bdf", "bdf", "unique id"),
    "name": ("name", "gpu_name"),
    "used": ("memory.used", "used_vram", "vram_used", "vram total used memory", "vram used memory"),
    "total": ("memory.total", "total_vram", "vram_total", "vram total memory"),
}
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
_NO_DATA = re.compile(r"\[.*\]|N/A", re.IGNORECASE)
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(?: ?([KMG]?i?B))?", re.ASCII)
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

    @property
    def count(self) -> int:
        return len(self.names)

    @property
    def identities(self) -> list[int]:
        """Where the cells stand that say of which GPU a row is, and its memory.total."""
        places = (self.index, *self.other_indices, self.uuid, self.host, self.total)
        return [at for at in places if at is not None]


def parse_header(line: str) -> Columns | None:
    """Return the columns when every field reads as a property's name, else None (a row)."""
    fields = [field.strip() for field in split_fields(line)]
    # A table saved by pandas begins with the rows' numbers, in a column without a name.
    matches = [_FIELD.fullmatch(f if f or at else "row") for at, f in enumerate(fields)]
    if not all(matches):
        return None
    names = tuple(_settle_name(match) for match in matches)
    if not any(_TELLING.fullmatch(name) for name in names):
        return None
    units = tuple(
        _tidy_unit(match[2] or match[3] or "") or _find_usual_unit(name, names)
        for match, name in zip(matches, names, strict=True)
    )
    places = {what: _find(names, known) for what, known in _NAMES.items()}
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
    return Columns(names, units, measures, figures, **places, other_indices=tuple(indices[1:]))


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
    size = BYTES.get((match[2] or unit or "MiB").upper())
    if size is None:
        raise ValueError("memory.used is in an unknown unit")
    mib = Decimal(match[1])
    if size != BYTES["MIB"]:
        mib = mib * size / BYTES["MIB"]
    return int(mib) if mib == int(mib) and (size != BYTES["MIB"] or "." not in match[1]) else mib


def says_no_data(text: str) -> bool:
    """Whether a cell is `[N/A]`, `[Not Supported]`, `[Unknown Error]` or `N/A`."""
    return bool(_NO_DATA.fullmatch(text))


def split_fields(line: str) -> list[str]:
    """Return a record's fields, quotes taken off."""
    if '"' in line:
        try:
            return next(csv.reader([line], skipinitialspace=True))
        except (csv.Error, StopIteration):
            return [line]
    return line.split(",")
