#!/usr/bin/env python
"""Print the last lines of a job's log: its GPUs' memory, how it ended, and why.

Every job file runs this from its exit trap. It needs Python 3.10 or newer and the standard
library alone. It changes no status: it exits 0 whatever it finds (2 for wrong
arguments), and what cannot be read becomes a line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from common.arguments import CommandParser
from common.console import printable, run_command
from common.errors import UserError
from common.heartbeat import name_hung, read_heartbeats
from scaling.read import contract
from scaling.read.cpu_log import CpuLog, format_cpu, read_cpu_log
from scaling.read.gpu_log import GpuLog, format_memory, read_gpu_log
from scaling.read.job_log import Attempt, JobLog, read_job_log
from scaling.read.outcome import judge


class Job:
    """What a job that is about to end left behind: the evidence of how it stands."""

    requeued_as = accounting = is_queued = last_written_s = None  # it runs, and writes this

    def __init__(self, run_dir: Path, run_id: str, log_path: Path, exit_status: int):
        self.run_dir = run_dir
        self.id = run_id
        self.job, self.restart = contract.split_id(run_id)
        self.log_path = log_path
        self.exit_status = exit_status
        self.problems: list[str] = []
        self.results_dir = run_dir / "results" / run_id
        self.settings = self._read("run.json")
        self.end_signal = self._read("job_end.json").get("signal")
        self.run_complete = (self.results_dir / "RUN_COMPLETE.txt").exists()
        self.has_record = self.run_complete or (self.results_dir / "run.json").exists()
        self.wants_requeue = (self.results_dir / "REQUEUE").exists()

    def _read(self, name: str) -> dict:
        path = self.results_dir / name
        try:
            return contract.read_json(path) if path.exists() else {}
        except UserError as error:
            self.problems.append(str(error))
            return {}

    @property
    def resume_command(self) -> str | None:
        """What continues the job; its trap runs this in the job's own folder."""
        default = self.run_dir / "checkpoints" / str(self.job)
        checkpoints = Path(os.environ.get("CHECKPOINT_DIR") or default)
        return contract.make_resume_command(Path.cwd(), checkpoints)

    @cached_property
    def log(self) -> JobLog | None:
        """The job's own log, read while it is still being written."""
        epochs = contract.epochs_of(self.settings)
        try:
            if not self.log_path.is_file():
                return None
            log = read_job_log(self.log_path, str(self.job), epochs)
        except UserError as error:
            self.problems.append(str(error))
            return None
        if log.is_mixed:
            self.problems.append(
                f"{self.log_path}: several processes print epoch lines that differ, without a "
                "label: which are the job's is not known"
            )
        return log

    @cached_property
    def attempt(self) -> Attempt | None:
        """This run's part of the log; a restart that has printed nothing yet has none."""
        log = self.log
        return log and log.find_attempt(self.restart, self.restart, self.run_complete)

    def find_bad_loss(self) -> str:
        """Return a line on the first epoch whose loss is no number, "" without one."""
        bad = self.attempt.describe_bad_loss() if self.attempt else ""
        return bad and f"Note: {bad}: lower --lr, or clip the gradients"

    @property
    def nodes(self) -> int:
        """Number of nodes by run.json, else by the job's or its folder's name; 0 if unknown."""
        nodes = self.settings.get("nodes")
        if isinstance(nodes, int) and nodes > 0:
            return nodes
        slurm = self.settings.get("slurm")
        name = slurm.get("job_name") if isinstance(slurm, dict) else None
        return contract.find_scale(name if isinstance(name, str) else None, self.run_dir)[0] or 0

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
    yield from list_memory("GPU memory", "gpu_memory", job, job.read_gpu, "nvidia-smi")
    yield from list_memory("CPU memory", "cpu_memory", job, job.read_cpu, "psrecord")
    verdict = judge(job)
    yield f"Job {job.id}: {verdict.state} (exit status {job.exit_status}) after {elapsed_s} s"
    why = verdict.reason.removeprefix(str(verdict.state)).lstrip(":; ")
    if why:
        is_cause = verdict.cause is not None and why.startswith(verdict.cause.text)
        yield f"{'First cause' if is_cause else 'Why'}: {printable(why)}"
    if (
        job.exit_status
        and (named := name_hung(read_heartbeats(job.results_dir)))
        and (named not in why)
    ):
        yield f"Rank: {printable(named)}"
    if verdict.advice:
        yield f"What to do: {printable(verdict.advice)}"
    if bad := job.find_bad_loss():
        yield printable(bad)
    if job.problems:
        yield f"Cannot be read: {printable('; '.join(job.problems))}"


def list_memory(
    what: str, kind: str, job: Job, read: Callable[[Path], list[str]], tool: str
) -> Iterator[str]:
    """Yield the lines of each node's log, and a line for the nodes that have none."""
    paths = contract.find_node_files(job.run_dir / kind / job.id, kind)
    lack = f"{tool} left no file"
    if job.log is not None and tool in job.log.missing_tools:
        lack = f"no {tool} there"
    if not paths:
        yield f"{what}: not logged ({lack})"
        return
    for path in paths.values():
        try:
            yield from read(path)
        except UserError as error:
            yield f"{what}: {printable(error)}"
    missing = sorted(set(range(job.nodes)) - set(paths))
    if missing:
        nodes = ", ".join(f"node{node}" for node in missing)
        yield f"{what} of {nodes}: not logged ({lack})"


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)

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
