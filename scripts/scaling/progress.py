"""How far a job is, from the log that it is still writing."""

from dataclasses import dataclass, field
from pathlib import Path

from scaling.errors import ScalingError
from scaling.slurm_out import read_slurm_out
from scaling.text import printable

TAIL_LINES = 6


@dataclass(frozen=True)
class Progress:
    """The epoch lines so far, their count of all, the last throughput, the log's last lines."""

    log: Path | None = None
    epoch_lines: list[str] = field(default_factory=list)
    epochs: str = ""  # "2/3"
    throughput: str = ""  # "704.9 img/s"
    tail: list[str] = field(default_factory=list)


def read_progress(folder: Path, job_id: str) -> Progress:
    """Read the log of job `job_id` in a job's folder; empty while there is none."""
    logs = sorted((folder / "log").glob(f"*_{job_id}.out"))
    if not logs:
        return Progress()
    try:
        attempt = read_slurm_out(logs[-1]).last_attempt
        with logs[-1].open("rb") as file:
            file.seek(max(0, logs[-1].stat().st_size - 4096))
            end = file.read().decode("utf-8", errors="replace").splitlines()
    except (ScalingError, OSError):
        return Progress(logs[-1])
    last = attempt.last
    return Progress(
        logs[-1],
        [printable(epoch.text) for epoch in attempt.epochs],
        f"{last.epoch}/{last.epochs}" if last else "",
        f"{last.throughput_per_s.text} {last.unit}" if last else "",
        [printable(line) for line in end[-TAIL_LINES:]],
    )
