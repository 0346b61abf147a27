"""Read any file whole and say what was read from it: inspect_log.py's records and their text."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from pydantic_core import from_json

from common.console import printable
from common.counts import LineCounts
from common.errors import UserError
from common.files import replace_nan
from scaling.read import kinds
from scaling.read.columns import Column, describe_columns, plain_number
from scaling.read.cpu_log import read_cpu_log
from scaling.read.foreign_log import (
    LogChoice,
    is_trainer_log,
    looks_timed,
    measure_windows,
    read_foreign_log,
)
from scaling.read.gpu_log import list_labels, read_gpu_log
from scaling.read.job_log import find_final_cause, read_job_log
from scaling.read.sacct import read_sacct
from scaling.read.text import parse_timestamp, read_lines
from scaling.runs.records import parse_rank_epoch, parse_training_metrics, to_number
from scaling.runs.workloads import SCORES

# What the name of a JSON field holds -> its unit.
_UNITS = (
    (r"bytes", "B"), (r"tokens_per_sec", "tokens/s"), (r"samples_per_sec", "samples/s"),
    (r"images_per_sec", "img/s"), (r"^train_throughput$", "tokens/s per GPU"),
    (r"(_sec|_s|^training_time|^train_time_per_epoch)$", "s"), (r"_mib$", "MiB"), (r"_pct$", "%"),
)  # fmt: skip
_RUN_FIELDS = ("run_id", "workload", "scaling", "nodes", "world_size", "precision", "start_utc")
_VAL_LOSSES = {"val_loss_avg_global", "val_loss", "val_loss_per_epoch"}
_IDENTITIES = {"rank", "epoch", "epoch_idx", "schema_version"}
_SHOWN_IDS = 16  # GPUs or ranks named before the rest is only counted
_OPEN_NUMBER = re.compile(rb"[-+.0-9eE]+\s*\Z")  # at the end of a file that breaks off
_MIXED = (
    "several processes print epoch lines that differ, without a label: which is the job's is "
    "not known; run with srun --label, or print on rank 0 alone"
)


@dataclass
class Inspection:
    """What a file is and holds, and where its lines went.

    reason: why it is not recognised, or gave no value; '' when all is well. details: what JSON
    shows besides; lines: the same for a reader, where it is not in the fields above.
    """

    path: Path
    kind: str
    reason: str = ""
    counts: LineCounts = field(default_factory=LineCounts)
    gpus: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    columns: dict[str, dict] = field(default_factory=dict)
    details: dict = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return self.kind != kinds.UNKNOWN and not self.reason

    def to_record(self) -> dict:
        """Return it for JSON, with the names that scripts/README.md documents."""
        return {
            "file": str(self.path),
            "kind": self.kind,
            "reason": self.reason or None,
            **self.counts.to_record(),
            "gpus": self.gpus,
            "ranks": self.ranks,
            "columns": self.columns,
            **replace_nan(self.details),
        }


def inspect_log(path: Path, choice: LogChoice | None = None) -> Inspection:
    """Return what a file is and what was read from it.

    choice: what the user says of the log of another trainer. A file whose content is not what
    its name says is named and not read. Raises UserError when the file cannot be read at all.
    """
    path, choice = Path(path), choice or LogChoice()
    kind = kinds.detect_kind(path)
    if not kind.is_whole:
        kind = _read_cut_json(path)
    found = Inspection(path, kind.name, kind.reason)
    expected = kinds.expected_kind(path)
    try:
        if expected in (None, kinds.SLURM_OUT) and _may_be_trainer_log(path, kind, choice):
            _describe_trainer_log(found, choice)
        elif expected not in (None, kind.name):
            is_what = kind.reason if kind.name == kinds.UNKNOWN else f"it holds {kind.name}"
            raise UserError(f"its name says {expected}, but {is_what}")
        elif kind.name == kinds.UNKNOWN:
            raise UserError(kind.reason)
        elif kind.name in _DESCRIBE:
            _DESCRIBE[kind.name](found)
        else:
            _describe_json(found, kind)
    except UserError as error:  # nothing of it was read
        lines = Counter(bool(line.strip()) for line, _ in read_lines(path))
        unread, blank = +Counter({"not what was looked for": lines[True]}), +Counter(
            {"blank": lines[False]})  # fmt: skip
        reason, counts = _without_path(error, path), LineCounts(lines.total(), 0, unread, blank)
        return Inspection(path, kind.name, reason, counts)
    return found


def _may_be_trainer_log(path: Path, kind: kinds.Kind, choice: LogChoice) -> bool:
    """Whether a file is a job's log: what else is in it (a GPU tool's screen) may come first."""
    if kind.name == kinds.SLURM_OUT:
        return True
    if kind.record is not None or not kind.is_whole:
        return False
    is_text = kind.reason.startswith(kinds.PLAIN_TEXT)
    return is_trainer_log(path, choice.format) or (
        is_text and (choice.format is not None or looks_timed(path))
    )


def _read_cut_json(path: Path) -> kinds.Kind:
    """Return the kind of JSON that breaks off, by the fields that stand whole in it.

    A number that ends with the file may be cut, and a cut one is never a shorter number: what
    is not closed is left out.
    """
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        record = from_json(_OPEN_NUMBER.sub(b"", data), allow_partial=True)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return kinds.Kind(kinds.UNKNOWN, "JSON that is damaged, or breaks off", is_whole=False)
    if not record:
        reason = "JSON that breaks off before its first whole field"
        return kinds.Kind(kinds.UNKNOWN, reason, is_whole=False)
    name = kinds.judge_record(record)
    reason = f"JSON that breaks off, with the fields {kinds.list_fields(record)}"
    if name != kinds.UNKNOWN:
        reason = "it breaks off: only its whole fields were read"
    return kinds.Kind(name, reason, record, is_whole=False)


def _without_path(error: UserError, path: Path) -> str:
    return str(error).removeprefix(str(path)).lstrip(": ")


# ---- What each kind gives ------------------------------------------------------------------


def _describe_gpu_log(found: Inspection) -> None:
    log = read_gpu_log(found.path, columns=True)
    found.counts, found.columns = log.counts, describe_columns(log.columns.values())
    found.reason = log.problem or ("" if found.columns else "no measure in it")
    found.gpus = [gpu.index for gpu in log.gpus]
    labels = list_labels(log.gpus)
    found.details["memory"] = [
        {"label": label, **gpu.to_record(), "columns": describe_columns(gpu.columns.values())}
        for label, gpu in zip(labels, log.gpus, strict=True)
    ]
    if labels:
        found.lines = [f"GPUs: {_list([label.removeprefix('GPU ') for label in labels])}"]
    # A mean over several GPUs hides an idle one.
    for gpu in found.details["memory"] if len(labels) > 1 else ():
        means = (f"{name} {_show(column['mean'])} {column['unit']}".rstrip()
                 for name, column in gpu["columns"].items())  # fmt: skip
        found.lines.append(f"{gpu['label']}: mean {', '.join(means)}")


def _describe_cpu_log(found: Inspection) -> None:
    log = read_cpu_log(found.path)
    found.counts, found.columns = log.counts, describe_columns(log.columns.values())
    found.reason = log.problem or ""
    found.details = {"covered_s": round(log.covered_s, 3), "interval_s": log.interval_s}


def _describe_sacct(found: Inspection) -> None:
    log = read_sacct(found.path)
    found.counts, found.columns = log.counts, describe_columns(log.columns.values())
    found.reason = "" if log.jobs else "it has a header and no job"
    names = ("id", "name", "state", "slurm_state", "exit_status", "signal", "steps")
    for job in log.jobs:
        measures = {name: value for name, (value, _) in job.measures.items()}
        record = {name: getattr(job, name) for name in names} | {"measures": measures}
        found.details.setdefault("jobs", []).append(record)
        found.lines.append(f"job {job.id}: {job.state} ({job.slurm_state or 'no line of it'})")


def _describe_marker(found: Inspection) -> None:
    """Say what RUN_COMPLETE.txt and REQUEUE mean by being there."""
    is_end = found.path.name == "RUN_COMPLETE.txt"
    means = "the run is complete" if is_end else "the run goes on later"
    for line, _ in read_lines(found.path):
        found.counts.lines += 1
        if parse_timestamp(line.strip()) is None:
            found.counts.ignored["no time"] += 1
        else:
            found.counts.kept += 1
            means += f", {line.strip()}"
    found.details["notes"] = [means]


def _describe_out(found: Inspection) -> None:
    log = read_job_log(found.path)
    found.counts, found.ranks = log.counts, sorted(log.ranks)
    found.reason = _MIXED if log.is_mixed else ""
    attempts = found.details["attempts"] = []
    for at, attempt in enumerate(log.attempts, start=1):
        last, total_s = attempt.last, plain_number(attempt.totals.get("total_training_s"))
        attempts.append({
            "epochs": [epoch.epoch for epoch in attempt.epochs],
            "of_epochs": last.epochs if last else None,
            "has_all_epochs": attempt.has_all_epochs,
            "total_training_s": total_s,
            "last_line": last and {"number": last.line_number, "text": last.text},
        })  # fmt: skip
        if last:
            end = "" if total_s is None else f", total training time {total_s} s"
            found.lines.append(f"attempt {at}: {len(attempt.epochs)} of {last.epochs} epochs{end}")
    cause = find_final_cause(log)
    if cause:
        found.lines.append(f"cause, line {cause.line_number}: {cause.text}")
        cause = {"text": cause.text, "state": cause.state, "line": cause.line_number,
                 "hint": cause.hint}  # fmt: skip
    found.details |= {"forgotten_attempts": log.forgotten_attempts, "cause": cause}
    epochs, scores = log.last_attempt.epochs, {}
    for score in SCORES:
        scores |= dict.fromkeys((score.log_key, score.val_log_key), score.unit)
    units = {"lr": "", "train_loss": "", "val_loss": "", **scores}
    units["throughput_per_s"] = epochs[-1].unit if epochs else ""
    found.columns = describe_columns(
        _fill(name, unit, [epoch.get(name) for epoch in epochs]) for name, unit in units.items()
    )


def _describe_trainer_log(found: Inspection, choice: LogChoice) -> None:
    """Describe a job's log with our epoch lines, else by the format that fits."""
    path, why = found.path, found.reason
    was = found.kind
    _describe_out(found)
    found.kind = kinds.SLURM_OUT
    if found.columns and choice.format is None:
        return
    try:
        log = read_foreign_log(path, [choice.format] if choice.format else None)
    except UserError as error:
        more = found.reason or f"no epoch line, and {_without_path(error, path)}"
        found.kind, found.reason = was, "; ".join(filter(None, [why, more]))
        return
    found.kind, found.reason, found.counts = kinds.TRAINER_LOG, "", log.counts
    nodes, gpus = choice.find_scale(path, "")
    if gpus is None:
        nodes, gpus = log.find_scale()
    last, total_s, cause = (
        log.windows[-1],
        plain_number(log.totals.get("total_training_s")),
        found.details["cause"],
    )
    format, unit = log.format, log.format.unit
    rates = "printed_per_s", f"{unit} per GPU" if format.per == "gpu" else unit
    printed, notes = [window.rate for window in log.windows], []
    try:
        windows = measure_windows(log, gpus, choice.find_samples(path, ""))
        rates = "throughput_per_s", unit
        printed = [epoch.throughput_per_s for epoch in windows.epochs]
        notes = [windows.describe(), *windows.notes]
    except UserError as error:
        notes = [_without_path(error, path)]
    found.details = {
        "cause": cause, "log_format": format.name, "title": format.title,
        "windows": len(log.windows), "ended": log.ended, "total_s": total_s,
        "last_line": {"number": last.number, "text": last.text}, "nodes": nodes,
        "world_size": gpus, "notes": notes,
    }  # fmt: skip
    n, does = len(log.windows), "says" if log.ended else "does not say"
    lines = f"{n} line{'s' if n != 1 else ''} with a throughput or a time"
    end = f"it {does} that it ended" + ("" if total_s is None else f", total {_show(total_s)} s")
    found.lines = [f"log format {format.name} ({format.title}): {lines}; {end}"]
    found.lines += [f"cause, line {cause['line']}: {cause['text']}"] if cause else []
    found.columns = describe_columns([
        _fill(f"{format.times}_s", "s", [window.seconds for window in log.windows]),
        _fill("train_loss", "", [window.get("loss") for window in log.windows]),
        _fill("val_loss", "", [window.get("val_loss") for window in log.windows]),
        _fill(*rates, printed),
    ])  # fmt: skip


