"""Samples of one GPU's memory, and the rounds of a log that does not name its GPUs."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from common.errors import UserError
from scaling.read.numbers import round_half_even, to_fraction
from scaling.read.times import parse_timestamp, seconds_between

__all__ = ["GpuLog", "GpuMemory", "GpuSeries", "Rounds", "parse_timestamp", "seconds_between"]

ROUND_GAP_S = 0.25  # the rows of one round are milliseconds apart
LEAST_GAP_S = 0.0005
LEAST_LEAP = 4.0  # between the gaps within a round and those between rounds
SLOWEST_GAP_S = 0.02  # between two rows of a round, where nothing else is known
MOST_GPUS = 16  # of a node; more rows in a "round" are several rounds
MOST_REMEMBERED = 100_000  # amounts; a GPU has fewer MiB than that
STEPS_COUNTED = 100  # the usual step between samples is that of the first ones


@dataclass(frozen=True)
class GpuMemory:
    """Used memory of one GPU over a log: n samples; peak, average and mode in MiB.

    `uuid` is '' when the log names none; the index may then be the order of appearance.

    `covered_s` is the time between the first and the last sample (backward steps of the
    clock left out) and `interval_s` the usual step; None without readable timestamps.
    """

    index: int
    n: int
    peak_mib: int | float
    average_mib: Fraction
    mode_mib: int | float
    first: datetime | None
    last: datetime | None
    covered_s: float | None
    interval_s: float | None
    uuid: str = ""

    @property
    def avg_mib(self) -> float:
        return float(self.average_mib)

    def to_record(self) -> dict:
        """Return what JSON shows of it."""
        names = ("index", "uuid", "n", "peak_mib", "avg_mib", "mode_mib")
        return {name: getattr(self, name) for name in names} | {"uuid": self.uuid or None}


@dataclass(frozen=True)
class GpuLog:
    """One node's GPU log: its GPUs by rising index, and where each of its lines went.

    `lines == kept + sum(dropped.values()) + sum(ignored.values())`. `problem` says why
    there is no GPU, else it is None.
    """

    path: Path
    gpus: tuple[GpuMemory, ...]
    lines: int
    kept: int
    dropped: dict[str, int]
    ignored: dict[str, int]
    problem: str | None

    @property
    def first(self) -> datetime | None:
        return self.gpus[0].first if self.gpus else None

    @property
    def last(self) -> datetime | None:
        return self.gpus[-1].last if self.gpus else None


class GpuSeries:
    """Collects one GPU's samples; keeps counts of values, never the samples."""

    def __init__(self, index: int, uuid: str = ""):
        self.index = index
        self.uuid = uuid
        self.counts: Counter[int | float] = Counter()
        self.steps_counted = 0
        self.steps: Counter[int] = Counter()  # tenths of a second between samples
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.covered = timedelta()  # exact, so that the order of adding does not show

    def add(self, when: datetime | None, used_mib: int | float | None) -> None:
        """Take one sample in; without an amount only its time counts."""
        if used_mib is not None:
            self.counts[used_mib] += 1
        if when is not None:
            self.add_time(when)

    def add_time(self, when: datetime) -> None:
        if self.first is None:
            self.first = when
        elif (step_s := seconds_between(self.last, when)) > 0:
            self.covered += when - self.last
            if self.steps_counted < STEPS_COUNTED:
                self.steps[int(step_s * 10 + 0.5)] += 1
                self.steps_counted += 1
        self.last = when

    def add_span(self, until: datetime) -> None:
        """Take in that there were samples from the last one's time until this one, in order."""
        self.covered += until - self.last
        self.last = until

    def summarise(self) -> GpuMemory:
        n = self.counts.total()
        exact = (v if isinstance(v, int) else to_fraction(v) for v in self.counts)
        total_mib = sum(v * n for v, n in zip(exact, self.counts.values(), strict=True))
        most = max(self.counts.values())
        usual_step = max(self.steps, key=lambda step: (self.steps[step], -step), default=None)
        return GpuMemory(
            index=self.index,
            n=n,
            peak_mib=max(self.counts),
            average_mib=Fraction(total_mib) / n,
            # Of several most frequent values the smallest, as pandas' Series.mode()[0].
            mode_mib=min(value for value, count in self.counts.items() if count == most),
            first=self.first,
            last=self.last,
            covered_s=None if self.first is None else self.covered.total_seconds(),
            interval_s=None if usual_step is None else usual_step / 10,
            uuid=self.uuid,
        )


