"""Run by torchrun in test_ddp.py: train with train.py's own functions and save what came out.

ddp_probe.py DATA_DIR OUT_DIR: each rank writes OUT_DIR/<world size>_<rank>.pt with
  gradients    after one backward pass in float64 over this rank's part of 8 fixed images
  parameters   after two real training steps
  sums         [loss, correct, samples] of the validation part
  indices      the training images that the sampler gave to this rank in epochs 0 and 1
"""

import sys
from argparse import Namespace
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
import train
from torch.nn.functional import cross_entropy
from training.tinyimagenet import load_splits

SETTINGS = Namespace(
    seed=0, model="resnet18", batch_size=16, num_workers=0, lr=0.01, momentum=0.9,
    weight_decay=1e-4, step_size=30, gamma=0.1,
)  # fmt: skip


def flatten(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def find_gradients(device: torch.device) -> torch.Tensor:
    """Gradients of the mean loss over 8 images, divided among the ranks, BatchNorm fixed."""
    torch.set_default_dtype(torch.float64)
    model, *_ = train.build_model(SETTINGS, 10, device, "fp32")
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 3, 32, 32, generator=generator)
    labels = torch.arange(8)
    model.eval()  # BatchNorm over a rank's own 4 images is not BatchNorm over all 8
    part = slice(dist.get_rank(), None, dist.get_world_size())
    cross_entropy(model(images[part]), labels[part]).backward()
    torch.set_default_dtype(torch.float32)
    return flatten(parameter.grad for parameter in model.parameters())


def main() -> None:
    data_dir, out_dir = sys.argv[1:]
    device = train.init_distributed(timeout_s=60)
    gradients = find_gradients(device)

    train_set, val_set = load_splits(data_dir, *train.build_transforms(32, flip=False))
    loader, sampler, val_loader = train.build_loaders(SETTINGS, train_set, val_set, device)
    model, optimizer, _, scaler = train.build_model(SETTINGS, 10, device, "fp32")
    indices = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        indices.append(list(sampler))
    train.train_one_epoch(model, islice(loader, 2), optimizer, scaler, device, "fp32")
    result = {
        "gradients": gradients,
        "parameters": flatten(model.parameters()),
        "sums": train.validate(model, val_loader, device, "fp32"),
        "indices": indices,
    }
    torch.save(result, Path(out_dir) / f"{dist.get_world_size()}_{dist.get_rank()}.pt")
    dist.destroy_process_group()


main()
