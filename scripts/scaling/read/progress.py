"""How far a job is, from the log that it is still writing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from common.console import printable
from common.errors import UserError
from scaling.read.contract import read_json, split_id, whole_number
from scaling.read.job_log import read_job_log

TAIL_LINES = 6


@dataclass(frozen=True)
class Progress:
    """The epoch lines so far, their count of all, the last throughput, the log's last lines."""

    log: Path | None = None
    epoch_lines: list[str] = field(default_factory=list)
    epochs: str = ""  # "2/3"
    throughput: str = ""  # "704.9 img/s"
    tail: list[str] = field(default_factory=list)
    exit_status: int | None = None  # job_end.json's; None while there is none


def read_progress(folder: Path, job_id: str) -> Progress:
    """Read the log of job `job_id` in a job's folder; empty while there is none.

    The log is in log/, that of the tables' job beside its script.
    """
    logs = sorted([*folder.glob(f"log/*_{job_id}.out"), *folder.glob(f"*_{job_id}.out")])
    exit_status = read_exit_status(folder, job_id)
    if not logs:
        return Progress(exit_status=exit_status)
    try:
        log = read_job_log(logs[-1])
    except UserError:
        return Progress(logs[-1], exit_status=exit_status)
    attempt, last = log.last_attempt, log.last_attempt.last
    return Progress(
        logs[-1],
        [printable(epoch.text) for epoch in attempt.epochs],
        f"{last.epoch}/{last.epochs}" if last else "",
        f"{last.throughput_per_s} {last.unit}" if last else "",
        [printable(line) for _, line in log.tail[-TAIL_LINES:]],
        exit_status,
    )


def read_exit_status(folder: Path, job_id: str) -> int | None:
    """Read how the job's last attempt ended from its job_end.json; None when that is not there."""
    found = {
        split_id(path.parent.name): path
        for path in (folder / "results").glob(f"{job_id}*/job_end.json")
    }
    attempts = [attempt for attempt in found if attempt[0] == int(job_id)]
    last = found[max(attempts)] if attempts else folder / f"job_end_{job_id}.json"
    if not last.is_file():
        return None
    try:
        return whole_number(read_json(last), "exit_status", last)
    except UserError:
        return None
