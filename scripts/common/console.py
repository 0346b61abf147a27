"""What a command prints and how it ends: one-line texts, its status, no traceback on Ctrl-C.

Exit status: 0 when the work was done, 1 when it failed, 2 for a command typed wrongly. Colour is
rich's: on terminals only, and never where NO_COLOR is set.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.files import write_whole

STOPPED, PIPE_CLOSED = 130, 141  # as a shell shows Ctrl-C and a reader that has gone


def run_command(main: Callable[[], int]) -> None:
    """Exit with what main returns; quietly on Ctrl-C, and when `| head` has read enough.

    A UserError, or a file that the system refuses, becomes one line on stderr and status 1.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # closed by `>&-`: as if sent to nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w"))
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    try:
        status = _end(main)
    except BrokenPipeError:
        # What is still buffered has no reader; Python would complain of it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = PIPE_CLOSED
    set_quiet(False)  # for the next command of this process, if there is one
    sys.exit(status)


def _end(main: Callable[[], int]) -> int:
    """Run main and write out what it printed; returns the command's exit status."""
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()  # also of --help, which ends by SystemExit
    except SystemExit as end:
        return end.code
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:  # see common.signals, which gives it the signal's number
        return 128 + error.args[0] if error.args else STOPPED
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        what = printable(error.filename or "the output")
        print(f"error: {what}: {error.strerror}", file=sys.stderr)
        if not error.filename:  # nor can what is still buffered be written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


_is_quiet = False  # see --quiet in common.arguments


def set_quiet(is_quiet: bool) -> None:
    """Say whether notices and warnings are printed from now on; errors and results always are."""
    global _is_quiet
    _is_quiet = is_quiet
    logging.disable(logging.WARNING if is_quiet else logging.NOTSET)


def notice(text: object, file=None) -> None:
    """Print what is no result, such as where a file was written, unless --quiet."""
    if not _is_quiet:
        print(text, file=file, flush=True)


def warn(text: object) -> None:
    """Print a warning as one line on stderr, unless --quiet."""
    notice(f"warning: {printable(text)}", sys.stderr)


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
    line = str(text)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else " " for c in line)
    return line.strip()


def shorten(text: str, limit_chars: int = 200) -> str:
    """Return text as one line of at most `limit_chars` characters, the cut marked with …"""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit_chars else line[: limit_chars - 1].rstrip() + "…"


class Progress:
    """Says on stderr how far a long step is: live on a terminal, every 10 s in a log."""

    def __init__(self, what: str, unit: str):
        self.what, self.unit, self.live = what, unit, sys.stderr.isatty()
        self.is_shown = not _is_quiet
        self.shown_s = time.monotonic()

    def show(self, done: float, total: float) -> None:
        if self.is_shown and time.monotonic() - self.shown_s > (0.2 if self.live else 10):
            self.shown_s = time.monotonic()
            text = f"{self.what}: {done:,.0f} of {total:,.0f} {self.unit}"
            print(text, end="\x1b[K\r" if self.live else "\n", file=sys.stderr, flush=True)
