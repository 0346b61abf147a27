"""ResNet-50 images per CPU second: train.py against torchvision, timm and its own bare step.

    python tests/benchmarks/trainer.py     # about four minutes per precision

64 x 64 pixels, batch 32, one thread, loading included; each in a process of its own, a few steps
in turn, and the same precision on both sides: fp32, and bf16 where the CPU computes it (its flags
stand below the table).
- ours: train.py with the decoded cache, its clock and records included;
- torchvision: the recipe of its classification references: their transforms in a DataLoader,
  channels first, SGD with momentum, loss and accuracy read in every step; in bf16 with its --amp;
- timm: its own loader, model and optimizer in the loop of its train.py with --channels-last, in
  bf16 with --amp --amp-dtype bfloat16; and once more without the colour jitter that it has by
  default and we have not;
- bare step: our model and optimizer on one batch that is there already, with nothing around, and
  the same allocator.
"""

import os
import sys
import tempfile
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
import torchvision
from measure import (
    Worker,
    add_peer,
    by_clock,
    describe_machine,
    judge,
    parse_options,
    read_cpu_flags,
    report,
    run_interleaved,
    serve,
)
from own_trainer import OwnTrainer
from sample_images import CLASSES, DEVIATION, MEAN, reference_loader, sample_images
from torch.nn.functional import cross_entropy

from training.device import keep_freed_memory

STEPS = 3  # before it is another's turn
ROWS = (
    ("4", ">= 1.1", "torchvision"),
    ("4", ">= 1.05", "timm"),
    ("4", ">= 1.05", "timm without jitter"),
    ("5", ">= 0.90", "bare step"),
)
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}  # without one of them bf16 is emulated, slower than fp32


def main() -> None:
    options = parse_options(
        __doc__.splitlines()[0], rounds=7, worker={"help": "one of the four (for itself)"},
        data={"type": Path, "help": "its images (for itself)"},
        precision={"choices": ("fp32", "bf16"), "help": "this one alone (default: fp32, and bf16 "
                   "where the CPU computes it)"},
    )  # fmt: skip
    batch, steps = (4, 1) if options.quick else (32, STEPS)
    torch.set_num_threads(1)
    if options.worker:
        return serve_one(options.worker, options.data, batch, steps, options.precision)
    # The tests, in a hurry, install nothing.
    names = [name for name in CASES if not (options.quick and "timm" in name)]
    if "timm" in names:
        add_peer("timm", "timm", "safetensors", alone=True)
    precisions = [options.precision] if options.precision else ["fp32"]
    if not options.precision and not options.quick and BF16_FLAGS & read_cpu_flags():
        precisions.append("bf16")
    rows = []
    with sample_images(2 if options.quick else 20) as data_dir:
        for precision in precisions:
            quick = ["--quick"] * options.quick + ["--precision", precision]
            workers = {name: Worker(__file__, name, "--data", data_dir, *quick) for name in names}
            cases = {name: worker.run for name, worker in workers.items()}
            found = by_clock(run_interleaved(cases, options.rounds), "cpu_s")
            for worker in workers.values():
                worker.close()
            rows += [compare(*row, precision, found, batch * steps) for row in ROWS
                     if row[2] in found]  # fmt: skip
    packages = ("torch", "torchvision", "pillow", "timm")
    machine = describe_machine(*packages[: 3 + ("timm" in names)])
    report("trainer", rows, machine, options.out)
    return None


def serve_one(name: str, data_dir: Path, batch: int, steps: int, precision: str) -> None:
    """Be the process of one case."""
    if name != "ours":
        work = CASES[name](data_dir, batch, steps, autocast(precision))
        return serve(lambda: next(work))
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):
            words = (f"--batch-size={batch}", f"--precision={precision}")
            ours = OwnTrainer(Path(folder), data_dir, steps, *words)
        serve(ours.train)
        ours.close()
    return None


def autocast(precision: str) -> torch.autocast:
    """What --amp switches on."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def compare(number: str, bar: str, peer: str, precision: str, found: dict, images: int) -> dict:
    """A row: how many times as many images per CPU second."""
    ratios = [b / a for a, b in zip(found["ours"], found[peer], strict=True)]
    rates = {name: [images / each for each in found[name]] for name in ("ours", peer)}
    middle = {name: sorted(each)[len(each) // 2] for name, each in rates.items()}
    name = f"ResNet-50, {precision}, ours against {peer}"
    return judge(number, name, bar, ratios) | {"images_per_cpu_s": middle}


def train_torchvision(data_dir: Path, batch: int, steps: int, amp: torch.autocast):
    """train_one_epoch of torchvision's references, its figures for the log included."""
    model = torchvision.models.resnet50(num_classes=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    criterion, log = torch.nn.CrossEntropyLoss(), []
    model.train()
    number = 0
    while True:
        for images, labels in reference_loader(data_dir, batch):
            with amp:
                output = model(images)
                loss = criterion(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            _, best = output.topk(5, 1)
            right = best.t() == labels[None]
            log.append([loss.item(), right[:1].sum().item(), right.flatten().sum().item()])
            number += 1
            if number % steps == 0:
                yield


def train_timm(
    data_dir: Path, batch: int, steps: int, amp: torch.autocast, color_jitter: float | None = 0.4
):
    """timm's train.py with --channels-last (and --amp --amp-dtype bfloat16), from its own parts."""
    add_peer("timm", "timm", "safetensors", alone=True)
    from timm import create_model
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    model = create_model("resnet50", num_classes=CLASSES)
    model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, momentum=0.9, weight_decay=2e-5)
    dataset = create_dataset("", root=str(data_dir), split="train", is_training=True)
    loader = create_loader(
        dataset, (3, 64, 64), batch, is_training=True, color_jitter=color_jitter,
        interpolation="random", num_workers=0, persistent_workers=False,
        device=torch.device("cpu"), mean=MEAN, std=DEVIATION,
    )  # fmt: skip
    criterion = LabelSmoothingCrossEntropy(0.1)
    losses = AverageMeter()
    model.train()
    number = 0
    while True:
        for images, labels in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            with amp:
                loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), len(images))
            number += 1
            if number % steps == 0:
                yield


def step_barely(_data_dir: Path, batch: int, steps: int, amp: torch.autocast):
    """The same arithmetic on a batch that is there: what no loader and no record could beat."""
    keep_freed_memory()
    model = torchvision.models.resnet50(num_classes=CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, fused=True)
    images = torch.randn(batch, 3, 64, 64).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,))
    model.train()
    while True:
        for _ in range(steps):
            with amp:
                loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield


CASES = {
    "ours": None,
    "torchvision": train_torchvision,
    "timm": train_timm,
    "timm without jitter": partial(train_timm, color_jitter=None),
    "bare step": step_barely,
}

if __name__ == "__main__":
    main()
