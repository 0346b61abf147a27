"""Which jobs there are: the schema of experiments/matrix.toml, and its arithmetic."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common.errors import UserError
from common.slurm_time import parse_time
from profiles.cluster import Cluster, choose
from profiles.toml_model import (
    MarginS,
    Name,
    Options,
    Strict,
    Text,
    TimeLimit,
    name_nearest,
    parse_model,
    read_toml,
)

MATRIX = "experiments/matrix.toml"
Folder = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")]


class DoesNotFit(UserError):
    """A job that the cluster cannot run: it is left out. `reason` says why, without advice."""

    def __init__(self, job: str, reason: str):
        super().__init__(f'job "{job}": {reason}; edit {MATRIX}')
        self.reason = reason


class Workload(Strict):
    """What is trained: a script or a command, a title, the options of every job.

    trainer: a script in scripts/ by its name, or any other by its path (below the repository's
    folder, or absolute). command: words of a shell, as `python -m my_package.train`.
    """

    trainer: Annotated[str, Field(pattern=r"^(train[a-z0-9_]*\.py|[\w.~+-]*(/[\w.+-]+)+)$")] = ""
    command: Text = ""
    title: Annotated[str, Field(pattern=r"^[A-Za-z0-9 ,.()-]+$")]
    args: Options = {}
    requeue: bool | None = None
    requeue_margin_s: MarginS | None = None


class JobRow(Strict):
    """One job of the matrix: a workload at one scale."""

    workload: Name
    template: Literal["baseline", "multi_gpu", "multi_node"]
    folder: Folder
    nodes: int = Field(ge=1)
    gpus_per_node: int | None = Field(None, ge=1)  # absent: all of a node's, whatever the cluster
    time: TimeLimit
    args: Options = {}
    requeue: bool | None = None
    requeue_margin_s: MarginS | None = None
    profiler: Literal["nsys"] | None = None  # Nsight Systems around one rank per node
    in_all: bool = True  # false: submit.py --all leaves it out, its name or folder submits it


class Matrix(Strict):
    """experiments/matrix.toml: the committed jobs' cluster, the workloads, one table per job.

    What `requeue` says, and `requeue_margin_s`, may stand at the top, in a workload or in a job.
    """

    cluster: str
    requeue: bool = True  # a job that its time limit cuts off is queued again, and goes on
    requeue_margin_s: MarginS = 120
    workloads: dict[Name, Workload]
    jobs: dict[Name, JobRow]


@dataclass(frozen=True)
class Job:
    """One job on one cluster, every number worked out."""

    name: str
    workload: str
    trainer: str  # "" where a command stands in for it
    command: str
    title: str
    template: str
    folder: str  # below experiments/
    nodes: int
    gpus_per_node: int
    tasks_per_node: int  # 1 (torchrun starts the ranks) or one per GPU
    launcher: str  # "torchrun" or "srun"
    cpus_per_task: int | None
    time: str
    requeue_margin_s: int | None  # None: what the time limit cuts off stays as it is
    args: dict[str, bool | int | float | str]
    profiler: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether one of scripts/ trains: its options are known, and it takes --num-workers."""
        return bool(self.trainer) and "/" not in self.trainer

    @property
    def needs(self) -> str:
        """What tells the repository's folder, below it."""
        if self.is_own:
            return f"scripts/{self.trainer}"
        is_below = self.trainer and not self.trainer.startswith("/")
        return self.trainer if is_below else "scripts/job.sh"

    @property
    def world_size(self) -> int:
        """Ranks in all: one per GPU."""
        return self.nodes * self.gpus_per_node

    @property
    def headline(self) -> str:
        """The script's first line of comment: what is trained, and how."""
        strategy = self.args.get("strategy", "ddp")
        if strategy == "tp":
            return f"{self.title}, each block cut among a node's GPUs (--strategy tp)"
        if strategy == "ddp":
            return f"{self.title} with DistributedDataParallel (DDP)"
        return f"{self.title}, the model shared out among the GPUs (--strategy {strategy})"

    @property
    def script(self) -> str:
        """The job script's path below experiments/."""
        return f"{self.folder}/{self.template}.slurm"


def load_matrix(path: Path) -> Matrix:
    """Load experiments/matrix.toml; UserError names an unknown workload or shared folder."""
    matrix = parse_model(read_toml(path, MATRIX), Matrix, MATRIX)
    seen: dict[str, str] = {}
    for name, workload in matrix.workloads.items():
        check_trainer(name, workload)
    for name, row in matrix.jobs.items():
        if row.workload not in matrix.workloads:
            hint = name_nearest(row.workload, list(matrix.workloads))
            raise UserError(f'{MATRIX}: job "{name}" has workload = "{row.workload}"; {hint}')
        if row.folder in seen:
            raise UserError(
                f'{MATRIX}: jobs "{seen[row.folder]}" and "{name}" share the folder '
                f'"{row.folder}"; give each its own'
            )
        seen[row.folder] = name
    return matrix


