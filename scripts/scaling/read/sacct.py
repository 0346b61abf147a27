"""Read sacct's output: how Slurm's accounting says that each job ended.

Two forms are read: `sacct --parsable2` and `sacct --json`. The default table cuts what is too
long, so it is refused. Sources: sacct(1) of Slurm 19.05 to 24.05, "JOB STATE CODES" and the
field list; slurmrestd's OpenAPI schema of `jobs` for --json.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from common.console import shorten
from common.counts import LineCounts
from common.errors import UserError
from common.slurm_time import parse_time
from scaling.read.columns import Column
from scaling.read.contract import read_json
from scaling.read.symptoms import State
from scaling.read.text import CUT, clean_line, read_blocks

COMMAND = (
    "sacct --parsable2 --jobs=JOBID "
    "--format=JobID,JobName,State,ExitCode,Elapsed,MaxRSS,TRESUsageInMax"
)
STATES = {
    word: state
    for state, words in {
        State.COMPLETE: "COMPLETED",
        State.FAILED: "FAILED BOOT_FAIL NODE_FAIL LAUNCH_FAILED",
        State.TIMED_OUT: "TIMEOUT DEADLINE",
        State.OUT_OF_MEMORY: "OUT_OF_MEMORY",
        State.CANCELLED: "CANCELLED PREEMPTED REVOKED REQUEUED REQUEUE_HOLD",
        State.RUNNING: "RUNNING COMPLETING SUSPENDED STOPPED RESIZING",
        State.NEVER_STARTED: "PENDING CONFIGURING",
    }.items()
    for word in words.split()
}
_JOB_ID = re.compile(r"(\d{1,18}(?:_(?:\d{1,9}|\[[^\]]*\])|\+\d{1,6})?)(?:\.(\w{1,40}))?", re.ASCII)
_TRES = re.compile(r"gres/(gpumem|gpuutil)=([^,]*)")
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)([KMGTP]?)([nc]?)")
_MIB = {"": 1 / (1 << 20), "K": 1 / 1024, "M": 1, "G": 1024, "T": 1 << 20, "P": 1 << 30}
_JSON_USAGE = {"mem": "MaxRSS", "gpumem": "TRESUsageInMax gpumem",
               "gpuutil": "TRESUsageInMax gpuutil"}  # fmt: skip
_NAMES = re.compile(r"[A-Za-z]{3,}")
# With a step out of memory a job may still be one of these.
_JOB_MAY_HIDE = ("COMPLETED", "FAILED", "CANCELLED")
Measures = dict[str, tuple[float, str]]  # field -> (number, unit)


@dataclass
class SacctJob:
    """One attempt of a job: Slurm's own state, ours, exit status and measures.

    steps: step -> Slurm's state. measures: Elapsed and ReqMem of the job's line, and what Slurm
    keeps of steps alone, MaxRSS and the GPUs' use, of the step that has most.
    """

    id: str
    slurm_state: str = ""
    exit_status: int | None = None
    signal: int | None = None
    name: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    measures: Measures = field(default_factory=dict)

    @property
    def state(self) -> State | None:
        """How it stands; a step that was out of memory outweighs the job's own line."""
        known = self.slurm_state or self.steps.get("batch") or next(iter(self.steps.values()), "")
        if known in _JOB_MAY_HIDE and "OUT_OF_MEMORY" in self.steps.values():
            return State.OUT_OF_MEMORY
        return STATES.get(known)


@dataclass
class SacctLog:
    """All attempts of jobs in the order of the output, and where its lines went."""

    path: Path
    jobs: list[SacctJob] = field(default_factory=list)
    counts: LineCounts = field(default_factory=LineCounts)
    columns: dict[str, Column] = field(default_factory=dict)

    def find(self, job_id: str) -> SacctJob | None:
        """Return the last attempt of a job, None when it is not there."""
        return next((job for job in reversed(self.jobs) if job.id == job_id), None)

    def count(self, measures: Measures) -> None:
        """Take measures into the columns."""
        for name, (value, unit) in measures.items():
            title = f"{name} ({unit})" if " per " in unit else name
            self.columns.setdefault(title, Column(title, unit)).add(value)


