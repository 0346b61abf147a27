"""The preflight jobs: a cluster's real job scripts with preflight.py in the trainer's place.

They are rendered, submitted and followed to their end, and what became of them is judged.
"""

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

from common.console import shorten
from common.errors import UserError
from common.signals import hold_signals
from doctor.probe import ADVICE
from doctor.verdicts import (
    FAIL,
    NOT_RUN,
    OK,
    Verdict,
    compute_rates,
    describe_request,
    format_sweep,
    judge_group,
    judge_nodes,
)
from profiles import Cluster, DoesNotFit, Job, Matrix, plan_job, render_job
from profiles.container import format_prefix, pass_variables
from profiles.matrix import JobRow
from submission import (
    JobState,
    SlurmError,
    cancel_jobs,
    number_of,
    read_state,
    submit_script,
    write_cancel,
)

TIME_LIMIT = "00:05:00"  # it runs for about a minute, and a cold PyTorch takes its time to load
SETTLE_S = 15  # a shared file system may show a node's files to the login node only later
# With these reasons a job waits forever: somebody must change what it asks for (squeue(1),
# "Job reason codes"). Limits on a group's or a user's total pass when other jobs end.
NEVER = re.compile(
    r"BadConstraints|Invalid(?:Account|QOS)|Partition(?:NodeLimit|TimeLimit|Config)|"
    r"JobHeld(?:User|Admin)|(?:Account|Qos|QOS)NotAllowed|DependencyNeverSatisfied|"
    r"ReservationDeleted|(?:QOS|Assoc)(?:Max|Min)\w*Per(?:Job|Node)\w*|QOSMinCpuNotSatisfied"
)
# bash names the line of the script at which it gave up; Slurm calls the script so.
SCRIPT_LINE = re.compile(r"^\S*slurm_script: line (\d+): (.+)$", re.MULTILINE)
NODE_LINE = re.compile(r"^(?:environment|bash): line \d+: (.+)$", re.MULTILINE)
BANNER = re.compile(r"# ---- (.+?) -+$")
SECTION_TODO = {
    "Software": "fix setup, env or data_dir in the profile",
    "Master discovery": "fix master in the profile",
    "What every node runs": "fix setup, step_setup or container in the profile",
    "Launch": "see srun, srun_args, starter and gpu_request in the profile",
}
PENDING_TODO = {
    "Account": ADVICE["account"],
    "QOS": ADVICE["qos"],
    "Partition": "partition, nodes or time: the partition does not allow so much",
    "Held": "scontrol show job says who holds it; ask the site",
    "Constraints": "constraint: no node has all of these features",
}


@dataclass
class Preflight:
    """One preflight job: what it asks for, where its files are, and what became of it."""

    job: Job
    folder: Path
    text: str
    job_id: str = ""
    state: JobState = field(default_factory=lambda: JobState("", ""))
    problem: str = ""  # why it was not submitted, or was given up
    sbatch: str = "sbatch"  # or the site's own command

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
        return self.folder / f"log/{self.job.name}_{number_of(self.job_id)}.out"

    def read_files(self) -> tuple[list[dict], list[dict]]:
        """What the tasks and the ranks wrote; a file that is not whole counts as absent."""
        number = number_of(self.job_id)
        attempts = sorted(  # 12.1 is the second attempt of a job that was requeued
            (int(found[1] or 0), path)
            for path in (self.folder / "results").glob(f"{number or 'none'}*")
            if (found := re.fullmatch(rf"{number}(?:\.(\d+))?", path.name))
        )
        results = attempts[-1][1] if attempts else self.folder / "none"
        return tuple(
            [*read_each(sorted(results.glob(f"preflight_{kind}*.json")))]
            for kind in ("task", "rank")
        )


def read_each(paths: list[Path]) -> Iterator[dict]:
    """Read the files that hold a whole JSON object."""
    for path in paths:
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict):
            yield facts


