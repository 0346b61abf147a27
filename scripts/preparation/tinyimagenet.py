"""The workload tinyimagenet: its options, and the three sources of its images."""

import argparse
import os
from functools import partial
from pathlib import Path

from common.console import Progress
from common.errors import UserError
from common.signals import leave_signals_to_parent
from preparation.download import check_digest, downloaded, unpack_zip
from preparation.options import (
    Option,
    add_options,
    http_url,
    md5_digest,
    read_settings,
    whole_number,
)
from preparation.publish import Contents, publish

# The address at the course that made the set, and the checksum that public loaders publish for it
# (Avalanche's among them).
TINYIMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
MAX_UNPACKED_BYTES = 4 * 1024**3  # the real archive unpacks to far less
DIGITS_RECIPE = {"image_size": 64, "quality": 95, "val_every": 5}
SYNTHETIC_QUALITY = 75
SYNTHETIC_NOISE = 32  # grey levels; gives JPEGs of about 2 kB at 64x64, as in the real set

OPTIONS = (
    Option("url", ("download",), http_url, "URL", TINYIMAGENET_URL, "address of the archive"),
    Option("md5", ("download", "archive"), md5_digest, "HEX", TINYIMAGENET_MD5, "its checksum"),
    Option("classes", ("synthetic",), whole_number(1), "N", 200, "number of classes"),
    Option("train_per_class", ("synthetic",), whole_number(1), "N", 500, "train images per class"),
    Option("val_per_class", ("synthetic",), whole_number(1), "N", 50, "val images per class"),
    Option("image_size", ("synthetic",), whole_number(8, 1024), "PIXELS", 64, "width and height"),
    Option("seed", ("synthetic",), whole_number(0), "N", 0, "equal seeds make equal images"),
    Option("workers", ("synthetic",), whole_number(1, 1024), "N", None, "processes", "all CPUs"),
)


def add_command(workloads: argparse._SubParsersAction) -> None:
    about = "JPEG images in the layout of TinyImageNet, for scripts/train.py"
    parser = workloads.add_parser("tinyimagenet", help=about, description=about)
    parser.set_defaults(prepare=prepare, parser=parser)
    parser.add_argument("folder", metavar="DIR", type=Path, help="dataset folder to make")
    sources = parser.add_mutually_exclusive_group(required=True)
    for source, text in {
        "download": "the public archive: 200 classes, 110,000 images (248 MB to fetch)",
        "digits": "scikit-learn's 1,797 real handwritten digits: 10 classes, 64x64",
        "synthetic": "made-up images: a pattern for each class, plus noise",
    }.items():
        flag = f"--{source}"
        sources.add_argument(flag, dest="source", action="store_const", const=source, help=text)
    text = "the public archive, from a file that is already here"
    sources.add_argument("--archive", metavar="FILE", type=Path, help=text)
    add_options(parser, OPTIONS)


def prepare(args: argparse.Namespace) -> str:
    """Make args.folder from the chosen source; return the line to print."""
    args.source = args.source or "archive"
    settings = read_settings(args, OPTIONS)
    if args.source == "digits":
        parameters, build = DIGITS_RECIPE, write_digits
    elif args.source == "synthetic":
        workers, parameters = settings.pop("workers"), settings
        build = partial(write_synthetic, settings=settings, workers=workers)
    elif args.source == "archive":
        # Only the checksum tells which data: where the file was does not matter.
        parameters, build = settings, partial(unpack_file, archive=args.archive, **settings)
    else:
        build = partial(unpack_download, target=args.folder, **settings)
        parameters = {"md5": settings["md5"]}
    kind = "archive" if args.source == "download" else args.source
    identity = {"workload": "tinyimagenet", "source": kind, "parameters": parameters}
    images = Contents("images", count_images, describe_images)
    return publish(args.folder, identity, build, images)


# ---- The public archive ----------------------------------------------------------------


def unpack_file(scratch: Path, *, archive: Path, md5: str) -> Path:
    """Check and unpack an archive that the user copied here; it is left as it is."""
    archive = archive.expanduser()
    try:
        check_digest(archive, md5)
    except OSError as error:
        raise UserError(f"cannot read the archive {archive} ({error.strerror})") from None
    return unpack_images(archive, scratch)