def read_sacct(path: Path) -> SacctLog:
    """Return what `sacct --parsable2` or `sacct --json` printed.

    Raises UserError, with the command to use, when the file cannot be read or is in no such
    form: the default table, another delimiter, no header with JobID and State.
    """
    reader = _Reader(Path(path))
    for lines, have_ends in read_blocks(path):
        for line in lines:
            if not reader.log.counts.lines and line.lstrip("\ufeff ").startswith("{"):
                return _read_json(Path(path))
            reader.add(line, have_ends)
    if not reader.names:
        raise UserError(
            f"{path}: not the output of sacct --parsable2: no header line names JobID and State; "
            f'it has "{shorten(reader.first_text, 80)}"; write it with `{COMMAND}`'
        )
    return reader.log


def parse_header(line: str) -> list[str] | None:
    """Return the field names of a --parsable2 header, None for another line."""
    names = clean_line(line).split("|")
    if len(names) > 2 and not names[-1]:
        names.pop()  # --parsable ends each line with a separator
    is_one = {"JobID", "JobIDRaw"} & set(names) and "State" in names
    return names if is_one and all(map(_NAMES.fullmatch, names)) else None


class _Reader:
    """Takes the lines of --parsable2 in."""

    def __init__(self, path: Path):
        self.log = SacctLog(path)
        self.names: list[str] = []
        self.newest: dict[str, SacctJob] = {}
        self.first_text = ""

    def add(self, line: str, has_end: bool) -> None:
        counts = self.log.counts
        counts.lines += 1
        if not line.strip():
            counts.ignored["blank"] += 1
        elif not has_end:
            counts.dropped[CUT] += 1
        elif names := parse_header(line):
            counts.ignored["repeated header" if self.names else "header"] += 1
            self.names = names
        elif not self.names:
            self.first_text = self.first_text or line
            counts.ignored["text before the header"] += 1
        elif reason := self._add_row(line):
            counts.dropped[reason] += 1
        else:
            counts.kept += 1

    def _add_row(self, line: str) -> str:
        """Take a job or a step in; return why the line is none, '' when it is one."""
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == len(self.names) + 1 and not cells[-1]:
            cells.pop()
        if len(cells) != len(self.names):
            return "another number of fields"
        row = dict(zip(self.names, cells, strict=True))
        ids = parse_job_id(row.get("JobID") or row.get("JobIDRaw") or "")
        if ids is None:
            return "no job id"
        job_id, step = ids
        state = parse_state(row["State"])
        if state is None:
            return "state not known"
        measures = {}
        for name, cell in row.items():
            measures |= parse_measures(name, cell)
        job = self.newest.get(job_id)
        if job is None or (not step and job.slurm_state):
            job = self.newest[job_id] = SacctJob(job_id)  # -D lists a requeued job twice
            self.log.jobs.append(job)
        if step:
            job.steps[step] = state
            _take_largest(job, measures)
        else:
            job.slurm_state, job.name = state, row.get("JobName", "")
            job.measures |= measures
            job.exit_status, job.signal = parse_exit_code(row.get("ExitCode", ""))
        self.log.count(measures)
        return ""


def _take_largest(job: SacctJob, measures: Measures) -> None:
    """Take over what a step has most of, where the job's own line has none."""
    for name, found in measures.items():
        if "Max" in name:
            job.measures[name] = max(found, job.measures.get(name, found))


def _read_json(path: Path) -> SacctLog:
    """Return the jobs of `sacct --json`; each line of the file is kept, but for blank ones."""
    log = SacctLog(path)
    for lines, _ in read_blocks(path):
        log.counts.lines += len(lines)
        log.counts.ignored["blank"] += sum(not line.strip() for line in lines)
    log.counts.ignored = +log.counts.ignored
    log.counts.kept = log.counts.lines - log.counts.ignored.total()
    jobs = read_json(path).get("jobs")
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise UserError(f"{path}: not the output of sacct --json: it has no list of jobs")
    for record in jobs:
        job = SacctJob(str(record.get("job_id", "")), name=str(record.get("name") or ""))
        job.slurm_state = _find_state(record) or ""
        job.exit_status = _find_number(_dig(record, "exit_code", "return_code"))
        job.signal = _find_number(_dig(record, "exit_code", "signal", "id"))
        elapsed_s = _find_number(_dig(record, "time", "elapsed"))
        if elapsed_s is not None:
            job.measures["Elapsed"] = (elapsed_s, "s")
            log.count(job.measures)
        steps = record.get("steps")
        for step in steps if isinstance(steps, list) else ():
            usage, state = _find_usage(step), _find_state(step)
            _take_largest(job, usage)
            log.count(usage)
            step_id = _dig(step, "step", "id")
            name = str(_dig(step_id, "step_id") if isinstance(step_id, dict) else step_id or "")
            if name and state:
                job.steps[name.rpartition(".")[2]] = state
        log.jobs.append(job)
    return log