def plan_preflight(nodes: int, matrix: Matrix, cluster: Cluster, gpus: int | None) -> Job:
    """Plan the job of `nodes` nodes: with the most GPUs per node that a job of the matrix takes.

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
    # A node that cannot start the launcher says why only here; this ends nothing.
    look = f'{container}python "$REPO_DIR/scripts/preflight.py" --node {dirs} || true'
    # A copy of all the data would outlast the job: nothing is staged here.
    lines = [*cluster.setup, *cluster.step_setup]
    passed = pass_variables(cluster.container, cluster.env, lines)
    changes = {
        "step_setup": [*cluster.step_setup, *filter(None, [passed]), look],
        "stage_data": None,
    }
    watched = cluster.model_copy(update=changes)
    text = render_job(job, watched, templates, f"python scripts/doctor.py --submit {cluster.name}")
    return text.replace(f"cd experiments/{job.folder} &&", f"cd {shlex.quote(str(folder))} &&")


def prepare_preflight(
    nodes: int, matrix: Matrix, cluster: Cluster, templates: Environment, root: Path,
    gpus: int | None = None,
) -> Preflight:  # fmt: skip
    """Plan, render and write one preflight job below `root`; raises UserError."""
    job = plan_preflight(nodes, matrix, cluster, gpus)
    folder = root / job.folder
    text = render_preflight(job, cluster, templates, folder)
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        (folder / f"{job.template}.slurm").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; choose a folder that all nodes see, --to DIR"
        ) from None
    return Preflight(job, folder, text, sbatch=cluster.submit_command)


# ---- Submitted, followed, and none left behind -----------------------------------------


def submit_preflight(preflight: Preflight, repo: Path) -> None:
    """Submit one job; sbatch's refusal becomes its problem."""
    os.environ["REPO_DIR"] = str(repo)  # the folder may be anywhere
    os.environ.pop("RUN_DIR", None)  # its results are looked for beside the script
    with hold_signals():
        try:
            script = preflight.folder / f"{preflight.job.template}.slurm"
            preflight.job_id = submit_script(script, [], preflight.sbatch)
        except SlurmError as error:
            preflight.problem = f"not submitted: {error}"