class SeriesByGpu(dict[tuple[int, str], GpuSeries]):
    """(index, uuid) -> the series of that GPU, made when it is first asked for."""

    def __missing__(self, gpu: tuple[int, str]) -> GpuSeries:
        self[gpu] = GpuSeries(*gpu)
        return self[gpu]


class Rounds:
    """Numbers the rows of a log that has neither index nor uuid by their order in a round.

    Only rounds as large as the first one are given out: in a shorter one a row is missing,
    and then the rows after it would be taken for another GPU's.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[tuple] = []  # (time, MiB or why there is none, fields)
        self.gap_s = ROUND_GAP_S
        self.size: int | None = None
        self.dropped = 0

    def add(self, when: datetime | None, used_mib: int | float | str | None, fields) -> list[tuple]:
        """Take a row in; return (order, time, MiB, fields) of each row of a round it has ended."""
        if when is None:
            self.rows.append((when, used_mib, fields))
            raise self._refusal()
        gap_s = abs(seconds_between(self.rows[-1][0], when)) if self.rows else 0.0
        ended = list(self.close()) if gap_s > self.gap_s else []
        self.rows.append((when, used_mib, fields))
        if len(self.rows) > MOST_GPUS:
            ended += self._part_anew()
        return ended

    def _part_anew(self) -> list[tuple]:
        """Part rows that come faster than usual: a round's gaps are far smaller than the others."""
        gaps_s = [abs(seconds_between(a[0], b[0])) for a, b in pairwise(self.rows)]
        ordered = sorted(max(gap_s, LEAST_GAP_S) for gap_s in gaps_s)
        leap, at = max((b / a, at) for at, (a, b) in enumerate(pairwise(ordered)))
        if self.size is not None or (leap < LEAST_LEAP and ordered[0] < SLOWEST_GAP_S):
            raise self._refusal()
        one_gpu = leap < LEAST_LEAP
        self.gap_s = SLOWEST_GAP_S / 2 if one_gpu else math.sqrt(ordered[at] * ordered[at + 1])
        rows, self.rows = self.rows, []
        return [ended for row in rows for ended in self.add(*row)]

    def _refusal(self) -> UserError:
        return UserError(
            f"{self.path}: its GPUs cannot be told apart: no index, no uuid, and no timestamps "
            "that part the rounds; log with --query-gpu=timestamp,index,…"
        )

    def close(self) -> Iterator[tuple]:
        """Yield the rows of the round at hand when it is a whole one."""
        rows, self.rows = self.rows, []
        self.size = self.size or len(rows) or None
        for order, (when, used_mib, fields) in enumerate(rows):
            if isinstance(used_mib, str):
                continue  # counted by the reader under its own reason
            if len(rows) == self.size:
                yield order, when, used_mib, fields
            else:
                self.dropped += 1

    def give_up(self) -> Iterator[tuple]:
        """Yield the rows at hand, of whatever GPU they are."""
        rows, self.rows = self.rows, []
        yield from (row for row in rows if not isinstance(row[1], str))


def format_memory(log: GpuLog) -> list[str]:
    """Return one line a GPU, `[<stem> - GPU <index>] Peak = …, Avg = …, Mode = …`, in MiB."""
    return [
        f"[{log.path.stem} - GPU {gpu.index}] Peak = {gpu.peak_mib} MiB, "
        f"Avg = {round_half_even(gpu.average_mib, 2)} MiB, Mode = {gpu.mode_mib} MiB"
        for gpu in log.gpus
    ]


def format_dropped(log: GpuLog) -> str:
    """Return `3 of 120 lines dropped: 2 no data, 1 NUL bytes`, '' when none was."""
    if not log.dropped:
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in log.dropped.items())
    return f"{sum(log.dropped.values())} of {log.lines} lines dropped: {reasons}"
