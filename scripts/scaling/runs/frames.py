"""Runs as four tidy pandas DataFrames: one row per run, epoch, rank epoch, and sample.

Every column that is a measure carries its unit in its name; `source` says which file a value
came from. `folder` and `run_id` together name a run in each frame; scripts/README.md lists the
columns. export_runs.py writes just these.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd

from common.console import printable
from scaling.read.cpu_log import CpuLog
from scaling.read.gpu_log import GpuLog
from scaling.read.job_log import Epoch
from scaling.read.text import UTC
from scaling.runs.records import MetricsEpoch, RankEpoch, pick_text
from scaling.runs.run import Run
from scaling.runs.workloads import SCORES

LOG, METRICS, RANKS = "log", "training_metrics.json", "rank files"
GPU_LOG, CPU_LOG = "nvidia-smi", "psrecord"
_SCORED = tuple(score.column for score in SCORES)
RUN_COLUMNS = (
    "folder", "run_id", "job_id", "job_name", "workload", "state", "cause", "reason", "nodes",
    "gpus_per_node", "world_size", "batch_size_per_gpu", "global_batch_size", "scaling",
    "precision", "strategy", "grad_accum_steps", "epochs", "epochs_done", "warmup_epochs", "unit",
    "gpu_name", "torch", "trainer_sha256", "git_commit", "start_utc", "elapsed_s",
    "total_training_s", "hosts", "problems", "source",
)  # fmt: skip
EPOCH_COLUMNS = (
    "folder", "run_id", "attempt", "epoch", "epoch_s", "train_s", "samples", "throughput_per_s",
    "unit", "train_loss", "val_loss", "train_accuracy", *_SCORED,
    "step_s", "step_p50_s", "step_p95_s", "step_wait_s", "is_warmup", "is_superseded", "source",
)  # fmt: skip
RANK_COLUMNS = (
    "folder", "run_id", "epoch", "rank", "host", "training_s", "steps", "samples",
    "throughput_per_s", "unit", "data_wait_s", "copy_s", "compute_s", "optimizer_s", "other_s",
    "exposed_comm_s", "no_sync_pass_s", "peak_mib", "parameter_bytes", "gradient_bytes",
    "optimizer_bytes", "profiled_comm_per_step_s", "profiled_exposed_per_step_s", "is_warmup",
    "source",
)  # fmt: skip
_SAMPLE_FIGURES = (
    "elapsed_s", "used_mib", "total_mib", "utilization_pct", "power_w", "temperature_c",
    "sm_clock_mhz", "throttle_mask", "cpu_pct", "rss_mib", "virtual_mib",
)  # fmt: skip
SAMPLE_COLUMNS = (
    "folder", "run_id", "source", "node", "gpu", "uuid", "timestamp_utc", *_SAMPLE_FIGURES,
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
_LARGEST = 2.0**62
_QUARTER_S = 15 * 60  # every time zone is a whole number of these from UTC
_FARTHEST = timedelta(hours=15)


def make_frames(runs: Iterable[Run], names: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """Return the frames of runs that were started: runs, epochs, rank_epochs, samples.

    names: only these, since the samples of many runs are large.
    """
    started = [run for run in runs if run.id]
    return {name: FRAMES[name](started) for name in names or FRAMES}


def make_frame(records: Iterable[dict], columns: Iterable[str]) -> pd.DataFrame:
    """Return records as a frame whose types do not depend on what is missing."""
    rows, names = list(records), list(columns)
    return pd.DataFrame({name: _settle(name, [row.get(name) for row in rows]) for name in names})


def _settle(name: str, values: list) -> pd.Series:
    """Return a column of the type that its name says; what is no such value is missing."""
    if name.endswith("_utc"):
        return pd.Series(pd.to_datetime(values, utc=True)).astype("datetime64[us, UTC]")
    if name in _TEXTS:
        texts = [None if value is None or value != value else printable(value) for value in values]
        return pd.Series(texts, dtype="string")
    if name.startswith("is_"):
        return pd.Series(values, dtype=bool)
    numbers = pd.Series(map(_to_number, values), dtype="float64")
    return numbers.round().astype("Int64") if name in _COUNTS else numbers


def _to_number(value: object) -> float:
    """Return a float, nan for what is no number in a record that others wrote."""
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    try:
        return float(value) if is_number and abs(value) < _LARGEST else np.nan
    except ArithmeticError:  # a Decimal that is nan
        return np.nan


# ---- One row per run, per epoch, per rank and epoch ------------------------------------------


def make_runs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per run, whatever became of it."""
    return make_frame(map(_describe_run, runs), RUN_COLUMNS)


