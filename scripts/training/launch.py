"""Run a trainer's main so that a failure says which rank, which host and why, and never hangs."""

import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

import torch
import torch.distributed as dist

from training.allocator import keep_freed_memory
from training.errors import TrainingError
from training.provenance import DRIVER
from training.signals import Stopped


def launch(main: Callable[[], None]) -> None:
    """Call `main`; on an exception print it with the rank and the host, and exit with status 1.

    Before the process group exists a TrainingError (no data set, a wrong option) is every rank's
    of a node, so only the node's first rank prints it. A training that a signal has stopped is
    saved: it exits with 0 when its job is to go on, else with the signal's status.
    """
    try:
        check_gpus()
        keep_freed_memory()
        main()
    except Stopped as stopped:
        if dist.get_rank() == 0:
            print(f"Stopped by {stopped}, all is saved", flush=True)
        dist.destroy_process_group()
        sys.exit(0 if stopped.number == signal.SIGUSR1 else 128 + stopped.number)
    except Exception as error:
        everybodys = isinstance(error, TrainingError) and not error.is_own
        everybodys = everybodys and not dist.is_initialized()
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


def check_gpus() -> None:
    """Refuse a GPU that this PyTorch cannot use: without a word, a job would train on the CPU.

    Raises TrainingError. An empty CUDA_VISIBLE_DEVICES asks for the CPU and is taken at its word.
    """
    build = f"PyTorch {torch.__version__}"
    if torch.cuda.is_available():
        numbers = re.findall(r"sm_(\d+)", " ".join(torch.cuda.get_arch_list()))  # none with ROCm
        major, minor = torch.cuda.get_device_capability()
        if numbers and 10 * major + minor < min(map(int, numbers)):
            raise TrainingError(
                f"{build} has no code for this {torch.cuda.get_device_name()} (sm_{major}{minor}), "
                f"only for sm_{min(map(int, numbers))} and newer; load the site's PyTorch, or "
                "install an older build"
            )
    elif DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        raise TrainingError(
            f"this node has an NVIDIA driver, but {build} (CUDA {torch.version.cuda}) cannot use "
            "it; load the site's PyTorch or a build for an older CUDA, or set "
            "CUDA_VISIBLE_DEVICES= to train on the CPU"
        )


def report(error: Exception) -> None:
    """Write `error` to stderr in one piece, so that ranks do not mix within a line."""
    rank = os.environ.get("RANK", "0")
    where = f"[rank {rank} on {socket.gethostname()}] error: "
    if isinstance(error, TrainingError):
        text = where + str(error) + "\n"
    else:
        text = traceback.format_exc() + f"{where}{type(error).__name__}: {error}".rstrip() + "\n"
    sys.stderr.write(text)