def _fill(name: str, unit: str, values: Iterable[Decimal | float | None]) -> Column:
    column = Column(name, unit)
    for value in values:
        if value is not None:
            column.add(value)
    return column


def _describe_json(found: Inspection, kind: kinds.Kind) -> None:
    lines = [line for line, _ in read_lines(found.path)]
    blank = sum(not line.strip() for line in lines)
    dropped = Counter() if kind.is_whole else Counter({"cut: the JSON does not end": 1})
    kept = len(lines) - blank - dropped.total()
    found.counts = LineCounts(len(lines), kept, dropped, +Counter({"blank": blank}))
    record, entries = kind.record, [kind.record]
    try:
        if kind.name == kinds.METRICS:
            entries = _describe_metrics(found, record) or entries
        elif kind.name == kinds.RANK_JSON:
            epoch = parse_rank_epoch(record, found.path)
            found.ranks, found.details = [epoch.rank], {"epoch": epoch.epoch}
        elif kind.name == kinds.RUN_JSON:
            found.details = {key: record.get(key) for key in _RUN_FIELDS}
        elif to_number(record.get("exit_status")) is None:
            found.reason = found.reason or "exit_status is no number"
        found.columns = _describe_entries(entries)
    except UserError as error:
        found.reason = _without_path(error, found.path)


