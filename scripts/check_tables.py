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
from pathlib import Path

from common.console import run_command
from scaling.arguments import add_study_arguments, find_chosen_runs, make_parser


def main() -> int:
    arguments = parse_arguments()
    from scaling.runs import choose_workload
    from scaling.tables import (
        Verdict,
        check_tables,
        count_verdicts,
        format_checked,
        list_checked,
        make_readme_tables,
    )

    runs = find_chosen_runs(arguments)
    workload = choose_workload(runs, arguments.workload)
    tables = make_readme_tables(runs, workload, arguments.job, source=str(arguments.folder))
    checked = check_tables(arguments.tables, tables, runs)
    counts = count_verdicts(checked)
    if arguments.json:
        document = {"counts": counts, "cells": list_checked(checked, arguments.show)}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        print(format_checked(checked, arguments.show), end="")
    return 1 if counts[Verdict.WRONG] else 0


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    text = "the filled-in copy of experiments/TABLES.md"
    parser.add_argument("tables", metavar="TABLES.md", type=Path, help=text)
    add_study_arguments(
        parser,
        ("folder", "workload", "job"),
        workload="the workload whose tables they are (default: tinyimagenet)",
        job="the Slurm job that you took a row from, if not the latest; may be repeated",
    )
    parser.add_argument("--show", action="store_true", help="print the answers, too")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
