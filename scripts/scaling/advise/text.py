"""What advise.py prints: the advice in a sentence, then its tables."""

import argparse
from pathlib import Path

from common.errors import UserError
from scaling.advise.advice import DEFAULT_TARGET_PCT, advise, make_plan, try_laws
from scaling.advise.prediction import Link, Machine, find_step_s, make_prediction
from scaling.runs.study import Study, read_study
from scaling.tables import grid
from scaling.tables.grid import Grid, say


def make_text(arguments: argparse.Namespace) -> str:
    """Return advice, plan and laws, or the prediction; UserError says why it cannot."""
    study = _read(arguments)
    grids = [_predict(arguments, study)] if arguments.predict else _advise(arguments, study)
    return grid.FORMATS[arguments.format](grids)


def _read(arguments: argparse.Namespace) -> Study | None:
    if arguments.from_csv:
        from scaling.tables.csv_table import read_csv_table

        return read_csv_table(arguments.from_csv).study
    try:
        return read_study(Path(arguments.folder), arguments.workload, arguments.allow_unlike)
    except UserError:
        if arguments.predict and arguments.step_ms:
            return None  # the model needs no run then
        raise


def _advise(arguments: argparse.Namespace, study: Study) -> list[Grid]:
    return list_advice(study, arguments.target, arguments.epochs, arguments.at)


def list_advice(
    study: Study,
    target_pct: float = DEFAULT_TARGET_PCT,
    epochs: int | None = None,
    asked: int | None = None,
) -> list[Grid]:
    """Return advice, plan (of the runs' own epochs unless told) and, from four scales on, laws.

    asked: a number of GPUs to ask the law about; UserError when it cannot be.
    """
    laws, why = try_laws(study, asked)
    advice = advise(study, target_pct)
    remarks = (f"No scaling law: {why}.",) if why else ()
    headers = {"advice": "Advice", "gpus": "GPUs"}
    row = {"advice": say(advice.text), "gpus": say(advice.scale.gpus if advice.scale else "—")}
    head = Grid("advice", "How many GPUs", headers, [row], (), remarks)
    epochs = epochs or study.baseline.latest.epochs
    plan = [make_plan(study, epochs)] if epochs else []
    return [head, *plan, *laws]


def _predict(arguments: argparse.Namespace, study: Study | None) -> Grid:
    step_s = arguments.step_ms / 1000 if arguments.step_ms else find_step_s(study)
    inside, between = (
        Link(bandwidth * 1e9, latency / 1e6)
        for bandwidth, latency in zip(arguments.bandwidth, arguments.latency, strict=True)
    )
    machine = Machine(arguments.gpus_per_node, inside, between)
    return make_prediction(study, step_s, arguments.gradient_mb * 1e6, machine)
