"""Read any file whole and say what was read from it: inspect_log.py's records."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from scaling.read import kinds as log_kinds
from scaling.read.columns import describe_columns
from scaling.read.cpu_log import read_cpu_log
from scaling.read.gpu_log import make_log, read_gpu_columns
from scaling.read.json_fields import finite
from scaling.read.json_inspection import describe_json
from scaling.read.kinds import Kind
from scaling.read.out_inspection import describe_out
from scaling.read.sacct import read_sacct
from scaling.read.text import read_lines


@dataclass
class Inspection:
    """What a file is and holds; `lines == kept + sum(dropped) + sum(ignored)`.

    reason: why it is not recognised, or gave no value; '' when all is well.
    """

    path: Path
    kind: str
    reason: str = ""
    lines: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
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
            "lines": self.lines,
            "kept": self.kept,
            "dropped": self.dropped,
            "ignored": self.ignored,
            "gpus": self.gpus,
            "ranks": self.ranks,
            "columns": self.columns,
            **finite(self.details),
        }


def inspect_log(path: Path) -> Inspection:
    """Return what a file is and what was read from it.

    A file whose content is not what its name says is named and not read. Raises
    UserError when the file cannot be read at all.
    """
    path = Path(path)
    kind = log_kinds.detect_kind(path)
    expected = log_kinds.expected_kind(path)
    if kind.name == log_kinds.UNKNOWN or expected not in (None, kind.name):
        found = _count_lines(path, kind)
        if expected not in (None, kind.name):
            is_what = kind.reason if kind.name == log_kinds.UNKNOWN else f"it holds {kind.name}"
            found.reason = f"its name says {expected}, but {is_what}"
        return found
    try:
        return _DESCRIBERS.get(kind.name, _describe_json)(path, kind)
    except UserError as error:
        found = _count_lines(path, kind)
        found.reason = _without_path(str(error), path)
        return found


def _without_path(message: str, path: Path) -> str:
    return message.removeprefix(str(path)).lstrip(": ")


def _count_lines(path: Path, kind: Kind) -> Inspection:
    counts = Counter(bool(line.strip()) for line, _ in read_lines(path))
    ignored = {"blank": counts[False]} if counts[False] else {}
    dropped = {"not what was looked for": counts[True]} if counts[True] else {}
    return Inspection(path, kind.name, kind.reason, counts.total(), 0, dropped, ignored)


def _describe_gpu(path: Path, kind: Kind) -> Inspection:
    reader = read_gpu_columns(path)
    log = make_log(reader)
    columns = describe_columns(reader.all_measures.values())
    has_memory = reader.columns is not None and reader.columns.memory is not None
    reason = log.problem if has_memory and log.problem and not reader.untold else ""
    if reader.untold:
        reason = _without_path(reader.untold, path)
    if not columns and not reason:
        reason = log.problem or "no measure in it"
    return Inspection(
        path, kind.name, reason or "", log.lines, log.kept, log.dropped, log.ignored,
        gpus=sorted({index for index, _ in reader.series}),
        columns=columns,
        details={"memory": [gpu.to_record() for gpu in log.gpus]},
    )  # fmt: skip


def _describe_cpu(path: Path, kind: Kind) -> Inspection:
    log = read_cpu_log(path)
    return Inspection(
        path, kind.name, log.problem or "", log.lines, log.samples, log.dropped, log.ignored,
        columns=describe_columns(log.columns),
        details={"covered_s": round(log.covered_s, 3), "interval_s": log.interval_s},
    )  # fmt: skip


def _describe_sacct(path: Path, kind: Kind) -> Inspection:
    log = read_sacct(path)
    jobs = [
        {
            "id": job.id, "name": job.name, "state": job.state, "slurm_state": job.slurm_state,
            "exit_status": job.exit_status, "signal": job.signal, "steps": job.steps,
            "measures": {name: value for name, (value, _) in job.measures.items()},
        }
        for job in log.jobs
    ]  # fmt: skip
    reason = "" if log.jobs else "it has a header and no job"
    return Inspection(
        path, kind.name, reason, log.lines, log.kept, log.dropped, log.ignored,
        columns=describe_columns(log.columns), details={"jobs": jobs},
    )  # fmt: skip


def _describe_out(path: Path, kind: Kind) -> Inspection:
    found = describe_out(path)
    return Inspection(
        path, kind.name, found.reason, found.lines, found.kept, dict(found.dropped),
        dict(found.ignored), ranks=sorted(found.ranks), columns=found.columns,
        details=found.details,
    )  # fmt: skip


def _describe_json(path: Path, kind: Kind) -> Inspection:
    found = Inspection(path, kind.name)
    try:
        found.reason, found.ranks, found.columns, found.details = describe_json(path, kind)
    except UserError as error:
        found.reason = _without_path(str(error), path)
    lines = [line for line, _ in read_lines(path)]
    found.lines, blank = len(lines), sum(not line.strip() for line in lines)
    found.ignored = {"blank": blank} if blank else {}
    found.dropped = {} if kind.is_whole else {"cut: the JSON does not end": 1}
    found.kept = found.lines - blank - sum(found.dropped.values())
    return found


_DESCRIBERS: dict[str, Callable[[Path, Kind], Inspection]] = {
    log_kinds.GPU_CSV: _describe_gpu,
    log_kinds.PSRECORD: _describe_cpu,
    log_kinds.SACCT: _describe_sacct,
    log_kinds.SLURM_OUT: _describe_out,
}
