"""Read a GPU monitor's CSV log: peak, average and mode of the used memory, per GPU.

Written by `nvidia-smi --query-gpu=timestamp,index,…,memory.used,… --format=csv[,nounits]
--loop=5`, or by amd-smi or rocm-smi with --csv (see gpu_columns). Streamed with the standard
library alone: a long job's log never sits in memory, and the commands that a job runs at its
end start at once. Every line is kept, dropped with a reason or ignored by a named rule.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate, compress
from operator import le
from pathlib import Path

from common.console import shorten
from common.counts import LineCounts, list_reasons
from common.errors import UserError
from common.rounding import round_half_even
from scaling.read.columns import Column, finite_float, plain_number
from scaling.read.gpu_columns import (
    ASSUMED_MIB,
    ERROR_TEXT,
    LEAST_TOTAL_MIB,
    LOG_COMMAND,
    Columns,
    parse_header,
    parse_mib,
    says_no_data,
    split_fields,
)
from scaling.read.text import read_blocks
from scaling.read.times import parse_timestamp, seconds_between

NOT_OWN = "a GPU that is not the job's"
NOT_ASKED_FOR = "a GPU that was not asked for"
_FIGURES = ("utilization_pct", "power_w", "temperature_c", "sm_clock_mhz")
FLOATS = ("elapsed_s", "used_mib", "total_mib", *_FIGURES, "throttle_mask")
SAMPLES = ("gpu", *FLOATS)
MOST_REMEMBERED = 100_000  # cells of one measure
STEPS_COUNTED = 20  # the usual step between samples is that of the first ones
NAN = math.nan
FEW_LINES = 8  # are read one by one
# nvidia-smi's own times, but for their milliseconds, as nearly all logs have them.
_NVIDIA_SECOND = re.compile(r" *\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.", re.ASCII)
_CLOCK = re.compile(r"(\d\d):(\d\d):(\d\d(?:\.\d+)?)")
_SHORTEST_S = 0.05  # between two rows of one GPU
_MILLISECONDS = frozenset(f"{n:03d}" for n in range(1000))


@dataclass(frozen=True)
class GpuUse:
    """One GPU over a log: n samples of its used memory; peak, average and mode in MiB.

    `uuid`, `name` and `host` are '' when the log has no such column; without an index column
    `index` is the order of appearance, 0 for the only GPU of a log that names none. `rows` are the
    lines kept of it, among them those that hold no memory but other figures. `covered_s` is the
    time between the first and the last sample (backward steps of the clock left out) and
    `interval_s` the usual step; None without readable timestamps. `columns` is name ->
    Column of its measures, when they were asked for.
    """

    index: int
    uuid: str
    name: str
    host: str
    n: int
    rows: int
    peak_mib: int | Decimal | None
    average_mib: Decimal | None
    mode_mib: int | Decimal | None
    first: datetime | None
    last: datetime | None
    covered_s: float | None
    interval_s: float | None
    columns: dict[str, Column] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`GPU 0`, with its host where the log names hosts."""
        return f"{self.host + ' ' if self.host else ''}GPU {self.index}"

    def to_record(self) -> dict:
        """Return what JSON shows of its memory; `host` only where the log names hosts."""
        record = {"index": self.index, "uuid": self.uuid or None, "n": self.n}
        record["peak_mib"] = plain_number(self.peak_mib)
        record["avg_mib"] = None if self.average_mib is None else finite_float(self.average_mib)
        record["mode_mib"] = plain_number(self.mode_mib)
        return record | ({"host": self.host} if self.host else {})


@dataclass(frozen=True)
class GpuLog:
    """One node's GPU log: its GPUs by rising index, and where each of its lines went.

    `problem` says why there is no GPU, else it is None. `columns` is name -> Column over all
    GPUs, when they were asked for. `samples` (None unless asked for) is name (SAMPLES) -> an
    array with one entry per kept row: `gpu` is a position in `gpus`; the others are floats, nan
    when missing. `elapsed_s` counts from `start`, the log's first timestamp (as logged: often
    local time without a zone); a time that has a zone where the first has none is missing.
    """

    path: Path
    gpus: tuple[GpuUse, ...]
    counts: LineCounts
    problem: str | None
    columns: dict[str, Column] = field(default_factory=dict)
    samples: dict[str, array] | None = None
    start: datetime | None = None

    @property
    def first(self) -> datetime | None:
        return self.gpus[0].first if self.gpus else None

    @property
    def last(self) -> datetime | None:
        return self.gpus[-1].last if self.gpus else None

    def keep_gpus(self, uuids: Iterable[object]) -> GpuLog:
        """Return the log of the GPUs that run.json names as the job's; others are ignored.

        All stay when none of them is in the log: of a slice of a GPU the two tools name
        different things.
        """
        named = {_tidy_uuid(uuid) for uuid in uuids if uuid}
        own = [_tidy_uuid(gpu.uuid) in named for gpu in self.gpus]
        return self.select(own, NOT_OWN) if any(own) else self

    def select(self, wanted: list[bool], rule: str) -> GpuLog:
        """Return the log with some of its GPUs; the rows of the others are ignored by a rule."""
        gpus = tuple(gpu for gpu, stays in zip(self.gpus, wanted, strict=True) if stays)
        others = sum(gpu.rows for gpu in self.gpus) - sum(gpu.rows for gpu in gpus)
        if len(gpus) == len(self.gpus):
            return self
        counts = replace(
            self.counts,
            kept=self.counts.kept - others,
            ignored=self.counts.ignored + Counter({rule: others}),
        )
        samples = self.samples and _select_samples(self.samples, wanted)
        return replace(
            self, gpus=gpus, counts=counts, columns=_merge_columns(gpus), samples=samples
        )


def _tidy_uuid(uuid: object) -> str:
    return str(uuid).strip().lower().removeprefix("gpu-")


def _select_samples(samples: dict, wanted: list[bool]) -> dict:
    stays = [wanted[gpu] for gpu in samples["gpu"]]
    found = {name: array(old.typecode, compress(old, stays)) for name, old in samples.items()}
    positions = list(accumulate(wanted))  # of the GPUs that stay, from 1
    found["gpu"] = array("l", (positions[gpu] - 1 for gpu in found["gpu"]))
    return found


def _merge_columns(gpus: Iterable[GpuUse]) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for gpu in gpus:
        for name, column in gpu.columns.items():
            found.setdefault(name, Column(name, column.unit)).merge(column)
    return found


def read_gpu_log(
    path: Path, gpus: Iterable[str] = (), samples: bool = False, columns: bool = False
) -> GpuLog:
    """Return what one node's log says of each GPU's used memory, in MiB.

    gpus: the indices or uuids wanted; rows of others are ignored by that rule. Without it all
    count. columns: count every measure, and take rows and logs without memory.used too.
    samples: keep every row's figures as well, so memory grows with the log.
    Read: any columns in any order below a header, parted by a comma, a semicolon or a tab; values
    with units or without; repeated headers; CRLF; UTF-16 with a byte order mark. GPUs are told
    apart by host, index and uuid (the name, where there is no uuid). A log without index and uuid
    is of one GPU per host when it has one row per time and no other column that may part GPUs.
    Dropped: a last line without its end (a cut number is never a shorter number), rows with
    another number of fields, NUL bytes, error texts, `[N/A]` (no data, never 0).
    A log without any sample is returned with `problem` set. Raises UserError, with the command
    that logs what is needed, when the file is no such CSV, has no header, or no column tells
    its GPUs apart. Source: nvidia-smi --help-query-gpu.
    """
    reader = _Reader(Path(path), samples, columns)
    for lines, have_ends in read_blocks(path):
        reader.add_lines(lines, have_ends)
    return reader.finish(tuple(gpus))


class _Dropped(Exception):
    """Why a line gave no sample."""


