"""Choose the run that stands for each scale: the latest complete one, or the one asked for."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from scaling.runs.find import order_in_time
from scaling.runs.run import Run
from scaling.runs.workloads import DEFAULT_WORKLOAD

DEFAULT_GPUS_PER_NODE = 2  # of the committed multi-node jobs

Scale = tuple[int, int]  # nodes, GPUs per node


@dataclass(frozen=True)
class Choice:
    """run: whose numbers stand in the row, None when no run has any. reason: why it is None.

    latest_log: of the run that `reason` is about. later: a younger run at the same scale that
    is not shown, in words.
    """

    run: Run | None
    reason: str | None = None
    latest_log: Path | None = None
    later: str | None = None
    was_started: bool = True  # False: nobody has submitted this scale


def is_of_workload(run: Run, workload: str) -> bool:
    """Whether a run is of that workload, by its run.json, else by the folder that it lies in.

    What says neither is the workshop's, which is TinyImageNet's, unless its log counts no images.
    """
    if run.workload is not None:
        return run.workload == workload
    last = run.attempt.last if run.id and run.settings is None and run.attempt else None
    return workload == "tinyimagenet" and (last is None or last.unit == "img/s")


def is_growing(run: Run) -> bool:
    """Whether the model grew with the GPUs (--growing): such runs compare with each other alone.

    By its run.json; without one, by its job script.
    """
    if run.settings is not None:
        return run.settings.get("scaling_mode") == "growing"
    return run.script is not None and "--growing" in run.script.read_text(errors="replace")


def choose_workload(runs: list[Run], asked: str | None = None) -> str:
    """Return the workload that is asked for, else the default, else the only one that has runs."""
    started = [run for run in runs if run.id]
    others = {run.workload for run in started if run.workload} - {DEFAULT_WORKLOAD}
    if asked or len(others) != 1 or any(is_of_workload(run, DEFAULT_WORKLOAD) for run in started):
        return asked or DEFAULT_WORKLOAD
    return others.pop()


def usual_gpus_per_node(runs: list[Run]) -> int:
    """Return the number of GPUs per node of most multi-node runs and job files."""
    counts = Counter(run.gpus_per_node for run in runs if (run.nodes or 0) > 1)
    counts.pop(None, None)
    return counts.most_common(1)[0][0] if counts else DEFAULT_GPUS_PER_NODE


def has_scale(run: Run, scale: Scale) -> bool:
    """Whether a run is at a scale; of a multi-node run the GPUs per node may be unknown."""
    nodes, gpus_per_node = scale
    if run.nodes is None and run.gpus is not None:  # by a log that names no nodes: noted there
        return scale == (1, run.gpus)
    same_gpus = run.gpus_per_node == gpus_per_node or (nodes > 1 and run.gpus_per_node is None)
    return run.nodes == nodes and same_gpus


def choose(candidates: list[Run], named: list[Run]) -> Choice:
    """Return the run for a row out of those at its scale; `named` are the ones asked for.

    Latest is by start time when each run has one, else by job id.
    """
    started = order_in_time([run for run in candidates if run.id])
    asked = [run for run in started if run in named]
    if asked:
        run = asked[-1]
        return Choice(run) if run.is_usable else Choice(None, run.account, run.log_path)
    usable = [run for run in started if run.is_usable]
    if usable:
        latest = started[-1]
        return Choice(usable[-1], later=None if latest is usable[-1] else latest.account)
    if started:
        return Choice(None, started[-1].account, started[-1].log_path)
    return Choice(None, candidates[0].reason if candidates else None, was_started=False)


def find_strategy(run: Run) -> str:
    """Return a run's strategy; what records none keeps whole replicas, as DDP does."""
    return str((run.settings or {}).get("strategy") or "ddp")


def part_by_strategy(candidates: list[Run], strategy: str) -> tuple[list[Run], list[Run]]:
    """Return (the runs that may stand for a scale, those of other strategies).

    Where none of this strategy is complete, any may.
    """
    same = [run for run in candidates if not run.id or find_strategy(run) == strategy]
    if not any(run.is_usable for run in same):
        return candidates, []
    return same, [run for run in candidates if run not in same]


def resolve_jobs(runs: list[Run], jobs: list[str], scales: set[Scale]) -> list[Run]:
    """Return the runs that job ids name: `12` means the last complete attempt of job 12.

    Raises UserError for an id that is not there, has no row, or whose row is taken.
    """
    named: list[Run] = []
    taken: dict[Scale, str] = {}
    for job in jobs:
        run = _resolve(runs, job)
        scale = next((scale for scale in scales if has_scale(run, scale)), None)
        if scale is None:
            raise UserError(
                f"--job {job}: no row for it ({run.nodes or 'unknown'} nodes × "
                f"{run.gpus_per_node or 'unknown'} GPUs); name a job of a scale in the tables"
            )
        if scale in taken:
            raise UserError(
                f"--job {taken[scale]} and --job {job} are of the same scale; name one of them"
            )
        taken[scale] = job
        named.append(run)
    return named


def _resolve(runs: list[Run], job: str) -> Run:
    attempts = [run for run in runs if run.id and job in (run.id, str(run.job))]
    exact = [run for run in attempts if run.id == job and "." in job]
    usable = [run for run in attempts if run.is_usable]
    if found := (exact or usable or attempts):
        return order_in_time(found)[-1]
    known = ", ".join(run.id for run in order_in_time([run for run in runs if run.id]))
    raise UserError(f"--job {job}: no such run; there are: {known or 'none'}")
