"""Runs scripts/submit.py, for the tests of it."""

import subprocess
import sys
from pathlib import Path

from in_process import run_script

REPO = Path(__file__).resolve().parent.parent
SHORT = "tests/profiles/short.toml"


def render_short(folder: Path, profile: str | Path = SHORT) -> Path:
    """Render every job for a profile of tests/profiles; returns `folder`."""
    command = [sys.executable, "render.py", "--cluster", profile, "--to", folder]
    subprocess.run(command, check=True, capture_output=True, cwd=REPO)
    return folder


def run_submit(*args: object, **variables: str) -> subprocess.CompletedProcess:
    return run_script("scripts/submit.py", *args, **variables)