def check_trainer(name: str, workload: Workload) -> None:
    """Refuse a workload that says what trains twice, or not at all, or not in a shell's words."""
    where = f'{MATRIX}: workload "{name}"'
    if bool(workload.trainer) == bool(workload.command):
        told = "both" if workload.trainer else "neither"
        raise UserError(f"{where} has {told} of trainer and command; write one of them")
    if workload.trainer.startswith("~"):
        raise UserError(f'{where}: trainer = "{workload.trainer}": write the whole path')
    try:
        words = shlex.split(workload.command)
    except ValueError as error:
        raise UserError(f'{where}: command = "{workload.command}": {error}') from None
    if words[:1] in (["torchrun"], ["srun"], ["deepspeed"], ["accelerate"]):
        raise UserError(
            f'{where}: command = "{workload.command}": leave out {words[0]}: the job script '
            'starts a process per GPU; write what each runs, as in command = "python train.py"'
        )


def plan_job(name: str, matrix: Matrix, cluster: Cluster) -> Job:
    """Work out job `name` on `cluster`: sizes checked, the site's options over the matrix's.

    Raises DoesNotFit when the cluster cannot run it, UserError when the matrix is wrong.
    """
    row = matrix.jobs[name]
    workload = matrix.workloads[row.workload]
    check_workloads(matrix, cluster)
    whole = row.nodes > 1 and cluster.multi_node_gpus == "all"
    gpus = cluster.gpus_per_node if whole else row.gpus_per_node or cluster.gpus_per_node
    check_fits(name, row.nodes, gpus, cluster)
    if cluster.starter and row.nodes > 1 and cluster.node_rank is None:
        raise UserError(
            f"{cluster.shown}: with a starter, node_rank must name the variable that numbers the "
            'nodes: "PMI_RANK" (Intel MPI, MPICH, MVAPICH), "OMPI_COMM_WORLD_RANK" (Open MPI) or '
            '"SLURM_NODEID" (where it calls srun)'
        )
    if row.gpus_per_node is None and row.template == "multi_gpu" and gpus == 1:
        why = "1 node x 1 GPU cannot run: a multi_gpu job has more; this is a limit"
        raise DoesNotFit(name, f'{why} of cluster "{cluster.name}"')
    check_template(name, row.template, row.nodes, gpus)
    launcher = choose(cluster.launcher, row.nodes, gpus) or "torchrun"
    tasks = gpus if launcher == "srun" else 1
    args = {**workload.args, **row.args, **cluster.train_args.get(row.workload, {})}
    if row.profiler:
        args = {**args, "nvtx": args.get("nvtx") or takes_nvtx(name, workload)}
    cpus = count_cpus(row.nodes, gpus, tasks, cluster)
    check_cpus(name, gpus, cpus, cluster, args)
    # Under tensor parallelism the ranks of a node, or as many as are named, share one batch.
    sharing = args.get("tensor-parallel", gpus) if args.get("strategy") == "tp" else 1
    check_batch(name, row.nodes * gpus // sharing, args)
    time = choose(cluster.time, row.nodes, gpus) or row.time
    return Job(
        name=name,
        workload=row.workload,
        trainer=workload.trainer,
        command=workload.command,
        title=workload.title,
        template=row.template,
        folder=row.folder,
        nodes=row.nodes,
        gpus_per_node=gpus,
        tasks_per_node=tasks,
        launcher=launcher,
        cpus_per_task=cpus // tasks if cpus else None,
        time=time,
        requeue_margin_s=choose_margin(name, matrix, cluster, time),
        args=args,
        profiler=row.profiler,
    )


def takes_nvtx(name: str, workload: Workload) -> bool:
    """True for a trainer of scripts/ that says where nsys is to record; else UserError."""
    if workload.trainer and "/" not in workload.trainer and workload.trainer != "train_minimal.py":
        return True
    raise UserError(
        f'{MATRIX}: job "{name}" has profiler = "nsys", which records between cudaProfilerStart '
        "and -Stop; write nvtx = true in its args if its trainer has the option --nvtx, as "
        "TrainingRun's have, or leave profiler out"
    )


def choose_margin(name: str, matrix: Matrix, cluster: Cluster, time: str) -> int | None:
    """Seconds before the time limit at which job `name` saves, to go on in a requeued job.

    The job's word goes before its workload's, and that before the matrix's own; a profile may ask
    for more. None where requeueing is off. Raises UserError when `time` is too short for it.
    """
    tables = (matrix.jobs[name], matrix.workloads[matrix.jobs[name].workload], matrix)
    if not next(table.requeue for table in tables if table.requeue is not None):
        return None
    if cluster.starter and cluster.requeue_margin_s is None:
        return None  # whether a signal reaches what mpirun or ibrun started, the site must say
    margin_s = next(t.requeue_margin_s for t in tables if t.requeue_margin_s is not None)
    margin_s = max(margin_s, cluster.requeue_margin_s or 0)
    if "time" not in cluster.omit:
        check_limit(name, time, margin_s, f"a longer time, or requeue = false, in {MATRIX}")
    return margin_s


def check_limit(name: str, time: str, margin_s: int | None, fix: str) -> None:
    """Refuse a time limit in which a job that saves `margin_s` before it could do no step.

    To start takes a cold file system about as long as the least margin, and often longer.
    """
    limit_s = parse_time(time)  # 0: Slurm sets none
    if margin_s is not None and 0 < limit_s < 2 * margin_s:
        read = " (minutes:seconds, to Slurm)" if re.fullmatch(r"\d+:\d\d", time) else ""
        raise UserError(
            f'job "{name}": time = "{time}"{read} is less than 2 x requeue_margin_s = {margin_s}, '
            f"which a job needs to start and to save; write {fix}"
        )


def check_workloads(matrix: Matrix, cluster: Cluster) -> None:
    """Refuse a profile that speaks of a workload, or a job, which the matrix does not have."""
    for job in cluster.expected:
        if job not in matrix.jobs:
            raise UserError(
                f'{cluster.shown}: expected names job "{job}"; '
                f"{name_nearest(job, list(matrix.jobs))}"
            )
    for field in ("data_dir", "train_args"):
        for workload in getattr(cluster, field):
            if workload not in matrix.workloads:
                hint = name_nearest(workload, list(matrix.workloads))
                raise UserError(f'{cluster.shown}: {field} names workload "{workload}"; {hint}')


def check_fits(name: str, nodes: int, gpus_per_node: int, cluster: Cluster) -> None:
    """Refuse a job that the cluster is too small for, or that its site forbids."""
    if gpus_per_node > cluster.gpus_per_node:
        why = f"gpus_per_node = {gpus_per_node} exceeds gpus_per_node = {cluster.gpus_per_node}"
    elif cluster.nodes is not None and nodes > cluster.nodes:
        why = f"nodes = {nodes} exceeds nodes = {cluster.nodes}"
    else:
        limit = next((lim for lim in cluster.cannot_run if lim.hold(nodes, gpus_per_node)), None)
        if limit is None:
            return
        why = f"{nodes} nodes x {gpus_per_node} GPUs cannot run: {limit.because}; this is a limit"
    raise DoesNotFit(name, f'{why} of cluster "{cluster.name}"')


def check_template(name: str, template: str, nodes: int, gpus_per_node: int) -> None:
    """Refuse a job whose template does not fit its scale."""
    fits = {
        "baseline": (nodes, gpus_per_node) == (1, 1),
        "multi_gpu": nodes == 1 and gpus_per_node > 1,
        "multi_node": nodes > 1,
    }
    if not fits[template]:
        right = next(candidate for candidate, fit in fits.items() if fit)
        raise UserError(
            f'job "{name}": {nodes} x {gpus_per_node} GPUs does not fit template '
            f'"{template}"; write template = "{right}" in {MATRIX}'
        )


def check_batch(name: str, world_size: int, args: Options) -> None:
    """Refuse a job whose ranks take more than the global batch in one step (strong scaling)."""
    total, each = args.get("global-batch-size"), args.get("batch-size")
    if total and isinstance(total, int) and isinstance(each, int) and world_size * each > total:
        raise DoesNotFit(
            name, f"{world_size} ranks x batch-size = {each} exceed global-batch-size = {total}"
        )


def count_cpus(nodes: int, gpus_per_node: int, tasks: int, cluster: Cluster) -> int | None:
    """CPUs of the job on a node; None when the profile leaves them to the site."""
    per_gpu = choose(cluster.cpus_per_gpu, nodes, gpus_per_node)
    per_task = choose(cluster.cpus_per_task, nodes, gpus_per_node)
    return per_gpu * gpus_per_node if per_gpu else per_task * tasks if per_task else None


def check_cpus(
    name: str, gpus_per_node: int, cpus: int | None, cluster: Cluster, args: Options
) -> None:
    """Refuse a job that wants more CPUs than a node has, or more loader workers than CPUs."""
    if cpus is None:
        return
    if cluster.cpus_per_node and cpus > cluster.cpus_per_node:
        raise UserError(
            f'job "{name}": {gpus_per_node} GPUs take {cpus} CPUs, which exceeds '
            f"cpus_per_node = {cluster.cpus_per_node}; edit {cluster.shown}"
        )
    workers = args.get("num-workers")
    if isinstance(workers, int) and workers * gpus_per_node > cpus:
        raise UserError(
            f'job "{name}": {gpus_per_node} ranks x num-workers = {workers} exceeds '
            f"{cpus} CPUs; edit num-workers in {MATRIX} or the CPUs in {cluster.shown}"
        )
