"""Run train_spiral.py as its user does: it needs no data and is quick."""

import json
import subprocess
from pathlib import Path

from torch_server import SCRIPTS, run_python

SPIRAL = SCRIPTS / "train_spiral.py"


def run_spiral(
    workdir: Path, *args: str, processes: int = 1, script: Path = SPIRAL, **variables: str
) -> subprocess.CompletedProcess:
    """Train with `processes` ranks; `variables` are added to the environment."""
    return run_python(script, f"--workdir={workdir}", *args, ranks=processes, **variables)


def load(path: Path) -> dict:
    return json.loads(path.read_text())
