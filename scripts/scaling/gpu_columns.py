"""Which column of a GPU monitor's CSV is which: nvidia-smi, amd-smi and rocm-smi.

Sources: `nvidia-smi --help-query-gpu`; amd-smi's `metric --csv` and `monitor --csv` (AMD SMI
CLI, "MB" there are 1024² bytes); `rocm-smi --showmeminfo vram --csv` (bytes, as its header says).
"""

import csv
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from scaling.columns import BYTES, Column
from scaling.times import parse_timestamp

# What nvidia-smi prints in the place of a table (its own wording, several driver versions).
ERROR_TEXT = re.compile(
    r"NVIDIA-SMI has failed|No devices were found|Failed to initialize NVML|"
    r"Unable to determine the device handle|is not a valid field|GPU is lost|"
    r"Insufficient Permissions|Driver/library version mismatch|command not found|"
    r"AMDSMI_STATUS_\w+|ROCk module is NOT loaded|No AMD GPUs",
    re.IGNORECASE,
)
_IDENTITIES = {
    "index": ("index", "gpu", "gpu_index", "device"),
    "uuid": ("uuid", "gpu_uuid", "pci.bus_id", "gpu_bus_id", "gpu_bdf", "bdf", "unique id"),
    "timestamp": ("timestamp", "time", "datetime", "date", "timestamp_utc"),
}
_USED = ("memory.used", "used_vram", "vram_used", "vram total used memory", "vram used memory")
_TOTAL = ("memory.total", "total_vram", "vram_total", "vram total memory")
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
_AMOUNT = re.compile(r"(\d{1,15})(\.\d{1,6})?(?: ?([KMG]?i?B))?")
_FIELD = re.compile(r"([A-Za-z].*?)\s*(?:\[([^\]]*)\]|\(([^()]*)\))?:?")
_SPELLED = re.compile(r"^(memory|utilization|power)[ _](used|total|free|reserved|gpu|draw)$")
# The run contract's order, for a log without a header.
CONTRACT = (
    "timestamp", "index", "name", "memory.used", "memory.total", "utilization.gpu",
    "power.draw", "temperature.gpu", "clocks.sm", "clocks_throttle_reasons.active", "uuid",
)  # fmt: skip
_GPU_NAME = re.compile(r"(?:GPU|MIG)-|[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:")  # uuid, PCI bus id
_WORD = re.compile(r'[\s"#]*[^\W\d]')
_MIB_CELL, _INTEGER = re.compile(r"(\d{1,9}) Mi?B"), re.compile(r"(\d{1,7})")
# A card or a slice of one is sold by these GB, of which its firmware keeps up to a ninth.
_SOLD_GIB = (
    4, 5, 6, 8, 10, 11, 12, 16, 18, 20, 24, 32, 36, 40, 48, 64, 71, 72, 80, 90, 94, 96, 128, 141,
    144, 180, 192, 256, 288,
)  # fmt: skip
_LEAST_SURE_MIB = 100  # a number up to it may be an index or a load in %


class Columns(NamedTuple):
    """Where a row's fields stand; None when the log has no such column."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    memory: int | None
    total: int | None = None
    index: int | None = None
    uuid: int | None = None
    timestamp: int | None = None

    @property
    def count(self) -> int:
        return len(self.names)

    def make_measures(self) -> dict[int, Column]:
        """Return position -> an empty Column for each field that may hold a measure.

        Of a field that stands there twice the first counts.
        """
        identities = (self.index, self.uuid, self.timestamp)
        return {
            at: Column(name, unit)
            for at, (name, unit) in enumerate(zip(self.names, self.units, strict=True))
            if at not in identities
            and not _NO_MEASURE.fullmatch(name)
            and self.names.index(name) == at
        }


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
        _tidy_unit(match[2] or match[3] or "") or _usual_unit(name, names)
        for match, name in zip(matches, names, strict=True)
    )
    return Columns(
        names,
        units,
        _find(names, _USED),
        _find(names, _TOTAL),
        *(_find(names, aliases) for aliases in _IDENTITIES.values()),
    )


def _settle_name(match: re.Match) -> str:
    """Return a field's name; `memory_used [MiB]` is memory.used where a unit leaves no doubt."""
    name = match[1].lower()
    return _SPELLED.sub(r"\1.\2", name) if match[2] or match[3] else name


