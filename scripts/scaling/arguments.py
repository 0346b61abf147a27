"""The arguments that the analysis commands share, declared once.

Only argparse: `--help` must not wait for pandas.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from scaling.runs.workloads import DEFAULT_WORKLOAD

FORMATS = ("md", "markdown", "csv", "json", "html", "text")
DEFAULT_FOLDER = Path("experiments")
_HELP = {
    "folder": "the folder with the job files and their logs (default: experiments)",
    "workload": f"the workload whose runs are read (default: {DEFAULT_WORKLOAD})",
    "job": "this Slurm job instead of the latest complete one; may be repeated",
    "allow-unlike": "divide runs whose settings differ, too; the note names what differs",
    "format": "of the tables (default: {default})",
    "output": "write to FILE, whole or not at all, instead of printing",
}


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of a command; its help shows the command's docstring as it is typed."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_study_arguments(
    parser: argparse.ArgumentParser,
    names: Iterable[str] = ("folder", "workload", "allow-unlike"),
    **helps: str,
) -> None:
    """Add those of folder, workload, job and allow-unlike that are named.

    helps: a command's own text for one of them (`job="…"`).
    """
    options = {
        "folder": (
            ["folder"],
            {"metavar": "FOLDER", "nargs": "?", "type": Path, "default": DEFAULT_FOLDER},
        ),
        "workload": (["--workload"], {"metavar": "W", "default": DEFAULT_WORKLOAD}),
        "job": (["--job"], {"metavar": "ID", "action": "append", "default": []}),
        "allow-unlike": (["--allow-unlike"], {"action": "store_true"}),
    }
    for name in names:
        flags, how = options[name]
        parser.add_argument(*flags, help=helps.get(name.replace("-", "_"), _HELP[name]), **how)


def add_output_arguments(
    parser: argparse.ArgumentParser,
    default: str | None = "md",
    formats: Iterable[str] = FORMATS,
    told: str = "",
) -> None:
    """Add --format and -o/--output. told: what the help says of the default, else `default`."""
    text = _HELP["format"].format(default=told or default)
    parser.add_argument("--format", choices=tuple(formats), default=default, help=text)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help=_HELP["output"])
