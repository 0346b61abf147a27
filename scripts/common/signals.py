"""The signals that stop a command: it cleans up once, and its worker processes stay quiet."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def catch_signals() -> None:
    """Make SIGTERM and SIGHUP clean up as Ctrl-C does; what nohup ignores stays ignored."""
    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, interrupt)


def interrupt(signum: int, frame: object) -> None:
    """Raise KeyboardInterrupt with the signal's number, and ignore any further signal."""
    for each in STOP_SIGNALS:  # an impatient second Ctrl-C must not stop the cleanup halfway
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signum)


def leave_signals_to_parent() -> None:
    """Ignore Ctrl-C in a worker: it reaches every process, and the parent stops the work."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Delay the stop signals until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
