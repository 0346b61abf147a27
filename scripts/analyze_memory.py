#!/usr/bin/env python
"""Print peak, average and mode of each GPU's used memory out of nvidia-smi's CSV logs."""

import argparse
import json
import sys
from pathlib import Path

from common.console import printable, run_command
from common.errors import UserError
from scaling.read.memory_report import report_memory


def main() -> int:
    arguments = parse_arguments()
    try:
        reports = list(report_memory(arguments.paths, tuple(arguments.gpus)))
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    for report in reports:
        if report.error:
            print(f"error: {printable(report.error)}", file=sys.stderr)
        elif report.dropped:
            print(printable(f"{report.path}: {report.dropped}"), file=sys.stderr)
    if arguments.json:
        records = [{**r.record, "error": printable(r.error) or None} for r in reports]
        print(json.dumps(records, indent=2))
    else:
        for report in reports:
            if len(reports) > 1 and report.lines:
                print(printable(f"{report.path}:"))
            print(*report.lines, sep="\n", end="\n" if report.lines else "")
            if arguments.explain and report.counts:
                print(printable(f"{report.path}: {report.counts}"))
    return 1 if any(report.error for report in reports) else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
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
