"""Runs as tidy pandas DataFrames: one row a run, an epoch, a rank's epoch, a sample.

Every column that is a measure carries its unit in its name; scripts/README.md lists them.
`folder` and `run_id` together name a run in each frame. Only what needs pandas imports this.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

import pandas as pd

from common.errors import UserError
from scaling.read import contract
from scaling.read.cpu_log import read_cpu_log
from scaling.runs.gpu_frames import list_gpu_samples
from scaling.runs.run_epochs import find_warmup_epochs, list_epochs, read_ranks
from scaling.runs.run_record import Run

RUN_COLUMNS = (
    "folder", "run_id", "job_id", "job_name", "workload", "state", "cause", "reason", "nodes",
    "gpus_per_node", "world_size", "batch_size_per_gpu", "global_batch_size", "scaling",
    "precision", "strategy", "grad_accum_steps", "epochs", "epochs_done", "warmup_epochs", "unit",
    "gpu_name", "torch", "trainer_sha256", "git_commit", "start_utc", "elapsed_s",
    "total_training_s", "hosts", "problems",
)  # fmt: skip
EPOCH_COLUMNS = (
    "folder", "run_id", "attempt", "epoch", "epoch_s", "train_s", "samples", "throughput_per_s",
    "unit", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "perplexity", "bleu",
    "is_warmup", "is_superseded", "source",
)  # fmt: skip
RANK_COLUMNS = (
    "folder", "run_id", "epoch", "rank", "host", "training_s", "samples", "throughput_per_s",
    "unit", "data_wait_s", "copy_s", "compute_s", "optimizer_s", "other_s", "exposed_comm_s",
    "peak_mib", "is_warmup",
)  # fmt: skip
GPU_COLUMNS = (
    "folder", "run_id", "node", "gpu", "uuid", "timestamp_utc", "elapsed_s", "used_mib",
    "total_mib", "utilization_pct", "power_w", "temperature_c", "sm_clock_mhz",
)  # fmt: skip
CPU_COLUMNS = (
    "folder", "run_id", "node", "timestamp_utc", "elapsed_s", "cpu_pct", "rss_mib", "virtual_mib",
)  # fmt: skip
_LARGEST = 2.0**62
_TEXTS = {
    "folder", "run_id", "job_name", "workload", "state", "cause", "reason", "scaling", "precision",
    "strategy", "unit", "gpu_name", "torch", "trainer_sha256", "git_commit", "hosts", "problems",
    "source", "host", "uuid",
}  # fmt: skip
_COUNTS = {
    "job_id", "nodes", "gpus_per_node", "world_size", "batch_size_per_gpu", "global_batch_size",
    "grad_accum_steps", "epochs", "epochs_done", "warmup_epochs", "attempt", "epoch", "samples",
    "rank", "node", "gpu",
}  # fmt: skip
_SETTINGS = (
    "batch_size_per_gpu", "global_batch_size", "scaling", "precision", "strategy",
    "grad_accum_steps", "warmup_epochs", "gpu_name", "trainer_sha256", "git_commit",
)  # fmt: skip


def make_runs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row a run that was started, whatever became of it."""
    return _make_frame((_describe_run(run) for run in runs if run.id), RUN_COLUMNS)


def make_epochs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row an epoch, from 1; `is_superseded`: of an earlier attempt in the same log."""
    return _make_frame(_with_run(runs, list_epochs), EPOCH_COLUMNS)


def make_rank_epochs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row a rank and epoch, from 1; throughput is that rank's own."""
    return _make_frame(_with_run(runs, _list_rank_epochs), RANK_COLUMNS)


def make_gpu_samples_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row a sample of a GPU; memory in MiB, `elapsed_s` since the node's first one."""
    frames = (_make_frame(_with_run([run], list_gpu_samples), GPU_COLUMNS) for run in runs)
    return _concat(frames, GPU_COLUMNS)


def make_cpu_samples_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row a psrecord sample of a node's processes; rss_mib sums shared pages."""
    frames = (_make_frame(_with_run([run], _list_cpu_samples), CPU_COLUMNS) for run in runs)
    return _concat(frames, CPU_COLUMNS)


FRAMES: dict[str, Callable[[Iterable[Run]], pd.DataFrame]] = {
    "runs": make_runs_frame,
    "epochs": make_epochs_frame,
    "rank_epochs": make_rank_epochs_frame,
    "gpu_samples": make_gpu_samples_frame,
    "cpu_samples": make_cpu_samples_frame,
}


