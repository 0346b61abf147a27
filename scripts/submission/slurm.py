"""Slurm's commands, each bounded in time, with errors of one line."""

import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from common.console import shorten
from common.errors import UserError
from submission.options import hand_on, keep_environment, parse_options, read_directives

TIMEOUT_S = 60
ACTIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESIZING", "SIGNALING"),
    *("RESV_DEL_HOLD", "POWER_UP_NODE", "EXPEDITING"),
}


class SlurmError(UserError):
    """A Slurm command that failed or is missing: it may work when it is asked again."""


class Refusal(SlurmError):
    """What a Slurm command said when it failed: asking again changes nothing."""


class JobState(NamedTuple):
    """A job's state in Slurm's words (`UNKNOWN` when it has forgotten the job) and the reason.

    folder: where it was submitted, "" when that was not asked.
    """

    state: str
    reason: str
    folder: str = ""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


FORGOTTEN = JobState("UNKNOWN", "Slurm has forgotten this job")


# A job is written as `sbatch --parsable` prints it: `7`, or `7;alpha` on the cluster alpha of a
# federation; an array of tasks as squeue does, `7_[0-3]`, and one task of it as `7_2`.


def number_of(job: str) -> str:
    """`7_[0-3];alpha` -> `7`; `7_2` stays."""
    return re.match(r"(?:\d+(?:_\d+)?)?", job)[0]


def cluster_of(job: str) -> str:
    """`7_[0-3];alpha` -> `alpha`; "" where Slurm named none."""
    return job.partition(";")[2]


def count_tasks(job: str) -> int:
    """`7_[0-9:3,12%2]` -> 5 tasks; 0 for what is no array."""
    count = 0
    for low, high, step in re.findall(r"[\[,](\d+)(?:-(\d+)(?::(\d+))?)?(?=[],%])", job):
        count += len(range(int(low), int(high or low) + 1, int(step or 1) or 1))
    return count


