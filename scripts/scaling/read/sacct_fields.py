"""What sacct's fields hold: job ids, states, durations, amounts of memory."""

import re
from typing import NamedTuple

from scaling.read.state import State

STATES = {
    "COMPLETED": State.COMPLETE,
    "FAILED": State.FAILED,
    "BOOT_FAIL": State.FAILED,
    "NODE_FAIL": State.FAILED,
    "LAUNCH_FAILED": State.FAILED,
    "TIMEOUT": State.TIMED_OUT,
    "DEADLINE": State.TIMED_OUT,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
    "CANCELLED": State.CANCELLED,
    "PREEMPTED": State.CANCELLED,
    "REVOKED": State.CANCELLED,
    "REQUEUED": State.CANCELLED,
    "REQUEUE_HOLD": State.CANCELLED,
    "RUNNING": State.RUNNING,
    "COMPLETING": State.RUNNING,
    "SUSPENDED": State.RUNNING,
    "STOPPED": State.RUNNING,
    "RESIZING": State.RUNNING,
    "PENDING": State.NEVER_STARTED,
    "CONFIGURING": State.NEVER_STARTED,
}
_JOB_ID = re.compile(
    r"(?P<job>\d{1,18}(?:_(?:\d{1,9}|\[[^\]]*\])|\+\d{1,6})?)(?:\.(?P<step>\w{1,40})(?P<cut>\+)?)?"
)
_STEPS = ("batch", "extern", "interactive")
_DURATION = re.compile(r"(?:(\d{1,5})-)?(?:(\d{1,6}):)?(\d{1,6}):(\d{1,2}(?:\.\d{1,6})?)")
_DURATIONS = re.compile(r"Elapsed|CPUTime|TotalCPU|UserCPU|SystemCPU|AveCPU|MinCPU|Timelimit")
_SECONDS = re.compile(r"ElapsedRaw|CPUTimeRAW")
_MEMORY = re.compile(r"(?:Max|Ave)(?:RSS|VMSize|DiskRead|DiskWrite)|ReqMem")
_COUNTS = re.compile(
    r"NNodes|NTasks|AllocCPUS|AllocNodes|NCPUS|ReqCPUS|ReqNodes|AllocGRES|Restarts"
)
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)([KMGTP]?)([nc]?)")
_MIB = {"": 1 / (1 << 20), "K": 1 / 1024, "M": 1, "G": 1024, "T": 1 << 20, "P": 1 << 30}


class JobId(NamedTuple):
    """A job (`12`, `12_3` of an array, `12+1` of a heterogeneous job) and its step, or ''."""

    job: str
    step: str


def parse_job_id(cell: str) -> JobId | None:
    """Return job and step of `12.bat+`; None when the job's own number is cut or missing."""
    match = _JOB_ID.fullmatch(cell.strip())
    if match is None:
        return None
    step = match["step"] or ""
    if match["cut"]:
        step = next((name for name in _STEPS if name.startswith(step)), step + "+")
    return JobId(match["job"], step)


def parse_state(cell: str) -> str | None:
    """Return Slurm's state of `CANCELLED by 1000`, `CANCELLED+`, `OUT_OF_ME+`; None if unknown."""
    word = (cell.split() or [""])[0].upper()
    if word in STATES:
        return word
    found = [state for state in STATES if word.endswith("+") and state.startswith(word[:-1])]
    return found[0] if len(found) == 1 else None


def parse_exit_code(cell: str) -> tuple[int | None, int | None]:
    """Return (exit status, signal) of `0:15`; None for each when there is none."""
    match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", cell.strip())
    return (int(match[1]), int(match[2])) if match else (None, None)


def parse_duration(cell: str) -> float | None:
    """Return the seconds of `[days-][hours:]minutes:seconds[.fraction]`, None for other text."""
    match = _DURATION.fullmatch(cell.strip())
    if match is None:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return days * 86400 + hours * 3600 + minutes * 60 + float(match[4])


def parse_memory(cell: str) -> tuple[float, str] | None:
    """Return (MiB, unit) of `1196K`, `64G`, `100Mc` (for each CPU) or `4Gn` (for each node).

    A figure without a letter is in bytes, as sacct prints it for steps.
    """
    match = _AMOUNT.fullmatch(cell.strip())
    if match is None:
        return None
    unit = {"c": "MiB per CPU", "n": "MiB per node", "": "MiB"}[match[3]]
    return float(match[1]) * _MIB[match[2]], unit


def parse_measure(name: str, cell: str) -> tuple[float, str] | None:
    """Return (number, unit) of a field that holds a measure; None for text or no data."""
    if _MEMORY.fullmatch(name):
        return parse_memory(cell)
    if _DURATIONS.fullmatch(name):
        seconds = parse_duration(cell)
        return None if seconds is None else (seconds, "s")
    if _SECONDS.fullmatch(name) or _COUNTS.fullmatch(name):
        unit = "s" if _SECONDS.fullmatch(name) else ""
        return (int(cell), unit) if re.fullmatch(r"\d{1,15}", cell) else None
    return None
