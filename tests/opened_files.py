"""Counts which files a command opens, by Python's own audit events: no way to open escapes."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_counting: list[tuple[str, Counter]] = []


def _hear(event: str, arguments: tuple) -> None:
    if event == "open" and _counting and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100  Path() may open itself
        for root, opened in _counting:
            if path.startswith(root) and not Path(path).is_dir():
                opened[path.removeprefix(root)] += 1


sys.addaudithook(_hear)  # it stays for the process, and does nothing outside of count_opens


@contextmanager
def count_opens(folder: Path) -> Iterator[Counter]:
    """Yield a Counter of the files below a folder that are opened inside the `with`."""
    root = f"{Path(folder).resolve()}{os.sep}"
    opened: Counter = Counter()
    _counting.append((root, opened))
    try:
        yield opened
    finally:
        _counting.remove((root, opened))