class _Gpu:
    """What is collected of one GPU: how often each amount was seen, never the rows."""

    def __init__(self, position: int, host: str, index: int, uuid: str, name: str):
        self.position = position  # by first appearance
        self.clock_s: float | None = None  # of the last row, in a log that names no GPU
        self.gaps_ms: Counter[int] = Counter()  # between its rows, likewise
        self.identity = (host, index, uuid, "" if uuid else name)
        self.name = name
        self.total_mib: int | Decimal | float = math.inf
        self.used_mib: Counter[int | Decimal] = Counter()  # MiB -> samples
        self.rows_without_memory = 0
        self.measures: dict[int, tuple[str, str]] = {}  # position -> (name, unit)
        self.cells: dict[int, dict[str, int]] = {}  # position -> the measure, as printed -> rows
        self.columns: dict[str, Column] = {}
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.newest = ""  # as printed; later than `last` by rows whose times only rose
        self.covered = timedelta()
        self.steps: Counter[int] = Counter()  # tenths of a second between the first samples
        self.steps_counted = 0

    def add_time(self, when: datetime) -> None:
        if self.first is None:
            self.first = when
        elif (step_s := seconds_between(self.last, when)) > 0:
            self.covered += when - self.last
            if self.steps_counted < STEPS_COUNTED:
                self.steps[int(step_s * 10 + 0.5)] += 1
                self.steps_counted += 1
        self.last = when

    def catch_up(self) -> None:
        """Take in the newest of the times that only rose since `last`."""
        if self.newest:
            self.add_time(parse_timestamp(self.newest.strip()))
            self.newest = ""

    def add_clock(self, clock_s: float) -> None:
        if self.clock_s is not None and len(self.gaps_ms) < MOST_REMEMBERED:
            self.gaps_ms[round((clock_s - self.clock_s) % 86400 * 1000)] += 1
        self.clock_s = clock_s

    @property
    def may_be_several(self) -> bool:
        """Whether rows come in rounds, as several GPUs' do: some gaps far below the usual one."""
        gaps = sorted(self.gaps_ms.elements())
        if not gaps:
            return False
        short_ms = max(gaps[int(0.95 * (len(gaps) - 1))] / 4, _SHORTEST_S * 1000)
        return sum(gap < short_ms for gap in gaps) > 0.05 * len(gaps)

    def see_cells(self, cells: list[str]) -> None:
        for at, seen in self.cells.items():
            seen[cells[at]] += 1
            if len(seen) > MOST_REMEMBERED:
                self.count_cells()

    def see_rows(self, columns: list[tuple[str, ...]]) -> None:
        """See many rows at once, each column being the cells of all of them."""
        for at, seen in self.cells.items():
            for cell, times in Counter(columns[at]).items():
                seen[cell] += times
            if len(seen) > MOST_REMEMBERED:
                self.count_cells()

    def count_cells(self) -> None:
        """Add up the measures that were seen as they are printed."""
        for at, seen in self.cells.items():
            name, unit = self.measures[at]
            column = self.columns.setdefault(name, Column(name, unit))
            for cell, times in seen.items():
                column.add_text(cell, times)
            seen.clear()

    def summarise(self) -> GpuUse:
        host, index, uuid, _ = self.identity
        counts = self.used_mib
        n, most = sum(counts.values()), max(counts.values(), default=0)
        total_mib = Decimal(sum(mib * times for mib, times in counts.items()))
        usual_step = max(self.steps, key=lambda step: (self.steps[step], -step), default=None)
        return GpuUse(
            index=index,
            uuid=uuid,
            name=self.name,
            host=host,
            n=n,
            rows=n + self.rows_without_memory,
            peak_mib=max(counts, default=None),
            average_mib=total_mib / n if n else None,
            # Of several most frequent values the smallest, as pandas' Series.mode()[0].
            mode_mib=min((mib for mib, times in counts.items() if times == most), default=None),
            first=self.first,
            last=self.last,
            covered_s=None if self.first is None else self.covered.total_seconds(),
            interval_s=None if usual_step is None else usual_step / 10,
            columns=self.columns,
        )


