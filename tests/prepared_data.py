"""A data set that all tests of a session share, whoever asks for it first."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
# Near enough to each other that 5,000 sentences teach a small model something.
PAIRS_LANGUAGES = ("de", "nl", "sv", "fr", "it", "es", "pt")


def prepare_once(
    factory: pytest.TempPathFactory, name: str, workload: str, *options: object
) -> Path:
    """Make the folder with `prepare_data.py WORKLOAD FOLDER OPTIONS`, once for all workers."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own in this one
        shared = shared.parent
    folder = shared / "data" / name
    folder.parent.mkdir(exist_ok=True)
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():  # it is made whole or not at all
            command = [sys.executable, REPO / "scripts/prepare_data.py", workload, folder, *options]
            subprocess.run([str(each) for each in command], check=True, capture_output=True)
    return folder
