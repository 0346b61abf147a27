"""What is measured by killing real trainers at random moments, without Slurm."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

from torch_server import SCRIPTS, TESTS, start_python


def count_lost_epochs(folder: Path, kills: int) -> dict:
    """SIGKILL a training of two ranks at a random moment; a printed epoch must be on disk whole."""
    chance, lost, printed = random.Random(1), 0, 0
    for number in range(kills):
        workdir = folder / str(number)
        options = ("--epochs=500", f"--workdir={workdir}")
        program = start_python(SCRIPTS / "train_spiral.py", *options, ranks=2)
        wait_until(lambda p=program: "Epoch [1/" in p.peek())
        time.sleep(chance.uniform(0, 2))
        for pid in program.pids:
            os.kill(pid, signal.SIGKILL)
        told, _ = program.communicate(60)
        done = len(re.findall(r"^Epoch \[\d+/500\] LR.*s$", told, re.MULTILINE))
        epochs = json.loads((workdir / "training_metrics.json").read_text())["epochs"]
        files = [workdir / f"rank0_results_epoch{epoch}.json" for epoch in range(done)]
        whole = sum(bool(json.loads(path.read_text())["steps"]) for path in files if path.exists())
        lost += done - min(whole, len(epochs))
        printed += done
    return {"kills": kills, "epochs": printed, "lost": lost}


def count_corrupt_checkpoints(folder: Path, kills: int) -> dict:
    """SIGKILL a process while it saves; the newest checkpoint must be whole."""
    import torch

    chance, corrupt, saved = random.Random(2), 0, 0
    for number in range(kills):
        place = folder / str(number)
        program = start_python(TESTS / "faults/saver.py", place)
        wait_until(lambda p=place: len(list(p.glob("step_*.pt"))) > 1)
        time.sleep(chance.uniform(0, 0.1))
        os.kill(program.pids[0], signal.SIGKILL)
        program.communicate(60)
        for path in place.glob("step_*.pt"):
            saved += 1
            try:
                content = torch.load(path, weights_only=True)
                corrupt += not (content["model"] == int(path.stem[5:])).all()
            except Exception:  # PyTorch has many errors for a file that is cut
                corrupt += 1
    return {"kills": kills, "checkpoints": saved, "corrupt": int(corrupt)}


def equal_parameters(first: Path | None, second: Path | None) -> bool:
    """Whether two checkpoints have the same parameters, bit for bit."""
    import torch

    if not (first and second):
        return False
    one, two = (torch.load(path, weights_only=True) for path in (first, second))
    return one["total_steps"] == two["total_steps"] and all(
        torch.equal(one["model"][name], two["model"][name]) for name in one["model"]
    )


def wait_until(condition, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
