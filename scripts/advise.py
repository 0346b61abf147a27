#!/usr/bin/env python
"""Say how many GPUs are worth asking for, from the runs below a folder.

    python scripts/advise.py                          the largest scale above 75 % efficiency
    python scripts/advise.py --target 85 --epochs 90  and time and GPU-hours for 90 epochs
    python scripts/advise.py --at 64                  what the better scaling law gives there
    python scripts/advise.py --from-csv FILE          from anybody's numbers
    python scripts/advise.py --memory                 does the batch fit the GPU, and which would
    python scripts/advise.py --predict --gradient-mb 95.6 --gpus-per-node 4
                             --bandwidth 150,12.5 --latency 5,15

Amdahl's, Gustafson's and the Universal Scalability Law are fitted where four numbers of GPUs were
measured, and never asked beyond 8 times the largest. --predict needs one measured GPU only: a model
of the all-reduce from 1 to 4,096 GPUs, beside what was measured.
"""

import argparse
from pathlib import Path

from common.console import put_out, run_command
from common.errors import UserError
from scaling.arguments import (
    CSV_OPTIONS,
    add_csv_arguments,
    add_output_arguments,
    add_study_arguments,
    find_chosen_runs,
    make_parser,
    parse_positive,
    read_csv_options,
)


def main() -> int:
    arguments = parse_arguments()
    return put_out(lambda: make_text(arguments), arguments.output)


def make_text(arguments: argparse.Namespace) -> str:
    from scaling.advise import list_advice, make_memory_advice  # pandas: not for --help
    from scaling.tables.table import FORMATS

    study = read_study(arguments)
    if arguments.predict:
        tables = [predict(arguments, study)]
    elif arguments.memory:
        tables = [make_memory_advice(study)]
    else:
        tables = list_advice(study, arguments.target, arguments.epochs, arguments.at)
    return FORMATS[arguments.format](tables)


def read_study(arguments: argparse.Namespace):
    """Return the study of the runs or of the CSV; None where the prediction needs none."""
    if arguments.from_csv:
        from scaling.tables.from_csv import read_csv_table

        return read_csv_table(arguments.from_csv, **read_csv_options(arguments)).study
    from scaling.runs import choose_workload, make_study

    try:
        runs = find_chosen_runs(arguments)
        workload = choose_workload(runs, arguments.workload)
        return make_study(runs, workload, arguments.allow_unlike, str(arguments.folder))
    except UserError:
        if arguments.predict and arguments.step_ms:
            return None
        raise


def predict(arguments: argparse.Namespace, study):
    from scaling.advise import Link, find_step_s, make_prediction

    step_s = arguments.step_ms / 1000 if arguments.step_ms else find_step_s(study)
    links = tuple(
        Link(bandwidth * 1e9, latency / 1e6)
        for bandwidth, latency in zip(arguments.bandwidth, arguments.latency, strict=True)
    )
    size = arguments.gradient_mb * 1e6
    return make_prediction(study, step_s, size, links, arguments.gpus_per_node)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_study_arguments(parser)
    add = parser.add_argument
    add("--from-csv", metavar="FILE", type=Path, help="read a CSV, as scaling_tables.py --from-csv")
    text = "the efficiency that a scale must be above (default: 75)"
    add("--target", metavar="PCT", type=parse_pct, default=75.0, help=text)
    text = "expected time and GPU-hours for so many epochs (default: those of the runs)"
    add("--epochs", metavar="N", type=parse_count, help=text)
    add("--at", metavar="GPUS", type=parse_count, help="a number of GPUs to ask the law about")
    text = "predicted and measured memory of a GPU, and the largest batch that fits"
    add("--memory", action="store_true", help=text)
    add_output_arguments(parser)
    add_csv_arguments(parser.add_argument_group("the columns of --from-csv"))
    model = parser.add_argument_group("prediction without the machine")
    model.add_argument("--predict", action="store_true", help="from one GPU to 4,096")
    text = "MB (10^6 bytes) of gradients per step: 4 x millions of parameters in fp32"
    model.add_argument("--gradient-mb", metavar="MB", type=parse_positive, help=text)
    text = "milliseconds of a step on one GPU (default: as measured)"
    model.add_argument("--step-ms", metavar="MS", type=parse_positive, help=text)
    text = "GPUs that share the link inside a node (default: 4)"
    model.add_argument("--gpus-per-node", metavar="N", type=parse_count, default=4, help=text)
    text = "GB/s of a GPU inside a node and between nodes, one way: IN,BETWEEN"
    model.add_argument("--bandwidth", metavar="GBS", type=parse_two, help=text)
    text = "microseconds per message, likewise (default: 5,15)"
    model.add_argument("--latency", metavar="US", type=parse_two, default=(5.0, 15.0), help=text)
    arguments = parser.parse_args()
    for name in CSV_OPTIONS:
        if getattr(arguments, name) and not arguments.from_csv:
            parser.error(f"--{name} is for --from-csv")
    if arguments.memory and (arguments.predict or arguments.from_csv):
        parser.error("--memory is of runs: leave out --predict and --from-csv")
    if arguments.predict and not (arguments.gradient_mb and arguments.bandwidth):
        parser.error("--predict needs --gradient-mb MB and --bandwidth IN,BETWEEN (GB/s)")
    if arguments.predict and min(arguments.bandwidth) == 0:
        parser.error("--bandwidth must be above 0")
    return arguments


def parse_pct(text: str) -> float:
    value = parse_positive(text.removesuffix("%").strip())
    if value >= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not below 100 %")
    return value


def parse_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def parse_two(text: str) -> tuple[float, float]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) == 1:
        values *= 2
    if len(values) != 2 or not all(0 <= value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers, as in 150,12.5")
    return values


if __name__ == "__main__":
    run_command(main)
