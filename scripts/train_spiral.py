"""Train a small MLP to tell spiral arms apart with DistributedDataParallel (DDP).

    python scripts/train_spiral.py                                      one process, 15 s
    torchrun --standalone --nproc-per-node=2 scripts/train_spiral.py    two, on this machine
    cd experiments/spiral/multi_gpu/4_gpus && sbatch multi_gpu.slurm    four, under Slurm

train.py's sibling: only the model, the data and the unit differ, a `diff` of the two shows it.
It needs no data set and learns the task at every scale. What it is for is its throughput: a step
computes next to nothing, so the ranks spend it on talking, and more GPUs hardly help. Not every
model is worth scaling.
"""

import itertools
import math
import os
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

from training.spiral.arguments import parse_args

if __name__ == "__main__":  # before PyTorch, which takes seconds to import: --help answers at once
    ARGS = parse_args(__doc__)

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset

from training import TrainingError
from training.batches import ResumableBatches, plan_batch, warm_up
from training.device import choose_precision
from training.epoch import EpochResult
from training.flops import count_flops
from training.launch import launch, leave_group
from training.record import check_workdir
from training.run import TrainingRun
from training.spiral.data import SpiralPoints, keep_batch, load_splits


def main(args) -> None:
    # What can be wrong is looked at before the ranks meet, so that nobody waits for anybody.
    train_set, val_set = load_data(args)
    plan = plan_batch(args, samples=len(train_set))
    args.precision = choose_precision(args.precision)
    check_workdir(args.workdir)

    device = init_distributed(args.timeout_s)
    train_loader, sampler, val_loader = build_loaders(args, plan, train_set, val_set, device)
    model, optimizer, scheduler, scaler = build_model(args, plan, train_set, device)
    settings = describe_run(args, plan, train_set, val_set)
    run = TrainingRun(args, settings, device, Path(__file__), model, optimizer, scheduler, scaler)

    for epoch in run.epochs():  # after a restart: those that are left
        sampler.set_epoch(epoch)  # a new shuffle, the same one on every rank
        train_sums = train_one_epoch(args, run, train_loader, model, optimizer, scheduler, scaler)
        run.measure_exposed_comm(  # outside the timed part, and nothing of it is kept
            lambda batch: forward_backward(args, run, model, scaler, *batch),
            model.no_sync,
        )
        val_sums = validate(args, run, val_loader, model)
        run.end_epoch(reduce_metrics(run, train_sums, val_sums), samples=int(train_sums[2]))

    run.finish()
    leave_group()


# ---- 1. Distributed Initialization ---------------------------------------------------------


def init_distributed(timeout_s: int) -> torch.device:
    """Join the process group and return this rank's device.

    torchrun tells each process who it is, RANK of WORLD_SIZE and LOCAL_RANK on its node, and where
    to meet, MASTER_ADDR and MASTER_PORT; plain `python` starts rank 0 of 1.
    """
    device, backend = torch.device("cpu"), "gloo"
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > gpus:
            raise TrainingError(f"more processes on this node than its {gpus} GPUs; ask for more")
        # A Slurm task may see its own GPU only, which is then number 0.
        local_rank = int(os.environ.get("LOCAL_RANK", 0)) if gpus > 1 else 0
        # NCCL links the GPUs; a few numbers, such as who got a signal, go between the CPUs.
        device, backend = torch.device("cuda", local_rank), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    where = {} if "WORLD_SIZE" in os.environ else alone
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **where)
    return device


