"""What one data set costs when 1 to 60 people of a workshop read it on one machine.

    python tests/benchmarks/participants.py     # there is no bar; about three minutes

Each participant is a process that opens the decoded cache and takes random batches, or decodes
the same images from their JPEGs. Counted: images per second of all together, the memory that all
hold together (PSS, in which a page that n processes share counts 1/n for each), and the files
opened. The processors are the machine's: what may grow with the people is the memory.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from measure import describe_machine, parse_options, report, run_interleaved
from sample_images import open_cache, sample_images

from training.images.augment import AugmentedImages
from training.images.tinyimagenet import TinyImageNet

BATCH = 128


def main() -> None:
    options = parse_options(__doc__.splitlines()[0], rounds=3)
    batches = 2 if options.quick else 40
    rows = []
    with sample_images(2 if options.quick else 100) as data_dir:
        open_cache(data_dir)  # made before anybody comes
        for people in (1, 2) if options.quick else (1, 4, 16, 60):
            cases = {
                "cache": lambda n=people: crowd(n, lambda: read_cache(data_dir, batches)),
                "jpeg": lambda n=people: crowd(
                    n, lambda: read_jpeg(data_dir, max(1, batches // 20))
                ),
            }
            for kind, found in run_interleaved(cases, options.rounds).items():
                rows.append(
                    {
                        "people": people,
                        "input": kind,
                        "images_per_s": median(images / seconds for images, seconds, _ in found),
                        "memory_mib": median(memory for *_, memory in found),
                        "n": options.rounds,
                    }
                )
    report("participants", rows, describe_machine("torch", "pillow"), options.out)


def read_cache(data_dir: Path, batches: int) -> tuple[int, object]:
    """Take every image once, in pieces, so that all of the file is held; then random batches."""
    cached = open_cache(data_dir)
    for start in range(0, len(cached), BATCH):
        cached.load_batch(range(start, min(start + BATCH, len(cached))))
    for number in range(batches):
        first = number * 7919 % (len(cached) - BATCH)
        cached.load_batch(range(first, first + BATCH))
    return len(cached) + batches * BATCH, cached


def read_jpeg(data_dir: Path, batches: int) -> tuple[int, object]:
    images = AugmentedImages(TinyImageNet(data_dir, "train"), 64, flip=True, seed=0)
    for number in range(batches * BATCH):
        images[number * 7919 % len(images)]
    return batches * BATCH, images


def crowd(people: int, work: Callable[[], tuple[int, object]]) -> tuple[int, float, float]:
    """Let so many processes work at once: images, seconds, and MiB of all at their end."""
    went, done = os.pipe(), os.pipe()
    before = read_pss("self")
    began_s = time.perf_counter()
    children = []
    for _ in range(people):
        child = os.fork()
        if child == 0:
            os.close(went[1])
            images, kept = work()
            os.write(done[1], b"%20d" % images)
            os.read(went[0], 1)  # stay until the memory is counted
            os._exit(kept is None)
        children.append(child)
    images = sum(int(os.read(done[0], 20)) for _ in children)
    seconds = time.perf_counter() - began_s
    memory = sum(map(read_pss, children)) + read_pss("self") - before
    os.close(went[1])
    for child in children:
        os.waitpid(child, 0)
    for end in (went[0], *done):
        os.close(end)
    return images, seconds, memory


def read_pss(process: int | str) -> float:
    """MiB that a process holds, its share of what others hold too."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) / 1024


if __name__ == "__main__":
    sys.exit(main())
