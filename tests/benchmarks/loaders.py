"""Images loaded a CPU second: the decoded cache against torchvision's references and DALI.

    python tests/benchmarks/loaders.py     # the bars are 50 and 12 times, and 0.6 of a plain copy

Ours is the loader of train.py (--input cache) with its sampler: random crop and flip, uint8, one
thread. torchvision's is the documented recipe of its references (RandomResizedCrop, flip,
PILToTensor, ConvertImageDtype, Normalize) in a DataLoader without processes. DALI's is the CPU
pipeline of its documentation (decoded in the crop, resized, mirrored, normalized) with one
thread. A cropped batch is also held against a plain one: the same loader copies whole rows of an
array of 64 x 64 images.
"""

import os
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import torch
from measure import (
    add_peer,
    by_clock,
    describe_machine,
    parse_options,
    report,
    run_interleaved,
    spend,
    summarise,
)
from sample_images import DEVIATION, MEAN, open_cache, reference_loader, sample_images
from torch.utils.data import DistributedSampler

from training.batches import ResumableBatches
from training.images.batch_loader import BatchLoader
from training.images.cached import CachedImages

BATCH = 128


def main() -> None:
    options = parse_options(
        __doc__.splitlines()[0],
        without_dali={"action": "store_true", "help": "leave DALI out (1.1 GB to install)"},
    )
    torch.set_num_threads(1)
    per_class, jpegs, copies = (4, 4, 8) if options.quick else (100, 10, 600)
    with sample_images(per_class) as data_dir:
        batches = {
            "cache": (cached_batches(open_cache(data_dir)), copies),
            "crop only": (cached_batches(open_cache(data_dir, flip=False)), copies),
            "plain copy": (cached_batches(WholeImages(open_cache(data_dir))), copies),
            "torchvision": (cycle_anew(reference_loader(data_dir, BATCH)), jpegs),
        }
        if not (options.without_dali or options.quick):
            batches["DALI"] = (dali_batches(data_dir), 3 * jpegs)
        found = measure(batches, options.rounds)
    rows = [compare("1", ">= 50", found, "cache", "torchvision")]
    if "DALI" in found:
        rows.append(compare("1", ">= 12", found, "cache", "DALI"))
    rows.append(compare("2", ">= 0.6", found, "crop only", "plain copy"))
    packages = ("torch", "torchvision", "pillow", "numpy", "nvidia-dali-cuda120")
    report("loaders", rows, describe_machine(*packages), options.out)


def measure(batches: dict, rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds an image, of each round."""

    def case(name: str):
        source, count = batches[name]

        def take() -> None:
            for _ in islice(source, count):
                pass

        return lambda: spend(take)

    found = by_clock(run_interleaved({name: case(name) for name in batches}, rounds), "cpu_s")
    return {
        name: [each / (batches[name][1] * BATCH) for each in taken] for name, taken in found.items()
    }


def compare(row: str, bar: str, found: dict, ours: str, theirs: str) -> dict:
    """A row: how many times as many images a CPU second `ours` loads as `theirs`."""
    pair = {name: found[name] for name in (theirs, ours)}
    result = summarise(f"{ours} against {theirs}, images per CPU s", bar, pair, *pair, row=row)
    medians = result.pop("median_s")
    return result | {"images_per_cpu_s": {name: round(1 / each) for name, each in medians.items()}}


def cycle_anew(loader):
    while True:
        yield from loader


def cached_batches(images: CachedImages):
    """The trainer's own batches, epoch after epoch."""
    sampler = DistributedSampler(images, 1, 0, seed=0, drop_last=True)
    loader = BatchLoader(images, ResumableBatches(sampler, BATCH))
    for epoch in range(1_000_000):
        sampler.set_epoch(epoch)
        images.set_epoch(epoch)
        yield from loader


class WholeImages(CachedImages):
    """The same loader without crops: whole rows of an array of 64 x 64 images."""

    def __init__(self, cached: CachedImages):
        self.dataset, side = cached.dataset, cached.dataset.size
        self.labels = cached.labels.numpy()
        self.rows = np.ascontiguousarray(cached.pixels[:, :side, :side]).reshape(len(cached), -1)

    def load_batch(self, indices):
        indices = np.asarray(indices)
        return self.rows[indices], self.labels[indices]


def dali_batches(data_dir: Path):
    """NVIDIA DALI on the CPU, as the pipeline of its ResNet-50 example."""
    add_peer("dali", "nvidia-dali-cuda120")
    from nvidia.dali import fn, pipeline_def, types

    paths, labels = map(list, zip(*reference_loader(data_dir, BATCH).dataset.samples, strict=True))
    # Nothing ahead: what it did in another case's time would count there.
    at_once = {"exec_async": False, "exec_pipelined": False, "prefetch_queue_depth": 1}

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, seed=0, **at_once)
    def load():
        files, classes = fn.readers.file(files=paths, labels=labels, random_shuffle=True)
        images = fn.decoders.image_random_crop(files, device="cpu", output_type=types.RGB)
        images = fn.resize(images, device="cpu", size=(64, 64))
        images = fn.crop_mirror_normalize(
            images,
            device="cpu",
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * each for each in MEAN],
            std=[255 * each for each in DEVIATION],
            mirror=fn.random.coin_flip(),
        )
        return images, classes

    pipeline = load()
    pipeline.build()
    while True:
        yield pipeline.run()


if __name__ == "__main__":
    main()
