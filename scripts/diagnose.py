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
from scaling.diagnose.text import FORMATS, make_text
from scaling.runs.workloads import DEFAULT_WORKLOAD


def main() -> int:
    arguments = parse_arguments()
    folders = arguments.run or [Path("experiments")]
    return put_out(
        lambda: make_text(
            folders, arguments.workload, arguments.job, arguments.allow_unlike, arguments.format
        ),
        arguments.output,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "a folder with job files and their logs, or a --workdir (default: experiments)"
    add("run", metavar="RUN", nargs="*", type=Path, help=text)
    text = "the workload whose runs are read (default: tinyimagenet)"
    add("--workload", metavar="W", default=DEFAULT_WORKLOAD, help=text)
    text = "only this run; may be repeated (default: the mean over each scale's runs)"
    add("--job", metavar="ID", action="append", default=[], help=text)
    add("--allow-unlike", action="store_true", help="compare runs whose settings differ, too")
    add("--format", choices=FORMATS, default="text", help="default: text")
    add("--json", dest="format", action="store_const", const="json", help="as --format json")
    text = "write to FILE, whole or not at all, instead of printing"
    add("-o", "--output", metavar="FILE", type=Path, help=text)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
