"""Run a trainer's main so that a failure says which rank, which host and why, and never hangs."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

import torch.distributed as dist

from common.errors import UserError
from training.device import check_gpus, keep_freed_memory
from training.signals import Stopped


def launch(main: Callable[..., None], *args) -> None:
    """Call main(*args); on an exception print it with rank and host, and exit with status 1.

    Before the process group exists a UserError (no data set, a wrong option) is every rank's
    of a node, so only the node's first rank prints it. A training that a signal has stopped is
    saved: it exits with 0 when its job is to go on, else with the signal's status.
    """
    try:
        check_gpus()
        keep_freed_memory()
        main(*args)
    except Stopped as stopped:
        if dist.get_rank() == 0:
            print(f"Stopped by {stopped}, all is saved", flush=True)
        dist.destroy_process_group()
        sys.exit(0 if stopped.number == signal.SIGUSR1 else 128 + stopped.number)
    except Exception as error:
        is_own = getattr(error, "is_own", False)  # of this rank alone
        everybodys = isinstance(error, UserError) and not is_own and not dist.is_initialized()
        if not everybodys or os.environ.get("LOCAL_RANK", "0") == "0":
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
    rank = os.environ.get("RANK", "0")
    where = f"[rank {rank} on {socket.gethostname()}] error: "
    if isinstance(error, UserError):
        text = where + str(error) + "\n"
    else:
        text = traceback.format_exc() + f"{where}{type(error).__name__}: {error}".rstrip() + "\n"
    sys.stderr.write(text)
