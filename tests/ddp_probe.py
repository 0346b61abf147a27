"""Run in test_ddp.py: train with train.py's own functions and save what came out.

ddp_probe.py DATA_DIR OUT_DIR: each rank writes OUT_DIR/<world size>_<rank>.pt with
  gradients    after one backward pass in float64 over this rank's part of 8 fixed images
  spiral       the same of train_spiral.py's model, over its part of 64 points
  parameters   after two real training steps
  sums         [loss, correct, samples] of the validation part
  indices      the training images that the sampler gave to this rank in epochs 0 and 1
"""

import os
import sys
from argparse import Namespace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

import train
import train_spiral
from training.batches import plan_batch
from training.run import TrainingRun

OPTIONS = [
    "--model=resnet18", "--batch-size=16", "--num-workers=0", "--lr=0.01", "--image-size=32",
    "--no-flip", "--limit-batches=2", "--epochs=1", "--precision=fp32",
]  # fmt: skip


def flatten(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def find_gradients(args, plan, train_set, device: torch.device) -> torch.Tensor:
    """Gradients of the mean loss over 8 images, divided among the ranks, BatchNorm fixed."""
    torch.set_default_dtype(torch.float64)
    model, *_ = train.build_model(args, plan, train_set, device)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 3, 32, 32, generator=generator)
    labels = torch.arange(8)
    model.eval()  # BatchNorm over a rank's own 4 images is not BatchNorm over all 8
    part = slice(dist.get_rank(), None, dist.get_world_size())
    cross_entropy(model(images[part]), labels[part]).backward()
    torch.set_default_dtype(torch.float32)
    return flatten(parameter.grad for parameter in model.parameters())


def find_spiral_gradients(device: torch.device) -> torch.Tensor:
    """Gradients of the mean loss over 64 points, divided among the ranks."""
    args = train_spiral.parse_args()
    train_set, _ = train_spiral.load_data(args)
    args.precision = "fp32"
    plan = plan_batch(args, len(train_set))
    torch.set_default_dtype(torch.float64)
    model, *_ = train_spiral.build_model(args, plan, train_set, device)
    torch.set_default_dtype(torch.float32)
    part = slice(dist.get_rank(), 64, dist.get_world_size())
    cross_entropy(model(train_set.points[part].double()), train_set.arms[part]).backward()
    return flatten(parameter.grad for parameter in model.parameters())


def main() -> None:
    data_dir, out_dir = sys.argv[1:]
    name = f"{os.environ.get('WORLD_SIZE', 1)}_{os.environ.get('RANK', 0)}"
    sys.argv[1:] = [*OPTIONS, f"--data-dir={data_dir}", f"--workdir={out_dir}/{name}"]
    args = train.parse_args()
    args.workdir.mkdir()
    train_set, val_set = train.load_data(args)
    plan = plan_batch(args, len(train_set))
    device = train.init_distributed(timeout_s=60)
    gradients = find_gradients(args, plan, train_set, device)
    sys.argv[1:] = [f"--workdir={out_dir}/{name}"]
    spiral = find_spiral_gradients(device)

    loader, sampler, val_loader = train.build_loaders(args, plan, train_set, val_set, device)
    learner = train.build_model(args, plan, train_set, device)
    settings = train.describe_run(args, plan, train_set, val_set)
    run = TrainingRun(args, settings, device, Path(train.__file__), *learner)
    indices = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        indices.append(list(sampler))
    train.train_one_epoch(args, run, loader, *learner)
    everything = Namespace(**vars(args) | {"limit_batches": None})
    result = {
        "gradients": gradients,
        "spiral": spiral,
        "parameters": flatten(learner[0].parameters()),
        "sums": train.validate(everything, run, val_loader, learner[0]),
        "indices": indices,
    }
    torch.save(result, Path(out_dir) / f"{name}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
