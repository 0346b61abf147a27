"""Runs scripts/submit.py, for the tests of it."""

import subprocess
from pathlib import Path

from in_process import run_script

REPO = Path(__file__).resolve().parent.parent
SHORT = "tests/profiles/short.toml"


def render_short(folder: Path, profile: str | Path = SHORT) -> Path:
    """Render every job for a profile of tests/profiles; returns `folder`."""
    done = run_script("render.py", "--cluster", profile, "--to", folder)
    assert done.returncode == 0, done.stderr
    return folder


def run_submit(*args: object, **variables: str) -> subprocess.CompletedProcess:
    return run_script("scripts/submit.py", *args, **variables)
