"""prepare_data.py tinyimagenet --archive and --download: what is fetched, checked and unpacked."""

import hashlib
import io
import socket
import stat
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from test_prepare_data import assert_refused, list_names, prepare, read_tree

import prepare_data
from preparation import download, options, tinyimagenet
from training.images.tinyimagenet import load_splits


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


@pytest.fixture
def zipped(tmp_path, server) -> str:
    """A sound archive is served and lies in tmp_path/tiny.zip; return its md5."""
    md5 = make_zip(tmp_path / "tiny.zip")
    server.content = (tmp_path / "tiny.zip").read_bytes()
    return md5


def test_the_published_archive_is_the_default():
    arguments = prepare_data.build_parser().parse_args(["tinyimagenet", "--download", "x"])
    assert options.read_settings(arguments, tinyimagenet.OPTIONS) == {
        "url": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "md5": "90528d7ca1a48142e341f4ef8d21d0de",
    }


def test_download_is_verified_and_unpacked(tmp_path, server, zipped):
    target = tmp_path / "data"
    status, out, err = prepare("--download", "--url", server.url, "--md5", zipped.upper(), target)
    assert (status, err) == (0, "")
    assert f"{target} is ready: archive, 2 classes, 3 train and 2 val images, " in out
    train_set, val_set = load_splits(target)
    assert [label for _, label in train_set.samples] == [0, 0, 1] and len(val_set) == 2
    assert list_names(tmp_path) == ["data", "tiny.zip"]
    # The same data from a file: found, not made again.
    status, out, _ = prepare("--archive", tmp_path / "tiny.zip", "--md5", zipped, target)
    assert status == 0 and "is already there" in out and server.requested == [None]


@pytest.mark.parametrize("top", ["", "tiny-imagenet-200/"])
def test_archive_is_unpacked_and_kept(tmp_path, top):
    md5 = make_zip(tmp_path / "tiny.zip", top)
    status, out, _ = prepare("--archive", tmp_path / "tiny.zip", "--md5", md5, tmp_path / "data")
    assert status == 0 and "2 classes, 3 train and 2 val images" in out
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o755
    assert list_names(tmp_path) == ["data", "tiny.zip"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    tmp_path, server, zipped, monkeypatch, ranges
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
    monkeypatch.setattr(download, "CHUNK_BYTES", 200)  # many chunks, as of a large file
    status, out, _ = prepare(*arguments)
    assert status == 0 and "is ready" in out
    assert server.requested == [None, "bytes=700-"]
    assert list_names(tmp_path) == ["data", "tiny.zip"]


def test_a_download_that_was_whole_already_is_not_fetched_again(tmp_path, server, zipped):
    """As after a full disk: the archive stayed, unpacking it did not succeed."""
    (tmp_path / "data.zip.part").write_bytes(server.content)
    arguments = ["--download", "--url", server.url, "--md5", zipped, tmp_path / "data"]
    assert prepare(*arguments)[0] == 0
    assert server.requested == [f"bytes={len(server.content)}-"]


def test_a_wrong_checksum_is_named_and_the_download_removed(tmp_path, server, zipped):
    arguments = ["--download", "--url", server.url, "--md5", "0" * 32, tmp_path / "data"]
    assert_refused(
        prepare(*arguments),
        f"has md5 {zipped} instead of {'0' * 32}",
        f"{len(server.content):,} bytes",
        f"the download from {server.url} was removed",
    )
    assert list_names(tmp_path) == ["tiny.zip"]


def test_nothing_is_unpacked_before_the_checksum_is_right(tmp_path, zipped, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    result = prepare("--archive", tmp_path / "tiny.zip", "--md5", "0" * 32, tmp_path / "data")
    assert_refused(result, "tiny.zip (", f"has md5 {zipped} instead of", "fetch it again")
    assert list_names(tmp_path) == ["tiny.zip"]


def test_a_server_that_refuses_is_named(tmp_path, server):
    server.status = 404
    arguments = ["--download", "--url", server.url, tmp_path / "data"]
    assert_refused(prepare(*arguments), f"cannot download {server.url} (Not Found); ", "--archive")
    assert list_names(tmp_path) == []


def test_a_network_that_is_down_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
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
def test_an_unsafe_archive_is_refused_and_nothing_written(tmp_path, server, what, source):
    extra, reason = UNSAFE[what]
    archive = tmp_path / "outer/tiny.zip"
    archive.parent.mkdir()
    md5 = make_zip(archive, extra=extra)
    server.content = archive.read_bytes()
    where = [archive] if source == "--archive" else ["--url", server.url]
    result = prepare(source, *where, "--md5", md5, tmp_path / "outer/data")
    assert_refused(result, "is unsafe", "evil", reason)
    assert list(read_tree(tmp_path)) == ["outer/tiny.zip"]


def test_an_archive_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tinyimagenet, "MAX_UNPACKED_BYTES", 100_000)
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
def test_a_damaged_archive_is_one_line_even_with_its_own_checksum(tmp_path, what):
    archive = tmp_path / "tiny.zip"
    make_zip(archive, extra={"tiny-imagenet-200/é.txt": b"x"})
    archive.write_bytes(DAMAGED[what](archive.read_bytes()))
    result = prepare("--archive", archive, "--md5", md5_of(archive), tmp_path / "data")
    assert_refused(result, "tiny.zip is not an archive that can be unpacked (")
    assert list_names(tmp_path) == ["tiny.zip"]


def test_an_archive_of_something_else_is_refused(tmp_path):
    archive = tmp_path / "other.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("cifar/train/1.png", b"x")
    result = prepare("--archive", archive, "--md5", md5_of(archive), tmp_path / "data")
    assert_refused(result, "holds no train/ and val/ folders", "not TinyImageNet")


def test_an_archive_that_is_not_there_is_named(tmp_path):
    result = prepare("--archive", tmp_path / "no.zip", tmp_path / "data")
    assert_refused(result, f"cannot read the archive {tmp_path}/no.zip (No such file or directory)")
