"""Time training honestly: a GPU works behind the program's back, so wait for it before reading."""

import time
from collections.abc import Iterator
from typing import Any

import torch

PARTS = ("data_wait", "copy", "compute", "optimizer")  # of a step, in their order


class Stopwatch:
    """Seconds of the training part of one epoch, its steps, and where they went.

    with stopwatch:
        for each micro-batch: batch = stopwatch.wait_for(loader), copy it, stopwatch.mark("copy"),
            forward and backward, stopwatch.mark("compute")
        step, stopwatch.mark("optimizer")

    On a CPU a mark reads the clock. On a GPU it puts an event into the GPU's queue, which costs
    microseconds and waits for nothing; the events are read at the end.
    """

    def __init__(self, device: torch.device):
        self.device, self.steps = device, 0
        self.seconds = 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.step_times_s: list[float] = []  # by the host's clock
        self._events: list[tuple[str, torch.cuda.Event]] = []

    def __enter__(self) -> "Stopwatch":
        self._start = self._step_start = self._last = self._now()
        self._event("start")
        return self

    def __exit__(self, *_exception) -> None:
        self.seconds += self._now() - self._start
        self._read_events()

    def wait_for(self, batches: Iterator) -> Any:
        """Return the next batch; the seconds until it is there are data_wait."""
        self._last = time.perf_counter()
        batch = next(batches)
        now = time.perf_counter()
        self.parts["data_wait"] += now - self._last
        self._last = now
        self._event("start")  # a GPU that had to wait for the batch was idle, not copying
        return batch

    def mark(self, part: str) -> None:
        """End a part of the step: what was done since the last mark counts as `part`."""
        if self.device.type == "cuda":
            self._event(part)
            return
        now = time.perf_counter()
        self.parts[part] += now - self._last
        self._last = now

    def end_step(self) -> None:
        now = time.perf_counter()
        self.steps += 1
        self.step_times_s.append(now - self._step_start)
        self._step_start = now
        if len(self._events) > 4000:
            self._read_events(keep=2000)  # these are long past: reading them waits for nothing

    def elapsed_s(self) -> float:
        """Seconds of training so far, the device synchronised."""
        return self.seconds + self._now() - self._start

    def state_dict(self) -> dict:
        """What a checkpoint keeps, inside the `with`: the epoch goes on from it."""
        self._read_events(keep=1)
        return {
            "seconds": self.elapsed_s(),
            "steps": self.steps,
            "parts": dict(self.parts),
            "step_times_s": list(self.step_times_s),
        }

    def load_state_dict(self, state: dict) -> None:
        self.seconds, self.steps = state["seconds"], state["steps"]
        self.parts, self.step_times_s = dict(state["parts"]), list(state["step_times_s"])

    def _event(self, part: str) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((part, event))

    def _read_events(self, keep: int = 0) -> None:
        """Add up the seconds between all events but the last `keep`."""
        done = len(self._events) - keep
        if done <= 0:
            return
        self._events[done - 1][1].synchronize()
        for (_, before), (part, event) in zip(
            self._events[: done - 1], self._events[1:done], strict=True
        ):
            if part != "start":
                self.parts[part] += before.elapsed_time(event) / 1000
        self._events = self._events[done - 1 :]

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
