#!/usr/bin/env python
"""Fill the two scaling tables of the README from the runs below a folder.

Each row shows the last epoch's line of the latest complete run at its scale. A value that is
missing is —, with a numbered note that says why.
"""

import argparse
import sys
from pathlib import Path

from scaling.errors import ScalingError
from scaling.files import write_whole
from scaling.table_text import FORMATS
from scaling.tables import build_report
from scaling.text import printable


def main() -> int:
    arguments = parse_arguments()
    try:
        text = FORMATS[arguments.format](build_report(arguments.folder, arguments.job))
        if arguments.output is None:
            print(text, end="")
        else:
            write_whole(arguments.output, text)
    except ScalingError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "the folder with the job files and their logs (default: experiments)"
    add("folder", metavar="FOLDER", nargs="?", type=Path, default="experiments", help=text)
    text = "show this Slurm job in its row, and not the latest complete one; may be repeated"
    add("--job", metavar="ID", action="append", default=[], help=text)
    text = "md: Markdown (default); csv: one tidy table; json: the same records"
    add("--format", choices=tuple(FORMATS), default="md", help=text)
    text = "write to FILE, whole or not at all, instead of printing"
    add("-o", "--output", metavar="FILE", type=Path, help=text)
    return parser.parse_args()


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    sys.exit(main())
