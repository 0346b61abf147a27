#!/usr/bin/env python
"""Make the fixed-work scaling table from named metrics files, one a number of GPUs.

    python scripts/generate_scaling_table.py --gpu1 a.json --gpu2 b.json --gpu4 c.json

The files are training_metrics.json of this project or of others (schema 1 or 2). What a file
says of its world_size must agree with its option; the visible GPUs do not count. For runs below
a folder there is fill_tables.py --fixed-work, which makes the same table.
"""

import argparse
from pathlib import Path

from common.console import put_out, run_command
from scaling.runs.measured import measure_metrics_file
from scaling.runs.study import make_study
from scaling.tables.fixed_work import BASES, make_fixed_work
from scaling.tables.grid import FORMATS

DEFINITION = (
    "Throughput: of all processes, as each file has it; mean over its epochs after warm-up, then "
    "over the files of a scale."
)
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def main() -> int:
    arguments = parse_arguments()
    return put_out(lambda: make_text(arguments), arguments.output)


def make_text(arguments: argparse.Namespace) -> str:
    named = [(gpus, path) for gpus in COUNTS for path in getattr(arguments, f"gpu{gpus}")]
    measured = [measure_metrics_file(path, gpus) for gpus, path in named]
    study = make_study(measured, allow_unlike=arguments.allow_unlike, definition=DEFINITION)
    return FORMATS[arguments.format]([make_fixed_work(study, arguments.basis)])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    for gpus in COUNTS:
        text = f"the metrics of a run on {gpus} GPU{'s' if gpus > 1 else ''}; repeat for repeats"
        add(f"--gpu{gpus}", metavar="FILE", type=Path, action="append", default=[], help=text)
    text = "what speedup is made from (default: throughput)"
    add("--basis", choices=BASES, default="throughput", help=text)
    add("--allow-unlike", action="store_true", help="divide runs whose settings differ, too")
    text = "md or markdown (default), csv, json, html"
    add("--format", choices=tuple(FORMATS), default="md", help=text)
    text = "write to FILE, whole or not at all, instead of printing"
    add("-o", "--output", metavar="FILE", type=Path, help=text)
    arguments = parser.parse_args()
    if not any(getattr(arguments, f"gpu{gpus}") for gpus in COUNTS):
        parser.error("no file: name at least one, as in --gpu1 results/12/training_metrics.json")
    return arguments


if __name__ == "__main__":
    run_command(main)
