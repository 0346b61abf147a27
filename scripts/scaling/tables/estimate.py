"""What a workshop takes: time and GPU-hours of each job for all its participants, GPUs at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scaling.runs.find import is_of_workload
from scaling.runs.run import Run
from scaling.tables.table import Cell, Table, say, show

MOST_NAMED = 6  # jobs that a row names; more are counted


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
    headers = {
        "job": "Job", "gpus": "GPUs", "time_s": "Time (s)", "longest_s": "Longest (s)",
        "gpu_hours": "GPU-hours each", "all_gpu_hours": "GPU-hours of all",
        "most_gpu_hours": "At most",
    }  # fmt: skip
    rows, mean_h, most_h, measured = [], 0.0, 0.0, 0
    for job in jobs:
        times, note = _find_times(job, runs)
        mean_s, longest_s = (fmean(times), max(times)) if times else (job.limit_s, job.limit_s)
        each_h = job.gpus * job.times * mean_s / 3600
        at_most_h = job.gpus * job.times * longest_s / 3600 * participants
        mean_h, most_h = mean_h + each_h, most_h + at_most_h
        measured += bool(times)
        rows.append({
            "job": say(job.name, note), "gpus": say(job.gpus), "time_s": _show(mean_s, times),
            "longest_s": _show(longest_s, times), "gpu_hours": show(each_h),
            "all_gpu_hours": show(each_h * participants, 1), "most_gpu_hours": show(at_most_h, 1),
        })  # fmt: skip
    sums = {"gpu_hours": mean_h, "all_gpu_hours": mean_h * participants, "most_gpu_hours": most_h}
    rows.append(dict.fromkeys(headers, Cell(None, "")) | {
        "job": say(f"all {len(jobs)} jobs"), **{k: show(v, 1) for k, v in sums.items()},
    })  # fmt: skip
    definitions = (
        "Time: of a job from its start to its end, without the queue: the mean of the measured "
        "jobs, and the longest. GPU-hours: GPUs x time; at most: with the longest times.",
    )
    title = f"{participants} participant{'s' * (participants != 1)}: times and GPU-hours"
    remarks = [*_describe_basis(len(jobs), measured), *_describe_peak(jobs, participants)]
    facts = {"participants": participants, "measured_jobs": measured}
    return Table("estimate", title, headers, rows, definitions, remarks, facts=facts)


def _show(seconds: float, times: Sequence[float]) -> Cell:
    text = f"{seconds:.0f}"
    return Cell(seconds, text if times else f"≤ {text}")


def _find_times(job: PlannedJob, runs: Sequence[Run]) -> tuple[list[int], str]:
    """Return the seconds of the complete jobs like this one, and what they are in words."""
    at_scale = [
        run
        for run in runs
        if run.id and is_of_workload(run, job.workload) and run.is_usable and run.restarts == 0
        and (run.nodes, run.gpus_per_node) == (job.nodes, job.gpus_per_node)
    ]  # fmt: skip
    timed = [run for run in at_scale if run.elapsed_s]
    alike = [
        run
        for run in timed
        if job.epochs is None or (run.settings or {}).get("epochs") in (None, job.epochs)
    ]
    if alike:
        places = {(run.settings or {}).get("gpu_name") or "no known GPU" for run in alike}
        n = len(alike)
        more = f" and {n - MOST_NAMED} more" if n > MOST_NAMED else ""
        ids = ", ".join(run.id for run in alike[-MOST_NAMED:])
        return [run.elapsed_s for run in alike], (
            f"measured: {n} job{'s' * (n != 1)} on {', '.join(sorted(map(str, places)))} "
            f"({ids}{more})"
        )
    if timed:
        epochs = sorted({str((run.settings or {}).get("epochs")) for run in timed})
        why = f"those measured trained {', '.join(epochs)} epochs, this one {job.epochs}"
    elif at_scale:
        why = "the complete jobs of this scale have no job_end.json"
    else:
        why = "no complete job of this scale"
    return [], f"time limit, not measured: {why}"


def _describe_basis(jobs: int, measured: int) -> list[str]:
    if measured == jobs:
        return []
    if not measured:
        return ["Nothing is measured: all times are time limits, the upper bound. Rehearse each "
                "scale once for an estimate."]  # fmt: skip
    return [f"{jobs - measured} of {jobs} jobs are not measured: with their time limits the sums "
            "are an upper bound."]  # fmt: skip


def _describe_peak(jobs: Sequence[PlannedJob], participants: int) -> list[str]:
    largest = max(jobs, key=lambda job: job.gpus)
    everything = sum(job.gpus * job.times for job in jobs)
    return [
        f"GPUs at once: {participants * largest.gpus:,} when everybody runs {largest.name} at the "
        f"same time, the most with one job each (submit.py --after); "
        f"{participants * everything:,} when everybody submits all jobs at once.",
        "With fewer GPUs jobs queue; no time can be below the GPU-hours of all / the GPUs there "
        "are.",
    ]