def _dig(value: object, *keys: str) -> object:
    """Return value[key][key]…, None where one of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _find_usage(step: object) -> Measures:
    """Return the largest memory and GPU use of a step: `tres.requested.max` in Slurm's JSON."""
    entries = _dig(step, "tres", "requested", "max")
    found = {}
    for entry in entries if isinstance(entries, list) else ():
        kind, what, count = (_dig(entry, key) for key in ("type", "name", "count"))
        name = _JSON_USAGE.get(what if kind == "gres" else "" if what else kind)
        count = _find_number(count)
        if name and count is not None:
            is_share = name.endswith("util")
            found[name] = (count, "%") if is_share else (count / (1 << 20), "MiB")
    return found


def _find_state(record: object) -> str | None:
    """Return Slurm's state: `state.current` is text in older Slurms, a list of flags in newer."""
    state = _dig(record, "state")
    current = _dig(state, "current") if isinstance(state, dict) else state
    words = current if isinstance(current, list) else [current]
    return next((found for word in words if (found := parse_state(str(word)))), None)


def _find_number(value: object) -> int | None:
    """Return a whole number: plain in older Slurms, {"set": true, "number": 1} in newer ones."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set", True) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def parse_job_id(cell: str) -> tuple[str, str] | None:
    """Return job and step of `12.batch`; None when it is no job id.

    A job is `12`, `12_3` of an array, or `12+1` of a heterogeneous job; without a step that is ''.
    """
    match = _JOB_ID.fullmatch(cell.strip())
    return (match[1], match[2] or "") if match else None


def parse_state(cell: str) -> str | None:
    """Return Slurm's state of `CANCELLED by 1000`; None if it is not known."""
    word = (cell.split() or [""])[0].upper()
    return word if word in STATES else None


def parse_exit_code(cell: str) -> tuple[int | None, int | None]:
    """Return (exit status, signal) of `0:15`; None for each when there is none."""
    match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", cell.strip())
    return (int(match[1]), int(match[2])) if match else (None, None)


def parse_duration(cell: str) -> float | None:
    """Return the seconds of `[days-][hours:]minutes:seconds[.fraction]`, None for other text."""
    try:
        return parse_time(cell) if ":" in cell else None
    except ValueError:
        return None


def parse_memory(cell: str) -> tuple[float, str] | None:
    """Return (MiB, unit) of `1196K`, `64G`, `100Mc` (for each CPU) or `4Gn` (for each node).

    A figure without a letter is in bytes, as sacct prints it for steps.
    """
    match = _AMOUNT.fullmatch(cell.strip())
    if match is None:
        return None
    unit = {"c": "MiB per CPU", "n": "MiB per node", "": "MiB"}[match[3]]
    return float(match[1]) * _MIB[match[2]], unit


def parse_measures(name: str, cell: str) -> Measures:
    """Return what a field says of time, memory and GPUs: Elapsed, MaxRSS, ReqMem, TRESUsageIn….

    Of `cpu=00:01:00,gres/gpumem=1G,…` that is the memory (MiB) and use (%) of GPUs.
    """
    found: dict[str, tuple[float, str] | None] = {}
    if name in ("MaxRSS", "ReqMem"):
        found[name] = parse_memory(cell)
    elif name == "Elapsed":
        seconds = parse_duration(cell)
        found[name] = None if seconds is None else (seconds, "s")
    elif name.startswith("TRESUsageIn"):
        for what, value in _TRES.findall(cell):
            is_share = what == "gpuutil" and re.fullmatch(r"\d{1,9}", value)
            amount = parse_memory(value) if what == "gpumem" else None
            found[f"{name} {what}"] = (int(value), "%") if is_share else amount
    return {name: measure for name, measure in found.items() if measure}
