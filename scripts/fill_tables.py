#!/usr/bin/env python
"""Fill the scaling tables from the runs below a folder: the README's two, and others.

    python scripts/fill_tables.py                    TinyImageNet, below experiments/
    python scripts/fill_tables.py --workload gpt2    another workload, in its own unit

    python scripts/fill_tables.py --memory           the memory of every GPU, not of GPU 0 alone
    python scripts/fill_tables.py --summary          the text: runs, speedups, bands
    python scripts/fill_tables.py --fixed-work       throughput, wall time, speedup by scale
    python scripts/fill_tables.py --cost --price 2   GPU-hours, energy, money
    python scripts/fill_tables.py --from-csv FILE    the fixed-work table of anybody's numbers

The first two print the README's tables. Each row shows the last epoch's line of the latest
complete run at its scale. A value that is missing is —, with a numbered note that says why; a
scale that the job scripts' cluster cannot run is labelled so. A throughput outside of what the
cluster's profile expects has a note, too. All other tables average the complete runs of a scale,
warm-up left out, and say how.
"""

import argparse
import sys
from pathlib import Path

from common.console import printable, put_out, run_command
from scaling.tables.table_choice import FORMATS, make_text
from scaling.tables.table_parts import Site

# Option -> the tables it belongs to ("" are the README's two): none is passed over in silence.
BELONGS = {
    "job": ("",),
    "basis": ("fixed_work", "from_csv"),
    "allow_unlike": ("", "summary", "fixed_work", "cost"),
    "price": ("cost",),
    "currency": ("cost",),
    "cluster": ("summary",),
    "gpus": ("from_csv",),
    "throughput": ("from_csv",),
    "time": ("from_csv",),
    "where": ("from_csv",),
}
REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = parse_arguments()
    return put_out(lambda: make_text(arguments, choose_site(arguments)), arguments.output)


def choose_site(arguments: argparse.Namespace) -> Site:
    if arguments.summary or arguments.fixed_work or arguments.cost or arguments.from_csv:
        return Site()  # these show what was run, and nothing else
    return describe_site(arguments.folder, arguments.workload)


def describe_site(folder: Path, workload: str) -> Site:
    """Say what the cluster of the job scripts below the folder cannot run, and should reach.

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
    which = parser.add_argument_group("which table (default: the README's two)")
    which.add_argument("--summary", action="store_true", help="runs, speedups and bands as text")
    text = "throughput, wall time, speedup and efficiency of each scale"
    which.add_argument("--fixed-work", action="store_true", help=text)
    text = "GPU-hours, samples for them, energy; may stand beside --fixed-work"
    which.add_argument("--cost", action="store_true", help=text)
    which.add_argument("--memory", action="store_true", help="the memory of every GPU alone")
    text = "the fixed-work table of a CSV with a column of GPUs and one of throughput or time"
    which.add_argument("--from-csv", metavar="FILE", type=Path, help=text)
    how = parser.add_argument_group("what they are made from")
    text = "speedup from throughput or from wall time (default: throughput)"
    how.add_argument("--basis", choices=("throughput", "walltime"), help=text)
    text = "divide runs whose settings differ, too; the note still names what differs"
    how.add_argument("--allow-unlike", action="store_true", help=text)
    how.add_argument("--price", metavar="X", type=parse_price, help="of one GPU-hour, for --cost")
    how.add_argument("--currency", metavar="NAME", default="", help="what --price is counted in")
    text = "the cluster's name in the summary (default: what the runs recorded)"
    how.add_argument("--cluster", metavar="NAME", help=text)
    for role in ("gpus", "throughput", "time"):
        text = f"the CSV's column of {role} (default: guessed from the names)"
        how.add_argument(f"--{role}", metavar="COL", help=text)
    text = "use only the CSV's rows that have this value; may be repeated"
    how.add_argument(
        "--where", metavar="COL=VALUE", type=parse_pair, action="append", default=[], help=text
    )
    text = "md or markdown (default), csv, json, html; text (--summary's default)"
    add("--format", choices=FORMATS, help=text)
    text = "write to FILE, whole or not at all, instead of printing"
    add("-o", "--output", metavar="FILE", type=Path, help=text)
    arguments = parser.parse_args()
    chosen = [
        f"--{name.replace('_', '-')}"
        for name in ("summary", "memory", "from_csv")
        if getattr(arguments, name)
    ] + ["--fixed-work or --cost"] * (arguments.fixed_work or arguments.cost)
    if len(chosen) > 1:
        parser.error(f"{' and '.join(chosen)} are different tables: ask for one")
    for option, tables in BELONGS.items():
        asked = any(getattr(arguments, table) for table in tables if table)
        is_plain = not chosen or arguments.memory
        if getattr(arguments, option) and not asked and not (is_plain and "" in tables):
            names = " or ".join(f"--{table.replace('_', '-')}" for table in tables if table)
            parser.error(f"--{option.replace('_', '-')} is for {names or 'the README tables'}")
    return arguments


def parse_price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no price: a number of 0 or more, as in 2.50")
    return price


def parse_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not COL=VALUE, as in model=resnet50")
    return name.strip(), value.strip()


if __name__ == "__main__":
    run_command(main)
