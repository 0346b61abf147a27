"""The job scripts as files: write what fits a cluster, remove what does not, show differences."""

import difflib
import re
from pathlib import Path

from common.console import notice, warn
from common.errors import UserError
from common.files import write_whole
from profiles.cluster import Cluster, choose, name_local
from profiles.matrix import DoesNotFit, Job
from profiles.repository import Repository, read_header


def plan_jobs(
    names: list[str], repository: Repository, profile: str
) -> tuple[list[Job], dict[str, DoesNotFit]]:
    """Plan the jobs `names`; returns those that fit the cluster, and why the others do not."""
    jobs, misfits = [], {}
    for name in names:
        try:
            jobs.append(repository.plan(name, profile))
        except DoesNotFit as misfit:
            misfits[name] = misfit
    return jobs, misfits


def write_jobs(jobs: list[Job], repository: Repository, profile: str, folder: Path) -> None:
    """Write the scripts of `jobs` below `folder`: all are rendered before any is written."""
    texts = {job.script: repository.render(job, profile) for job in jobs}
    for script, text in texts.items():
        write_script(folder / script, text)
    notice(f"{len(texts)} job scripts for cluster {profile} in {folder}")
    if blanks := sorted(set(re.findall(r"YOUR_[A-Z]+", "".join(texts.values())))):
        local = name_local(repository.load_profile(profile).shown)
        warn(f"the jobs say {', '.join(blanks)}; put yours in {local}, then render")


def remove_script(path: Path) -> None:
    """Remove the script of a job that the cluster cannot run, or it would be submitted one day.

    Only what render.py made for another cluster goes: its header says so. Logs and runs stay.
    """
    if not path.is_file():
        return
    if read_header(path.read_text(encoding="utf-8", errors="replace")) is None:
        notice(f"  {path} is not from render.py; delete it yourself")
        return
    try:
        path.unlink()
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}") from None
    notice(f"  removed {path}, which was for another cluster")


def check_files(
    names: list[str], repository: Repository, folder: Path, cluster: str | None, must_hold: bool
) -> None:
    """Print how the files of the jobs `names` differ from their renders, and name stray files.

    Raises UserError when any does and they `must_hold`.
    """
    stale = [show_difference(name, repository, folder, cluster) for name in names]
    stale += [report_stray(path, repository, folder) for path in sorted(folder.rglob("*.slurm"))]
    if must_hold and any(stale):
        raise UserError(f"{sum(stale)} stale job scripts; run: python render.py")


def show_difference(name: str, repository: Repository, folder: Path, cluster: str | None) -> bool:
    """Print how job `name`'s file differs from its render, and say whether it does.

    It is rendered for `cluster`, else for the one that the file's own header names; a missing file
    for the one that most others below `folder` name.
    """
    path = repository.script_of(name, folder)
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    profile = cluster or (repository.profile_of(old) if old else repository.usual_profile(folder))
    try:
        job = repository.plan(name, profile)
    except DoesNotFit as misfit:
        if old:
            print(f"{path} should not be there: {misfit.reason}")
        return bool(old)
    if not old:
        print(f"{path} is missing")
        return True
    new = repository.render(job, profile)
    diff = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{path} (as it is)", f"{path} (rendered)", lineterm=""
    )
    print(*diff, sep="\n", end="\n" if old != new else "")
    return old != new


def report_stray(path: Path, repository: Repository, folder: Path) -> bool:
    """Print and say whether the job script `path` belongs to no job of the matrix."""
    known = {repository.script_of(name, folder) for name in repository.matrix.jobs}
    if path not in known:
        print(f"{path} belongs to no job of experiments/matrix.toml; delete it or add the job")
    return path not in known


def print_jobs(jobs: list[Job], cluster: Cluster, folder: Path) -> None:
    """Print one line per job: what it asks for, "-" where it leaves that to the site."""
    rows = [("job", "nodes", "GPUs", "CPUs/node", "memory", "time", "partition", "script")]
    for job in jobs:
        mem, mem_per_gpu, partition = (
            choose(value, job.nodes, job.gpus_per_node)
            for value in (cluster.mem, cluster.mem_per_gpu, cluster.partition)
        )
        cpus = job.cpus_per_task * job.tasks_per_node if job.cpus_per_task else None
        memory = mem or (f"{mem_per_gpu} per GPU" if mem_per_gpu else None)
        size = (job.name, job.nodes, job.world_size, cpus, memory, job.time, partition)
        rows.append((*("-" if cell is None else str(cell) for cell in size), folder / job.script))
    widths = [max(len(str(row[column])) for row in rows) for column in range(7)]
    for name, *numbers, script in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True)]
        print(f"{name:<{widths[0]}}", *cells, script, sep="  ")


def write_script(path: Path, text: str) -> None:
    """Write a job script and the log/ folder that Slurm needs beside it."""
    try:
        (path.parent / "log").mkdir(parents=True, exist_ok=True)
        (path.parent / "log/.gitkeep").touch()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    write_whole(path, text)
