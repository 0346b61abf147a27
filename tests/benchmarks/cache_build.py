"""Building the decoded cache against PIL decoding the same files and nothing else, a CPU second.

    python tests/benchmarks/cache_build.py     # the bar is 0.8

The build reads, decodes, pads and writes every image, in this process; the other opens each file
and converts it to RGB. Both read files that are in the page cache.
"""

import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from measure import (
    Spent,
    by_clock,
    describe_machine,
    parse_options,
    report,
    run_interleaved,
    spend,
    summarise,
)
from PIL import Image
from sample_images import sample_images

from training.images.augment import AugmentedImages
from training.images.pixel_cache import build_cache, describe, read_cache
from training.images.tinyimagenet import TinyImageNet


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    with sample_images(2 if options.quick else 25) as data_dir:
        dataset = AugmentedImages(TinyImageNet(data_dir, "train"), 64, flip=True, seed=0)
        header = describe(dataset, data_dir)
        cases = {
            "PIL": lambda: spend(lambda: decode(dataset)),
            "build": lambda: build(dataset, data_dir, header),
        }
        found = by_clock(run_interleaved(cases, options.rounds), "cpu_s")
    row = summarise("build against decoding, images per CPU s", ">= 0.8", found, *cases, row="3")
    medians = row.pop("median_s")
    row["images"] = len(dataset)
    row["images_per_cpu_s"] = {name: round(len(dataset) / each) for name, each in medians.items()}
    report("cache_build", [row], describe_machine("torch", "pillow", "numpy"), options.out)


def decode(dataset: AugmentedImages) -> None:
    for path, _ in dataset.images.samples:
        with Image.open(path) as image:
            image.convert("RGB")


def build(dataset: AugmentedImages, data_dir: Path, header: dict) -> Spent:
    path = data_dir / "built.u8"
    with redirect_stdout(StringIO()):
        spent = spend(lambda: build_cache(dataset, path, header, workers=0))
    if read_cache(path, header) is None:
        raise SystemExit("error: what was built is no cache")
    path.unlink()
    return spent


if __name__ == "__main__":
    main()
