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
from collections.abc import Sequence
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
_PLAIN_ROW = re.compile(" *" + " +".join([r"([0-9]{1,15}\.[0-9]{1,20})"] * len(SAMPLES)) + " *")


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
    path, counts, columns = Path(path), LineCounts(), {}
    kept = {name: array("d") for name in SAMPLES} if samples else {}
    names: tuple[str, ...] = ()
    last_s: Decimal | None = None  # None: the next row is the first of its log
    covered_s, steps_s, first_text = Decimal(0), Counter(), ""
    rows: list[Sequence[str]] = []  # below the newest header, not yet counted

    def count_rows() -> None:
        """Count rows column by column: one by one they take four times as long."""
        nonlocal last_s, covered_s
        printed = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
        for name, values in kept.items():
            values.extend(map(float, printed.get(name, ())))
        for name, cells in printed.items():
            values = list(map(Decimal, cells))
            if name == "elapsed_s":
                times_s = values if last_s is None else [last_s, *values]
            elif name == "cpu_pct" and last_s is None:  # its first figure is always 0
                del values[0]
                if kept:
                    kept[name][-len(rows)] = math.nan
            column = columns.setdefault(name, Column(name, _UNITS.get(name, "")))
            if values:
                column.merge(Column(name, "", len(values), sum(values), max(values), min(values)))
        if rows:
            counts.kept += len(rows)
            steps = [after - before for before, after in pairwise(times_s) if after > before]
            covered_s, last_s = covered_s + sum(steps), times_s[-1]
            for step_s, times in Counter(steps).items():
                steps_s[round(float(step_s), 1)] += times
            rows.clear()

    for lines, has_end in read_blocks(path):
        counts.lines += len(lines)
        for line in lines:
            if names == SAMPLES and has_end and (plain := _PLAIN_ROW.fullmatch(line)):
                rows.append(plain.groups())
                continue
            if not line.strip():
                counts.ignored["blank"] += 1
                continue
            if has_end and "\0" not in line and (found := parse_header(line)):
                counts.ignored["repeated header" if names else "header"] += 1
                count_rows()
                names, last_s = found, None
                continue
            text = clean_line(line)
            cells = [cell.strip() for cell in text.split(",")] if "," in text else text.split()
            if reason := _find_fault(line, cells, names) if has_end else CUT:
                counts.dropped[reason] += 1
                first_text = first_text or (shorten(line, 80) if has_end else "")
            else:
                rows.append(cells)
        count_rows()
    if not names and first_text:
        raise UserError(
            f'{path}: not a psrecord log: no "# Elapsed time  CPU (%) …" line; it has '
            f'"{first_text}"; log with `{LOG_COMMAND}`'
        )
    dropped = counts.dropped
    nothing = f"no sample in it ({list_reasons(dropped)})" if dropped else "it is empty"
    cpu, rss = columns.get("cpu_pct"), columns.get("rss_mib")
    return CpuLog(
        path,
        counts,
        peak_mib=rss.max if rss else None,
        mean_cpu_pct=cpu.mean if cpu else None,
        covered_s=float(covered_s),
        interval_s=max(steps_s, key=lambda step_s: (steps_s[step_s], -step_s), default=None),
        problem=None if counts.kept else nothing,
        columns=columns,
        samples=kept or None,
    )


def parse_header(line: str) -> tuple[str, ...] | None:
    """Return our names of a psrecord header's columns, None for any other line."""
    if "lapsed" not in line:
        return None
    text = " ".join(clean_line(line).lstrip("# ").lower().split()).replace(", ", ",")
    io = next((titles for titles in _IO_TITLES if text.endswith(titles)), "")
    names = _FORMS.get(text.removesuffix(io))
    return names and (names + _IO if io else names)


def _find_fault(line: str, cells: list[str], names: tuple[str, ...]) -> str:
    """Return why a line is no row, '' when it is one."""
    if "\0" in line:
        return "NUL bytes"
    if not names or len(cells) != len(names):
        return "another number of columns" if names else "no header above it"
    return "" if all(map(_VALUE.fullmatch, cells)) else "not numbers"


def format_cpu(log: CpuLog) -> str:
    """Return `[<stem>] Peak = 4312.4 MiB, CPU mean = 187.3 %` ('' without a sample)."""
    if log.peak_mib is None:
        return ""
    mean = "—" if log.mean_cpu_pct is None else f"{round_half_even(log.mean_cpu_pct, 1)} %"
    return f"[{log.path.stem}] Peak = {round_half_even(log.peak_mib, 1)} MiB, CPU mean = {mean}"
