"""A split of the data set decoded once, in one file that all processes of a node share.

Decoding is what loading JPEGs costs; a batch from decoded pixels is a copy. The file is a header,
HEADER bytes of JSON, and then the images, (N, P, P, 3) uint8, padded by mirroring so that every
crop is inside. It is mapped into memory: the node keeps one copy, however many processes read.

It lies in --cache-dir, else in .decoded/ of the data set where that can be written, else in a
folder of the node's temporary one ($TMPDIR). One process of a node makes it while the others wait.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from common.files import explain_failed_write
from training import TrainingError
from training.epoch import show_progress
from training.images.augment import AugmentedImages, PlainImages, fit_square, pad_edges
from training.images.cached import GIB, CachedImages

FORMAT = 1
HEADER = 4096
BLOCK = 256  # images that are padded and written together
LOOKED_AT = 64  # files whose size and time tell a data set from another with the same names


def decode_once(dataset: AugmentedImages | PlainImages, split: str, args) -> CachedImages:
    """Return `dataset` with its pixels from the cache, which is made first where there is none.

    args: data_dir, cache_dir (or None) and num_workers, the processes that decode.

    Raises TrainingError when there is no room for the cache, or for a damaged image.
    """
    header = describe(dataset, Path(args.data_dir))
    name = f"{split}_{dataset.size}px.u8"
    folders = list_folders(Path(args.data_dir), args.cache_dir)
    pixels = find_cache(folders, name, header)
    if pixels is None:
        try:
            with node_lock(folders[-1] / name):
                pixels = find_cache(folders, name, header)  # somebody else's, made meanwhile
                if pixels is None:
                    path = choose_folder(folders, header) / name
                    build_cache(dataset, path, header, args.num_workers)
                    pixels = read_cache(path, header)
        except TrainingError as error:
            error.is_own = True  # the others wait, and would be ended before they meet it
            raise
    return CachedImages(dataset, pixels)


def describe(dataset: AugmentedImages | PlainImages, data_dir: Path) -> dict:
    """What the header says: the pixels' shape, and a digest of what they were made from.

    To look at all of 110,000 files takes a shared file system minutes. The digest knows the names
    and labels of all, when each folder last changed, and the size and time of some files.
    """
    samples = dataset.images.samples
    root = str(data_dir.expanduser())
    names = "\n".join(f"{path.removeprefix(root)} {label}" for path, label in samples)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
    for folder in sorted({path.rpartition("/")[0] for path, _ in samples}):
        digest.update(f"{Path(folder).stat().st_mtime_ns}\n".encode())
    for path, _ in samples[:: max(1, len(samples) // LOOKED_AT)]:
        status = Path(path).stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    side = dataset.size + 2 * dataset.padding
    return {
        "format": FORMAT,
        "shape": [len(samples), side, side, 3],
        "padding": dataset.padding,
        "made_from": digest.hexdigest(),
    }


def list_folders(data_dir: Path, cache_dir: Path | None) -> list[Path]:
    """Where a cache may be, the preferred folder first."""
    if cache_dir:
        return [cache_dir]
    place = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:8]
    scratch = Path(tempfile.gettempdir()) / f"decoded_{os.getuid()}"
    return [data_dir / ".decoded", scratch / f"{data_dir.resolve().name}_{place}"]


def find_cache(folders: list[Path], name: str, header: dict) -> np.ndarray | None:
    found = (read_cache(folder / name, header) for folder in folders)
    return next((pixels for pixels in found if pixels is not None), None)


def read_cache(path: Path, header: dict) -> np.ndarray | None:
    """Map the file's pixels into memory; None unless it is whole and has exactly this header."""
    size = HEADER + int(np.prod(header["shape"]))
    try:
        with path.open("rb") as file:
            if file.read(HEADER) != encode(header) or os.fstat(file.fileno()).st_size != size:
                return None
            # Read ahead in long strides: batches ask for single images, all over the file.
            os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_WILLNEED)
            return np.memmap(file, np.uint8, "r", HEADER, tuple(header["shape"]))
    except OSError:
        return None


def encode(header: dict) -> bytes:
    return json.dumps(header).encode().ljust(HEADER)


# ---- Making it -----------------------------------------------------------------------------


def choose_folder(folders: list[Path], header: dict) -> Path:
    """Return the first folder that can be written and has room; TrainingError if none has."""
    needed = int(np.prod(header["shape"])) + HEADER
    reasons = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            status = folder.stat()
            if folder.parent.name.startswith("decoded_") and status.st_uid != os.getuid():
                raise PermissionError(0, "belongs to somebody else")
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror}")
            continue
        if free > needed:
            return folder
        reasons.append(f"{folder}: {free / GIB:.1f} GiB free")
    raise TrainingError(
        f"no room for {needed / GIB:.1f} GiB of decoded images ({'; '.join(reasons)}); "
        "pass --cache-dir DIR, or --input jpeg to decode in every epoch"
    )


@contextmanager
def node_lock(path: Path) -> Iterator[None]:
    """Let one process of this node in at a time; the others wait. It ends with its process."""
    digest = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]
    lock = Path(tempfile.gettempdir()) / f"decode_{os.getuid()}_{digest}.lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # by hand: a loader process that still lives has the file open, too
            fcntl.flock(file, fcntl.LOCK_UN)


class Squares(Dataset):
    """Item i is image i of `dataset`, (S, S, 3) uint8."""

    def __init__(self, dataset: AugmentedImages | PlainImages):
        self.images, self.size = dataset.images, dataset.size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return fit_square(self.images[index][0], self.size)


def build_cache(
    dataset: AugmentedImages | PlainImages,
    path: Path,
    header: dict,
    workers: int,
) -> None:
    """Decode all images into `path`, with so many processes; the file is whole or not there."""
    count = len(dataset)
    print(f"Decoding {count:,} images once, into {path}", flush=True)
    loader = DataLoader(
        Squares(dataset), BLOCK, num_workers=count_workers(workers), collate_fn=np.stack
    )
    blocks = show_progress(loader, len(loader), "Decoding", is_main=True)
    try:
        with new_file(path, lambda: read_cache(path, header) is not None) as file:
            file.write(encode(header))
            for block in blocks:
                file.write(pad_edges(block, dataset.padding))
    except OSError as error:
        why = explain_failed_write(path, error, "pass --cache-dir DIR or --input jpeg")
        raise TrainingError(why) from None


def count_workers(per_rank: int) -> int:
    """All processes of the node's ranks decode for the one that does not wait."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(per_rank * ranks, len(os.sched_getaffinity(0)))


@contextmanager
def new_file(path: Path, is_whole: Callable[[], bool]) -> Iterator:
    """Open a file that gets its name once it is whole; when cut off, even by SIGKILL, it is gone.

    Another node may have made the same file meanwhile, and may have mapped it: when it is whole, it
    stays. Over NFS a file that is replaced is taken from under those that read it (SIGBUS).
    Where a file system has no nameless files, a cut build leaves a .tmp that the next one takes.
    """
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.tmp")
    try:
        descriptor, nameless = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666), True
    except OSError:
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
        descriptor, nameless = os.open(temporary, flags, 0o666), False
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
            if nameless:
                temporary.unlink(missing_ok=True)
                # The folder's descriptor is not used, but makes Python follow the link of /proc.
                os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor)
        try:
            os.link(temporary, path)
        except OSError:  # the name is taken, or the file system has no links
            if not is_whole():
                temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
