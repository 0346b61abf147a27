"""Read any file whole and say what was read from it: inspect_log.py's records and their text."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path

from pydantic_core import from_json

from common.console import printable
from common.counts import LineCounts
from common.errors import UserError
from common.files import replace_nan
from scaling.read import kinds as log_kinds
from scaling.read.columns import Column, describe_columns, plain_number
from scaling.read.cpu_log import read_cpu_log
from scaling.read.foreign_log import (
    ForeignLog,
    LogChoice,
    is_trainer_log,
    looks_timed,
    measure_windows,
    read_foreign_log,
)
from scaling.read.gpu_log import list_labels, read_gpu_log
from scaling.read.job_log import Attempt, Epoch, find_final_cause, read_job_log
from scaling.read.kinds import Kind
from scaling.read.sacct import read_sacct
from scaling.read.text import parse_timestamp, read_lines
from scaling.runs.compare import SCORES
from scaling.runs.records import parse_rank_epoch, parse_training_metrics, to_number

_SCORE_UNITS = {key: s.unit for s in SCORES for key in (s.log_key, s.val_log_key)}
# What the name of a JSON field holds -> its unit.
_UNITS = (
    (r"tokens_per_sec|^train_throughput$", "tokens/s"), (r"samples_per_sec", "samples/s"),
    (r"images_per_sec", "img/s"), (r"(_sec|_s|^training_time|^train_time_per_epoch)$", "s"),
    (r"_mib$", "MiB"), (r"_pct$", "%"),
)  # fmt: skip
_RUN_FIELDS = ("run_id", "workload", "scaling", "nodes", "world_size", "precision", "start_utc")
_VAL_LOSSES = {"val_loss_avg_global", "val_loss", "val_loss_per_epoch"}
_IDENTITIES = {"rank", "epoch", "epoch_idx", "schema_version"}
_MOST_RANKS = 100_000
_SHOWN_IDS = 16  # GPUs or ranks named before the rest is only counted
_OPEN_NUMBER = re.compile(rb"[-+.0-9eE]+\s*\Z")  # at the end of a file that breaks off
_READERS: dict[str, Callable] = {
    log_kinds.GPU_CSV: partial(read_gpu_log, columns=True),
    log_kinds.PSRECORD: read_cpu_log,
    log_kinds.SACCT: read_sacct,
}
_MIXED = (
    "several processes print epoch lines that differ, without a label: which is the job's is "
    "not known; run with srun --label, or print on rank 0 alone"
)


@dataclass
class Inspection:
    """What a file is and holds, and where its lines went.

    reason: why it is not recognised, or gave no value; '' when all is well.
    """

    path: Path
    kind: str
    reason: str = ""
    counts: LineCounts = field(default_factory=LineCounts)
    gpus: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    columns: dict[str, dict] = field(default_factory=dict)
    details: dict = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return self.kind != log_kinds.UNKNOWN and not self.reason

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
    kind = log_kinds.detect_kind(path)
    if not kind.is_whole:
        kind = _read_cut_json(path)
    expected = log_kinds.expected_kind(path)
    if expected in (None, log_kinds.SLURM_OUT) and _may_be_trainer_log(path, kind, choice):
        return _describe_trainer_log(path, kind, choice)
    if kind.name == log_kinds.UNKNOWN or expected not in (None, kind.name):
        reason = kind.reason
        if expected not in (None, kind.name):
            is_what = reason if kind.name == log_kinds.UNKNOWN else f"it holds {kind.name}"
            reason = f"its name says {expected}, but {is_what}"
        return Inspection(path, kind.name, reason, _count_unread_lines(path))
    try:
        if kind.name in _READERS:
            return _describe_table(path, kind)
        return (_describe_marker if kind.name == log_kinds.MARKER else _describe_json)(path, kind)
    except UserError as error:
        reason = _without_path(str(error), path)
        return Inspection(path, kind.name, reason, _count_unread_lines(path))


def _may_be_trainer_log(path: Path, kind: Kind, choice: LogChoice) -> bool:
    """Whether a file is a job's log: what else is in it (a GPU tool's screen) may come first."""
    if kind.name == log_kinds.SLURM_OUT:
        return True
    if kind.record is not None or not kind.is_whole:
        return False
    is_text = kind.reason.startswith(log_kinds.PLAIN_TEXT)
    return is_trainer_log(path, choice.format) or (
        is_text and (choice.format is not None or looks_timed(path))
    )


def _read_cut_json(path: Path) -> Kind:
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
        return Kind(log_kinds.UNKNOWN, "JSON that is damaged, or breaks off", is_whole=False)
    if not record:
        reason = "JSON that breaks off before its first whole field"
        return Kind(log_kinds.UNKNOWN, reason, is_whole=False)
    name = log_kinds.judge_record(record)
    fields = f"JSON that breaks off, with the fields {log_kinds.list_fields(record)}"
    return Kind(name, "" if name != log_kinds.UNKNOWN else fields, record, is_whole=False)


def _without_path(message: str, path: Path) -> str:
    return message.removeprefix(str(path)).lstrip(": ")


def _count_unread_lines(path: Path) -> LineCounts:
    found = Counter(bool(line.strip()) for line, _ in read_lines(path))
    dropped = +Counter({"not what was looked for": found[True]})
    return LineCounts(found.total(), 0, dropped, +Counter({"blank": found[False]}))


# ---- What each kind gives ------------------------------------------------------------------


def _describe_table(path: Path, kind: Kind) -> Inspection:
    """Describe a GPU log, a psrecord log, or what sacct said."""
    log = _READERS[kind.name](path)
    columns = describe_columns(log.columns.values())
    found = Inspection(path, kind.name, getattr(log, "problem", "") or "", log.counts, [], [],
                       columns)  # fmt: skip
    if kind.name == log_kinds.GPU_CSV:
        found.reason = found.reason or ("" if columns else "no measure in it")
        found.gpus = [gpu.index for gpu in log.gpus]
        found.details["memory"] = [
            {"label": label, **gpu.to_record(), "columns": describe_columns(gpu.columns.values())}
            for label, gpu in zip(list_labels(log.gpus), log.gpus, strict=True)
        ]
    elif kind.name == log_kinds.PSRECORD:
        found.details = {"covered_s": round(log.covered_s, 3), "interval_s": log.interval_s}
    else:
        found.reason = "" if log.jobs else "it has a header and no job"
        names = ("id", "name", "state", "slurm_state", "exit_status", "signal", "steps")
        found.details["jobs"] = [
            {name: getattr(job, name) for name in names}
            | {"measures": {name: value for name, (value, _) in job.measures.items()}}
            for job in log.jobs
        ]
    return found


def _describe_marker(path: Path, kind: Kind) -> Inspection:
    """Say what RUN_COMPLETE.txt and REQUEUE mean by being there."""
    means = "the run is complete" if path.name == "RUN_COMPLETE.txt" else "the run goes on later"
    counts = LineCounts()
    for line, _ in read_lines(path):
        counts.lines += 1
        when = parse_timestamp(line.strip())
        counts.kept += when is not None
        counts.ignored["no time"] += when is None
        means += f", {line.strip()}" if when is not None else ""
    counts.ignored = +counts.ignored
    return Inspection(path, kind.name, "", counts, details={"notes": [means]})


def _describe_out(path: Path, kind: Kind) -> Inspection:
    log = read_job_log(path)
    cause = find_final_cause(log)
    details = {
        "attempts": [_describe_attempt(attempt) for attempt in log.attempts],
        "forgotten_attempts": log.forgotten_attempts,
        "cause": cause and {"text": cause.text, "state": cause.state, "line": cause.line_number,
                            "hint": cause.hint},
    }  # fmt: skip
    return Inspection(
        path, kind.name, _MIXED if log.is_mixed else "", log.counts, ranks=sorted(log.ranks),
        columns=_describe_epochs(log.last_attempt.epochs), details=details,
    )  # fmt: skip


def _describe_trainer_log(path: Path, kind: Kind, choice: LogChoice) -> Inspection:
    """Describe a job's log with our epoch lines, else by the format that fits."""
    found = _describe_out(path, Kind(log_kinds.SLURM_OUT))
    if found.columns and choice.format is None:
        return found
    try:
        log = read_foreign_log(path, [choice.format] if choice.format else None)
    except UserError as error:
        why = found.reason or f"no epoch line, and {_without_path(str(error), path)}"
        found.kind, found.reason = kind.name, "; ".join(filter(None, [kind.reason, why]))
        return found
    found.kind, found.reason, found.counts = log_kinds.TRAINER_LOG, "", log.counts
    columns, last = _list_columns(log), log.windows[-1]
    nodes, gpus = choice.find_scale(path, "")
    if gpus is None:
        nodes, gpus = log.find_scale()
    found.details = {
        "cause": found.details["cause"],
        "log_format": log.format.name,
        "title": log.format.title,
        "windows": len(log.windows),
        "ended": log.ended,
        "total_s": plain_number(log.totals.get("total_training_s")),
        "last_line": {"number": last.number, "text": last.text},
        "nodes": nodes,
        "world_size": gpus,
    }
    try:
        windows = measure_windows(log, gpus, choice.find_samples(path, ""))
        rates = [epoch.throughput_per_s for epoch in windows.epochs]
        columns = [each for each in columns if each.name != "printed_per_s"]
        columns.append(_fill("throughput_per_s", log.format.unit, rates))
        found.details["notes"] = [windows.describe(), *windows.notes]
    except UserError as error:
        found.details["notes"] = [_without_path(str(error), path)]
    found.columns = describe_columns(columns)
    return found


