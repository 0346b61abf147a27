"""Send the run's figures to Comet when the environment asks for it; never a reason to fail.

COMET_API_KEY and the package comet_ml switch it on, for rank 0 alone. On nodes without a way
out, COMET_OFFLINE_DIRECTORY keeps the experiment as an archive for `comet upload`.
"""

import os
import socket
import threading
import time
from argparse import Namespace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
import torch.distributed as dist

from training.epoch import EpochResult

# One train_loss per second at most: Comet takes about a millisecond for one, as long as a step of
# a small model.
LOSS_EVERY_S = 1.0
END_S = 30  # how long the end of a run waits for Comet; Slurm's time limit may be near
# Lists, and what is sent under other names.
NOT_SENT = {"argv", "cpus_by_rank", "dataset", "gpu_uuids", "hosts", "slurm", "versions"}
# What comet_ml reads from the environment; a user's own setting is left alone.
QUIET = {
    # Its errors come with tracebacks, and one about a wrong key shows the key. They are told here.
    "COMET_LOGGING_CONSOLE": "CRITICAL",
    # Only what is logged here: no patching of PyTorch, no copy of code, environment or output.
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_TIMEOUT_CLEANING": str(END_S),  # an hour otherwise, and three for files
    "COMET_TIMEOUT_UPLOAD": str(END_S),
}


class NoTracker:
    """What every other rank has, and rank 0 without Comet: takes all, does nothing."""

    def add_step(self, step: int, sums: torch.Tensor) -> None: ...

    def add_epoch(self, result: EpochResult, step: int) -> None: ...

    def end(self) -> None: ...


class CometTracker:
    """Logs to one Comet experiment; the first error is printed and ends the logging.

    train_loss is the mean of this rank's steps since the last one. It is copied from the GPU
    behind the steps and sent with the next one, so that no step waits for it.
    """

    def __init__(self, experiment, run: dict):
        self.experiment = experiment
        cut = run.get("resumed_from") or {"epoch": 0, "step": 0}
        self.epoch = cut["epoch"]
        # [loss, samples] of the epoch that were sent; unknown where a checkpoint had some already
        self.sent = None if cut["step"] else [0.0, 0.0]
        self.sums, self.step = None, 0  # after the last step
        self.waiting: tuple[int, torch.Tensor, torch.cuda.Event | None] | None = None
        self.due_s = 0.0
        self._try(self._describe, run)

    def _describe(self, run: dict) -> None:
        log = self.experiment
        log.log_parameters({k: v for k, v in run.items() if k not in NOT_SENT and v is not None})
        for group in ("versions", "slurm", "dataset"):
            log.log_others({f"{group}_{name}": value for name, value in run[group].items()})
        log.log_other("hosts", " ".join(run["hosts"]))
        log.set_name(run["slurm"].get("job_name") or name_experiment(run))
        log.add_tags(choose_tags(run))

    def add_step(self, step: int, sums: torch.Tensor) -> None:
        """Take the epoch's sums so far, [loss, …, samples], of which some become a train_loss."""
        if self.experiment is None:
            return
        self.sums, self.step = sums, step
        if self.sent is None:
            self.sent = first_and_last(sums).tolist()
        elif time.monotonic() >= self.due_s:
            self._try(self._log_loss)
            self.due_s = time.monotonic() + LOSS_EVERY_S

    def _log_loss(self) -> None:
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
        now = figures.tolist()
        loss = (now[0] - self.sent[0]) / (now[1] - self.sent[1])
        self.sent = now
        self.experiment.log_metric("train_loss", loss, step=step, epoch=self.epoch + 1)

    def add_epoch(self, result: EpochResult, step: int) -> None:
        """Log the epoch's figures of the whole job, and the train_loss of its last steps."""
        self._try(self._end_epoch, result, step)

    def _end_epoch(self, result: EpochResult, step: int) -> None:
        if self.waiting and self.waiting[0] == self.step:
            self._send_waiting()
        elif self.sums is not None:
            self._log_loss()
            self._send_waiting()
        names = {"val_accuracy": "val_acc"}
        figures = {
            "train_loss_epoch": result.train_loss,
            "val_loss": result.val_loss,
            "throughput_per_s": result.throughput,
            "lr": result.lr,
            **{names.get(name, name): value for name, value in result.scores().items()},
        }
        self.experiment.log_metrics(figures, step=step, epoch=result.epoch + 1)
        self.epoch, self.sums, self.sent = result.epoch + 1, None, [0.0, 0.0]

    def end(self) -> None:
        """Finish the experiment, in END_S seconds or without being waited for."""
        ending = threading.Thread(target=self._try, args=[self._end], daemon=True)
        ending.start()
        ending.join(END_S)
        if ending.is_alive():
            say(f"it has not finished after {END_S} s and is not waited for")

    def _end(self) -> None:
        self.experiment.end()
        folder = getattr(self.experiment, "offline_directory", None)
        if folder:
            say(f"kept for later: comet upload {Path(folder) / self.experiment.get_key()}.zip")

    def _try(self, call, *args) -> None:
        if self.experiment is None:
            return
        try:
            call(*args)
        except Exception as error:
            say(f"it stops here ({explain(error)}); the training goes on")
            self.experiment = None


