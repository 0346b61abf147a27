"""Run folders whose step breakdown is known, part by part and rank by rank; their diagnosis."""

import json
import shutil
from pathlib import Path

from run_folders import out_text, put, write_run
from scaling.diagnose import Finding, diagnose
from scaling.runs import find_runs, make_study

STEPS = 40


def rank(
    data: float = 0.03,
    own: float = 0.27,
    comm: float = 0.0,
    waits: float = 0.0,
    optimizer: float = 0.02,
    other: float = 0.0,
    copy: float = 0.0,
) -> dict[str, float]:
    """Seconds per step of one rank. waits: inside the all-reduce, for slower ranks."""
    return {"data": data, "own": own, "comm": comm, "waits": waits, "optimizer": optimizer,
            "other": other, "copy": copy}  # fmt: skip


BASE = rank()  # 0.32 s per step: 0.03 waiting, 0.27 forward and backward, 0.02 optimizer
SLOW, FAST = rank(own=0.45), rank(own=0.27, waits=0.18)


def find(root: Path, jobs: tuple[str, ...] = (), **options) -> list[Finding]:
    """The findings of the runs below root, the baseline's first."""
    return diagnose(make_study(find_runs(root), "tinyimagenet", **options), jobs)


def points(finding: Finding) -> dict[str, float | None]:
    found = {factor.key: factor.points for factor in finding.loss.factors}
    return {**found, "unexplained": finding.loss.unexplained.points}


def names(finding: Finding) -> list[str]:
    return [factor.key for factor in finding.named]


def drop_ranks(folder: Path) -> None:
    for path in folder.glob("results/*/rank*.json"):
        path.unlink()


def step_of(parts: dict[str, float]) -> float:
    return sum(parts.values())


def write_known_run(
    root: Path,
    nodes: int,
    gpus_per_node: int,
    run_id: str,
    ranks: list[dict[str, float]],
    *,
    batch: int = 512,
    passes: int = 1,
    epochs: int = 3,
    probe: bool = True,
    wobble: tuple[float, ...] = (),
    probe_waits: float | None = None,
    log: str = "",
    monitors: bool = True,
    **changed: object,
) -> Path:
    """Write a complete run of which each rank's step has these parts; return its folder.

    wobble: seconds of data wait that the epochs after the first have on top, on every rank.
    probe_waits: of the waiting, what the probe sees too (default: all, a rank that computes
    slowly; 0 when it is the data of another rank that is late). monitors: with GPU and CPU logs.
    """
    gpus, step_s = nodes * gpus_per_node, max(map(step_of, ranks))
    throughput = gpus * batch * passes / (step_s + sum(wobble) / max(epochs - 1, 1))
    changed = {"scaling": "weak", "batch_size_per_gpu": batch, "grad_accum_steps": passes,
               "global_batch_size": gpus * batch * passes, "epochs": epochs,
               "hosts": [f"node{n + 1}" for n in range(nodes)], **changed}  # fmt: skip
    text = log + out_text(epochs, epochs, throughput)
    folder = write_run(root, nodes, gpus_per_node, run_id, out=text, **changed)
    for kind in () if monitors else ("gpu_memory", "cpu_memory"):
        shutil.rmtree(folder / kind / run_id)
    for epoch in range(epochs):
        more = wobble[epoch - 1] if epoch and wobble else 0.0
        for number, parts in enumerate(ranks):
            seen = parts["waits"] if probe_waits is None else probe_waits
            put(
                folder / f"results/{run_id}/rank{number}_results_epoch{epoch}.json",
                json.dumps(make_record(number, epoch, parts, more, batch, passes, probe, seen)),
            )
    return folder


def make_record(
    number: int, epoch: int, parts: dict, more: float, batch: int, passes: int, probe: bool,
    seen: float,
) -> dict:  # fmt: skip
    compute = parts["own"] + parts["comm"] + parts["waits"]
    exposed = parts["comm"] + seen
    return {
        "schema_version": "1.1", "rank": number, "epoch": epoch,
        "training_time": STEPS * (step_of(parts) + more), "steps": STEPS,
        "samples": STEPS * batch * passes,
        "samples_per_sec": batch * passes / (step_of(parts) + more),
        "data_wait_s": STEPS * (parts["data"] + more), "copy_s": STEPS * parts["copy"],
        "compute_s": STEPS * compute, "optimizer_s": STEPS * parts["optimizer"],
        "other_s": STEPS * parts["other"],
        "exposed_comm_s": STEPS * exposed if probe else None,
        "probe": {
            "sync_pass_s": parts["own"] / passes + exposed,
            "no_sync_pass_s": parts["own"] / passes,
            "exposed_comm_per_step_s": exposed,
        } if probe else None,
        "train_loss": 5.0, "validation_loss": 5.2, "validation_accuracy": 0.1,
        "peak_memory_mib": 20000.0,
    }  # fmt: skip