def _list_columns(log: ForeignLog) -> list[Column]:
    """Return the columns of a log as it prints them: a rate of one GPU stays that."""
    windows, unit = log.windows, log.format.unit
    batches = [window.get("batch") for window in windows]
    if all(batch is None for batch in batches):
        batches = [Decimal(batch) for batch in log.facts.get("batch", ())]
    return [
        _fill("printed_per_s", f"{unit} per GPU" if log.format.per == "gpu" else unit,
              [window.rate for window in windows]),
        _fill(f"{log.format.times}_s", "s", [window.seconds for window in windows]),
        _fill("batch", "per GPU" if log.format.batch == "gpu" else "global", batches),
        _fill("train_loss", "", [window.get("loss") for window in windows]),
        _fill("val_loss", "", [window.get("val_loss") for window in windows]),
    ]  # fmt: skip


def _fill(name: str, unit: str, values: Iterable[Decimal | float | None]) -> Column:
    column = Column(name, unit)
    for value in values:
        if value is not None:
            column.add(value)
    return column


def _describe_attempt(attempt: Attempt) -> dict:
    last = attempt.last
    return {
        "epochs": [epoch.epoch for epoch in attempt.epochs],
        "of_epochs": last.epochs if last else None,
        "has_all_epochs": attempt.has_all_epochs,
        "total_training_s": plain_number(attempt.totals.get("total_training_s")),
        "last_line": last and {"number": last.line_number, "text": last.text},
    }


