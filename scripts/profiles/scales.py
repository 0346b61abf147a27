"""Which jobs a command line names: scales, a workload, at most so many GPUs."""

from collections.abc import Iterable
from pathlib import Path

from profiles.matrix import DoesNotFit, Job
from profiles.repository import Repository
from profiles.toml_model import ProfileError


def default_workload(repository: Repository) -> str:
    """The workload that is meant when none is named: the matrix's first."""
    return next(iter(repository.matrix.workloads))


def select_scale(repository: Repository, scale: str, workload: str | None) -> list[str]:
    """List the jobs that `scale` names: a job's name, its folder or the folder's last part.

    Every workload may have a `baseline`: the one meant is `workload`'s, else the default
    workload's. What only another workload has (`gpt2/baseline`, `gpt2_1g1n`) is found without.
    Raises ProfileError naming the nearest when none matches.
    """
    names = repository.select(scale, "the scale", workload)
    if workload is not None:
        return names
    rows, usual = repository.matrix.jobs, default_workload(repository)
    return [name for name in names if rows[name].workload == usual] or names


def plan_scales(
    repository: Repository,
    scales: Iterable[str],
    experiments: Path,
    workload: str | None = None,
    every: bool = False,
) -> tuple[list[Job], list[str]]:
    """Plan the jobs that `scales` name, each once, in the matrix's order.

    With `every` (--all), jobs that were not rendered or that their cluster cannot run are left
    out: returns the jobs, and a sentence for each that is left out. Without it such a job raises
    ProfileError.
    """
    wanted = {name for scale in scales for name in select_scale(repository, scale, workload)}
    jobs, left_out = [], []
    for name in (name for name in repository.matrix.jobs if name in wanted):
        script = repository.script_of(name, experiments)
        try:
            if not script.is_file() and every:
                left_out.append(f"{name}, which has no {script}")
                continue
            if not script.is_file():
                raise ProfileError(f"{script} is missing; run: python render.py --only {name}")
            profile = repository.profile_of(script.read_text(encoding="utf-8"))
            jobs.append(repository.plan(name, profile))
        except DoesNotFit as misfit:
            if not every:
                raise
            left_out.append(str(misfit))
    return jobs, left_out
