"""Write a file whole or not at all."""

import errno
import json
import math
import os
import stat
import tempfile
from pathlib import Path

from common.errors import UserError


def write_whole(path: Path, text: str, fix: str = "") -> None:
    """Write text to path so that no reader ever meets half of it.

    A temporary file beside it is synced and renamed; the file that was there stays when
    anything fails. Raises UserError, in one line, when path cannot be written; `fix` is what to
    do about it where the disk is not full.
    """
    path = Path(path)
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            path.write_text(text, encoding="utf-8")  # a pipe or device holds nothing to keep
            return
        target = path.resolve()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file in it")
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "it is write-protected")
        _replace(target, text)
    except OSError as error:
        raise UserError(explain_failed_write(path, error, fix)) from error


def write_json(path: Path, data: dict, fix: str = "") -> None:
    """Write data as indented JSON with write_whole. JSON has no NaN: such numbers become null."""
    text = json.dumps(replace_nan(data), indent=2, allow_nan=False)
    write_whole(path, text + "\n", fix)


def hash_file(path: Path, digest) -> str:
    """Return a file's digest in hexadecimal; `digest` is a new object of hashlib."""
    with path.open("rb") as file:
        while block := file.read(2**20):  # hashlib.file_digest came with Python 3.11
            digest.update(block)
    return digest.hexdigest()


def explain_failed_write(path: Path, error: Exception, fix: str = "") -> str:
    """One line for a file that could not be written: what, why, and what to do."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space"
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return f"{path}: cannot be written: {reason}" + (f"; {fix}" if fix else "")


def _replace(target: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(_usual_mode(target))
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _usual_mode(target: Path) -> int:
    """Return the mode of the file that is replaced, else what the umask gives a new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def replace_nan(value):
    """Replace every float that is not finite by None, in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: replace_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