def _describe_epochs(epochs: list[Epoch]) -> dict[str, dict]:
    """Return the columns of the last attempt's epoch lines."""
    units = {"lr": "", "train_loss": "", "val_loss": "", **_SCORE_UNITS}
    units["throughput_per_s"] = epochs[-1].unit if epochs else ""
    return describe_columns(
        _fill(name, unit, [epoch.get(name) for epoch in epochs]) for name, unit in units.items()
    )


def _describe_json(path: Path, kind: Kind) -> Inspection:
    lines = [line for line, _ in read_lines(path)]
    blank = sum(not line.strip() for line in lines)
    dropped = Counter() if kind.is_whole else Counter({"cut: the JSON does not end": 1})
    kept = len(lines) - blank - dropped.total()
    counts = LineCounts(len(lines), kept, dropped, +Counter({"blank": blank}))
    reason = "" if kind.is_whole else "it breaks off: only its whole fields were read"
    found, record, entries = Inspection(path, kind.name, reason, counts), kind.record, []
    try:
        if kind.name == log_kinds.METRICS:
            entries = _describe_metrics(found, record)
        elif kind.name == log_kinds.RANK_JSON:
            epoch = parse_rank_epoch(record, path)
            found.ranks, found.details = [epoch.rank], {"epoch": epoch.epoch}
        elif kind.name == log_kinds.RUN_JSON:
            found.details = {key: record.get(key) for key in _RUN_FIELDS}
        elif to_number(record.get("exit_status")) is None:
            found.reason = reason or "exit_status is no number"
        found.columns = _describe_entries(entries or [record])
    except UserError as error:
        found.reason = _without_path(str(error), path)
    return found


