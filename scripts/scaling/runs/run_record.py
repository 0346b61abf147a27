"""One run: what its folders, records and logs say of it."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from common.errors import UserError
from scaling.read import contract
from scaling.read.causes import Cause
from scaling.read.outcome import Evidence, judge
from scaling.read.sacct import SacctJob
from scaling.read.slurm_log import Attempt, SlurmOut, read_slurm_out
from scaling.read.state import State


@dataclass(eq=False)  # two runs are the same only when they are one object: ids may repeat
class Run:
    """One attempt of one job, or (id "") a job script that was never submitted.

    `nodes` and `gpus_per_node` come from run.json, else the job's name, else the folder's;
    None when none of them says. `settings` is run.json, None when there is none or it
    cannot be read; `problems` names each record that cannot. The logs are read when first
    asked for.
    """

    folder: Path  # the job's, with its script and log
    id: str
    name: str | None = None
    script: Path | None = None
    log_path: Path | None = None
    restarts: int = 0  # of the job, so far
    nodes: int | None = None
    gpus_per_node: int | None = None
    workload: str | None = None
    start: datetime | None = None
    settings: dict | None = None
    problems: list[str] = field(default_factory=list)
    state: State = State.NEVER_STARTED
    reason: str = ""
    cause: Cause | None = None
    home: Path | None = None  # where its other files are, when not in `folder`
    is_alone: bool = False  # no other run has files in `folder`

    @property
    def results_dir(self) -> Path:
        return (self.home or self.folder) / "results" / self.id

    @property
    def job(self) -> int:
        return contract.split_id(self.id)[0]

    @property
    def restart(self) -> int:
        return contract.split_id(self.id)[1]

    @property
    def gpus(self) -> int | None:
        return self.nodes * self.gpus_per_node if self.nodes and self.gpus_per_node else None

    @property
    def is_usable(self) -> bool:
        """Whether its numbers may stand in a table: complete, and every record readable."""
        return self.state is State.COMPLETE and not self.problems

    @property
    def account(self) -> str:
        """How it stands in words, for the row that has no better run."""
        if not self.id:
            return self.reason
        return f"job {self.id}: " + "; ".join([self.reason, *self.problems])

    @property
    def run_complete(self) -> bool:
        return (self.results_dir / "RUN_COMPLETE.txt").exists()

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
        home = self.home or self.folder
        found = contract.find_node_files(home / kind / self.id, kind)
        for place in (home / kind, home) if self.is_alone else ():
            found = found or contract.find_node_files(place, kind)
        return found

    @cached_property
    def log(self) -> SlurmOut | None:
        """The Slurm log, None when there is none or (see `problems`) it cannot be read."""
        try:
            log = read_slurm_out(self.log_path) if self.log_path else None
        except UserError as error:
            self.problems.append(str(error))
            return None
        if log is not None and log.is_mixed:
            self.problems.append(
                f"{self.log_path}: several processes print epoch lines that differ, without a "
                "label: which are the job's is not known"
            )
        return log

    @property
    def attempt(self) -> Attempt | None:
        """This run's part of the log, which all restarts of a job share; None when unknown."""
        attempts = self.log.attempts if self.log else []
        if self.restart < self.restarts:  # a forerunner: what comes after it must be there
            return attempts[self.restart] if self.restart < len(attempts) - 1 else None
        # A restart that has printed nothing yet must not be given its forerunner's epochs.
        if not attempts or (self.restart >= len(attempts) and not self.run_complete):
            return None
        return attempts[-1]


def read_run(
    folder: Path,
    run_id: str,
    log: tuple[str | None, Path | None] = (None, None),
    restarts: int = 0,
    exit_status: int | None = None,
    now_s: float | None = None,
    home: Path | None = None,
    accounting: SacctJob | None = None,
    is_alone: bool = False,
) -> Run:
    """Return the run of that id in a job's folder, with its state judged.

    log: (job name, path) of its Slurm log. exit_status: instead of job_end.json's, for a
    job that is about to end. accounting: what sacct said of the job. A record that cannot
    be read is named in `problems`.
    """
    name, log_path = log
    restarts = max(restarts, contract.split_id(run_id)[1])
    run = Run(
        folder, run_id, name, log_path=log_path, restarts=restarts, home=home, is_alone=is_alone
    )
    _take_settings(run)
    if exit_status is None:
        end = _read_record(run, "job_end.json") or {}
        exit_status = _whole_number(run, end, "exit_status", "job_end.json")
    try:
        verdict = judge(_gather_evidence(run, exit_status, accounting), now_s)
    except UserError as error:  # the log went away, or was closed to us, in the meantime
        run.state, run.reason = State.FAILED, f"failed: {error}"
    else:
        run.state, run.reason, run.cause = verdict.state, verdict.reason, verdict.cause
    return run


def _take_settings(run: Run) -> None:
    run.settings = _read_record(run, "run.json")
    settings = run.settings or {}
    slurm = settings.get("slurm")
    if run.name is None and isinstance(slurm, dict):
        run.name = _text(slurm.get("job_name"))
    run.workload = _text(settings.get("workload")) or contract.workload_of_path(run.folder)
    run.start = contract.utc_time(settings, "start_utc")
    set_scale(run)


def _gather_evidence(run: Run, exit_status: int | None, accounting: SacctJob | None) -> Evidence:
    has_run_json = (run.results_dir / "run.json").exists()
    return Evidence(
        has_record=has_run_json or run.run_complete,
        run_complete=run.run_complete,
        wants_requeue=(run.results_dir / "REQUEUE").exists(),
        exit_status=exit_status,
        log_path=run.log_path,
        read_attempt=lambda: run.attempt,
        last_written_s=_last_written_s(run),
        requeued_as=f"{run.job}.{run.restarts}" if run.restart < run.restarts else None,
        accounting=accounting if run.restart == run.restarts else None,
    )


def set_scale(run: Run) -> None:
    """Set nodes and GPUs per node from run.json, else the job's name, else the folder's."""
    settings = run.settings or {}
    by_record = tuple(
        _whole_number(run, settings, key, "run.json", least=1) for key in ("nodes", "gpus_per_node")
    )
    if all(by_record):
        run.nodes, run.gpus_per_node = by_record
    else:
        run.nodes, run.gpus_per_node = contract.scale_of_job_name(
            run.name
        ) or contract.scale_of_path(run.folder)


def _read_record(run: Run, name: str) -> dict | None:
    path = run.results_dir / name
    if not path.exists():
        return None
    try:
        return contract.read_json(path)
    except UserError as error:
        run.problems.append(str(error))
        return None


def _whole_number(run: Run, record: dict, key: str, name: str, least: int = 0) -> int | None:
    try:
        return contract.whole_number(record, key, run.results_dir / name, least)
    except UserError as error:
        run.problems.append(str(error))
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _last_written_s(run: Run) -> float | None:
    paths = [*run.gpu_log_paths.values(), *run.cpu_log_paths.values(), run.results_dir]
    times_s = []
    for path in [*paths, run.log_path] if run.log_path else paths:
        try:
            times_s.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times_s, default=None)


def check_rank_records(run: Run) -> list[str]:
    """Return what is wrong with the per-rank JSON of a run: one sentence a file, or none."""
    problems = []
    for path in sorted(run.results_dir.glob("rank*_results_epoch*.json")):
        try:
            contract.read_json(path)
        except UserError as error:
            problems.append(str(error))
    return problems
