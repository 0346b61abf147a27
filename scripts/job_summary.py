#!/usr/bin/env python
"""Print the last lines of a job's log: its GPUs' memory, how it ended, and why.

Every job file runs this from its exit trap. It needs Python 3.10 or newer and the standard
library alone. It changes no status: it exits 0 whatever it finds (2 for wrong
arguments), and what cannot be read becomes a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from common.console import printable, run_command
from common.errors import UserError
from scaling.read import contract
from scaling.read.cpu_log import CpuLog, format_cpu, read_cpu_log
from scaling.read.gpu_log import GpuLog, format_memory, read_gpu_log
from scaling.read.job_log import Attempt, JobLog, read_job_log
from scaling.read.outcome import State, Verdict, judge


class Job:
    """What a job that is about to end left behind: the evidence of how it stands."""

    requeued_as = accounting = None

    def __init__(self, run_dir: Path, run_id: str, log_path: Path, exit_status: int):
        self.run_dir = run_dir
        self.id = run_id
        self.log_path = log_path
        self.exit_status = exit_status
        self.problems: list[str] = []
        results = run_dir / "results" / run_id
        self.settings = self._read_settings(results / "run.json")
        self.run_complete = (results / "RUN_COMPLETE.txt").exists()
        self.has_record = self.run_complete or (results / "run.json").exists()
        self.wants_requeue = (results / "REQUEUE").exists()
        self.last_written_s = None  # it is writing now

    def _read_settings(self, path: Path) -> dict:
        try:
            return contract.read_json(path) if path.exists() else {}
        except UserError as error:
            self.problems.append(str(error))
            return {}

    @cached_property
    def log(self) -> JobLog | None:
        """The job's own log, read while it is still being written; only when it is asked."""
        log = read_job_log(self.log_path) if self.log_path.is_file() else None
        if log is not None and log.is_mixed:
            self.problems.append(
                f"{self.log_path}: several processes print epoch lines that differ, without a "
                "label: which are the job's is not known"
            )
        return log

    @cached_property
    def attempt(self) -> Attempt | None:
        """This run's part of the log; a restart that has printed nothing yet has none."""
        attempts = self.log.attempts if self.log else []
        restart = contract.split_id(self.id)[1]
        if not attempts or (restart >= len(attempts) and not self.run_complete):
            return None
        return attempts[-1]

    def judge(self) -> Verdict:
        """Return how the job stands; a log that cannot be read is why nothing is known."""
        try:
            return judge(self)
        except UserError as error:
            return Verdict(State.FAILED, f"failed: {error}")

    @property
    def nodes(self) -> int:
        """Number of nodes by run.json, else by the job's or its folder's name; 0 if unknown."""
        nodes = self.settings.get("nodes")
        if isinstance(nodes, int) and nodes > 0:
            return nodes
        slurm = self.settings.get("slurm")
        name = slurm.get("job_name") if isinstance(slurm, dict) else None
        scale = contract.scale_of_job_name(name if isinstance(name, str) else None)
        return (scale or contract.scale_of_path(self.run_dir))[0] or 0

    def read_gpu(self, path: Path) -> list[str]:
        """Return the memory lines of the job's own GPUs; a shared node has others."""
        log = read_gpu_log(path)
        own = self.settings.get("gpu_uuids")
        log = log.keep_gpus(own if isinstance(own, list) else [])
        if log.problem:
            raise UserError(f"{path.name}: {log.problem}")
        return format_memory(log) + self.describe_dropped(path, log)

    def read_cpu(self, path: Path) -> list[str]:
        """Return the line of a node's process memory and CPU use."""
        log = read_cpu_log(path)
        if log.problem:
            raise UserError(f"{path.name}: {log.problem}")
        return [format_cpu(log), *self.describe_dropped(path, log)]

    def describe_dropped(self, path: Path, log: GpuLog | CpuLog) -> list[str]:
        """Return a line on rows that were dropped, but for the last, in which a logger stops."""
        dropped = {reason for reason in log.counts.dropped if not reason.startswith("cut")}
        return [f"{path.name}: {log.counts.describe_dropped()}"] if dropped else []


def main() -> int:
    arguments = parse_arguments()
    try:
        job = Job(
            arguments.run_dir, arguments.run_id, arguments.log, arguments.exit_status
        )  # fmt: skip
        for line in summarise(job, arguments.elapsed_s):
            print(line, flush=True)
    except Exception as error:  # a summary must never be why a job fails
        print(f"Job summary: not complete ({type(error).__name__}: {error})", file=sys.stderr)
    return 0


def summarise(job: Job, elapsed_s: int) -> Iterator[str]:
    """Yield the memory lines of a job, then at most five: its end, first cause and hint."""
    yield from list_memory("GPU memory", "gpu_memory", job, job.read_gpu, "no nvidia-smi")
    yield from list_memory("CPU memory", "cpu_memory", job, job.read_cpu, "no psrecord")
    verdict = job.judge()
    yield f"Job {job.id}: {verdict.state} (exit status {job.exit_status}) after {elapsed_s} s"
    if verdict.cause is not None:
        yield f"First cause: {printable(verdict.cause.text)}"
        yield f"What to do: {verdict.cause.hint}"
    elif job.exit_status or verdict.reason != verdict.state:
        yield f"Why: {printable(verdict.reason.removeprefix(f'{verdict.state}: '))}"
    if job.problems:
        yield f"Cannot be read: {printable('; '.join(job.problems))}"


def list_memory(
    what: str, kind: str, job: Job, read: Callable[[Path], list[str]], lack: str
) -> Iterator[str]:
    """Yield the lines of each node's log, and a line for the nodes that have none."""
    paths = contract.find_node_files(job.run_dir / kind / job.id, kind)
    if not paths:
        yield f"{what}: not logged ({lack} on this node)"
        return
    for path in paths.values():
        try:
            yield from read(path)
        except UserError as error:
            yield f"{what}: {printable(error)}"
    missing = sorted(set(range(job.nodes)) - set(paths))
    if missing:
        nodes = ", ".join(f"node{node}" for node in missing)
        yield f"{what} of {nodes}: not logged ({lack} there)"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name: str, metavar: str, kind: type, text: str) -> None:
        parser.add_argument(name, metavar=metavar, type=kind, required=True, help=text)

    add("--run-dir", "DIR", Path, "the folder that holds results/, gpu_memory/ and cpu_memory/")
    add("--run-id", "ID", str, "Slurm job id, or <job id>.<restart> of a requeued job")
    add("--log", "FILE", Path, "the job's Slurm log")
    add("--exit-status", "N", int, "exit status of the training")
    add("--elapsed-s", "S", int, "how long the job ran, in seconds")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
