#!/usr/bin/env python
"""Print the tables that average over runs and epochs: summary, fixed work, cost.

    python scripts/scaling_tables.py                     the summary: runs, speedups, bands
    python scripts/scaling_tables.py --fixed-work        throughput, wall time, speedup by scale
    python scripts/scaling_tables.py --cost --price 2    GPU-hours, energy, money
    python scripts/scaling_tables.py --strategies        DDP, ZeRO and FSDP at one scale
    python scripts/scaling_tables.py --growing           a model that grows with the GPUs
    python scripts/scaling_tables.py --compare bucket_cap_mb=none,200      one setting's values
    python scripts/scaling_tables.py --target-loss 4.8   seconds and epochs until it was reached
    python scripts/scaling_tables.py --from-csv FILE     the fixed-work table of anybody's numbers
    python scripts/scaling_tables.py --gpu1 a.json --gpu4 b.json      the same of metrics files

All complete runs of a scale are averaged, warm-up left out, and each table says how. Metrics files
are training_metrics.json of this project or of others (schema 1 or 2); what a file says of its
world_size must agree with its option.
"""

import argparse
from pathlib import Path

from common.console import put_out, run_command
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

COUNTS = (1, 2, 4, 8, 16, 32, 64)  # GPUs of the options --gpu1 to --gpu64
TARGETS = {"target_loss": "val_loss", "target_accuracy": "val_accuracy"}
OF_RUNS = ("summary", "fixed_work", "cost", "strategies", "growing", "compare", *TARGETS)
# Option -> the tables that it belongs to: none is passed over in silence.
BELONGS = {
    "basis": ("fixed_work", "from_csv"),
    "price": ("cost",),
    "currency": ("cost",),
    "cluster": ("summary",),
    "allow_unlike": ("summary", "fixed_work", "cost", "growing", *TARGETS),
    **dict.fromkeys((*CSV_OPTIONS, "gpus_per_node"), ("from_csv",)),
    "per": ("from_csv", "files"),
    "gpus": ("from_csv", *OF_RUNS),
    "samples": OF_RUNS,
    "log_format": OF_RUNS,
}


def main() -> int:
    arguments = parse_arguments()
    return put_out(lambda: make_text(arguments), arguments.output)


def make_text(arguments: argparse.Namespace) -> str:
    """Return the tables in the format that was asked for; UserError says why it cannot."""
    from scaling.tables import (
        FORMATS,
        make_cost,
        make_csv_table,
        make_fixed_work,
        make_growing,
        make_option_tables,
        make_strategies,
        make_target_table,
        read_csv_table,
    )

    write = FORMATS[arguments.format or "md"]
    if arguments.from_csv:
        options = read_csv_options(arguments)
        options["given"]["gpus_per_node"] = arguments.gpus_per_node
        table = read_csv_table(arguments.from_csv, basis=arguments.basis, **options)
        return write([make_csv_table(table)])
    study = make_study_of(arguments)
    if arguments.summary:
        return write_summary(study, arguments)
    if arguments.strategies:
        return write(make_strategies(study))
    if arguments.growing:
        return write([make_growing(study)])
    if arguments.compare:
        return write(make_option_tables(study, *arguments.compare))
    targets = [(column, getattr(arguments, name)) for name, column in TARGETS.items()]
    tables = [make_target_table(study, *each) for each in targets if each[1] is not None]
    if arguments.fixed_work:
        tables.append(make_fixed_work(study, arguments.basis or "throughput"))
    if arguments.cost:
        tables.append(make_cost(study, arguments.price, arguments.currency))
    return write(tables)


def make_study_of(arguments: argparse.Namespace):
    """Return the Study of the named metrics files, else of the runs below the folder."""
    from scaling.runs import choose_workload, make_metrics_study, make_study

    if arguments.files:
        return make_metrics_study(arguments.files, arguments.allow_unlike, arguments.per)
    runs = find_chosen_runs(arguments)
    workload = choose_workload(runs, arguments.workload)
    source, growing = str(arguments.folder), arguments.growing
    return make_study(runs, workload, arguments.allow_unlike, source=source, growing=growing)


