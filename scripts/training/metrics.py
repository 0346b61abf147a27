"""training_metrics.json, schema 2.0: one file per run, for programs that compare runs.

The schema is the public one of a GPT-2 scaling benchmark (kadamrahul18/GPT2-Optimization on
GitHub): its readers can read these files. What it has no field for stands beside its fields.
"""

import platform
import shlex
import sys
from statistics import quantiles

from training.epoch import EpochResult
from training.stopwatch import Stopwatch


def quantity(unit: str) -> str:
    """What a workload counts: `tokens` of tokens/s, `samples` of img/s and samples/s."""
    return "tokens" if unit == "tokens/s" else "samples"


def describe_epoch(
    result: EpochResult, stopwatch: Stopwatch, settings: dict, wall_s: float, memory: dict
) -> dict:
    """One entry of `epochs`. Times of steps and loading are rank 0's, the rest is the job's."""
    what, steps = quantity(settings["unit"]), stopwatch.steps
    times = stopwatch.step_times_s
    cuts = quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
    return {
        "epoch_idx": result.epoch + 1,
        "epoch_wall_time_sec": wall_s,
        "train_time_slowest_rank_sec": result.slowest_s,
        "steps": steps,
        "micro_steps": steps * settings["grad_accum_steps"],
        "optimizer_steps": steps,
        f"{what}_processed_global": result.samples,
        f"{what}_per_sec_global": result.throughput,
        "train_loss_avg_global": result.train_loss,
        "val_loss_avg_global": result.val_loss,
        **{f"{name}_global": value for name, value in result.scores().items()},
        "lr": result.lr,
        "step_time_mean_sec": stopwatch.seconds / steps,
        "step_time_p50_sec": cuts[9],
        "step_time_p95_sec": cuts[18],
        "dataload_time_mean_sec": stopwatch.parts["data_wait"] / steps,
        **memory,
    }


def describe_run(run: dict, epochs: list[dict], results: list[EpochResult], done_utc: str | None):
    """The whole file; `run` is what run.json holds, `done_utc` None while the run goes on."""
    what, warmup = quantity(run["unit"]), run["warmup_epochs"]
    # A one-epoch run has no steady state: its mean is that of the epoch, and says that nothing
    # was left out. The public readers divide by this number.
    if len(results) <= warmup:
        warmup = 0
    steady = results[warmup:]
    versions = {f"{name}_version": version or "none" for name, version in run["versions"].items()}
    return {
        "schema_version": "2.0",
        "run_id": run["run_id"],
        "timestamp_utc": run["start_utc"],
        "git_commit": run["git_commit"],
        "command_line": shlex.join(sys.argv),
        "env": {"transformers_version": "none", "deepspeed_version": "none", **versions},
        "host": {
            "hostname": run["hosts"][0],
            "os": platform.platform(),
            "nodes": run["hosts"],
        },
        "hardware": {
            "cluster": run["slurm"].get("cluster_name", "none"),
            "gpu_name": run["gpu_name"] or "none",
            "gpu_count_visible": run["gpus_visible"],
            "cuda_version": run["versions"]["cuda"] or "none",
            "world_size": run["world_size"],
        },
        "scheduler": {"type": "slurm" if run["slurm"] else "none", **run["slurm"]},
        "training_config": describe_config(run),
        "deepspeed_config": run.get("deepspeed_config", {"path": "none"}),
        "epochs": epochs,
        "summary": {
            "completed": done_utc is not None,
            "epochs_completed": len(epochs),
            "total_wall_time_sec": sum(epoch["epoch_wall_time_sec"] for epoch in epochs),
            "warmup_epochs_excluded": warmup,
            f"mean_{what}_per_sec_global": (
                sum(result.throughput for result in steady) / len(steady) if steady else None
            ),
            "best_val_loss": min(result.val_loss for result in results),
            **describe_best(results),
        },
        "completion": {"run_complete_file": "RUN_COMPLETE.txt", "timestamp_utc": done_utc},
    }


def describe_config(run: dict) -> dict:
    data = run["dataset"]
    optional = (
        "model_size",
        "seq_len",
        "zero_stage",
        "scaling",
        "strategy",
        "run_type",
        "tensor_parallel",
    )
    return {
        "model_name": run["model"],
        "epochs": run["epochs"],
        "micro_batch_size_per_gpu": run["batch_size_per_gpu"],
        "grad_accum_steps": run["grad_accum_steps"],
        "global_batch_size": run["global_batch_size"],
        "lr": run["lr"],
        "optimizer": run["optimizer"],
        "precision": run["precision"],
        **{name: run[name] for name in optional if name in run},
        "dataset_name": data["name"],
        "dataset_subset_sizes": {"train": data["train"], "val": data["val"]},
    }


def describe_best(results: list[EpochResult]) -> dict:
    name = {"accuracy": "val_accuracy", "bleu": "val_bleu"}.get(results[-1].score)
    return {f"best_{name}": max(result.scores()[name] for result in results)} if name else {}
