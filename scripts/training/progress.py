"""A bar on a terminal, nothing in a log file: there, the epoch lines are the progress."""

import sys
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import track


def show_progress(steps: Iterable, total: int, what: str, *, is_main: bool) -> Iterator:
    """Pass on `steps`; on rank 0 with a terminal at stderr, draw a bar that goes when they end."""
    if not (is_main and sys.stderr.isatty()):
        yield from steps
        return
    console = Console(stderr=True)
    yield from track(steps, what, total=total, console=console, transient=True)
