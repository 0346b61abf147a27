"""The files that a run leaves: run.json, a file a rank and epoch, training_metrics.json.

What each holds is in scripts/README.md. All are written atomically; RUN_COMPLETE.txt comes last,
so a folder without it is an incomplete run.
"""

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from training.errors import TrainingError
from training.files import write_json, write_text
from training.provenance import (
    describe_device,
    describe_slurm,
    describe_software,
    gather_hosts,
    hash_sources,
    read_git_commit,
    read_peak_memory_mib,
)
from training.stopwatch import Stopwatch

WARMUP_EPOCHS = 1  # recorded like the others, left out of means


@dataclass(frozen=True)
class EpochResult:
    """One epoch as the whole job saw it: sums over all ranks, each sample counted once."""

    epoch: int  # from 0; the log's `Epoch [1/3]` is 0
    lr: float
    train_loss: float
    val_loss: float
    train_accuracy: float  # 0 to 1
    val_accuracy: float  # 0 to 1
    samples: int  # trained on, by all ranks
    slowest_s: float  # training seconds of the slowest rank

    @property
    def throughput(self) -> float:
        """Global samples per second: all ranks' samples / the slowest rank's seconds."""
        return self.samples / self.slowest_s


def format_epoch_line(result: EpochResult, epochs: int, unit: str) -> str:
    """Format the line that the log has for each epoch and that the tables are filled from."""
    return (
        f"Epoch [{result.epoch + 1}/{epochs}] LR: {result.lr:.6f}"
        f" | Loss (train, val): {result.train_loss:.3f}, {result.val_loss:.3f}"
        f" | Accuracy (train, val): {result.train_accuracy:.2%}, {result.val_accuracy:.2%}"
        f" | Throughput: {result.throughput:.1f} {unit}"
    )


def check_workdir(workdir: Path) -> None:
    """Make `workdir`; TrainingError when it cannot be made or holds a run already."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make --workdir {workdir}: {error.strerror}") from None
    if (workdir / "run.json").exists():
        raise TrainingError(f"{workdir} already holds a run; choose another --workdir")


class RunRecord:
    """Writes a run's files as it goes. Every rank makes one and calls each method."""

    def __init__(self, workdir: Path, settings: dict, device: torch.device, trainer: Path):
        """Write run.json; `settings` are the workload's own fields (unit, model, batch, …)."""
        self.workdir, self.settings, self.device = workdir, settings, device
        self.rank, self.is_main = dist.get_rank(), dist.get_rank() == 0
        self.results: list[EpochResult] = []
        self.metrics: list[dict] = []
        hosts = gather_hosts()
        slurm = describe_slurm()
        self.run = {
            "schema_version": "1.0",
            "run_id": workdir.name,
            **settings,
            "nodes": len(hosts),
            "gpus_per_node": dist.get_world_size() // len(hosts),
            "world_size": dist.get_world_size(),
            "warmup_epochs": WARMUP_EPOCHS,
            "argv": sys.argv,
            **describe_device(device),
            "versions": describe_software(),
            "hosts": hosts,
            "slurm": slurm,
            "trainer_sha256": hash_sources(trainer),
            "git_commit": read_git_commit(trainer.parent) if self.is_main else "unknown",
            "start_utc": utc_now(),
        }
        self.epoch_started = time.perf_counter()
        if self.is_main:
            write_json(workdir / "run.json", self.run)
            self.print_settings()

    def print_settings(self) -> None:
        """Print what is trained, in two lines."""
        s, data, world_size = self.settings, self.settings["dataset"], self.run["world_size"]
        print(
            f"{s['model']} on {data['name']}: {data['train']} training and {data['val']} "
            f"validation samples, {data['classes']} classes; {s['precision']} on {self.device.type}"
        )
        print(
            f"{world_size} process{'es' if world_size > 1 else ''} x {s['batch_size_per_gpu']} = "
            f"{s['global_batch_size']} samples a step; {s['epochs']} epochs",
            flush=True,
        )

    def add_epoch(self, result: EpochResult, stopwatch: Stopwatch, samples: int) -> None:
        """Write this rank's file of the epoch and print the epoch's line (rank 0).

        `stopwatch` and `samples` are this rank's own; `result` is the whole job's.
        """
        steps = stopwatch.steps
        self.results.append(result)
        now = time.perf_counter()
        wall_s, self.epoch_started = now - self.epoch_started, now
        peak_mib = read_peak_memory_mib(self.device)
        write_json(
            self.workdir / f"rank{self.rank}_results_epoch{result.epoch}.json",
            {
                "schema_version": "1.0",
                "rank": self.rank,
                "epoch": result.epoch,
                "training_time": stopwatch.seconds,
                "samples": samples,
                "samples_per_sec": samples / stopwatch.seconds,
                "steps": steps,
                "data_wait_s": stopwatch.data_wait_s,
                "train_loss": result.train_loss,
                "train_accuracy": result.train_accuracy,
                "validation_loss": result.val_loss,
                "validation_accuracy": result.val_accuracy,
                "peak_memory_mib": peak_mib,
            },
        )
        self.metrics.append(
            {
                "epoch_idx": result.epoch + 1,
                "epoch_wall_time_sec": wall_s,
                "train_time_slowest_rank_sec": result.slowest_s,
                "steps": steps,
                "micro_steps": steps * self.settings["grad_accum_steps"],
                "optimizer_steps": steps,
                "samples_processed_global": result.samples,
                "samples_per_sec_global": result.throughput,
                "train_loss_avg_global": result.train_loss,
                "val_loss_avg_global": result.val_loss,
                "train_accuracy_global": result.train_accuracy,
                "val_accuracy_global": result.val_accuracy,
                "step_time_mean_sec": stopwatch.seconds / steps,
                "dataload_time_mean_sec": stopwatch.data_wait_s / steps,
                "peak_memory_mib_rank0": peak_mib,
            }
        )
        if self.is_main:
            self.write_metrics(completed=False)
            line = format_epoch_line(result, self.settings["epochs"], self.settings["unit"])
            print(line, flush=True)

    def finish(self) -> None:
        """Print the totals and mark the run as complete, once every rank has written its files."""
        dist.barrier()
        if not self.is_main:
            return
        total_s = sum(m["epoch_wall_time_sec"] for m in self.metrics)
        best_accuracy = max(result.val_accuracy for result in self.results)
        print(f"Total training time: {total_s:.1f} s")
        print(f"Best validation loss: {min(r.val_loss for r in self.results):.3f}")
        print(f"Best validation accuracy: {best_accuracy:.2%}", flush=True)
        self.write_metrics(completed=True)
        write_text(self.workdir / "RUN_COMPLETE.txt", utc_now() + "\n")

    def write_metrics(self, completed: bool) -> None:
        """Write training_metrics.json (schema 2.0) for the epochs so far."""
        steady = self.results[WARMUP_EPOCHS:]  # a one-epoch run has no steady state
        run, settings = self.run, self.settings
        write_json(
            self.workdir / "training_metrics.json",
            {
                "schema_version": "2.0",
                "run_id": run["run_id"],
                "timestamp_utc": run["start_utc"],
                "git_commit": run["git_commit"],
                "command_line": shlex.join(sys.argv),
                "env": {f"{name}_version": v or "none" for name, v in run["versions"].items()},
                "host": {"hostname": run["hosts"][0], "nodes": run["hosts"]},
                "hardware": {
                    "cluster": run["slurm"].get("cluster_name", "none"),
                    "gpu_name": run["gpu_name"] or "none",
                    "gpu_count_visible": run["gpus_visible"],
                    "world_size": run["world_size"],
                },
                "scheduler": {"type": "slurm" if run["slurm"] else "none", **run["slurm"]},
                "training_config": {
                    "model_name": settings["model"],
                    "epochs": settings["epochs"],
                    "micro_batch_size_per_gpu": settings["batch_size_per_gpu"],
                    "grad_accum_steps": settings["grad_accum_steps"],
                    "global_batch_size": settings["global_batch_size"],
                    "lr": settings["lr"],
                    "optimizer": settings["optimizer"],
                    "precision": settings["precision"],
                    "dataset_name": settings["dataset"]["name"],
                    "dataset_subset_sizes": {
                        "train": settings["dataset"]["train"],
                        "val": settings["dataset"]["val"],
                    },
                },
                "epochs": self.metrics,
                "summary": {
                    "completed": completed,
                    "epochs_completed": len(self.metrics),
                    "total_wall_time_sec": sum(m["epoch_wall_time_sec"] for m in self.metrics),
                    "warmup_epochs_excluded": WARMUP_EPOCHS,
                    "mean_samples_per_sec_global": (
                        sum(r.throughput for r in steady) / len(steady) if steady else None
                    ),
                    "best_val_loss": min(r.val_loss for r in self.results),
                    "best_val_accuracy": max(r.val_accuracy for r in self.results),
                },
            },
        )


def utc_now() -> str:
    """The time now as 2026-11-21T10:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
