#!/usr/bin/env python
"""Write one HTML page on all runs below a folder: verdict, tables, charts, and a page for each run.

    python scripts/report.py                        experiments/ -> report.html
    python scripts/report.py experiments --watch 60      again every minute; the page reloads itself
    python scripts/report.py --participants ROOT --watch 60     a workshop's clones, below ROOT

The file needs nothing else: no network, no other file. It opens by double click, prints, and
takes the reader's light or dark setting.
"""

import argparse
import gc
import sys
import time
from pathlib import Path

from common.console import notice, printable, run_command, warn
from common.errors import UserError
from scaling.arguments import (
    add_study_arguments,
    find_chosen_runs,
    find_chosen_workshop,
    make_parser,
)

LEAST_WATCH_S = 5


def main() -> int:
    arguments = parse_arguments()
    try:
        write_page(arguments)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return watch(arguments) if arguments.watch else 0


def write_page(arguments: argparse.Namespace) -> None:
    """Write the page whole or not at all, and say where."""
    from common.files import write_whole

    began = time.monotonic()
    gc.disable()  # a page makes millions of objects that all stay until it is written
    try:
        text = make_text(arguments)
    finally:
        gc.enable()
    write_whole(arguments.output, text)
    size_mb, took_s = len(text.encode()) / 1e6, time.monotonic() - began
    notice(f"{printable(arguments.output)}: {size_mb:.1f} MB, {took_s:.1f} s")


def make_text(arguments: argparse.Namespace) -> str:
    """Return the page that is asked for."""
    from fill_tables import describe_site
    from scaling.report import make_page, make_participants_page  # pandas: not for --help

    if arguments.participants:
        workshop = find_chosen_workshop(arguments)
        return make_participants_page(workshop, str(arguments.participants), arguments.watch)
    return make_page(
        find_chosen_runs(arguments),
        str(arguments.folder),
        lambda workload: describe_site(arguments.folder, workload),
        arguments.watch,
    )


def watch(arguments: argparse.Namespace) -> int:
    """Write the page again and again until Ctrl-C; what fails now may be there the next time."""
    try:
        while True:
            time.sleep(arguments.watch)
            try:
                write_page(arguments)
            except UserError as error:
                warn(f"{error}; trying again")
    except KeyboardInterrupt:
        return 0


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_study_arguments(parser, ["folder", "participants"])
    add = parser.add_argument
    text = "the page (default: report.html); it is replaced whole or not at all"
    add("-o", "--output", metavar="FILE", type=Path, default=Path("report.html"), help=text)
    text = f"write it again every S seconds ({LEAST_WATCH_S} or more); the page reloads itself"
    add("--watch", metavar="S", type=int, help=text)
    arguments = parser.parse_args()
    if arguments.watch is not None and arguments.watch < LEAST_WATCH_S:
        parser.error(f"--watch {arguments.watch}: give {LEAST_WATCH_S} seconds or more")
    return arguments


if __name__ == "__main__":
    run_command(main)
