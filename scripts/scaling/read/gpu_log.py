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
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate, compress, pairwise
from operator import gt
from pathlib import Path
from statistics import multimode

from common.console import shorten
from common.counts import LineCounts, list_reasons
from common.errors import UserError
from common.rounding import round_half_even
from scaling.read.columns import Column, finite_float, plain_number
from scaling.read.gpu_columns import (
    ASSUMED_MIB,
    ERROR_TEXT,
    FIGURES,
    LEAST_TOTAL_MIB,
    LOG_COMMAND,
    MOST_MIB,
    Columns,
    DroppedError,
    parse_header,
    parse_mib,
    says_no_data,
    split_fields,
)
from scaling.read.text import CUT, read_texts
from scaling.read.times import parse_timestamp, seconds_between

NOT_OWN = "a GPU that is not the job's"
NOT_ASKED_FOR = "a GPU that was not asked for"
SAMPLES = ("elapsed_s", "used_mib", "total_mib", *FIGURES)
MOST_REMEMBERED = 100_000  # cells of one measure
MOST_GPUS = 64  # of a log that is read many rows at a time
STEPS_COUNTED = 20  # the usual step between samples is that of the first ones
FEW_CHARS = 1000  # are read line by line
NAN = math.nan
_TIME_FORM = "0000/00/00 00:00:00.000"  # nvidia-smi's own
_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_CLOCK = re.compile(r"(\d\d):(\d\d):(\d\d(?:\.\d+)?)")
_SHORTEST_S = 0.05  # between two rows of one GPU


