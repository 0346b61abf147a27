#!/usr/bin/env python
"""Say what any file of a run is, and what was read from it: lines, GPUs or ranks, columns.

python scripts/inspect_log.py FILE…
python scripts/inspect_log.py --symptoms      what failed jobs print, the cause and the fix
"""

import argparse
import json
import sys
from pathlib import Path

from common.arguments import CommandParser
from common.console import printable, run_command
from common.errors import UserError
from scaling.arguments import add_log_arguments
from scaling.read.foreign_log import LogChoice
from scaling.read.symptoms import write_symptoms
from scaling.runs.inspection import format_inspection, inspect_log


def main() -> int:
    arguments = parse_arguments()
    if arguments.symptoms:
        print(write_symptoms(), end="")
        return 0
    records, is_good = [], True
    try:
        choice = LogChoice.parse(arguments.log_format, arguments.gpus, arguments.samples)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    for path in arguments.files:
        try:
            found = inspect_log(path, choice)
        except UserError as error:
            print(f"error: {printable(error)}", file=sys.stderr)
            records.append({"file": str(path), "kind": None, "reason": printable(error)})
            is_good = False
            continue
        is_good = is_good and found.is_good
        records.append(found.to_record())
        if not found.is_good:
            message = f"error: {path}: {found.kind}: {found.reason}"
            print(printable(message), file=sys.stderr)
        if not arguments.json:
            print(*format_inspection(found), sep="\n")
    if arguments.json:
        print(json.dumps(records, indent=2, allow_nan=False))
    return 0 if is_good else 1


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        __doc__,
        epilog="Kinds: slurm-out, trainer-log, gpu-csv, psrecord, rank-json, training-metrics, "
        "run-json,\njob-end, sacct, or not recognised, with the reason. What a file is is "
        "told from what is in it;\na file that is not what its name says is named and not read. "
        "Exit status: 0 when every file is\nof a kind and gave values, 1 when one did not.",
    )
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="any file of a run")
    text = "print a list of records, one per file (scripts/README.md says what they hold)"
    parser.add_argument("--json", action="store_true", help=text)
    text = "print the table of experiments/TROUBLESHOOTING.md, which this command writes"
    parser.add_argument("--symptoms", action="store_true", help=text)
    add_log_arguments(parser)
    arguments = parser.parse_args()
    if bool(arguments.files) == arguments.symptoms:
        parser.error("name the files to inspect, or --symptoms alone")
    return arguments


if __name__ == "__main__":
    run_command(main)