def _describe_metrics(found: Inspection, record: dict) -> list[dict]:
    """Describe a metrics file; return its entries as far as they can be used."""
    metrics = parse_training_metrics(record, found.path)
    names = ("run_id", "world_size", "unit", "total_wall_s", "mean_throughput_per_s", "completed")
    found.details = {
        "schema": metrics.schema_version,
        "epochs": [epoch.epoch for epoch in metrics.epochs],
        **{name: getattr(metrics, name) for name in names},
        "notes": metrics.notes,
        "dropped_epochs": metrics.dropped,
    }
    if not metrics.epochs and metrics.mean_throughput_per_s is None:
        found.reason = found.reason or "it has no epoch that can be used"
    return [
        {**epoch.record, **dict.fromkeys(_VAL_LOSSES & set(epoch.record), epoch.val_loss)}
        for epoch in metrics.epochs
    ]


def _describe_entries(entries: list[dict]) -> dict[str, dict]:
    """Return the columns of the fields that hold numbers, by their own names."""
    columns: dict[str, Column] = {}
    for key, cell in (item for entry in entries for item in entry.items()):
        value = to_number(cell)
        if key in _IDENTITIES or (value is None and cell is not None):
            continue
        unit = (unit for pattern, unit in _UNITS if re.search(pattern, key.removesuffix("_global")))
        column = columns.setdefault(key, Column(key, next(unit, "")))
        if value is None or (value < 0 and column.unit == "s"):  # no time is below 0
            column.no_data += 1
        else:
            column.add(value)
    return describe_columns(columns.values())