@dataclass
class GpuUse:
    """One GPU over a log: n samples of its used memory; peak, average and mode in MiB.

    uuid, name, host: '' without such a column. index: without one, the order of appearance.
    rows: the lines kept of it, with memory or without. covered_s: from the first sample to the
    last, backward steps of the clock left out; interval_s: the usual step; None without readable
    times. columns: name -> Column of its measures, when they were asked for.
    """

    host: str
    index: int
    uuid: str
    name: str
    n: int = 0
    rows: int = 0
    peak_mib: int | Decimal | None = None
    average_mib: Decimal | None = None
    mode_mib: int | Decimal | None = None
    first: datetime | None = None
    last: datetime | None = None
    covered_s: float | None = None
    interval_s: float | None = None
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

    problem: why there is no GPU. samples (None unless asked for): name -> an array with one entry
    per kept row: `gpu` is a position in `gpus`, the others (SAMPLES) are floats, nan when missing.
    elapsed_s counts from `start`, the log's first timestamp (often local time without a zone); a
    time that has a zone where the first has none is missing.
    """

    path: Path
    gpus: tuple[GpuUse, ...]
    counts: LineCounts
    problem: str | None
    samples: dict[str, array] | None = None
    start: datetime | None = None

    @property
    def columns(self) -> dict[str, Column]:
        """Name -> Column over all GPUs."""
        found: dict[str, Column] = {}
        for gpu in self.gpus:
            for name, column in gpu.columns.items():
                found.setdefault(name, Column(name, column.unit)).merge(column)
        return found

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
        if all(wanted):
            return self
        gpus = tuple(compress(self.gpus, wanted))
        kept = sum(gpu.rows for gpu in gpus)
        ignored = self.counts.ignored + Counter({rule: self.counts.kept - kept})
        samples = self.samples
        if samples is not None:
            stays = [wanted[gpu] for gpu in samples["gpu"]]
            samples = {name: array(old.typecode, compress(old, stays))
                       for name, old in samples.items()}  # fmt: skip
            _renumber(samples, [place - 1 for place in accumulate(wanted)])
        counts = replace(self.counts, kept=kept, ignored=ignored)
        return replace(self, gpus=gpus, counts=counts, samples=samples)


def _tidy_uuid(uuid: object) -> str:
    return str(uuid).strip().lower().removeprefix("gpu-")


def _renumber(samples: dict[str, array], places: Sequence[int]) -> None:
    samples["gpu"] = array("l", map(places.__getitem__, samples["gpu"]))


def read_gpu_log(
    path: Path, gpus: Iterable[str] = (), samples: bool = False, columns: bool = False
) -> GpuLog:
    """Return what one node's log says of each GPU's used memory, in MiB.

    gpus: the indices or uuids wanted (default: all). columns: count every measure, and take rows
    and logs without memory.used too. samples: keep every row's figures; memory grows with the log.
    GPUs are told apart by host, index and uuid (the name, where there is no uuid). A log without
    index and uuid is of one GPU per host when it has one row per time and no other column that may
    part GPUs. A last line without its end is dropped: a cut number is never a shorter number.
    Raises UserError, with the command that logs what is needed, when the file is no such CSV, has
    no header, or no column tells its GPUs apart.
    """
    reader = _Reader(Path(path), samples, columns)
    for text, has_end in read_texts(path):
        reader.add(text, has_end)
    return reader.finish(tuple(gpus))


class _Gpu(GpuUse):
    """What is collected of one GPU: how often each amount was seen, never the rows."""

    def __init__(self, position: int, *identity: str | int):
        super().__init__(*identity)
        self.position = position  # by first appearance
        self.total_mib: int | Decimal | float = math.inf
        self.used_mib: Counter[int | Decimal] = Counter()  # MiB -> samples
        self.plain_mib: list[int] = []  # the same of plain rows: at each place so many MiB
        self.measures: dict[int, tuple[str, str]] = {}  # position -> (name, unit)
        self.cells: dict[int, Counter[str]] = {}  # position -> the measure, as printed -> rows
        self.newest = ""  # as printed; later than `last` by rows whose times only rose
        self.covered = timedelta()
        self.steps: list[int] = []  # tenths of a second between the first samples

    def add_time(self, when: datetime) -> None:
        if self.first is None:
            self.first = when
        elif (step_s := seconds_between(self.last, when)) > 0:
            self.covered += when - self.last
            if len(self.steps) < STEPS_COUNTED:
                self.steps.append(int(step_s * 10 + 0.5))
        self.last = when

    def catch_up(self) -> None:
        """Take in the newest of the times that only rose since the last."""
        if self.newest:
            self.add_time(parse_timestamp(self.newest.strip()))
            self.newest = ""

    def see_cells(self, columns: Sequence[Sequence[str]]) -> None:
        """Count the measures of some rows as they are printed."""
        for at, seen in self.cells.items():
            seen.update(columns[at])
            if len(seen) > MOST_REMEMBERED:
                self.count_cells()

    def count_cells(self) -> None:
        """Add up the measures that were seen."""
        for at, seen in self.cells.items():
            name, unit = self.measures[at]
            column = self.columns.setdefault(name, Column(name, unit))
            for cell, times in seen.items():
                column.add_text(cell, times)
            seen.clear()

    def finish(self) -> GpuUse:
        """Return what was seen, without what it was seen from."""
        self.catch_up()
        self.count_cells()
        use, used = GpuUse(self.host, self.index, self.uuid, self.name), self.used_mib
        seen = compress(range(len(self.plain_mib)), self.plain_mib)
        used.update({mib: self.plain_mib[mib] for mib in seen})
        use.first, use.last, use.columns = self.first, self.last, self.columns
        use.n, use.rows = used.total(), self.rows + used.total()
        if used:
            use.peak_mib = max(used)
            use.average_mib = Decimal(sum(mib * n for mib, n in used.items())) / use.n
            # Of several most frequent values the smallest, as pandas' Series.mode()[0].
            most = max(used.values())
            use.mode_mib = min(mib for mib, n in used.items() if n == most)
        use.covered_s = None if use.first is None else self.covered.total_seconds()
        use.interval_s = min(multimode(self.steps)) / 10 if self.steps else None
        return use


class _Reader:
    """Takes the lines of a log in; holds what was seen of each GPU and where each line went."""

    def __init__(self, path: Path, samples: bool, columns: bool):
        self.path, self.counts = path, LineCounts()
        self.columns: Columns | None = None
        self.counts_columns, self.wants_columns = columns, columns or samples
        self.samples: dict[str, array] | None = None
        if samples:
            self.samples = {"gpu": array("l"), **{name: array("d") for name in SAMPLES}}
        self.gpus: dict[tuple[str, int, str, str], _Gpu] = {}
        self.known: dict[tuple[str, ...], _Gpu] = {}  # cells that name it -> a GPU seen often
        self.parting: dict[int, str] = {}  # position -> the only cell that it may hold
        self.rows_below_header = 0
        self.clocks_s: dict[str, list[float]] = {}  # host -> the first rows' times of day
        self.has_units = self.has_times = False
        self.start: datetime | None = None
        self.first_text = ""

    def add(self, text: str, has_end: bool) -> None:
        """Take some whole lines in, or the last one, which has no end."""
        self.counts.lines += text.count("\n") if has_end else 1
        if has_end:
            self._take(text)
        else:
            self.counts.dropped[CUT] += 1

    def _take(self, text: str) -> None:
        """Take lines in together when all are plain rows, else in halves; a few one by one."""
        middle = text.find("\n", len(text) // 2) + 1
        if len(text) < FEW_CHARS or middle == len(text):
            for line in text[:-1].split("\n"):
                self._add_line(line)
        elif not (self.known and self._take_plain(text)):
            self._take(text[:middle])
            self._take(text[middle:])

    def _take_plain(self, text: str) -> bool:
        """Take rows in column by column; return False, with nothing taken, if one is not plain.

        Plain rows are of known GPUs in turns, with times and amounts as nvidia-smi prints them.
        int() also takes 1_000 and digits of other scripts; quotes and NUL need a look by line.
        """
        if not text.isascii() or any(mark in text for mark in '"\0_+'):
            return False
        columns, width = self.columns, len(self.columns.names)
        cells = f"\n{text[:-1]}".replace("\n", ",\n").split(",")[1:]
        n = len(cells) // width
        if n * width != len(cells) or "".join(cells[::width]).count("\n") != n:
            return False
        by_name = [cells[at::width] for at in columns.identities]
        names = list(zip(*(each[:MOST_GPUS] for each in by_name), strict=True))
        turn = names.index(names[0], 1) if names[0] in names[1:] else len(names)
        gpus = [self.known.get(name) for name in names[:turn]]
        stamps, used = cells[columns.timestamp :: width], cells[columns.used :: width]
        if None in gpus or any((each[:turn] * (n // turn + 1))[:n] != each for each in by_name):
            return False
        if not _are_plain_times(max(gpu.newest for gpu in self.known.values()), stamps):
            return False
        used_mib = _parse_plain_amounts(used, " MiB" if self.has_units else "")
        own = [used_mib[at::turn] for at in range(len(gpus))]
        most_mib = [gpu.total_mib for gpu in gpus]
        if not used_mib or any(map(gt, map(max, own), most_mib)):
            return False
        for at, gpu in enumerate(gpus):
            seen = gpu.plain_mib
            for mib in own[at]:  # a Counter takes twice as long
                seen[mib] += 1
            gpu.newest = stamps[at::turn][-1]
            if gpu.cells:
                gpu.see_cells([cells[place::width][at::turn] for place in range(width)])
        if self.samples is not None:
            places = [gpu.position for gpu in gpus] * (n // turn + 1)
            elapsed_s = {stamp: self._elapse(_parse_plain_time(stamp)) for stamp in set(stamps)}
            columns = [cells[place::width] for place in range(width)]
            self._keep(places[:n], [elapsed_s[stamp] for stamp in stamps], used_mib, columns)
        return True

    def _add_line(self, line: str) -> None:
        """Take one whole line in, whatever it is."""
        try:
            if not line.strip():
                self.counts.ignored["blank"] += 1
            elif "\0" in line:
                raise DroppedError("NUL bytes")
            elif line.count('"') % 2:
                raise DroppedError("a quote is not closed")
            elif not line[0].isdigit() and (columns := parse_header(line)):
                self._begin(columns)
            else:
                self._add_row(line)
        except DroppedError as reason:
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
        self.columns, self.has_units, self.rows_below_header = columns, False, 0
        self.known.clear()
        for gpu in self.gpus.values():
            gpu.catch_up()
            gpu.count_cells()
            self._count_measures(gpu)

    def _count_measures(self, gpu: _Gpu) -> None:
        if self.counts_columns:
            gpu.measures = self.columns.measures
            gpu.cells = {at: Counter() for at in gpu.measures}

    def _refuse(self, why: str) -> UserError:
        return UserError(
            f"{self.path}: its GPUs cannot be told apart: {why}; log them with `{LOG_COMMAND}`"
        )

    def _add_row(self, line: str) -> None:
        self.first_text = self.first_text or shorten(line)
        columns = self.columns
        cells = split_fields(line, columns.separator if columns else ",")
        if columns is None or len(cells) != len(columns.names):
            if ERROR_TEXT.search(line) or (columns and len(cells) == 1):
                raise DroppedError("error text")
            raise DroppedError("another number of fields" if columns else "no header above it")
        if not self.gpus and columns.uuid is columns.name is None and columns.index is not None:
            columns = self._settle_index(cells)
        when = self._read_time(cells)
        used_mib, total_mib = self._read_memory(cells)
        gpu = self._find_gpu(cells)
        if used_mib is None:
            gpu.rows += 1
        else:
            gpu.used_mib[used_mib] += 1
        if when is not None:
            gpu.catch_up()
            gpu.add_time(when)
        rows = [(cell,) for cell in cells]
        gpu.see_cells(rows)
        if self.samples is not None:
            self.start = self.start or when
            self._keep([gpu.position], [self._elapse(when)],
                       [NAN if used_mib is None else used_mib], rows)  # fmt: skip
        if columns.has_gpus and len(gpu.steps) >= STEPS_COUNTED and None not in (when, used_mib):
            self._know(gpu, line, total_mib)

    def _know(self, gpu: _Gpu, line: str, total_mib: int | Decimal | float) -> None:
        """Let rows like this one be taken in together, where it is plain."""
        columns = self.columns
        if total_mib != gpu.total_mib:
            self.known.clear()  # with another total in its cells it would be taken for this
        gpu.total_mib = total_mib
        cells = f"\n{line}".split(",")
        if '"' in line or columns.separator != "," or columns.units[columns.used] != "MiB":
            return
        if total_mib <= MOST_MIB and _are_plain_times("", [cells[columns.timestamp]]):
            gpu.newest = cells[columns.timestamp]
            gpu.plain_mib += [0] * (int(total_mib) + 1 - len(gpu.plain_mib))
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
            raise DroppedError("timestamp not readable")
        self.has_times = self.has_times or when is not None
        return when

    def _read_memory(self, cells: list[str]) -> tuple[int | Decimal | None, int | Decimal | float]:
        """Return a row's memory.used and memory.total in MiB.

        None and infinity when it has none, and other figures that are wanted.
        """
        columns, total_mib = self.columns, math.inf
        if columns.total is not None:
            with suppress(DroppedError):
                total_mib = parse_mib(cells[columns.total].strip(), columns.units[columns.total])
        text = "N/A" if columns.used is None else cells[columns.used].strip()
        if self.wants_columns and says_no_data(text):
            others = (at for at in columns.measures if at != columns.total)
            if not any(re.match(r"\s*-?\d", cells[at]) for at in others):
                raise DroppedError("no data")
            return None, total_mib
        used_mib = parse_mib(text, columns.units[columns.used])
        # `26532 MiB` cut behind a digit reads as a smaller, bare number.
        if self.has_units and not text.endswith("B"):
            raise DroppedError("unit missing where other rows have one")
        if total_mib < LEAST_TOTAL_MIB and columns.units[columns.total] == ASSUMED_MIB:
            raise UserError(
                f"{self.path}: its memory has no unit, and {total_mib} is no GPU's in MiB; "
                f"name the unit in the header, or log with `{LOG_COMMAND}`"
            )
        if used_mib > total_mib:
            raise DroppedError("memory.used above memory.total")
        self.has_units = text.endswith("B")
        return used_mib, total_mib

    def _find_gpu(self, cells: list[str]) -> _Gpu:
        """Return the GPU that a row is of, by its host, index and uuid."""
        columns = self.columns
        host, uuid, name = (
            "" if at is None or says_no_data(cells[at].strip()) else cells[at].strip()
            for at in (columns.host, columns.uuid, columns.name)
        )
        index = 0
        if columns.index is not None:
            index = _parse_index(cells[columns.index])
            for at in columns.other_indices:
                if index is not None and _parse_index(cells[at]) not in (None, index):
                    names = f"{columns.names[columns.index]} and {columns.names[at]}"
                    raise self._refuse(f"its columns {names} disagree")
        elif uuid:
            same_host = [key for key in self.gpus if key[0] == host]
            index = next((key[1] for key in same_host if key[2] == uuid), len(same_host))
        elif columns.uuid is not None:
            index = None
        if index is None:
            raise DroppedError("no GPU index")
        key = host, index, uuid, "" if uuid else name
        if columns.name is not None and not uuid and not name:  # `[Unknown Error]`
            key = next((known for known in self.gpus if known[:2] == (host, index)), key)
        gpu = self.gpus.get(key)
        if gpu is None:
            gpu = self.gpus[key] = _Gpu(len(self.gpus), host, index, uuid, name)
            self._count_measures(gpu)
        if not columns.has_gpus:
            self._check_single(host, cells)
        return gpu

    def _settle_index(self, cells: list[str]) -> Columns:
        """Return the columns; a `gpu` that holds a name is no index."""
        columns, cell = self.columns, cells[self.columns.index].strip()
        is_name = _parse_index(cell) is None and re.search(r"[A-Za-z]{2}", cell)
        if is_name and not says_no_data(cell):
            index, *others = *columns.other_indices, None
            others = tuple(at for at in others if at is not None)
            self.columns = replace(columns, name=columns.index, index=index, other_indices=others)
        return self.columns

    def _check_single(self, host: str, cells: list[str]) -> None:
        """Refuse rows of which no column says that they are of one GPU."""
        columns, lacks = self.columns, "it has no column index or uuid, and"
        for at in columns.parting:
            if self.parting.setdefault(at, cells[at]) != cells[at]:
                raise self._refuse(f"{lacks} {columns.names[at]} differs")
        if any(cells[at].strip() not in ("0", "1") for at in columns.numbers_of_gpus):
            raise self._refuse(f"{lacks} says that there are more")
        self.rows_below_header += 1
        text = "" if columns.timestamp is None else cells[columns.timestamp].strip()
        clock_s = NAN
        if match := _CLOCK.search(text):
            clock_s = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        else:
            with suppress(ValueError):
                clock_s = float(text)
        if math.isfinite(clock_s):
            clocks_s = self.clocks_s.setdefault(host, [])
            if len(clocks_s) < MOST_REMEMBERED:
                clocks_s.append(clock_s)
        elif self.rows_below_header > 1:
            raise self._refuse(f"{lacks} no times")

    def _check_rounds(self) -> None:
        """Refuse a log without an index whose rows come in rounds, as several GPUs' do."""
        # A date before two GPUs' rows leaves the second one's with other cells.
        dropped = self.counts.dropped
        others = dropped["another number of fields"] + dropped["error text"]
        kept = self.counts.lines - (dropped + self.counts.ignored).total()
        are_several = others * 4 > kept
        for clocks_s in self.clocks_s.values():
            gaps_s = sorted((after - before) % 86400 for before, after in pairwise(clocks_s))
            if gaps_s:  # some far below the usual one
                short_s = max(gaps_s[int(0.95 * (len(gaps_s) - 1))] / 4, _SHORTEST_S)
                are_several |= sum(gap_s < short_s for gap_s in gaps_s) > 0.05 * len(gaps_s)
        if are_several:
            raise self._refuse("it has no column index or uuid, and several rows of one time")

    def _elapse(self, when: datetime | None) -> float:
        """Return the seconds since the log's first timestamp; nan where only one has a zone."""
        if when is None or (when.tzinfo is None) is not (self.start.tzinfo is None):
            return NAN
        return (when - self.start).total_seconds()

    def _keep(self, gpus: list[int], elapsed_s: list[float], used_mib: list,
              cells: Sequence[Sequence[str]]) -> None:  # fmt: skip
        """Keep the samples of some rows, `cells` being their columns."""
        samples, columns, nothing = self.samples, self.columns, [""] * len(gpus)
        samples["gpu"].extend(gpus)
        samples["elapsed_s"].extend(elapsed_s)
        samples["used_mib"].extend(used_mib)
        totals = nothing if columns.total is None else cells[columns.total]
        unit = "" if columns.total is None else columns.units[columns.total]
        samples["total_mib"].extend(_parse_total(cell, unit) for cell in totals)
        for name in FIGURES:
            figures = cells[columns.figures[name]] if name in columns.figures else nothing
            samples[name].extend(map(_parse_figure, figures))

    def finish(self, wanted: tuple[str, ...]) -> GpuLog:
        """Return the log, of the GPUs wanted (all when none is named)."""
        counts, is_error = self.counts, bool(ERROR_TEXT.search(self.first_text))
        if self.columns is None and self.first_text and not is_error:
            raise UserError(
                f"{self.path}: not an nvidia-smi CSV: no header line names memory.used; it has "
                f'"{shorten(self.first_text, 80)}"; log with `{LOG_COMMAND}`'
            )
        if not self.gpus and counts.dropped["no GPU index"]:
            raise self._refuse("no row names one by index or uuid")
        if self.columns and not self.columns.has_gpus:
            self._check_rounds()
        counts.dropped = +counts.dropped
        found = [self.gpus[key] for key in sorted(self.gpus)]
        if self.samples is not None:
            _renumber(self.samples, {gpu.position: at for at, gpu in enumerate(found)})
        gpus = tuple(gpu.finish() for gpu in found)
        counts.kept = sum(gpu.rows for gpu in gpus)
        problem = None
        if not gpus:
            problem = "it has a header and no sample" if self.columns else "it is empty"
            if is_error:
                problem = f'nvidia-smi said "{shorten(self.first_text, 120)}"'
            elif counts.dropped:
                problem = f"no sample in it ({list_reasons(counts.dropped)})"
        asked_for = [not wanted or str(g.index) in wanted or g.uuid in wanted for g in gpus]
        if gpus and not any(asked_for):
            there = ", ".join(str(gpu.index) for gpu in gpus)
            problem = f"it has no GPU {' or '.join(wanted)}; there are {there}"
        log = GpuLog(self.path, gpus, counts, problem, self.samples, self.start)
        return log.select(asked_for, NOT_ASKED_FOR)


