"""Read sacct's output: how Slurm's accounting says that each job ended.

Sources: sacct(1) of Slurm 19.05 to 24.05, "JOB STATE CODES" and the field list.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from common.console import shorten
from common.errors import UserError
from scaling.read.columns import Column
from scaling.read.sacct_fields import (
    STATES,
    JobId,
    parse_exit_code,
    parse_job_id,
    parse_measure,
    parse_state,
)
from scaling.read.state import State
from scaling.read.text import clean_line, read_lines

_NAMES = re.compile(r"[A-Za-z][A-Za-z]{2,}")
_RULER = re.compile(r"\s*-{2,}(?:\s+-+)*\s*")
_SEPARATORS = "|;\t,"
# A step says more than its job of these ends: with a killed step a job may still be COMPLETED.
_STEP_TELLS = ("OUT_OF_MEMORY",)
_JOB_MAY_HIDE = ("COMPLETED", "FAILED", "CANCELLED")


@dataclass
class SacctJob:
    """One attempt of a job: Slurm's own state, ours, exit status and measures.

    `slurm_state` is the job's line's, or its batch step's when there is none. `steps` is
    step -> Slurm's state. `measures` is field -> (number, unit), of the job's line.
    """

    id: str
    slurm_state: str = ""
    exit_status: int | None = None
    signal: int | None = None
    name: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    measures: dict[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def state(self) -> State | None:
        """How it stands; a step that was out of memory outweighs the job's own line."""
        known = self.slurm_state or self.steps.get("batch") or next(iter(self.steps.values()), "")
        if known in _JOB_MAY_HIDE:
            known = next((s for s in self.steps.values() if s in _STEP_TELLS), known)
        return STATES.get(known)


@dataclass
class SacctLog:
    """All attempts of jobs in the order of the output; the counts of lines add up."""

    path: Path
    jobs: list[SacctJob]
    lines: int
    kept: int
    dropped: dict[str, int]
    ignored: dict[str, int]
    columns: list[Column]

    def find(self, job_id: str) -> SacctJob | None:
        """Return the last attempt of a job, None when it is not there."""
        return next((job for job in reversed(self.jobs) if job.id == job_id), None)


def read_sacct(path: Path) -> SacctLog:
    """Return what sacct printed: parsable with any delimiter, or its default table.

    The default table cuts what is too long and marks it with `+`: a step's or state's name
    is completed when that leaves no doubt, a cut job id is dropped. Raises UserError when
    the file cannot be read or has no header with JobID and State.
    """
    reader = _Reader(Path(path))
    for line, has_end in read_lines(path):
        reader.add(line, has_end)
    if not reader.names:
        raise UserError(
            f"{path}: not sacct's output: no header line names JobID and State; it has "
            f'"{shorten(reader.first_text, 80)}"'
        )
    return SacctLog(
        reader.path, reader.jobs, reader.lines, reader.kept, dict(reader.dropped),
        dict(reader.ignored), list(reader.columns.values()),
    )  # fmt: skip


def parse_header(line: str) -> tuple[list[str], str] | None:
    """Return (field names, separator; '' for the default table), None for another line."""
    line = clean_line(line)
    separator = next((mark for mark in _SEPARATORS if mark in line), "")
    cells = [c.strip() for c in line.split(separator)] if separator else line.split()
    names = cells[:-1] if cells and not cells[-1] else cells  # --parsable ends with a separator
    is_one = {"JobID", "JobIDRaw"} & set(names) and "State" in names
    return (names, separator) if is_one and all(map(_NAMES.fullmatch, names)) else None


class _Reader:
    def __init__(self, path: Path):
        self.path = path
        self.lines = 0
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.names: list[str] = []
        self.separator = ""
        self.spans: list[tuple[int, int]] = []
        self.jobs: list[SacctJob] = []
        self.newest: dict[str, SacctJob] = {}
        self.columns: dict[str, Column] = {}
        self.first_text = ""

    def add(self, line: str, has_end: bool) -> None:
        self.lines += 1
        if not line.strip():
            self.ignored["blank"] += 1
        elif not has_end:
            self.dropped["cut: the last line has no end"] += 1
        elif found := parse_header(line):
            self.ignored["repeated header" if self.names else "header"] += 1
            (self.names, self.separator), self.spans = found, []
        elif not self.names:
            self.first_text = self.first_text or line
            self.ignored["text before the header"] += 1
        elif not self.separator and _RULER.fullmatch(line):
            self.ignored["ruler"] += 1
            self.spans = [match.span() for match in re.finditer("-+", line)]
        elif reason := self._add_row(line):
            self.dropped[reason] += 1
        else:
            self.kept += 1

    def _add_row(self, line: str) -> str | None:
        cells = self._split(line)
        if cells is None or len(cells) != len(self.names):
            return "another number of fields"
        row = dict(zip(self.names, cells, strict=True))
        job_id = parse_job_id(row.get("JobID") or row.get("JobIDRaw") or "")
        if job_id is None:
            is_cut = (row.get("JobID") or "").endswith("+")
            return "job id cut" if is_cut else "no job id"
        state = parse_state(row["State"])
        if state is None:
            return "state not known"
        self._take(job_id, state, row)
        return None

    def _split(self, line: str) -> list[str] | None:
        if self.separator:
            cells = [cell.strip() for cell in line.split(self.separator)]
            is_ended = len(cells) == len(self.names) + 1 and not cells[-1]
            return cells[:-1] if is_ended else cells
        words = line.split()
        if len(self.spans) != len(self.names):
            return words
        cells = [line[start:end].strip() for start, end in self.spans]
        gaps = [*zip([end for _, end in self.spans], [s for s, _ in self.spans[1:]], strict=False)]
        beside = "".join(line[end:start] for end, start in gaps) + line[self.spans[-1][1] :]
        return words if beside.strip() else cells  # not in its columns: edited by hand

    def _take(self, job_id: JobId, state: str, row: dict[str, str]) -> None:
        job = self.newest.get(job_id.job)
        if job is None or (not job_id.step and job.slurm_state):
            job = self.newest[job_id.job] = SacctJob(job_id.job)  # -D lists a requeued job twice
            self.jobs.append(job)
        measures = self._measure(row)
        if job_id.step:
            job.steps[job_id.step] = state
        else:
            job.slurm_state, job.measures = state, measures
            job.name = row.get("JobName", "").removesuffix("+")
            job.exit_status, job.signal = parse_exit_code(row.get("ExitCode", ""))

    def _measure(self, row: dict[str, str]) -> dict[str, tuple[float, str]]:
        found = {}
        for name, cell in row.items():
            measure = parse_measure(name, cell)
            if measure is not None:
                found[name] = measure
                title = f"{name} ({measure[1]})" if " per " in measure[1] else name
                column = self.columns.setdefault(title, Column(title, measure[1]))
                column.add(measure[0])
        return found