def start_tracker(args: Namespace, run: dict) -> NoTracker | CometTracker:
    """Return a tracker; `run` is what run.json holds. Prints one line when Comet cannot be had.

    All ranks must call it, and go on together: opening an experiment takes rank 0 seconds, which
    the others would otherwise wait for inside the first, timed step.
    """
    tracker = NoTracker()
    if dist.get_rank() == 0 and os.environ.get("COMET_API_KEY"):
        try:
            tracker = CometTracker(open_experiment(args.comet_project), run)
        except ModuleNotFoundError as error:
            say(f"COMET_API_KEY is set, but {error.name} is not installed: pip install comet_ml")
        except Exception as error:
            say(f"it cannot start ({explain(error)}); the training goes on without")
    dist.barrier()
    return tracker


def open_experiment(project: str):
    """Open an experiment at Comet, or in COMET_OFFLINE_DIRECTORY when Comet is out of reach."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import comet_ml

    what = {
        "project_name": project, "log_code": False, "log_graph": False, "parse_args": False,
        "auto_param_logging": False, "auto_metric_logging": False, "auto_output_logging": False,
        "log_git_metadata": False, "log_git_patch": False, "display_summary_level": 0,
    }  # fmt: skip
    folder = os.environ.get("COMET_OFFLINE_DIRECTORY")
    if can_reach(os.environ.get("COMET_URL_OVERRIDE", "https://www.comet.com")):
        experiment = comet_ml.Experiment(**what)
        if experiment.alive:  # False, without an exception, when Comet did not answer
            say(f"{experiment.get_name() or 'experiment'} at {experiment.url}")
            return experiment
    if not folder:
        raise ConnectionError(
            "no way to Comet from this node; set COMET_OFFLINE_DIRECTORY to keep it for upload"
        )
    return comet_ml.OfflineExperiment(offline_directory=folder, **what)


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


def name_experiment(run: dict) -> str:
    """A name where no Slurm job gives one: spiral_mlp_4gpu, tinyimagenet_resnet50_1gpu."""
    model = run["model"].split()[0].lower()  # "MLP [64, 32, 16]"
    return f"{run['workload']}_{model}_{run['world_size']}gpu"


def choose_tags(run: dict) -> list[str]:
    """Tags by which runs of one kind are found: the workload, 8gpu, and 2nodes where it is so."""
    nodes = run["nodes"]
    several = [f"{nodes}nodes"] if nodes > 1 else []
    return [run["workload"], f"{run['world_size']}gpu", *several]


def first_and_last(sums: torch.Tensor) -> torch.Tensor:
    """[loss, samples] of [loss, …, samples], without an index that would go to the GPU."""
    return sums[:: len(sums) - 1]


def explain(error: Exception) -> str:
    """One line of an error's text, without the key that Comet puts into some of them."""
    text = str(error)
    if key := os.environ.get("COMET_API_KEY"):
        text = text.replace(key, "***")
    first = text.strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def say(text: str) -> None:
    print(f"Comet: {text}", flush=True)
