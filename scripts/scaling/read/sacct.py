"""Read sacct's output: how Slurm's accounting says that each job ended.

Two forms are read: `sacct --parsable2` and `sacct --json`. The default table cuts what is too
long, so it is refused. Sources: sacct(1) of Slurm 19.05 to 24.05, "JOB STATE CODES" and the
field list; slurmrestd's OpenAPI schema of `jobs` for --json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.console import shorten
from common.counts import LineCounts
from common.errors import UserError
from common.slurm_time import format_time, parse_time
from scaling.read.columns import Column
from scaling.read.contract import read_json
from scaling.read.symptoms import State
from scaling.read.text import CUT, clean_line, read_lines

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
_EXIT_CODE = re.compile(r"(\d{1,6}):(\d{1,6})")  # exit status:signal
_NAMES = re.compile(r"[A-Za-z]{3,}")
_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)([KMGTP]?)")
_MIB = {"": 1 / (1 << 20), "K": 1 / 1024, "M": 1, "G": 1024, "T": 1 << 20, "P": 1 << 30}
# With a step out of memory a job may still be one of these.
_JOB_MAY_HIDE = ("COMPLETED", "FAILED", "CANCELLED")
Measures = dict[str, tuple[float, str]]  # field -> (number, unit)


@dataclass
class SacctJob:
    """One attempt of a job: Slurm's own state, ours, exit status and measures.

    steps: step -> Slurm's state. measures: Elapsed of the job's line, and what Slurm keeps of
    steps alone, MaxRSS and the GPUs' use, of the step that has most.
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
    newest: dict[str, SacctJob] = field(default_factory=dict)  # job id -> its last attempt

    def take(self, row: dict[str, str]) -> str:
        """Take in the fields of a job or a step; return why they are of none, '' when they are."""
        ids = parse_job_id(row.get("JobID") or row.get("JobIDRaw") or "")
        state = parse_state(row.get("State", ""))
        if ids is None or state is None:
            return "no job id" if ids is None else "state not known"
        (job_id, step), measures = ids, dict(_list_measures(row))
        job = self.newest.get(job_id)
        if job is None or (not step and job.slurm_state):  # -D lists a requeued job twice
            job = self.newest[job_id] = SacctJob(job_id)
            self.jobs.append(job)
        if step:
            job.steps[step] = state
            for name, found in measures.items():
                if name != "Elapsed":
                    job.measures[name] = max(found, job.measures.get(name, found))
        else:
            job.slurm_state, job.name = state, row.get("JobName", "")
            job.measures |= measures
            if ended := _EXIT_CODE.fullmatch(row.get("ExitCode", "")):
                job.exit_status, job.signal = map(int, ended.groups())
        for name, (value, unit) in measures.items():
            self.columns.setdefault(name, Column(name, unit)).add(value)
        return ""


def read_sacct(path: Path) -> SacctLog:
    """Return what `sacct --parsable2` or `sacct --json` printed.

    Raises UserError, with the command to use, when the file cannot be read or is in no such
    form: the default table, another delimiter, no header with JobID and State.
    """
    log, names, first_text = SacctLog(Path(path)), [], ""
    counts = log.counts
    for line, has_end in read_lines(path):
        if not counts.lines and line.lstrip("\ufeff ").startswith("{"):
            return _read_json(Path(path))
        counts.lines += 1
        if not line.strip():
            counts.ignored["blank"] += 1
        elif not has_end:
            counts.dropped[CUT] += 1
        elif found := parse_header(line):
            counts.ignored["repeated header" if names else "header"] += 1
            names = found
        elif not names:
            first_text = first_text or line
            counts.ignored["text before the header"] += 1
        elif reason := _add_row(log, names, line):
            counts.dropped[reason] += 1
        else:
            counts.kept += 1
    if not names:
        raise UserError(
            f"{path}: not the output of sacct --parsable2: no header line names JobID and State; "
            f'it has "{shorten(first_text, 80)}"; write it with `{COMMAND}`'
        )
    return log


def parse_header(line: str) -> list[str] | None:
    """Return the field names of a --parsable2 header, None for another line."""
    names = clean_line(line).split("|")
    if len(names) > 2 and not names[-1]:
        names.pop()  # --parsable ends each line with a separator
    is_one = {"JobID", "JobIDRaw"} & set(names) and "State" in names
    return names if is_one and all(map(_NAMES.fullmatch, names)) else None


