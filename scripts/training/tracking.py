"""Send the run's figures to Comet when the environment asks for it; never a reason to fail.

COMET_API_KEY and the package comet_ml switch it on, for rank 0 alone. On nodes without a way
out, COMET_OFFLINE_DIRECTORY keeps the experiment as an archive for `comet upload`.
"""

import os
import socket
from argparse import Namespace
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from training.epoch import EpochResult

STEPS = 10  # train_loss goes out as the mean of so many steps: one wait for the GPU in ten
NOT_SENT = {"argv", "hosts", "slurm", "versions", "dataset"}  # sent under names of their own


class NoTracker:
    """What every other rank has, and rank 0 without Comet: takes all, does nothing."""

    def add_step(self, step: int, sums: torch.Tensor) -> None: ...

    def add_epoch(self, result: EpochResult, step: int) -> None: ...

    def end(self) -> None: ...


class CometTracker:
    """Logs to one Comet experiment; the first error is printed and ends the logging."""

    def __init__(self, experiment, run: dict):
        self.experiment = experiment
        self.sent = None  # the epoch's sums at the last train_loss
        self._try(self._describe, run)

    def _describe(self, run: dict) -> None:
        log = self.experiment
        log.log_parameters({k: v for k, v in run.items() if k not in NOT_SENT and v is not None})
        for group in ("versions", "slurm", "dataset"):
            log.log_others({f"{group}_{name}": value for name, value in run[group].items()})
        log.log_other("hosts", " ".join(run["hosts"]))
        log.set_name(run["slurm"].get("job_name") or f"{run['workload']} {run['run_id']}")
        nodes, gpus = run["nodes"], run["world_size"]
        log.add_tags([run["workload"], f"{gpus}gpu", *([f"{nodes}nodes"] if nodes > 1 else [])])

    def add_step(self, step: int, sums: torch.Tensor) -> None:
        """Log the mean loss of this rank since the last time; sums: [loss, …, samples]."""
        if self.experiment and step % STEPS == 0:
            self._try(self._log_loss, step, sums)

    def _log_loss(self, step: int, sums: torch.Tensor) -> None:
        now = sums[[0, -1]].tolist()
        before = self.sent if self.sent and self.sent[1] < now[1] else [0.0, 0.0]
        self.sent = now
        loss = (now[0] - before[0]) / (now[1] - before[1])
        self.experiment.log_metric("train_loss", loss, step=step)

    def add_epoch(self, result: EpochResult, step: int) -> None:
        self.sent = None
        names = {"val_accuracy": "val_acc"}
        figures = {
            "train_loss_epoch": result.train_loss,
            "val_loss": result.val_loss,
            "throughput_per_s": result.throughput,
            "lr": result.lr,
            **{names.get(name, name): value for name, value in result.scores().items()},
        }
        self._try(lambda: self.experiment.log_metrics(figures, step=step, epoch=result.epoch + 1))

    def end(self) -> None:
        self._try(lambda: self.experiment.end())

    def _try(self, call, *args) -> None:
        if self.experiment is None:
            return
        try:
            call(*args)
        except Exception as error:
            say(f"it stops here ({type(error).__name__}: {error}); the training goes on")
            self.experiment = None


def start_tracker(args: Namespace, run: dict) -> NoTracker | CometTracker:
    """Return a tracker; `run` is what run.json holds. Prints one line when Comet cannot be had."""
    if dist.get_rank() != 0 or not os.environ.get("COMET_API_KEY"):
        return NoTracker()
    try:
        return CometTracker(open_experiment(args.comet_project), run)
    except ImportError:
        say("COMET_API_KEY is set, but comet_ml is not installed: pip install comet_ml")
    except Exception as error:
        say(f"it cannot start ({type(error).__name__}: {error}); the training goes on without")
    return NoTracker()


def open_experiment(project: str):
    """Open an experiment at Comet, or in COMET_OFFLINE_DIRECTORY when Comet is out of reach."""
    os.environ.setdefault("COMET_LOGGING_CONSOLE", "ERROR")  # the log is for the training
    # Only what is logged here: no patching of PyTorch, no copy of code, environment or output.
    os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")
    import comet_ml

    quiet = {
        "log_code": False, "log_graph": False, "auto_param_logging": False,
        "auto_metric_logging": False, "auto_output_logging": False, "parse_args": False,
        "log_git_metadata": False, "log_git_patch": False,
    }  # fmt: skip
    folder = os.environ.get("COMET_OFFLINE_DIRECTORY")
    if can_reach(os.environ.get("COMET_URL_OVERRIDE", "https://www.comet.com")):
        return comet_ml.Experiment(project_name=project, **quiet)
    if not folder:
        raise ConnectionError(
            "no way to Comet from this node; set COMET_OFFLINE_DIRECTORY to keep it for upload"
        )
    return comet_ml.OfflineExperiment(project_name=project, offline_directory=folder, **quiet)


def can_reach(url: str) -> bool:
    """Whether a connection to the address can be opened, or is a proxy's business."""
    if os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY"):
        return True
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def say(text: str) -> None:
    print(f"Comet: {text}", flush=True)
