"""Which column of a GPU monitor's CSV is which where no header says so."""

import re
from collections.abc import Callable

from scaling.read.gpu_columns import Columns, usual_unit
from scaling.read.times import parse_timestamp

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
    names[memory[0]], units = "memory.used", [usual_unit(name) for name in names]
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
