#!/usr/bin/env python
"""Fill the two scaling tables of the README from the runs below a folder.

    python scripts/fill_tables.py                    TinyImageNet, below experiments/
    python scripts/fill_tables.py --workload gpt2    another workload, in its own unit

Each row shows the last epoch's line of the latest complete run at its scale. A value that is
missing is —, with a numbered note that says why; a scale that the job scripts' cluster cannot run
is labelled so. A throughput outside of what the cluster's profile expects has a note, too.
"""

import argparse
import sys
from pathlib import Path

from scaling.errors import ScalingError
from scaling.files import write_whole
from scaling.table_text import FORMATS
from scaling.tables import Site, build_report
from scaling.text import printable

REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = parse_arguments()
    try:
        report = build_report(
            arguments.folder,
            arguments.job,
            workload=arguments.workload,
            site=describe_site(arguments.folder, arguments.workload),
        )
        text = FORMATS[arguments.format](report)
        if arguments.output is None:
            print(text, end="")
        else:
            write_whole(arguments.output, text)
    except ScalingError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return 0


def describe_site(folder: Path, workload: str) -> Site:
    """Say what the cluster of the job scripts below `folder` cannot run, and should reach.

    The tables stand without: where no profile can be read, one line on stderr says why.
    """
    try:
        from profiles.repository import Repository
        from profiles.site_notes import find_profiles, list_expected, list_misfits
        from profiles.toml_model import ProfileError
    except ImportError as error:  # the logs can be read without what render.py needs
        print(f"warning: {error}; rows are not set against a profile", file=sys.stderr)
        return Site()
    try:
        repository = Repository(REPO)
        profiles = find_profiles(repository, folder)
        return Site(
            list_misfits(repository, workload, profiles),
            list_expected(repository, workload, profiles),
        )
    except (ProfileError, OSError) as error:
        problem = printable(error)
        print(f"warning: {problem}; rows are not set against a profile", file=sys.stderr)
        return Site()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "the folder with the job files and their logs (default: experiments)"
    add("folder", metavar="FOLDER", nargs="?", type=Path, default="experiments", help=text)
    text = "the workload whose runs are shown (default: tinyimagenet)"
    add("--workload", metavar="W", default="tinyimagenet", help=text)
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
