"""How large a batch is, on one GPU and on all of them, and the order in which batches come."""

import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from torch.utils.data import BatchSampler, Sampler

from training import TrainingError


@dataclass(frozen=True)
class BatchPlan:
    """A step's samples: `per_gpu` in one pass, `grad_accum_steps` passes, on every rank."""

    per_gpu: int
    grad_accum_steps: int
    global_size: int  # per_gpu x grad_accum_steps x world_size
    lr: float  # of the whole job, after the rule
    steps_per_epoch: int

    def describe(self, args: Namespace) -> dict:
        """The settings that every workload has, as run.json keeps them."""
        names = (
            "epochs", "precision", "compile", "scaling", "lr_scaling", "warmup_steps", "seed",
            "num_workers", "limit_batches",
        )  # fmt: skip
        return {
            **{name: getattr(args, name) for name in names},
            "lr": self.lr,
            "batch_size_per_gpu": self.per_gpu,
            "grad_accum_steps": self.grad_accum_steps,
            "global_batch_size": self.global_size,
        }


def plan_batch(args: Namespace, samples: int) -> BatchPlan:
    """Decide the batch and the learning rate from the arguments and WORLD_SIZE.

    weak: every GPU has --batch-size samples per pass, the global batch grows with the ranks.
    strong: the global batch is --global-batch-size; a GPU has at most --batch-size a pass, and
    accumulates the gradients of as many passes as it takes.

    Raises TrainingError when that does not divide, or when `samples` are less than one batch.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    # Under tensor parallelism several ranks share one batch: they count as one.
    world_size //= getattr(args, "tensor_parallel", None) or 1
    if args.scaling == "weak":
        if args.global_batch_size:
            raise TrainingError("--global-batch-size goes with --scaling strong; leave it out")
        per_gpu, accum, alone = args.batch_size, args.grad_accum_steps or 1, args.batch_size
        alone *= accum
    else:
        alone = args.global_batch_size or args.batch_size
        per_gpu, accum = divide_batch(alone, args.batch_size, world_size)
        if args.grad_accum_steps not in (None, accum):
            raise TrainingError(
                f"--grad-accum-steps {args.grad_accum_steps} does not make {alone} samples of "
                f"{per_gpu} on {world_size} ranks; it takes {accum}, or leave the option out"
            )
    global_size = per_gpu * accum * world_size
    if samples < global_size:
        raise TrainingError(
            f"{samples} training samples are less than one global batch of {global_size} "
            f"({world_size} ranks x {per_gpu} x {accum}); lower --batch-size or use more data"
        )
    ratio = {"none": 1, "linear": global_size / alone, "sqrt": (global_size / alone) ** 0.5}
    steps = min(samples // global_size, args.limit_batches or samples)
    return BatchPlan(per_gpu, accum, global_size, args.lr * ratio[args.lr_scaling], steps)


def divide_batch(global_size: int, most: int, world_size: int) -> tuple[int, int]:
    """Share a global batch: the largest pass of at most `most` samples, and how many passes.

    Raises TrainingError when the ranks cannot all do the same.
    """
    per_gpu = min(most, global_size // world_size)
    if per_gpu == 0 or global_size % (per_gpu * world_size):
        raise TrainingError(
            f"a global batch of {global_size} is no multiple of {world_size} ranks x "
            f"{max(per_gpu, 1)} samples; choose another --global-batch-size or --batch-size"
        )
    return per_gpu, global_size // (per_gpu * world_size)


def warm_up(step: int, warmup_steps: int) -> float:
    """Factor of the learning rate in optimizer step `step` (from 0): a straight line up to 1."""
    return min(1.0, (step + 1) / (warmup_steps + 1))


class ResumableBatches(BatchSampler):
    """Full batches of a sampler's indices, without the first `skip`.

    A resumed run sets `skip` before it enters an epoch in the middle, and back to 0 for the next.
    It is not reset here: a DataLoader with processes asks twice for the batches of one pass.
    """

    def __init__(self, sampler: Sampler, batch_size: int):
        super().__init__(sampler, batch_size, drop_last=True)
        self.skip = 0
        self._given: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        self._given = []
        return islice(self._keep(super().__iter__()), self.skip, None)

    def _keep(self, batches: Iterator[list[int]]) -> Iterator[list[int]]:
        given = self._given
        for batch in batches:
            given.append(batch)
            yield batch

    def drawn(self, batches: int) -> list[int]:
        """The samples of the epoch's first batches; a loader may have asked for more of them."""
        return [index for batch in self._given[:batches] for index in batch]
