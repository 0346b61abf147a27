"""Submit the preflight jobs, follow them to their end, and leave none behind."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from doctor.preflight_job import Preflight
from submission.slurm import SlurmError, cancel_jobs, read_state, submit_script

SETTLE_S = 15  # a shared file system may show a node's files to the login node only later
# With these reasons a job waits for ever: somebody must change what it asks for (squeue(1),
# "Job reason codes"). Limits on a group's or a user's total pass when other jobs end.
NEVER = re.compile(
    r"BadConstraints|Invalid(?:Account|QOS)|Partition(?:NodeLimit|TimeLimit|Config)|"
    r"JobHeld(?:User|Admin)|(?:Account|Qos|QOS)NotAllowed|DependencyNeverSatisfied|"
    r"ReservationDeleted|(?:QOS|Assoc)(?:Max|Min)\w*Per(?:Job|Node)\w*|QOSMinCpuNotSatisfied"
)


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
