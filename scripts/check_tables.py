#!/usr/bin/env python
"""Check the tables that you filled in against your logs, cell by cell.

    python scripts/check_tables.py experiments/TABLES.md
    python scripts/check_tables.py my_tables.md ~/study/experiments --show

Each cell is right, rounded differently but right, wrong (with the log and line that holds it), not
filled, or has nothing to fill in. The answers are printed only with --show. The exit status is 1
when a cell is wrong. Which run stands for a scale is fill_tables.py's rule: the latest complete
one, or the one that --job names.
"""

import argparse
import json
import sys
from pathlib import Path

from common.console import printable, run_command
from common.errors import UserError
from scaling.runs.find import find_runs
from scaling.runs.workloads import DEFAULT_WORKLOAD
from scaling.tables.check import Verdict, check_tables, count_verdicts, format_checked, to_records
from scaling.tables.readme import build_report


def main() -> int:
    arguments = parse_arguments()
    try:
        report = build_report(arguments.folder, arguments.job, workload=arguments.workload)
        checked = check_tables(arguments.tables, report, find_runs(arguments.folder))
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    counts = count_verdicts(checked)
    if arguments.json:
        document = {"counts": counts, "cells": to_records(checked, arguments.show)}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        print(format_checked(checked, arguments.show), end="")
    return 1 if counts[Verdict.WRONG] else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "tables", metavar="TABLES.md", type=Path, help="the filled-in copy of experiments/TABLES.md"
    )
    text = "the folder with the job files and their logs (default: experiments)"
    add("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("experiments"), help=text)
    text = "the workload whose tables they are (default: tinyimagenet)"
    add("--workload", metavar="W", default=DEFAULT_WORKLOAD, help=text)
    text = "the Slurm job that you took a row from, if not the latest; may be repeated"
    add("--job", metavar="ID", action="append", default=[], help=text)
    add("--show", action="store_true", help="print the answers, too")
    add("--json", action="store_true", help="the same for programs")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