def make_epochs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per epoch, from 1; `is_superseded`: of an earlier attempt in the same log."""
    return make_frame((epoch for run in runs for epoch in list_epochs(run)), EPOCH_COLUMNS)


def make_rank_epochs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per rank and epoch, from 1; throughput is that rank's own."""
    return make_frame((rank for run in runs for rank in _list_rank_epochs(run)), RANK_COLUMNS)


def _name(run: Run) -> dict:
    return {"folder": str(run.folder), "run_id": run.id}


def _describe_run(run: Run) -> dict:
    settings, attempt, epochs = run.settings or {}, run.attempt, list_epochs(run)
    last, hosts = attempt and attempt.last, settings.get("hosts")
    return {
        **{name: getattr(run, name, settings.get(name)) for name in RUN_COLUMNS},
        **_name(run),
        "job_id": run.job if run.job >= 0 else None,
        "state": str(run.state),
        "cause": run.cause and run.cause.text,
        "world_size": settings.get("world_size") or run.gpus,
        "epochs": settings.get("epochs") or (last and last.epochs) or None,
        "epochs_done": (last.epoch or None) if last else 0,
        "warmup_epochs": settings.get("warmup_epochs"),
        "torch": pick_text(settings, "versions.torch"),
        "start_utc": run.start,
        "total_training_s": attempt and attempt.totals.get("total_training_s"),
        "hosts": " ".join(map(str, hosts)) if isinstance(hosts, list) else None,
        "problems": "; ".join([*run.problems, *run.lost_records]) or None,
        "source": epochs[-1]["source"] if epochs else None,
    }


def list_epochs(run: Run) -> list[dict]:
    """Return a record per epoch of the run, and of what its log holds of earlier attempts.

    From the best record that it left: training_metrics.json, the log, or the rank files. Times
    in s, throughput of the whole job, accuracies from 0 to 1. What no file holds is missing.
    """
    if not run.id:
        return []
    attempts = run.log.attempts if run.log and run.restarts == 0 else []
    records = [
        {**_from_line(epoch), "attempt": at, "is_superseded": True}
        for at, attempt in enumerate(attempts[:-1], start=1)
        for epoch in attempt.epochs
    ]
    newest = [_from_metrics(epoch, run.unit) for epoch in run.metrics.epochs] if run.metrics else []
    newest = newest or [_from_line(epoch) for epoch in (run.attempt.epochs if run.attempt else ())]
    own = {"attempt": max(len(attempts), 1), "is_superseded": False}
    records += [{**record, **own} for record in newest or _from_ranks(run)]
    return [
        {**record, **_name(run), "is_warmup": record["epoch"] <= run.warmup_epochs}
        for record in records
    ]


def _from_line(epoch: Epoch) -> dict:
    names = ("throughput_per_s", "epoch_s", "samples", "step_s", "train_loss", "val_loss")
    # In % as the log has it; of what a record has from 0 to 1.
    parts = {score.column: (score.val_log_key, score.factor) for score in SCORES}
    parts["train_accuracy"] = ("train_accuracy_pct", 100.0)
    printed = {column: (epoch.get(key), factor) for column, (key, factor) in parts.items()}
    return {
        **{name: epoch.get(name) for name in names},
        **{column: None if value is None else float(value) * (1 / factor)
           for column, (value, factor) in printed.items()},
        "epoch": epoch.epoch, "unit": epoch.unit, "source": LOG,
    }  # fmt: skip


def _from_metrics(epoch: MetricsEpoch, unit: str | None = None) -> dict:
    figures = {name: getattr(epoch, name, None) for name in EPOCH_COLUMNS[3:]}
    figures |= {"step_s": epoch.optimizer_step_s, "unit": unit or epoch.unit}
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
        same = ("unit", "train_loss", "val_loss", "train_accuracy", *_SCORED)
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
    for record in run.rank_epochs if run.id else ():
        yield {
            **record.__dict__,
            **_name(run),
            "epoch": record.epoch + 1,
            "host": record.host or run.find_host(record.rank),
            "is_warmup": record.epoch < run.warmup_epochs,
            "source": record.path.name,
        }


# ---- One row per sample ----------------------------------------------------------------------


