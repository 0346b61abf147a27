"""What a command prints and how it ends: one-line texts, its status, no traceback on Ctrl-C."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.files import write_whole

STOPPED, PIPE_CLOSED = 130, 141  # as a shell shows Ctrl-C and a reader that has gone


def run_command(main: Callable[[], int]) -> None:
    """Exit with what main returns; quietly on Ctrl-C, and when `| head` has read enough."""
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = STOPPED
    except BrokenPipeError:
        # What is still buffered has no reader; Python would complain of it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = PIPE_CLOSED
    sys.exit(status)


def put_out(make_text: Callable[[], str], output: Path | None) -> int:
    """Print what `make_text` returns, or write it to `output`; an error is one line, status 1."""
    try:
        text = make_text()
        if output is None:
            print(text, end="")
        else:
            write_whole(output, text)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return 0


def printable(text: object) -> str:
    """Return text as one printable line: no control characters, no lone surrogates."""
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()


def shorten(text: str, limit_chars: int = 200) -> str:
    """Return text as one line of at most `limit_chars` characters, the cut marked with …"""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit_chars else line[: limit_chars - 1].rstrip() + "…"