def run_preflights(
    preflights: list[Preflight],
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
        for preflight in preflights:
            submit_preflight(preflight, repo)
        deadline = time.monotonic() + timeout_s
        while waiting := [p for p in preflights if p.job_id and not p.problem and p.is_active]:
            for preflight in waiting:
                update_state(preflight, say)
                never = preflight.state.state == "PENDING" and NEVER.match(preflight.state.reason)
                if never or (preflight.is_active and time.monotonic() > deadline):
                    give_up(preflight, bool(never), timeout_s)
            if any(preflight.is_active for preflight in waiting):
                time.sleep(interval_s)
    except BaseException:
        cancel_rest([p.job_id for p in preflights if p.job_id and p.is_active], say)
        raise


def cancel_rest(job_ids: list[str], say: Callable[[str], None]) -> None:
    """Cancel what is left and say so; where Slurm does not answer, say what to type later."""
    if not job_ids:
        return
    try:
        cancel_jobs(job_ids)
        say(f"cancelled {' '.join(job_ids)}")
    except SlurmError as error:
        say(f"error: {error}; the jobs may still run: {write_cancel(job_ids)}")


def update_state(preflight: Preflight, say: Callable[[str], None]) -> None:
    """Ask for a job's state; say it when it is new. One question that fails is asked again."""
    try:
        state = read_state(preflight.job_id)
    except SlurmError as error:
        say(f"job {preflight.job_id}: no answer ({error}); asking again")
        return
    if state != preflight.state:
        reason = f" ({state.reason})" if state.reason and state.is_active else ""
        say(f"job {preflight.job_id}, {preflight.size}: {state.state}{reason}")
    preflight.state = state


def give_up(preflight: Preflight, never: bool, timeout_s: float) -> None:
    """Cancel a job that can never start, or that has taken too long, and note why."""
    cancel_jobs([preflight.job_id])
    state = f"{preflight.state.state} ({preflight.state.reason})".removesuffix(" ()")
    preflight.problem = (
        f"cancelled: {state} never ends by waiting"
        if never
        else f"cancelled: still {state} after {timeout_s / 60:g} min"
    )


def collect_files(preflight: Preflight, wait_s: float = SETTLE_S) -> tuple[list[dict], list[dict]]:
    """Read the files of a job that has ended, waiting for those that a slow disk still hides."""
    deadline = time.monotonic() + (wait_s if preflight.state.state == "COMPLETED" else 1)
    while True:
        tasks, ranks = preflight.read_files()
        wanted = (preflight.job.nodes * preflight.job.tasks_per_node, preflight.job.world_size)
        if (len(tasks), len(ranks)) >= wanted or time.monotonic() > deadline:
            return tasks, ranks
        time.sleep(0.5)


# ---- What became of them ---------------------------------------------------------------


class Cause(NamedTuple):
    """What a log says of why its job ended, and what to do."""

    text: str
    todo: str


def judge_preflight(
    preflight: Preflight,
    cluster: Cluster,
    files: tuple[list, list],
    log: str | None,
    cause: Cause | None,
) -> list[Verdict]:
    """Judge one preflight job from what it wrote; `log` is None where there is none."""
    if preflight.problem and not files[0]:
        return [Verdict("job", FAIL, preflight.problem, advise(preflight))]
    tasks, ranks = files
    asked = describe_request(preflight.job, cluster)
    verdicts = [*judge_nodes(tasks, asked), *judge_group(tasks, ranks, asked)]
    return [judge_job(preflight, tasks, ranks, log, cause), *verdicts]


def judge_job(
    preflight: Preflight, tasks: list, ranks: list, log: str | None, cause: Cause | None
) -> Verdict:
    """The job as a whole: did it end well, and if not, where did it stop and why."""
    if preflight.problem:
        return Verdict("job", FAIL, preflight.problem, advise(preflight))
    state = preflight.state.state
    done = len(ranks) >= preflight.job.world_size and not any("in" in rank for rank in ranks)
    if state == "COMPLETED" or (state == "UNKNOWN" and done):
        return Verdict("job", OK, f"ran to its end ({preflight.job.name}, {preflight.job_id})")
    stage, todo = find_stage(preflight.text, log, tasks, ranks), cause.todo if cause else ""
    message = cause.text if cause else ""
    if not tasks and log is not None and (stop := find_line(preflight.text, log)):
        section, message = stop
        stage, todo = f'in "{section}"', SECTION_TODO.get(section, todo)
    found = f"{state}, {stage}"
    if state == "TIMEOUT":
        found += f" (its limit is {TIME_LIMIT})"
    if log is None:
        todo = f"can the nodes see {preflight.folder}? see scontrol show job {preflight.job_id}"
    found = f"{found}: {message}" if message else found
    return Verdict("job", FAIL, found, todo or f"read the end of {preflight.log}")


def find_stage(text: str, log: str | None, tasks: list[dict], ranks: list[dict]) -> str:
    """Say where the job stopped, from what it left."""
    if ranks:
        failed = [rank for rank in ranks if rank.get("error")] or ranks
        steps = sorted({rank["in"] for rank in failed if "in" in rank})
        return f"in the ranks ({', '.join(steps)})" if steps else "after the checks"
    if tasks:
        stuck = sorted({task["in"] for task in tasks if "in" in task})
        if stuck:
            return f"while looking at the nodes ({', '.join(stuck)})"
        return "when the launcher started the ranks"
    if log is None:
        return "before its script began: there is no log"
    if "\nResults: " not in f"\n{log}":
        return 'in "Paths"'
    late = "\nNodes: " in f"\n{log}"
    return "at the launch" if late else "in the setup lines, or at the launch"


def find_line(text: str, log: str) -> tuple[str, str] | None:
    """Find the line at which bash stopped: its section of the script, and bash's message."""
    if messages := NODE_LINE.findall(log):
        return "What every node runs", messages[0]
    lines, sections = text.splitlines(), [""]
    for line in lines:
        banner = BANNER.match(line)
        sections.append(banner[1] if banner else sections[-1])
    stops = [
        (sections[int(number)], f"{message} (line {number}: {lines[int(number) - 1].strip()})")
        for number, message in SCRIPT_LINE.findall(log)
        if 0 < int(number) <= len(lines)
    ]
    return stops[-1] if stops else None  # job.sh's own complaints, after it, name job.sh


def advise(preflight: Preflight) -> str:
    """What to do about a job that never ran."""
    if not preflight.job_id:
        return "ask doctor.py --probe which line is refused, and why"
    reason = preflight.state.reason
    for word, todo in PENDING_TODO.items():
        if word in reason:
            return todo
    return "a longer --timeout, fewer --gpus, or another partition"


def find_status(verdicts: list[Verdict]) -> int:
    """Exit status: 0 when every check is ok or a warning, else 1."""
    return int(any(verdict.status in (FAIL, NOT_RUN) for verdict in verdicts))


def format_table(preflight: Preflight, verdicts: list[Verdict], ranks: list[dict] = ()) -> str:
    """One line per check, and below it what to do; then the sweep of all-reduces."""
    job = f"job {preflight.job_id}" if preflight.job_id else "no job"
    lines = [f"{preflight.size} ({job})"]
    for verdict in (verdict for verdict in verdicts if verdict.status != NOT_RUN):
        lines.append(
            f"{verdict.status:<8}{verdict.check:<15} {shorten(verdict.found, 400)}".rstrip()
        )
        if verdict.status != OK and verdict.todo:
            lines.append(f"{'':<24}-> {shorten(verdict.todo, 400)}")
    missing: dict[str, list[str]] = {}
    for verdict in (verdict for verdict in verdicts if verdict.status == NOT_RUN):
        missing.setdefault(verdict.found, []).append(verdict.check)
    for found, checks in missing.items():
        lines.append(f"{NOT_RUN:<8}{', '.join(checks)}: {shorten(found, 400)}")
    lines += format_sweep(list(ranks))
    return "".join(f"{line}\n" for line in lines)


def describe_preflight(
    preflight: Preflight, verdicts: list[Verdict], ranks: list[dict] = ()
) -> dict:
    """The same as plain data."""
    return {
        "nodes": preflight.job.nodes,
        "gpus_per_node": preflight.job.gpus_per_node,
        "job_id": preflight.job_id or None,
        "state": preflight.state.state or None,
        "folder": str(preflight.folder),
        "checks": [vars(verdict) for verdict in verdicts],
        "sweep": compute_rates(list(ranks)),
    }
