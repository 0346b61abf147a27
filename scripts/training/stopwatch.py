"""Time training honestly: a GPU works behind the program's back, so wait for it before reading."""

import time
from collections.abc import Iterable, Iterator

import torch


class Stopwatch:
    """Seconds of the training part of one epoch, its steps, and the seconds spent waiting for data.

    with Stopwatch(device) as stopwatch:
        for images, labels in stopwatch.watch(loader):
            ...
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = 0.0
        self.data_wait_s = 0.0
        self.steps = 0

    def __enter__(self) -> "Stopwatch":
        self._start = self._now()
        return self

    def __exit__(self, *_exception) -> None:
        self.seconds = self._now() - self._start

    def watch(self, batches: Iterable) -> Iterator:
        """Pass on `batches`, adding up the seconds spent waiting for the next one."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.data_wait_s += time.perf_counter() - before
            self.steps += 1
            yield batch

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
