#!/usr/bin/env python
"""Print the last lines of a job's log: its GPUs' memory, how it ended, and why.

Every job file runs this from its exit trap. It changes no status: it exits 0 whatever it
finds (2 for wrong arguments), and what cannot be read becomes a line.
"""

import argparse
import sys
from pathlib import Path

from common.console import run_command
from scaling.runs.summary import summarise_job


def main() -> int:
    arguments = parse_arguments()
    try:
        for line in summarise_job(
            arguments.run_dir,
            arguments.run_id,
            arguments.log,
            arguments.exit_status,
            arguments.elapsed_s,
        ):
            print(line, flush=True)
    except Exception as error:  # a summary must never be why a job fails
        print(f"Job summary: not complete ({type(error).__name__}: {error})", file=sys.stderr)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name: str, metavar: str, kind: type, text: str) -> None:
        parser.add_argument(name, metavar=metavar, type=kind, required=True, help=text)

    add("--run-dir", "DIR", Path, "the folder that holds results/, gpu_memory/ and cpu_memory/")
    add("--run-id", "ID", str, "Slurm job id, or <job id>.<restart> of a requeued job")
    add("--log", "FILE", Path, "the job's Slurm log")
    add("--exit-status", "N", int, "exit status of the training")
    add("--elapsed-s", "S", int, "how long the job ran, in seconds")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
