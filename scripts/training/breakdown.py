"""How much of a step is communication that nothing hides."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median

import torch
import torch.distributed as dist
from torch import nn

from training.checkpoint import capture_rng, restore_rng

PAIRS = 5


def measure_exposed_comm(
    model: nn.Module,
    run_pass: Callable[[], object],
    no_sync: Callable[[], AbstractContextManager],
    device: torch.device,
) -> dict[str, float]:
    """Time the same forward and backward pass with and without the all-reduce of gradients.

    run_pass: one pass, gradients and nothing else; no_sync: the model's context manager that
    leaves the all-reduce out. The two are timed in turn, PAIRS times, all ranks beginning
    together; the difference of their medians is what communication adds to a step, waiting for
    slower ranks included. Overlapped communication adds nothing, and is not counted. A step that
    accumulates the gradients of several passes communicates in its last one only, so the
    difference of one pass is that of a step, however many passes it has.

    No optimizer step is made. Buffers (BatchNorm's statistics) and random number generators are
    put back, gradients are dropped: the training goes on as if nothing had been.

    Returns seconds: sync_pass_s, no_sync_pass_s, exposed_comm_per_step_s (not below 0), and
    probe_s, what all of this took.
    """
    began = time.perf_counter()
    buffers = [buffer.clone() for buffer in model.buffers()]
    rng = capture_rng(device)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(PAIRS + 1):
        # Now one first, now the other, but with communication at the very end: DDP remembers how
        # the last pass was made, and copies rank 0's buffers before the next one accordingly.
        # FSDP keeps the gradients of a pass without it until one that sends them.
        for sync in (False, True) if pair % 2 == PAIRS % 2 else (True, False):
            took = time_pass(model, run_pass, nullcontext if sync else no_sync, device)
            if pair > 0:  # the first pair warms up
                seconds[sync].append(took)
    restore_rng(rng, device)
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    sync_s, no_sync_s = median(seconds[True]), median(seconds[False])
    return {
        "sync_pass_s": sync_s,
        "no_sync_pass_s": no_sync_s,
        "exposed_comm_per_step_s": max(0.0, sync_s - no_sync_s),
        "probe_s": time.perf_counter() - began,
    }


def time_pass(model: nn.Module, run_pass: Callable, context: Callable, device) -> float:
    model.zero_grad(set_to_none=True)
    synchronize(device)
    dist.barrier()
    began = time.perf_counter()
    with context():
        run_pass()
    synchronize(device)
    took = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return took


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
