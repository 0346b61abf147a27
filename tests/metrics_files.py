"""Writes metrics files and runs with epochs, for the tests of tables that average."""

import json
from pathlib import Path

from run_folders import out_text, put, write_run

# One epoch each on V100s: a public GPT-2 benchmark's throughput in tokens/s and wall time in s.
GPT2 = {1: (29600.05, 1017.61), 2: (57289.31, 522.01), 4: (100791.44, 296.10)}


def metrics(
    world_size: int | None,
    throughputs: list[float],
    wall_s: float | None = None,
    *,
    epoch_s: float = 100.0,
    **config: object,
) -> dict:
    """A training_metrics.json of schema 2.0: an epoch a throughput (tokens/s)."""
    return {
        "schema_version": "2.0",
        "run_id": "r",
        "env": {"torch_version": "2.9.1"},
        "hardware": {"gpu_name": "V100", "gpu_count_visible": 8, "world_size": world_size},
        "training_config": {
            "model_name": "gpt2", "epochs": len(throughputs), "micro_batch_size_per_gpu": 4,
            "global_batch_size": 16, "precision": "fp16", "optimizer": "AdamW", **config,
        },
        "epochs": [
            {
                "epoch_idx": number,
                "epoch_wall_time_sec": epoch_s,
                "tokens_per_sec_global": throughput,
                "tokens_processed_global": 1000,
                "val_loss_avg_global": 5.6,
            }
            for number, throughput in enumerate(throughputs, start=1)
        ],
        "summary": {"total_wall_time_sec": wall_s or epoch_s * len(throughputs)},
    }  # fmt: skip


def put_json(path: Path, record: dict) -> Path:
    return put(path, json.dumps(record))


def write_gpt2_files(folder: Path) -> dict[int, Path]:
    """The three files of the known numbers: number of GPUs -> path."""
    return {
        gpus: put_json(folder / f"{gpus}.json", metrics(gpus, [rate], wall_s))
        for gpus, (rate, wall_s) in GPT2.items()
    }


def write_timed_run(
    root: Path,
    nodes: int,
    gpus_per_node: int,
    run_id: str,
    wall_s: str,
    *,
    rates: tuple[float, ...] = (100.0, 704.9, 704.9),
    val_loss: float = 0.1187,
    val_accuracy: float = 0.953,
    **changed: object,
) -> Path:
    """A complete run with a metrics file: an epoch a rate (img/s), and its wall time."""
    out = out_text().replace("93.1 s", f"{wall_s} s")
    folder = write_run(root, nodes, gpus_per_node, run_id, out=out, **changed)
    epochs = [
        {
            "epoch_idx": number,
            "epoch_wall_time_sec": float(wall_s) / len(rates),
            "samples_processed_global": 100000,
            "samples_per_sec_global": rate,
            "val_loss_avg_global": val_loss,
            "val_accuracy_global": val_accuracy,
            "step_time_mean_sec": 0.5,
        }
        for number, rate in enumerate(rates, start=1)
    ]
    record = {
        "schema_version": "2.0",
        "hardware": {"world_size": nodes * gpus_per_node},
        "training_config": {},
        "epochs": epochs,
        "summary": {"total_wall_time_sec": float(wall_s), "warmup_epochs_excluded": 1},
    }
    put_json(folder / f"results/{run_id}/training_metrics.json", record)
    return folder
