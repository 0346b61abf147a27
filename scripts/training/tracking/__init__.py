"""Send the run's figures to where people look (--tracker); never a reason to fail.

Each tracker is a file here with a class Tracker, which rank 0 alone makes, from (args, run):

    log(figures: dict[str, float], step: int, epoch: int)
    end() -> str          the line that the log is to have, "" for none

Its first error is printed and ends it; the training goes on. `run` is what run.json holds.
"""

import importlib
import os
import socket
import threading
import time
from argparse import Namespace
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
import torch.distributed as dist

from training.arguments import TRACKERS
from training.epoch import EpochResult

# One train_loss per second at most: Comet takes about a millisecond for one, as long as a step of
# a small model.
LOSS_EVERY_S = 1.0
END_S = 30  # how long the end of a run waits for trackers; Slurm's time limit may be near
KEYS = ("COMET_API_KEY", "WANDB_API_KEY")
# Lists, and what is sent under other names.
NOT_SENT = {"argv", "cpus_by_rank", "dataset", "gpu_uuids", "hosts", "slurm", "versions"}


class Tracking:
    """The trackers of a run: those of rank 0, by name; none on every other rank.

    train_loss is the mean of this rank's steps since the last one. It is copied from the GPU
    behind the steps and sent with the next one, so that no step waits for it.
    """

    def __init__(self, trackers: dict, run: dict):
        self.trackers = trackers
        cut = run.get("resumed_from") or {"epoch": 0, "step": 0}
        self.epoch = cut["epoch"]
        # [loss, samples] of the epoch that were sent; unknown where a checkpoint had some already
        self.sent = None if cut["step"] else [0.0, 0.0]
        self.sums, self.step = None, 0  # after the last step
        self.waiting: tuple[int, torch.Tensor, torch.cuda.Event | None] | None = None
        self.due_s = 0.0

    def add_step(self, step: int, sums: torch.Tensor) -> None:
        """Take the epoch's sums so far, [loss, …, samples], of which some become a train_loss."""
        if not self.trackers:
            return
        self.sums, self.step = sums, step
        if self.sent is None:
            self.sent = first_and_last(sums).tolist()
        elif time.monotonic() >= self.due_s:
            self._copy_loss()
            self.due_s = time.monotonic() + LOSS_EVERY_S

    def _copy_loss(self) -> None:
        self._send_waiting()
        figures = first_and_last(self.sums).clone().to("cpu", non_blocking=True)
        copied = None
        if self.sums.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        self.waiting = self.step, figures, copied

    def _send_waiting(self) -> None:
        if self.waiting is None:
            return
        (step, figures, copied), self.waiting = self.waiting, None
        if copied:
            copied.synchronize()
        loss, samples = (now - sent for now, sent in zip(figures.tolist(), self.sent, strict=True))
        self.sent = figures.tolist()
        if samples:  # none when an epoch's last step alone came after a restart
            self._log({"train_loss": loss / samples}, step)

    def add_epoch(self, result: EpochResult, step: int) -> None:
        """Log the epoch's figures of the whole job, and the train_loss of its last steps."""
        if not self.trackers:
            return
        if self.sums is not None and not (self.waiting and self.waiting[0] == self.step):
            self._copy_loss()
        self._send_waiting()
        names = {"val_accuracy": "val_acc"}
        figures = {
            "train_loss_epoch": result.train_loss,
            "val_loss": result.val_loss,
            "throughput_per_s": result.throughput,
            "lr": result.lr,
            **{names.get(name, name): value for name, value in result.scores().items()},
        }
        self._log(figures, step)
        self.epoch, self.sums, self.sent = result.epoch + 1, None, [0.0, 0.0]

    def _log(self, figures: dict[str, float], step: int) -> None:
        for name in [*self.trackers]:
            self._try(name, "log", figures, step, self.epoch + 1)

    def end(self) -> None:
        """Finish the trackers, in END_S seconds or without being waited for."""
        ending = {
            name: threading.Thread(target=self._try, args=[name, "end"], daemon=True)
            for name in self.trackers
        }
        for thread in ending.values():
            thread.start()
        until = time.monotonic() + END_S
        for name, thread in ending.items():
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                say(name, f"it has not finished after {END_S} s and is not waited for")

    def _try(self, name: str, method: str, *args) -> None:
        try:
            if line := getattr(self.trackers[name], method)(*args):
                say(name, line)
        except Exception as error:
            say(name, f"it stops here ({explain(error)}); the training goes on")
            del self.trackers[name]


def start_tracking(args: Namespace, run: dict) -> Tracking:
    """Start the trackers of args.tracker; prints one line for each that cannot be had.

    All ranks must call it, and go on together: opening an experiment takes rank 0 seconds, which
    the others would otherwise wait for inside the first, timed step.
    """
    trackers = {}
    for name in args.tracker if dist.get_rank() == 0 else []:
        try:
            module = importlib.import_module(f"training.tracking.{name}")
            trackers[name] = module.Tracker(args, run)
        except ModuleNotFoundError as error:
            say(name, f"{error.name} is not installed: pip install {TRACKERS[name].package}")
        except Exception as error:
            say(name, f"it cannot start ({explain(error)}); the training goes on without")
    dist.barrier()
    return Tracking(trackers, run)


# ---- What the trackers share ----


def can_reach(url: str) -> bool:
    """Whether a connection to the address can be opened, or to the proxy on the way there."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError:
        return False
    return True


def list_settings(run: dict) -> dict[str, object]:
    """What of run.json a tracker shows as settings."""
    return {
        name: value for name, value in run.items() if name not in NOT_SENT and value is not None
    }


def name_experiment(run: dict) -> str:
    """The job's name; outside Slurm spiral_mlp_4gpu, tinyimagenet_resnet50_1gpu."""
    model = run["model"].split()[0].lower()  # "MLP [64, 32, 16]"
    return run["slurm"].get("job_name") or f"{run['workload']}_{model}_{run['world_size']}gpu"


def choose_tags(run: dict) -> list[str]:
    """Tags by which runs of one kind are found: the workload, 8gpu, and 2nodes where it is so."""
    nodes = run["nodes"]
    several = [f"{nodes}nodes"] if nodes > 1 else []
    return [run["workload"], f"{run['world_size']}gpu", *several]


def first_and_last(sums: torch.Tensor) -> torch.Tensor:
    """[loss, samples] of [loss, …, samples], without an index that would go to the GPU."""
    return sums[:: len(sums) - 1]


def explain(error: Exception) -> str:
    """One line of an error's text, without the key that some libraries put into it."""
    text = str(error)
    for key in filter(None, map(os.environ.get, KEYS)):
        text = text.replace(key, "***")
    first = text.strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def say(name: str, text: str) -> None:
    print(f"{TRACKERS[name].title}: {text}", flush=True)
