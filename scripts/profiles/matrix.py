"""Which jobs there are: the schema of experiments/matrix.toml, and its arithmetic."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from profiles.cluster import Cluster
from profiles.toml_model import (
    Name,
    Options,
    ProfileError,
    Strict,
    TimeLimit,
    name_nearest,
    read_toml,
)

MATRIX = "experiments/matrix.toml"
Folder = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")]


class Workload(Strict):
    """What is trained: the script in scripts/, a title for people, the options of every job."""

    trainer: Annotated[str, Field(pattern=r"^train[a-z0-9_]*\.py$")]
    title: Annotated[str, Field(pattern=r"^[A-Za-z0-9 ,.()-]+$")]
    args: Options = {}


class JobRow(Strict):
    """One job of the matrix: a workload at one scale."""

    workload: Name
    template: Literal["baseline", "multi_gpu", "multi_node"]
    folder: Folder
    nodes: int = Field(ge=1)
    gpus_per_node: int = Field(ge=1)
    time: TimeLimit
    args: Options = {}


class Matrix(Strict):
    """experiments/matrix.toml: the committed jobs' cluster, the workloads, one table a job."""

    cluster: str
    workloads: dict[Name, Workload]
    jobs: dict[Name, JobRow]


@dataclass(frozen=True)
class Job:
    """One job on one cluster, every number worked out."""

    name: str
    workload: str
    trainer: str
    title: str
    template: str
    folder: str  # below experiments/
    nodes: int
    gpus_per_node: int
    world_size: int
    cpus_per_task: int | None
    time: str
    args: dict[str, bool | int | float | str]

    @property
    def script(self) -> str:
        """The job script's path below experiments/."""
        return f"{self.folder}/{self.template}.slurm"


def load_matrix(path: Path) -> Matrix:
    """Load experiments/matrix.toml; ProfileError names an unknown workload or shared folder."""
    matrix = read_toml(path, Matrix, MATRIX)
    seen: dict[str, str] = {}
    for name, row in matrix.jobs.items():
        if row.workload not in matrix.workloads:
            hint = name_nearest(row.workload, list(matrix.workloads))
            raise ProfileError(f'{MATRIX}: job "{name}" has workload = "{row.workload}"; {hint}')
        if row.folder in seen:
            raise ProfileError(
                f'{MATRIX}: jobs "{seen[row.folder]}" and "{name}" share the folder '
                f'"{row.folder}"; give each its own'
            )
        seen[row.folder] = name
    return matrix


def plan_job(name: str, matrix: Matrix, cluster: Cluster) -> Job:
    """Work out job `name` on `cluster`: sizes checked, the site's options over the matrix's.

    Raises ProfileError that says which file to edit when the cluster cannot run it.
    """
    row = matrix.jobs[name]
    workload = matrix.workloads[row.workload]
    check_sizes(name, row, cluster)
    site_args = cluster.train_args.get(row.workload, {})
    cpus = cluster.cpus_per_gpu * row.gpus_per_node if cluster.cpus_per_gpu else None
    args = {**workload.args, **row.args, **site_args}
    check_cpus(name, row, cluster, cpus, args)
    return Job(
        name=name,
        workload=row.workload,
        trainer=workload.trainer,
        title=workload.title,
        template=row.template,
        folder=row.folder,
        nodes=row.nodes,
        gpus_per_node=row.gpus_per_node,
        world_size=row.nodes * row.gpus_per_node,
        cpus_per_task=cpus,
        time=row.time,
        args=args,
    )


def check_sizes(name: str, row: JobRow, cluster: Cluster) -> None:
    """Refuse a job larger than the cluster's nodes, or whose template does not fit its scale."""
    if row.gpus_per_node > cluster.gpus_per_node:
        raise ProfileError(
            f'job "{name}": gpus_per_node = {row.gpus_per_node} exceeds gpus_per_node = '
            f'{cluster.gpus_per_node} of cluster "{cluster.name}"; edit {MATRIX}'
        )
    if cluster.nodes is not None and row.nodes > cluster.nodes:
        raise ProfileError(
            f'job "{name}": nodes = {row.nodes} exceeds nodes = {cluster.nodes} of cluster '
            f'"{cluster.name}"; edit {MATRIX}'
        )
    fits = {
        "baseline": (row.nodes, row.gpus_per_node) == (1, 1),
        "multi_gpu": row.nodes == 1 and row.gpus_per_node > 1,
        "multi_node": row.nodes > 1,
    }
    if not fits[row.template]:
        right = next(template for template, fit in fits.items() if fit)
        raise ProfileError(
            f'job "{name}": {row.nodes} x {row.gpus_per_node} GPUs is no job for template '
            f'"{row.template}"; write template = "{right}" in {MATRIX}'
        )


def check_cpus(name: str, row: JobRow, cluster: Cluster, cpus: int | None, args: Options) -> None:
    """Refuse a job that wants more CPUs than a node has, or more loader workers than CPUs."""
    profile = f"templates/clusters/{cluster.name}.toml"
    if cpus and cluster.cpus_per_node and cpus > cluster.cpus_per_node:
        raise ProfileError(
            f'job "{name}": {row.gpus_per_node} GPUs x cpus_per_gpu = {cluster.cpus_per_gpu} '
            f"exceeds cpus_per_node = {cluster.cpus_per_node}; edit {profile}"
        )
    workers = args.get("num-workers")
    if cpus and isinstance(workers, int) and workers * row.gpus_per_node > cpus:
        raise ProfileError(
            f'job "{name}": {row.gpus_per_node} ranks x num-workers = {workers} exceeds '
            f"{cpus} CPUs; edit num-workers in {MATRIX} or cpus_per_gpu in {profile}"
        )
