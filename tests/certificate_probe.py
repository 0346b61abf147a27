"""Run in test_certificate.py on four processes: replicas with one fault each.

certificate_probe.py DATA_DIR OUT_DIR: each rank writes what it was told, by case, to
OUT_DIR/<rank>.json.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from training.certificate import Certificate, compare_first_weights

ITEMS = 32


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))


def draw(epoch: int, rank: int) -> list[int]:
    sampler = DistributedSampler(range(ITEMS), 4, rank, seed=1)
    sampler.set_epoch(epoch)
    return list(sampler)


def train(model: nn.Module, forward: nn.Module, rank: int) -> None:
    """One step of each rank's own data, through `forward`."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    forward(torch.randn(4, 8, generator=torch.Generator().manual_seed(rank))).sum().backward()
    optimizer.step()


def check(model: nn.Module, drawn: list[list[int]], passes: int = 1) -> list[str]:
    """The faults of the last of these epochs."""
    certificate = Certificate()
    for epoch in drawn:
        found = certificate.check(model, epoch, passes)
    return found


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    two_epochs = [draw(0, rank), draw(1, rank)]
    model = DistributedDataParallel(make_model(seed=rank))  # which copies rank 0's weights
    train(model, model, rank)
    certificate = Certificate()
    found = {"equal": certificate.check(model, draw(0, rank)), "line": certificate.describe()}
    model.module[1].running_mean += rank
    found["buffers differ"] = check(model, two_epochs)
    found["no set_epoch"] = check(model, [draw(0, rank), draw(0, rank)])
    found["shard twice"] = check(model, [draw(0, 1 if rank == 3 else rank)])
    found["overlapping shards"] = check(model, [draw(0, 0)[:1] if rank == 1 else draw(0, rank)])
    found["data begins again within the epoch"] = check(
        model, [draw(0, rank) + draw(1, rank)], passes=2
    )

    alone = nn.Linear(8, 1, bias=False)
    nn.init.ones_(alone.weight)
    wrapped = DistributedDataParallel(alone)
    if rank == 2:
        train(alone, wrapped.module, rank)  # the fault: around the wrapper
    certificate = Certificate()
    found["trains alone"] = certificate.check(wrapped, draw(0, rank))
    found["faulty line"] = certificate.describe()

    found["sharded"] = check(fully_shard(make_model()), two_epochs)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shares"))
    found["two copies of two shares"] = check(fully_shard(make_model(), mesh=mesh), two_epochs)
    found["another seed, sharded"] = []
    try:
        compare_first_weights(make_model(seed=rank == 1))
    except RuntimeError as error:
        found["another seed, sharded"] = [str(error)]
    Path(sys.argv[2], f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
