"""A whole scaling study as run folders, with rank files, metrics and samples that differ."""

import json
import math
from pathlib import Path

from run_folders import GPU_HEADER, cpu_log, epoch_line, gpu_row, put, write_run

SCALES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 2), (8, 2))  # nodes, GPUs per node


def throughput_of(gpus: int, base: float = 700.0, loss: float = 0.035) -> float:
    """A throughput that scales less and less well: 700.0 on one GPU, 85 % efficient on 16."""
    return base * gpus / (1 + loss * math.log2(gpus) ** 1.2 if gpus > 1 else 1)


def write_study_run(
    root: Path,
    nodes: int,
    gpus_per_node: int,
    run_id: str,
    *,
    epochs: int = 5,
    rounds: int = 40,
    factor: float = 1.0,
    metrics: bool = True,
    extra_log: str = "",
    **changed: object,
) -> Path:
    """Write a complete run of a modelled throughput; return its job folder."""
    gpus = nodes * gpus_per_node
    rate = throughput_of(gpus) * factor
    rates = [rate * (0.8 if n == 0 else 1 + 0.004 * (-1) ** n) for n in range(epochs)]
    losses = [5.2 * 0.8**n + 0.4 + 0.02 * math.log2(gpus) for n in range(epochs)]
    lines = [
        epoch_line(n + 1, epochs, throughput=rates[n], loss=losses[n]).replace(
            "5.664", f"{losses[n] + 0.3:.3f}"
        )
        for n in range(epochs)
    ]
    lines += ["Total training time: 93.1 s", f"Best validation loss: {losses[-1] + 0.3:.3f}"]
    lines += ["Best validation accuracy: 0.98%"]
    out = "\n".join(["node1:12:12 [0] NCCL INFO Bootstrap : Using ib0:10.0.0.1<0>", *lines]) + "\n"
    folder = write_run(
        root, nodes, gpus_per_node, run_id, out=extra_log + out, epochs=epochs, **changed
    )
    results = folder / "results" / run_id
    for epoch in range(epochs):
        write_ranks(results, epoch, gpus, 100_000 / rates[epoch], losses[epoch])
    if metrics:
        put(
            results / "training_metrics.json",
            json.dumps(make_metrics(run_id, nodes, gpus, rates, losses)),
        )
    for node in range(nodes):
        suffix = f"_node{node}" if nodes > 1 else ""
        put(
            folder / f"gpu_memory/{run_id}/gpu_memory_log{suffix}.csv",
            gpu_rounds(gpus_per_node, rounds),
        )
        rss = [4000.0 + 900 * math.sin(i / 5) + 40 * i for i in range(rounds)]
        put(folder / f"cpu_memory/{run_id}/cpu_memory_log{suffix}.txt", cpu_log(rss))
    return folder


def write_ranks(results: Path, epoch: int, gpus: int, seconds: float, loss: float) -> None:
    comm = 0.0 if gpus == 1 else 0.02 * math.log2(gpus)
    for rank in range(gpus):
        record = {
            "schema_version": "1.1", "rank": rank, "epoch": epoch, "training_time": seconds,
            "samples": 100_000 // gpus, "samples_per_sec": 100_000 / gpus / seconds, "steps": 40,
            "data_wait_s": 0.06 * seconds, "copy_s": 0.02 * seconds, "compute_s": 0.85 * seconds,
            "optimizer_s": 0.04 * seconds,
            "exposed_comm_s": None if gpus == 1 else comm * seconds,
            "train_loss": loss, "validation_loss": loss + 0.3, "validation_accuracy": 0.1 * epoch,
            "peak_memory_mib": 20000.0,
        }  # fmt: skip
        put(results / f"rank{rank}_results_epoch{epoch}.json", json.dumps(record))


def make_metrics(run_id: str, nodes: int, gpus: int, rates: list, losses: list) -> dict:
    """A training_metrics.json of schema 2.0."""
    epochs = [
        {
            "epoch_idx": n + 1,
            "epoch_wall_time_sec": 100_000 / rate + 3,
            "train_time_slowest_rank_sec": 100_000 / rate,
            "samples_processed_global": 100_000,
            "samples_per_sec_global": rate,
            "train_loss_avg_global": losses[n],
            "val_loss_avg_global": losses[n] + 0.3,
            "val_accuracy_global": 1 - 0.9 * 0.8**n,
            "step_time_mean_sec": 0.4,
            "dataload_time_mean_sec": 0.03,
        }
        for n, rate in enumerate(rates)
    ]
    return {
        "schema_version": "2.0",
        "run_id": run_id,
        "env": {"torch_version": "2.15.0"},
        "host": {"hostname": "node0", "nodes": [f"node{n}" for n in range(nodes)]},
        "hardware": {"gpu_name": "V100", "gpu_count_visible": 8, "world_size": gpus},
        "training_config": {
            "model_name": "resnet50", "epochs": len(rates), "micro_batch_size_per_gpu": 512,
            "grad_accum_steps": 1, "global_batch_size": 512 * gpus, "precision": "fp16",
        },
        "epochs": epochs,
        "summary": {"completed": True, "warmup_epochs_excluded": 1},
    }  # fmt: skip


def gpu_rounds(gpus: int, rounds: int) -> str:
    """A GPU log whose memory climbs to a plateau and whose utilisation swings."""
    rows = []
    for n in range(rounds):
        for gpu in range(gpus):
            used = 1200 if n < 3 else 26000 + 60 * gpu + 10 * (n % 5)
            busy = 0 if n < 3 else 90 + (n * 7 + gpu * 3) % 11
            rows.append(gpu_row(5 * n, gpu, used).replace(", 97, ", f", {busy}, "))
    return "\n".join([GPU_HEADER, *rows]) + "\n"


def write_study(root: Path, scales=SCALES, **changed: object) -> Path:
    """Write a run at each scale, job ids from 101 on; return root."""
    for number, (nodes, gpus) in enumerate(scales, start=101):
        write_study_run(root, nodes, gpus, str(number), **changed)
    return root