class _Reader:
    """Takes the lines of a log in; holds what was seen of each GPU and where each line went."""

    def __init__(self, path: Path, samples: bool, columns: bool):
        self.path = path
        self.counts = LineCounts()
        self.columns: Columns | None = None
        self.counts_columns = columns
        self.wants_columns = columns or samples
        self.samples: dict[str, array] | None = None
        if samples:
            self.samples = {"gpu": array("l"), **{name: array("d") for name in FLOATS}}
        self.gpus: dict[tuple[str, int, str, str], _Gpu] = {}
        self.parting: dict[int, str] = {}  # position -> the only cell that it may hold
        self.rows_below_header = 0
        self.known: dict[tuple[str, ...], _Gpu] = {}  # cells that name it -> a GPU seen often
        self.has_units = self.has_times = False
        self.start: datetime | None = None
        self.first_text = ""

    def add_lines(self, lines: list[str], have_ends: bool) -> None:
        """Take lines in."""
        self.counts.lines += len(lines)
        if not have_ends:
            self.counts.dropped["cut: the last line has no end"] += 1
            return
        if not lines[0][:1].isdigit():  # a header: its names hold marks that no plain row does
            self._add_line(lines[0])
            lines = lines[1:]
        text = "".join(lines)
        # int() also takes 1_000 and digits of other scripts; quotes and NUL need a look by line.
        if text.isascii() and not any(mark in text for mark in '"\0_+'):
            self._take(lines)
        else:
            for line in lines:
                self._add_line(line)

    def _take(self, lines: list[str]) -> None:
        """Take lines in together when all are plain rows, else in halves; a few one by one.

        A plain row is one of a known GPU, with its amount and its time as nvidia-smi prints them.
        """
        columns = self.columns
        may_be_plain = columns is not None and columns.has_gpus and columns.separator == ","
        if not may_be_plain or columns.timestamp is None or len(lines) <= FEW_LINES:
            for line in lines:
                self._add_line(line)
        elif not (self.known and self._take_plain([line.split(",") for line in lines])):
            middle = len(lines) // 2
            self._take(lines[:middle])
            self._take(lines[middle:])

    def _take_plain(self, rows: list[list[str]]) -> bool:
        """Take rows in column by column; return False, with nothing taken, if one is not plain."""
        columns = self.columns
        if set(map(len, rows)) != {columns.count}:
            return False
        names = zip(*([row[at] for row in rows] for at in columns.identities), strict=True)
        gpus = list(map(self.known.get, names))
        stamps = [row[columns.timestamp] for row in rows]
        newest = max(gpu.newest for gpu in self.known.values())
        if None in gpus or not _are_plain_times(newest, stamps):
            return False
        cells = [row[columns.used] for row in rows]
        used_mib = _parse_plain_amounts(cells, " MiB" if self.has_units else "")
        by_gpu: dict[_Gpu, list[int]] = {gpu: [] for gpu in self.known.values()}
        for gpu, mib in zip(gpus, used_mib, strict=False):
            by_gpu[gpu].append(mib)
        if not used_mib or any(max(own, default=0) > gpu.total_mib for gpu, own in by_gpu.items()):
            return False
        for gpu, own in by_gpu.items():
            gpu.used_mib.update(own)
        for gpu, stamp in dict(zip(gpus, stamps, strict=True)).items():
            gpu.newest = stamp
            if self.counts_columns:
                own = [row for row, of in zip(rows, gpus, strict=True) if of is gpu]
                gpu.see_rows(list(zip(*own, strict=True)))
        if self.samples is not None:
            self._keep_plain(gpus, used_mib, list(zip(*rows, strict=True)))
        return True

    def _add_line(self, line: str) -> None:
        """Take one whole line in, whatever it is."""
        try:
            if not line.strip():
                self.counts.ignored["blank"] += 1
            elif "\0" in line:
                raise _Dropped("NUL bytes")
            elif '"' in line and line.count('"') % 2:
                raise _Dropped("a quote is not closed")
            elif not line[0].isdigit() and (columns := parse_header(line)):
                self._begin(columns)
            else:
                self._add_row(line)
        except _Dropped as reason:
            self.counts.dropped[str(reason)] += 1

    def _begin(self, columns: Columns) -> None:
        """Go on below a header: the first one, a repeated one, or one of other columns."""
        self.counts.ignored["repeated header" if self.columns else "header"] += 1
        if columns.used is None and not self.wants_columns:
            percent = ", ".join(name for name in columns.names if "vram" in name)
            only = f"{percent} alone gives no MiB" if percent else "it has no column memory.used"
            raise UserError(
                f"{self.path}: not a log of GPU memory: {only}; log it with `{LOG_COMMAND}`"
            )
        self.rows_below_header = 0
        for gpu in self.gpus.values():
            gpu.catch_up()
            gpu.count_cells()
        self.known.clear()
        self.columns, self.has_units = columns, False
        for gpu in self.gpus.values():
            self._count_measures(gpu)

    def _count_measures(self, gpu: _Gpu) -> None:
        if self.counts_columns:
            gpu.measures = self.columns.measures
            gpu.cells = {at: defaultdict(int) for at in gpu.measures}

    def _refuse_gpus(self, why: str) -> UserError:
        return UserError(
            f"{self.path}: its GPUs cannot be told apart: {why}; log them with `{LOG_COMMAND}`"
        )

    def _add_row(self, line: str) -> None:
        self.first_text = self.first_text or shorten(line)
        columns = self.columns
        cells = split_fields(line, columns.separator if columns else ",")
        if columns is None or len(cells) != columns.count:
            if ERROR_TEXT.search(line) or (columns and len(cells) == 1):
                raise _Dropped("error text")
            raise _Dropped("another number of fields" if columns else "no header above it")
        if columns.uuid is None and columns.index is not None and not self.gpus:
            columns = self._settle_index(cells)
        when = self._read_time(cells)
        used_mib, total_mib = self._read_memory(cells)
        gpu = self._find_gpu(cells)
        if used_mib is None:
            gpu.rows_without_memory += 1
        else:
            gpu.used_mib[used_mib] += 1
        if when is not None:
            gpu.catch_up()
            gpu.add_time(when)
        if gpu.cells:
            gpu.see_cells(cells)
        if self.samples is not None:
            self._keep_sample(gpu, when, used_mib, total_mib, cells)
        if gpu.steps_counted >= STEPS_COUNTED and None not in (when, used_mib):
            if total_mib != gpu.total_mib:
                self.known.clear()  # with another total in its cells it would be taken for this
            stamp = cells[columns.timestamp]
            if columns.units[columns.used] == "MiB" and _are_plain_times("", [stamp]):
                gpu.newest, gpu.total_mib = stamp, total_mib
                self.known[tuple(cells[at] for at in columns.identities)] = gpu

    def _read_time(self, cells: list[str]) -> datetime | None:
        """Return a row's time, None in a log whose times cannot be read at all."""
        if self.columns.timestamp is None:
            return None
        text = cells[self.columns.timestamp].strip()
        if self.columns.date is not None:
            text = f"{cells[self.columns.date].strip()} {text}"
        when = parse_timestamp(text)
        if when is None and self.has_times:
            raise _Dropped("timestamp not readable")
        self.has_times = self.has_times or when is not None
        return when

    def _read_memory(self, cells: list[str]) -> tuple[int | Decimal | None, int | Decimal | float]:
        """Return a row's memory.used and memory.total in MiB.

        None and infinity when it has none, and other figures that are wanted.
        """
        columns, total_mib = self.columns, math.inf
        if columns.total is not None:
            with suppress(ValueError):
                total_mib = parse_mib(cells[columns.total].strip(), columns.units[columns.total])
        if columns.used is None:
            return self._need_other_measure(cells), total_mib
        text = cells[columns.used].strip()
        try:
            used_mib = parse_mib(text, columns.units[columns.used])
        except ValueError as reason:
            if self.wants_columns and says_no_data(text):
                return self._need_other_measure(cells), total_mib
            raise _Dropped(str(reason)) from None
        # `26532 MiB` cut behind a digit reads as a smaller, bare number.
        if self.has_units and not text.endswith("B"):
            raise _Dropped("unit missing where other rows have one")
        if total_mib < LEAST_TOTAL_MIB and columns.units[columns.total] == ASSUMED_MIB:
            raise UserError(
                f"{self.path}: its memory has no unit, and {total_mib} is no GPU's in MiB; "
                f"name the unit in the header, or log with `{LOG_COMMAND}`"
            )
        if used_mib > total_mib:
            raise _Dropped("memory.used above memory.total")
        self.has_units = text.endswith("B")
        return used_mib, total_mib

    def _need_other_measure(self, cells: list[str]) -> None:
        others = (at for at in self.columns.measures if at != self.columns.total)
        if not any(re.match(r"\s*-?\d", cells[at]) for at in others):
            raise _Dropped("no data")

    def _find_gpu(self, cells: list[str]) -> _Gpu:
        """Return the GPU that a row is of, by its host, index and uuid."""
        columns = self.columns
        host = "" if columns.host is None else cells[columns.host].strip()
        uuid = "" if columns.uuid is None else cells[columns.uuid].strip()
        uuid = "" if says_no_data(uuid) else uuid
        name = "" if columns.name is None else cells[columns.name].strip()
        name = "" if says_no_data(name) else name
        if not columns.has_gpus:
            index = 0
        elif columns.index is None:
            if not uuid:
                raise _Dropped("no GPU index")
            same_host = [gpu for gpu in self.gpus if gpu[0] == host]
            index = next((gpu[1] for gpu in same_host if gpu[2] == uuid), len(same_host))
        else:
            index = _parse_index(cells[columns.index])
            if index is None:
                raise _Dropped("no GPU index")
            for at in columns.other_indices:
                if _parse_index(cells[at]) not in (None, index):
                    names = " and ".join(columns.names[at] for at in (columns.index, at))
                    raise self._refuse_gpus(f"its columns {names} disagree")
        key = host, index, uuid, "" if uuid else name
        if columns.name is not None and not uuid and not name:  # `[Unknown Error]`
            key = next((known for known in self.gpus if known[:2] == (host, index)), key)
        gpu = self.gpus.get(key)
        if gpu is None:
            gpu = self.gpus[key] = _Gpu(len(self.gpus), host, index, uuid, name)
            self._count_measures(gpu)
        if not columns.has_gpus:
            self._check_single(gpu, cells)
        return gpu

    def _settle_index(self, cells: list[str]) -> Columns:
        """Return the columns; a `gpu` that holds a name is no index."""
        columns, cell = self.columns, cells[self.columns.index].strip()
        is_name = _parse_index(cell) is None and re.search(r"[A-Za-z]{2}", cell)
        if is_name and not says_no_data(cell) and columns.name is None:
            others = columns.other_indices
            self.columns = replace(
                columns, name=columns.index, index=others[0] if others else None,
                other_indices=others[1:],
            )  # fmt: skip
        return self.columns

    def _check_single(self, gpu: _Gpu, cells: list[str]) -> None:
        """Refuse rows of which no column says that they are of one GPU."""
        columns = self.columns
        for at in columns.parting:
            if self.parting.setdefault(at, cells[at]) != cells[at]:
                raise self._refuse_gpus(
                    f"it has no column index or uuid, and {columns.names[at]} differs"
                )
        if any(cells[at].strip() not in ("0", "1") for at in columns.numbers_of_gpus):
            raise self._refuse_gpus("it has no column index or uuid, and says that there are more")
        self.rows_below_header += 1
        clock_s = None
        if columns.timestamp is not None:
            text = cells[columns.timestamp].strip()
            if match := _CLOCK.search(text):
                clock_s = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
            else:
                with suppress(ValueError):
                    clock_s = float(text)
        if clock_s is not None and math.isfinite(clock_s):
            gpu.add_clock(clock_s)
        elif self.rows_below_header > 1:
            raise self._refuse_gpus("it has no column index or uuid, and no times")

    def _keep_sample(
        self,
        gpu: _Gpu,
        when: datetime | None,
        used_mib: int | Decimal | None,
        total_mib: int | Decimal | float,
        cells: list[str],
    ) -> None:
        samples, figures = self.samples, self.columns.figures
        self.start = self.start or when
        samples["gpu"].append(gpu.position)
        samples["elapsed_s"].append(self._elapse(when))
        samples["used_mib"].append(NAN if used_mib is None else used_mib)
        samples["total_mib"].append(NAN if total_mib == math.inf else total_mib)
        for name in _FIGURES:
            samples[name].append(_parse_figure(cells[figures[name]]) if name in figures else NAN)
        mask = cells[figures["throttle_mask"]] if "throttle_mask" in figures else ""
        samples["throttle_mask"].append(_parse_mask(mask))

    def _elapse(self, when: datetime | None) -> float:
        """Return the seconds since the log's first timestamp; nan where only one has a zone."""
        if when is None or (when.tzinfo is None) is not (self.start.tzinfo is None):
            return NAN
        return (when - self.start).total_seconds()

    def _keep_plain(
        self, gpus: list[_Gpu], used_mib: list[int], columns: list[tuple[str, ...]]
    ) -> None:
        samples, places = self.samples, self.columns.figures
        stamps = columns[self.columns.timestamp]
        elapsed_s = {stamp: self._elapse(_parse_plain_time(stamp)) for stamp in set(stamps)}
        samples["gpu"].extend([gpu.position for gpu in gpus])
        samples["elapsed_s"].extend(map(elapsed_s.__getitem__, stamps))
        samples["used_mib"].extend(used_mib)
        nothing, total = [""] * len(gpus), self.columns.total
        unit = "" if total is None else self.columns.units[total]
        totals = nothing if total is None else columns[total]
        samples["total_mib"].extend(_parse_total(cell, unit) for cell in totals)
        for name in _FIGURES:
            cells = columns[places[name]] if name in places else nothing
            samples[name].extend(map(_parse_figure, cells))
        masks = columns[places["throttle_mask"]] if "throttle_mask" in places else nothing
        samples["throttle_mask"].extend(map(_parse_mask, masks))

    def finish(self, wanted: tuple[str, ...]) -> GpuLog:
        """Return the log, of the GPUs wanted (all when none is named)."""
        is_error = bool(ERROR_TEXT.search(self.first_text))
        if self.columns is None and self.first_text and not is_error:
            raise UserError(
                f"{self.path}: not an nvidia-smi CSV: no header line names memory.used; it has "
                f'"{shorten(self.first_text, 80)}"; log with `{LOG_COMMAND}`'
            )
        if not self.gpus and self.counts.dropped["no GPU index"]:
            raise self._refuse_gpus("no row names one by index or uuid")
        self.counts.dropped = +self.counts.dropped
        found = sorted(self.gpus.values(), key=lambda gpu: gpu.identity)
        if self.columns and not self.columns.has_gpus:
            # A date before two GPUs' rows leaves the second one's with other cells.
            others = self.counts.dropped["another number of fields"]
            others += self.counts.dropped["error text"]
            kept = self.counts.lines - (self.counts.dropped + self.counts.ignored).total()
            if others * 4 > kept or any(gpu.may_be_several for gpu in found):
                raise self._refuse_gpus(
                    "it has no column index or uuid, and several rows of one time"
                )
        for gpu in found:
            gpu.catch_up()
            gpu.count_cells()
        if self.samples is not None:
            places = {gpu.position: at for at, gpu in enumerate(found)}
            self.samples["gpu"] = array("l", map(places.__getitem__, self.samples["gpu"]))
        gpus = tuple(gpu.summarise() for gpu in found)
        self.counts.kept = sum(gpu.rows for gpu in gpus)
        problem = None if gpus else self._explain_nothing(is_error)
        log = GpuLog(
            self.path, gpus, self.counts, problem, _merge_columns(gpus), self.samples, self.start
        )
        if not wanted or not gpus:
            return log
        asked_for = [str(gpu.index) in wanted or gpu.uuid in wanted for gpu in gpus]
        if not any(asked_for):
            there = ", ".join(str(gpu.index) for gpu in gpus)
            log = replace(log, problem=f"it has no GPU {' or '.join(wanted)}; there are {there}")
        return log.select(asked_for, NOT_ASKED_FOR)

    def _explain_nothing(self, is_error: bool) -> str:
        if is_error:
            return f'nvidia-smi said "{shorten(self.first_text, 120)}"'
        if self.counts.dropped:
            return f"no sample in it ({list_reasons(self.counts.dropped)})"
        return "it has a header and no sample" if self.columns else "it is empty"