def _describe_metrics(found: Inspection, record: dict) -> list[dict]:
    """Describe a metrics file; return its entries as far as they can be used."""
    metrics = parse_training_metrics(record, found.path)
    names = ("run_id", "world_size", "unit", "total_wall_s", "mean_throughput_per_s",
             "best_val_loss", "completed", "notes")  # fmt: skip
    found.details = {
        "schema": metrics.schema_version,
        "epochs": [epoch.epoch for epoch in metrics.epochs],
        **{name: getattr(metrics, name) for name in names},
        "dropped_epochs": metrics.dropped,
    }
    if not metrics.epochs and metrics.mean_throughput_per_s is None:
        found.reason = found.reason or "it has no epoch that can be used"
    found.ranks = list(range(min(metrics.world_size or 0, _MOST_RANKS)))
    return [
        {**epoch.record, **dict.fromkeys(_VAL_LOSSES & set(epoch.record), epoch.val_loss)}
        for epoch in metrics.epochs
    ]


def _describe_entries(entries: list[dict]) -> dict[str, dict]:
    """Return the columns of the fields that hold numbers, by their own names."""
    columns: dict[str, Column] = {}
    for entry in entries:
        for key in entry:
            value = to_number(entry[key])
            if key in _IDENTITIES or (value is None and entry[key] is not None):
                continue
            column = columns.setdefault(key, Column(key, _find_unit(key)))
            if value is None or (value < 0 and column.unit == "s"):  # no time is below 0
                column.no_data += 1
            else:
                column.add(value)
    return describe_columns(columns.values())


def _find_unit(key: str) -> str:
    name = key.removesuffix("_global")
    if "bytes" in name:
        return "B"
    return next((unit for pattern, unit in _UNITS if re.search(pattern, name)), "")


# ---- As text for a terminal ----------------------------------------------------------------


def format_inspection(found: Inspection) -> Iterator[str]:
    """Yield the lines that say what a file is and what was read from it."""
    yield printable(f"{found.path}: {found.kind}" + (f" ({found.reason})" if found.reason else ""))
    for line in _list_lines(found):
        yield "  " + printable(line)


def _list_lines(found: Inspection) -> Iterator[str]:
    details = found.details
    gpus = details.get("memory", ())
    yield found.counts.describe()
    if found.gpus:
        yield f"GPUs: {_list([gpu['label'].removeprefix('GPU ') for gpu in gpus])}"
    if found.ranks:
        yield f"ranks: {_list(found.ranks)}"
    for name, column in found.columns.items():
        unit = f" {column['unit']}" if column["unit"] else ""
        # A mean over several GPUs hides an idle one: theirs are below.
        mean = "" if len(found.gpus) > 1 else f", mean {_show(column['mean'])}{unit}"
        lacking = {"no_data": "without data", "unreadable": "not readable"}
        less = "".join(f", {column[key]} {says}" for key, says in lacking.items() if key in column)
        yield f"{name}: n {column['n']}{mean}, max {_show(column['max'])}{unit}{less}"
    for gpu in gpus if len(gpus) > 1 else ():
        means = ", ".join(
            f"{name} {_show(column['mean'])} {column['unit']}".rstrip()
            for name, column in gpu["columns"].items()
        )
        yield f"{gpu['label']}: mean {means}"
    if details.get("log_format"):
        n, total = details["windows"], details["total_s"]
        lines = f"{n} line{'s' if n != 1 else ''} with a throughput or a time"
        end = "it says that it ended" if details["ended"] else "it does not say that it ended"
        end += f", total {_show(total)} s" if total is not None else ""
        yield f"log format {details['log_format']} ({details['title']}): {lines}; {end}"
    for at, attempt in enumerate(details.get("attempts", ()), start=1):
        total = attempt["total_training_s"]
        end = f", total training time {total} s" if total is not None else ""
        if attempt["epochs"]:
            yield f"attempt {at}: {len(attempt['epochs'])} of {attempt['of_epochs']} epochs{end}"
    if cause := details.get("cause"):
        yield f"cause, line {cause['line']}: {cause['text']}"
    for job in details.get("jobs", ()):
        yield f"job {job['id']}: {job['state']} ({job['slurm_state'] or 'no line of it'})"
    if details.get("world_size") is not None:
        yield f"world size: {details['world_size']}"
    for note in (*details.get("notes", ()), *details.get("dropped_epochs", ())):
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
