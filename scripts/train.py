"""Train ResNet-50 on TinyImageNet with DistributedDataParallel (DDP): one process per GPU.

    python scripts/train.py --data-dir DIR                                      one process
    torchrun --standalone --nproc-per-node=2 scripts/train.py --data-dir DIR    two, on this machine
    cd experiments/multi_gpu/4_gpus && sbatch multi_gpu.slurm                   four, under Slurm

Every process (a "rank") runs this same file, holds a full copy of the model and trains on its own
part of the data. After each backward pass the ranks average their gradients, so all copies take
the same step and stay equal. Without a GPU the ranks are CPU processes that talk through gloo.

Read it from top to bottom: main() is the story, the numbered sections below are its chapters.
"""

import os
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path

from training.images.arguments import parse_args

if __name__ == "__main__":  # before PyTorch, which takes seconds to import: --help answers at once
    ARGS = parse_args(__doc__)

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from training import TrainingError
from training.batches import ResumableBatches, plan_batch, warm_up
from training.device import choose_precision
from training.epoch import EpochResult
from training.flops import count_flops
from training.images.augment import AugmentedImages, PlainImages, normalize_pixels
from training.images.batch_loader import BatchLoader
from training.images.cached import DeviceImages
from training.images.model import check_cuda_graph, graph_passes, share_buffers
from training.images.pixel_cache import decode_once
from training.images.tinyimagenet import load_splits
from training.launch import launch, leave_group
from training.record import check_workdir
from training.run import TrainingRun


