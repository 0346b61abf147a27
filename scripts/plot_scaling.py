#!/usr/bin/env python
"""Draw the scaling tables that fill_tables.py prints: speedup and efficiency, as PNG."""

import argparse
import sys
from pathlib import Path

from scaling.errors import ScalingError
from scaling.plots import draw_charts
from scaling.tables import build_report
from scaling.text import printable


def main() -> int:
    arguments = parse_arguments()
    try:
        paths = draw_charts(build_report(arguments.folder), arguments.out)
    except ScalingError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    print(*paths, sep="\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=Path,
        default=Path("experiments"),
        help="the folder with the job files and their logs (default: experiments)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("plots"),
        help="the folder for the PNG files (default: plots)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
