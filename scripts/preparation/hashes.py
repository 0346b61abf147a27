"""Checksums, by which equal data are known."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def hash_texts(texts: Iterable[str]) -> str:
    """Return the sha256 of the texts one behind the other, in hexadecimal digits."""
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode())
    return total.hexdigest()


def hash_files(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of each file in root, by its name."""
    sums = {}
    for name in names:
        with (root / name).open("rb") as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums
