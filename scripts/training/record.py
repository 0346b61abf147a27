"""The files that a run leaves: run.json, a file a rank and epoch, training_metrics.json.

What each holds is in scripts/README.md. All are written atomically; RUN_COMPLETE.txt comes last,
so a folder without it is an incomplete run.
"""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from common.files import write_json, write_whole
from common.sources import hash_sources, read_git_commit
from training import TrainingError
from training.epoch import EpochResult, format_best, format_epoch_line
from training.metrics import describe_epoch, describe_run, quantity
from training.provenance import (
    describe_device,
    describe_slurm,
    describe_software,
    gather_cpus,
    gather_places,
    read_peak_memory,
)
from training.stopwatch import Stopwatch

WRITE_ELSEWHERE = "choose another --workdir (in a job: RUN_DIR)"
WARMUP_EPOCHS = 1  # recorded like the others, left out of means
# How a rank's file calls a score.
RANK_NAMES = {
    "val_accuracy": "validation_accuracy",
    "val_perplexity": "validation_perplexity",
    "val_bleu": "bleu",
}


def check_workdir(workdir: Path) -> None:
    """On rank 0 make `workdir`; TrainingError when it cannot be made or holds a run already."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make --workdir {workdir}: {error.strerror}") from None
    if (workdir / "run.json").exists():
        raise TrainingError(f"{workdir} already holds a run; choose another --workdir")


class RunRecord:
    """Writes a run's files as it goes. Every rank makes one and calls each method."""

    def __init__(self, workdir: Path, settings: dict, device: torch.device, trainer: Path):
        """Describe the run; `settings` are the workload's own fields (unit, model, batch, …)."""
        self.workdir, self.settings, self.device = workdir, settings, device
        self.rank, self.is_main = dist.get_rank(), dist.get_rank() == 0
        self.results: list[EpochResult] = []
        self.epochs: list[dict] = []  # of training_metrics.json
        self.rank_facts: dict = {}  # what else a trainer wants in each file of this rank
        hosts, gpu_uuids = gather_places(device)
        self.run = {
            "schema_version": "1.2",
            "run_id": workdir.name,
            **settings,
            "nodes": len(hosts),
            "gpus_per_node": dist.get_world_size() // len(hosts),
            "world_size": dist.get_world_size(),
            "warmup_epochs": WARMUP_EPOCHS,
            "argv": sys.argv,
            **describe_device(device),
            "gpu_uuids": gpu_uuids,
            "cpus_by_rank": gather_cpus(),
            "versions": describe_software(),
            "hosts": hosts,
            "slurm": describe_slurm(),
            "trainer_sha256": hash_sources(trainer),
            "git_commit": read_git_commit(trainer.parent) if self.is_main else "unknown",
            "start_utc": utc_now(),
        }
        self.epoch_started = time.perf_counter()

    def start(self) -> None:
        """Write run.json and print what is trained, in two lines (rank 0)."""
        if not self.is_main:
            return
        write_json(self.workdir / "run.json", self.run, WRITE_ELSEWHERE)
        s, data, ranks = self.settings, self.settings["dataset"], self.run["world_size"]
        together = s.get("tensor_parallel") or 1
        several = "s" if ranks > together else ""
        groups = f"in {ranks // together} tensor group{several} of {together} " * (together > 1)
        accumulated = f" x {s['grad_accum_steps']} passes" if s["grad_accum_steps"] > 1 else ""
        classes = f", {data['classes']} classes" if "classes" in data else ""
        print(
            f"{s['model']} on {data['name']}: {data['train']} training and {data['val']} "
            f"validation samples{classes}; {s['precision']} on {self.device.type}\n"
            f"{ranks} process{'es' if ranks > 1 else ''} {groups}x {s['batch_size_per_gpu']}"
            f"{accumulated} "
            f"= {s['global_batch_size']} samples per step; {s['epochs']} epochs",
            flush=True,
        )

    def add_epoch(
        self, result: EpochResult, stopwatch: Stopwatch, samples: int, probe: dict[str, float]
    ) -> None:
        """Write this rank's file of the epoch and print the epoch's line (rank 0).

        `stopwatch` and `samples` are this rank's own, `result` is the whole job's; `probe` is
        what measure_exposed_comm returned, {} when it was not asked.
        """
        what = quantity(self.settings["unit"])
        memory = read_peak_memory(self.device)
        write_json(
            self.workdir / f"rank{self.rank}_results_epoch{result.epoch}.json",
            {
                "schema_version": "1.1",
                "rank": self.rank,
                "epoch": result.epoch,
                "training_time": stopwatch.seconds,
                what: samples,
                f"{what}_per_sec": samples / stopwatch.seconds,
                "steps": stopwatch.steps,
                **{f"{part}_s": seconds for part, seconds in stopwatch.parts.items()},
                "other_s": stopwatch.other_s,
                **describe_exposed(probe, stopwatch.steps),
                "train_loss": result.train_loss,
                "validation_loss": result.val_loss,
                **{RANK_NAMES.get(name, name): v for name, v in result.scores().items()},
                "peak_memory_mib": memory["peak_memory_mib_rank0"],
                **self.rank_facts,
            },
            WRITE_ELSEWHERE,
        )
        now = time.perf_counter()
        # The probe's time is no training and no validation: it belongs to no epoch.
        wall_s = now - self.epoch_started - probe.get("probe_s", 0.0)
        self.epoch_started = now
        self.results.append(result)
        self.epochs.append(describe_epoch(result, stopwatch, self.settings, wall_s, memory))
        if self.is_main:
            self.write_metrics(done_utc=None)
            line = format_epoch_line(result, self.settings["epochs"], self.settings["unit"])
            # In one piece: unbuffered, print() writes a line's end apart, and what another rank
            # writes comes between.
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def note(self, **facts: object) -> None:
        """Keep in run.json what is known only while the training runs (rank 0)."""
        if self.is_main and not facts.items() <= self.run.items():
            self.run |= facts
            write_json(self.workdir / "run.json", self.run, WRITE_ELSEWHERE)

    def finish(self) -> None:
        """Print the totals and mark the run as complete, once every rank has written its files."""
        dist.barrier()
        if not self.is_main:
            return
        total_s = sum(epoch["epoch_wall_time_sec"] for epoch in self.epochs)
        if "replicas" in self.run:
            print(f"Replicas: {self.run['replicas']}")
        print(f"Total training time: {total_s:.1f} s", *format_best(self.results), sep="\n")
        sys.stdout.flush()
        self.write_metrics(done_utc=utc_now())
        write_whole(self.workdir / "RUN_COMPLETE.txt", utc_now() + "\n", WRITE_ELSEWHERE)

    def write_metrics(self, done_utc: str | None) -> None:
        """Write training_metrics.json for the epochs so far."""
        metrics = describe_run(self.run, self.epochs, self.results, done_utc)
        write_json(self.workdir / "training_metrics.json", metrics, WRITE_ELSEWHERE)

    def state_dict(self) -> dict:
        """What a checkpoint keeps: the epochs done, and the seconds of the one begun."""
        return {
            "results": [asdict(result) for result in self.results],
            "epochs": self.epochs,
            "epoch_s": time.perf_counter() - self.epoch_started,
        }

    def load_state_dict(self, state: dict) -> None:
        self.results = [EpochResult(**result) for result in state["results"]]
        self.epochs = list(state["epochs"])
        self.epoch_started = time.perf_counter() - state["epoch_s"]


def describe_exposed(probe: dict[str, float], steps: int) -> dict:
    """The probe's figures for a rank's file; null when it was not asked or there is one rank."""
    per_step_s = probe.get("exposed_comm_per_step_s")
    return {
        "exposed_comm_s": None if per_step_s is None else per_step_s * steps,
        "probe": probe or None,
    }


def utc_now() -> str:
    """The time now as 2026-11-21T10:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
