"""The last job of a chain: when the others have ended, it writes the tables from their logs."""

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from profiles import Cluster, Job, Repository
from profiles.cluster import choose
from profiles.directives import choose_queue, name_option, request_gpus
from submission.slurm import SlurmError, try_script

NAME, FOLDER, SCRIPT = "scaling_tables", "tables", "write_tables.sh"
TIME, MEMORY = "00:10:00", "4G"  # 1,000 runs are read in a minute, within 300 MB


@dataclass(frozen=True)
class TablesJob:
    """The job's script, and what a person must know of how it asks for its node."""

    text: str
    remark: str
    gpus: int = 0


def plan_tables(
    repository: Repository, jobs: list[Job], profile: str, experiments: Path, options: list[str]
) -> TablesJob:
    """Plan the tables' job behind `jobs` on their cluster, `options` being the queue's.

    No profile says whether its site takes a job without GPUs, so Slurm is asked (`sbatch
    --test-only`): first for none, then, when that is refused, for one. Where both are refused or
    there is no sbatch to ask, the job asks for none: no GPU stands idle for it.
    """
    texts = {
        with_gpu: render_tables(repository, jobs, profile, experiments, with_gpu)
        for with_gpu in (False, True)
    }
    sbatch = repository.load_profile(profile).submit_command
    asks = "no profile says whether its site takes a job without GPUs"
    if shutil.which(sbatch) is None:
        return TablesJob(texts[False], f"asks for no GPU ({asks}, and there is no {sbatch} to ask)")
    refusals = []
    for with_gpu in (False, True):
        try:
            try_script(texts[with_gpu], options, sbatch)
        except SlurmError as refusal:
            refusals.append(str(refusal))
            continue
        remark = "asks for no GPU, which Slurm accepts"
        if with_gpu:
            remark = f"asks for 1 GPU, since without one Slurm says: {refusals[0]}"
        return TablesJob(texts[with_gpu], remark, int(with_gpu))
    return TablesJob(texts[False], f"asks for no GPU, but Slurm says: {refusals[0]}")


def render_tables(
    repository: Repository, jobs: list[Job], profile: str, experiments: Path, with_gpu: bool
) -> str:
    """Render the script that writes the tables of the workloads of `jobs`."""
    cluster: Cluster = repository.load_profile(profile)
    small = replace(
        jobs[0], name=NAME, nodes=1, gpus_per_node=1, tasks_per_node=1, cpus_per_task=1, time=TIME
    )
    root, inside = repository.root.resolve(), experiments.resolve()
    if inside.is_relative_to(root):
        inside = inside.relative_to(root)  # as a person would type it: the tables' notes show it
    return repository.templates.get_template("tables.sh.j2").render(
        cluster=cluster,
        directives=list_tables_directives(small, cluster, with_gpu),
        workloads=list(dict.fromkeys(job.workload for job in jobs)),
        with_gpu=with_gpu,
        command="python scripts/submit.py … --after",
        python=Path(sys.executable).absolute(),  # not resolved: its link is what makes a .venv
        repo=root,
        experiments=inside,
    )


def list_tables_directives(job: Job, cluster: Cluster, with_gpu: bool) -> list[str]:
    """List the directives of a small job: the queue of a job of one GPU, and one CPU."""
    lines = [f"--job-name={job.name}", "--output=%x_%j.out", f"--time={job.time}", "--nodes=1"]
    lines += ["--ntasks=1", "--cpus-per-task=1"]
    if with_gpu:
        lines += [option for option, _ in request_gpus(job, cluster)]
    if choose(cluster.mem, 1, 1) or choose(cluster.mem_per_gpu, 1, 1):
        lines.append(f"--mem={MEMORY}")  # where memory is said at all; else the site's default
    lines += [option for option, _ in choose_queue(job, cluster) if option != "--exclusive"]
    return [line for line in lines if name_option(line) not in cluster.omit]