def _make_frame(records: Iterable[dict], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return records as a frame whose types do not depend on what is missing."""
    frame = pd.DataFrame.from_records(list(records), columns=list(columns))
    for name in columns:
        if name.endswith("_utc"):
            frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
        elif name in _TEXTS:
            frame[name] = frame[name].map(_to_text).astype("str")
        elif name in _COUNTS:
            frame[name] = _to_numbers(frame[name]).round().astype("Int64")
        elif name.startswith("is_"):
            frame[name] = frame[name].astype(bool)
        else:
            frame[name] = _to_numbers(frame[name])
    return frame


def _to_numbers(values: pd.Series) -> pd.Series:
    """Return floats; what is none, in a record that others wrote, is missing."""
    if pd.api.types.is_numeric_dtype(values.dtype) and values.dtype != bool:
        numbers = values.astype("float64")
    else:
        numbers = values.map(_to_number).astype("float64")
    return numbers.where(numbers.abs() < _LARGEST)


def _to_number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _LARGEST else None


def _to_text(value: object) -> str | None:
    return None if value is None or value != value else str(value)


def _concat(frames: Iterable[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    """Join frames run by run: the samples of many runs are never all there as records."""
    found = [frame for frame in frames if len(frame)]
    return pd.concat(found, ignore_index=True) if found else _make_frame([], columns)


def _with_run(runs: Iterable[Run], list_records: Callable[[Run], Iterable[dict]]) -> Iterable[dict]:
    for run in runs:
        for record in list_records(run) if run.id else ():
            yield {"folder": str(run.folder), "run_id": run.id, **record}


def _describe_run(run: Run) -> dict:
    settings, attempt = run.settings or {}, run.attempt
    last = attempt.last if attempt else None
    versions, hosts = settings.get("versions"), settings.get("hosts")
    total_s = attempt.total_training_s if attempt else None
    return {
        **{name: settings.get(name) for name in _SETTINGS},
        "folder": str(run.folder),
        "run_id": run.id,
        "job_id": run.job,
        "job_name": run.name,
        "workload": run.workload,
        "state": str(run.state),
        "cause": run.cause.text if run.cause else None,
        "reason": run.reason,
        "nodes": run.nodes,
        "gpus_per_node": run.gpus_per_node,
        "world_size": settings.get("world_size") or run.gpus,
        "epochs": settings.get("epochs") or (last.epochs if last else None),
        "epochs_done": last.epoch if last else 0,
        "unit": settings.get("unit") or (last.unit if last else None),
        "torch": versions.get("torch") if isinstance(versions, dict) else None,
        "start_utc": run.start,
        "elapsed_s": _read_elapsed_s(run),
        "total_training_s": None if total_s is None else float(total_s),
        "hosts": " ".join(map(str, hosts)) if isinstance(hosts, list) else None,
        "problems": "; ".join(run.problems) or None,
    }


def _read_elapsed_s(run: Run) -> float | None:
    try:
        end = contract.read_json(run.results_dir / "job_end.json")
        return contract.whole_number(end, "elapsed_s", run.results_dir / "job_end.json")
    except UserError:
        return None  # run.problems has it when it is there and cannot be read


def _list_rank_epochs(run: Run) -> Iterable[dict]:
    settings = run.settings or {}
    hosts, per_node = settings.get("hosts"), run.gpus_per_node
    warmup = find_warmup_epochs(run)
    for record in read_ranks(run):
        host = record.host
        if host is None and isinstance(hosts, list) and per_node:
            node = record.rank // per_node  # hosts are in the order of their first rank
            host = hosts[node] if node < len(hosts) else None
        values = {name: getattr(record, name, None) for name in RANK_COLUMNS[2:]}
        epoch = record.epoch + 1
        yield {**values, "epoch": epoch, "host": host, "is_warmup": epoch <= warmup}


def _list_cpu_samples(run: Run) -> Iterable[dict]:
    for node, path in run.cpu_log_paths.items():
        samples: list[dict] = []

        def keep(sample, node=node, samples=samples) -> None:
            when = sample.when if isinstance(sample.when, datetime) and sample.when.tzinfo else None
            samples.append({"node": node, "timestamp_utc": when, **_numbers(sample)})

        try:
            read_cpu_log(path, keep)
        except UserError as error:
            run.problems.append(str(error))
        yield from samples


def _numbers(sample) -> dict:
    return {name: getattr(sample, name) for name in CPU_COLUMNS[4:]}