def _parse_index(cell: str) -> int | None:
    """Return the index in `0`, `card0`, `gpu0`, `GPU 0` or `cuda:0`."""
    match = re.fullmatch(r"(?:card)?(?:gpu)?(?:cuda:)?[ #:]*(\d{1,4})[ #:]*", cell.strip().lower(),
                         re.ASCII)  # fmt: skip
    return int(match[1]) if match else None


def _are_plain_times(newest: str, stamps: list[str]) -> bool:
    """Whether times are nvidia-smi's, of one day, and go on from `newest` ("": none): as text, too.

    They are looked at all together: most of a long log's time goes into its times.
    """
    first, last, length = stamps[0], stamps[-1], len(stamps[0])
    before, clock = length - len(_TIME_FORM), length - len("00:00:00.000")
    if len(newest or first) != length or newest > first or sorted(stamps) != stamps:
        return False
    text = "".join(stamps).encode()
    form = f"{first[:before]}{_TIME_FORM}".encode()
    if first[:before].strip() or text.translate(_TO_ZERO) != form * len(stamps):
        return False
    tens = text[clock + 3 :: length] + text[clock + 6 :: length]  # of minutes and seconds
    is_one_day = first[:clock] == last[:clock] and parse_timestamp(last.strip()) is not None
    return is_one_day and not tens.strip(b"012345")


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
    except DroppedError:
        return NAN


@lru_cache(MOST_REMEMBERED)
def _parse_figure(cell: str) -> float:
    """Return a figure's number, without its unit, or a mask's."""
    text = cell.strip().lower()
    try:
        return float(int(text, 16)) if text.startswith("0x") else float(text.split(" ")[0])
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
