"""Read psrecord's log: the peak of the RAM of a process tree and its mean CPU use.

psrecord 1.4 writes `# Elapsed time  CPU (%)  Real (MB)  Virtual (MB)`, then a row of four
numbers a sample (`--log-format csv`: elapsed_time,nproc,cpu,mem_real,mem_virtual;
`--include-io` adds four more). Its "MB" are 1024² bytes, and "Real" is the sum of each
process' resident memory, which counts pages shared between processes once for each. Its
first CPU sample is always 0: psutil has no interval to measure over yet.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.console import shorten
from common.errors import UserError
from scaling.read.columns import Column
from scaling.read.cpu_columns import NEEDED, PLAIN_ORDER, TITLES, is_bare_log, parse_header
from scaling.read.numbers import LoggedNumber, round_half_even
from scaling.read.text import clean_line, read_lines
from scaling.read.times import parse_timestamp

_VALUE = re.compile(r"\d{1,15}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?", re.IGNORECASE)
_CLOCK = re.compile(r"\b\d\d:\d\d(?::\d\d)?\b")
_SAMPLE_ROWS = 20  # looked at to see how many columns the rows have
_TIME_WORDS = 6  # `Sat Nov 21 10:00:05 UTC 2026`, the longest time that stands before a row


@dataclass(frozen=True)
class CpuLog:
    """One node's psrecord log: samples, peak RSS sum in MiB, mean CPU % without the first.

    `peak_mib` is None without a sample (`problem` says why), `mean_cpu_pct` with fewer than
    two. `lines == samples + sum(dropped.values()) + sum(ignored.values())`. `columns` holds
    each column's numbers as they were logged (CPU without the first sample).
    """

    path: Path
    samples: int
    peak_mib: LoggedNumber | None
    mean_cpu_pct: float | None
    covered_s: float
    interval_s: float | None
    lines: int
    dropped: dict[str, int]
    ignored: dict[str, int]
    problem: str | None
    columns: tuple[Column, ...] = ()


class CpuSample(NamedTuple):
    """One sample; cpu_pct is None for the first one of a log."""

    when: object
    elapsed_s: float
    cpu_pct: float | None
    rss_mib: float
    virtual_mib: float | None


def read_cpu_log(path: Path, on_sample: Callable[[CpuSample], None] | None = None) -> CpuLog:
    """Return what one node's psrecord log says (see CpuLog).

    Read: three columns or more in the order of the header, both log formats, a time before
    each row, launcher labels. Dropped: a last line without its end, rows with another number
    of columns than the header or with anything but numbers. Raises UserError when the
    file cannot be read or is no psrecord log. Source: psrecord 1.4, main.py.
    """
    reader = _Reader(Path(path), on_sample)
    for line, has_end in read_lines(path):
        reader.add(line, has_end)
    return reader.finish()


class _Reader:
    def __init__(self, path: Path, on_sample: Callable[[CpuSample], None] | None):
        self.path = path
        self.on_sample = on_sample
        self.lines = 0
        self.samples = 0
        self.dropped: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.names: tuple[str, ...] = ()
        self.is_csv = False
        self.has_header = False
        self.waiting: list[str] = []  # rows, until their number of columns is known
        self.settled_at = _SAMPLE_ROWS
        self.columns: dict[str, Column] = {}
        self.peak: LoggedNumber | None = None
        self.is_first = True  # of its log: its CPU figure is always 0
        self.elapsed_s: float | None = None
        self.covered_s = 0.0
        self.steps: Counter[float] = Counter()
        self.first_text = ""

    def add(self, line: str, has_end: bool) -> None:
        self.lines += 1
        if not line.strip():
            self.ignored["blank"] += 1
        elif not has_end:
            self.dropped["cut: the last line has no end"] += 1
        elif "\0" in line:
            self.first_text = self.first_text or shorten(line, 80)
            self.dropped["NUL bytes"] += 1
        elif names := parse_header(line):
            self._start_log(names, "," in line)
        else:
            self.first_text = self.first_text or shorten(line, 80)
            self.waiting.append(line)
            if len(self.waiting) >= self.settled_at:
                self.settled_at = 1
                self._settle()

    def _start_log(self, names: tuple[str, ...], is_csv: bool) -> None:
        if self.waiting:
            self._settle()
        self.ignored["repeated header" if self.has_header else "header"] += 1
        self.names, self.is_csv, self.has_header = names, is_csv, True
        self.is_first, self.elapsed_s, self.settled_at = True, None, _SAMPLE_ROWS

    def _settle(self) -> None:
        """Read the rows that waited: as many columns as most of them have are the log's."""
        waiting, self.waiting = self.waiting, []
        if not self.names and is_bare_log(waiting):
            self.names = PLAIN_ORDER
        if self.names:
            counts = Counter(len(self._split(line)[1]) for line in waiting)
            usual = max(counts, key=lambda count: (counts[count], count == len(self.names)))
            more = tuple(f"column {at + 1}" for at in range(len(self.names), usual))
            if usual >= len(NEEDED) and set(self.names[:usual]) >= NEEDED:
                self.names = (self.names + more)[:usual]
        for line in waiting:
            if reason := self._add_row(line):
                self.dropped[reason] += 1

    def _add_row(self, line: str) -> str | None:
        if not self.names:
            return "no header above it"
        when, cells = self._split(line)
        if len(cells) != len(self.names):
            return "another number of columns"
        if not all(_VALUE.fullmatch(cell) and math.isfinite(float(cell)) for cell in cells):
            return "not numbers"
        row = dict(zip(self.names, cells, strict=True))
        rss = LoggedNumber(row["rss_mib"])
        if self.peak is None or rss > self.peak:
            self.peak = rss
        self.samples += 1
        for name, cell in row.items():
            if name != "cpu_pct" or not self._is_empty_cpu(cell):
                self._find_column(name).add(float(cell))
        if self.on_sample:
            cpu_pct = None if self._is_empty_cpu(row["cpu_pct"]) else float(row["cpu_pct"])
            virtual = row.get("virtual_mib")
            virtual_mib = None if virtual is None else float(virtual)
            self.on_sample(CpuSample(when, float(row["elapsed_s"]), cpu_pct, rss, virtual_mib))
        self.is_first = False
        self._advance(float(row["elapsed_s"]))
        return None

    def _split(self, line: str) -> tuple[object, list[str]]:
        """Return (time before the row or None, the row's numbers)."""
        cells = [c.strip() for c in line.split(",")] if self.is_csv else clean_line(line).split()
        more = len(cells) - len(self.names)
        if 0 < more <= _TIME_WORDS:
            before = ("," if self.is_csv else " ").join(cells[:more]).strip("[],|")
            when = parse_timestamp(before)
            if when is not None or _CLOCK.search(before):  # `ts` writes `Nov 21 10:00:05`
                return when, cells[more:]
        return None, cells

    def _is_empty_cpu(self, cell: str) -> bool:
        """Whether a CPU figure is the first one, which has no interval behind it."""
        return self.is_first and (self.has_header or float(cell) == 0)

    def _find_column(self, name: str) -> Column:
        if name not in self.columns:
            unit = next((unit for known, unit in TITLES.values() if known == name), "")
            self.columns[name] = Column(name, unit)
        return self.columns[name]

    def _advance(self, elapsed_s: float) -> None:
        if self.elapsed_s is not None and elapsed_s > self.elapsed_s:
            self.covered_s += elapsed_s - self.elapsed_s
            self.steps[round(elapsed_s - self.elapsed_s, 1)] += 1
        self.elapsed_s = elapsed_s

    def finish(self) -> CpuLog:
        if self.waiting:
            self._settle()
        if not self.names and self.first_text:
            raise UserError(
                f'{self.path}: not a psrecord log: no "# Elapsed time  CPU (%) …" line; it has '
                f'"{self.first_text}"'
            )
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items())
        nothing = f"no sample in it ({reasons})" if reasons else "it is empty"
        usual_step_s = max(self.steps, key=lambda step: (self.steps[step], -step), default=None)
        cpu = self.columns.get("cpu_pct")
        return CpuLog(
            path=self.path,
            samples=self.samples,
            peak_mib=self.peak,
            mean_cpu_pct=cpu.mean if cpu else None,
            covered_s=self.covered_s,
            interval_s=usual_step_s,
            lines=self.lines,
            dropped=dict(self.dropped),
            ignored=dict(self.ignored),
            problem=None if self.samples else nothing,
            columns=tuple(self.columns.values()),
        )


def format_cpu(log: CpuLog) -> str:
    """Return `[<stem>] Peak = 4312.4 MiB, CPU mean = 187.3 %` ('' without a sample)."""
    if log.peak_mib is None:
        return ""
    mean = "—" if log.mean_cpu_pct is None else f"{round_half_even(log.mean_cpu_pct, 1)} %"
    return f"[{log.path.stem}] Peak = {round_half_even(log.peak_mib, 1)} MiB, CPU mean = {mean}"
