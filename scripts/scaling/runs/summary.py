"""The last lines of every job's log: its memory, how it ended, and why."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from common.console import printable
from common.errors import UserError
from scaling.read.causes import Cause
from scaling.read.cpu_log import format_cpu, read_cpu_log
from scaling.read.gpu_series import format_dropped, format_memory
from scaling.runs.own_gpus import read_own_gpu_log
from scaling.runs.run_record import Run, read_run


def summarise_job(
    run_dir: Path, run_id: str, log_path: Path, exit_status: int, elapsed_s: int
) -> Iterator[str]:
    """Yield the memory lines of a job, then at most five: its end, first cause and hint.

    Never raises for what a log holds or lacks: that becomes a line. The job's own log is
    read while it is still being written.
    """
    log = (None, log_path if log_path.is_file() else None)
    run = read_run(run_dir, run_id, log, exit_status=exit_status)
    yield from _report_files(
        "GPU memory", run, run.gpu_log_paths, partial(_read_gpu, run), "no nvidia-smi"
    )
    yield from _report_files("CPU memory", run, run.cpu_log_paths, _read_cpu, "no psrecord")
    yield from _report_end(run, exit_status, elapsed_s)


def _report_files(
    what: str, run: Run, paths: dict[int, Path], read: Callable[[Path], list[str]], lack: str
) -> Iterator[str]:
    if not paths:
        yield f"{what}: not logged ({lack} on this node)"
        return
    for path in paths.values():
        try:
            yield from read(path)
        except UserError as error:
            yield f"{what}: {printable(error)}"
    lacking = sorted(set(range(run.nodes or 0)) - set(paths))
    if lacking:
        nodes = ", ".join(f"node{node}" for node in lacking)
        yield f"{what} of {nodes}: not logged ({lack} there)"


def _read_gpu(run: Run, path: Path) -> list[str]:
    log = read_own_gpu_log(run, path)
    if log.problem:
        raise UserError(f"{path.name}: {log.problem}")
    dropped = {reason for reason in log.dropped if not reason.startswith("cut")}
    return format_memory(log) + ([f"{path.name}: {format_dropped(log)}"] if dropped else [])


def _read_cpu(path: Path) -> list[str]:
    log = read_cpu_log(path)
    if log.problem:
        raise UserError(f"{path.name}: {log.problem}")
    return [format_cpu(log)]


def _report_end(run: Run, exit_status: int, elapsed_s: int) -> Iterator[str]:
    yield f"Job {run.id}: {run.state} (exit status {exit_status}) after {elapsed_s} s"
    cause: Cause | None = run.cause
    if cause is not None:
        yield f"First cause: {printable(cause.text)}"
        yield f"What to do: {cause.hint}"
    elif exit_status or run.reason != run.state:
        yield f"Why: {printable(run.reason.removeprefix(f'{run.state}: '))}"
    if run.problems:
        yield f"Cannot be read: {printable('; '.join(run.problems))}"
