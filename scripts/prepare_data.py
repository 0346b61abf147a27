#!/usr/bin/env python3
"""Download, convert or synthesise the data of a workload; one subcommand a workload.

    python scripts/prepare_data.py tinyimagenet --digits DIR       rehearsal: real, small, offline
    python scripts/prepare_data.py tinyimagenet --download DIR     the 200 classes of the workshop
    python scripts/prepare_data.py tinyimagenet --synthetic DIR    timing at full size, offline

DIR appears only when it is complete: everything is made in a hidden folder beside it and renamed
at the end. DIR/dataset.json then says where the data came from, so that the same command run
again finds it and stops, and no command ever writes over what is there. Only a download that was
stopped leaves something, DIR.zip.part, from which the next run goes on.
"""

import argparse
import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

# The address at the course that made the set, and the checksum that public loaders publish for it
# (Avalanche's among them).
TINYIMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"

DIGITS_RECIPE = {"image_size": 64, "quality": 95, "val_every": 5}
SYNTHETIC_QUALITY = 75
SYNTHETIC_NOISE = 32  # grey levels; gives JPEGs of about 2 kB at 64x64, as in the real set

MAX_UNPACKED_BYTES = 4 * 1024**3  # the real archive unpacks to far less
CHUNK_BYTES = 1024**2
NETWORK_TIMEOUT_S = 30
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DataError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do."""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; return 0, 1 after a failure, 128 + the signal that stopped it."""
    args = build_parser().parse_args(argv)
    args.folder = args.folder.expanduser().resolve()
    # Data are shared: whatever the user's umask, their group may read what is made here.
    os.umask(os.umask(0o022) & ~0o050)
    catch_signals()
    try:
        print(args.prepare(args))
        return 0
    except DataError as error:
        status, message = 1, str(error)
    except OSError as error:
        status, message = 1, explain_os_error(error, args.folder)
    except ImportError as error:
        message = f"the Python package {error.name} is missing; run: bash scripts/setup_env.sh"
        status = 1
    except KeyboardInterrupt as error:
        status = 128 + error.args[0]
        message = f"stopped before {args.folder} was complete; run the same command again"
    print(f"prepare_data.py: {message}", file=sys.stderr)
    return status


def catch_signals() -> None:
    """Let the end of a job or a terminal tidy up as Ctrl-C does; what nohup ignores stays so."""
    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, interrupt)


def interrupt(signum: int, frame: object) -> None:
    for each in STOP_SIGNALS:  # an impatient second Ctrl-C must not stop the tidying halfway
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signum)


def explain_os_error(error: OSError, target: Path) -> str:
    """Return one line for a failed write to target: what failed and what to do."""
    where, reason = error.filename or target, error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space for {target} ({reason}); free some, or choose a DIR on another disk"
    return f"cannot write {where} ({reason}); choose a DIR in a folder that you may write to"


# ------------------------------------------------------------------------------
# Arguments
# ------------------------------------------------------------------------------


def whole_number(least: int, most: int = 1_000_000) -> Callable[[str], int]:
    """Return an argparse type for the whole numbers from least to most."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return convert


def http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with http:// or https://")
    return text


def md5_digest(text: str) -> str:
    if len(text) != 32 or not set(text.lower()) <= set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not 32 hexadecimal digits")
    return text.lower()


def count_cpus() -> int:
    """Return the CPUs that this process may use, in a job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# Options of tinyimagenet: (name, sources it applies to, type, metavar, default, help).
TINYIMAGENET_OPTIONS = (
    ("url", ["download"], http_url, "URL", TINYIMAGENET_URL, "address of the archive"),
    ("md5", ["download", "archive"], md5_digest, "HEX", TINYIMAGENET_MD5, "its checksum"),
    ("classes", ["synthetic"], whole_number(1), "N", 200, "number of classes"),
    ("train_per_class", ["synthetic"], whole_number(1), "N", 500, "training images a class"),
    ("val_per_class", ["synthetic"], whole_number(1), "N", 50, "validation images a class"),
    ("image_size", ["synthetic"], whole_number(8, 1024), "PIXELS", 64, "width and height"),
    ("seed", ["synthetic"], whole_number(0), "N", 0, "equal seeds make equal images"),
    ("workers", ["synthetic"], whole_number(1, 1024), "N", None, "processes"),
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    workloads = parser.add_subparsers(title="workloads", metavar="WORKLOAD", required=True)
    add_tinyimagenet(workloads)
    return parser


def add_tinyimagenet(workloads: argparse._SubParsersAction) -> None:
    about = "JPEG images in the layout of TinyImageNet, for scripts/train.py"
    parser = workloads.add_parser("tinyimagenet", help=about, description=about)
    parser.set_defaults(prepare=prepare_tinyimagenet, parser=parser)
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
    for name, applies_to, kind, metavar, default, text in TINYIMAGENET_OPTIONS:
        # The default is set in read_settings, which refuses an option that does not apply.
        default = "all CPUs" if default is None else default
        text = f"{text} (for --{', --'.join(applies_to)}; default: {default})"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, metavar=metavar, type=kind, default=None, help=text)


