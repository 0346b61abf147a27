"""Runs as four tidy pandas DataFrames: one row per run, epoch, rank epoch, and sample.

Every column that is a measure carries its unit in its name; `source` says which file a value
came from. `folder` and `run_id` together name a run in each frame; scripts/README.md lists the
columns. export_runs.py writes just these.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from common.console import printable
from scaling.read.cpu_log import CpuLog
from scaling.read.epoch_line import Epoch
from scaling.read.gpu_log import GpuLog
from scaling.read.times import UTC
from scaling.runs.records import MetricsEpoch, RankEpoch
from scaling.runs.run import Run
from scaling.runs.workloads import SCORES

LOG, METRICS, RANKS = "log", "training_metrics.json", "rank files"
GPU_LOG, CPU_LOG = "nvidia-smi", "psrecord"
RUN_COLUMNS = (
    "folder", "run_id", "job_id", "job_name", "workload", "state", "cause", "reason", "nodes",
    "gpus_per_node", "world_size", "batch_size_per_gpu", "global_batch_size", "scaling",
    "precision", "strategy", "grad_accum_steps", "epochs", "epochs_done", "warmup_epochs", "unit",
    "gpu_name", "torch", "trainer_sha256", "git_commit", "start_utc", "elapsed_s",
    "total_training_s", "hosts", "problems", "source",
)  # fmt: skip
EPOCH_COLUMNS = (
    "folder", "run_id", "attempt", "epoch", "epoch_s", "train_s", "samples", "throughput_per_s",
    "unit", "train_loss", "val_loss", "train_accuracy", *(score.column for score in SCORES),
    "step_s", "step_p50_s", "step_p95_s", "step_wait_s", "is_warmup", "is_superseded", "source",
)  # fmt: skip
RANK_COLUMNS = (
    "folder", "run_id", "epoch", "rank", "host", "training_s", "steps", "samples",
    "throughput_per_s", "unit", "data_wait_s", "copy_s", "compute_s", "optimizer_s", "other_s",
    "exposed_comm_s", "no_sync_pass_s", "peak_mib", "parameter_bytes", "gradient_bytes",
    "optimizer_bytes", "profiled_comm_per_step_s", "profiled_exposed_per_step_s", "is_warmup",
    "source",
)  # fmt: skip
SAMPLE_FIGURES = (
    "elapsed_s", "used_mib", "total_mib", "utilization_pct", "power_w", "temperature_c",
    "sm_clock_mhz", "throttle_mask", "cpu_pct", "rss_mib", "virtual_mib",
)  # fmt: skip
SAMPLE_COLUMNS = (
    "folder", "run_id", "source", "node", "gpu", "uuid", "timestamp_utc", *SAMPLE_FIGURES,
)  # fmt: skip
_TEXTS = {
    "folder", "run_id", "job_name", "workload", "state", "cause", "reason", "scaling", "precision",
    "strategy", "unit", "gpu_name", "torch", "trainer_sha256", "git_commit", "hosts", "problems",
    "source", "host", "uuid",
}  # fmt: skip
_COUNTS = {
    "job_id", "nodes", "gpus_per_node", "world_size", "batch_size_per_gpu", "global_batch_size",
    "grad_accum_steps", "epochs", "epochs_done", "warmup_epochs", "attempt", "epoch", "samples",
    "rank", "node", "gpu", "throttle_mask",
}  # fmt: skip
_SETTINGS = (
    "batch_size_per_gpu", "global_batch_size", "scaling", "precision", "strategy",
    "grad_accum_steps", "gpu_name", "trainer_sha256", "git_commit",
)  # fmt: skip
_LARGEST = 2.0**62
_QUARTER_S = 15 * 60  # every time zone is a whole number of these from UTC
_FARTHEST = timedelta(hours=15)


def make_frames(runs: Iterable[Run], names: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """Return the frames of runs that were started: runs, epochs, rank_epochs, samples.

    names: only these, since the samples of many runs are large.
    """
    started = [run for run in runs if run.id]
    return {name: FRAMES[name](started) for name in names or FRAMES}


def make_runs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per run, whatever became of it."""
    return make_frame((_describe_run(run) for run in runs), RUN_COLUMNS)


