"""Write files that are whole or not there at all."""

import errno
import json
import math
import os
from pathlib import Path

from training.errors import TrainingError


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically: temporary file, fsync, rename.

    Raises TrainingError naming the file when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        fix = "choose another --workdir (in a job: RUN_DIR)"
        raise TrainingError(say_why(path, error, fix)) from None


def say_why(path: Path, error: Exception, fix: str) -> str:
    """One line for a file that could not be written: what, why, and what to do."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space"
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return f"cannot write {path}: {reason}; {fix}"


def write_json(path: Path, data: dict) -> None:
    """Write `data` as JSON, atomically. JSON has no NaN: such numbers become null."""
    write_text(path, json.dumps(replace_nan(data), indent=2, allow_nan=False) + "\n")


def replace_nan(value):
    """Replace every float that is not finite by None, in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: replace_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
