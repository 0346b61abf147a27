"""Slurm's commands, each bounded in time, with errors of one line."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

TIMEOUT_S = 60
ACTIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED"}


class SlurmError(Exception):
    """A Slurm command that failed or is not there; the message is one line."""


class JobState(NamedTuple):
    """A job's state in Slurm's words (`UNKNOWN` when it has forgotten the job) and the reason."""

    state: str
    reason: str

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


def run_slurm(*command: str, folder: Path | None = None) -> str:
    """Run a Slurm command and return what it printed; raises SlurmError."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise SlurmError(f"no {command[0]} here; run this on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer for {TIMEOUT_S} s; try again") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise SlurmError(f"{command[0]}: {lines[-1]}")
    return done.stdout.strip()


def submit_script(script: Path, options: list[str]) -> str:
    """Submit `script` from its own folder; returns the job id."""
    printed = run_slurm("sbatch", "--parsable", *options, script.name, folder=script.parent)
    return printed.splitlines()[-1].partition(";")[0]  # "<id>;<cluster>" on a federation


def read_state(job_id: str) -> JobState:
    """Look up a job: squeue and scontrol know it for some minutes after its end."""
    try:
        shown = run_slurm("scontrol", "show", "job", "--oneliner", job_id)
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return JobState("UNKNOWN", "Slurm has forgotten this job")
        raise
    fields = dict(re.findall(r"(?:^|\s)(JobState|Reason)=(\S+)", shown))
    reason = fields.get("Reason", "None")
    return JobState(fields.get("JobState", "UNKNOWN"), "" if reason == "None" else reason)


def cancel_jobs(job_ids: list[str]) -> None:
    """Cancel jobs; those that have ended already are no error."""
    if job_ids:
        run_slurm("scancel", "--quiet", *job_ids)


def limit_to_hours(limit: str) -> float:
    """Read a time limit (`30`, `30:00`, `01:30:00`, `2-00`, `2-12:00:00`) as hours (sbatch(1))."""
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:  # minutes[:seconds]
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return 24 * int(days or 0) + hours + minutes / 60 + seconds / 3600
