"""Where the value of a table's cell stands: the file and the line that a person can open."""

from functools import cache
from pathlib import Path

from common.errors import UserError
from scaling.read.text import clean_line, read_lines
from scaling.runs.own_gpus import read_own_gpu_log
from scaling.runs.run_record import Run
from scaling.tables.table_parts import Row

_RATIOS = {
    "throughput_scaling": "throughput_per_s",
    "memory_avg_scaling": "gpu0_avg_mib",
    "efficiency_pct": "throughput_per_s",
}


def describe_source(column: str, row: Row, baseline: Row | None) -> str:
    """Say where the value of a cell is, or what it is computed from; never the value itself."""
    if row.run is None:
        return row.reason or "there is no run"
    if column not in _RATIOS:
        return _describe_value(column, row.run)
    of = _RATIOS[column]
    here = _describe_value(of, row.run)
    if baseline is None or baseline.run is None:
        return f"{here}, over the 1-GPU run's, which is not there"
    over = f"{here}, over {_describe_value(of, baseline.run)}"
    return f"{over}, over the GPUs in all, times 100" if column == "efficiency_pct" else over


def _describe_value(column: str, run: Run) -> str:
    if column.startswith("gpu0_"):
        path = run.gpu_log_paths.get(0)
        return _describe_memory_line(run, "gpu_memory_log", f" - GPU {_find_gpu0(run)}]", path)
    if column.startswith("cpu_"):
        return _describe_memory_line(run, "cpu_memory_log", "]", run.cpu_log_paths.get(0))
    last = run.attempt.last if run.attempt else None
    if run.log_path is None or last is None:
        return f"job {run.id} has no epoch line"
    return f"{run.log_path}, line {last.line_number}"


def _find_gpu0(run: Run) -> int:
    """Return the index of the job's lowest GPU on node 0: on a shared node it may be another."""
    try:
        return read_own_gpu_log(run, run.gpu_log_paths[0]).gpus[0].index
    except (UserError, LookupError):
        return 0


def _describe_memory_line(run: Run, name: str, end: str, path: Path | None) -> str:
    """Name the line that the job printed, else the log that it was computed from."""
    for node in ("", "_node0"):
        number = run.log_path and _find_line(run.log_path, f"[{name}{node}{end}")
        if number:
            return f"{run.log_path}, line {number}"
    return f"{path}" if path else f"job {run.id} has no {name}"


@cache
def _find_line(path: Path, start: str) -> int | None:
    """Return the number of the last line that begins so: a requeued job prints it again."""
    found = None
    try:
        for number, (line, _) in enumerate(read_lines(path), start=1):
            if start in line and clean_line(line).startswith(start):
                found = number
    except UserError:
        return None
    return found
