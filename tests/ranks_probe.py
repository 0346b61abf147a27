"""Run by test_ranks.py: ranks_probe.py WHAT starts two ranks that do what the function says.

They are forks here, not spawned: each would import PyTorch. test_train_translation.py spawns.
"""

import multiprocessing
import os
import signal
import sys
import time
from types import SimpleNamespace

import torch.distributed as dist

from training import TrainingError, ranks
from training.launch import launch


def meet() -> int:
    dist.init_process_group("gloo")
    dist.barrier()
    return dist.get_rank()


def rank_1_fails():
    if meet() == 1:
        raise ZeroDivisionError("the cause")
    dist.barrier()  # never comes back well


def rank_1_is_killed():
    if meet() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def all_refuse():
    raise TrainingError("no data; pass --data-dir")


def both_sleep():
    meet()
    if os.environ["RANK"] == "0":
        print("asleep", flush=True)
    time.sleep(600)


def save_on_sigterm():
    """As a trainer does, but slowly."""
    rank, heard = meet(), []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    if rank == 0:
        print("asleep", flush=True)
    while not heard:
        time.sleep(0.02)
    time.sleep(0.5 * rank)
    print(f"rank {rank} has saved", flush=True)
    sys.exit(143)


def main():
    ranks.multiprocessing = SimpleNamespace(
        get_context=lambda _method: multiprocessing.get_context("fork"),
        parent_process=multiprocessing.parent_process,
    )
    ranks.start_ranks(globals()[sys.argv[1]], 2)


if __name__ == "__main__":
    launch(main)
