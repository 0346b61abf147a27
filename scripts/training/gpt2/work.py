"""Fixed work: so many optimizer steps and tokens, however many ranks share them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from torch.utils.data import DistributedSampler, Sampler

from training import TrainingError
from training.epoch import EpochResult


@dataclass(frozen=True)
class FixedWork:
    """`steps` optimizer steps in `epochs` parts of the same length, give or take a step."""

    steps: int
    epochs: int
    limit: int | None  # steps a part at most, for tests
    global_batch: int  # sequences
    seq_length: int  # tokens
    sequences: int  # in the training data

    @property
    def steps_per_pass(self) -> int:
        """Steps until the data begins again; its last sequences, less than a step's, are left."""
        return self.sequences // self.global_batch

    @property
    def tokens(self) -> int:
        """Trained on by all ranks, in all."""
        parts = (end - begin for begin, end in map(self.bounds, range(self.epochs)))
        steps = sum(min(part, self.limit or part) for part in parts)
        return steps * self.global_batch * self.seq_length

    def bounds(self, epoch: int) -> tuple[int, int]:
        """First step of a part, and the step after its last."""
        return self.steps * epoch // self.epochs, self.steps * (epoch + 1) // self.epochs

    def describe(self) -> str:
        """The log's line on the work."""
        once = self.sequences * self.seq_length
        return (
            f"Fixed work: {self.tokens // self.global_batch // self.seq_length:,} steps x "
            f"{self.global_batch} sequences x {self.seq_length} tokens = {self.tokens:,} tokens, "
            f"{self.tokens / once:.2f} times the training data"
        )


def plan_work(args, plan, sequences: int) -> FixedWork:
    """Cut --steps into --epochs parts. Raises TrainingError when there are too few."""
    if args.steps < args.epochs:
        raise TrainingError(
            f"--steps {args.steps} cannot be cut into --epochs {args.epochs} parts; "
            "lower --epochs or raise --steps"
        )
    return FixedWork(
        args.steps, args.epochs, args.limit_batches, plan.global_size, args.seq_length, sequences
    )


def check_tokens(results: list[EpochResult], work: FixedWork) -> str:
    """Return the log's line on the tokens trained on; TrainingError when they are not all."""
    done = sum(result.samples for result in results)
    if done != work.tokens:
        raise TrainingError(
            f"trained on {done:,} tokens, not on {work.tokens:,}: not comparable with other runs; "
            "this is a defect of the trainer"
        )
    return f"Trained on {done:,} tokens, all of the fixed work"


class PassSampler(Sampler):
    """One rank's sequences of part `epoch`, out of an endless row of passes through the data.

    Step s has the same sequences at every world size: the DistributedSampler's shuffle is the same
    one everywhere, and a step takes the next ones from it, each rank every world_size-th.
    """

    def __init__(self, sampler: DistributedSampler, work: FixedWork):
        self.sampler, self.work, self.epoch = sampler, work, 0
        self.per_step = work.global_batch // sampler.num_replicas  # of this rank

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def passes(self) -> int:
        """How many passes through the data the part has a share of."""
        begin, end = self.work.bounds(self.epoch)
        per_pass = self.work.steps_per_pass
        return math.ceil(end / per_pass) - begin // per_pass

    def __len__(self) -> int:
        begin, end = self.work.bounds(self.epoch)
        return (end - begin) * self.per_step

    def __iter__(self) -> Iterator[int]:
        begin, end = self.work.bounds(self.epoch)
        per_pass = self.work.steps_per_pass
        for number in range(begin // per_pass, math.ceil(end / per_pass)):
            self.sampler.set_epoch(number)  # a pass has a shuffle of its own
            first = max(begin - number * per_pass, 0)
            last = min(end - number * per_pass, per_pass)
            yield from islice(self.sampler, first * self.per_step, last * self.per_step)


def cosine_decay(step: int, steps: int) -> float:
    """Factor of the learning rate: from 1 down to a tenth at the last of `steps` steps."""
    return 0.55 + 0.45 * math.cos(math.pi * min(step / max(steps - 1, 1), 1.0))
