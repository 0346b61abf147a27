"""Writes run folders of the run contract (scripts/README.md), for the tests of scaling/."""

import json
from datetime import datetime, timedelta
from pathlib import Path

from scaling.read.job_log import Epoch, parse_epoch_lines

GPU_HEADER = (
    "timestamp, index, name, memory.used [MiB], memory.total [MiB], utilization.gpu [%], "
    "power.draw [W], temperature.gpu, clocks.current.sm [MHz], clocks_throttle_reasons.active, uuid"
)
CPU_HEADER = "# Elapsed time   CPU (%)     Real (MB)   Virtual (MB)"

# The line of the README: 704.9 img/s, and the losses and accuracies beside it.
EPOCH_LINE = (
    "Epoch [3/3] LR: 0.001000 | Loss (train, val): 5.149, 5.664 | "
    "Accuracy (train, val): 2.16%, 0.98% | Throughput: 704.9 img/s"
)


def epoch_line(epoch: int, epochs: int = 3, throughput: float = 704.9, loss: float = 5.149) -> str:
    return (
        f"Epoch [{epoch}/{epochs}] LR: 0.001000 | Loss (train, val): {loss:.3f}, 5.664 | "
        f"Accuracy (train, val): 2.16%, 0.98% | Throughput: {throughput:.1f} img/s"
    )


def out_text(epochs_done: int = 3, epochs: int = 3, throughput: float = 704.9) -> str:
    """A job's log; whole when every epoch is done."""
    lines = ["node1:12:12 [0] NCCL INFO Bootstrap : Using ib0:10.0.0.1<0>"]
    lines += [epoch_line(n, epochs, throughput) for n in range(1, epochs_done + 1)]
    if epochs_done == epochs:
        lines += ["Total training time: 93.1 s", "Best validation loss: 5.664"]
        lines += ["Best validation accuracy: 0.98%"]
    return "\n".join(lines) + "\n"


def gpu_row(second: int, index: int, used_mib: object, total_mib: object = 32510) -> str:
    when = datetime(2026, 11, 21, 10) + timedelta(seconds=second)
    return (
        f"{when:%Y/%m/%d %H:%M:%S}.123, {index}, Tesla V100-SXM2-32GB, {used_mib}, "
        f"{total_mib}, 97, 251.30, 61, 1530, 0x0000000000000000, GPU-{index}"
    )


def gpu_csv(samples: dict[int, list[int]], interval_s: int = 5) -> str:
    """A CSV of GPU index -> memory.used of each round."""
    rounds = range(max(map(len, samples.values())))
    rows = [gpu_row(i * interval_s, g, used[i]) for i in rounds for g, used in samples.items()]
    return "\n".join([GPU_HEADER, *rows]) + "\n"


def cpu_log(rss_mib: list[float], interval_s: float = 5.0) -> str:
    """A psrecord log of these resident sizes; the first CPU sample is 0, as it always is."""
    rows = [
        f"{i * interval_s:12.3f} {0.0 if i == 0 else 190.0:12.3f} {mib:12.3f} {mib * 2:12.3f}"
        for i, mib in enumerate(rss_mib)
    ]
    return "\n".join([CPU_HEADER, *rows]) + "\n"


def settings(nodes: int, gpus_per_node: int, run_id: str, **changed: object) -> dict:
    """What run.json holds."""
    return {
        "schema_version": "1.0",
        "run_id": run_id,
        "workload": "tinyimagenet",
        "unit": "img/s",
        "model": "resnet50",
        "image_size": 64,
        "scaling": "weak",
        "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "world_size": nodes * gpus_per_node,
        "batch_size_per_gpu": 512,
        "global_batch_size": 512 * nodes * gpus_per_node,
        "optimizer": "SGD",
        "num_workers": 4,
        "input": "cache",
        "cuda_graph": False,
        "compile": False,
        "precision": "fp16",
        "strategy": "ddp",
        "epochs": 3,
        "warmup_epochs": 1,
        "device": "cuda",
        "gpu_name": "Tesla V100-SXM2-32GB",
        "versions": {"torch": "2.15.0"},
        "slurm": {"job_id": run_id, "job_name": f"ddp_{gpus_per_node}g{nodes}n"},
        "trainer_sha256": "c0ffee",
        "start_utc": f"2026-11-21T10:{int(float(run_id)) % 60:02d}:00Z",
        "dataset": {"name": "tinyimagenet", "classes": 200, "train": 100000, "val": 10000},
        **changed,
    }


def scale_folder(root: Path, nodes: int, gpus_per_node: int) -> Path:
    """The folder of a committed job at that scale, with its job file."""
    if nodes > 1:
        folder, name = root / f"multi_node/{nodes}_nodes", "multi_node.slurm"
    elif gpus_per_node > 1:
        folder, name = root / f"multi_gpu/{gpus_per_node}_gpus", "multi_gpu.slurm"
    else:
        folder, name = root / "baseline", "baseline.slurm"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(
        f"#!/bin/bash\n#SBATCH --job-name=ddp_{gpus_per_node}g{nodes}n\n", encoding="utf-8"
    )
    return folder


def write_run(
    root: Path,
    nodes: int,
    gpus_per_node: int,
    run_id: str,
    *,
    out: str | None = None,
    throughput: float = 704.9,
    used_mib: list[int] | None = None,
    rss_mib: list[float] | None = None,
    complete: bool = True,
    exit_status: int | None = 0,
    record: dict | None = None,
    **changed: object,
) -> Path:
    """Write a run of 93.1 s at a scale below root; return its job folder.

    used_mib: GPU 0's samples on every node. record={}: no run.json and no RUN_COMPLETE.txt.
    changed: settings of run.json that differ from `settings()`.
    """
    folder = scale_folder(root, nodes, gpus_per_node)
    used_mib = used_mib or [22000] * 10 + [26532] * 10
    rss_mib = rss_mib or [4000.0 + i for i in range(20)]
    log = folder / f"log/ddp_{gpus_per_node}g{nodes}n_{run_id.split('.')[0]}.out"
    put(log, out_text(throughput=throughput) if out is None else out)
    for node in range(nodes):
        suffix = f"_node{node}" if nodes > 1 else ""
        samples = {gpu: [mib + gpu for mib in used_mib] for gpu in range(gpus_per_node)}
        put(folder / f"gpu_memory/{run_id}/gpu_memory_log{suffix}.csv", gpu_csv(samples))
        put(folder / f"cpu_memory/{run_id}/cpu_memory_log{suffix}.txt", cpu_log(rss_mib))
    results = folder / f"results/{run_id}"
    record = settings(nodes, gpus_per_node, run_id, **changed) if record is None else record
    if record:
        put(results / "run.json", json.dumps(record))
        if complete:
            put(results / "RUN_COMPLETE.txt", "2026-11-21T10:02:00Z\n")
    if exit_status is not None:
        end = {"exit_status": exit_status, "elapsed_s": 93}
        put(results / "job_end.json", json.dumps(end))
    return folder


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def parse_epoch_line(line: str, line_number: int = 0) -> Epoch | None:
    """Return the first whole epoch line that stands in a line of the log, None without one."""
    return next(iter(parse_epoch_lines(line, line_number)), None)
