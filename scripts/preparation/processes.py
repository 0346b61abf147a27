"""Work in a process of its own, which ends at once when this one is told to stop."""

import signal
from collections.abc import Callable
from typing import Any

from common.errors import UserError
from preparation.signals import STOP_SIGNALS


def run_in_process(work: Callable, *arguments: Any) -> Any:
    """Return work(*arguments), computed in another process; all of it must be picklable.

    A library that computes for half a minute lets no Python code see a signal meanwhile: here the
    signal ends this function, and this function the work. Raises what work raises, and UserError
    when the process was killed.
    """
    from multiprocessing import get_context, resource_tracker

    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_outcome, args=(sender, work, arguments), daemon=True)
    resource_tracker.ensure_running()  # would otherwise be started by start(), and lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process.start()  # it inherits the block: Ctrl-C in a terminal is for the parent alone
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        raise UserError("a worker was killed (out of memory?); give less text") from None
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def send_outcome(sender, work: Callable, arguments: tuple) -> None:
    try:
        outcome = work(*arguments)
    except Exception as error:
        outcome = error
    sender.send(outcome)
