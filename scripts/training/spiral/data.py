"""Points on spiral arms, made from a seed: a data set that costs nothing to load."""

import math

import torch

from training import TrainingError

NOISE = 0.25  # radians, one standard deviation


class SpiralPoints(torch.utils.data.Dataset):
    """Points (N, 2) float32 and their arms (N,) int64, on whatever device they were moved to.

    A DataLoader asks for a whole batch at once (__getitems__): one indexed copy where the data
    lies. Sample by sample, the loading would take longer than the training of so small a model.
    """

    def __init__(self, points: torch.Tensor, arms: torch.Tensor):
        self.points, self.arms = points, arms

    def __len__(self) -> int:
        return len(self.arms)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.points[index], self.arms[index]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.tensor(indices, device=self.arms.device)
        return self.points[chosen], self.arms[chosen]

    def to(self, device: torch.device) -> "SpiralPoints":
        """Return the same points on `device`."""
        return SpiralPoints(self.points.to(device), self.arms.to(device))


def keep_batch(batch):
    """Collate nothing: SpiralPoints gives whole batches."""
    return batch


def make_spiral(
    samples: int, arms: int, seed: int, noise: float = NOISE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scatter points around `arms` spirals that turn once; returns (points, arms), shuffled.

    The radius is uniform in 0..1. The angle is the arm's at that radius plus normal noise, so the
    share of points that lie nearer to another arm is erfc(pi / (arms x noise x sqrt(2))): 3 in
    100,000 with 3 arms, less with 2. The task can be learnt completely.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % arms  # as many points on each arm, give or take one
    radius = torch.rand(samples, generator=generator)
    scatter = noise * torch.randn(samples, generator=generator)
    angle = 2 * math.pi * (radius + labels / arms) + scatter
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    order = torch.randperm(samples, generator=generator)
    return points[order], labels[order]


def load_splits(samples: int, arms: int, seed: int) -> tuple[SpiralPoints, SpiralPoints]:
    """Return (training, validation) points: the first 80 % and the rest, the same on every rank.

    Raises TrainingError when there are too few points to learn an arm from.
    """
    if samples < 10 * arms:
        raise TrainingError(f"--samples {samples} is too few for {arms} arms; take {10 * arms}")
    points, labels = make_spiral(samples, arms, seed)
    cut = samples * 4 // 5
    return SpiralPoints(points[:cut], labels[:cut]), SpiralPoints(points[cut:], labels[cut:])
