"""Made-up images in TinyImageNet's layout: a pattern for each class, plus noise."""

import os
from functools import partial
from pathlib import Path

from common.errors import UserError
from preparation.image_layout import make_layout
from preparation.progress import Progress
from preparation.signals import leave_signals_to_parent

SYNTHETIC_QUALITY = 75
SYNTHETIC_NOISE = 32  # grey levels; gives JPEGs of about 2 kB at 64x64, as in the real set


def write_synthetic(scratch: Path, *, settings: dict, workers: int | None) -> Path:
    """Write made-up classes with several processes, on whose number the images do not depend.

    settings: classes, train_per_class, val_per_class, image_size (pixels) and seed.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    root, classes = scratch / "dataset", settings["classes"]
    words = {f"s{k:07d}": f"synthetic class {k}" for k in range(classes)}
    # Validation images take turns between the classes, so that the first few show them all.
    wnids = make_layout(root, words, list(range(classes)) * settings["val_per_class"])
    per_class = settings["train_per_class"] + settings["val_per_class"]
    progress = Progress("synthetic", "images")
    workers = min(workers or count_cpus(), classes)
    pool = ProcessPoolExecutor(workers, initializer=leave_signals_to_parent)
    try:
        write_class = partial(write_synthetic_class, root, wnids, settings)
        for done, _ in enumerate(pool.map(write_class, range(classes)), start=1):
            progress.show(done * per_class, classes * per_class)
    except BrokenProcessPool:
        raise UserError("a worker was killed (out of memory?); set a smaller --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)
    return root


def count_cpus() -> int:
    """Return the CPUs that this process may use, in a job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def write_synthetic_class(root: Path, wnids: list[str], settings: dict, label: int) -> None:
    """Write the images of one class: its pattern, shifted a little, under fresh noise."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng([settings["seed"], label])
    pattern = draw_pattern(rng, settings["image_size"])
    folder, wnid = root / "train" / wnids[label] / "images", wnids[label]
    paths = [folder / f"{wnid}_{i}.JPEG" for i in range(settings["train_per_class"])]
    for i in range(settings["val_per_class"]):
        paths.append(root / "val" / "images" / f"val_{i * len(wnids) + label}.JPEG")
    reach = settings["image_size"] // 8
    for path in paths:
        shift = rng.integers(-reach, reach, 2, endpoint=True)
        pixels = np.roll(pattern, shift, axis=(0, 1))
        pixels += rng.integers(
            -SYNTHETIC_NOISE, SYNTHETIC_NOISE, pixels.shape, np.int16, endpoint=True
        )
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(path, quality=SYNTHETIC_QUALITY)


def draw_pattern(rng, image_size: int):
    """Return a class's own sum of three coloured waves: (size, size, 3) int16 about 128."""
    import numpy as np

    y, x = np.mgrid[:image_size, :image_size] / image_size
    pattern = np.zeros((image_size, image_size, 3))
    for _ in range(3):
        cycles_y, cycles_x = rng.uniform(-5, 5, size=2)
        wave = np.cos(2 * np.pi * (cycles_y * y + cycles_x * x + rng.uniform()))
        pattern += wave[..., None] * rng.normal(size=3)
    return (128 + 40 * pattern / pattern.std()).astype(np.int16)
