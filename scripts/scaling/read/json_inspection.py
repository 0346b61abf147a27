"""What the run contract's JSON files hold, for inspect_log.py."""

from pathlib import Path

from scaling.read import kinds as log_kinds
from scaling.read.columns import Column, describe_columns
from scaling.read.json_fields import number
from scaling.read.kinds import Kind
from scaling.read.metrics_json import parse_training_metrics
from scaling.read.rank_json import UNITS, parse_rank_record

_SUFFIX_UNITS = (
    ("_tokens_per_sec", "tokens/s"), ("_samples_per_sec", "samples/s"), ("_sec", "s"), ("_s", "s"),
    ("_mib", "MiB"), ("_pct", "%"),
)  # fmt: skip
_IDENTITIES = {"rank", "epoch", "epoch_idx", "schema_version"}
_MOST_RANKS = 100_000
Described = tuple[str, list[int], dict[str, dict], dict]


def describe_json(path: Path, kind: Kind) -> Described:
    """Return (why it is not good or '', ranks, columns, details) of a JSON file.

    Raises UserError when its figures cannot be used.
    """
    broken = "" if kind.is_whole else "it breaks off: only its whole fields were read"
    if kind.name == log_kinds.METRICS:
        return _describe_metrics(path, kind, broken)
    ranks, details = [], {}
    if kind.name == log_kinds.RANK_JSON:
        found = parse_rank_record(kind.record, path)
        ranks, details = [found.rank], {"epoch": found.epoch}
    elif kind.name == log_kinds.RUN_JSON:
        keys = ("run_id", "workload", "scaling", "nodes", "world_size", "precision", "start_utc")
        details = {key: kind.record.get(key) for key in keys}
    elif number(kind.record, "exit_status") is None:
        broken = broken or "exit_status is no number"
    return broken, ranks, _describe_entries([kind.record]), details


def _describe_metrics(path: Path, kind: Kind, broken: str) -> Described:
    metrics = parse_training_metrics(kind.record, path)
    details = {
        "schema": metrics.schema,
        "run_id": metrics.run_id,
        "world_size": metrics.world_size,
        "epochs": [epoch.epoch for epoch in metrics.epochs],
        "unit": metrics.unit,
        "total_wall_s": metrics.total_wall_s,
        "mean_throughput_per_s": metrics.mean_throughput_per_s,
        "best_val_loss": metrics.best_val_loss,
        "completed": metrics.completed,
        "dropped_epochs": metrics.dropped,
        "notes": metrics.notes,
    }
    has_any = metrics.epochs or metrics.mean_throughput_per_s is not None
    reason = broken or ("" if has_any else "it has no epoch that can be used")
    columns = _describe_entries([epoch.record for epoch in metrics.epochs] or [kind.record])
    ranks = range(min(metrics.world_size or 0, _MOST_RANKS))
    return reason, list(ranks), columns, details


def _describe_entries(entries: list[dict]) -> dict[str, dict]:
    """Return the columns of the fields that hold numbers, by their own names."""
    columns: dict[str, Column] = {}
    for entry in entries:
        for key in entry:
            value = number(entry, key)
            if key in _IDENTITIES or (value is None and entry[key] is not None):
                continue
            column = columns.setdefault(key, Column(key, _find_unit(key)))
            if value is None or (value < 0 and column.unit == "s"):  # no time is below 0
                column.no_data += 1
            else:
                column.add(value)
    return describe_columns(columns.values())


def _find_unit(key: str) -> str:
    if key in UNITS:
        return UNITS[key]
    name = key.removesuffix("_global")
    if "bytes" in name:
        return "B"
    for quantity, unit in (("tokens", "tokens/s"), ("samples", "samples/s"), ("images", "img/s")):
        if f"{quantity}_per_sec" in name:
            return unit
    if name in ("train_time_per_epoch",):
        return "s"
    if name == "train_throughput":
        return "tokens/s"
    return next((unit for suffix, unit in _SUFFIX_UNITS if name.endswith(suffix)), "")