def _parse_index(cell: str) -> int | None:
    """Return the index in `0`, `card0`, `gpu0`, `GPU 0` or `cuda:0`."""
    text = cell.strip().lower()
    for word in ("card", "gpu", "cuda:"):
        text = text.removeprefix(word)
    text = text.strip(" #:")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else None


def _are_plain_times(newest: str, stamps: Sequence[str]) -> bool:
    """Whether times are of nvidia-smi's kind and go on from `newest` ("": none): as text, too."""
    if {len(stamp) for stamp in stamps} - {len(newest or stamps[0])}:
        return False
    if not {stamp[-3:] for stamp in stamps} <= _MILLISECONDS:
        return False
    if not all(map(le, (newest, *stamps), stamps)):
        return False
    seconds = {stamp[:-3] for stamp in stamps}
    try:
        return all(_NVIDIA_SECOND.fullmatch(s) and _parse_plain_time(f"{s}000") for s in seconds)
    except ValueError:  # no day of the calendar
        return False


def _parse_plain_time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp.strip().replace("/", "-"))


def _parse_plain_amounts(cells: list[str], unit: str) -> list[int]:
    """Return the whole MiB of cells as nvidia-smi prints them, [] when any is not."""
    if unit:
        if not all(cell.endswith(unit) for cell in cells):
            return []
        cells = [cell[: -len(unit)] for cell in cells]
    if not "".join(cells).replace(" ", "").isdigit():  # no -0, no tab
        return []
    try:
        return list(map(int, cells))
    except ValueError:  # nothing, or two numbers
        return []