# ---- 2. Model + AMP + DDP Wrapper ----------------------------------------------------------


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision: inside, convolutions and matrix products run in 16 bits."""
    dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def build_model(args, plan, train_set, device: torch.device):
    """Build the model in its DDP wrapper, the optimizer, the schedule and the gradient scaler."""
    torch.manual_seed(args.seed)  # the same initial weights on every rank
    widths = [2, *args.hidden_dims]  # a point has two coordinates
    pairs = itertools.pairwise(widths)
    hidden = [layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(widths[-1], args.arms)).to(device)
    args.flops_per_sample = count_flops(model, (2,))
    if args.compile:
        model.compile()
    # DDP copies rank 0's weights to all ranks now, and averages the gradients of all ranks during
    # every backward pass, in buckets, while the rest of the pass still runs.
    model = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # gradients live in the buckets: one copy less
    )
    # Adam's steps do not grow with the gradient, so one learning rate serves every global batch
    # from 32 to 256; only --lr-scaling changes it. fused: one pass over all the weights.
    optimizer = torch.optim.Adam(model.parameters(), plan.lr, fused=True)
    total_steps = plan.steps_per_epoch * args.epochs

    def lr_factor(step: int) -> float:
        half_turn = math.pi * min(1.0, step / total_steps)  # a cosine from 1 down to 1 %
        return warm_up(step, args.warmup_steps) * (0.505 + 0.495 * math.cos(half_turn))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    # fp16 has so few exponent bits that small gradients become 0: scale the loss up, and the
    # gradients down again before the step. bf16 and fp32 need no such help.
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
    return model, optimizer, scheduler, scaler


# ---- 3. Data Pipeline & DistributedSampler -------------------------------------------------


def load_data(args) -> tuple[SpiralPoints, SpiralPoints]:
    """Every rank makes the same points from the seed: 80 % to train on, 20 % to validate."""
    return load_splits(args.samples, args.arms, args.seed)


def build_loaders(args, plan, train_set, val_set, device: torch.device):
    """Split the data among the ranks and load it; returns (train loader, its sampler, val loader).

    A batch is points (B, 2) float32 and labels (B,) int64, where B is the batch *per GPU*.
    """
    # 120 kB: all of it lies on every device, and a batch is one indexed copy there. Loader
    # processes and copies from the CPU would take longer than the step itself.
    train_set, val_set = train_set.to(device), val_set.to(device)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    # Each rank draws its own 1/world_size of one common shuffle: no point is trained on twice in
    # an epoch. drop_last: all ranks take the same number of full batches, so none waits in vain.
    sampler = DistributedSampler(
        train_set, world_size, rank, shuffle=True, seed=args.seed, drop_last=True
    )
    # A DistributedSampler would pad the validation set to a multiple of world_size and so count
    # some points twice. Every world_size-th point is exact; some ranks may have one point less.
    val_part = Subset(val_set, range(rank, len(val_set), world_size))
    batches = ResumableBatches(sampler, plan.per_gpu)
    train_loader = DataLoader(train_set, batch_sampler=batches, collate_fn=keep_batch)
    val_loader = DataLoader(val_part, batch_size=plan.per_gpu, collate_fn=keep_batch)
    return train_loader, sampler, val_loader


# ---- 4. Training Loop ----------------------------------------------------------------------


def train_one_epoch(args, run, loader, model, optimizer, scheduler, scaler) -> torch.Tensor:
    """Train on the epoch's batches; returns this rank's [loss, correct, samples]."""
    model.train()
    sums = run.new_sums(3)
    for micro_batches in run.steps(loader, args.limit_batches):
        for number, (points, labels) in enumerate(micro_batches, start=1):
            # The gradients of a step's passes add up; only the last pass averages over the ranks.
            with nullcontext() if number == run.grad_accum_steps else model.no_sync():
                loss, logits = forward_backward(args, run, model, scaler, points, labels)
            run.mark("compute")
            # No .item() here: it would make the CPU wait for the GPU in every step.
            sums += count_batch(logits, labels, loss * len(labels))

        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        run.mark("optimizer")
        run.end_step()  # here a training can be saved and cut off
    return sums


def forward_backward(args, run, model, scaler, points, labels):
    """Add one pass to the gradients; returns its mean loss and logits (B, classes)."""
    with autocast(run.device, args.precision):
        logits = model(points)
        loss = cross_entropy(logits, labels)
    scaler.scale(loss / run.grad_accum_steps).backward()  # DDP's all-reduce happens in here
    return loss.detach(), logits.detach()


def count_batch(logits: torch.Tensor, labels: torch.Tensor, loss_sum: torch.Tensor) -> torch.Tensor:
    """Return [sum of losses, correct predictions, samples] of one batch as float64."""
    correct = (logits.argmax(dim=1) == labels).sum()
    samples = torch.full_like(loss_sum, len(labels))  # made on the device, unlike torch.tensor()
    return torch.stack([loss_sum.double(), correct.double(), samples.double()])


# ---- 5. Validation Loop --------------------------------------------------------------------


@torch.inference_mode()
def validate(args, run, loader, model) -> torch.Tensor:
    """Evaluate this rank's part of the validation set; returns its [loss, correct, samples]."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=run.device)
    for points, labels in itertools.islice(loader, args.limit_batches):
        with autocast(run.device, args.precision):
            # .module: without the DDP wrapper, since ranks may have different numbers of batches.
            logits = model.module(points)
            loss_sum = cross_entropy(logits, labels, reduction="sum")
        sums += count_batch(logits, labels, loss_sum)
    return sums


# ---- 6. Metrics & Logging ------------------------------------------------------------------


def reduce_metrics(run, train_sums: torch.Tensor, val_sums: torch.Tensor) -> EpochResult:
    """Combine all ranks' sums: the log's figures are those of the whole job, not of rank 0."""
    sums = torch.cat([train_sums, val_sums])
    dist.all_reduce(sums, op=dist.ReduceOp.SUM)
    # The job is as fast as its slowest rank.
    slowest = torch.tensor(run.stopwatch.seconds, dtype=torch.float64, device=sums.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)

    loss, correct, samples, val_loss, val_correct, val_samples = sums.tolist()
    return EpochResult(
        epoch=run.epoch,
        lr=run.lr,
        train_loss=loss / samples,
        train_accuracy=correct / samples,
        val_loss=val_loss / val_samples,
        val_accuracy=val_correct / val_samples,
        samples=int(samples),
        slowest_s=slowest.item(),
    )


def describe_run(args, plan, train_set, val_set) -> dict:
    """What run.json says of the settings: runs that differ in these are not compared."""
    sizes = {"classes": args.arms, "train": len(train_set), "val": len(val_set)}
    return {
        "workload": "spiral",
        "unit": "samples/s",
        "model": f"MLP {args.hidden_dims}",
        "flops_per_sample": args.flops_per_sample,
        "strategy": "ddp",
        "optimizer": "Adam",
        **plan.describe(args),
        "dataset": {"name": "spiral", **sizes},
    }


if __name__ == "__main__":
    launch(main, ARGS)
