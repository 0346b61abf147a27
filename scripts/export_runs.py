#!/usr/bin/env python
"""Write the runs below a folder as tidy tables: runs, epochs, rank epochs, samples.

    python scripts/export_runs.py experiments -o DIR

One file per table, NAME.csv or NAME.json, each whole or not at all. Every column that is a
measure carries its unit in its name; scripts/README.md lists them. In a notebook the same frames
come from `scaling.runs.make_frames(find_runs(FOLDER))`.
"""

import argparse
import sys
from pathlib import Path

from common.console import notice, printable, run_command
from common.errors import UserError
from common.files import write_whole
from scaling.arguments import add_study_arguments, find_chosen_runs, make_parser

TABLES = ("runs", "epochs", "rank_epochs", "samples")


def main() -> int:
    arguments = parse_arguments()
    try:
        for path, rows in export_runs(arguments):
            notice(printable(f"{path}: {rows} row{'s' if rows != 1 else ''}"))
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return 0


def export_runs(arguments: argparse.Namespace) -> list[tuple[Path, int]]:
    """Write the tables that were asked for; return (file, rows) of each."""
    from scaling.runs.frames import FRAMES, to_csv, to_json  # pandas: not for --help

    runs = [run for run in find_chosen_runs(arguments) if run.id]
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{arguments.output}: cannot be made: {reason}") from error
    write = to_csv if arguments.format == "csv" else to_json
    written = []
    for name in arguments.table or TABLES:  # one at a time: the samples of many runs are large
        frame = FRAMES[name](runs)
        path = arguments.output / f"{name}.{arguments.format}"
        write_whole(path, write(frame))
        written.append((path, len(frame)))
    return written


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_study_arguments(parser, ["folder"])
    add = parser.add_argument
    add("--format", choices=("csv", "json"), default="csv", help="default: csv")
    text = f"only this table, one of {', '.join(TABLES)}; may be repeated (default: all)"
    add("--table", metavar="NAME", choices=TABLES, action="append", help=text)
    text = "the folder to write to; it is made when it is not there"
    add("-o", "--output", metavar="DIR", type=Path, required=True, help=text)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