def make_epochs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per epoch, from 1; `is_superseded`: of an earlier attempt in the same log."""
    return make_frame(_with_run(runs, list_epochs), EPOCH_COLUMNS)


def make_rank_epochs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per rank and epoch, from 1; throughput is that rank's own."""
    return make_frame(_with_run(runs, _list_rank_epochs), RANK_COLUMNS)


def make_samples_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per sample of a GPU or of a node's processes; `elapsed_s` since its log began.

    `gpu` is missing in psrecord's rows, whose rss_mib counts shared pages once per process.
    """
    frames = [frame for run in runs if len(frame := make_samples(run))]
    return pd.concat(frames, ignore_index=True) if frames else make_frame([], SAMPLE_COLUMNS)


def make_samples(run: Run) -> pd.DataFrame:
    """Return the samples of one run, in the columns of make_samples_frame."""
    logs = [(GPU_LOG, *item) for item in run.gpu_logs.items()]
    logs += [(CPU_LOG, *item) for item in run.cpu_logs.items()]
    logs = [(source, node, log) for source, node, log in logs if log.samples]
    if not logs:
        return make_frame([], SAMPLE_COLUMNS)
    rows = [len(log.samples["elapsed_s"]) for _, _, log in logs]
    sources, nodes, logs = zip(*logs, strict=True)
    # Which GPU each row is of: a position in the list of all logs' GPUs, -1 in psrecord's.
    gpus, places = [], []
    for log, n in zip(logs, rows, strict=True):
        has_gpus = "gpu" in log.samples
        places.append(np.asarray(log.samples["gpu"]) + len(gpus) if has_gpus else np.full(n, -1))
        gpus += _number_gpus(log) if has_gpus else []
    place = np.concatenate(places)
    numbers, uuids = zip(*gpus, (np.nan, None), strict=True)
    return _settle_types({
        **{name: _join(logs, name, rows) for name in SAMPLE_FIGURES},
        "folder": pd.array([printable(run.folder)], "string").take(np.zeros(sum(rows), int)),
        "run_id": pd.array([printable(run.id)], "string").take(np.zeros(sum(rows), int)),
        "source": pd.array(sources, "string").take(np.repeat(range(len(logs)), rows)),
        "node": np.repeat(nodes, rows),
        "gpu": np.array(numbers)[place],
        "uuid": pd.array(uuids, "string").take(np.where(place < 0, len(gpus), place)),
        "timestamp_utc": pd.concat(
            [_to_utc(log, run.start) for log in logs], ignore_index=True
        ),
    }, SAMPLE_COLUMNS)  # fmt: skip


def _number_gpus(log: GpuLog) -> list[tuple[int, str | None]]:
    """Return number and uuid of each GPU: its index, or its place where two have one index."""
    indices = [gpu.index for gpu in log.gpus]
    if len(set(indices)) < len(indices):  # of two hosts, or two of one index
        indices = list(range(len(indices)))
    return [(n, _to_text(gpu.uuid or None)) for n, gpu in zip(indices, log.gpus, strict=True)]


def _join(logs: Sequence[GpuLog | CpuLog], name: str, rows: list[int]) -> np.ndarray:
    """Return a figure of all samples of some logs, nan where a log does not have it."""
    return np.concatenate([
        log.samples[name] if name in log.samples else np.full(n, np.nan)
        for log, n in zip(logs, rows, strict=True)
    ])  # fmt: skip


FRAMES: dict[str, Callable[[Iterable[Run]], pd.DataFrame]] = {
    "runs": make_runs_frame,
    "epochs": make_epochs_frame,
    "rank_epochs": make_rank_epochs_frame,
    "samples": make_samples_frame,
}


def make_frame(records: Iterable[dict], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return records as a frame whose types do not depend on what is missing."""
    rows, names = list(records), list(columns)
    try:
        frame = pd.DataFrame.from_records(rows, columns=names)
    except OverflowError:  # pandas 2, of a whole number that no float can hold
        frame = pd.DataFrame(rows, columns=names, dtype=object)
    return _settle_types(frame, columns)