def write_summary(study, arguments: argparse.Namespace) -> str:
    from scaling.tables import FORMATS, format_summary, make_summary_tables, text_to_html

    form = arguments.format or "text"
    if form in ("csv", "json"):
        return FORMATS[form](make_summary_tables(study))
    text = format_summary(study, arguments.cluster)
    if form == "html":
        return text_to_html(text, "Benchmark results")
    # Four backticks: a name in a log cannot end the block, since a line there is never only these.
    return text if form == "text" else f"````\n{text}````\n"


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    text = "[LOG=]N, a log's GPUs (NODESxGPUS on several nodes); of --from-csv its column of GPUs"
    add_study_arguments(parser, gpus=text)
    which = parser.add_argument_group("which table")
    for option, text in (
        ("--summary", "runs, speedups and bands as text (the default for a folder)"),
        ("--fixed-work",
         "throughput, wall time, speedup and efficiency (the default for metrics files)"),
        ("--cost", "GPU-hours, samples for them, energy; may stand beside --fixed-work"),
        ("--strategies",
         "strategies of GPT-2 at one scale: throughput, memory by part, communication"),
        ("--growing", "a model that grows with the GPUs: parameters, throughput, efficiency"),
    ):  # fmt: skip
        which.add_argument(option, action="store_true", help=text)
    text = "runs that differ in this setting of run.json alone, with the interval over repeats"
    which.add_argument("--compare", metavar="NAME=V,V", type=parse_setting, help=text)
    text = "seconds and epochs until the validation loss fell to X"
    which.add_argument("--target-loss", metavar="X", type=parse_positive, help=text)
    text = "until the validation accuracy rose to X: 0.75, or 75%%"
    which.add_argument("--target-accuracy", metavar="X", type=parse_accuracy, help=text)
    text = "the fixed-work table of a CSV with a column of GPUs and one of throughput or time"
    which.add_argument("--from-csv", metavar="FILE", type=Path, help=text)
    for gpus in COUNTS:
        text = "the metrics file of a run on so many GPUs; may be repeated"
        text = text if gpus == 1 else argparse.SUPPRESS  # one line stands for all
        which.add_argument(
            f"--gpu{gpus}", metavar="FILE", type=Path, action="append", default=[], help=text
        )
    how = parser.add_argument_group("what they are made from")
    text = "speedup from throughput or from wall time (default: throughput)"
    how.add_argument("--basis", choices=("throughput", "walltime"), help=text)
    how.add_argument("--price", metavar="X", type=parse_price, help="of one GPU-hour, for --cost")
    how.add_argument("--currency", metavar="NAME", default="", help="what --price is counted in")
    text = "the cluster's name in the summary (default: what the runs recorded)"
    how.add_argument("--cluster", metavar="NAME", help=text)
    add_csv_arguments(how)
    text = "the CSV's column of GPUs per node, or their number"
    how.add_argument("--gpus-per-node", metavar="COL|N", type=parse_name_or_count, help=text)
    add_output_arguments(parser, None, told="text for the summary, else md")
    arguments = parser.parse_args()
    arguments.files = [(n, path) for n in COUNTS for path in getattr(arguments, f"gpu{n}")]
    check_choice(parser, arguments)
    return arguments


def check_choice(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Settle which tables are asked for; end in one line where options do not fit together."""
    if arguments.from_csv and arguments.files:
        parser.error("--from-csv and --gpu1 name different files: give one of them")
    asked = {
        "--summary": arguments.summary,
        "--from-csv": arguments.from_csv,
        "--growing": arguments.growing,
        "--strategies": arguments.strategies,
        "--compare": arguments.compare,
        "--fixed-work or --cost": arguments.fixed_work or arguments.cost,
        "--target-loss or --target-accuracy": any(getattr(arguments, name) for name in TARGETS),
    }
    chosen = [name for name, is_asked in asked.items() if is_asked]
    if len(chosen) > 1:
        parser.error(f"{' and '.join(chosen)} are different tables: ask for one")
    if not chosen:
        setattr(arguments, "fixed_work" if arguments.files else "summary", True)
    for option, tables in BELONGS.items():
        if getattr(arguments, option) and not any(getattr(arguments, table) for table in tables):
            names = " or ".join(f"--{table.replace('_', '-')}" for table in tables)
            names = names.replace("--files", "metrics files (--gpu1 FILE)")
            parser.error(f"--{option.replace('_', '-')} is for {names}")


def parse_price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no price: a number of 0 or more, as in 2.50")
    return price


def parse_accuracy(text: str) -> float:
    """Return an accuracy from 0 to 1; `1` may be 1 % and `75` may be anything: neither is taken."""
    number, percent, rest = text.partition("%")
    try:
        accuracy = float(number) / (100 if percent else 1)
    except ValueError:
        accuracy = -1.0
    if rest or not 0 < accuracy <= 1 or (accuracy == 1 and not percent):
        raise argparse.ArgumentTypeError(f"{text!r} is no accuracy: write 75% or 0.75")
    return accuracy


def parse_name_or_count(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 10**6 else text


def parse_setting(text: str) -> tuple[str, list[str]]:
    name, _, values = text.partition("=")
    listed = [value.strip() for value in values.split(",") if value.strip()]
    if len(set(listed)) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} has no two values, as in bucket_cap_mb=25,200")
    return name.strip(), listed


if __name__ == "__main__":
    run_command(main)
