"""Read what the charts draw: from run folders, or from training_metrics.json files alone."""

from pathlib import Path

import pandas as pd

from common.errors import UserError
from scaling.plots.data import Source, Study
from scaling.plots.series import part_workloads
from scaling.read.metrics_json import read_training_metrics
from scaling.runs.find import Run, find_runs, order_in_time
from scaling.runs.frames import make_epochs_frame, make_rank_epochs_frame
from scaling.runs.measured import count_nodes, describe_settings, list_metrics_epochs

MOST_PER_S = 1e15  # no throughput is larger; nan, infinity and 0 are none
_RUN = ["folder", "run_id"]


def load_studies(folder: Path) -> list[Study]:
    """Return a study for each workload with a complete run below a folder, by name.

    Raises UserError when the folder does not exist.
    """
    return make_studies(find_runs(Path(folder)))


def make_studies(runs: list[Run]) -> list[Study]:
    """Return a study for each workload that has a complete run, by name."""
    usable = [run for run in order_in_time([run for run in runs if run.id]) if run.is_usable]
    epochs = _group(make_epochs_frame(usable))
    ranks = _group(make_rank_epochs_frame(usable))
    none = (make_epochs_frame([]), make_rank_epochs_frame([]))
    sources, skipped = [], []
    for run in usable:
        key = (str(run.folder), run.id)
        found = epochs.get(key, none[0])
        found = found[~found["is_superseded"] & _is_rate(found["throughput_per_s"])]
        if run.gpus is None or found.empty:
            what = "the number of GPUs" if run.gpus is None else "any epoch's throughput"
            skipped.append(f"job {run.id}: nothing says {what}")
            continue
        workload = run.workload or "tinyimagenet"
        scale = (run.nodes, run.gpus_per_node, run.gpus)
        at = ranks.get(key, none[1])
        sources.append(Source(key[0], run.id, workload, *scale, run.settings, found, at, run))
    return part_workloads(sources, skipped)


def load_metrics(files: list[Path]) -> list[Study]:
    """Return a study for each workload in training_metrics.json files, whoever wrote them.

    Raises UserError that names the first file that cannot be used.
    """
    return part_workloads([_read_metrics(Path(path)) for path in files], [])


def _is_rate(values: pd.Series) -> pd.Series:
    return values.between(0, MOST_PER_S, inclusive="neither")


def _group(frame: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    return dict(tuple(frame.groupby(_RUN))) if len(frame) else {}


def _read_metrics(path: Path) -> Source:
    metrics = read_training_metrics(path)
    if metrics.world_size is None:
        raise UserError(f"{path}: it does not say on how many GPUs (hardware.world_size)")
    rows = [
        {**_read_steps(record.pop("record")), **record, "is_superseded": False}
        for record in list_metrics_epochs(metrics)
        if 0 < (record["throughput_per_s"] or 0) < MOST_PER_S
    ]
    if not rows:
        raise UserError(f"{path}: no epoch in it has a throughput")
    frame = pd.DataFrame(rows)
    for name in set(frame) - {"unit", "is_warmup", "is_superseded"}:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    settings = describe_settings(metrics)
    nodes = count_nodes(metrics.record)
    shape = (nodes, metrics.world_size // nodes if nodes else None, metrics.world_size)
    name = metrics.run_id or path.parent.name
    ranks = make_rank_epochs_frame([])
    return Source(str(path), name, settings.get("model") or "runs", *shape, settings, frame, ranks)


def _read_steps(record: dict) -> dict:
    """Return rank 0's mean step time and wait for data, where an entry holds them."""
    names = {"step_s": "step_time_mean_sec", "step_wait_s": "dataload_time_mean_sec",
             "peak_mib": "peak_memory_mib_rank0"}  # fmt: skip
    return {ours: record.get(theirs) for ours, theirs in names.items()}