def main(args) -> None:
    # What can be wrong is looked at before the ranks meet, so that nobody waits for anybody.
    check_cuda_graph(args)
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
        train_set.set_epoch(epoch)  # new crops
        train_sums = train_one_epoch(args, run, train_loader, model, optimizer, scheduler, scaler)
        run.measure_exposed_comm(  # outside the timed part, and nothing of it is kept
            lambda batch: forward_backward(args, run, model, scaler, *to_device(batch, device)),
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
    import torchvision  # here: it takes as long to import as PyTorch itself

    torch.manual_seed(args.seed)  # the same initial weights on every rank
    model = torchvision.models.get_model(args.model, num_classes=len(train_set.classes))
    args.flops_per_sample = count_flops(model, (3, args.image_size, args.image_size))
    # Channels last is the layout that GPUs convolve fastest.
    model = model.to(device, memory_format=torch.channels_last)
    if args.compile:
        model.compile()
    if args.cuda_graph:  # one launch a pass: pays while the GPU waits for Python
        model = graph_passes(model, plan.per_gpu, args.image_size, autocast(device, args.precision))
    # DDP copies rank 0's weights to all ranks now, and averages the gradients of all ranks during
    # every backward pass, in buckets, while the rest of the pass still runs.
    model = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # gradients live in the buckets: one copy less
    )
    # fused: one pass over the weights instead of one for each operation of the step
    options = {"weight_decay": args.weight_decay, "fused": True}
    optimizer = torch.optim.SGD(model.parameters(), plan.lr, args.momentum, **options)

    def lr_factor(step: int) -> float:
        decay = args.gamma ** (step // plan.steps_per_epoch // args.step_size)
        return warm_up(step, args.warmup_steps) * decay

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    # fp16 has so few exponent bits that small gradients become 0: scale the loss up, and the
    # gradients down again before the step. bf16 and fp32 need no such help.
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
    return model, optimizer, scheduler, scaler


# ---- 3. Data Pipeline & DistributedSampler -------------------------------------------------


def load_data(args):
    """Training images are cropped and mirrored at random, validation images are left alone."""
    train_images, val_images = load_splits(args.data_dir)
    train_set = AugmentedImages(train_images, args.image_size, flip=args.flip, seed=args.seed)
    val_set = PlainImages(val_images, args.image_size)
    if args.input == "jpeg":
        return train_set, val_set
    # Decoded once per node: from then on a batch is one copy.
    return decode_once(train_set, "train", args), decode_once(val_set, "val", args)


def build_loaders(args, plan, train_set, val_set, device: torch.device):
    """Split the data among the ranks and load it; returns (train loader, its sampler, val loader).

    A batch is images (B, 3, S, S) uint8 and labels (B,) int64, where B is the batch *per GPU*.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    # Each rank draws its own 1/world_size of one common shuffle: no image is trained on twice in
    # an epoch. drop_last: all ranks take the same number of full batches, so none waits in vain.
    sampler = DistributedSampler(train_set, world_size, rank, seed=args.seed, drop_last=True)
    batches = ResumableBatches(sampler, plan.per_gpu)
    # A DistributedSampler would pad the validation set to a multiple of world_size and so count
    # some images twice. Every world_size-th image is exact; some ranks may have one image less.
    val_batches = BatchSampler(range(rank, len(val_set), world_size), plan.per_gpu, drop_last=False)
    if args.input == "jpeg":  # processes decode image after image, and live on between epochs
        workers = {"num_workers": args.num_workers, "persistent_workers": args.num_workers > 0}
        load = partial(DataLoader, **workers)
    else:  # a thread copies whole batches, two ahead of the step
        load = BatchLoader
    if args.input == "device":  # all images are on the GPU, and so are the batches
        train_set, val_set = DeviceImages(train_set, device), DeviceImages(val_set, device)
    # Pinned memory lets the copy of a batch to the GPU run behind the computing.
    pin = device.type == "cuda" and args.input != "device"
    train_loader = load(train_set, batch_sampler=batches, pin_memory=pin)
    return train_loader, sampler, load(val_set, batch_sampler=val_batches, pin_memory=pin)


def to_device(batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy a batch to the device and bring its pixels from 0..255 to mean 0 and deviation 1."""
    images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
    return normalize_pixels(images), labels


# ---- 4. Training Loop ----------------------------------------------------------------------


def train_one_epoch(args, run, loader, model, optimizer, scheduler, scaler) -> torch.Tensor:
    """Train on the epoch's batches; returns this rank's [loss, correct, samples]."""
    model.train()
    sums = run.new_sums(3)
    for micro_batches in run.steps(loader, args.limit_batches):
        for number, batch in enumerate(micro_batches, start=1):
            images, labels = to_device(batch, run.device)
            run.mark("copy")
            # The gradients of a step's passes add up; only the last pass averages over the ranks.
            with nullcontext() if number == run.grad_accum_steps else model.no_sync():
                loss, logits = forward_backward(args, run, model, scaler, images, labels)
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


def forward_backward(args, run, model, scaler, images, labels):
    """Add one pass to the gradients; returns its mean loss and logits (B, classes)."""
    with autocast(run.device, args.precision):
        logits = model(images)
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
    share_buffers(model)  # BatchNorm's statistics differ between ranks: take rank 0's
    sums = torch.zeros(3, dtype=torch.float64, device=run.device)
    for batch in islice(loader, args.limit_batches):
        images, labels = to_device(batch, run.device)
        with autocast(run.device, args.precision):
            # .module: without the DDP wrapper, since ranks may have different numbers of batches.
            logits = model.module(images)
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


SETTINGS = ("model", "image_size", "input", "cuda_graph", "flops_per_sample")


def describe_run(args, plan, train_set, val_set) -> dict:
    """What run.json says of the settings: runs that differ in these are not compared."""
    sizes = {"classes": len(train_set.classes), "train": len(train_set), "val": len(val_set)}
    return {
        "workload": "tinyimagenet",
        "unit": "img/s",
        **{key: vars(args)[key] for key in SETTINGS},
        "strategy": "ddp",
        "optimizer": "SGD",
        **plan.describe(args),
        "dataset": {"name": Path(args.data_dir).resolve().name, **sizes},
    }


if __name__ == "__main__":
    launch(main, ARGS)
