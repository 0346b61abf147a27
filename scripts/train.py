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
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
import torchvision
import torchvision.transforms as T
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset
from training.arguments import TrainerParser, add_run_arguments, not_negative, positive
from training.errors import TrainingError
from training.launch import run
from training.record import EpochResult, RunRecord, check_workdir
from training.stopwatch import Stopwatch
from training.tinyimagenet import load_splits


def main() -> None:
    args = parse_args()
    # What can be wrong is looked at before the ranks meet, so that nobody waits for anybody.
    train_set, val_set = load_splits(args.data_dir, *build_transforms(args.image_size, args.flip))

    check_batch_size(args.batch_size, len(train_set))
    if os.environ.get("RANK", "0") == "0":
        check_workdir(args.workdir)
    precision = choose_precision(args.precision)

    device = init_distributed(args.timeout_s)
    train_loader, train_sampler, val_loader = build_loaders(args, train_set, val_set, device)
    classes = len(train_set.classes)
    model, optimizer, scheduler, scaler = build_model(args, classes, device, precision)
    settings = describe_run(args, precision, train_set, val_set)
    record = RunRecord(args.workdir, settings, device, trainer=Path(__file__))

    for epoch in range(args.epochs):
        train_sampler.set_epoch(epoch)  # a new shuffle, the same one on every rank
        lr = scheduler.get_last_lr()[0]
        with Stopwatch(device) as stopwatch:
            batches = stopwatch.watch(islice(train_loader, args.limit_batches))
            train_sums = train_one_epoch(model, batches, optimizer, scaler, device, precision)
        val_sums = validate(model, islice(val_loader, args.limit_batches), device, precision)
        result = reduce_metrics(epoch, lr, train_sums, val_sums, stopwatch.seconds)
        record.add_epoch(result, stopwatch, samples=int(train_sums[2]))
        scheduler.step()

    record.finish()
    dist.destroy_process_group()


# ---- 1. Distributed Initialization ---------------------------------------------------------


def init_distributed(timeout_s: int) -> torch.device:
    """Join the process group and return this rank's device.

    torchrun tells each process who it is, RANK of WORLD_SIZE and LOCAL_RANK on its node, and where
    to meet, MASTER_ADDR and MASTER_PORT; plain `python` starts rank 0 of 1. NCCL links GPUs.
    """
    device, backend = torch.device("cpu"), "gloo"
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > gpus:
            raise TrainingError(f"more processes on this node than its {gpus} GPUs; ask for more")
        # A Slurm task may see its own GPU only, which is then number 0.
        local_rank = int(os.environ.get("LOCAL_RANK", 0)) if gpus > 1 else 0
        device, backend = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)
    alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    where = {} if "WORLD_SIZE" in os.environ else alone
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **where)
    return device


# ---- 2. Model + AMP + DDP Wrapper ----------------------------------------------------------


def choose_precision(asked: str | None) -> str:
    """Default to fp16 on a GPU (every GPU since Volta has units for it) and fp32 on a CPU."""
    if asked == "fp16" and not torch.cuda.is_available():
        raise TrainingError("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return asked or ("fp16" if torch.cuda.is_available() else "fp32")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision: inside, convolutions and matrix products run in 16 bits."""
    dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def build_model(args, num_classes: int, device: torch.device, precision: str):
    """Build the model in its DDP wrapper, the optimizer, the schedule and the gradient scaler."""
    torch.manual_seed(args.seed)  # the same initial weights on every rank
    model = torchvision.models.get_model(args.model, weights=None, num_classes=num_classes)
    model = model.to(device, memory_format=torch.channels_last)
    # DDP copies rank 0's weights to all ranks now, and averages the gradients of all ranks during
    # every backward pass, in buckets, while the rest of the pass still runs.
    model = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # gradients live in the buckets: one copy less
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, args.step_size, args.gamma)
    # fp16 has so few exponent bits that small gradients become 0: scale the loss up, and the
    # gradients down again before the step. bf16 and fp32 need no such help.
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return model, optimizer, scheduler, scaler


# ---- 3. Data Pipeline & DistributedSampler -------------------------------------------------


