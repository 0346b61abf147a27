"""Time training honestly: a GPU works behind the program's back, so wait for it before reading."""

import time
from collections.abc import Iterator
from itertools import pairwise
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
    microseconds and waits for nothing; the events are read at the end. There, waiting for a batch
    counts only while the GPU has nothing to do: a wait behind its computing costs no time. So the
    parts never exceed `seconds`; what they leave is other_s, Python between the parts.
    """

    def __init__(self, device: torch.device):
        self.device, self.steps = device, 0
        self.seconds = 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.step_times_s: list[float] = []  # by the host's clock
        self._events: list[tuple[str, torch.cuda.Event, float]] = []  # with the host's wait

    def __enter__(self) -> "Stopwatch":
        self._start = self._step_start = self._last = self._now()
        self._event("data_wait")  # where the first wait begins
        return self

    def __exit__(self, *_exception) -> None:
        self.seconds += self._now() - self._start
        self._read_events()

    def wait_for(self, batches: Iterator) -> Any:
        """Return the next batch; the seconds until it is there are data_wait."""
        began = time.perf_counter()
        batch = next(batches)
        self._last = time.perf_counter()
        if self.device.type == "cuda":
            self._event("data_wait", self._last - began)
        else:
            self.parts["data_wait"] += self._last - began
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

    @property
    def other_s(self) -> float:
        """Seconds of training that belong to no part."""
        return self.seconds - sum(self.parts.values())

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

    def _event(self, part: str, waited_s: float = 0.0) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((part, event, waited_s))

    def _read_events(self, keep: int = 0) -> None:
        """Add up the seconds between all events but the last `keep`."""
        done = len(self._events) - keep
        if done <= 0:
            return
        self._events[done - 1][1].synchronize()
        for (_, before, _), (part, event, waited_s) in pairwise(self._events[:done]):
            took_s = before.elapsed_time(event) / 1000
            self.parts[part] += min(took_s, waited_s) if part == "data_wait" else took_s
        self._events = self._events[done - 1 :]

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