@lru_cache(MOST_REMEMBERED)
def _parse_total(cell: str, unit: str) -> float:
    try:
        return float(parse_mib(cell.strip(), unit))
    except ValueError:
        return NAN


@lru_cache(MOST_REMEMBERED)
def _parse_figure(cell: str) -> float:
    try:
        return float(cell.strip().split(" ")[0])
    except ValueError:
        return NAN


@lru_cache(MOST_REMEMBERED)
def _parse_mask(cell: str) -> float:
    text = cell.strip().lower()
    try:
        return float(int(text, 16)) if text.startswith("0x") else NAN
    except (ValueError, OverflowError):
        return NAN


def format_memory(log: GpuLog) -> list[str]:
    """Return one line per GPU, `[<stem> - GPU <index>] Peak = …, Avg = …, Mode = …`, in MiB."""
    return [
        f"[{log.path.stem} - {label}] "
        f"Peak = {gpu.peak_mib} MiB, Avg = {round_half_even(gpu.average_mib, 2)} MiB, "
        f"Mode = {gpu.mode_mib} MiB"
        for label, gpu in zip(list_labels(log.gpus), log.gpus, strict=True)
        if gpu.n
    ]


def list_labels(gpus: Iterable[GpuUse]) -> list[str]:
    """Return `GPU 0` for each; of two with one index also the uuid or the name."""
    gpus = list(gpus)
    times = Counter(gpu.label for gpu in gpus)
    return [
        gpu.label + (f" ({gpu.uuid or gpu.name})" if times[gpu.label] > 1 else "") for gpu in gpus
    ]
