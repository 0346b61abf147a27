"""Read psrecord's log: the peak of the RAM of a process tree and its mean CPU use.

psrecord 1.4 writes `# Elapsed time  CPU (%)  Real (MB)  Virtual (MB)`, then a row of numbers per
sample (`--log-format csv`: elapsed_time,nproc,cpu,mem_real,mem_virtual); `--include-io` adds
four more. Its "MB" are 1024² bytes, and "Real" is the sum of each process' resident memory,
which counts pages shared between processes once for each. Its first CPU sample is always 0:
psutil has no interval to measure over yet. Source: psrecord 1.4, main.py.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from common.console import shorten
from common.counts import LineCounts, list_reasons
from common.errors import UserError
from common.rounding import round_half_even
from scaling.read.columns import Column
from scaling.read.text import CUT, clean_line, read_blocks

LOG_COMMAND = "psrecord PID --include-children --interval 5 --log cpu_memory_log.txt"  # as our jobs
SAMPLES = ("elapsed_s", "cpu_pct", "rss_mib", "virtual_mib")
# Each form's titles in order, and our names of them; --include-io appends four more.
_FORMS = {
    "elapsed time cpu (%) real (mb) virtual (mb)": SAMPLES,
    "elapsed_time,nproc,cpu,mem_real,mem_virtual": ("elapsed_s", "processes", *SAMPLES[1:]),
}
_IO = ("read_count", "write_count", "read_bytes", "write_bytes")
_IO_TITLES = (" read count write count read bytes write bytes", "," + ",".join(_IO))
_UNITS = {
    "elapsed_s": "s", "cpu_pct": "%", "rss_mib": "MiB", "virtual_mib": "MiB", "read_bytes": "B",
    "write_bytes": "B",
}  # fmt: skip
_VALUE = re.compile(r"\d{1,15}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)
_PLAIN_ROWS = r"(?m)(?:(?:(?:^| ) *[0-9]{1,15}\.[0-9]{1,20}){%d} *(?:\n|\Z))*"


@dataclass(frozen=True)
class CpuLog:
    """One node's psrecord log: peak RSS sum in MiB, mean CPU % without the first sample.

    peak_mib is None without a sample (`problem` says why), mean_cpu_pct with fewer than two.
    columns: name -> Column of the figures as they were logged (CPU without the first sample).
    samples (None unless asked for): name (SAMPLES) -> an array with one entry per sample; `cpu_pct`
    is nan for the first of a log.
    """

    path: Path
    counts: LineCounts
    peak_mib: Decimal | None
    mean_cpu_pct: float | None
    covered_s: float
    interval_s: float | None
    problem: str | None
    columns: dict[str, Column] = field(default_factory=dict)
    samples: dict[str, array] | None = None


def read_cpu_log(path: Path, samples: bool = False) -> CpuLog:
    """Return what one node's psrecord log says (see CpuLog).

    Read: psrecord's two forms, with or without --include-io, in a launcher's labels too. Raises
    UserError when the file cannot be read or has no psrecord header.
    """
    reader = _Reader(Path(path), samples)
    for lines, have_ends in read_blocks(path):
        head = 0
        while head < len(lines) and not reader.names:
            reader.add(lines[head], have_ends)
            head += 1
        if not (have_ends and reader.add_plain(lines[head:])):
            for line in lines[head:]:
                reader.add(line, have_ends)
        reader.take_rows()
    return reader.finish()


def parse_header(line: str) -> tuple[str, ...] | None:
    """Return our names of a psrecord header's columns, None for any other line."""
    if "lapsed" not in line:
        return None
    text = " ".join(clean_line(line).lstrip("# ").lower().split()).replace(", ", ",")
    io = next((titles for titles in _IO_TITLES if text.endswith(titles)), "")
    names = _FORMS.get(text.removesuffix(io))
    return names and (names + _IO if io else names)


