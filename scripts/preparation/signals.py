"""The signals that stop the work: the parent tidies up once, its worker processes stay quiet."""

import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def catch_signals() -> None:
    """Let the end of a job or a terminal tidy up as Ctrl-C does; what nohup ignores stays so."""
    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, interrupt)


def interrupt(signum: int, frame: object) -> None:
    """Raise KeyboardInterrupt with the signal's number, and be deaf to any further signal."""
    for each in STOP_SIGNALS:  # an impatient second Ctrl-C must not stop the tidying halfway
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signum)


def leave_signals_to_parent() -> None:
    """Stay quiet when Ctrl-C reaches every process of the terminal: the parent stops the work."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
