"""Run a trainer's main: a failure says which rank, which host and why, and all always ends."""

import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from common.errors import UserError
from common.heartbeat import (
    FAILED,
    LOST_PEER,
    TIMED_OUT,
    Heartbeat,
    name_hung,
    read_heartbeats,
    walk,
)
from training import flight_recorder
from training.device import check_gpus, keep_freed_memory
from training.network import choose_gloo_interface
from training.signals import Stopped

END_S = 60  # from the totals to the end of the process; then it is ended
_TIMED_OUT = re.compile(r"timed[ -]?out|timeout", re.IGNORECASE)
_LOST_PEER = re.compile(
    r"closed by peer|reset by peer|broken pipe|remote process exited|communicator was aborted",
    re.IGNORECASE,
)

heartbeat: Heartbeat | None = None  # of this process, when launch() was given a trainer's arguments


def launch(main: Callable[..., None], *args) -> None:
    """Call main(*args); on an exception print it with rank and host, and exit with status 1.

    Before the process group exists a UserError (no data set, a wrong option) is every rank's
    of a node, so only the node's first rank prints it. A training that a signal has stopped is
    saved: it exits with 0 when its job is to go on, else with the signal's status.
    """
    start_heartbeat(*args)
    try:
        check_gpus()
        keep_freed_memory()
        choose_gloo_interface()
        main(*args)
    except Stopped as stopped:
        if dist.get_rank() == 0:
            print(f"Stopped by {stopped}, all is saved", flush=True)
        bound_the_end(Path())  # the checkpoint is whole
        leave_group()
        sys.exit(0 if stopped.number == signal.SIGUSR1 else 128 + stopped.number)
    except Exception as error:
        how = judge(error)
        if heartbeat:
            heartbeat.fail(how, error)
        is_own = getattr(error, "is_own", False)  # of this rank alone
        everybodys = isinstance(error, UserError) and not is_own and not dist.is_initialized()
        if not everybodys or os.environ.get("LOCAL_RANK", "0") == "0":
            name_the_cause(how)
            report(error)
        else:
            let_the_first_speak()
        # Not sys.exit: tearing down a process group whose other ranks still wait can block.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def let_the_first_speak() -> None:
    """Wait a moment: torchrun ends all ranks with the first that exits, even one about to print."""
    time.sleep(10)


def report(error: Exception) -> None:
    """Write `error` to stderr in one piece, so that ranks do not mix within a line."""
    where = f"{describe_rank()} error: "
    if isinstance(error, UserError):
        text = where + str(error) + "\n"
    else:
        text = traceback.format_exc() + f"{where}{type(error).__name__}: {error}".rstrip() + "\n"
    sys.stderr.write(text)


def describe_rank() -> str:
    return f"[rank {os.environ.get('RANK', '0')} on {socket.gethostname()}]"


# ---- The rank that others wait for ---------------------------------------------------------


def start_heartbeat(*args) -> None:
    """Begin to write where this rank is, unless the folder holds another run's files."""
    global heartbeat
    workdir = getattr(args[0], "workdir", None) if args else None
    if workdir is not None and "RANK" in os.environ and not (workdir / "run.json").exists():
        heartbeat = Heartbeat(workdir)
        heartbeat.recorder = flight_recorder.switch_on()


def follow(progress: Callable[[], dict]) -> None:
    """Let the heartbeat ask `progress` for the epoch and step."""
    if heartbeat:
        heartbeat.progress = progress
        heartbeat.write_now()


def judge(error: Exception) -> str:
    """The heartbeat's word for it: did this rank fail, or wait in vain for another one?"""
    if not isinstance(error, UserError):
        if _TIMED_OUT.search(str(error)):
            return TIMED_OUT
        if _LOST_PEER.search(str(error)):
            return LOST_PEER
    return f"{FAILED}{type(error).__name__}"


def name_the_cause(how: str) -> None:
    """When this rank has waited in vain, say for whom: first, so that it is the first cause."""
    if not heartbeat or how not in (TIMED_OUT, LOST_PEER):
        return
    # A rank that lives writes once more; and who ends first makes torchrun end all on its node.
    time.sleep(heartbeat.period_s + (0.5 if how == TIMED_OUT else 2))
    named = name_hung(read_heartbeats(heartbeat.path.parent.parent))
    if named and heartbeat.is_first_to_name():
        sys.stderr.write(f"{describe_rank()} error: {named}\n")


# ---- The end -------------------------------------------------------------------------------


def leave_group() -> None:
    """Leave the process group: how every trainer ends.

    What is saved by now needs no second warning, which could find Python without its handlers.
    """
    with suppress(ValueError):  # not in the main thread: there are no handlers of ours, either
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # Before 2.8 a gloo thread that still held tensors could hang the destroy (4 of 7 loops of 45 s
    # on 2.5.1; none in 7,500 rounds with this pause).
    time.sleep(0.2)
    dist.destroy_process_group()


def bound_the_end(complete: Path, seconds: float | None = None) -> None:
    """From now on this process ends within END_S, whatever hangs: nodes must not be held.

    It then says where it hangs, and exits with 0 when the file `complete` exists: all was done.
    Nothing happens to a program that was not started by launch().
    """
    if not heartbeat:
        return
    heartbeat.end()
    seconds = END_S if seconds is None else seconds
    main = threading.main_thread().ident

    def end() -> None:
        time.sleep(seconds)
        frames = walk(sys._current_frames().get(main))[:6]
        stack = " < ".join(f"{Path(file).name}:{line} {name}" for file, line, name in frames)
        sys.stderr.write(
            f"{describe_rank()} warning: all was done, but it did not end within {seconds:g} s; "
            f"it is at {stack}\n"
        )
        sys.stderr.flush()
        os._exit(0 if complete.exists() else 1)

    threading.Thread(target=end, daemon=True).start()
    with suppress(ValueError):  # not in the main thread
        # Where no thread of Python's runs any more, the kernel ends the process.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + 5)
