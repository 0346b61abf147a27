#!/usr/bin/env python
"""Say why runs scale badly: what each scale loses, and to what, with the numbers.

    python scripts/diagnose.py                        every scale below experiments/
    python scripts/diagnose.py --job 1234 --job 1240  these runs, against the baseline
    python scripts/diagnose.py workdir/one workdir/two        runs outside Slurm
    python scripts/diagnose.py --json                 for programs

Causes: waiting for data, communication that nothing hides, a slow rank, too small a batch per
GPU, monitoring. Their points of efficiency add up to the loss; what nothing explains is named as
such. Throttled GPUs and sockets between nodes are named when the logs show them, and what was not
recorded is named with what to switch on.
"""

import argparse
from pathlib import Path

from common.console import put_out, run_command
from scaling.arguments import (
    DEFAULT_FOLDER,
    add_output_arguments,
    add_study_arguments,
    find_chosen_runs,
    make_parser,
)


def main() -> int:
    arguments = parse_arguments()
    return put_out(lambda: make_text(arguments), arguments.output)


def make_text(arguments: argparse.Namespace) -> str:
    from scaling.diagnose import RULE, diagnose  # pandas: not for --help
    from scaling.runs import choose_workload, make_study, read_workdir
    from scaling.tables.table import FORMATS

    folders, runs = arguments.run or [DEFAULT_FOLDER], []
    workdirs = list(map(read_workdir, folders))
    for folder, run in zip(folders, workdirs, strict=True):
        runs += find_chosen_runs(arguments, folder) if run is None else [run]
    workload = choose_workload(runs, arguments.workload)
    named = {run and run.workload for run in workdirs}
    if len(named) == 1 and None not in named:
        (workload,) = named  # named one by one, so no need to name it too
    source = ", ".join(map(str, folders))
    study = make_study(runs, workload, arguments.allow_unlike, source)
    findings = diagnose(study, arguments.job)
    if arguments.format == "text":
        return "\n".join(finding.text() for finding in findings) + f"\n{RULE}\n"
    return FORMATS[arguments.format]([finding.table() for finding in findings])


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    text = "a folder with job files and their logs, or a --workdir (default: experiments)"
    parser.add_argument("run", metavar="RUN", nargs="*", type=Path, help=text)
    text = "only this run; may be repeated (default: the mean over each scale's runs)"
    add_study_arguments(parser, ["workload", "job", "allow-unlike"], job=text)
    add_output_arguments(parser, "text", ("text", "md", "csv", "json", "html"))
    text = "as --format json"
    parser.add_argument("--json", dest="format", action="store_const", const="json", help=text)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
