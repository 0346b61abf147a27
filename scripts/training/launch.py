"""Run a trainer's main so that a failure says which rank, which host and why, and never hangs."""

import os
import socket
import sys
import traceback
from collections.abc import Callable

import torch.distributed as dist

from training.errors import TrainingError


def run(main: Callable[[], None]) -> None:
    """Call `main`; on an exception print it with the rank and the host, and exit with status 1.

    Before the process group exists a TrainingError (no data set, a wrong option) is every rank's
    of a node, so only the node's first rank prints it.
    """
    try:
        main()
    except Exception as error:
        everybodys = isinstance(error, TrainingError) and not dist.is_initialized()
        if not everybodys or os.environ.get("LOCAL_RANK", "0") == "0":
            report(error)
        # Not sys.exit: tearing down a process group whose other ranks still wait can block.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def report(error: Exception) -> None:
    """Write `error` to stderr in one piece, so that ranks do not mix within a line."""
    rank = os.environ.get("RANK", "0")
    where = f"[rank {rank} on {socket.gethostname()}] error: "
    if isinstance(error, TrainingError):
        text = where + str(error) + "\n"
    else:
        text = traceback.format_exc() + f"{where}{type(error).__name__}: {error}".rstrip() + "\n"
    sys.stderr.write(text)
