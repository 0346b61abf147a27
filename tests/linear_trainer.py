"""A trainer of a reader's own around training.TrainingRun: a straight line, on any number of CPUs.

PYTHONPATH=scripts python tests/linear_trainer.py --workdir /tmp/line
"""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from training.arguments import TrainerParser, add_run_arguments
from training.batches import ResumableBatches, plan_batch
from training.device import choose_precision
from training.epoch import EpochResult
from training.launch import launch
from training.record import check_workdir
from training.run import TrainingRun


def main(args):
    x = torch.linspace(-1, 1, 256).unsqueeze(1)
    data = TensorDataset(x, 3 * x + 1)
    plan = plan_batch(args, samples=len(data))
    args.precision = choose_precision(args.precision)
    check_workdir(args.workdir)
    alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("gloo", **({} if "WORLD_SIZE" in os.environ else alone))
    sampler = DistributedSampler(data, drop_last=True)
    loader = DataLoader(data, batch_sampler=ResumableBatches(sampler, plan.per_gpu))
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), plan.lr)
    settings = {
        "workload": "line", "unit": "samples/s", "model": "linear", "optimizer": "SGD",
        "dataset": {"name": "line", "train": len(data), "val": len(data)}, **plan.describe(args),
    }  # fmt: skip
    run = TrainingRun(args, settings, torch.device("cpu"), Path(__file__), model, optimizer)
    for epoch in run.epochs():  # 1: those that are left
        sampler.set_epoch(epoch)
        sums = run.new_sums(2)  # losses and samples; a checkpoint keeps them
        for batches in run.steps(loader):  # 2: timed
            for points, targets in batches:
                loss = torch.nn.functional.mse_loss(model(points), targets)
                (loss / run.grad_accum_steps).backward()
                sums += torch.tensor([loss.item() * len(points), len(points)])
            optimizer.step()
            optimizer.zero_grad()
            run.end_step()  # 3: here a training is saved, and stopped
        total, slowest = sums.clone(), torch.tensor(run.stopwatch.seconds)
        dist.all_reduce(total)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        loss, count = total.tolist()
        with torch.no_grad():
            val_loss = torch.nn.functional.mse_loss(model.module(x), 3 * x + 1).item()
        figures = epoch, run.lr, loss / count, val_loss, int(count), slowest.item()
        result = EpochResult(*figures, has_perplexity=False)
        run.end_epoch(result, samples=int(sums[1]))  # 4: the line, the records, tracking
    run.finish()  # 5: the totals, RUN_COMPLETE.txt


if __name__ == "__main__":
    parser = TrainerParser(__doc__)
    add_run_arguments(parser, epochs=3, batch_size=16, lr=0.1, scaling="weak")
    launch(main, parser.parse_args())
