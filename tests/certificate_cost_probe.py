"""Seconds of the certificate of one epoch of TinyImageNet, and of that epoch's steps.

ResNet-50 in fp16 at batch 512 on images that are on the GPU already, as a step is at its fastest;
100,000 images. Prints {"check_s", "epoch_s", "n"}, medians.
"""

import json
import time
from functools import partial
from statistics import median

import torch
import torch.distributed as dist
import torchvision
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from training.batches import ResumableBatches
from training.certificate import Certificate

IMAGES, BATCH, ROUNDS = 100_000, 512, 7
device = torch.device("cuda", 0)
torch.cuda.set_device(device)
dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
model = torchvision.models.resnet50(num_classes=200).to(device, memory_format=torch.channels_last)
model = DistributedDataParallel(model, gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(model.parameters(), 0.001, 0.9, fused=True)
images = torch.randn(BATCH, 3, 64, 64, device=device).to(memory_format=torch.channels_last)
labels = torch.randint(200, (BATCH,), device=device)


def timed(work) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def step() -> None:
    with torch.autocast("cuda", torch.float16):
        loss = cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def train(steps: int = 20) -> None:
    for _ in range(steps):
        step()


def certify(batches: ResumableBatches) -> None:
    certificate.check(model, batches.drawn(steps))


certificate, steps = Certificate(), IMAGES // BATCH
sampler = DistributedSampler(range(IMAGES), 1, 0, drop_last=True)
checks, passes = [], []
for epoch in range(ROUNDS + 2):
    sampler.set_epoch(epoch)
    batches = ResumableBatches(sampler, BATCH)
    for _ in batches:
        pass
    passes.append(timed(train) / 20)
    checks.append(timed(partial(certify, batches)))
assert not certificate.faults, certificate.faults
found = {"check_s": median(checks[2:]), "epoch_s": median(passes[2:]) * steps, "n": ROUNDS}
print(json.dumps(found))
dist.destroy_process_group()
