"""A zip archive that somebody else made: looked through before anything of it is written."""

import stat
from pathlib import Path, PurePosixPath

from common.errors import UserError
from preparation.progress import Progress


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
        raise UserError(f"{archive} is no archive that can be unpacked ({error})") from None


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