def _find(names: tuple[str, ...], wanted: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _tidy_unit(unit: str) -> str:
    return "%" if unit.endswith("%") else unit


def _usual_unit(name: str, beside: tuple[str, ...] = ()) -> str:
    if name == "mem" and "hotspot" in beside:
        return "C"  # amd-smi metric's temperatures are edge, hotspot, mem; monitor's mem is a load
    return next((unit for pattern, unit in _USUAL_UNITS if pattern.match(name)), "")


def parse_mib(text: str, unit: str) -> int | float | str:
    """Return a cell in MiB, or why it has none; `unit` is the header's, '' for MiB.

    The GPU tools' "MB" are MiB too.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        return "no data" if says_no_data(text) else "memory.used is no number"
    size = BYTES.get((match[3] or unit or "MiB").upper())
    if size is None:
        return "memory.used is in an unknown unit"
    factor = Fraction(size, BYTES["MIB"])
    if factor == 1:
        return float(match[1] + match[2]) if match[2] else int(match[1])
    mib = factor * (Fraction(match[1] + match[2]) if match[2] else int(match[1]))
    return int(mib) if mib == int(mib) else float(mib)


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


def infer_columns(rows: list[list[str]]) -> Columns | None:
    """Return the columns of a log without a header, from its first rows; None when unsure.

    With units the `MiB` fields are used and total memory, the smaller one first; without
    them a pair of neighbours is sought of which the second never changes and is as large as
    a GPU's memory is, and the first is more than an index or a load could be. Names are the
    run contract's where the row is as long as its rows. A first row of words alone is a
    header whose names are not known: what stands below it is not guessed.
    """
    counts = {len(row) for row in rows}
    if len(counts) != 1 or counts == {1} or not rows:
        return None
    if all(_WORD.match(field) for field in rows[0]):
        return None
    cells = [[field.strip() for field in column] for column in zip(*rows, strict=True)]
    timestamp, uuid = _first(cells, _is_date), _first(cells, _GPU_NAME.match)
    memory = _find_memory_with_unit(cells)
    if memory is None and (timestamp, uuid) != (None, None):
        memory = _find_memory_pair(cells, timestamp)
    if memory is None:
        return None
    index = _first(cells[: memory[0]], lambda cell: re.fullmatch(r"\d{1,2}", cell))
    names = [f"column {at + 1}" for at in range(len(cells))]
    if len(cells) <= len(CONTRACT) and (timestamp, index, memory) == (0, 1, (3, 4)):
        names = list(CONTRACT[: len(cells)])
    names[memory[0]], units = "memory.used", [_usual_unit(name) for name in names]
    units[memory[0]] = "MiB"
    if memory[1] is not None:
        names[memory[1]], units[memory[1]] = "memory.total", "MiB"
    return Columns(tuple(names), tuple(units), *memory, index, uuid, timestamp)


def _first(cells: list[list[str]], fits: Callable[[str], object]) -> int | None:
    """Return the first column of which most cells fit: a few may be damaged."""
    for at, column in enumerate(cells):
        if 2 * sum(bool(fits(cell)) for cell in column) > len(column):
            return at
    return None


def _is_date(cell: str) -> bool:
    return not re.fullmatch(r"\d{1,8}", cell) and parse_timestamp(cell) is not None


def _find_memory_with_unit(cells: list[list[str]]) -> tuple[int, int | None] | None:
    found = [at for at in range(len(cells)) if _first([cells[at]], _MIB_CELL.fullmatch) == 0]
    if len(found) == 1:
        return found[0], None
    if len(found) != 2:
        return None  # memory.free may be among them: which is which is not known
    pairs = _pair_numbers(cells[found[0]], cells[found[1]], _MIB_CELL)
    if all(a <= b for a, b in pairs):
        return found[0], found[1]
    return (found[1], found[0]) if all(a >= b for a, b in pairs) else None


def _find_memory_pair(cells: list[list[str]], timestamp: int | None) -> tuple[int, int] | None:
    for at in range(len(cells) - 1):
        pairs = _pair_numbers(cells[at], cells[at + 1], _INTEGER)
        if timestamp in (at, at + 1) or 2 * len(pairs) <= len(cells[at]):
            continue
        totals, most = {b for _, b in pairs}, max(a for a, _ in pairs)
        is_pair = len(totals) == 1 and _LEAST_SURE_MIB < most <= min(totals)
        if is_pair and _is_size_of_gpu(min(totals)):
            return at, at + 1
    return None


def _is_size_of_gpu(mib: int) -> bool:
    return any(8 / 9 * size < mib / 1024 <= size for size in _SOLD_GIB)


def _pair_numbers(first: list[str], second: list[str], number: re.Pattern) -> list[tuple[int, int]]:
    pairs = zip(map(number.fullmatch, first), map(number.fullmatch, second), strict=True)
    return [(int(a[1]), int(b[1])) for a, b in pairs if a and b]
