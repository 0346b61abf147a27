"""The workload tinyimagenet: its options, and which source makes the images."""

import argparse
from functools import partial
from pathlib import Path

from common.errors import UserError
from preparation.archive import unpack_zip
from preparation.digits import DIGITS_RECIPE, write_digits
from preparation.download import check_digest, downloaded
from preparation.image_layout import count_images, describe_images
from preparation.options import (
    Option,
    add_options,
    http_url,
    md5_digest,
    read_settings,
    whole_number,
)
from preparation.publish import Contents, publish
from preparation.synthetic import write_synthetic

# The address at the course that made the set, and the checksum that public loaders publish for it
# (Avalanche's among them).
TINYIMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
MAX_UNPACKED_BYTES = 4 * 1024**3  # the real archive unpacks to far less

OPTIONS = (
    Option("url", ("download",), http_url, "URL", TINYIMAGENET_URL, "address of the archive"),
    Option("md5", ("download", "archive"), md5_digest, "HEX", TINYIMAGENET_MD5, "its checksum"),
    Option("classes", ("synthetic",), whole_number(1), "N", 200, "number of classes"),
    Option("train_per_class", ("synthetic",), whole_number(1), "N", 500, "training images a class"),
    Option("val_per_class", ("synthetic",), whole_number(1), "N", 50, "validation images a class"),
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


# The public archive -----------------------------------------------------------


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
