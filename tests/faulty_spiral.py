"""train_spiral.py with a fault, for test_diagnosis_injected.py; the trainer itself is untouched.

DEVICE_S: each pass takes so many seconds more, in which no CPU works: as with a GPU, the time of
a step does not depend on what else this machine does.
FAULT, with several ranks only: `loader` (every batch comes LATE_S late), `rank` (rank 1's passes
take LATE_S more), `tracker` (each step is followed by LATE_S of logging), `stopped` (rank 1's
process is stopped for three quarters of the time).
HANG: in its third step rank 2 is `stopped`, `asleep`, in another collective (`elsewhere`), or
`gone`: it exits with 0 and without a word; `at the end`: it never ends.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import torch.distributed as dist

import train_spiral
import training.launch
from training.launch import launch
from training.run import TrainingRun
from training.spiral.data import SpiralPoints

DEVICE_S = float(os.environ.get("DEVICE_S", 0))
LATE_S = float(os.environ.get("LATE_S", 0))
STOPPED_S, GOING_S = 0.15, 0.05  # a step of 0.1 s ends with the next time it goes


def delay(function, seconds: float):
    def late(*args):
        time.sleep(seconds)
        return function(*args)

    return late


def stop_again_and_again(pid: int) -> None:
    """Stop the process for a moment, let it go for a shorter one, until it has ended."""
    if os.fork() > 0:
        return
    while os.getppid() == pid:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(pid, signal.SIGCONT)
        time.sleep(GOING_S)
    os._exit(0)


def disturb(function):
    """Begin with the stopping at the first call: the imports before it would take minutes."""
    begun = []

    def disturbed(*args):
        if not begun:
            begun.append(stop_again_and_again(os.getpid()))
        return function(*args)

    return disturbed


def hang(function, how: str):
    """Let the third call of the function never come back."""
    calls = []

    def hanging(*args):
        calls.append(1)
        if len(calls) == 3:
            if how == "stopped":
                time.sleep(1.5)  # a heartbeat tells where
                os.kill(os.getpid(), signal.SIGSTOP)
            if how == "asleep":
                time.sleep(600)
            if how == "elsewhere":
                dist.all_gather_object([None] * dist.get_world_size(), "I am here")
            if how == "gone":
                os._exit(0)
        return function(*args)

    return hanging


def main(args) -> None:
    if "HANG" in os.environ and os.environ["RANK"] == "2":
        how = os.environ["HANG"]
        train_spiral.forward_backward = hang(train_spiral.forward_backward, how)
        if how == "at the end":
            training.launch.END_S = 1
            train_spiral.leave_group = lambda: time.sleep(600)
    rank, is_alone = int(os.environ.get("RANK", 0)), os.environ.get("WORLD_SIZE", "1") == "1"
    fault = "" if is_alone else os.environ.get("FAULT", "")
    passes_s = DEVICE_S + (LATE_S if fault == "rank" and rank == 1 else 0)
    if passes_s:
        train_spiral.forward_backward = delay(train_spiral.forward_backward, passes_s)
    if fault == "loader":
        SpiralPoints.__getitems__ = delay(SpiralPoints.__getitems__, LATE_S)
    if fault == "tracker":
        TrainingRun.end_step = delay(TrainingRun.end_step, LATE_S)
    if fault == "stopped" and rank == 1:
        train_spiral.forward_backward = disturb(train_spiral.forward_backward)
    train_spiral.main(args)


if __name__ == "__main__":
    launch(main, train_spiral.parse_args())
