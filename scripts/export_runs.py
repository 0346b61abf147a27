#!/usr/bin/env python
"""Write the runs below a folder as tidy tables: runs, epochs, ranks' epochs, GPU and CPU samples.

One file a table, NAME.csv or NAME.json, each whole or not at all. Every column that is a
measure carries its unit in its name; scripts/README.md lists them.
"""

import argparse
import sys
from pathlib import Path

from common.console import printable, run_command
from common.errors import UserError

TABLES = ("runs", "epochs", "rank_epochs", "gpu_samples", "cpu_samples")


def main() -> int:
    arguments = parse_arguments()
    from scaling.runs.frame_files import export_frames  # pandas: not for --help

    try:
        written = export_frames(
            arguments.folder, arguments.output, arguments.format, arguments.table or TABLES
        )
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    for path, rows in written:
        print(printable(f"{path}: {rows} row{'s' if rows != 1 else ''}"))
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "the folder with the job files and their logs (default: experiments)"
    add("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("experiments"), help=text)
    add("--format", choices=("csv", "json"), default="csv", help="default: csv")
    text = f"only this table, one of {', '.join(TABLES)}; may be repeated (default: all)"
    add("--table", metavar="NAME", choices=TABLES, action="append", help=text)
    text = "the folder to write to; it is made when it is not there"
    add("-o", "--output", metavar="DIR", type=Path, required=True, help=text)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
