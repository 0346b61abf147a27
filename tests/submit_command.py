"""Runs scripts/submit.py, for the tests of it."""

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
SHORT = "tests/profiles/short.toml"


def render_short(folder: Path, profile: str | Path = SHORT) -> Path:
    """Render every job for a profile of tests/profiles; returns `folder`."""
    command = [sys.executable, "render.py", "--cluster", profile, "--to", folder]
    subprocess.run(command, check=True, capture_output=True, cwd=REPO)
    return folder


def run_submit(*args: object, **variables: str) -> subprocess.CompletedProcess:
    # From the checkout's top, as the profile's path in the scripts' headers is relative to it.
    return subprocess.run(
        [sys.executable, "scripts/submit.py", *map(str, args)],
        cwd=REPO, env=os.environ | variables, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
