"""Studies made in memory, for charts and report: no files, and every setting free."""

from pathlib import Path

from scaling.runs import Study
from scaling.runs.records import parse_training_metrics
from scaling.runs.study import TableRow, build_study, describe_file
from study_folders import make_metrics


def make_run(
    gpus: int, rates: list[float], nodes: int = 1, name: str = "1", **settings: object
) -> TableRow:
    """A run of weak scaling known by its metrics: one epoch (60 s, 55 of training) per rate."""
    losses = [5.0 - 0.1 * n for n in range(len(rates))]
    record = make_metrics(name, nodes, gpus, rates, losses)
    for epoch in record["epochs"]:
        epoch |= {"epoch_wall_time_sec": 60.0, "train_time_slowest_rank_sec": 55.0}
    run = describe_file(parse_training_metrics(record, Path(name)), gpus)
    run.settings |= {"scaling": "weak", **settings}
    return run


def make_study(runs: list[TableRow]) -> Study:
    return build_study(runs, workload="tinyimagenet")


def make_rates_study(rates: dict[int, float]) -> Study:
    """One run of three epochs, the first being warm-up, for each number of GPUs."""
    return make_study([make_run(n, [rate / 2, rate, rate]) for n, rate in rates.items()])
