"""The fast reader of a GPU monitor's CSV: whole blocks of ordinary rows at once.

A block goes this way only when every line of it is a row of exactly the header's shape, as
nearly all are; the others go line by line through the careful reader. Both give the same.
"""

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from scaling.read.gpu_columns import Columns
from scaling.read.gpu_reader import GpuReader
from scaling.read.gpu_series import STEPS_COUNTED
from scaling.read.text import split_block
from scaling.read.times import parse_timestamp

MOST_BEFORE_HEADER = 100  # lines of a block that are read one by one to find it
LEAST_CHARS = 4096  # a block as short as that goes through the careful reader
# nvidia-smi's own, which sorts as text as it does in time. A block is within one day, so that
# its first time says whether the day exists.
_TIME = r"\d{4}/\d\d/\d\d (?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}"
_DAY_CHARS = len("2026/11/21")
_FIELD = r'[^,"\n\0]*+'


class _Shape(NamedTuple):
    """A row's pattern: its groups are the time, the fields from `start` on, and the uuid."""

    rows: re.Pattern
    start: int
    has_uuid: bool


def read_block(reader: GpuReader, block: str) -> None:
    """Let the reader take in a block of lines, by the fast way wherever it can go."""
    lines = 0
    while reader.columns is None and lines < MOST_BEFORE_HEADER and (end := block.find("\n") + 1):
        reader.add(block[: end - 1], True)
        block, lines = block[end:], lines + 1
    if block:
        _read_rows(reader, block)


def _read_rows(reader: GpuReader, block: str) -> None:
    if _take(reader, block):
        return
    if len(block) < LEAST_CHARS:
        for line, has_end in split_block(block):
            reader.add(line, has_end)
        return
    middle = block.find("\n", len(block) // 2) + 1
    if middle in (0, len(block)):
        middle = block.rfind("\n", 0, len(block) // 2) + 1 or len(block)
    if middle == len(block):
        reader.add(*next(split_block(block)))
        return
    _read_rows(reader, block[:middle])
    _read_rows(reader, block[middle:])


def _take(reader: GpuReader, block: str) -> bool:
    """Take in a block of ordinary rows in order of time; of any other, touch nothing."""
    if reader.on_sample or reader.open_lines or reader.columns is None:
        return False
    shape = _make_shape(reader.columns, reader.has_units)
    rows = shape.rows.findall(block) if shape else []
    if not rows or len(rows) != block.count("\n"):
        return False
    times, *keys = zip(*rows, strict=True)
    keys = tuple(zip(*keys, strict=True)) if shape.has_uuid else keys[0]
    if min(times)[:_DAY_CHARS] != max(times)[:_DAY_CHARS] or not parse_timestamp(times[0]):
        return False
    amounts = _read_keys(reader, shape, Counter(keys))
    by_gpu = _part_by_gpu(times, keys, amounts) if amounts else {}
    if not amounts or not all(_is_in_order(reader, gpu, of) for gpu, of in by_gpu.items()):
        return False
    for gpu, used_mib, count in amounts.values():
        reader.series[gpu].counts[used_mib] += count
    for gpu, of in by_gpu.items():
        _add_times(reader, gpu, of)
    if reader.counts_columns:
        _count_columns(reader, block)
    reader.lines += len(rows)
    reader.kept += len(rows)
    reader.has_dates = True
    return True


@lru_cache(maxsize=16)
def _make_shape(columns: Columns, has_units: bool) -> _Shape | None:
    if None in (columns.timestamp, columns.index, columns.memory):
        return None
    wanted = {columns.index, columns.memory, columns.total} - {None}
    start, end = min(wanted), max(wanted)
    if start <= columns.timestamp <= end or (columns.uuid and start <= columns.uuid <= end):
        return None
    if columns.uuid is not None and not columns.timestamp < start < columns.uuid:
        return None
    fields = [_FIELD] * columns.count
    fields[columns.timestamp] = f"({_TIME})"
    fields[columns.index] = r" ?\d{1,4}"
    for at in wanted - {columns.index}:
        fields[at] = r" ?\d{1,9} MiB" if has_units else r" ?\d{1,9}"
    fields[start], fields[end] = f"({fields[start]}", f"{fields[end]})"
    if columns.uuid is not None:
        fields[columns.uuid] = f"({_FIELD})"
    pattern = re.compile(r"^ ?" + ",".join(fields) + r"\n", re.MULTILINE)
    return _Shape(pattern, start, columns.uuid is not None)


def _read_keys(reader: GpuReader, shape: _Shape, counts: Counter) -> dict | None:
    """Return key -> (GPU, MiB, how often); None when one of them is no ordinary row's."""
    columns, amounts = reader.columns, {}
    for key, count in counts.items():
        span, uuid = key if shape.has_uuid else (key, "")
        cells = span.split(",")
        gpu = reader.identify(cells[columns.index - shape.start], uuid.strip())
        used_mib = reader.parse_amount(cells[columns.memory - shape.start].strip())
        total_at = columns.memory if columns.total is None else columns.total
        total_mib = reader.parse_amount(cells[total_at - shape.start].strip())
        if gpu is None or isinstance(used_mib, str) or used_mib > total_mib:
            return None
        amounts[key] = (gpu, used_mib, count)
    return amounts


def _part_by_gpu(times: tuple, keys: tuple, amounts: dict) -> dict[tuple[int, str], list[str]]:
    by_gpu = {gpu: [] for gpu, _, _ in amounts.values()}
    if len(by_gpu) == 1:
        return dict.fromkeys(by_gpu, times)
    take = {key: by_gpu[gpu].append for key, (gpu, _, _) in amounts.items()}
    for time, key in zip(times, keys, strict=True):
        take[key](time)
    return by_gpu


def _count_columns(reader: GpuReader, block: str) -> None:
    cells = list(zip(*(line.split(",") for line in block.split("\n")[:-1]), strict=True))
    for at, measure in reader.measures.items():
        for cell, times in Counter(cells[at]).items():
            measure.add_text(cell, times)


def _is_in_order(reader: GpuReader, gpu: tuple[int, str], times: list[str]) -> bool:
    last = reader.series[gpu].last if gpu in reader.series else None
    is_after = last is None or (last.tzinfo is None and last <= parse_timestamp(times[0]))
    return is_after and list(times) == sorted(times)


def _add_times(reader: GpuReader, gpu: tuple[int, str], times: list[str]) -> None:
    series = reader.series[gpu]
    for time in times:
        if series.steps_counted >= STEPS_COUNTED:
            series.add_span(parse_timestamp(times[-1]))
            return
        series.add_time(parse_timestamp(time))