def read_settings(args: argparse.Namespace) -> dict:
    """Return the settings of the chosen source; exit 2 when a given option does not apply."""
    settings = {}
    for name, applies_to, _, _, default, _ in TINYIMAGENET_OPTIONS:
        given = getattr(args, name)
        if args.source in applies_to:
            settings[name] = default if given is None else given
        elif given is not None:
            args.parser.error(f"--{name.replace('_', '-')} does not apply to --{args.source}")
    return settings


# ------------------------------------------------------------------------------
# Any dataset: there whole, or not at all
# ------------------------------------------------------------------------------


def publish(target: Path, identity: dict, build: Callable[[Path], Path]) -> str:
    """Make the dataset at target, or find it there; return the line to print.

    identity: workload, source and parameters, which dataset.json records and later runs compare.
    build: is given an empty folder beside target and returns the dataset's root in it.
    Raises DataError when target holds anything else; it is never written over.
    """
    start_s = time.monotonic()
    if found := find_existing(target, identity):
        return found
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target) as scratch:
        root = build(scratch)
        record = identity | count_images(root)
        (root / "dataset.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        try:
            root.rename(target)
        except OSError:
            # Someone may have put the same data there in the meantime; then theirs will do.
            if found := find_existing(target, identity):
                return found
            raise
    return f"{target} is ready: {describe(record)}, {time.monotonic() - start_s:.1f} s"


def find_existing(target: Path, identity: dict) -> str | None:
    """Return the line to print when target is the dataset wanted, None when target is free."""
    way_out = "choose another DIR, or remove this one first"
    if not target.exists():
        return None
    if not target.is_dir():
        raise DataError(f"{target} is not a folder; {way_out}")
    names = sorted(path.name for path in target.iterdir())
    if not names:
        return None
    try:
        record = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
        held = {key: record[key] for key in identity}
    except (OSError, ValueError, TypeError, KeyError):
        what = (
            f"{target} is in use and was not made by this command (found: {', '.join(names[:3])})"
        )
        raise DataError(f"{what}; {way_out}") from None
    if held != identity:
        raise DataError(f"{target} holds other data ({list_facts(held)}); {way_out}")
    if record != identity | count_images(target):
        raise DataError(f"{target} has lost or won images since it was made; {way_out}")
    return f"{target} is already there: {describe(record)}"


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder on target's own file system, and remove it afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def list_facts(facts: dict) -> str:
    return ", ".join(
        list_facts(value) if isinstance(value, dict) else f"{key} {value}"
        for key, value in facts.items()
    )


class Progress:
    """Says on stderr how far a long step is: live on a terminal, every 10 s in a log."""

    def __init__(self, what: str, unit: str):
        self.what, self.unit, self.live = what, unit, sys.stderr.isatty()
        self.shown_s = time.monotonic()

    def show(self, done: float, total: float) -> None:
        if time.monotonic() - self.shown_s > (0.2 if self.live else 10):
            self.shown_s = time.monotonic()
            text = f"{self.what}: {done:,.0f} of {total:,.0f} {self.unit}"
            print(text, end="\x1b[K\r" if self.live else "\n", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------
# TinyImageNet and its likes
# ------------------------------------------------------------------------------


def prepare_tinyimagenet(args: argparse.Namespace) -> str:
    """Make args.folder from the chosen source; return the line to print."""
    args.source = args.source or "archive"
    settings = read_settings(args)
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
    return publish(args.folder, identity, build)


def count_images(root: Path) -> dict[str, int]:
    """Return the numbers of classes, training and validation images, from listings alone."""
    counts = {"classes": sum(path.is_dir() for path in (root / "train").glob("[!.]*"))}
    for split in ("train", "val"):
        names = (name for _, _, files in os.walk(root / split) for name in files)
        suffixes = (".jpeg", ".jpg", ".png")
        counts[f"{split}_images"] = sum(name.lower().endswith(suffixes) for name in names)
    return counts


def describe(record: dict) -> str:
    train, val = f"{record['train_images']:,} train", f"{record['val_images']:,} val images"
    return f"{record['source']}, {record['classes']} classes, {train} and {val}"


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


# Digits -----------------------------------------------------------------------


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


# Synthetic --------------------------------------------------------------------


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
        raise DataError("a worker was killed (out of memory?); set a smaller --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)
    return root


def leave_signals_to_parent() -> None:
    """Stay quiet when Ctrl-C reaches every process of the terminal: the parent stops the work."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


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


# Archive ----------------------------------------------------------------------


def unpack_file(scratch: Path, *, archive: Path, md5: str) -> Path:
    """Check and unpack an archive that the user copied here; it is left as it is."""
    archive = archive.expanduser()
    try:
        check_md5(archive, md5)
    except OSError as error:
        raise DataError(f"cannot read the archive {archive} ({error.strerror})") from None
    return unpack_zip(archive, scratch)


def unpack_download(scratch: Path, *, target: Path, url: str, md5: str) -> Path:
    """Download, check and unpack the archive at url; keep it only where a later run can use it."""
    part = target.with_name(f"{target.name}.zip.part")
    try:
        download(url, part)
    except DataError as error:
        how = f"python scripts/prepare_data.py tinyimagenet --archive FILE {target}"
        fix = f"run again to go on, or fetch it elsewhere, copy it here and run: {how}"
        raise DataError(f"{error}; {fix}") from None
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
    try:
        check_md5(part, md5)
        root = unpack_zip(part, scratch)
    except DataError as error:
        part.unlink()
        raise DataError(f"{error}; the download from {url} was removed") from None
    part.unlink()
    return root


def download(url: str, part: Path) -> None:
    """Stream url to part, going on from what an earlier attempt left there."""
    progress = Progress(f"download to {part}", "MB")
    with part.open("ab") as file:
        for position, total_bytes, chunk in read_url(url, file.tell()):
            if position < file.tell():  # the server sends the whole file again
                file.seek(position)
                file.truncate()
            file.write(chunk)
            progress.show(position / 1e6, total_bytes / 1e6)


def read_url(url: str, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (position, bytes in all, chunk) of the file at url, from offset where the server can.

    Raises DataError with the reason when the network or the server fails.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    request = Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        with urlopen(request, timeout=NETWORK_TIMEOUT_S) as response:
            position = offset if response.status == 206 else 0
            total_bytes = position + int(response.headers.get("Content-Length", 0))
            while chunk := response.read(CHUNK_BYTES):
                yield position, total_bytes, chunk
                position += len(chunk)
        if position < total_bytes:
            raise ConnectionError(f"cut off after {position:,} of {total_bytes:,} bytes")
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError) and error.code == 416 and offset:
            return  # "range not satisfiable": the file was whole already
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        raise DataError(f"cannot download {url} ({reason})") from None


def check_md5(archive: Path, md5: str) -> None:
    """Raise DataError unless the archive has the checksum md5."""
    with archive.open("rb") as file:
        # The flag lets hosts in FIPS mode compute it: it is for damage, not for secrets.
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        what = f"{archive} ({archive.stat().st_size:,} bytes) has md5 {found} instead of {md5}"
        raise DataError(f"{what}: damaged, or another file; fetch it again, or set --md5")


def unpack_zip(archive: Path, scratch: Path) -> Path:
    """Unpack the archive in scratch; return the folder in it that holds train/ and val/.

    Raises DataError, before anything is written, when a member would land outside scratch, is
    no plain file or folder, or when all of them are beyond MAX_UNPACKED_BYTES.
    """
    import zipfile
    import zlib

    progress = Progress(f"unpack {archive}", "files")
    try:
        with zipfile.ZipFile(archive) as members:
            check_members(archive, members.infolist())
            for done, member in enumerate(members.infolist()):
                members.extract(member, scratch / "archive")
                progress.show(done, len(members.infolist()))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise DataError(f"{archive} is no archive that can be unpacked ({error})") from None
    for root in (scratch / "archive", *scratch.glob("archive/*")):
        if (root / "train").is_dir() and (root / "val").is_dir():
            return root
    raise DataError(f"{archive} holds no train/ and val/ folders; it is not TinyImageNet")


def check_members(archive: Path, members: list) -> None:
    """Raise DataError when a zip member is unsafe to unpack, or all are too large together."""
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.orig_filename:
            raise DataError(f"{archive} is unsafe: {member.filename!r} would land outside of it")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{archive} is unsafe: {member.filename!r} is a link or a device")
    total_bytes = sum(member.file_size for member in members)
    if total_bytes > MAX_UNPACKED_BYTES:
        limit = f"the limit of {MAX_UNPACKED_BYTES:,}"
        raise DataError(f"{archive} unpacks to {total_bytes:,} bytes, over {limit}")


if __name__ == "__main__":
    sys.exit(main())
