"""prepare_data.py: each source, what it refuses, and that nothing half-made is left behind."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import prepare_data
import pytest
from PIL import Image
from training.tinyimagenet import load_splits

SCRIPT = Path(prepare_data.__file__)
SMALL = ["--classes", "3", "--train-per-class", "4", "--val-per-class", "2", "--workers", "2"]


@pytest.fixture(autouse=True)
def leave_process_as_it_was(monkeypatch):
    """main() belongs to a process of its own: it sets signal handlers and the umask."""
    handlers = {signum: signal.getsignal(signum) for signum in prepare_data.STOP_SIGNALS}
    umask = os.umask(0o022)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield
    os.umask(umask)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def prepare(capsys):
    """Run `prepare_data.py tinyimagenet ARGUMENTS`; return (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = prepare_data.main(["tinyimagenet", *map(str, arguments)])
        except SystemExit as leaving:
            status = leaving.code
        return status, *capsys.readouterr()

    return run


def assert_refused(result: tuple[int, str, str], *expected: str) -> None:
    """Exit status 1, nothing on stdout, and one line on stderr that holds what is expected."""
    status, out, err = result
    assert (status, out) == (1, "")
    assert err.startswith("prepare_data.py: ") and err.count("\n") == 1, err
    for text in expected:
        assert text in err


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------
# --digits
# ------------------------------------------------------------------------------

DIGIT_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of the UCI test part


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("digits") / "data"
    assert prepare_data.main(["tinyimagenet", "--digits", str(root)]) == 0
    return root


def test_digits_are_all_there_and_split_stratified(digits):
    train_set, val_set = load_splits(digits, None, None)
    assert train_set.classes == [f"d000000{digit}" for digit in range(10)]
    train = np.bincount([label for _, label in train_set.samples])
    val = np.bincount([label for _, label in val_set.samples])
    assert (train + val).tolist() == DIGIT_COUNTS and train.sum() + val.sum() == 1797
    assert all(abs(n_val - 0.2 * n) <= 1 for n_val, n in zip(val, DIGIT_COUNTS, strict=True))


def test_digits_are_64x64_rgb_jpegs(digits):
    for path in digits.rglob("*.JPEG"):
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")


def test_digits_hold_the_real_pixels_each_once(digits):
    """Shrunk back to 8x8, file k of a class is scikit-learn's k-th image of that digit."""
    from sklearn.datasets import load_digits

    source = load_digits()
    train_set, val_set = load_splits(digits, shrink, shrink)
    for digit in range(10):
        real = source.images[source.target == digit].reshape(-1, 64) * 255 / 16
        made = np.full_like(real, np.nan)
        for i, (path, label) in enumerate(train_set.samples):
            if label == digit:
                made[int(Path(path).stem.split("_")[1])] = train_set[i][0]
        # The places that are left are those of the validation images, in their order.
        made[np.isnan(made[:, 0])] = [image for image, label in val_set if label == digit]
        distance = np.abs(made[:, None] - real[None]).mean(axis=2)  # grey levels, of 255
        assert distance.diagonal().max() < 17  # smoothing costs that much
        assert (distance.argmin(axis=1) == np.arange(len(real))).mean() > 0.99


def shrink(image: Image.Image) -> np.ndarray:
    grey = image.convert("L").resize((8, 8), Image.Resampling.BOX)
    return np.asarray(grey, dtype=float).ravel()


def test_digits_have_the_lists_of_the_original(digits):
    assert (digits / "words.txt").read_text().splitlines()[3] == "d0000003\thandwritten digit 3"
    assert (digits / "wnids.txt").read_text().splitlines()[3] == "d0000003"
    line = (digits / "val/val_annotations.txt").read_text().splitlines()[0]
    assert re.fullmatch(r"val_0\.JPEG\td000000\d\t0\t0\t63\t63", line)
    assert (digits / "train/d0000000/images/d0000000_0.JPEG").is_file()


def test_digits_are_found_again_and_not_made_again(digits, prepare):
    before = digits.stat().st_ino
    status, out, _ = prepare("--digits", digits)
    expected = "is already there: digits, 10 classes, 1,438 train and 359 val images\n"
    assert (status, out) == (0, f"{digits} {expected}")
    assert digits.stat().st_ino == before


# ------------------------------------------------------------------------------
# --synthetic
# ------------------------------------------------------------------------------


def test_synthetic_has_the_size_that_was_asked_for(tmp_path, prepare):
    status, out, err = prepare("--synthetic", *SMALL, "--image-size", 32, tmp_path / "a/b")
    assert (status, err) == (0, "")
    expected = r"/a/b is ready: synthetic, 3 classes, 12 train and 6 val images, \d+\.\d s\n"
    assert re.fullmatch(re.escape(str(tmp_path)) + expected, out)
    train_set, val_set = load_splits(tmp_path / "a/b", None, None)
    assert [len(train_set.classes), len(train_set), len(val_set)] == [3, 12, 6]
    assert {image.size for image, _ in train_set} == {(32, 32)}
    # The first validation images show every class, for runs that stop after a few batches.
    assert [label for _, label in val_set.samples] == [0, 1, 2, 0, 1, 2]
    record = json.loads((tmp_path / "a/b/dataset.json").read_text())
    assert record == {
        "workload": "tinyimagenet",
        "source": "synthetic",
        "parameters": {
            "classes": 3,
            "train_per_class": 4,
            "val_per_class": 2,
            "image_size": 32,
            "seed": 0,
        },
        "classes": 3,
        "train_images": 12,
        "val_images": 6,
    }


def test_synthetic_is_the_same_for_a_seed_and_any_number_of_workers(tmp_path, prepare):
    for name, options in {
        "one": ["--workers", 1],
        "two": ["--seed", 0],
        "other": ["--seed", 1],
    }.items():
        assert prepare("--synthetic", *SMALL, *options, tmp_path / name)[0] == 0
    one, two, other = (read_tree(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    images = [name for name in one if name.endswith(".JPEG")]
    assert len(images) == 18 and all(one[name] != other[name] for name in images)
    assert len({one[name] for name in images}) == 18  # no image twice


def test_synthetic_images_weigh_as_the_real_ones_and_can_be_learnt(tmp_path, prepare):
    options = ["--classes", 8, "--train-per-class", 20, "--val-per-class", 5]
    assert prepare("--synthetic", *options, tmp_path / "data")[0] == 0
    weights = [path.stat().st_size for path in (tmp_path / "data").rglob("*.JPEG")]
    assert 1800 <= np.mean(weights) <= 2300  # bytes; 248 MB / 120,000 images in the real archive
    sets = load_splits(tmp_path / "data", measure_spectrum, measure_spectrum)
    (train, label), (val, val_label) = (
        (np.stack([x for x, _ in each]), np.array([y for _, y in each])) for each in sets
    )
    means = np.stack([train[label == k].mean(axis=0) for k in range(8)])
    nearest = np.linalg.norm(val[:, None] - means[None], axis=2).argmin(axis=1)
    assert (nearest == val_label).mean() >= 0.9  # one in eight by chance


def measure_spectrum(image: Image.Image) -> np.ndarray:
    """Return what is left of an image when shifts, as a convolution does, no longer matter."""
    return np.abs(np.fft.fft2(np.asarray(image, dtype=float), axes=(0, 1))).ravel()


# ------------------------------------------------------------------------------
# --archive and --download
# ------------------------------------------------------------------------------


def make_zip(path: Path, top: str = "tiny-imagenet-200/", extra: dict | None = None) -> str:
    """Write a zip with 2 classes, 3 images in each split's folders; return its md5."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(buffer, "JPEG")
    with zipfile.ZipFile(path, "w") as archive:
        for wnid, name in (("n01", "n01_0"), ("n01", "n01_1"), ("n02", "n02_0")):
            archive.writestr(f"{top}train/{wnid}/images/{name}.JPEG", buffer.getvalue())
        lines = "val_0.JPEG\tn01\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n"
        archive.writestr(f"{top}val/val_annotations.txt", lines)
        archive.writestr(f"{top}val/images/val_0.JPEG", buffer.getvalue())
        archive.writestr(f"{top}val/images/val_1.JPEG", buffer.getvalue())
        archive.writestr(f"{top}wnids.txt", "n01\nn02\n")
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return md5_of(path)


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file over real HTTP on 127.0.0.1; `ranges` and `stop_after` shape how."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.status, self.ranges, self.stop_after = b"", 200, True, None
        self.requested: list[str | None] = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_port}/tiny.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requested.append(asked)
        start = (
            int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        )
        status = server.status
        if status == 200 and start:
            status = 206 if start < len(server.content) else 416
        body = server.content[start:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.stop_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def zipped(tmp_path, server) -> str:
    """A sound archive is served and lies in tmp_path/tiny.zip; return its md5."""
    md5 = make_zip(tmp_path / "tiny.zip")
    server.content = (tmp_path / "tiny.zip").read_bytes()
    return md5


def test_the_published_archive_is_the_default(capsys):
    options = prepare_data.build_parser().parse_args(["tinyimagenet", "--download", "x"])
    options_of_source = prepare_data.read_settings(options)
    assert options_of_source == {
        "url": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "md5": "90528d7ca1a48142e341f4ef8d21d0de",
    }


def test_download_is_verified_and_unpacked(tmp_path, prepare, server, zipped):
    target = tmp_path / "data"
    status, out, err = prepare("--download", "--url", server.url, "--md5", zipped.upper(), target)
    assert (status, err) == (0, "")
    assert f"{target} is ready: archive, 2 classes, 3 train and 2 val images, " in out
    train_set, val_set = load_splits(target, None, None)
    assert [label for _, label in train_set.samples] == [0, 0, 1] and len(val_set) == 2
    assert list_names(tmp_path) == ["data", "tiny.zip"]
    # The same data from a file: found, not made again.
    status, out, _ = prepare("--archive", tmp_path / "tiny.zip", "--md5", zipped, target)
    assert status == 0 and "is already there" in out and server.requested == [None]


@pytest.mark.parametrize("top", ["", "tiny-imagenet-200/"])
def test_archive_is_unpacked_and_kept(tmp_path, prepare, top):
    md5 = make_zip(tmp_path / "tiny.zip", top)
    status, out, _ = prepare("--archive", tmp_path / "tiny.zip", "--md5", md5, tmp_path / "data")
    assert status == 0 and "2 classes, 3 train and 2 val images" in out
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o755
    assert list_names(tmp_path) == ["data", "tiny.zip"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    tmp_path, prepare, server, zipped, monkeypatch, ranges
):
    arguments = ["--download", "--url", server.url, "--md5", zipped, tmp_path / "data"]
    server.stop_after, server.ranges = 700, ranges
    total = len(server.content)
    assert_refused(
        prepare(*arguments),
        f"cannot download {server.url} (cut off after 700 of {total:,} bytes); run again to go on",
        f"tinyimagenet --archive FILE {tmp_path / 'data'}",
    )
    assert (tmp_path / "data.zip.part").stat().st_size == 700
    server.stop_after = None
    monkeypatch.setattr(prepare_data, "CHUNK_BYTES", 200)  # many chunks, as of a large file
    status, out, _ = prepare(*arguments)
    assert status == 0 and "is ready" in out
    assert server.requested == [None, "bytes=700-"]
    assert list_names(tmp_path) == ["data", "tiny.zip"]


def test_a_download_that_was_whole_already_is_not_fetched_again(tmp_path, prepare, server, zipped):
    """As after a full disk: the archive stayed, unpacking it did not succeed."""
    (tmp_path / "data.zip.part").write_bytes(server.content)
    arguments = ["--download", "--url", server.url, "--md5", zipped, tmp_path / "data"]
    assert prepare(*arguments)[0] == 0
    assert server.requested == [f"bytes={len(server.content)}-"]


def test_a_wrong_checksum_is_named_and_the_download_removed(tmp_path, prepare, server, zipped):
    arguments = ["--download", "--url", server.url, "--md5", "0" * 32, tmp_path / "data"]
    assert_refused(
        prepare(*arguments),
        f"has md5 {zipped} instead of {'0' * 32}",
        f"{len(server.content):,} bytes",
        f"the download from {server.url} was removed",
    )
    assert list_names(tmp_path) == ["tiny.zip"]


def test_nothing_is_unpacked_before_the_checksum_is_right(tmp_path, prepare, zipped, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    result = prepare("--archive", tmp_path / "tiny.zip", "--md5", "0" * 32, tmp_path / "data")
    assert_refused(result, "tiny.zip (", f"has md5 {zipped} instead of", "fetch it again")
    assert list_names(tmp_path) == ["tiny.zip"]


def test_a_server_that_refuses_is_named(tmp_path, prepare, server):
    server.status = 404
    arguments = ["--download", "--url", server.url, tmp_path / "data"]
    assert_refused(prepare(*arguments), f"cannot download {server.url} (Not Found); ", "--archive")
    assert list_names(tmp_path) == []


def test_a_network_that_is_down_is_named(tmp_path, prepare):
    with socket.socket() as taken:  # bound and not listening: nobody answers at this port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/tiny.zip"
        result = prepare("--download", "--url", url, tmp_path / "data")
    expected = f"cannot download {url} (Connection refused); "
    assert_refused(result, expected, "copy it here", f"--archive FILE {tmp_path / 'data'}")
    assert list_names(tmp_path) == []


def link_member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


UNSAFE = {
    "parent": ({"tiny-imagenet-200/../../../evil": b"x"}, "would land outside"),
    "bare parent": ({"../evil": b"x"}, "would land outside"),
    "absolute": ({"/tmp/evil": b"x"}, "would land outside"),
    "backslash": ({"..\\evil": b"x"}, "would land outside"),
    "link": ({link_member("tiny-imagenet-200/evil"): b"/etc"}, "is a link or a device"),
}


@pytest.mark.parametrize("what", UNSAFE)
@pytest.mark.parametrize("source", ["--archive", "--download"])
def test_an_unsafe_archive_is_refused_and_nothing_written(tmp_path, prepare, server, what, source):
    extra, reason = UNSAFE[what]
    archive = tmp_path / "outer/tiny.zip"
    archive.parent.mkdir()
    md5 = make_zip(archive, extra=extra)
    server.content = archive.read_bytes()
    where = [archive] if source == "--archive" else ["--url", server.url]
    result = prepare(source, *where, "--md5", md5, tmp_path / "outer/data")
    assert_refused(result, "is unsafe", "evil", reason)
    assert list(read_tree(tmp_path)) == ["outer/tiny.zip"]


def test_an_archive_too_large_is_refused(tmp_path, prepare, monkeypatch):
    monkeypatch.setattr(prepare_data, "MAX_UNPACKED_BYTES", 100_000)
    archive = tmp_path / "tiny.zip"
    bomb = zipfile.ZipInfo("tiny-imagenet-200/zeros")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    md5 = make_zip(archive, extra={bomb: bytes(200_000)})
    assert archive.stat().st_size < 50_000
    result = prepare("--archive", archive, "--md5", md5, tmp_path / "data")
    assert_refused(result, "bytes, over the limit of 100,000")
    assert list_names(tmp_path) == ["tiny.zip"]


DAMAGED = {
    "cut": lambda content: content[: len(content) // 2],
    "a web page": lambda content: b"<html>moved</html>",
    "empty": lambda content: b"",
    "one byte": lambda content: content.replace(b"JFIF", b"JFIX", 1),
    "a name": lambda content: content.replace("é".encode(), b"\xc3("),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_archive_is_one_line_even_with_its_own_checksum(tmp_path, prepare, what):
    archive = tmp_path / "tiny.zip"
    make_zip(archive, extra={"tiny-imagenet-200/é.txt": b"x"})
    archive.write_bytes(DAMAGED[what](archive.read_bytes()))
    result = prepare("--archive", archive, "--md5", md5_of(archive), tmp_path / "data")
    assert_refused(result, "tiny.zip is no archive that can be unpacked (")
    assert list_names(tmp_path) == ["tiny.zip"]


def test_an_archive_of_something_else_is_refused(tmp_path, prepare):
    archive = tmp_path / "other.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("cifar/train/1.png", b"x")
    result = prepare("--archive", archive, "--md5", md5_of(archive), tmp_path / "data")
    assert_refused(result, "holds no train/ and val/ folders", "not TinyImageNet")


def test_an_archive_that_is_not_there_is_named(tmp_path, prepare):
    result = prepare("--archive", tmp_path / "no.zip", tmp_path / "data")
    assert_refused(result, f"cannot read the archive {tmp_path}/no.zip (No such file or directory)")


# ------------------------------------------------------------------------------
# A folder that is there already
# ------------------------------------------------------------------------------


def fill(target: Path, how: str) -> None:
    if how == "a file":
        target.write_text("mine")
        return
    target.mkdir()
    if how == "another's images":
        (target / "train").mkdir()
        (target / "val").mkdir()
    else:
        record = {"list": "[]", "garbage": "{", "other keys": '{"source": "digits"}'}[how]
        (target / "dataset.json").write_text(record)


@pytest.mark.parametrize(
    "how, expected",
    [
        ("a file", "data is not a folder; choose another DIR"),
        ("another's images", "was not made by this command (found: train, val); choose another"),
        ("list", "was not made by this command (found: dataset.json)"),
        ("garbage", "was not made by this command"),
        ("other keys", "was not made by this command"),
    ],
)
def test_what_is_not_ours_is_refused_and_left_alone(tmp_path, prepare, how, expected):
    fill(tmp_path / "data", how)
    before = read_tree(tmp_path)
    assert_refused(prepare("--synthetic", *SMALL, tmp_path / "data"), expected, "remove this one")
    assert read_tree(tmp_path) == before


def test_the_same_data_is_reused_and_other_data_refused(tmp_path, prepare):
    target = tmp_path / "data"
    assert prepare("--synthetic", *SMALL, target)[0] == 0
    assert "is already there" in prepare("--synthetic", *SMALL, "--workers", 1, target)[1]
    for other in (["--synthetic", *SMALL, "--seed", 1], ["--digits"]):
        assert_refused(prepare(*other, target), "holds other data", "source synthetic", "seed 0")
    next(target.glob("train/*/images/*")).unlink()
    assert_refused(prepare("--synthetic", *SMALL, target), "lost or won images", "remove this one")


def test_an_empty_folder_may_be_filled(tmp_path, prepare):
    (tmp_path / "data").mkdir()
    assert prepare("--synthetic", *SMALL, tmp_path / "data")[0] == 0
    assert list_names(tmp_path) == ["data"]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path, prepare):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "scratch")
    assert prepare("--synthetic", *SMALL, tmp_path / "data")[0] == 0
    assert (tmp_path / "data").is_symlink() and (tmp_path / "scratch/wnids.txt").is_file()


def test_two_at_once_end_with_one_dataset(tmp_path):
    """The second finds, when it is done, that the first has just put the same data there."""
    target = tmp_path / "data"
    identity = {"workload": "tinyimagenet", "source": "test", "parameters": {}}

    def build(scratch: Path) -> Path:
        prepare_data.make_layout(scratch / "dataset", {"n01": "a", "n02": "b"}, [0, 1])
        return scratch / "dataset"

    def build_slowly(scratch: Path) -> Path:
        assert "is ready" in prepare_data.publish(target, identity, build)
        return build(scratch)

    assert "is already there" in prepare_data.publish(target, identity, build_slowly)
    assert list_names(tmp_path) == ["data"]


# ------------------------------------------------------------------------------
# Disks, permissions, signals
# ------------------------------------------------------------------------------


def test_a_group_may_read_the_data_whatever_the_umask(tmp_path, prepare):
    os.umask(0o077)
    assert prepare("--synthetic", *SMALL, tmp_path / "data")[0] == 0
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o750 if path.is_dir() else 0o640), path


def run_on_small_disk(tmp_path: Path, mount_options: str) -> subprocess.CompletedProcess:
    """Run --synthetic on a tmpfs of its own, which only this process and its children see."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o "$1" tmpfs "$2" || exit 77\n'
        'shift; disk=$1; shift; "$@" "$disk/data"; status=$?\n'
        'ls -A "$disk"; exit $status'
    )
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    command = [sys.executable, SCRIPT, "tinyimagenet", "--synthetic", "--classes", "4"]
    result = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", mount_options, disk, *command],
        capture_output=True,
        text=True,
    )
    if result.returncode == 77 or "unshare:" in result.stderr:
        pytest.skip(f"cannot mount a tmpfs here: {result.stderr.strip()}")
    return result


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare (util-linux)")
@pytest.mark.parametrize(
    "mount_options, expected",
    [
        ("size=1m", "/disk/data (No space left on device); free some, or choose a DIR on"),
        ("ro", " (Read-only file system); choose a DIR in a folder that you may write to"),
    ],
)
def test_a_full_or_read_only_disk_is_one_line(tmp_path, mount_options, expected):
    result = run_on_small_disk(tmp_path, mount_options)
    assert_refused((result.returncode, result.stdout, result.stderr), expected)


@pytest.mark.parametrize(
    "number, expected",
    [
        (errno.EDQUOT, "no space for /d ("),
        (errno.EACCES, "cannot write /d/f (Permission denied); choose a DIR in a folder that you"),
        (errno.EIO, "cannot write /d/f (Input/output error)"),
    ],
)
def test_each_failed_write_is_explained(number, expected):
    error = OSError(number, os.strerror(number), "/d/f")
    assert prepare_data.explain_os_error(error, Path("/d")).startswith(expected)


def test_a_parent_that_is_a_file_is_one_line(tmp_path, prepare):
    (tmp_path / "file").write_text("")
    assert_refused(prepare("--synthetic", *SMALL, tmp_path / "file/data"), "cannot write", "DIR")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(tmp_path, signum):
    """As Ctrl-C does, and the end of a job: every process of the group gets the signal, twice."""
    command = [sys.executable, SCRIPT, "tinyimagenet", "--synthetic", "--workers", "2"]
    process = subprocess.Popen(
        [*command, tmp_path / "data"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline_s = time.monotonic() + 30
    while not any(tmp_path.glob(".data.*.tmp/dataset/train/*/images/*.JPEG")):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signum)
    time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    expected = f"stopped before {tmp_path / 'data'} was complete; run the same command again"
    assert err == f"prepare_data.py: {expected}\n"
    assert list_names(tmp_path) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no worker outlived it


# ------------------------------------------------------------------------------
# The command line
# ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("", "the following arguments are required: DIR"),
        ("data", "one of the arguments --download --digits --synthetic --archive is required"),
        ("--digits --synthetic data", "not allowed with argument"),
        ("--digits", "the following arguments are required: DIR"),
        ("--digits --classes 3 data", "--classes does not apply to --digits"),
        (
            "--synthetic --md5 90528d7ca1a48142e341f4ef8d21d0de data",
            "--md5 does not apply to --syn",
        ),
        ("--archive a.zip --url http://x/ data", "--url does not apply to --archive"),
        ("--synthetic --classes 0 data", "'0' is no whole number from 1 to 1000000"),
        ("--synthetic --classes -3 data", "--classes: "),
        ("--synthetic --image-size 4 data", "'4' is no whole number from 8 to 1024"),
        ("--synthetic --seed 1.5 data", "'1.5' is no whole number from 0"),
        ("--download --md5 123 data", "'123' is not 32 hexadecimal digits"),
        ("--download --url file:///etc/passwd data", "does not begin with http:// or https://"),
    ],
)
def test_wrong_arguments_exit_with_2(tmp_path, prepare, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    status, out, err = prepare(*arguments.split())
    assert (status, out) == (2, "")
    assert expected in err.splitlines()[-1]
    assert list_names(tmp_path) == []


def test_every_option_is_explained_with_its_default():
    actions = prepare_data.build_parser()._subparsers._group_actions[0].choices["tinyimagenet"]
    for action in actions._actions:
        assert action.help, action.option_strings
        if action.metavar in ("URL", "HEX", "N", "PIXELS"):
            assert "default: " in action.help, action.option_strings


def test_help_needs_no_heavy_import():
    """The login node's Python may have none of the packages."""
    heavy = ["torch", "numpy", "PIL", "sklearn", "urllib.request", "multiprocessing"]
    code = f"import sys, prepare_data; print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-S", "-c", code]
    result = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_a_missing_package_is_one_line(tmp_path, prepare, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert_refused(prepare("--digits", tmp_path / "data"), "sklearn", "bash scripts/setup_env.sh")
    assert list_names(tmp_path) == []
