"""A run's GPU and CPU samples for its timelines, and what became of each line of its logs.

An ordinary log is read with pandas at once; any other goes line by line through the package's
careful reader. Both give the same samples and counts.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from common.errors import UserError
from scaling.read.cpu_log import CpuLog, read_cpu_log
from scaling.read.gpu_series import GpuLog
from scaling.read.line_counts import format_counts
from scaling.runs.gpu_frames import list_node_samples
from scaling.runs.ordinary_logs import read_ordinary_cpu_log, read_ordinary_gpu_log
from scaling.runs.own_gpus import read_own_gpu_log
from scaling.runs.run_record import Run

GPU_COLUMNS = ("elapsed_s", "used_mib", "utilization_pct", "power_w")
CPU_COLUMNS = ("elapsed_s", "cpu_pct", "rss_mib")


@dataclass(frozen=True)
class Samples:
    """Samples by node (and GPU), and per file what was kept, dropped and ignored, in words.

    `gpus`: columns node, gpu and GPU_COLUMNS; `cpus`: node and CPU_COLUMNS. Time counts from
    each log's first sample.
    """

    gpus: pd.DataFrame
    cpus: pd.DataFrame
    files: list[tuple[Path, str]] = field(default_factory=list)


def read_samples(run: Run) -> Samples:
    """Read a run's GPU and CPU logs; a file that cannot be read says so in `files`."""
    gpus, files = read_gpu_frame(run)
    cpus = [_read_cpus(node, path, files) for node, path in run.cpu_log_paths.items()]
    return Samples(gpus, _join(cpus, ("node", *CPU_COLUMNS)), files)


def read_gpu_frame(run: Run) -> tuple[pd.DataFrame, list[tuple[Path, str]]]:
    """Return the samples of the run's own GPUs, and what became of each log's lines."""
    files: list[tuple[Path, str]] = []
    frames = [_read_gpus(run, node, path, files) for node, path in run.gpu_log_paths.items()]
    return _join(frames, ("node", "gpu", *GPU_COLUMNS)), files


def _join(frames: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    found = [frame for frame in frames if len(frame)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(columns))


def _read_gpus(run: Run, node: int, path: Path, files: list) -> pd.DataFrame:
    frame = read_ordinary_gpu_log(path)
    is_shared = frame is not None and frame["gpu"].nunique() > (run.gpus_per_node or 0)
    if frame is not None and not (is_shared and (run.settings or {}).get("gpu_uuids")):
        files.append((path, format_counts(len(frame) + 1, len(frame), {}, {"header": 1})))
        return frame.assign(node=node)
    try:
        log = read_own_gpu_log(run, path)
        frame = pd.DataFrame.from_records(list_node_samples(run, node, path))
    except UserError as error:
        files.append((path, str(error)))
        return pd.DataFrame()
    files.append((path, _say_counts(log, log.kept)))
    if frame.empty:
        return frame
    for name in GPU_COLUMNS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    return frame[["node", "gpu", *GPU_COLUMNS]]


def _say_counts(log: GpuLog | CpuLog, kept: int) -> str:
    words = format_counts(log.lines, kept, log.dropped, log.ignored)
    return f"{words}; {log.problem}" if log.problem else words


def _read_cpus(node: int, path: Path, files: list) -> pd.DataFrame:
    frame = read_ordinary_cpu_log(path)
    if frame is not None:
        files.append((path, format_counts(len(frame) + 1, len(frame), {}, {"header": 1})))
        return frame.assign(node=node)
    rows: list[tuple] = []
    try:
        log = read_cpu_log(path, lambda s: rows.append((s.elapsed_s, s.cpu_pct, s.rss_mib)))
    except UserError as error:
        files.append((path, str(error)))
        return pd.DataFrame()
    files.append((path, _say_counts(log, log.samples)))
    frame = pd.DataFrame(rows, columns=list(CPU_COLUMNS)).astype("float64")
    return frame.assign(node=node)
