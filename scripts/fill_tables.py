#!/usr/bin/env python
"""Fill the README's two scaling tables from the runs below a folder.

    python scripts/fill_tables.py                    TinyImageNet, below experiments/
    python scripts/fill_tables.py --workload gpt2    another workload, in its own unit
    python scripts/fill_tables.py --memory           the memory of every GPU, not of GPU 0 alone
    python scripts/fill_tables.py --participants ROOT    a workshop: who has run what, slow nodes

Each row shows the last epoch's line of the latest complete run at its scale. A value that is
missing is —, with a numbered note that says why; a scale that the job scripts' cluster cannot run
is labelled so. A throughput outside of what the cluster's profile expects has a note, too. The
tables that average over runs and epochs are scaling_tables.py's.
"""

import argparse
from pathlib import Path

from common.console import put_out, run_command, warn
from common.errors import UserError
from scaling.arguments import (
    add_output_arguments,
    add_study_arguments,
    find_chosen_runs,
    find_chosen_workshop,
    make_parser,
)

MOVED = (
    "--summary", "--fixed-work", "--cost", "--from-csv", "--basis", "--price", "--currency",
    "--cluster", "--throughput", "--time", "--where",
)  # fmt: skip
REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = parse_arguments()
    return put_out(lambda: make_text(arguments), arguments.output)


def make_text(arguments: argparse.Namespace) -> str:
    """Return the tables in the format that was asked for; UserError says why it cannot."""
    from scaling.runs import choose_workload
    from scaling.tables import FORMATS, make_memory_table, make_readme_tables

    if arguments.participants:
        from scaling.tables import make_participants_tables  # pandas, which the others do without

        return FORMATS[arguments.format](make_participants_tables(find_chosen_workshop(arguments)))
    runs = find_chosen_runs(arguments)
    workload = choose_workload(runs, arguments.workload)
    tables = make_readme_tables(
        runs,
        workload,
        arguments.job,
        describe_site(arguments.folder, workload),
        arguments.allow_unlike,
        source=str(arguments.folder),
    )
    if arguments.memory:
        tables = [make_memory_table(tables)]
    elif arguments.format in ("html", "json"):
        tables.append(make_memory_table(tables))
    return FORMATS[arguments.format](tables)


def describe_site(folder: Path, workload: str):
    """Return the Site: what the cluster of a folder's jobs cannot run, and what it expects.

    The tables stand without: where no profile can be read, one line on stderr says why.
    """
    from scaling.tables import Site

    try:
        from profiles import Repository, find_profiles, list_expected, list_misfits
    except ImportError as error:  # the logs can be read without what render.py needs
        warn(f"{error}; rows are not set against a profile")
        return Site()
    try:
        repository = Repository(REPO)
        profiles = find_profiles(repository, folder)
        return Site(
            list_misfits(repository, workload, profiles),
            list_expected(repository, workload, profiles),
        )
    except (UserError, OSError) as error:
        warn(f"{error}; rows are not set against a profile")
        return Site()


class _Moved(argparse.Action):
    """An option of a table that scaling_tables.py prints now."""

    def __call__(self, parser, namespace, values, option_string=None):
        command = f"python scripts/scaling_tables.py {option_string}"
        parser.exit(2, f"error: {option_string} is an option of another command now: {command}\n")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_study_arguments(
        parser,
        ("folder", "participants", "workload", "job", "allow-unlike"),
        job="show this Slurm job in its row, and not the latest complete one; may be repeated",
    )
    parser.add_argument("--memory", action="store_true", help="the memory of every GPU alone")
    add_output_arguments(parser)
    for option in MOVED:
        parser.add_argument(option, action=_Moved, nargs="?", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