class _Reader:
    """Takes the lines of a log in; holds its columns and where each line went."""

    def __init__(self, path: Path, samples: bool):
        self.path = path
        self.counts = LineCounts()
        self.names: tuple[str, ...] = ()
        self.is_csv = False
        self.rows: list[list[str]] = []  # below the newest header, not yet taken
        self.columns: dict[str, Column] = {}
        self.samples = {name: array("d") for name in SAMPLES} if samples else None
        self.last_s: Decimal | None = None  # None: the next row is the first of its log
        self.covered_s = Decimal(0)
        self.steps_s: Counter[float] = Counter()
        self.first_text = ""

    def add(self, line: str, has_end: bool) -> None:
        self.counts.lines += 1
        if not line.strip():
            self.counts.ignored["blank"] += 1
        elif has_end and "\0" not in line and (names := parse_header(line)):
            self.counts.ignored["repeated header" if self.names else "header"] += 1
            self.take_rows()
            self.names, self.is_csv, self.last_s = names, "," in line, None
        elif reason := self._add_row(line) if has_end else CUT:
            if has_end:
                self.first_text = self.first_text or shorten(line, 80)
            self.counts.dropped[reason] += 1
        else:
            self.counts.kept += 1

    def add_plain(self, lines: list[str]) -> bool:
        """Take rows in together as psrecord prints them; False, with nothing taken, if one is not.

        Looked at one by one they take four times as long.
        """
        width, text = len(self.names), "\n".join(lines)
        if self.is_csv or not re.fullmatch(_PLAIN_ROWS % width, text):
            return False
        self.rows += zip(*[iter(text.split())] * width, strict=True)
        self.counts.lines += len(lines)
        self.counts.kept += len(lines)
        return True

    def _add_row(self, line: str) -> str:
        """Take a row in; return why it is none, '' when it is one."""
        text = clean_line(line)
        cells = [cell.strip() for cell in text.split(",")] if self.is_csv else text.split()
        if "\0" in line:
            return "NUL bytes"
        if not self.names:
            return "no header above it"
        if len(cells) != len(self.names):
            return "another number of columns"
        if not all(map(_VALUE.fullmatch, cells)):
            return "not numbers"
        self.rows.append(cells)
        return ""

    def take_rows(self) -> None:
        """Count the rows that were added, column by column."""
        if not self.rows:
            return
        printed = dict(zip(self.names, zip(*self.rows, strict=True), strict=True))
        self.rows = []
        columns = {name: list(map(Decimal, cells)) for name, cells in printed.items()}
        for name, values in (self.samples or {}).items():
            values.extend(map(float, printed[name]))
        times_s = columns["elapsed_s"]
        if self.last_s is None:  # its CPU figure is always 0
            del columns["cpu_pct"][0]
            if self.samples:
                self.samples["cpu_pct"][-len(times_s)] = math.nan
        times_s = [*([] if self.last_s is None else [self.last_s]), *times_s]
        self.last_s = times_s[-1]
        steps_s = [after - before for before, after in pairwise(times_s) if after > before]
        self.covered_s += sum(steps_s)
        self.steps_s.update(round(float(step_s), 1) for step_s in steps_s)
        for name, values in columns.items():
            if values:
                known = Column(name, _UNITS.get(name, ""))
                known = self.columns.setdefault(name, known)
                known.merge(Column(name, "", len(values), sum(values), max(values), min(values)))

    def finish(self) -> CpuLog:
        if not self.names and self.first_text:
            raise UserError(
                f'{self.path}: not a psrecord log: no "# Elapsed time  CPU (%) …" line; it has '
                f'"{self.first_text}"; log with `{LOG_COMMAND}`'
            )
        dropped = self.counts.dropped
        nothing = f"no sample in it ({list_reasons(dropped)})" if dropped else "it is empty"
        cpu, rss = self.columns.get("cpu_pct"), self.columns.get("rss_mib")
        return CpuLog(
            self.path,
            self.counts,
            peak_mib=rss.max if rss else None,
            mean_cpu_pct=cpu.mean if cpu else None,
            covered_s=float(self.covered_s),
            interval_s=max(self.steps_s, key=lambda s: (self.steps_s[s], -s), default=None),
            problem=None if self.counts.kept else nothing,
            columns=self.columns,
            samples=self.samples,
        )


def format_cpu(log: CpuLog) -> str:
    """Return `[<stem>] Peak = 4312.4 MiB, CPU mean = 187.3 %` ('' without a sample)."""
    if log.peak_mib is None:
        return ""
    mean = "—" if log.mean_cpu_pct is None else f"{round_half_even(log.mean_cpu_pct, 1)} %"
    return f"[{log.path.stem}] Peak = {round_half_even(log.peak_mib, 1)} MiB, CPU mean = {mean}"