def build_transforms(image_size: int, flip: bool) -> tuple[T.Compose, T.Compose]:
    """Training images are cropped and mirrored at random, validation images are left alone."""
    to_tensor = [
        T.PILToTensor(),
        T.ConvertImageDtype(torch.float32),
        T.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),  # ImageNet's
    ]
    train = [
        T.Resize(image_size),
        T.RandomCrop(image_size, padding=image_size // 8, padding_mode="reflect"),
        T.RandomHorizontalFlip(p=0.5 if flip else 0.0),
        *to_tensor,
    ]
    return T.Compose(train), T.Compose([T.Resize(image_size), *to_tensor])


def check_batch_size(batch_size: int, images: int) -> None:
    """Refuse a batch so large that some rank would have none."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if images // world_size < batch_size:
        raise TrainingError(
            f"{images} training images are less than {world_size} ranks x {batch_size}; lower "
            "--batch-size or use more images"
        )


def build_loaders(args, train_set, val_set, device: torch.device):
    """Split the data among the ranks and load it; returns (train loader, its sampler, val loader).

    A batch is images (B, 3, S, S) float32 and labels (B,) int64, where B is the batch *per GPU*.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    # Each rank draws its own 1/world_size of one common shuffle: no image is trained on twice in
    # an epoch. drop_last: all ranks take the same number of full batches, so none waits in vain.
    sampler = DistributedSampler(
        train_set, world_size, rank, shuffle=True, seed=args.seed, drop_last=True
    )
    # A DistributedSampler would pad the validation set to a multiple of world_size and so count
    # some images twice. Every world_size-th image is exact; some ranks may have one image less.
    val_part = Subset(val_set, range(rank, len(val_set), world_size))
    options = {
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "persistent_workers": args.num_workers > 0,  # do not start them again every epoch
        "pin_memory": device.type == "cuda",  # lets copies to the GPU run behind the computing
        "generator": torch.Generator().manual_seed(args.seed + rank),  # crops and flips differ
    }
    train_loader = DataLoader(train_set, sampler=sampler, drop_last=True, **options)
    return train_loader, sampler, DataLoader(val_part, **options)


# ---- 4. Training Loop ----------------------------------------------------------------------


def train_one_epoch(model, batches, optimizer, scaler, device, precision) -> torch.Tensor:
    """Train on `batches` of (images, labels); returns this rank's [loss, correct, samples]."""
    model.train()
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for images, labels in batches:
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(device, non_blocking=True)

        with autocast(device, precision):
            logits = model(images)
            loss = cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # DDP's all-reduce of the gradients happens in here
        scaler.step(optimizer)
        scaler.update()

        # No .item() here: it would make the CPU wait for the GPU in every step.
        sums += count_batch(logits.detach(), labels, loss.detach() * len(labels))
    return sums


def count_batch(logits: torch.Tensor, labels: torch.Tensor, loss_sum: torch.Tensor) -> torch.Tensor:
    """Return [sum of losses, correct predictions, samples] of one batch as float64."""
    correct = (logits.argmax(dim=1) == labels).sum()
    samples = torch.full_like(loss_sum, len(labels))  # made on the device, unlike torch.tensor()
    return torch.stack([loss_sum.double(), correct.double(), samples.double()])


# ---- 5. Validation Loop --------------------------------------------------------------------


@torch.inference_mode()
def validate(model, batches, device, precision) -> torch.Tensor:
    """Evaluate this rank's part of the validation set; returns its [loss, correct, samples]."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for images, labels in batches:
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        with autocast(device, precision):
            # .module: without the DDP wrapper, since ranks may have different numbers of batches.
            logits = model.module(images)
            loss_sum = cross_entropy(logits, labels, reduction="sum")
        sums += count_batch(logits, labels, loss_sum)
    return sums


# ---- 6. Metrics & Logging ------------------------------------------------------------------


def reduce_metrics(epoch, lr, train_sums, val_sums, train_s: float) -> EpochResult:
    """Combine all ranks' sums: the log's figures are those of the whole job, not of rank 0."""
    sums = torch.cat([train_sums, val_sums])
    dist.all_reduce(sums, op=dist.ReduceOp.SUM)
    # The job is as fast as its slowest rank.
    slowest = torch.tensor(train_s, dtype=torch.float64, device=sums.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)

    loss, correct, samples, val_loss, val_correct, val_samples = sums.tolist()
    return EpochResult(
        epoch=epoch,
        lr=lr,
        train_loss=loss / samples,
        train_accuracy=correct / samples,
        val_loss=val_loss / val_samples,
        val_accuracy=val_correct / val_samples,
        samples=int(samples),
        slowest_s=slowest.item(),
    )


def describe_run(args, precision: str, train_set, val_set) -> dict:
    """What run.json says of the settings: runs that differ in these are not compared."""
    sizes = {"classes": len(train_set.classes), "train": len(train_set), "val": len(val_set)}
    kept = ("model", "image_size", "epochs", "lr", "seed", "num_workers", "limit_batches")
    return {
        "workload": "tinyimagenet",
        "unit": "img/s",
        **{name: getattr(args, name) for name in kept},
        "precision": precision,
        "strategy": "ddp",
        "optimizer": "SGD",
        "scaling": "weak",  # the batch per GPU is fixed, the global batch grows with the ranks
        "batch_size_per_gpu": args.batch_size,
        "global_batch_size": args.batch_size * dist.get_world_size(),
        "grad_accum_steps": 1,
        "dataset": {"name": Path(args.data_dir).resolve().name, **sizes},
    }


# ---- Arguments -----------------------------------------------------------------------------


def parse_args():
    parser = TrainerParser(__doc__)
    add_run_arguments(parser, epochs=3, batch_size=512, lr=0.001)
    add = parser.add_argument
    data_dir = os.environ.get("DATA_DIR")
    add("--data-dir", default=data_dir, help="TinyImageNet folder (default: $DATA_DIR)")
    add("--model", default="resnet50", help="a torchvision model (default: resnet50)")
    add("--image-size", type=positive(int), default=64, help="pixels a side (default: 64)")
    add("--no-flip", action="store_false", dest="flip", help="never mirror images (for digits)")
    add("--momentum", type=not_negative(float), default=0.9, help="of SGD (default: 0.9)")
    add("--weight-decay", type=not_negative(float), default=1e-4, help="of SGD (default: 0.0001)")
    add("--step-size", type=positive(int), default=30, help="epochs per LR step (default: 30)")
    add("--gamma", type=positive(float), default=0.1, help="LR factor of a step (default: 0.1)")
    args = parser.parse_args()
    if not args.data_dir:
        parser.error("no data: pass --data-dir DIR or set DATA_DIR")
    if args.model not in torchvision.models.list_models(module=torchvision.models):
        parser.error(f"torchvision has no classification model {args.model!r}")
    return args


if __name__ == "__main__":
    run(main)
