"""GPU-hours: what each scale cost, with energy and money; and what a workshop's jobs will take."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from common.errors import UserError
from common.rounding import round_half_even
from scaling.runs.compare import divide
from scaling.runs.find import is_of_workload
from scaling.runs.frames import make_samples
from scaling.runs.run import Run
from scaling.runs.study import Study, count
from scaling.tables.hardware import add_hardware
from scaling.tables.readme import check_covers
from scaling.tables.table import ROUNDING, Cell, Table, is_missing, make_table, missing, say, show

LONGEST_GAP_S = 60  # a logger that was silent for longer has not seen the power in between
J_PER_KWH = 3_600_000
MOST_NAMED = 6  # jobs that a row names; more are counted


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
    noun, scales = study.noun, list(study.scales.itertuples())
    columns = {
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
        columns["money"] = f"Cost ({currency})" if currency else "Cost"
        columns["money_per_million"] = f"Cost per million {noun}"
        definitions.insert(1, f"Cost: GPU-hours x {currency}{price:.10g} per GPU-hour.")
    if energy_runs and (study.scales["n_runs"] > energy_runs).any():
        definitions.insert(2, f"Energy is of the latest {count(energy_runs, 'run')} of a scale.")
    rows = [_measure_cost(study, row, price or 0.0, energy_runs) for row in scales]
    table = make_table("cost", "Cost", columns, rows, definitions=definitions,
                       remarks=study.left_out)  # fmt: skip
    return add_hardware(study, table, scales)


def _measure_cost(study: Study, row, price: float, energy_runs: int | None) -> dict[str, object]:
    """Return what the table shows of a row of study.scales."""
    runs = study.list_runs(row)
    powered = runs.tail(energy_runs or len(runs))
    gpu_hours, samples = row.wall_s * row.gpus / 3600, runs["samples"].mean(skipna=False)
    energy_j, no_energy = _measure_energy(study, powered["run"])
    no_time, no_samples = "no wall time is recorded", "how many were trained on is not recorded"
    why = no_time if is_missing(gpu_hours) else no_samples
    j_per_sample = divide(energy_j, powered["samples"].mean(skipna=False))
    return {
        "config": say(row.label, f"mean of {len(runs)} runs" if len(runs) > 1 else None),
        "gpus": row.gpus,
        "wall_s": row.wall_s,
        "gpu_hours": _show_small(gpu_hours, no_time),
        "samples_per_gpu_hour": show(divide(samples, gpu_hours), 0, why=why),
        "energy_j_per_sample": _show_small(j_per_sample, no_energy or why),
        "energy_kwh": _show_small(divide(energy_j, J_PER_KWH), no_energy),
        "money": gpu_hours * price,
        "money_per_million": _show_small(divide(gpu_hours * price * 1e6, samples), why),
    }


def _measure_energy(study: Study, runs: pd.Series) -> tuple[float | None, str | None]:
    """Return the mean energy in J of runs by their positions, or None and why."""
    sources = [study.sources[at] for at in runs]
    if not all(isinstance(source, Run) for source in sources):
        return None, "no GPU log"
    try:
        return fmean(map(measure_energy_j, sources)), None
    except UserError as error:
        return None, str(error)


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
    energy_j = 0.0
    for _, group in groups:
        if len(group) < 2:
            raise UserError(f"job {run.id}: a GPU has one power sample only")
        step_s = group["elapsed_s"].diff().iloc[1:]
        for gap_s in step_s[~step_s.between(0, LONGEST_GAP_S)]:
            raise UserError(f"job {run.id}: its GPU log has a gap of {gap_s:.0f} s: no energy")
        check_covers(run, "GPU", step_s.sum(), step_s.iloc[0])
        energy_j += (step_s * group["power_w"].rolling(2).mean().iloc[1:]).sum()
    return float(energy_j)


def _show_small(value: float | None, why: str | None) -> Cell:
    """Return a cell with enough decimals for three digits that count: 0.00417, not 0.00."""
    if is_missing(value):
        return missing(why or "not recorded")
    places = 2
    while value and abs(value) * 10 ** (places - 2) < 1 and places < 12:
        places += 1
    return Cell(value, round_half_even(value, places))


# ---- What a workshop takes: time and GPU-hours of each job for all its participants ------------


@dataclass(frozen=True)
class PlannedJob:
    """A job that participants will submit; `epochs`: None where its options do not say."""

    name: str
    workload: str
    nodes: int
    gpus_per_node: int
    limit_s: float
    epochs: int | None = None
    times: int = 1  # that each participant submits it

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def make_estimate(jobs: Sequence[PlannedJob], runs: Sequence[Run], participants: int) -> Table:
    """Return the table: a row per job, then all of them.

    A job's time is what complete jobs of its scale and epochs took from start to end; where there
    is none its time limit is the upper bound, and says so.
    """
    columns = {
        "job": "Job", "gpus": "GPUs", "time_s": "Time (s)", "gpu_hours": "GPU-hours each",
        "all_gpu_hours": ("GPU-hours of all", 1),
    }  # fmt: skip
    rows, measured = [], 0
    for job in jobs:
        times_s, note = _find_times(job, runs)
        measured += bool(times_s)
        mean_s = fmean(times_s or [job.limit_s])
        hours = job.gpus * job.times * mean_s / 3600
        rows.append({
            "job": say(job.name, note), "gpus": job.gpus,
            "time_s": f"{mean_s:.0f}" if times_s else f"≤ {mean_s:.0f}",
            "gpu_hours": hours, "all_gpu_hours": hours * participants,
        })  # fmt: skip
    each_h, all_h = (sum(row[name] for row in rows) for name in ("gpu_hours", "all_gpu_hours"))
    rows.append({"job": f"all {len(jobs)} jobs", "gpus": "", "time_s": "",
                 "gpu_hours": show(each_h, 1), "all_gpu_hours": all_h})  # fmt: skip
    definitions = (
        "Time: of a job from its start to its end, without the queue, the mean of the measured "
        "jobs. GPU-hours: GPUs x time.",
    )
    remarks = []
    if measured < len(jobs):
        none = "Nothing is measured" if not measured else (
            f"{len(jobs) - measured} of {len(jobs)} jobs are not measured")  # fmt: skip
        remarks.append(f"{none}: their times are time limits, the upper bound. Rehearse each "
                       "scale once for an estimate.")  # fmt: skip
    largest, everything = max(jobs, key=lambda job: job.gpus), sum(j.gpus * j.times for j in jobs)
    remarks += [
        f"GPUs at once: {participants * largest.gpus:,} when everybody runs {largest.name} at the "
        f"same time, the most with one job each (submit.py --after); "
        f"{participants * everything:,} when everybody submits all jobs at once.",
        "With fewer GPUs jobs queue; no time can be below the GPU-hours of all / the GPUs there "
        "are.",
    ]
    title = f"{count(participants, 'participant')}: times and GPU-hours"
    return make_table("estimate", title, columns, rows, definitions=definitions, remarks=remarks)


def _find_times(job: PlannedJob, runs: Sequence[Run]) -> tuple[list[int], str]:
    """Return the seconds of the complete jobs like this one, and what they are in words."""
    at_scale = [
        run for run in runs
        if run.id and is_of_workload(run, job.workload) and run.is_usable and run.restarts == 0
        and (run.nodes, run.gpus_per_node) == (job.nodes, job.gpus_per_node)
    ]  # fmt: skip
    known = [(run, (run.settings or {}).get("epochs")) for run in at_scale if run.elapsed_s]
    alike = [run for run, epochs in known if None in (job.epochs, epochs) or epochs == job.epochs]
    if not alike:
        epochs = "" if job.epochs is None else f" and {count(job.epochs, 'epoch')}"
        return [], f"time limit, not measured: no complete job of this scale{epochs} has a time"
    gpus = {str((run.settings or {}).get("gpu_name") or "no known GPU") for run in alike}
    more = f" and {len(alike) - MOST_NAMED} more" if len(alike) > MOST_NAMED else ""
    ids = ", ".join(run.id for run in alike[-MOST_NAMED:])
    told = f"measured: {count(len(alike), 'job')} on {', '.join(sorted(gpus))} ({ids}{more})"
    return [run.elapsed_s for run in alike], told
