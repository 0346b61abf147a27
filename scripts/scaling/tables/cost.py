"""What each scale cost: GPU-hours, samples for them, energy, and money at a price."""

from functools import partial

import pandas as pd

from common.errors import UserError
from common.rounding import round_half_even
from scaling.runs.compare import divide
from scaling.runs.frames import make_samples
from scaling.runs.run import Run
from scaling.runs.study import Study, count
from scaling.tables.hardware import add_hardware
from scaling.tables.readme import check_covers
from scaling.tables.table import ROUNDING, Cell, Table, is_missing, missing, say, show

LONGEST_GAP_S = 60  # a logger that was silent for longer has not seen the power in between
J_PER_KWH = 3_600_000


def make_cost(
    study: Study,
    price: float | None = None,
    currency: str = "",
    energy_runs: int | None = None,
) -> Table:
    """Return the table of costs, means over the repeats of a scale.

    price: of one GPU-hour; without it there is no column of money. energy_runs: take energy
    from so many of the latest runs of a scale, since a long GPU log takes a moment to read.
    """
    noun = study.noun
    headers = {
        "config": "Configuration",
        "gpus": "GPUs",
        "wall_s": "Wall time (s)",
        "gpu_hours": "GPU-hours",
        "samples_per_gpu_hour": f"{noun.capitalize()} per GPU-hour",
        "energy_j_per_sample": f"Energy (J per {noun[:-1]})",
        "energy_kwh": "Energy (kWh)",
    }
    definitions = [
        "GPU-hours: GPUs x wall time of the training (all epochs with validation), not the queue "
        f"and not the start of the job. {noun.capitalize()}: trained on, all epochs.",
        "Energy: power.draw of all the job's GPUs, trapezoids from the first sample to the last; "
        "the rest of the nodes is not in it.",
        ROUNDING,
    ]
    if price is not None:
        headers["money"] = f"Cost ({currency})" if currency else "Cost"
        headers["money_per_million"] = f"Cost per million {noun}"
        definitions.insert(1, f"Cost: GPU-hours x {currency}{price:.10g} per GPU-hour.")
    if energy_runs and (study.scales["n_runs"] > energy_runs).any():
        definitions.insert(2, f"Energy is of the latest {count(energy_runs, 'run')} of a scale.")
    scales = list(study.scales.itertuples())
    rows = [_make_row(study, row, price, energy_runs) for row in scales]
    table = Table("cost", "Cost", headers, rows, definitions, study.left_out)
    return add_hardware(study, table, scales)


def _make_row(study: Study, row, price: float | None, energy_runs: int | None) -> dict[str, Cell]:
    runs = study.list_runs(row)
    powered = runs.tail(energy_runs or len(runs))
    gpu_hours = row.wall_s * row.gpus / 3600
    samples = runs["samples"].mean(skipna=False)
    energy_j, no_energy = _measure_energy(study, powered["run"])
    j_per_sample = divide(energy_j, powered["samples"].mean(skipna=False))
    no_time = "no wall time is recorded"
    no_rate = no_time if is_missing(gpu_hours) else "how many were trained on is not recorded"
    money = gpu_hours * (price or 0.0)
    known = {
        "gpu_hours": (gpu_hours, no_time),
        "energy_j_per_sample": (j_per_sample, no_energy or no_rate),
        "energy_kwh": (divide(energy_j, J_PER_KWH), no_energy),
        "money_per_million": (divide(money * 1e6, samples), no_rate),
    }
    return {
        "config": say(row.label, f"mean of {len(runs)} runs" if len(runs) > 1 else None),
        "gpus": say(row.gpus),
        "wall_s": show(row.wall_s, why=no_time),
        "samples_per_gpu_hour": show(divide(samples, gpu_hours), 0, why=no_rate),
        "money": show(money, why=no_time),
        **{name: _show_small(value, why) for name, (value, why) in known.items()},
    }


def _measure_energy(study: Study, runs: pd.Series) -> tuple[float | None, str | None]:
    """Return the mean energy in J of runs by their positions, or None and why."""
    found = []
    for run in (study.sources[at] for at in runs):
        if not isinstance(run, Run):
            return None, "no GPU log"
        try:
            found.append(measure_energy_j(run))
        except UserError as error:
            return None, str(error)
    return sum(found) / len(found), None


def measure_energy_j(run: Run) -> float:
    """Return the energy in J of all GPUs of a run: power over time, by trapezoids.

    Raises UserError when a GPU, a node's log or the power is missing, or a log has a gap or
    ends before the training.
    """
    samples = make_samples(run)
    samples = samples[samples["source"] == "nvidia-smi"]
    groups = samples.groupby(["node", "gpu"])
    if groups.ngroups != run.gpus:
        raise UserError(f"job {run.id}: its GPU logs show {groups.ngroups} of {run.gpus} GPUs")
    if samples[["power_w", "elapsed_s"]].isna().to_numpy().any():
        raise UserError(f"job {run.id}: a sample of its GPU log has no power or no time")
    return float(sum(map(partial(_integrate, run), (group for _, group in groups))))


def _integrate(run: Run, samples: pd.DataFrame) -> float:
    """Return the energy in J of one GPU's samples."""
    if len(samples) < 2:
        raise UserError(f"job {run.id}: a GPU has one power sample only")
    step_s = samples["elapsed_s"].diff().iloc[1:]
    for gap_s in step_s[~step_s.between(0, LONGEST_GAP_S)]:
        raise UserError(f"job {run.id}: its GPU log has a gap of {gap_s:.0f} s: no energy")
    check_covers(run, "GPU", step_s.sum(), step_s.iloc[0])
    return (step_s * samples["power_w"].rolling(2).mean().iloc[1:]).sum()


def _show_small(value: float | None, why: str | None, places: int = 2) -> Cell:
    """Return a cell with enough decimals for three digits that count: 0.00417, not 0.00."""
    if is_missing(value):
        return missing(why or "not recorded")
    if value and abs(value) < 1:
        shown, places = abs(value), 2
        while shown < 1 and places < 12:
            shown, places = shown * 10, places + 1
    return Cell(value, round_half_even(value, places))
