"""Run train_spiral.py as its user does: it needs no data and is quick."""

import json
import os
import subprocess
import sys
from pathlib import Path

SPIRAL = Path(__file__).resolve().parent.parent / "scripts/train_spiral.py"


def run_spiral(
    workdir: Path, *args: str, processes: int = 1, script: Path = SPIRAL, **variables: str
) -> subprocess.CompletedProcess:
    """Train with `processes` ranks; `variables` are added to the environment."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    unset = ("COMET_", "SLURM_", "RESULTS_DIR", "CHECKPOINT_DIR")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
    done = subprocess.run(
        [*launcher, script, f"--workdir={workdir}", *args],
        env=environment | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        check=False,
    )
    # Not text=True: it would turn the carriage returns of a progress bar into line ends.
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def load(path: Path) -> dict:
    return json.loads(path.read_text())