def make_samples_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per sample of a GPU or of a node's processes; `elapsed_s` since its log began.

    `gpu` is missing in psrecord's rows, whose rss_mib counts shared pages once per process.
    """
    parts = [make_samples(run) for run in runs]
    return pd.concat(parts, ignore_index=True) if parts else make_frame([], SAMPLE_COLUMNS)


def make_samples(run: Run) -> pd.DataFrame:
    """Return the samples of one run, in the columns of make_samples_frame."""
    logs = [(GPU_LOG, *item) for item in run.gpu_logs.items()]
    logs += [(CPU_LOG, *item) for item in run.cpu_logs.items()]
    logs = [(source, node, log) for source, node, log in logs if log.samples]
    if not logs:
        return make_frame([], SAMPLE_COLUMNS)
    sources, nodes, logs = zip(*logs, strict=True)
    rows = [len(log.samples["elapsed_s"]) for log in logs]
    whose = np.repeat(range(len(logs)), rows)
    # Which GPU each row is of: a position among all logs' GPUs; psrecord's rows have the last.
    gpus = [gpu for log in logs if "gpu" in log.samples for gpu in _number_gpus(log)]
    places, first = [], 0
    for log, n in zip(logs, rows, strict=True):
        own = log.samples.get("gpu")
        places.append(np.full(n, len(gpus)) if own is None else np.asarray(own) + first)
        first += 0 if own is None else len(log.gpus)
    place = np.concatenate(places)
    numbers, uuids = zip(*gpus, (None, None), strict=True)
    block = np.concatenate([_list_figures(log, n) for log, n in zip(logs, rows, strict=True)], 1)
    block[np.abs(block) >= _LARGEST] = np.nan
    figures = dict(zip(_SAMPLE_FIGURES, block, strict=True))
    times = [_to_utc(log.samples["elapsed_s"], getattr(log, "start", None), run.start)
             for log in logs]  # fmt: skip
    return pd.DataFrame({
        "folder": _take([printable(run.folder)], whose * 0),
        "run_id": _take([printable(run.id)], whose * 0),
        "source": _take(sources, whose),
        "node": _take(nodes, whose, "Int64"),
        "gpu": _take(numbers, place, "Int64"),
        "uuid": _take(uuids, place),
        "timestamp_utc": pd.concat(times, ignore_index=True),
        **figures,
        "throttle_mask": pd.Series(figures["throttle_mask"]).round().astype("Int64"),
    })  # fmt: skip


def _take(values: Iterable, places: np.ndarray, dtype: str = "string"):
    """Return values by their places; so a text of many rows is looked at once."""
    return pd.array(list(values), dtype).take(places)


def _number_gpus(log: GpuLog) -> list[tuple[int, str | None]]:
    """Return number and uuid of each GPU: its index, or its place where two have one index."""
    indices = [gpu.index for gpu in log.gpus]
    if len(set(indices)) < len(indices):  # of two hosts, or two of one index
        indices = list(range(len(indices)))
    uuids = [printable(gpu.uuid) if gpu.uuid else None for gpu in log.gpus]
    return list(zip(indices, uuids, strict=True))


def _list_figures(log: GpuLog | CpuLog, n: int) -> np.ndarray:
    missing = np.full(n, np.nan)
    return np.array([log.samples.get(name, missing) for name in _SAMPLE_FIGURES])


def _to_utc(
    elapsed_s: Sequence[float], first: datetime | None, start: datetime | None
) -> pd.Series:
    """Return when each sample of a log was taken, in UTC; missing where its zone is unknown.

    first: of the log, None of psrecord's, which writes no time. start: of its run.
    """
    offset = find_utc_offset(first, start)
    if first is None or (first.tzinfo is None and offset is None):
        return pd.Series(pd.NaT, range(len(elapsed_s)), dtype="datetime64[us, UTC]")
    first_utc = first.replace(tzinfo=UTC) - offset if first.tzinfo is None else first
    times = pd.to_timedelta((pd.Series(np.asarray(elapsed_s)) * 1e6).round(), unit="us")
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


FRAMES: dict[str, Callable[[Iterable[Run]], pd.DataFrame]] = {
    "runs": make_runs_frame,
    "epochs": make_epochs_frame,
    "rank_epochs": make_rank_epochs_frame,
    "samples": make_samples_frame,
}


# ---- As files --------------------------------------------------------------------------------

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


def to_csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV: times as ISO 8601 in UTC, a missing value as nothing.

    Text that a spreadsheet would take for a formula is put behind an apostrophe.
    """
    texts = frame.select_dtypes("string")
    safe = {name: cells.where(~cells.str.startswith(_FORMULA, na=False), "'" + cells)
            for name, cells in texts.items()}  # fmt: skip
    return frame.assign(**safe).to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")


def to_json(frame: pd.DataFrame) -> str:
    """Return a frame as a JSON list of objects, one per row; a missing value is null."""
    how = {"orient": "records", "indent": 1, "force_ascii": False}
    return frame.to_json(**how, date_format="iso", date_unit="us") + "\n"