def unpack_download(scratch: Path, *, target: Path, url: str, md5: str) -> Path:
    """Download, check and unpack the archive at url."""
    part = target.with_name(f"{target.name}.zip.part")
    by_hand = f"python scripts/prepare_data.py tinyimagenet --archive FILE {target}"
    with downloaded(url, md5, part, by_hand) as archive:
        return unpack_images(archive, scratch)


def unpack_images(archive: Path, scratch: Path) -> Path:
    """Unpack the archive in scratch; return the folder in it that holds train/ and val/."""
    unpacked = scratch / "archive"
    unpack_zip(archive, unpacked, MAX_UNPACKED_BYTES)
    for root in (unpacked, *unpacked.glob("*")):
        if (root / "train").is_dir() and (root / "val").is_dir():
            return root
    raise UserError(f"{archive} holds no train/ and val/ folders; it is not TinyImageNet")


# ---- The layout of TinyImageNet --------------------------------------------------------


def make_layout(root: Path, words: dict[str, str], val_labels: list[int]) -> list[str]:
    """Make the folders and lists of the original's layout, without images; return the wnids.

    words: the name of each wnid; val_labels: position of its wnid for val_0.JPEG, val_1.JPEG, …
    """
    wnids = list(words)
    (root / "val" / "images").mkdir(parents=True)
    for wnid in wnids:
        (root / "train" / wnid / "images").mkdir(parents=True)
    lines = [f"{wnid}\t{name}\n" for wnid, name in words.items()]
    (root / "words.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    # The last four columns are the original's bounding box: here the whole of a 64x64 image.
    lines = [f"val_{i}.JPEG\t{wnids[k]}\t0\t0\t63\t63\n" for i, k in enumerate(val_labels)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return wnids


def count_images(root: Path) -> dict[str, int]:
    """Return the numbers of classes, training and validation images, from listings alone."""
    counts = {"classes": sum(path.is_dir() for path in (root / "train").glob("[!.]*"))}
    for split in ("train", "val"):
        names = (name for _, _, files in os.walk(root / split) for name in files)
        suffixes = (".jpeg", ".jpg", ".png")
        counts[f"{split}_images"] = sum(name.lower().endswith(suffixes) for name in names)
    return counts


def describe_images(record: dict) -> str:
    train, val = f"{record['train_images']:,} train", f"{record['val_images']:,} val images"
    return f"{record['source']}, {record['classes']} classes, {train} and {val}"


# ---- Handwritten digits: real images that need no network ------------------------------


def write_digits(scratch: Path) -> Path:
    """Write scikit-learn's digits as 64x64 RGB JPEGs, every fifth of a class for validation.

    Source: sklearn.datasets.load_digits, 1,797 images of 8x8 pixels with 17 grey levels; the test
    part of the UCI set "Optical Recognition of Handwritten Digits".
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    root = scratch / "dataset"
    size, every = (DIGITS_RECIPE["image_size"],) * 2, DIGITS_RECIPE["val_every"]
    nth_of_class = [int((digits.target[:i] == k).sum()) for i, k in enumerate(digits.target)]
    in_val = [nth % every == every // 2 for nth in nth_of_class]
    val_labels = [k for k, val in zip(digits.target, in_val, strict=True) if val]
    words = {f"d{k:07d}": f"handwritten digit {k}" for k in range(10)}
    wnids = make_layout(root, words, val_labels)
    val_paths = (root / "val" / "images" / f"val_{i}.JPEG" for i in range(len(val_labels)))
    for levels, k, nth, val in zip(digits.images, digits.target, nth_of_class, in_val, strict=True):
        image = Image.fromarray(np.uint8(levels * 255 / 16)).resize(size, Image.Resampling.BICUBIC)
        train_path = root / "train" / wnids[k] / "images" / f"{wnids[k]}_{nth}.JPEG"
        path = next(val_paths) if val else train_path
        image.convert("RGB").save(path, quality=DIGITS_RECIPE["quality"])
    return root


# ---- Synthetic images ------------------------------------------------------------------


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