def _settle_types(values: Mapping, columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame({name: _settle(name, values[name]) for name in columns})


def _settle(name: str, values) -> pd.Series:
    values = pd.Series(values)
    if name.endswith("_utc"):
        return pd.to_datetime(values, utc=True).astype("datetime64[us, UTC]")
    if name in _TEXTS:  # those of samples are texts already
        is_text = values.dtype == pd.StringDtype()
        return values if is_text else values.map(_to_text).astype("string")
    if name in _COUNTS:
        return _to_floats(values).round().astype("Int64")
    return values.astype(bool) if name.startswith("is_") else _to_floats(values)


def _to_floats(values: pd.Series) -> pd.Series:
    """Return floats; what is no number, in a record that others wrote, is missing."""
    if not pd.api.types.is_numeric_dtype(values):
        values = values.map(_to_number).astype("float64")
    numbers = values.to_numpy("float64", na_value=np.nan)
    return pd.Series(np.where(np.abs(numbers) < _LARGEST, numbers, np.nan), values.index)


def _to_number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _LARGEST else None


def _to_text(value: object) -> str | None:
    return None if value is None or value is pd.NA or value != value else printable(value)


def _with_run(runs: Iterable[Run], list_records: Callable[[Run], Iterable[dict]]) -> Iterator[dict]:
    for run in runs:
        for record in list_records(run) if run.id else ():
            yield {"folder": str(run.folder), "run_id": run.id, **record}


def _describe_run(run: Run) -> dict:
    settings, attempt = run.settings or {}, run.attempt
    last = attempt.last if attempt else None
    versions, hosts = settings.get("versions"), settings.get("hosts")
    epochs = list_epochs(run)
    return {
        **{name: settings.get(name) for name in _SETTINGS},
        "folder": str(run.folder),
        "run_id": run.id,
        "job_id": run.job if run.job >= 0 else None,
        "job_name": run.job_name,
        "workload": run.workload,
        "state": str(run.state),
        "cause": run.cause.text if run.cause else None,
        "reason": run.reason,
        "nodes": run.nodes,
        "gpus_per_node": run.gpus_per_node,
        "world_size": settings.get("world_size") or run.gpus,
        "epochs": settings.get("epochs") or ((last.epochs or None) if last else None),
        "epochs_done": (last.epoch or None) if last else 0,
        "warmup_epochs": settings.get("warmup_epochs"),
        "unit": run.unit,
        "torch": versions.get("torch") if isinstance(versions, dict) else None,
        "start_utc": run.start,
        "elapsed_s": run.elapsed_s,
        "total_training_s": _to_float(attempt.totals.get("total_training_s") if attempt else None),
        "hosts": " ".join(map(str, hosts)) if isinstance(hosts, list) else None,
        "problems": "; ".join([*run.problems, *run.lost_records]) or None,
        "source": epochs[-1]["source"] if epochs else None,
    }


def list_epochs(run: Run) -> list[dict]:
    """Return a record per epoch of the run, and of what its log holds of earlier attempts.

    From the best record that it left: training_metrics.json, the log, or the rank files. Times
    in s, throughput of the whole job, accuracies from 0 to 1. What no file holds is missing.
    """
    attempts = run.log.attempts if run.log and run.restarts == 0 else []
    number = max(len(attempts), 1)
    records = [
        {**_from_line(epoch), "attempt": at, "is_superseded": True}
        for at, attempt in enumerate(attempts[:-1], start=1)
        for epoch in attempt.epochs
    ]
    newest = _from_metrics(run) or [_from_line(e) for e in _list_lines(run)] or _from_ranks(run)
    records += [{"attempt": number, **record, "is_superseded": False} for record in newest]
    for record in records:
        record["is_warmup"] = record["epoch"] <= run.warmup_epochs
    return records


def _list_lines(run: Run) -> list[Epoch]:
    return run.attempt.epochs if run.attempt else []


def _from_line(epoch: Epoch) -> dict:
    scores = {
        score.column: _to_float(value, 1 / score.factor)
        for score in SCORES
        if (value := epoch.scores.get(score.val_log_key)) is not None
    }
    return {
        "epoch": epoch.epoch,
        "throughput_per_s": _to_float(epoch.throughput_per_s),
        "unit": epoch.unit,
        "epoch_s": _to_float(epoch.get("epoch_s")),
        "samples": _to_float(epoch.get("samples")),
        "step_s": _to_float(epoch.get("step_s")),
        "train_loss": _to_float(epoch.train_loss),
        "val_loss": _to_float(epoch.val_loss),
        "train_accuracy": _to_float(epoch.scores.get("train_accuracy_pct"), 0.01),
        **scores,
        "source": LOG,
    }


def _to_float(value: object, factor: float = 1.0) -> float | None:
    return None if value is None else float(value) * factor


def _from_metrics(run: Run) -> list[dict]:
    epochs = run.metrics.epochs if run.metrics else []
    return [describe_metrics_epoch(epoch, run.unit) for epoch in epochs]


def describe_metrics_epoch(epoch: MetricsEpoch, unit: str | None = None) -> dict:
    """Return an epoch of a metrics file as a record of the epochs frame."""
    figures = {name: getattr(epoch, name, None) for name in EPOCH_COLUMNS[3:]}
    figures["step_s"] = epoch.optimizer_step_s
    figures["unit"] = unit or epoch.unit
    return {**figures, "source": METRICS}


def _from_ranks(run: Run) -> list[dict]:
    by_epoch: dict[int, list[RankEpoch]] = {}
    for record in run.rank_epochs:
        by_epoch.setdefault(record.epoch + 1, []).append(record)
    world_size = (run.settings or {}).get("world_size") or run.gpus
    found = []
    for number, ranks in sorted(by_epoch.items()):
        if world_size not in (None, len(ranks)):
            continue  # a rank that is missing leaves no global figure
        slowest_s = max(rank.training_s for rank in ranks)
        counts = [rank.samples for rank in ranks]
        samples = None if None in counts else sum(counts)
        same = ("unit", "train_loss", "val_loss", "train_accuracy", *(s.column for s in SCORES))
        found.append({
            **{name: getattr(ranks[0], name) for name in same},
            "epoch": number,
            "train_s": slowest_s,
            "samples": samples,
            "throughput_per_s": samples / slowest_s if samples and slowest_s else None,
            "source": RANKS,
        })  # fmt: skip
    return found


def _list_rank_epochs(run: Run) -> Iterator[dict]:
    for record in run.rank_epochs:
        values = {name: getattr(record, name, None) for name in RANK_COLUMNS[2:]}
        epoch = record.epoch + 1
        yield {
            **values,
            "epoch": epoch,
            "host": record.host or run.find_host(record.rank),
            "is_warmup": epoch <= run.warmup_epochs,
            "source": record.path.name,
        }


def _to_utc(log: GpuLog | CpuLog, start: datetime | None) -> pd.Series:
    """Return when each sample of a log was taken, in UTC; missing where its zone is unknown.

    start: of its run.
    """
    elapsed_s = pd.Series(np.asarray(log.samples["elapsed_s"]))
    first = getattr(log, "start", None)  # psrecord writes no time
    offset = find_utc_offset(first, start)
    if first is None or (first.tzinfo is None and offset is None):
        return pd.Series(pd.NaT, elapsed_s.index, dtype="datetime64[us, UTC]")
    first_utc = first.replace(tzinfo=UTC) - offset if first.tzinfo is None else first
    times = pd.to_timedelta((elapsed_s * 1e6).round(), unit="us")
    return pd.Timestamp(first_utc).as_unit("us").tz_convert("UTC") + times.astype("timedelta64[us]")


def find_utc_offset(first: datetime | None, start: datetime | None) -> timedelta | None:
    """Return local time minus UTC of a log without a zone, from when its run started in UTC.

    The logger starts within minutes of the training, and zones are whole quarters of an
    hour from UTC. None when the log has a zone, when either time is missing, or when they
    are farther apart than any zone.
    """
    if first is None or start is None or first.tzinfo is not None:
        return None
    apart = first.replace(tzinfo=UTC) - start
    if abs(apart) > _FARTHEST:
        return None
    return timedelta(seconds=round(apart.total_seconds() / _QUARTER_S) * _QUARTER_S)


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


def to_csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV: times as ISO 8601 in UTC, a missing value as nothing.

    Text that a spreadsheet would take for a formula is put behind an apostrophe.
    """
    shown = _show_times(frame)
    for name in shown.columns:
        if name in _TEXTS:
            shown[name] = shown[name].map(_escape)
    return shown.to_csv(index=False)


def to_json(frame: pd.DataFrame) -> str:
    """Return a frame as a JSON list of objects, one per row; a missing value is null."""
    return _show_times(frame).to_json(orient="records", indent=1, force_ascii=False) + "\n"


def _show_times(frame: pd.DataFrame) -> pd.DataFrame:
    shown = frame.copy()
    for name in shown.columns:
        if name.endswith("_utc"):
            times = shown[name]
            shown[name] = times.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ").where(times.notna(), None)
    return shown


def _escape(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