def _add_row(log: SacctLog, names: list[str], line: str) -> str:
    """Take a job or a step in; return why the line is none, '' when it is one."""
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) == len(names) + 1 and not cells[-1]:
        cells.pop()
    if len(cells) != len(names):
        return "another number of fields"
    return log.take(dict(zip(names, cells, strict=True)))


def _list_measures(row: dict[str, str]) -> Iterator[tuple[str, tuple[float, str]]]:
    """Yield what a row says of time, memory and GPUs: Elapsed, MaxRSS, TRESUsageInMax."""
    if (seconds := parse_duration(row.get("Elapsed", ""))) is not None:
        yield "Elapsed", (seconds, "s")
    usage = dict(re.findall(r"gres/(gpumem|gpuutil)=([^,]*)", row.get("TRESUsageInMax", "")))
    memory = {"MaxRSS": row.get("MaxRSS", ""), "TRESUsageInMax gpumem": usage.get("gpumem", "")}
    for name, cell in memory.items():
        if (mib := parse_memory(cell)) is not None:
            yield name, (mib, "MiB")
    if re.fullmatch(r"\d{1,9}", usage.get("gpuutil", "")):
        yield "TRESUsageInMax gpuutil", (int(usage["gpuutil"]), "%")


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


def parse_duration(cell: str) -> float | None:
    """Return the seconds of `[days-][hours:]minutes:seconds[.fraction]`, None for other text."""
    try:
        return parse_time(cell) if ":" in cell else None
    except ValueError:
        return None


def parse_memory(cell: str) -> float | None:
    """Return the MiB of `1196K` or `64G`; a figure without a letter is in bytes, as of steps."""
    match = _MEMORY.fullmatch(cell.strip())
    return float(match[1]) * _MIB[match[2]] if match else None


# ---- sacct --json ----------------------------------------------------------------------------


def _read_json(path: Path) -> SacctLog:
    """Return the jobs of `sacct --json`; each line of the file is kept, but for blank ones."""
    log = SacctLog(path)
    blank = [not line.strip() for line, _ in read_lines(path)]
    log.counts = LineCounts(len(blank), blank.count(False))
    if True in blank:
        log.counts.ignored["blank"] = blank.count(True)
    jobs = read_json(path).get("jobs")
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise UserError(f"{path}: not the output of sacct --json: it has no list of jobs")
    for record in jobs:
        job_id = str(record.get("job_id", ""))
        elapsed_s = _find_number(_dig(record, "time", "elapsed"))
        status = _find_number(_dig(record, "exit_code", "return_code"))
        signal = _find_number(_dig(record, "exit_code", "signal", "id")) or 0
        log.take({
            "JobID": job_id, "State": _find_state(record), "ExitCode": f"{status}:{signal}",
            "Elapsed": "" if elapsed_s is None else format_time(elapsed_s),
            "JobName": str(record.get("name") or ""),
        })  # fmt: skip
        steps = record.get("steps")
        for step in steps if isinstance(steps, list) else ():
            step_id = _dig(step, "step", "id")
            name = str(_dig(step_id, "step_id") if isinstance(step_id, dict) else step_id or "")
            name = f"{job_id}.{name.rpartition('.')[2]}"
            log.take({"JobID": name, "State": _find_state(step), **_find_usage(step)})
    return log


def _dig(value: object, *keys: str) -> object:
    """Return value[key][key]…, None where one of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _find_usage(step: object) -> dict[str, str]:
    """Return the fields of a step's largest memory (bytes) and GPU use, of `tres.requested.max`."""
    entries, found = _dig(step, "tres", "requested", "max"), {}
    for entry in entries if isinstance(entries, list) else ():
        count = _find_number(_dig(entry, "count"))
        if count is not None:
            found[f"{_dig(entry, 'type')}/{_dig(entry, 'name') or ''}"] = str(count)
    gpus = ",".join(f"{name}={count}" for name, count in found.items())
    return {"MaxRSS": found.get("mem/", ""), "TRESUsageInMax": gpus}


def _find_state(record: object) -> str:
    """Return Slurm's state: `state.current` is text in older Slurms, a list of flags in newer."""
    state = _dig(record, "state")
    current = _dig(state, "current") if isinstance(state, dict) else state
    words = current if isinstance(current, list) else [current]
    return next((found for word in words if (found := parse_state(str(word)))), "")


def _find_number(value: object) -> int | None:
    """Return a whole number: plain in older Slurms, {"set": true, "number": 1} in newer ones."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set", True) else None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1 << 62 else None
