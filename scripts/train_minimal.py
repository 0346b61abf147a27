"""The loop that a first DDP tutorial teaches, whole: copy it, and compare it with train.py.

    torchrun --standalone --nproc-per-node=2 scripts/train_minimal.py --data-dir DIR

It imports nothing of this repository, decodes the JPEGs in every epoch, computes in fp32, and
waits for the GPU (.item()) in every step. The log's figures are of all ranks together.
"""

import argparse
import os
import time
from pathlib import Path

if __name__ == "__main__":  # before PyTorch, which takes seconds to import: --help answers at once
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("DATA_DIR", "."))
    parser.add_argument("--model", default="resnet50", help="of torchvision")
    parser.add_argument("--no-flip", action="store_true", help="never mirror images")
    defaults = {"image-size": 64, "epochs": 3, "batch-size": 512, "lr": 0.001, "num-workers": 4}
    for name, default in defaults.items():  # batch size and workers are per GPU
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset
from torchvision import datasets, models, transforms


def main(args):
    gpus = torch.cuda.device_count()
    device = torch.device(f"cuda:{int(os.environ['LOCAL_RANK']) % gpus}" if gpus else "cpu")
    if gpus:
        torch.cuda.set_device(device)  # one process, one GPU
    dist.init_process_group("nccl" if gpus else "gloo")
    train_set, val_set = load_images(args.data_dir, args.image_size, not args.no_flip)
    sampler = DistributedSampler(train_set, drop_last=True)
    val_part = Subset(val_set, range(dist.get_rank(), len(val_set), dist.get_world_size()))
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    train_loader = DataLoader(train_set, sampler=sampler, drop_last=True, **options)
    val_loader = DataLoader(val_part, **options)
    model = models.get_model(args.model, num_classes=len(train_set.classes))
    model = DistributedDataParallel(model.to(device))  # takes over rank 0's first weights
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    began, results = time.perf_counter(), []
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)  # another shuffle
        loss, accuracy, throughput = run_epoch(model.train(), train_loader, device, optimizer)
        val_loss, val_accuracy, _ = run_epoch(model.module.eval(), val_loader, device)
        results.append((val_loss, val_accuracy))
        line = f"Epoch [{epoch + 1}/{args.epochs}] LR: {args.lr:.6f} | Loss (train, val): "
        line += f"{loss:.3f}, {val_loss:.3f} | Accuracy (train, val): {accuracy:.2%}, "
        if dist.get_rank() == 0:
            print(f"{line}{val_accuracy:.2%} | Throughput: {throughput:.1f} img/s", flush=True)
    if dist.get_rank() == 0:
        print(f"Total training time: {time.perf_counter() - began:.1f} s")
        print(f"Best validation loss: {min(loss for loss, _ in results):.3f}")
        print(f"Best validation accuracy: {max(accuracy for _, accuracy in results):.2%}")
    dist.destroy_process_group()


def run_epoch(model, loader, device, optimizer=None):
    """Train, or validate without an optimizer; returns loss, accuracy and images/s of all ranks."""
    start, sums = time.perf_counter(), torch.zeros(3, dtype=torch.float64, device=device)
    torch.set_grad_enabled(optimizer is not None)
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss = cross_entropy(logits, labels)
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        correct, count = (logits.argmax(1) == labels).sum().item(), len(labels)
        sums += torch.tensor([loss.item() * count, correct, count], device=device)
    seconds = torch.tensor(time.perf_counter() - start, device=device)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)  # the job is as fast as its slowest rank
    dist.all_reduce(sums)
    loss_sum, correct, count = sums.tolist()
    return loss_sum / count, correct / count, count / seconds.item()


def load_images(root, size, flip):
    """Read train/<class>/ and val/<class>/, or val/images/ and val_annotations.txt."""
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    plain = [transforms.Resize((size, size)), transforms.ToTensor(), normalize]
    random = [transforms.RandomCrop(size, size // 16), transforms.RandomHorizontalFlip(flip / 2)]
    train_set = datasets.ImageFolder(root / "train", transforms.Compose([*plain, *random]))
    val_set = datasets.ImageFolder(root / "val", transforms.Compose(plain))
    if val_set.classes == ["images"]:  # the original layout: a list has the labels
        rows = [row.split() for row in (root / "val/val_annotations.txt").read_text().splitlines()]
        label_of = {name: train_set.class_to_idx[wnid] for name, wnid, *_ in rows}
        val_set.samples = [(path, label_of[Path(path).name]) for path, _ in val_set.samples]
    return train_set, val_set


if __name__ == "__main__":
    main(args)
