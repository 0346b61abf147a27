#!/usr/bin/env python
"""Write one HTML page on all runs below a folder: verdict, tables, charts, and a page for each run.

    python scripts/report.py                        experiments/ -> report.html
    python scripts/report.py experiments --watch 60      again every minute; the page reloads itself
    python scripts/report.py --participants ROOT --watch 60     a workshop's clones, below ROOT
    python scripts/report.py --proposal --runs 20 --epochs 90      scaling evidence, for a proposal

The file needs nothing else: no network, no other file. It opens by double click, prints, and
takes the reader's light or dark setting. --proposal also writes it as Markdown, beside it.
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
        write_proposal(arguments) if arguments.proposal else write_page(arguments)
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


def write_proposal(arguments: argparse.Namespace) -> None:
    """Write the scaling evidence as a page, and as Markdown beside it."""
    from common.files import write_whole
    from scaling.report import make_proposal, to_html, to_text
    from scaling.runs import choose_workload

    source, page = str(arguments.folder), arguments.output
    runs = find_chosen_runs(arguments)
    workload = choose_workload(runs, arguments.workload)
    proposal = make_proposal(
        runs, workload, source, arguments.runs, arguments.epochs, arguments.target
    )
    texts = {page: to_html(proposal, source), page.with_suffix(".md"): to_text(proposal, source)}
    for path, text in texts.items():
        write_whole(path, text)
        notice(f"{printable(path)}: {len(text.encode()) / 1e3:.0f} kB")


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
    add_study_arguments(parser, ["folder", "participants", "workload"])
    add = parser.add_argument
    text = "the page (default: report.html, or proposal.html); replaced whole or not at all"
    add("-o", "--output", metavar="FILE", type=Path, help=text)
    text = f"write it again every S seconds ({LEAST_WATCH_S} or more); the page reloads itself"
    add("--watch", metavar="S", type=int, help=text)
    asked = parser.add_argument_group("for a proposal for computing time")
    add = asked.add_argument
    text = "scaling evidence instead: strong and weak tables, the job size, the GPU-hours"
    add("--proposal", action="store_true", help=text)
    add(
        "--runs", metavar="N", type=int, default=1, help="trainings that are asked for (default: 1)"
    )
    text = "epochs of each training (default: those of the measured runs)"
    add("--epochs", metavar="E", type=int, help=text)
    text = "least parallel efficiency of the job size, in %% (default: 75)"
    add("--target", metavar="PCT", type=float, default=75.0, help=text)
    arguments = parser.parse_args()
    if arguments.proposal and (arguments.watch or arguments.participants):
        parser.error("--proposal is written once, from one folder of runs")
    if not arguments.proposal and (arguments.epochs or arguments.runs != 1):
        parser.error("--runs and --epochs are for --proposal")
    if arguments.workload and not (arguments.proposal or arguments.participants):
        parser.error("--workload is for --proposal and --participants: the report has all of them")
    if arguments.runs < 1 or (arguments.epochs or 1) < 1 or not 0 < arguments.target < 100:
        parser.error("--runs and --epochs must be 1 or more, --target between 0 and 100")
    if arguments.output is None:
        arguments.output = Path("proposal.html" if arguments.proposal else "report.html")
    if arguments.watch is not None and arguments.watch < LEAST_WATCH_S:
        parser.error(f"--watch {arguments.watch}: give {LEAST_WATCH_S} seconds or more")
    return arguments


if __name__ == "__main__":
    run_command(main)
