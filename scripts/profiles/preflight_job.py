"""The preflight jobs: a cluster's real job scripts with preflight.py in the trainer's place."""

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from jinja2 import Environment

from profiles.cluster import Cluster
from profiles.matrix import DoesNotFit, Job, JobRow, Matrix, plan_job
from profiles.render_job import render_job
from profiles.slurm import JobState, SlurmError, cancel_jobs, read_state, submit_script

TIME_LIMIT = "00:05:00"  # it runs for about a minute, and a cold PyTorch takes its time to load
SETTLE_S = 15  # a shared file system may show a node's files to the login node only later
# With these reasons a job waits for ever: somebody must change what it asks for (squeue(1),
# "Job reason codes"). Limits on a group's or a user's total pass when other jobs end.
NEVER = re.compile(
    r"BadConstraints|Invalid(?:Account|QOS)|Partition(?:NodeLimit|TimeLimit|Config)|"
    r"JobHeld(?:User|Admin)|(?:Account|Qos|QOS)NotAllowed|DependencyNeverSatisfied|"
    r"ReservationDeleted|(?:QOS|Assoc)(?:Max|Min)\w*Per(?:Job|Node)\w*|QOSMinCpuNotSatisfied"
)


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
            # Requeueing is the trainer's; nothing here would save or go on.
            **{name: None for name in ("requeue_margin_s",) if hasattr(job, name)},
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
    container = f"{cluster.container} " if cluster.container else ""
    dirs = shlex.quote(f"--data-dirs={job.args['data-dirs']}")
    # A node that cannot start the launcher tells why only here; it ends nothing.
    look = f'{container}python "$REPO_DIR/scripts/preflight.py" --node {dirs} || true'
    changes = {"step_setup": [*cluster.step_setup, look]}
    if getattr(cluster, "stage_data", None):  # a copy of all the data would outlast the job
        changes["stage_data"] = None
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
    (folder / "log").mkdir(parents=True, exist_ok=True)
    (folder / f"{job.template}.slurm").write_text(text, encoding="utf-8")
    return Preflight(job, folder, text)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Let Ctrl-C wait: between sbatch's answer and our note of it a job would be nobody's."""
    signals = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def submit(flight: Preflight, repo: Path) -> None:
    """Submit one job; sbatch's refusal becomes its problem."""
    os.environ["REPO_DIR"] = str(repo)  # the folder may be anywhere
    os.environ.pop("RUN_DIR", None)  # its results are looked for beside the script
    with hold_signals():
        try:
            script = flight.folder / f"{flight.job.template}.slurm"
            flight.job_id = submit_script(script, [])
        except SlurmError as error:
            flight.problem = f"not submitted: {error}"


def fly(
    flights: list[Preflight],
    repo: Path,
    timeout_s: float,
    say: Callable[[str], None],
    interval_s: float = 2.0,
) -> None:
    """Submit the jobs and wait until all have ended, saying each new state and pending reason.

    What has not ended after `timeout_s`, or can never start, is cancelled. So is everything on
    Ctrl-C or any other exception: no job is left behind.
    """
    try:
        for flight in flights:
            submit(flight, repo)
        deadline = time.monotonic() + timeout_s
        while waiting := [f for f in flights if f.job_id and not f.problem and f.is_active]:
            for flight in waiting:
                look_at(flight, say)
                never = flight.state.state == "PENDING" and NEVER.match(flight.state.reason)
                if never or (flight.is_active and time.monotonic() > deadline):
                    give_up(flight, bool(never), timeout_s)
            if any(flight.is_active for flight in waiting):
                time.sleep(interval_s)
    except BaseException:
        cancel_rest([f.job_id for f in flights if f.job_id and f.is_active], say)
        raise


def cancel_rest(job_ids: list[str], say: Callable[[str], None]) -> None:
    """Cancel what is left and say so; where Slurm does not answer, say what to type later."""
    if not job_ids:
        return
    ids = " ".join(job_ids)
    try:
        cancel_jobs(job_ids)
        say(f"cancelled {ids}")
    except SlurmError as error:
        say(f"error: {error}; the jobs may still run: scancel {ids}")


def look_at(flight: Preflight, say: Callable[[str], None]) -> None:
    """Ask for a job's state; say it when it is new. One question that fails is asked again."""
    try:
        state = read_state(flight.job_id)
    except SlurmError as error:
        say(f"job {flight.job_id}: no answer ({error}); asking again")
        return
    if state != flight.state:
        reason = f" ({state.reason})" if state.reason and state.is_active else ""
        say(f"job {flight.job_id}, {flight.size}: {state.state}{reason}")
    flight.state = state


def give_up(flight: Preflight, never: bool, timeout_s: float) -> None:
    """Cancel a job that can never start, or that has taken too long, and note why."""
    cancel_jobs([flight.job_id])
    state = f"{flight.state.state} ({flight.state.reason})".removesuffix(" ()")
    flight.problem = (
        f"cancelled: {state} never ends by waiting"
        if never
        else f"cancelled: still {state} after {timeout_s / 60:g} min"
    )


def settle(flight: Preflight, wait_s: float = SETTLE_S) -> tuple[list[dict], list[dict]]:
    """Read the files of a job that has ended, waiting for those that a slow disk still hides."""
    deadline = time.monotonic() + (wait_s if flight.state.state == "COMPLETED" else 1)
    while True:
        tasks, ranks = flight.read_files()
        wanted = (flight.job.nodes * flight.job.tasks_per_node, flight.job.world_size)
        if (len(tasks), len(ranks)) >= wanted or time.monotonic() > deadline:
            return tasks, ranks
        time.sleep(0.5)
