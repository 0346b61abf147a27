"""Start a trainer's ranks on this machine, for those who type `python` and not `torchrun`."""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from torch import multiprocessing

from common.errors import UserError
from training.launch import launch, report
from training.signals import Stopped

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent has died
ECHO_S = 0.5  # how long a rank keeps an error to itself that may come from another's end


def start_ranks(main: Callable[..., None], world_size: int, *args) -> None:
    """Run main(*args) in world_size processes, told who they are as torchrun would; then exit.

    The first rank that fails says why, and the others are ended: one cause in the log. SIGUSR1
    and SIGTERM are passed on, so that the ranks can save; Ctrl-C ends all. The exit status is 0,
    or that of the rank that ended first with another. The ranks never outlive this process.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does: processes share the cores
    context = multiprocessing.get_context("spawn")
    # Until a rank can save, these mean nothing to it; it inherits that from here.
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    first_failed, port = context.Value("i", -1), find_free_port()
    ranks = [
        context.Process(target=run_rank, args=(main, args, rank, world_size, port, first_failed))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()

    received = []

    def pass_on(number: int, _frame) -> None:
        received.append(number)
        for process in ranks:
            if process.is_alive() and number != signal.SIGINT:
                os.kill(process.pid, number)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    sys.exit(wait_for(ranks, received, first_failed))


def wait_for(ranks: list[BaseProcess], received: list[int], first_failed) -> int:
    """Wait until all ranks have ended; end the others when one fails. Returns the exit status."""
    saved = 128 + signal.SIGTERM  # a rank that SIGTERM has stopped, and that has saved
    while True:
        running = [process for process in ranks if process.is_alive()]
        if signal.SIGINT in received:
            end(running)
            print("error: stopped by Ctrl-C", file=sys.stderr)
            return 128 + signal.SIGINT
        failed = [
            rank for rank, process in enumerate(ranks) if process.exitcode not in (None, 0, saved)
        ]
        if failed:
            end(running)
            rank = first_failed.value if first_failed.value in failed else failed[0]
            status = ranks[rank].exitcode
            if rank != first_failed.value:
                say_how_it_ended(rank, status)
            return status if status > 0 else 128 - status
        if not running:
            return max(process.exitcode for process in ranks)
        connection.wait([process.sentinel for process in running], timeout=0.2)


def end(running: list[BaseProcess]) -> None:
    for process in running:
        process.kill()  # it may wait in a collective, where no milder signal is heard
    for process in running:
        process.join()


def say_how_it_ended(rank: int, status: int) -> None:
    """Name what a rank could not say itself, since it was killed."""
    how = f"with status {status} and said nothing"
    if status < 0:
        name = signal.Signals(-status).name
        how = f"by {name}" + (" (out of memory? look at dmesg)" if name == "SIGKILL" else "")
    print(f"error: rank {rank} ended {how}", file=sys.stderr)


def run_rank(
    main: Callable, args: tuple, rank: int, world_size: int, port: int, first_failed
) -> None:
    """Be one rank: what torchrun sets in the environment, then main. Runs in its own process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if not multiprocessing.parent_process().is_alive():
            os._exit(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }

    def report_once() -> None:
        try:
            main(*args)
        except Stopped:
            raise
        except Exception as error:
            with first_failed.get_lock():
                is_first = first_failed.value < 0
                if is_first:
                    first_failed.value = rank
            # What comes second is "connection closed by peer", or the same fault once more; and
            # what comes first may be the echo of a peer that was killed. start_ranks ends us then.
            if not (is_first and isinstance(error, UserError)):
                time.sleep(ECHO_S if is_first else 10 * ECHO_S)
            if is_first:
                report(error)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    launch(report_once)


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