_DESCRIBE = {
    kinds.GPU_CSV: _describe_gpu_log,
    kinds.PSRECORD: _describe_cpu_log,
    kinds.SACCT: _describe_sacct,
    kinds.MARKER: _describe_marker,
}


# ---- As text for a terminal ----------------------------------------------------------------


def format_inspection(found: Inspection) -> Iterator[str]:
    """Yield the lines that say what a file is and what was read from it."""
    yield printable(f"{found.path}: {found.kind}" + (f" ({found.reason})" if found.reason else ""))
    for line in _list_lines(found):
        yield "  " + printable(line)


def _list_lines(found: Inspection) -> Iterator[str]:
    yield found.counts.describe()
    if found.ranks:
        yield f"ranks: {_list(found.ranks)}"
    for name, column in found.columns.items():
        unit = f" {column['unit']}" if column["unit"] else ""
        mean = "" if len(found.gpus) > 1 else f", mean {_show(column['mean'])}{unit}"
        lacking = {"no_data": "without data", "unreadable": "not readable"}
        less = "".join(f", {column[key]} {says}" for key, says in lacking.items() if key in column)
        yield f"{name}: n {column['n']}{mean}, max {_show(column['max'])}{unit}{less}"
    yield from found.lines
    if found.details.get("world_size") is not None:
        yield f"world size: {found.details['world_size']}"
    for note in (*found.details.get("notes", ()), *found.details.get("dropped_epochs", ())):
        yield f"note: {note}"


def _list(numbers: list) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN_IDS]))
    more = len(numbers) - _SHOWN_IDS
    return f"{shown} and {more} more" if more > 0 else shown


def _show(value: float | None) -> str:
    if value is None:
        return "—"
    is_whole = float(value).is_integer() and abs(value) < 1e15
    return f"{value:.0f}" if is_whole else f"{value:.6g}"
