"""Slurm's commands, each bounded in time, with errors of one line."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError

TIMEOUT_S = 60
ACTIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESIZING", "SIGNALING"),
}


class SlurmError(UserError):
    """A Slurm command that failed or is missing: it may work when it is asked again."""


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


def run_slurm(*command: str, folder: Path | None = None, given: str | None = None) -> str:
    """Run a Slurm command, `given` on its standard input; returns what it printed.

    Raises SlurmError: the command's last line, when it fails.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, input=given, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise SlurmError(f"no {command[0]} here; run this on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer for {TIMEOUT_S} s; try again") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SlurmError(f"{command[0]}: {lines[-1].removeprefix(f'{command[0]}: ')}")
    return done.stdout.strip()


def submit_script(script: Path, options: list[str]) -> str:
    """Submit `script` from its own folder; returns the job id."""
    printed = run_slurm("sbatch", "--parsable", *options, script.name, folder=script.parent)
    return printed.splitlines()[-1].partition(";")[0]  # "<id>;<cluster>" on a federation


def try_script(text: str, options: list[str]) -> None:
    """Ask sbatch whether it would take the script `text`; raises SlurmError with its reason."""
    run_slurm("sbatch", "--test-only", *options, given=text)


def read_state(job_id: str) -> JobState:
    """Look up a job: squeue and scontrol know it for some minutes after its end."""
    try:
        shown = run_slurm("scontrol", "show", "job", "--oneliner", job_id)
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return FORGOTTEN
        raise
    fields = dict(re.findall(r"(?:^|\s)(JobState|Reason)=(\S+)", shown))
    reason = fields.get("Reason", "None")
    return JobState(fields.get("JobState", "UNKNOWN"), "" if reason == "None" else reason)


def read_states(job_ids: list[str]) -> dict[str, JobState]:
    """Look up jobs with one question to Slurm; those that it has forgotten are UNKNOWN."""
    states = dict.fromkeys(job_ids, FORGOTTEN)
    if not job_ids:
        return states
    try:
        shown = run_slurm(
            "squeue", "--all", "--states=all", "--noheader", f"--jobs={','.join(job_ids)}",
            "--format=%i|%T|%r|%Z",
        )  # fmt: skip
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return states
        raise
    for line in shown.splitlines():
        job_id, state, reason, folder = [*line.split("|", 3), "", "", ""][:4]
        states[job_id] = JobState(state, "" if reason == "None" else reason, folder)
    return states


def cancel_jobs(job_ids: list[str]) -> None:
    """Cancel jobs, the last first: the end of one would start the next, which waits for it.

    Those that have ended already are no error.
    """
    if job_ids:
        run_slurm("scancel", "--quiet", *reversed(job_ids))