def group_by_cluster(jobs: list[str]) -> dict[tuple[str, ...], list[str]]:
    """Group jobs by the option that names their cluster to a command of Slurm's."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for job in jobs:
        cluster = cluster_of(job)
        groups.setdefault((f"--clusters={cluster}",) if cluster else (), []).append(job)
    return groups


def write_cancel(jobs: list[str]) -> str:
    """The commands that a person types to end jobs."""
    return "; ".join(
        shlex.join(["scancel", *option, *map(number_of, group)])
        for option, group in group_by_cluster(jobs).items()
    )


def call(
    *command: str, timeout_s: float = TIMEOUT_S, folder: Path | None = None, given: str = "",
    script: str | None = None, cluster: str = "", variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess:  # fmt: skip
    """Run a command, `given` on its standard input, whatever it answers; SlurmError if it cannot.

    This shell's variables do not change what is asked. `script` is the text of the job script
    that is submitted, which is given `variables` besides this shell's; `cluster` the one that is
    asked, where several share a login node.
    """
    name = Path(command[0]).name
    named = {**(variables or {}), **({"SLURM_CLUSTERS": cluster} if cluster else {})}
    try:
        return subprocess.run(
            command, cwd=folder, input=given, capture_output=True, timeout=timeout_s,
            encoding="utf-8", errors="replace", env=keep_environment(script) | named, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise SlurmError(f"no {name} here; run this on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        look = "look with squeue whether it took the job, then " if script else ""
        raise SlurmError(f"{name} did not answer for {timeout_s:g} s; {look}try again") from None
    except OSError as error:
        fix = f"see type -a {name}, and ask the site"
        raise SlurmError(f"{name} cannot be run: {error.strerror}; {fix}") from None


def run_slurm(*command: str, **options) -> str:
    """Run a Slurm command as `call` does; returns what it printed.

    Raises Refusal, with all that the command said, when it fails.
    """
    done, name = call(*command, **options), Path(command[0]).name
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Refusal(f"{name}: " + "; ".join(line.removeprefix(f"{name}: ") for line in lines))
    return done.stdout.strip()


def submit_script(
    script: Path,
    options: list[str],
    sbatch: str = "sbatch",
    variables: Mapping[str, str] | None = None,
) -> str:
    """Submit `script` from its own folder with `sbatch`, or the site's wrapper; returns the job.

    variables: what the job is told besides this shell's.
    """
    text = script.read_text(encoding="utf-8")
    options = [*options, *hand_on(text, options, variables or ())]
    printed = run_slurm(
        *(sbatch, "--parsable", *options, script.name),
        folder=script.parent, script=text, variables=variables,
    )  # fmt: skip
    # A site's wrapper may say more, and not know --parsable.
    found = re.findall(
        r"^(?:(\d+)(?:;(\S+))?|Submitted batch job (\d+)(?: on cluster (\S+))?)$", printed, re.M
    )
    if not found:
        raise SlurmError(f"{sbatch} printed no job id but {shorten(printed)!r}; look with squeue")
    number, cluster = found[-1][:2] if found[-1][0] else found[-1][2:]
    array = dict(parse_options(options)).get("array") or read_directives(text).get("array")
    return number + (f"_[{array}]" if array else "") + (cluster and f";{cluster}")


def try_script(text: str, options: list[str], sbatch: str = "sbatch") -> None:
    """Ask sbatch whether it would take the script `text`; raises SlurmError with its reason."""
    run_slurm(sbatch, "--test-only", *options, given=text, script=text)


def read_state(job: str) -> JobState:
    """Look up a job: squeue and scontrol know it for some minutes after its end."""
    (option,) = group_by_cluster([job])
    try:
        shown = run_slurm("scontrol", *option, "show", "job", "--oneliner", number_of(job))
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return FORGOTTEN
        raise
    fields = dict(re.findall(r"(?:^|\s)(JobState|Reason)=(\S+)", shown))
    reason = fields.get("Reason", "None")
    return JobState(fields.get("JobState", "UNKNOWN"), "" if reason == "None" else reason)


def read_states(jobs: list[str]) -> dict[str, JobState]:
    """Look up jobs with one question per cluster; those that Slurm has forgotten are UNKNOWN."""
    states = dict.fromkeys(jobs, FORGOTTEN)
    for option, group in group_by_cluster(jobs).items():
        try:
            shown = run_slurm(
                "squeue", *option, "--all", "--states=all", "--array", "--noheader",
                f"--jobs={','.join(map(number_of, group))}", "--format=%i|%F|%T|%r|%Z",
            )  # fmt: skip
        except SlurmError as error:
            if "Invalid job id" in str(error):
                continue
            raise
        found: dict[str, list[JobState]] = {}
        for line in shown.splitlines():
            task, bar, rest = line.partition("|")
            if bar:  # else it is the line that names the cluster
                array, state, reason, folder = [*rest.split("|", 3), "", ""][:4]
                state = JobState(state, "" if reason == "None" else reason, folder)
                for number in {task, array}:
                    found.setdefault(number, []).append(state)
        for job in group:
            if number_of(job) in found:
                states[job] = join_tasks(found[number_of(job)], count_tasks(job))
    return states


def join_tasks(tasks: list[JobState], count: int) -> JobState:
    """One state for an array of `count` tasks: active while one is, failed when one has.

    An array of which Slurm has forgotten tasks has ended as nobody knows.
    """
    if not count:
        return tasks[-1]
    rank = dict.fromkeys(ACTIVE, 1) | {"RUNNING": 0, "FAILED": 2, "COMPLETED": 4}
    worst = min(tasks, key=lambda task: rank.get(task.state, 3))
    same = sum(task.state == worst.state for task in tasks)
    if worst.state == "COMPLETED" and len(tasks) < count:
        why = f"Slurm has forgotten {count - len(tasks)} of {count} tasks"
        return JobState(FORGOTTEN.state, why, worst.folder)
    return JobState(worst.state, f"{same} of {count} tasks", worst.folder)


def cancel_jobs(jobs: list[str]) -> None:
    """Cancel jobs, the last first: the end of one would start the next, which waits for it.

    Those that have ended already are no error.
    """
    for option, group in group_by_cluster(jobs[::-1]).items():
        run_slurm("scancel", *option, "--quiet", *map(number_of, group))
