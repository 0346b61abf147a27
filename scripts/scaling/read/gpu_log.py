"""Read a GPU monitor's CSV log: peak, average and mode of the used memory, per GPU.

Written by `nvidia-smi --query-gpu=timestamp,index,…,memory.used,… --format=csv[,nounits]
--loop=5`, or by amd-smi or rocm-smi with --csv (see columns). Streamed with the standard
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
from pathlib import Path
from statistics import multimode

from common.console import shorten
from common.counts import LineCounts, list_reasons
from common.errors import UserError
from common.rounding import round_half_even
from scaling.read.columns import (
    ASSUMED_MIB,
    ERROR_TEXT,
    FIGURES,
    LEAST_TOTAL_MIB,
    LOG_COMMAND,
    MOST_MIB,
    PARTING,
    Column,
    DroppedError,
    GpuColumns,
    parse_gpu_header,
    parse_index,
    parse_mib,
    plain_number,
    says_no_data,
    split_fields,
)
from scaling.read.text import CUT, parse_timestamp, read_texts, seconds_between

NOT_OWN = "a GPU that is not the job's"
NOT_ASKED_FOR = "a GPU that was not asked for"
SAMPLES = ("elapsed_s", "used_mib", "total_mib", *FIGURES)
MOST_REMEMBERED = 100_000  # figures, times of day
MOST_GPUS = 64  # of a log that is read many rows at a time
STEPS_COUNTED = 20  # the usual step between samples is that of the first ones
FEW_CHARS = 1000  # are read line by line
NAN = math.nan
_TIME_FORM = b"0000/00/00 00:00:00.000"  # nvidia-smi's own
_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
# A time of day, or seconds, at the end of a time.
_CLOCK = re.compile(
    r"(?:(\d\d):(\d\d):)?(\d{1,15}(?:\.\d{1,9})?)(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?$", re.ASCII
)
_SHORTEST_S = 0.05  # between two rows of one GPU
_NO_ID = "it has no column index or uuid, and"


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
        average_mib = None if self.average_mib is None else float(self.average_mib)
        record = {
            "index": self.index, "uuid": self.uuid or None, "n": self.n,
            "peak_mib": plain_number(self.peak_mib), "avg_mib": average_mib,
            "mode_mib": plain_number(self.mode_mib),
        }  # fmt: skip
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
        reader.counts.lines += text.count("\n") if has_end else 1
        if has_end:
            reader.take(text)
        else:
            reader.counts.dropped[CUT] += 1
    return reader.finish(tuple(gpus))


class _Gpu:
    """What is collected of one GPU: how often each amount was seen, never the rows."""

    def __init__(self, position: int, use: GpuUse):
        self.position, self.use = position, use  # the position by first appearance
        self.used_mib: Counter[int | Decimal] = Counter()  # MiB -> samples
        self.whole_mib: list[int] = []  # the same of many rows: at each place so many MiB
        self.covered = timedelta()
        self.steps: list[int] = []  # tenths of a second between the first samples

    def add_time(self, when: datetime) -> None:
        use = self.use
        if use.first is None:
            use.first = when
        elif (step_s := seconds_between(use.last, when)) > 0:
            self.covered += when - use.last
            if len(self.steps) < STEPS_COUNTED:
                self.steps.append(int(step_s * 10 + 0.5))
        use.last = when

    def add_cells(self, measures: dict[int, tuple[str, str]], by_column: Sequence) -> None:
        """Take the measures of some rows in; by_column: their cells."""
        for at, (name, unit) in measures.items():
            column = self.use.columns.setdefault(name, Column(name, unit))
            for cell, times in Counter(by_column[at]).items():
                column.add(cell, times)

    def finish(self) -> GpuUse:
        """Return what was seen, without what it was seen from."""
        use, used = self.use, self.used_mib
        seen = compress(range(len(self.whole_mib)), self.whole_mib)
        used.update({mib: self.whole_mib[mib] for mib in seen})
        use.n, use.rows = used.total(), use.rows + used.total()
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
        self.columns: GpuColumns | None = None
        self.counts_columns, self.wants_columns = columns, columns or samples
        self.samples = {name: array("d") for name in SAMPLES} if samples else None
        if samples:
            self.samples["gpu"] = array("l")
        self.gpus: dict[tuple[str, int, str, str], _Gpu] = {}
        # Cells that name a GPU and its memory.total -> the two, of rows as our jobs write them.
        self.known: dict[tuple[str, ...], tuple[_Gpu, float]] = {}
        self.has_units = self.has_times = False
        self.start: datetime | None = None
        self.first_text = ""
        # Of a log without index and uuid: column -> its only cell, host -> its rows' times of day.
        self.only_cells: dict[str, str] = {}
        self.clocks_s: dict[str, list[float]] = {}
        self.rows_without_time = 0

    def take(self, text: str) -> None:
        """Take whole lines in: together where our jobs write such, else in halves, or alone."""
        middle = text.find("\n", len(text) // 2) + 1
        if len(text) < FEW_CHARS or middle == len(text):
            for line in text[:-1].split("\n"):
                self._add_line(line)
        elif not (self.known and self._take_rows(text)):
            self.take(text[:middle])
            self.take(text[middle:])

    # ---- Many rows at a time --------------------------------------------------------------

    def _take_rows(self, text: str) -> bool:
        """Take rows in column by column; return False, with nothing taken, if one may be dropped.

        Such rows are of known GPUs in turns, on one day, with rising times and whole MiB.
        """
        if self.has_units or not text.isascii() or '"' in text or "\0" in text:
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
        if None in gpus or any((each[:turn] * (n // turn + 1))[:n] != each for each in by_name):
            return False
        stamps = cells[columns.places["timestamp"] :: width]
        used_mib = _parse_whole(cells[columns.places["used"] :: width])
        if not used_mib or not _are_plain_times(stamps):
            return False
        by_gpu = [used_mib[at::turn] for at in range(turn)]
        (oldest,) = _parse_plain_times(stamps[:1])
        for (gpu, total_mib), own in zip(gpus, by_gpu, strict=True):
            if max(own) > total_mib or seconds_between(gpu.use.last, oldest) < 0:
                return False
        by_column = [cells[at::width] for at in range(width)] if self.wants_columns else []
        for at, (gpu, _) in enumerate(gpus):
            counts = gpu.whole_mib
            counts += [0] * (max(by_gpu[at]) + 1 - len(counts))
            for mib in by_gpu[at]:  # a Counter takes twice as long
                counts[mib] += 1
            own_stamps = stamps[at::turn]
            is_known = len(gpu.steps) == STEPS_COUNTED  # the last time is then enough
            for when in _parse_plain_times(own_stamps[-1:] if is_known else own_stamps):
                gpu.add_time(when)
            if self.counts_columns:
                gpu.add_cells(columns.measures, [column[at::turn] for column in by_column])
        if self.samples is not None:
            places = [gpu.position for gpu, _ in gpus] * (n // turn + 1)
            once = list(dict.fromkeys(stamps))
            times = _parse_plain_times(once)
            elapsed_s = dict(zip(once, map(self._elapse, times), strict=True))
            self._keep(places[:n], [elapsed_s[stamp] for stamp in stamps], used_mib, by_column)
        return True

    def _know(self, gpu: _Gpu, line: str, total_mib: float) -> None:
        """Let rows like this one be taken in together, where our jobs write such."""
        columns, cells = self.columns, f"\n{line}".split(",")
        has_units = columns.units[columns.places["used"]] != "MiB"
        if '"' in line or columns.separator != "," or has_units or total_mib > MOST_MIB:
            return
        if _are_plain_times([cells[columns.places["timestamp"]]]):
            self.known[tuple(cells[at] for at in columns.identities)] = gpu, total_mib

    # ---- One line at a time ---------------------------------------------------------------

    def _add_line(self, line: str) -> None:
        try:
            if not line.strip():
                self.counts.ignored["blank"] += 1
            elif "\0" in line:
                raise DroppedError("NUL bytes")
            elif line.count('"') % 2:
                raise DroppedError("a quote is not closed")
            elif not line[0].isdigit() and (columns := parse_gpu_header(line)):
                self._begin(columns)
            else:
                self._add_row(line)
        except DroppedError as reason:
            self.counts.dropped[str(reason)] += 1

    def _begin(self, columns: GpuColumns) -> None:
        """Go on below a header: the first one, a repeated one, or one of other columns."""
        self.counts.ignored["repeated header" if self.columns else "header"] += 1
        if "used" not in columns.places and not self.wants_columns:
            percent = ", ".join(name for name in columns.names if "vram" in name)
            only = f"{percent} alone gives no MiB" if percent else "it has no column memory.used"
            raise UserError(
                f"{self.path}: not a log of GPU memory: {only}; log it with `{LOG_COMMAND}`"
            )
        self.columns, self.has_units = columns, False
        self.known.clear()

    def _refuse(self, why: str) -> UserError:
        return UserError(
            f"{self.path}: its GPUs cannot be told apart: {why}; log them with `{LOG_COMMAND}`"
        )

    def _add_row(self, line: str) -> None:
        self.first_text = self.first_text or shorten(line)
        columns = self.columns
        cells = [cell.strip() for cell in split_fields(line, columns.separator if columns else ",")]
        if columns is None or len(cells) != len(columns.names):
            if ERROR_TEXT.search(line) or (columns and len(cells) == 1):
                raise DroppedError("error text")
            raise DroppedError("another number of fields" if columns else "no header above it")
        when = self._read_time(cells)
        used_mib, total_mib = self._read_memory(cells)
        gpu = self._find_gpu(cells)
        if used_mib is None:
            gpu.use.rows += 1
        else:
            gpu.used_mib[used_mib] += 1
        if when is not None:
            gpu.add_time(when)
        by_column = [(cell,) for cell in cells]
        if self.counts_columns:
            gpu.add_cells(self.columns.measures, by_column)
        if self.samples is not None:
            self.start = self.start or when
            used = NAN if used_mib is None else used_mib
            self._keep([gpu.position], [self._elapse(when)], [used], by_column)
        if self.columns.has_gpus and None not in (when, used_mib):
            self._know(gpu, line, total_mib)

    def _read_time(self, cells: list[str]) -> datetime | None:
        """Return a row's time, None in a log whose times cannot be read at all."""
        when = parse_timestamp(self.columns.cell(cells, "timestamp"))
        if when is None and self.has_times and "timestamp" in self.columns.places:
            raise DroppedError("timestamp not readable")
        self.has_times = self.has_times or when is not None
        return when

    def _read_memory(self, cells: list[str]) -> tuple[int | Decimal | None, int | Decimal | float]:
        """Return a row's memory.used and memory.total in MiB.

        None and infinity when it has none, and other figures that are wanted.
        """
        columns, places, total_mib = self.columns, self.columns.places, math.inf
        if total := columns.cell(cells, "total"):
            with suppress(DroppedError):
                total_mib = parse_mib(total, columns.units[places["total"]])
        text = cells[places["used"]] if "used" in places else "N/A"
        if self.wants_columns and says_no_data(text):
            others = (at for at in columns.measures if at != places.get("total"))
            if not any(re.match(r"-?\d", cells[at]) for at in others):
                raise DroppedError("no data")
            return None, total_mib
        used_mib = parse_mib(text, columns.units[places["used"]])
        # `26532 MiB` cut behind a digit reads as a smaller, bare number.
        if self.has_units and not text.endswith("B"):
            raise DroppedError("unit missing where other rows have one")
        if total_mib < LEAST_TOTAL_MIB and columns.units[places["total"]] == ASSUMED_MIB:
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
        if not self.gpus:
            self.columns = self.columns.settle_index(cells)
        columns, places = self.columns, self.columns.places
        host, uuid, name = (columns.cell(cells, role) for role in ("host", "uuid", "name"))
        index = None if "uuid" in places else 0
        if "index" in places:
            index = parse_index(cells[places["index"]])
            for at in columns.other_indices:
                if index is not None and parse_index(cells[at]) not in (None, index):
                    names = f"{columns.names[places['index']]} and {columns.names[at]}"
                    raise self._refuse(f"its columns {names} disagree")
        elif uuid:
            of_host = [key for key in self.gpus if key[0] == host]
            index = next((key[1] for key in of_host if key[2] == uuid), len(of_host))
        if index is None:
            raise DroppedError("no GPU index")
        key = host, index, uuid, "" if uuid else name
        if "name" in places and not uuid and not name:  # `[Unknown Error]`
            key = next((known for known in self.gpus if known[:2] == (host, index)), key)
        if key not in self.gpus:
            self.gpus[key] = _Gpu(len(self.gpus), GpuUse(host, index, uuid, name))
        if not columns.has_gpus:
            self._look_at_single(host, cells)
        return self.gpus[key]

    def _look_at_single(self, host: str, cells: list[str]) -> None:
        """Refuse a row of which a column says that it is not of the log's only GPU."""
        columns = self.columns
        for at in columns.parting:
            name, cell = columns.names[at], cells[at]
            if self.only_cells.setdefault(name, cell) != cell:
                raise self._refuse(f"{_NO_ID} {name} differs")
            says_how_many = PARTING.fullmatch(name)
            if says_how_many and says_how_many[1] and cell not in ("0", "1"):
                raise self._refuse(f"{_NO_ID} {name} is {cell}")
        clocks_s = self.clocks_s.setdefault(host, [])
        if match := _CLOCK.search(columns.cell(cells, "timestamp")):
            hours, minutes, seconds = (float(part or 0) for part in match.groups())
            if len(clocks_s) < MOST_REMEMBERED:
                clocks_s.append(hours * 3600 + minutes * 60 + seconds)
        else:
            self.rows_without_time += 1

    def _check_single(self) -> None:
        """Refuse a log without an index whose rows come in rounds, as several GPUs' do."""
        headers = self.counts.ignored["header"] + self.counts.ignored["repeated header"]
        if self.rows_without_time > headers:
            raise self._refuse(f"{_NO_ID} no times")
        for clocks_s in self.clocks_s.values():
            gaps_s = sorted((after - before) % 86400 for before, after in pairwise(clocks_s))
            usual_s = gaps_s[int(0.95 * (len(gaps_s) - 1))] if gaps_s else 0
            if sum(gap < max(usual_s / 4, _SHORTEST_S) for gap in gaps_s) > 0.05 * len(gaps_s):
                raise self._refuse(f"{_NO_ID} several rows of one time")

    # ---- Samples, and the end -------------------------------------------------------------

    def _elapse(self, when: datetime | None) -> float:
        """Return the seconds since the log's first timestamp; nan where only one has a zone."""
        if when is None or (when.tzinfo is None) is not (self.start.tzinfo is None):
            return NAN
        return (when - self.start).total_seconds()

    def _keep(self, gpus: list[int], elapsed_s: list[float], used_mib: list,
              cells: Sequence[Sequence[str]]) -> None:  # fmt: skip
        """Keep the samples of some rows, `cells` being their columns."""
        columns = self.columns
        found = {"gpu": gpus, "elapsed_s": elapsed_s, "used_mib": used_mib}
        for name in SAMPLES[2:]:
            at = columns.places.get("total" if name == "total_mib" else name)
            found[name] = array("d", [NAN]) * len(gpus)
            if at is not None:
                found[name] = _parse_figures(cells[at], columns.units[at])
        for name, values in found.items():
            self.samples[name].extend(values)

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
            self._check_single()
        counts.dropped = +counts.dropped
        found = [self.gpus[key] for key in sorted(self.gpus)]
        if self.samples is not None:
            _renumber(self.samples, {gpu.position: at for at, gpu in enumerate(found)})
        gpus = tuple(gpu.finish() for gpu in found)
        counts.kept = sum(gpu.rows for gpu in gpus)
        problem = None
        if not gpus and is_error:
            problem = f'nvidia-smi said "{shorten(self.first_text, 120)}"'
        elif not gpus and counts.dropped:
            problem = f"no sample in it ({list_reasons(counts.dropped)})"
        elif not gpus:
            problem = "it has a header and no sample" if self.columns else "it is empty"
        asked_for = [not wanted or str(g.index) in wanted or g.uuid in wanted for g in gpus]
        if gpus and not any(asked_for):
            there = ", ".join(str(gpu.index) for gpu in gpus)
            problem = f"it has no GPU {' or '.join(wanted)}; there are {there}"
        log = GpuLog(self.path, gpus, counts, problem, self.samples, self.start)
        return log.select(asked_for, NOT_ASKED_FOR)


