"""Read psrecord's log: the peak of the RAM of a process tree and its mean CPU use.

psrecord 1.4 writes `# Elapsed time  CPU (%)  Real (MB)  Virtual (MB)`, then a row of four
numbers a sample (`--log-format csv`: elapsed_time,nproc,cpu,mem_real,mem_virtual). Its "MB"
are 1024² bytes, and "Real" is the sum of each process' resident memory, which counts pages
shared between processes once for each. Its first CPU sample is always 0: psutil has no
interval to measure over yet.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import ScalingError
from scaling.numbers import LoggedNumber, round_half_even
from scaling.text import read_lines, shorten

_PLAIN_HEADER = re.compile(r"#\s*Elapsed time\s+CPU \(%\)\s+Real \(MB\)\s+Virtual \(MB\)(.*)")
_CSV_HEADER = "elapsed_time,nproc,cpu,mem_real,mem_virtual"
_VALUE = re.compile(r"\d{1,15}(?:\.\d{1,20})?(?:e-?\d{1,3})?", re.IGNORECASE)


@dataclass(frozen=True)
class CpuLog:
    """One node's psrecord log: samples, peak RSS sum in MiB, mean CPU % without the first.

    `peak_mib` is None without a sample (`problem` says why), `mean_cpu_pct` with fewer than
    two. `lines == samples + sum(dropped.values()) + sum(ignored.values())`.
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


def read_cpu_log(path: Path) -> CpuLog:
    """Return what one node's psrecord log says (see CpuLog).

    Dropped: a last line without its end, rows with another number of columns than the
    header or with anything but numbers. Raises ScalingError when the file cannot be read or
    is no psrecord log. Source: psrecord 1.4, main.py.
    """
    reader = _Reader(Path(path))
    for line, has_end in read_lines(path):
        reader.add(line, has_end)
    return reader.finish()


class _Reader:
    def __init__(self, path: Path):
        self.path = path
        self.lines = 0
        self.samples = 0
        self.dropped: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.columns: tuple[int, int, int] | None = None  # how many; where CPU and RSS stand
        self.peak: LoggedNumber | None = None
        self.is_first = True  # of its log: its CPU figure is always 0
        self.cpu_sum_pct = 0.0
        self.cpu_samples = 0
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
        elif columns := _parse_header(line):
            self.ignored["header" if self.columns is None else "repeated header"] += 1
            self.columns, self.is_first, self.elapsed_s = columns, True, None
        else:
            self.first_text = self.first_text or shorten(line, 80)
            reason = self._add_row(line)
            if reason:
                self.dropped[reason] += 1

    def _add_row(self, line: str) -> str | None:
        if self.columns is None:
            return "no header above it"
        count, cpu_at, rss_at = self.columns
        cells = line.split(",") if "," in line else line.split()
        if len(cells) != count:
            return "another number of columns"
        if not all(_VALUE.fullmatch(cell) and math.isfinite(float(cell)) for cell in cells):
            return "not numbers"
        self.samples += 1
        rss = LoggedNumber(cells[rss_at])
        if self.peak is None or rss > self.peak:
            self.peak = rss
        if not self.is_first:
            self.cpu_sum_pct += float(cells[cpu_at])
            self.cpu_samples += 1
        self.is_first = False
        self._advance(float(cells[0]))
        return None

    def _advance(self, elapsed_s: float) -> None:
        if self.elapsed_s is not None and elapsed_s > self.elapsed_s:
            self.covered_s += elapsed_s - self.elapsed_s
            self.steps[round(elapsed_s - self.elapsed_s, 1)] += 1
        self.elapsed_s = elapsed_s

    def finish(self) -> CpuLog:
        if self.columns is None and self.first_text:
            raise ScalingError(
                f'{self.path}: not a psrecord log: no "# Elapsed time  CPU (%) …" line; it has '
                f'"{self.first_text}"'
            )
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items())
        nothing = f"no sample in it ({reasons})" if reasons else "it is empty"
        usual_step_s = max(self.steps, key=lambda step: (self.steps[step], -step), default=None)
        return CpuLog(
            path=self.path,
            samples=self.samples,
            peak_mib=self.peak,
            mean_cpu_pct=self.cpu_sum_pct / self.cpu_samples if self.cpu_samples else None,
            covered_s=self.covered_s,
            interval_s=usual_step_s,
            lines=self.lines,
            dropped=dict(self.dropped),
            ignored=dict(self.ignored),
            problem=None if self.samples else nothing,
        )


def _parse_header(line: str) -> tuple[int, int, int] | None:
    if line.strip() == _CSV_HEADER or line.startswith(_CSV_HEADER + ","):
        return line.count(",") + 1, 2, 3
    match = _PLAIN_HEADER.match(line)
    if not match:
        return None
    # `--include-io` adds columns of two words each: `Read count   Write count …`.
    return 4 + len(match[1].split()) // 2, 1, 2


def format_cpu(log: CpuLog) -> str:
    """Return `[<stem>] Peak = 4312.4 MiB, CPU mean = 187.3 %` ('' without a sample)."""
    if log.peak_mib is None:
        return ""
    mean = "—" if log.mean_cpu_pct is None else f"{round_half_even(log.mean_cpu_pct, 1)} %"
    return f"[{log.path.stem}] Peak = {round_half_even(log.peak_mib, 1)} MiB, CPU mean = {mean}"
