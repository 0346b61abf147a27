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
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space" if full else "choose another --workdir (in a job: RUN_DIR)"
        raise TrainingError(f"cannot write {path}: {error.strerror}; {fix}") from None


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
