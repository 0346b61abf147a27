"""Exercise 5: a trainer that is broken on purpose. It trains, and then the job fails.

It fits a small network to a sine curve with DistributedDataParallel: no data, a few seconds.
"""

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

EPOCHS, BATCH = 3, 64


def main():
    device = torch.device("cpu")
    if gpus := torch.cuda.device_count():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % gpus)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpus else "gloo", timeout=timedelta(seconds=60))
    rank, world_size = dist.get_rank(), dist.get_world_size()

    x = torch.linspace(-3, 3, 8192, device=device).unsqueeze(1)
    train_x, val_x = x[::2], x[1::2]
    torch.manual_seed(0)  # the same first weights on every rank
    layers = torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)
    model = DistributedDataParallel(torch.nn.Sequential(*layers).to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    for epoch in range(EPOCHS):
        shuffle = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(epoch))
        loss, rate = train_one_epoch(model, optimizer, train_x, shuffle[rank::world_size])
        if rank == 0:
            line = f"Epoch [{epoch + 1}/{EPOCHS}] LR: 0.010000 | Loss (train): {loss:.4f}"
            print(f"{line} | Throughput: {rate:.1f} samples/s", flush=True)

    if rank == 0:
        loss = validate(model.module, val_x[rank::world_size])
        print(f"Best validation loss: {loss:.4f}", flush=True)
    print(f"[rank {rank}] done", flush=True)
    dist.destroy_process_group()


def train_one_epoch(model, optimizer, x, order):
    """Train on this rank's share; returns the mean loss and samples/s of all ranks."""
    start, sums = time.perf_counter(), torch.zeros(2, device=x.device)
    for batch in order.to(x.device).split(BATCH):
        loss = mse_loss(model(x[batch]), x[batch].sin())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums += torch.stack([loss.detach() * len(batch), torch.ones_like(loss) * len(batch)])
    seconds = torch.tensor(time.perf_counter() - start, device=x.device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    dist.all_reduce(sums)
    return (sums[0] / sums[1]).item(), (sums[1] / seconds).item()


@torch.no_grad()
def validate(model, x):
    """Evaluate this rank's share; returns the mean loss over all ranks' samples."""
    sums = torch.stack([mse_loss(model(x), x.sin(), reduction="sum"), x.new_tensor(len(x))])
    dist.all_reduce(sums)
    return (sums[0] / sums[1]).item()


if __name__ == "__main__":
    main()
