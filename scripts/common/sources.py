"""Which program ran: a hash of its sources, and the commit of their checkout."""

import hashlib
import subprocess
from pathlib import Path

COMMIT_FILE = (
    "frozen_commit"  # beside scripts/ where a job's sources were frozen: of their checkout
)


def hash_sources(trainer: Path, scripts: Path = Path(__file__).parents[1]) -> str:
    """SHA-256 over the trainer, training/ and common/: equal hashes mean equal programs."""
    digest = hashlib.sha256()
    modules = [path for name in ("training", "common") for path in (scripts / name).rglob("*.py")]
    for path in [trainer, *sorted(modules)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def read_git_commit(folder: Path) -> str:
    """The checkout's commit, with `-dirty` when files differ from it; `unknown` without git.

    folder: in the checkout. Of frozen sources it is the commit that they were copied from.
    """
    try:
        return (folder.parent / COMMIT_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        pass
    options = ("--always", "--abbrev=40", "--exclude=*", "--dirty")
    command = ["git", "-C", str(folder), "describe", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
