"""Batches of pairs of sentences: how many for each rank, and which."""

import os
from argparse import Namespace
from collections.abc import Iterator

import torch
from torch.utils.data import DistributedSampler

from training import TrainingError
from training.translation.data import SentencePairs

POOL = 50  # so many global batches are sorted by length together


def share_batch(args: Namespace) -> None:
    """Turn --batch-size, here the pairs of all ranks in a step, into what plan_batch takes.

    Afterwards args.batch_size is a rank's pairs in one pass. With --scaling strong and a
    --global-batch-size, --batch-size is the most that all ranks take in one pass.

    Raises TrainingError when the batch cannot be shared evenly.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    whole = args.batch_size
    passes = 1 if args.global_batch_size else args.grad_accum_steps or 1
    if whole % (world_size * passes):
        accumulated = f" x {passes} passes" if passes > 1 else ""
        raise TrainingError(
            f"--batch-size {whole} is the global batch, and no multiple of {world_size} ranks"
            f"{accumulated}; choose another"
        )
    args.batch_size = whole // (world_size * passes)
    if args.scaling == "strong" and not args.global_batch_size:
        args.global_batch_size = whole


class SimilarLengths(DistributedSampler):
    """Shuffles the pairs so that those of one global batch have similar lengths: less padding.

    The shuffle is cut into pools of POOL global batches, each pool is sorted by length, and the
    batches then come in a random order. It depends on the seed and the epoch alone: all ranks have
    the same order in mind, each takes every world_size-th pair of it, and the pairs of a step are
    the same ones whatever the number of ranks. Pairs that fill no global batch are left out, other
    ones in each epoch.

    step_tokens: for each step of the epoch the target tokens of all ranks, padding not counted.
    """

    def __init__(self, pairs: SentencePairs, world_size: int, rank: int, *, seed: int, batch: int):
        self.batch = batch  # of a whole step: all ranks, all passes
        super().__init__(pairs, world_size, rank, shuffle=True, seed=seed, drop_last=True)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(len(self.dataset), generator=generator)
        order = order[: len(order) // self.batch * self.batch]
        pools = [
            pool[self.dataset.lengths[pool].argsort(stable=True)]
            for pool in order.split(POOL * self.batch)
        ]
        batches = torch.cat(pools).view(-1, self.batch)
        batches = batches[torch.randperm(len(batches), generator=generator)]
        self.order = batches.flatten().tolist()
        self.step_tokens = self.dataset.target_tokens[batches].sum(dim=1).tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return len(self.order) // self.num_replicas
