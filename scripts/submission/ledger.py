"""Which jobs submit.py has submitted: one JSON line a job, in a file beside the experiments."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from profiles.toml_model import ProfileError

NAME = "submitted.jsonl"


@dataclass(frozen=True)
class Entry:
    """One submitted job."""

    job_id: str
    job: str  # its name in the matrix
    folder: str  # below the experiments
    gpus: int
    submitted_utc: str


def now_utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def append_entry(experiments: Path, entry: Entry) -> None:
    """Add a job to the ledger; a line is written whole, since it is short and appended."""
    try:
        with (experiments / NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(entry)) + "\n")
    except OSError as error:
        raise ProfileError(
            f"job {entry.job_id} runs, but {experiments / NAME} cannot be written: "
            f"{error.strerror}; cancel it with: scancel {entry.job_id}"
        ) from None


def read_ledger(experiments: Path) -> list[Entry]:
    """Read all entries, oldest first; ProfileError names the line that is none."""
    path = experiments / NAME
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            raise ProfileError(f"{path}: line {number} is no entry; delete that line") from None
    return entries
