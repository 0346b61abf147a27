"""Read many memory logs for analyze_memory.py: each gives its lines, or its reason for none."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from scaling.read.cpu_log import CpuLog, format_cpu, read_cpu_log
from scaling.read.gpu_log import read_gpu_log
from scaling.read.gpu_series import GpuLog, format_dropped, format_memory
from scaling.read.kinds import PSRECORD, UNPACK, detect_kind, expected_kind
from scaling.read.line_counts import format_counts


@dataclass(frozen=True)
class MemoryReport:
    """One file: `lines` to print, `record` for JSON; or `error`; `dropped` in words or ''.

    `counts` says where each line of the file went.
    """

    path: Path
    lines: list[str]
    record: dict
    dropped: str = ""
    error: str = ""
    counts: str = ""


def report_memory(paths: list[Path], gpus: tuple[str, ...] = ()) -> Iterator[MemoryReport]:
    """Yield a report for each log named, and for each gpu_memory_log*.csv below a folder.

    gpus: the indices or uuids of the GPUs that count; all when none is named. Raises
    UserError for a folder without any.
    """
    for path in paths:
        for file in _find_logs(path) if path.is_dir() else [path]:
            try:
                yield _read(file, gpus)
            except UserError as error:
                yield MemoryReport(file, [], {"file": str(file)}, error=str(error))


def _find_logs(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("gpu_memory_log*.csv") if path.is_file()]
    if not found:
        raise UserError(
            f"{folder}: no gpu_memory_log*.csv below it; name a job's folder or its CSV file"
        )
    return sorted(found, key=_numbers_by_value)


def _numbers_by_value(path: Path) -> list:
    """Sort node2 before node10, and run 9 before run 12."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _read(path: Path, gpus: tuple[str, ...]) -> MemoryReport:
    # By its name, so that a log of another kind under that name is refused; else by content.
    kind = expected_kind(path)
    if kind is None:
        kind, reason, *_ = detect_kind(path)
        if reason.endswith(UNPACK):
            raise UserError(f"{path}: {reason}")
    if kind == PSRECORD:
        return _read_cpu(path)
    log = read_gpu_log(path, gpus)
    error = f"{path}: no GPU memory: {log.problem}" if log.problem else ""
    counts = format_counts(log.lines, log.kept, log.dropped, log.ignored)
    return MemoryReport(
        path, format_memory(log), _gpu_record(log), format_dropped(log), error, counts
    )


def _read_cpu(path: Path) -> MemoryReport:
    log = read_cpu_log(path)
    error = f"{path}: no CPU memory: {log.problem}" if log.problem else ""
    lines = [] if log.problem else [format_cpu(log)]
    counts = format_counts(log.lines, log.samples, log.dropped, log.ignored)
    return MemoryReport(path, lines, _cpu_record(log), error=error, counts=counts)


def _gpu_record(log: GpuLog) -> dict:
    return {
        "file": str(log.path),
        "gpus": [gpu.to_record() for gpu in log.gpus],
        "first_timestamp": log.first.isoformat() if log.first else None,
        "last_timestamp": log.last.isoformat() if log.last else None,
        "lines": log.lines,
        "kept": log.kept,
        "dropped": log.dropped,
        "ignored": log.ignored,
    }


def _cpu_record(log: CpuLog) -> dict:
    return {
        "file": str(log.path),
        "peak_mib": log.peak_mib,
        "mean_cpu_pct": log.mean_cpu_pct,
        "lines": log.lines,
        "kept": log.samples,
        "dropped": log.dropped,
        "ignored": log.ignored,
    }
