"""What each scale cost: GPU-hours, samples for them, energy, and money at a price."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from common.errors import UserError
from scaling.read.numbers import round_half_even, to_fraction
from scaling.runs.measured import Measured
from scaling.runs.run_record import Run
from scaling.runs.samples import read_gpu_frame
from scaling.runs.spread import mean_of
from scaling.runs.study import Scale, Study, count
from scaling.tables.cells import Cell, check_covers, missing
from scaling.tables.grid import ROUNDING, Grid, show

LONGEST_GAP_S = 60  # a logger that was silent for longer has not seen the power in between


@dataclass(frozen=True)
class Cost:
    """What one run cost. energy_j: all of its GPUs over their power samples; why: why None."""

    gpu_hours: Fraction | None
    samples: float | None
    energy_j: float | None
    why: str | None


def measure_cost(run: Measured, with_energy: bool = True) -> Cost:
    """Return the cost of a run: GPUs x wall time, and the energy its GPU logs show."""
    hours = None if run.wall_s is None else run.gpus * run.wall_s / 3600
    if not with_energy:
        return Cost(hours, run.samples, None, None)
    try:
        energy_j, why = (measure_energy_j(run.run) if run.run else None), None
    except UserError as error:
        energy_j, why = None, str(error)
    return Cost(hours, run.samples, energy_j, why or "no GPU log")


def measure_energy_j(run: Run) -> float:
    """Return the energy in J of all GPUs of a run: power over time, by trapezoids.

    Raises UserError when a GPU, a node's log or the power is missing, or a log has a gap or
    ends before the training.
    """
    frame, _ = read_gpu_frame(run)
    by_gpu = [part for _, part in frame.groupby(["node", "gpu"])]
    if len(by_gpu) != run.gpus:
        raise UserError(f"job {run.id}: its GPU logs show {len(by_gpu)} of {run.gpus} GPUs")
    if frame[["power_w", "elapsed_s"]].isna().to_numpy().any():
        raise UserError(f"job {run.id}: a sample of its GPU log has no power or no time")
    return sum(
        _integrate(run, list(zip(part["elapsed_s"], part["power_w"], strict=True)))
        for part in by_gpu
    )


def _integrate(run: Run, points: list[tuple[float, float]]) -> float:
    energy_j = 0.0
    if len(points) < 2:
        raise UserError(f"job {run.id}: a GPU has one power sample only")
    for (start_s, before_w), (end_s, after_w) in pairwise(points):
        if not 0 <= end_s - start_s <= LONGEST_GAP_S:
            raise UserError(
                f"job {run.id}: its GPU log has a gap of {end_s - start_s:.0f} s: no energy"
            )
        energy_j += (end_s - start_s) * (before_w + after_w) / 2
    check_covers(run, "GPU", points[-1][0] - points[0][0], points[1][0] - points[0][0])
    return energy_j


def make_cost(
    study: Study,
    price: float | None = None,
    currency: str = "",
    energy_runs: int | None = None,
) -> Grid:
    """Return the table of costs, means over the repeats of a scale.

    price: of one GPU-hour; without it there is no column of money. energy_runs: take energy
    from so many of the latest runs of a scale, since a long GPU log takes a moment to read.
    """
    word = study.word.lower()
    headers = {
        "config": "Configuration",
        "gpus": "GPUs",
        "wall_s": "Wall time (s)",
        "gpu_hours": "GPU-hours",
        "samples_per_gpu_hour": f"{word.capitalize()} per GPU-hour",
        "energy_j_per_sample": f"Energy (J per {word[:-1]})",
        "energy_kwh": "Energy (kWh)",
    }
    definitions = [
        "GPU-hours: GPUs x wall time of the training (all epochs with validation), not the queue "
        f"and not the start of the job. {word.capitalize()}: trained on, all epochs.",
        "Energy: power.draw of all the job's GPUs, trapezoids from the first sample to the last; "
        "the rest of the nodes is not in it.",
        ROUNDING,
    ]
    if price is not None:
        shown = f"{currency}{price:.10g}"
        headers["money"] = f"Cost ({currency})" if currency else "Cost"
        headers["money_per_million"] = f"Cost per million {word}"
        definitions.insert(1, f"Cost: GPU-hours x {shown} a GPU-hour.")
    if energy_runs and any(len(scale.runs) > energy_runs for scale in study.scales):
        definitions.insert(2, f"Energy is of the latest {count(energy_runs, 'run')} of a scale.")
    rows = [_make_row(scale, price, energy_runs) for scale in study.scales]
    return Grid("cost", "Cost", headers, rows, tuple(definitions), study.left_out)


def _make_row(scale: Scale, price: float | None, energy_runs: int | None) -> dict[str, Cell]:
    latest = scale.runs[-(energy_runs or len(scale.runs)) :]
    costs = [measure_cost(run, run in latest) for run in scale.runs]
    powered = costs[-len(latest) :]
    wall_s = scale.wall_s
    hours = _mean([cost.gpu_hours for cost in costs])
    samples = _mean([cost.samples for cost in costs])
    energy_j = _mean([cost.energy_j for cost in powered])
    powered_samples = _mean([cost.samples for cost in powered])
    no_time = "no wall time is recorded"
    no_rate = no_time if hours is None else "how many were trained on is not recorded"
    no_energy = next((cost.why for cost in powered if cost.energy_j is None), "") or no_rate
    note = f"mean of {len(costs)} runs" if len(costs) > 1 else None
    money = None if price is None or hours is None else hours * to_fraction(price)
    known = energy_j is not None and powered_samples
    per_sample_j = energy_j / powered_samples if known else None
    return {
        "config": Cell(None, scale.label, note),
        "gpus": Cell(scale.gpus, str(scale.gpus)),
        "wall_s": show(wall_s and wall_s.mean, why=no_time),
        "gpu_hours": _show_small(hours, no_time),
        "samples_per_gpu_hour": show(hours and samples and samples / hours, 0, why=no_rate),
        "energy_j_per_sample": _show_small(per_sample_j, no_energy),
        "energy_kwh": _show_small(energy_j and energy_j / 3_600_000, no_energy),
        "money": show(money, why=no_time),
        "money_per_million": _show_small(money and samples and money * 10**6 / samples, no_rate),
    }


def _show_small(value: Fraction | None, why: str, places: int = 2) -> Cell:
    """Return a cell with enough decimals for three digits that count: 0.00417, not 0.00."""
    if value is None:
        return missing(why)
    if value and abs(value) < 1:
        shown, places = abs(value), 2
        while shown < 1 and places < 12:
            shown, places = shown * 10, places + 1
    return Cell(value, round_half_even(value, places))


def _mean(values: list) -> Fraction | None:
    return None if None in values or not values else mean_of(values)
