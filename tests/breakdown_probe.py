"""Run by two ranks in test_breakdown.py: train small models with and without the probe.

breakdown_probe.py OUT_DIR: rank r writes OUT_DIR/<r>.pt, a dictionary with
  <model>_<True|False>   parameters, buffers and the next random number after four steps, the
                         probe used after the second or not; the models have BatchNorm or dropout
  probe_<size>           what the probe measured, for gradients of that many MiB
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.breakdown import measure_exposed_comm

CPU = torch.device("cpu")
MODELS = {
    "batchnorm": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)
    ),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.Dropout(), nn.ReLU()),
}


def train(make_model, is_probed: bool) -> dict:
    """Four steps, each rank on its own random images, with momentum."""
    torch.manual_seed(0)
    model = DistributedDataParallel(make_model(), gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(10 + dist.get_rank())  # ranks draw other images, and drop other units
    for step in range(4):
        images = torch.rand(4, 3, 16, 16)
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if is_probed and step == 1:
            measure_exposed_comm(
                model,
                lambda images=images: model(images).square().mean().backward(),
                model.no_sync,
                CPU,
            )
    return {
        "parameters": [parameter.detach().clone() for parameter in model.parameters()],
        "buffers": [buffer.clone() for buffer in model.buffers()],
        "random": torch.rand(3),
    }


def measure(mib: float) -> dict:
    """Probe a model of `mib` MiB of gradients whose passes compute next to nothing."""
    rows = int(mib * 2**20 / 4 / 256)
    table = nn.Embedding(rows, 256)  # a pass reads one row, the all-reduce moves all of them
    model = DistributedDataParallel(table, gradient_as_bucket_view=True)
    one = torch.tensor([0])
    return measure_exposed_comm(model, lambda: model(one).sum().backward(), model.no_sync, CPU)


def main() -> None:
    dist.init_process_group("gloo")
    result = {
        f"{name}_{is_probed}": train(make_model, is_probed)
        for name, make_model in MODELS.items()
        for is_probed in (False, True)
    }
    result |= {f"probe_{mib}": measure(mib) for mib in (0.01, 64)}
    torch.save(result, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
