"""ResNet-50 images a CPU second: train.py against torchvision's and timm's loops, and its own step.

    python tests/benchmarks/trainer.py     # the bars are 1.6, 1.15 and 0.90; about four minutes

64 x 64 pixels, batch 32, one thread, loading included; each in a process of its own, a few steps
in turn:
- ours: train.py with --precision bf16 and the decoded cache, its clock and records included;
- torchvision: the recipe of its classification references: their transforms in a DataLoader, fp32,
  channels first, SGD with momentum, loss and accuracy read in every step;
- timm: its own loader, model and optimizer in the loop of its train.py, at its best flags here
  (--channels-last --amp --amp-dtype bfloat16), and once more without the colour jitter that it has
  by default and we have not;
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
    report,
    run_interleaved,
    serve,
)
from own_trainer import OwnTrainer
from sample_images import CLASSES, DEVIATION, MEAN, reference_loader, sample_images
from torch.nn.functional import cross_entropy

from training.allocator import keep_freed_memory

STEPS = 3  # before it is another's turn
ROWS = (
    ("4", ">= 1.6", "ours", "torchvision"),
    ("4", ">= 1.15", "ours", "timm"),
    ("4", ">= 1.15", "ours", "timm without jitter"),
    ("5", ">= 0.90", "ours", "bare step"),
)


def main() -> None:
    options = parse_options(
        __doc__.splitlines()[0], rounds=7, worker={"help": "one of the four (for itself)"},
        data={"type": Path, "help": "its images (for itself)"},
    )  # fmt: skip
    batch, steps = (4, 1) if options.quick else (32, STEPS)
    torch.set_num_threads(1)
    if options.worker:
        return serve_one(options.worker, options.data, batch, steps)
    # The tests, in a hurry, install nothing.
    names = [name for name in CASES if not (options.quick and "timm" in name)]
    if "timm" in names:
        add_peer("timm", "timm", "safetensors", alone=True)
    with sample_images(2 if options.quick else 20) as data_dir:
        quick = ["--quick"] * options.quick
        workers = {name: Worker(__file__, name, "--data", data_dir, *quick) for name in names}
        cases = {name: worker.run for name, worker in workers.items()}
        found = by_clock(run_interleaved(cases, options.rounds), "cpu_s")
        for worker in workers.values():
            worker.close()
    rows = [compare(*row, found, batch * steps) for row in ROWS if row[3] in found]
    packages = ("torch", "torchvision", "pillow", "timm")
    report("trainer", rows, describe_machine(*packages[: 3 + ("timm" in found)]), options.out)
    return None


def serve_one(name: str, data_dir: Path, batch: int, steps: int) -> None:
    """Be the process of one case."""
    if name != "ours":
        work = CASES[name](data_dir, batch, steps)
        return serve(lambda: next(work))
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):
            words = (f"--batch-size={batch}", "--precision=bf16")
            ours = OwnTrainer(Path(folder), data_dir, steps, *words)
        serve(ours.train)
        ours.close()
    return None


def compare(number: str, bar: str, ours: str, theirs: str, found: dict, images: int) -> dict:
    """A row: how many times as many images a CPU second."""
    ratios = [b / a for a, b in zip(found[ours], found[theirs], strict=True)]
    rates = {name: [images / each for each in found[name]] for name in (ours, theirs)}
    middle = {name: sorted(each)[len(each) // 2] for name, each in rates.items()}
    name = f"ResNet-50, {ours} against {theirs}"
    return judge(number, name, bar, ratios) | {"images_per_cpu_s": middle}


def train_torchvision(data_dir: Path, batch: int, steps: int):
    """train_one_epoch of torchvision's references, its figures for the log included."""
    model = torchvision.models.resnet50(num_classes=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    criterion, log = torch.nn.CrossEntropyLoss(), []
    model.train()
    number = 0
    while True:
        for images, labels in reference_loader(data_dir, batch):
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


def train_timm(data_dir: Path, batch: int, steps: int, color_jitter: float | None = 0.4):
    """timm's train.py with --channels-last --amp --amp-dtype bfloat16, from timm's own parts."""
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
            with torch.autocast("cpu", torch.bfloat16):
                loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), len(images))
            number += 1
            if number % steps == 0:
                yield


def step_barely(_data_dir: Path, batch: int, steps: int):
    """The same arithmetic on a batch that is there: what no loader and no record could beat."""
    keep_freed_memory()
    model = torchvision.models.resnet50(num_classes=CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, fused=True)
    images = torch.randn(batch, 3, 64, 64).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,))
    model.train()
    while True:
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16):
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
