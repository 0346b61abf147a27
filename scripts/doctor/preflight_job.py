"""The preflight jobs: a cluster's real job scripts with preflight.py in the trainer's place."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from jinja2 import Environment

from profiles.cluster import Cluster
from profiles.container import format_prefix
from profiles.matrix import DoesNotFit, Job, JobRow, Matrix, plan_job
from profiles.render_job import render_job
from profiles.toml_model import ProfileError
from submission.slurm import JobState

TIME_LIMIT = "00:05:00"  # it runs for about a minute, and a cold PyTorch takes its time to load


@dataclass
class Preflight:
    """One preflight job: what it asks for, where its files are, and what became of it."""

    job: Job
    folder: Path
    text: str
    job_id: str = ""
    state: JobState = field(default_factory=lambda: JobState("", ""))
    problem: str = ""  # why it was not submitted, or was given up

    @property
    def size(self) -> str:
        """`2 nodes x 4 GPUs`."""
        nodes, gpus = self.job.nodes, self.job.gpus_per_node
        return f"{nodes} node{'s' * (nodes > 1)} x {gpus} GPU{'s' * (gpus > 1)}"

    @property
    def is_active(self) -> bool:
        """Whether it may still wait or run; so it may before Slurm was first asked."""
        return self.state.is_active or not self.state.state

    @property
    def log(self) -> Path:
        """The job's Slurm log, as its --output names it."""
        return self.folder / f"log/{self.job.name}_{self.job_id}.out"

    def read_files(self) -> tuple[list[dict], list[dict]]:
        """What the tasks and the ranks wrote; a file that is not whole counts as absent."""
        attempts = sorted(  # 12.1 is the second attempt of a job that was requeued
            (int(found[1] or 0), path)
            for path in (self.folder / "results").glob(f"{self.job_id or 'none'}*")
            if (found := re.fullmatch(rf"{self.job_id}(?:\.(\d+))?", path.name))
        )
        results = attempts[-1][1] if attempts else self.folder / "none"
        return tuple(
            [*read_each(sorted(results.glob(f"preflight_{kind}*.json")))]
            for kind in ("task", "rank")
        )


def read_each(paths: list[Path]) -> Iterator[dict]:
    """Read JSON objects, leaving out what is none."""
    for path in paths:
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict):
            yield facts


def plan_preflight(nodes: int, matrix: Matrix, cluster: Cluster, gpus: int | None) -> Job:
    """Plan the job of `nodes` nodes: with the most GPUs a node that a job of the matrix takes.

    Raises DoesNotFit with the site's reason where the cluster cannot run one.
    """
    rows = [row for row in matrix.jobs.values() if (row.nodes > 1) == (nodes > 1)]
    sizes = {gpus} if gpus else {row.gpus_per_node or cluster.gpus_per_node for row in rows}
    misfit: DoesNotFit | None = None
    for size in sorted(sizes or {1}, reverse=True):
        try:
            job = plan_size(nodes, size, matrix, cluster)
        except DoesNotFit as error:
            misfit = error
            continue
        return replace(
            job,
            trainer="preflight.py",
            title="Preflight",
            folder=f"{cluster.name}/{job.folder}",
            time=TIME_LIMIT,
            args={"data-dirs": json.dumps(other_data(job.workload, cluster))},
            requeue_margin_s=None,  # nothing here would save or go on
        )
    raise misfit


def plan_size(nodes: int, gpus: int, matrix: Matrix, cluster: Cluster) -> Job:
    """Plan one job of the study at a size that need not be in the matrix."""
    template = "multi_node" if nodes > 1 else "multi_gpu" if gpus > 1 else "baseline"
    workload = next(iter(matrix.jobs.values())).workload
    name = f"preflight_{nodes}n"
    row = JobRow(
        workload=workload, template=template, folder=f"{nodes}_node{'s' * (nodes > 1)}",
        nodes=nodes, gpus_per_node=gpus, time="01:00:00",
    )  # fmt: skip
    return plan_job(name, matrix.model_copy(update={"jobs": {**matrix.jobs, name: row}}), cluster)


def other_data(workload: str, cluster: Cluster) -> dict[str, str]:
    """The data folders of the other workloads: the job itself exports DATA_DIR for `workload`."""
    return {name: folder for name, folder in cluster.data_dir.items() if name != workload}


def render_preflight(job: Job, cluster: Cluster, templates: Environment, folder: Path) -> str:
    """Render the job script, with a look at each node just before the launcher starts."""
    container = format_prefix(cluster.container, cluster.accelerator)
    dirs = shlex.quote(f"--data-dirs={job.args['data-dirs']}")
    # A node that cannot start the launcher tells why only here; it ends nothing.
    look = f'{container}python "$REPO_DIR/scripts/preflight.py" --node {dirs} || true'
    # A copy of all the data would outlast the job: nothing is staged here.
    changes = {"step_setup": [*cluster.step_setup, look], "stage_data": None}
    watched = cluster.model_copy(update=changes)
    text = render_job(job, watched, templates, f"python scripts/doctor.py --submit {cluster.name}")
    return text.replace(f"cd experiments/{job.folder} &&", f"cd {shlex.quote(str(folder))} &&")


def prepare(
    nodes: int, matrix: Matrix, cluster: Cluster, templates: Environment, root: Path,
    gpus: int | None = None,
) -> Preflight:  # fmt: skip
    """Plan, render and write one preflight job below `root`; raises ProfileError."""
    job = plan_preflight(nodes, matrix, cluster, gpus)
    folder = root / job.folder
    text = render_preflight(job, cluster, templates, folder)
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        (folder / f"{job.template}.slurm").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProfileError(
            f"cannot write {folder}: {error.strerror}; choose a folder that all nodes see, --to DIR"
        ) from None
    return Preflight(job, folder, text)
