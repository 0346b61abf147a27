"""The arguments that the analysis commands share, declared once.

Only argparse: `--help` must not wait for pandas.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from common.arguments import CommandParser
from common.errors import UserError
from scaling.runs.workloads import DEFAULT_WORKLOAD

FORMATS = ("md", "markdown", "csv", "json", "html", "text")
DEFAULT_FOLDER = Path("experiments")
_HELP = {
    "folder": "the folder with the job files and their logs (default: experiments)",
    "participants": "a workshop's clones instead, one folder per participant below ROOT; only read",
    "workload": f"the workload that is read (default: {DEFAULT_WORKLOAD}, else the only one)",
    "job": "this Slurm job instead of the latest complete one; may be repeated",
    "allow-unlike": "divide runs whose settings differ, too; the note names what differs",
    "format": "of the tables (default: {default})",
    "output": "write to FILE, whole or not at all, instead of printing",
}


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of a command; its help shows the command's docstring as it is typed."""
    return CommandParser(description)


def add_study_arguments(
    parser: argparse.ArgumentParser,
    names: Iterable[str] = ("folder", "workload", "allow-unlike"),
    **helps: str,
) -> None:
    """Add the arguments of these names, and how logs are read.

    helps: a command's own text for one of them (`job="…"`).
    """
    options = {
        "folder": (
            ["folder"],
            {"metavar": "FOLDER", "nargs": "?", "type": Path, "default": DEFAULT_FOLDER},
        ),
        "participants": (["--participants"], {"metavar": "ROOT", "type": Path}),
        "workload": (["--workload"], {"metavar": "W"}),
        "job": (["--job"], {"metavar": "ID", "action": "append", "default": []}),
        "allow-unlike": (["--allow-unlike"], {"action": "store_true"}),
    }
    for name in names:
        flags, how = options[name]
        parser.add_argument(*flags, help=helps.get(name.replace("-", "_"), _HELP[name]), **how)
    add_log_arguments(parser, helps.get("gpus"))


def add_log_arguments(parser: argparse.ArgumentParser, gpus: str | None = None) -> None:
    """Add what is said of the log of another trainer. gpus: a command's own help for --gpus."""
    add = parser.add_argument_group("logs of other trainers").add_argument
    text = "how they are read: a name or a file of experiments/log_formats/ (default: what fits)"
    add("--log-format", metavar="NAME|FILE", help=text)
    how = {"action": "append", "default": []}
    text = "a log's GPUs: N on one node, or NODESxGPUS; LOG: its name, a pattern, or the job id"
    add("--gpus", metavar="[LOG=]N", help=gpus or text, **how)
    text = "samples (or tokens) in the step or epoch that a line times: of all GPUs, or N/gpu"
    add("--samples", metavar="[LOG=]N", help=text, **how)


def find_chosen_workshop(arguments: argparse.Namespace):
    """Return the Workshop of the clones below --participants, their logs read as asked."""
    from scaling.read.foreign_log import LogChoice
    from scaling.runs import choose_workload, find_participants
    from scaling.tables import make_workshop

    choice = LogChoice.parse(arguments.log_format, arguments.gpus, arguments.samples)
    found = find_participants(arguments.participants, choice)
    runs = [run for each in found for run in each.runs]
    workload = choose_workload(runs, getattr(arguments, "workload", None))
    return make_workshop(found, workload, str(arguments.participants))


def find_chosen_runs(arguments: argparse.Namespace, folder: Path | None = None) -> list:
    """Return the runs below a folder (default: the arguments'), their logs read as asked."""
    from scaling.read.foreign_log import LogChoice
    from scaling.runs import describe_others, find_runs

    choice = LogChoice.parse(arguments.log_format, arguments.gpus, arguments.samples)
    folder = folder or arguments.folder
    runs = find_runs(folder, choice=choice)
    if not runs and (others := describe_others(folder)):
        raise UserError(f"{folder}: no job file and no run in it; {others}")
    return runs


CSV_ROLES = ("nodes", "throughput", "time")  # of a CSV's columns, besides --gpus
CSV_OPTIONS = (*CSV_ROLES, "per", "where", "vary", "decimal")


def add_csv_arguments(parser: argparse._ActionsContainer) -> None:
    """Add what settles the columns of --from-csv FILE; see read_csv_options."""
    for role in CSV_ROLES:
        text = f"the CSV's column of {role} (default: the one whose name says so)"
        parser.add_argument(f"--{role}", metavar="COL", help=text)
    text = "what the throughput of the CSV (or of metrics files) is of (default: as its name says)"
    parser.add_argument("--per", choices=("gpu", "node", "job"), help=text)
    text = "what parts decimals in the CSV (default: point; needed where its cells leave it open)"
    parser.add_argument("--decimal", choices=("comma", "point"), help=text)
    text = "a CSV's column that may differ within one series; may be repeated"
    parser.add_argument("--vary", metavar="COL", action="append", default=[], help=text)
    text = "use only the CSV's rows that have this value; may be repeated"
    parser.add_argument(
        "--where", metavar="COL=VALUE", type=parse_pair, action="append", default=[], help=text
    )


def parse_positive(text: str) -> float:
    """Return a number above 0; argparse names the option of another."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def parse_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not COL=VALUE, as in model=resnet50")
    return name.strip(), value.strip()


def read_csv_options(arguments: argparse.Namespace) -> dict:
    """Return what read_csv_table() is told besides the file and the basis."""
    given = {role: getattr(arguments, role) for role in (*CSV_ROLES, "per")}
    given["gpus"] = arguments.gpus[-1] if arguments.gpus else None
    return {
        "given": given, "where": arguments.where, "vary": arguments.vary,
        "decimal": arguments.decimal,
    }  # fmt: skip


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
