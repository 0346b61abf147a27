"""One run: what its folders, records and logs say of it. Each of its files is read once."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property, partial
from pathlib import Path

from common.counts import LineCounts
from common.errors import UserError
from scaling.read import contract, nsys
from scaling.read.causes import Cause
from scaling.read.cpu_log import CpuLog, read_cpu_log
from scaling.read.foreign_log import (
    NOTHING_LIKELY,
    ForeignLog,
    LogChoice,
    measure_windows,
    read_foreign_log,
)
from scaling.read.gpu_log import GpuLog, read_gpu_log
from scaling.read.job_log import Attempt, JobLog, read_job_log
from scaling.read.nsys import Kernel
from scaling.read.outcome import judge
from scaling.read.sacct import SacctJob
from scaling.read.symptoms import State
from scaling.runs.records import (
    RankEpoch,
    TrainingMetrics,
    pick_text,
    read_rank_epochs,
    read_training_metrics,
)
from scaling.runs.workloads import NOUNS, name_noun

DEFAULT_WARMUP_EPOCHS = 1  # the run contract's, for a run without run.json


@dataclass(eq=False)  # two runs are the same only when they are one object: ids may repeat
class Run:
    """One attempt of one job, or (id "") a job script that was never submitted.

    `nodes` and `gpus_per_node` come from run.json, else the job's name, else the folder's;
    None when none of them says. `settings` is run.json, None when there is none or it
    cannot be read; `problems` names each record without which no figure of the run can be
    trusted, `lost_records` those that only their own figures miss. Logs and records are read
    when they are first asked for, and kept.
    """

    folder: Path  # the job's, with its script and log
    id: str
    job_name: str | None = None
    script: Path | None = None
    log_path: Path | None = None
    restarts: int = 0  # of the job, so far
    nodes: int | None = None
    gpus_per_node: int | None = None
    workload: str | None = None
    start: datetime | None = None
    settings: dict | None = None
    problems: list[str] = field(default_factory=list)
    lost_records: list[str] = field(default_factory=list)  # of metrics and rank files
    state: State = State.NEVER_STARTED
    reason: str = ""
    cause: Cause | None = None
    home: Path | None = None  # where its other files are (default: `folder`)
    is_alone: bool = False  # no other run has files in `folder`
    elapsed_s: int | None = None  # of the job, by job_end.json
    exit_status: int | None = None  # likewise; None while there is no job_end.json
    end_signal: str | None = None  # likewise: the one that told the job's shell to end
    accounting: SacctJob | None = None  # what sacct said of the job
    results_dir: Path | None = None
    choice: LogChoice = field(default_factory=LogChoice)  # how another trainer's log is read
    log_problem: str = ""  # why such a log gave no throughput
    said_gpus: int | None = None  # by such a log, where nothing says on how many nodes

    def __post_init__(self):
        self.name = self.id  # what tables call it
        self.job, self.restart = contract.split_id(self.id)
        self.home = self.home or self.folder
        self.results_dir = self.results_dir or self.home / "results" / self.id

    @property
    def gpus(self) -> int | None:
        """The number of GPUs in all: nodes x GPUs per node, else run.json's world size."""
        if self.nodes and self.gpus_per_node:
            return self.nodes * self.gpus_per_node
        world_size = (self.settings or {}).get("world_size")
        return world_size if isinstance(world_size, int) else self.said_gpus

    @property
    def unit(self) -> str | None:
        """What its throughput counts: as its epochs say, else as run.json does.

        run.json may call samples images, which are samples; it makes no tokens of them.
        """
        told = pick_text(self.settings or {}, "unit")
        measured = None
        if self.metrics is not None and self.metrics.epochs:
            measured = self.metrics.unit
        elif self.attempt is not None and self.attempt.last is not None:
            measured = self.attempt.last.unit
        elif self.rank_epochs:
            measured = self.rank_epochs[0].unit
        is_same = measured is None or NOUNS.get(told) == NOUNS.get(measured)
        return told if told and is_same else measured

    @property
    def warmup_epochs(self) -> int:
        """How many first epochs means leave out: run.json's word, else the contract's."""
        if self.is_of_others:
            return self.attempt.warmup
        warmup = (self.settings or {}).get("warmup_epochs")
        return warmup if isinstance(warmup, int) else DEFAULT_WARMUP_EPOCHS

    @property
    def is_usable(self) -> bool:
        """Whether its numbers may stand in a table: complete, and every record readable."""
        return self.state is State.COMPLETE and not self.problems

    @property
    def end_note(self) -> list[str]:
        """What to know of the end of a complete run: that nothing recorded it, or how it was."""
        _, colon, note = self.reason.partition("complete: ")
        return [note] if colon and self.state is State.COMPLETE else []

    @property
    def fault_notes(self) -> list[str]:
        """What spoils its figures, for every table: a loss that is no number, unequal replicas."""
        loss = self.attempt.describe_bad_loss() if self.attempt is not None else ""
        found = str((self.settings or {}).get("replicas", ""))
        return [note for note in (loss, found.startswith("FAULT") and f"replicas: {found}") if note]

    @property
    def is_of_others(self) -> bool:
        """Whether its log is another trainer's: its epochs are windows."""
        return self.attempt is not None and self.attempt.is_of_others

    @property
    def wall_s(self) -> float | None:
        """The time of all epochs as its metrics, else its log, sums it up; None without one."""
        if self.metrics and self.metrics.total_wall_s:
            return self.metrics.total_wall_s
        total_s = self.attempt and self.attempt.totals.get("total_training_s")
        return float(total_s) if total_s and total_s.is_finite() and total_s > 0 else None

    @property
    def notes(self) -> list[str]:
        """What to know of its figures, where they are averaged."""
        metrics = self.metrics  # read before lost_records is looked at
        notes = [*self.lost_records, *self.end_note]
        notes += metrics.notes + metrics.dropped if metrics else []
        return notes + ([self.attempt.describe(), *self.attempt.notes] if self.is_of_others else [])

    @property
    def account(self) -> str:
        """How it stands in words, for the row that has no better run."""
        if not self.id:
            return self.reason
        return f"job {self.id}: " + "; ".join([self.reason, *self.problems])

    # What outcome.judge() asks, besides the log and the end of the job:

    @property
    def run_complete(self) -> bool:
        return (self.results_dir / "RUN_COMPLETE.txt").exists()

    @property
    def has_record(self) -> bool:
        """Whether a training of this project started."""
        return self.run_complete or (self.results_dir / "run.json").exists()

    @property
    def wants_requeue(self) -> bool:
        return (self.results_dir / "REQUEUE").exists()

    @property
    def requeued_as(self) -> str | None:
        return f"{self.job}.{self.restarts}" if self.restart < self.restarts else None

    @property
    def is_queued(self) -> bool | None:
        """Whether Slurm still knows the job; None where it cannot be asked."""
        jobs = list_queue()
        return None if jobs is None else str(self.job) in jobs

    @property
    def resume_command(self) -> str | None:
        checkpoints = self.home / "checkpoints" / str(self.job)
        return contract.make_resume_command(self.folder, checkpoints)

    @property
    def last_written_s(self) -> float | None:
        """When the run last wrote anything, in seconds since 1970; None when it never did."""
        paths = [*self.gpu_log_paths.values(), *self.cpu_log_paths.values(), self.results_dir]
        times_s = []
        for path in [*paths, self.log_path] if self.log_path else paths:
            with suppress(OSError):
                times_s.append(path.stat().st_mtime)
        return max(times_s, default=None)

    @cached_property
    def log(self) -> JobLog | None:
        """The Slurm log, None when there is none or (see `problems`) it cannot be read."""
        epochs = contract.epochs_of(self.settings)
        read = partial(read_job_log, epochs=epochs)
        log = self.log_path and self._try(read, self.log_path)
        if log and log.is_mixed:
            self.problems.append(
                f"{self.log_path}: several processes print epoch lines that differ, without a "
                "label: which are the job's is unknown"
            )
        if log and not log.has_epochs:
            self._read_foreign(log)
        return log

    def _read_foreign(self, log: JobLog) -> None:
        """Give a log without an epoch line the windows that a log format finds in it.

        What Python's logging module prints is in the log of errors, where a job has one.
        """
        formats = [self.choice.format] if self.choice.format else None
        errors = self.log_path.with_suffix(".err")
        for path in [self.log_path, errors] if errors.is_file() else [self.log_path]:
            try:
                found = read_foreign_log(path, formats)
                self._take_scale(found)
                samples = self.choice.find_samples(self.log_path, self.id)
                windows = measure_windows(found, self.gpus, samples)
                windows.found = log.last_attempt.found
                log.attempts = [windows]
                log.counts, self.log_problem = found.counts, ""
                self.workload = self.workload or found.format.name
                return
            except UserError as error:
                self.log_problem = str(error)

    def _take_scale(self, found: ForeignLog) -> None:
        """Take over the scale that a log says; UserError when something else says another."""
        if self.choice.find_scale(self.log_path, self.id)[1]:
            return
        if self.gpus and str(self.gpus) in found.facts.get("gpus", ()):
            return
        nodes, gpus = found.find_scale()
        if gpus is None:
            return
        if self.gpus not in (None, gpus):
            raise UserError(
                f"{found.path}: it says {gpus} GPUs, its name, folder or script {self.gpus}: say "
                f"which with --gpus {self.log_path.name}=N"
            )
        self.said_gpus = gpus
        if self.nodes is None and nodes and gpus % nodes == 0:
            self.nodes, self.gpus_per_node = nodes, gpus // nodes
        elif self.nodes and self.gpus_per_node is None and gpus % self.nodes == 0:
            self.gpus_per_node = gpus // self.nodes

    @property
    def attempt(self) -> Attempt | None:
        """This run's part of the log, which all restarts of a job share; None when unknown."""
        log = self.log
        return log and log.find_attempt(self.restart, self.restarts, self.run_complete)

    @cached_property
    def metrics(self) -> TrainingMetrics | None:
        """Its training_metrics.json; None without one, or (see `lost_records`) a good one."""
        path = self.results_dir / "training_metrics.json"
        metrics = self._try(read_training_metrics, path, self.lost_records)
        if metrics and metrics.is_per_gpu and not self.gpus:
            self.lost_records.append(f"{path} cannot be used: its throughput is per GPU, and the "
                                     "number of GPUs is unknown")  # fmt: skip
            return None
        return metrics and metrics.of_job(self.gpus)

    @cached_property
    def rank_epochs(self) -> list[RankEpoch]:
        """Its rank files by epoch and rank; `lost_records` names those that cannot be used."""
        records, problems = read_rank_epochs(self.results_dir)
        self.lost_records += problems
        return records

    @cached_property
    def kernels(self) -> list[list[Kernel]]:
        """What nsys recorded, a list per node; `lost_records` names files that cannot be used."""
        paths = sorted(self.results_dir.glob(nsys.PATTERN))
        found = [self._try(nsys.read_kernels, path, self.lost_records) for path in paths]
        return [kernels for kernels in found if kernels is not None]

    @cached_property
    def gpu_log_paths(self) -> dict[int, Path]:
        """Node number -> nvidia-smi CSV."""
        return self._find_node_files("gpu_memory")

    @cached_property
    def cpu_log_paths(self) -> dict[int, Path]:
        """Node number -> psrecord log."""
        return self._find_node_files("cpu_memory")

    def _find_node_files(self, kind: str) -> dict[int, Path]:
        """Return the run's own logs; of the only run of a folder also those that name no run."""
        found = contract.find_node_files(self.home / kind / self.id, kind)
        for place in (self.home / kind, self.home) if self.is_alone else ():
            found = found or contract.find_node_files(place, kind)
        return found

    @cached_property
    def gpu_logs(self) -> dict[int, GpuLog]:
        """Node number -> its GPU log, of the job's own GPUs, with samples.

        On a node that jobs share, run.json's UUIDs say which are its own. A log that cannot be
        read stands there without GPUs, and its `problem` says why.
        """
        own = (self.settings or {}).get("gpu_uuids")
        own, found = own if isinstance(own, list) else [], {}
        for node, path in self.gpu_log_paths.items():
            try:
                found[node] = read_gpu_log(path, samples=True).keep_gpus(own)
            except UserError as error:
                found[node] = GpuLog(path, (), LineCounts(), str(error))
        return found

    @cached_property
    def cpu_logs(self) -> dict[int, CpuLog]:
        """Node number -> its psrecord log, with samples; `problem` says why one is unusable."""
        found = {}
        for node, path in self.cpu_log_paths.items():
            try:
                found[node] = read_cpu_log(path, samples=True)
            except UserError as error:
                found[node] = CpuLog(path, LineCounts(), None, None, 0.0, None, str(error))
        return found

    def find_host(self, rank: int) -> str | None:
        """Return the host that a rank ran on: run.json's hosts are in the order of their ranks."""
        hosts = (self.settings or {}).get("hosts")
        if not isinstance(hosts, list) or not self.gpus_per_node:
            return None
        node = rank // self.gpus_per_node
        return str(hosts[node]) if node < len(hosts) else None

    def read_records(self, now_s: float | None = None) -> None:
        """Read run.json and job_end.json, and judge how the run stands."""
        self.take_settings(self._try(contract.read_json, self.results_dir / "run.json"))
        if self.log_path is not None:
            nodes, gpus = self.choice.find_scale(self.log_path, self.id)
            if gpus:
                self.nodes, self.gpus_per_node = nodes, gpus // nodes
        path = self.results_dir / "job_end.json"
        end = self._try(contract.read_json, path) or {}
        self.exit_status = self._take_count(end, "exit_status", path)
        self.elapsed_s = self._take_count(end, "elapsed_s", path)
        self.end_signal = pick_text(end, "signal")
        verdict = judge(self, now_s)
        self.state, self.reason, self.cause = verdict.state, verdict.reason, verdict.cause
        is_told = self.choice.format or not self.log_problem.endswith(NOTHING_LIKELY)
        if self.log_problem and is_told and self.cause is None:
            self.reason = f"{self.reason}; {self.log_problem}"
        last = self.attempt.last if self.settings is None and self.attempt else None
        if self.workload is None and last is not None and last.unit != "img/s":
            self.workload = name_noun(last.unit)  # of a trainer that leaves its epoch lines alone

    def take_settings(self, settings: dict | None) -> None:
        """Take over what run.json says: scale, workload and start; else the names say them."""
        known, path = settings or {}, self.results_dir / "run.json"
        self.settings, self.start = settings, contract.utc_time(known, "start_utc")
        self.job_name = self.job_name or pick_text(known, "slurm.job_name")
        self.workload = pick_text(known, "workload") or contract.workload_of_path(self.folder)
        scale = [self._take_count(known, key, path, 1) for key in ("nodes", "gpus_per_node")]
        if not all(scale):
            scale = contract.find_scale(self.job_name, self.folder)
        self.nodes, self.gpus_per_node = scale

    def _take_count(self, record: dict, key: str, path: Path, least: int = 0) -> int | None:
        try:
            return contract.whole_number(record, key, path, least)
        except UserError as error:
            self.problems.append(str(error))
            return None

    def _try(self, read: Callable, path: Path, problems: list[str] | None = None):
        """Return read(path); None without the file, or with a line in `problems` when unusable."""
        try:
            return read(path) if path.exists() else None
        except UserError as error:
            (self.problems if problems is None else problems).append(str(error))
            return None


@cache
def list_queue() -> frozenset[str] | None:
    """Return the ids of the jobs that wait or run, None where Slurm cannot be asked."""
    command = ["squeue", "--all", "--noheader", "--format=%A"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return frozenset(done.stdout.split())
