"""Files from the web and zip archives: resumed, checked, and only then unpacked."""

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from common.console import Progress
from common.errors import UserError
from common.files import hash_file

CHUNK_BYTES = 1024**2
NETWORK_TIMEOUT_S = 30


@contextmanager
def downloaded(url: str, checksum: str, part: Path, by_hand: str) -> Iterator[Path]:
    """Give the file at url, checked, as part; keep part only where a later run can use it.

    checksum: its md5 or sha256, in hexadecimal digits.
    by_hand: the command that does without the network, for the message when that fails.
    A UserError in the caller's block says that the file is no good either: it is removed.
    """
    try:
        download(url, part)
    except UserError as error:
        fix = f"run again to go on, or fetch it elsewhere, copy it here and run: {by_hand}"
        raise UserError(f"{error}; {fix}") from None
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
    try:
        check_digest(part, checksum)
        yield part
    except UserError as error:
        part.unlink()
        raise UserError(f"{error}; the download from {url} was removed") from None
    part.unlink()


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

    Raises UserError with the reason when the network or the server fails.
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
        raise UserError(f"cannot download {url} ({reason})") from None


def check_digest(file: Path, checksum: str) -> None:
    """Raise UserError unless the file has the checksum, an md5 or a sha256."""
    algorithm, fix = ("md5", ", or set --md5") if len(checksum) == 32 else ("sha256", "")
    # The flag lets hosts in FIPS mode compute md5: it is for damage, not for secrets.
    found = hash_file(file, hashlib.new(algorithm, usedforsecurity=False))
    if found != checksum:
        size = f"{file.stat().st_size:,} bytes"
        what = f"{file} ({size}) has {algorithm} {found} instead of {checksum}"
        raise UserError(f"{what}: damaged, or another file; fetch it again{fix}")


# ---- Archives --------------------------------------------------------------------------


def unpack_zip(archive: Path, folder: Path, max_bytes: int) -> None:
    """Unpack the archive in folder, which is made when there is something to put in it.

    Raises UserError, before anything is written, when a member would land outside folder, is
    no plain file or folder, or when all of them are beyond max_bytes; later when one is damaged.
    """
    import zipfile
    import zlib

    progress = Progress(f"unpack {archive}", "files")
    try:
        with zipfile.ZipFile(archive) as members:
            check_members(archive, members.infolist(), max_bytes)
            for done, member in enumerate(members.infolist()):
                members.extract(member, folder)
                progress.show(done, len(members.infolist()))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{archive} is not an archive that can be unpacked ({error})") from None


def check_members(archive: Path, members: list, max_bytes: int) -> None:
    """Raise UserError when a zip member is unsafe to unpack, or all are too large together."""
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.orig_filename:
            raise UserError(f"{archive} is unsafe: {member.filename!r} would land outside of it")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{archive} is unsafe: {member.filename!r} is a link or a device")
    total_bytes = sum(member.file_size for member in members)
    if total_bytes > max_bytes:
        limit = f"the limit of {max_bytes:,}"
        raise UserError(f"{archive} unpacks to {total_bytes:,} bytes, over {limit}")
