"""Stop at a step's end, all ranks at the same one, when Slurm says that the time is up."""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

CHECK_S = (0.5, 2.0)  # the ranks ask each other about this often


class Stopped(Exception):
    """The training ends early and in order: everything is saved. `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Remembers SIGUSR1 (the time limit is near) and SIGTERM (preempted, cancelled).

    A handler that saved would save in the middle of a step, and each rank at another one. So it
    only sets a flag, and at the end of a step the ranks compare their flags: one small all-reduce
    on the CPU, about once per second whatever a step takes. SIGUSR1 may have come before, while
    PyTorch was imported: then scripts/node.sh has left the note STOP_USR1.
    """

    def __init__(self):
        self.note = Path(os.environ.get("RESULTS_DIR", os.devnull), "STOP_USR1")
        self.received = 0
        self.steps_between, self.steps_left = 1, 1
        self.checked_at = time.monotonic()
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame) -> None:
        self.received = max(self.received, number)  # SIGTERM is the higher: it leaves less time

    def agree(self, at_once: bool = False) -> int:
        """Return the signal that some rank has received, the same on all, or 0. All must call it.

        at_once: ask the others now, whenever they were asked last.
        """
        self.steps_left -= 1
        if self.steps_left > 0 and not at_once:
            return 0
        if not self.received and self.note.exists():
            self.received = signal.SIGUSR1
        now = time.monotonic()
        agreed = torch.tensor([self.received, now - self.checked_at], dtype=torch.float64)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        number, seconds = agreed.tolist()
        # All ranks have the same seconds here, so all come to the same next step.
        if seconds < CHECK_S[0] and not at_once:
            self.steps_between *= 2
        elif seconds > CHECK_S[1]:
            self.steps_between = max(1, self.steps_between // 2)
        self.steps_left, self.checked_at = self.steps_between, now
        return int(number)
