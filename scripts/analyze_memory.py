#!/usr/bin/env python
"""Print peak, average and mode of each GPU's used memory from nvidia-smi's CSV logs.

python scripts/analyze_memory.py experiments/baseline/gpu_memory/123    a job's, in MiB
python scripts/analyze_memory.py --gpus 0,1 FILE.csv                    of these GPUs alone
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common.arguments import CommandParser
from common.console import printable, run_command
from common.counts import LineCounts
from common.errors import UserError
from scaling.read.columns import plain_number
from scaling.read.cpu_log import format_cpu, read_cpu_log
from scaling.read.gpu_log import format_memory, read_gpu_log
from scaling.read.kinds import PSRECORD, detect_kind, expected_kind, name_other_tool


@dataclass(frozen=True)
class MemoryReport:
    """One file: `lines` to print and `record` for JSON; or why it has none."""

    path: Path
    lines: list[str]
    record: dict
    counts: LineCounts
    error: str = ""


def main() -> int:
    arguments = parse_arguments()
    paths = [log for path in arguments.paths for log in find_logs(path)]
    reports = list(report_memory(paths, tuple(arguments.gpus)))
    for report in reports:
        if report.error:
            print(f"error: {printable(report.error)}", file=sys.stderr)
        elif dropped := report.counts.describe_dropped():
            print(printable(f"{report.path}: {dropped}"), file=sys.stderr)
    if arguments.json:
        records = [{**r.record, "error": printable(r.error) or None} for r in reports]
        print(json.dumps(records, indent=2))
    else:
        for report in reports:
            if len(reports) > 1 and report.lines:
                print(printable(f"{report.path}:"))
            print(*report.lines, sep="\n", end="\n" if report.lines else "")
            if arguments.explain and report.counts.lines:
                print(printable(f"{report.path}: {report.counts.describe()}"))
    return 1 if any(report.error for report in reports) else 0


def find_logs(path: Path) -> list[Path]:
    """Return a file itself, or each gpu_memory_log*.csv below a folder: node2 before node10.

    Raises UserError for a folder without any.
    """
    if not path.is_dir():
        return [path]
    found = [log for log in path.rglob("gpu_memory_log*.csv") if log.is_file()]
    if not found:
        raise UserError(
            f"{path}: no gpu_memory_log*.csv below it; name a job's folder or its CSV file"
        )
    return sorted(found, key=split_numbers)


def split_numbers(path: Path) -> list:
    """Return a sort key that takes the numbers in a path by their value."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def report_memory(paths: list[Path], gpus: tuple[str, ...]) -> Iterator[MemoryReport]:
    """Yield a report on each log; gpus: the indices or uuids that count, all when none is named."""
    for path in paths:
        try:
            report = read_memory(path, gpus)
        except UserError as error:
            report = MemoryReport(path, [], {"file": str(path)}, LineCounts(), str(error))
        if report.error and path.is_file() and (words := name_other_tool(path)):
            report = replace(report, error=f"{path}: {words}")
        yield report


def read_memory(path: Path, gpus: tuple[str, ...]) -> MemoryReport:
    """Read a log by its name, so that another kind under that name is refused; else by content."""
    kind = expected_kind(path)
    if kind is None:
        kind = detect_kind(path).name
    if kind == PSRECORD:
        cpu = read_cpu_log(path)
        error = f"{path}: no CPU memory: {cpu.problem}" if cpu.problem else ""
        record = {
            "file": str(path),
            "peak_mib": plain_number(cpu.peak_mib),
            "mean_cpu_pct": cpu.mean_cpu_pct,
            **cpu.counts.to_record(),
        }
        lines = [] if cpu.problem else [format_cpu(cpu)]
        return MemoryReport(path, lines, record, cpu.counts, error)
    log = read_gpu_log(path, gpus)
    error = f"{path}: no GPU memory: {log.problem}" if log.problem else ""
    first, last = (log.gpus[0].first, log.gpus[-1].last) if log.gpus else (None, None)
    record = {
        "file": str(path),
        "gpus": [gpu.to_record() for gpu in log.gpus],
        "first_timestamp": first and first.isoformat(),
        "last_timestamp": last and last.isoformat(),
        **log.counts.to_record(),
    }
    return MemoryReport(path, format_memory(log), record, log.counts, error)


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        __doc__,
        epilog="Exit status: 0 when every file gave values, 1 when one did not (it is named).",
    )
    parser.add_argument(
        "paths",
        metavar="FILE|DIR",
        nargs="*",
        type=Path,
        default=[Path()],
        help="a gpu_memory_log*.csv or cpu_memory_log*.txt, or a folder below which every "
        "gpu_memory_log*.csv is read (default: this folder)",
    )
    text = "say where each line of a file went: kept, dropped (and why), ignored (by which rule)"
    parser.add_argument("--explain", action="store_true", help=text)
    text = "count only these GPUs, by index or UUID: the job's own on a node that it shares"
    parser.add_argument("--gpus", metavar="ID,…", type=split_ids, default=[], help=text)
    parser.add_argument("--json", action="store_true", help="print JSON, memory in MiB")
    return parser.parse_args()


def split_ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    run_command(main)