def _are_plain_times(stamps: list[str]) -> bool:
    """Whether times are nvidia-smi's, of one day, and rise. They are looked at all together."""
    first, last, length = stamps[0], stamps[-1], len(stamps[0])
    start, clock = length - len(_TIME_FORM), length - len("00:00:00.000")
    text = "".join(stamps).encode()
    if first[:start].strip() or sorted(stamps) != stamps or first[:clock] != last[:clock]:
        return False
    if text.translate(_TO_ZERO) != (first[:start].encode() + _TIME_FORM) * len(stamps):
        return False
    tens = text[clock + 3 :: length] + text[clock + 6 :: length]  # of minutes and seconds
    return parse_timestamp(last.strip()) is not None and not tens.strip(b"012345")


def _parse_plain_times(stamps: Sequence[str]) -> list[datetime]:
    texts = ",".join(stamps).replace("/", "-").split(",")
    return [datetime.fromisoformat(text.strip()) for text in texts]


def _parse_whole(cells: list[str]) -> list[int]:
    """Return the whole numbers of cells, [] when any is something else."""
    if not "".join(cells).replace(" ", "").isdigit():  # int() takes -0, 1_000 and a tab, too
        return []
    try:
        return list(map(int, cells))
    except ValueError:  # nothing, or two numbers
        return []


def _parse_figures(cells: Sequence[str], unit: str) -> array:
    """Return the numbers of a column, memory in MiB; nan where there is none."""
    n = len(cells)
    if n > 1 and cells.count(cells[0]) == n:  # as most are, for hours
        return _parse_figures(cells[:1], unit) * n
    if unit in ("MiB", "MB") and (whole := _parse_whole(cells)):
        with suppress(OverflowError):  # of hundreds of digits
            return array("d", whole)
    if "B" not in unit:
        with suppress(ValueError):
            return array("d", map(float, cells))
    return array("d", [_parse_figure(cell, unit) for cell in cells])


@lru_cache(MOST_REMEMBERED)
def _parse_figure(cell: str, unit: str) -> float:
    text = cell.strip().lower()
    try:
        if text.startswith("0x"):
            return float(int(text, 16))  # a mask's
        return float(parse_mib(cell.strip(), unit) if "B" in unit else text.split(" ")[0])
    except (ValueError, OverflowError):  # and DroppedError, which is a ValueError
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
