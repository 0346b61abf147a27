"""The jobs that submit.py has submitted: their ledger, and following them to their end.

The ledger is a file beside the experiments, one JSON line per job. Followed jobs are shown as a
live table on a terminal, as plain lines elsewhere.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from common.errors import UserError
from submission.slurm import (
    FORGOTTEN,
    JobState,
    SlurmError,
    count_tasks,
    number_of,
    write_cancel,
)

LEDGER = "submitted.jsonl"
PATIENCE = 30  # looks in a row that Slurm may leave without an answer: a restart takes minutes


@dataclass(frozen=True)
class Entry:
    """One submitted job."""

    job_id: str  # as submission.slurm writes it: `7`, `7;alpha`, `7_[0-3]`
    job: str  # its name in the matrix
    folder: str  # below the experiments
    gpus: int
    submitted_utc: str
    sources: str = ""  # what submission.freeze calls the sources that it runs


def now_utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def append_entry(experiments: Path, entry: Entry) -> None:
    """Add a job to the ledger; a line is written whole, since it is short and appended."""
    try:
        with (experiments / LEDGER).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(entry)) + "\n")
    except OSError as error:
        raise UserError(
            f"job {entry.job_id} runs, but {experiments / LEDGER} cannot be written: "
            f"{error.strerror}; cancel it with: {write_cancel([entry.job_id])}"
        ) from None


def check_ledger(experiments: Path) -> None:
    """Refuse a ledger that no job could be added to, before any is submitted."""
    read_ledger(experiments)
    path = experiments / LEDGER
    if not os.access(path if path.exists() else experiments, os.W_OK):
        raise UserError(
            f"{path} cannot be written, so jobs could not be followed; work in a checkout of your "
            f"own, or see ls -ld {experiments}"
        )


def read_ledger(experiments: Path) -> list[Entry]:
    """Read all entries, oldest first; UserError names a line that is not an entry."""
    path = experiments / LEDGER
    if not experiments.is_dir():
        raise UserError(f"--experiments {experiments}: no such folder; name that of the jobs")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; move it away") from None
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entries.append(Entry(**json.loads(line)))
            kinds = [type(value) for value in asdict(entries[-1]).values()]
            if kinds != [str, str, str, int, str, str] or not number_of(entries[-1].job_id):
                raise TypeError(kinds)
        except (ValueError, TypeError):
            raise UserError(f"{path}: line {number} is not an entry; delete that line") from None
    return entries


# ---- Following ---------------------------------------------------------------------------

ReadStates = Callable[[list[Entry]], dict[str, JobState]]


def read_our_states(
    experiments: Path, read_states: Callable[[list[str]], dict[str, JobState]], entries: list[Entry]
) -> dict[str, JobState]:
    """Look up the jobs of the ledger by id; a job in another folder is not ours.

    Ids begin anew when a cluster is set up again, and two clusters may share a home folder.
    """
    states = read_states([entry.job_id for entry in entries])
    for entry in entries:
        folder = states[entry.job_id].folder
        if folder and Path(folder).resolve() != (experiments / entry.folder).resolve():
            states[entry.job_id] = FORGOTTEN
    return states


def watch(
    entries: list[Entry],
    experiments: Path,
    read_states: ReadStates,
    read_progress: Callable,
    interval_s: float = 10.0,
) -> list[JobState]:
    """Follow `entries` until all have ended; returns their last states, in order.

    read_progress(folder, job id) tells how far a job's log is (scaling.read). Slurm is asked once
    every `interval_s` seconds, for the active jobs only, and may fail to answer for a while;
    SlurmError after PATIENCE such looks.
    """
    console = Console(highlight=False, soft_wrap=True)
    states: dict[str, JobState] = {}
    show = show_table if console.is_terminal else show_lines
    with Live(console=console, auto_refresh=False) if console.is_terminal else console as screen:
        shown: dict[str, tuple[str, str, int]] = {}
        progress: dict = {}
        silent = 0
        while True:
            active = [e for e in entries if e.job_id not in states or states[e.job_id].is_active]
            try:
                states |= read_states(active)
                silent = 0
            except SlurmError:
                silent += 1
                if silent >= PATIENCE or not states:
                    raise
            for entry in active:
                number = number_of(entry.job_id)
                now = progress[entry.job_id] = read_progress(experiments / entry.folder, number)
                if not count_tasks(entry.job_id):  # of an array they are those of its last task
                    states[entry.job_id] = judge_by_files(states[entry.job_id], now.exit_status)
            show(screen, entries, states, progress, shown)
            if not any(state.is_active for state in states.values()):
                break
            time.sleep(interval_s)
    for entry in entries:
        if states[entry.job_id].state not in ("COMPLETED", "UNKNOWN"):
            last = progress[entry.job_id]
            ended = f"{entry.job} (job {entry.job_id}) ended as {states[entry.job_id].state}"
            if last.log is None:
                console.print(f"{ended}, and left no log", markup=False)
                continue
            console.print(f"{ended}; the end of {last.log}:", *last.tail, sep="\n", markup=False)
    return [states[entry.job_id] for entry in entries]


def judge_by_files(state: JobState, exit_status: int | None) -> JobState:
    """Say how a job ended that Slurm has forgotten: as the run's own job_end.json has it."""
    if state.state != FORGOTTEN.state or exit_status is None:
        return state
    return JobState("FAILED" if exit_status else "COMPLETED", "by its job_end.json")


def show_table(live: Live, entries, states, progress, _shown) -> None:
    """Draw the table again, one row per job."""
    table = Table(box=None, pad_edge=False)
    for heading in ("Job", "Id", "GPUs", "State", "Epochs", "Throughput"):
        table.add_column(heading, justify="right" if heading in ("Id", "GPUs") else "left")
    for entry in entries:
        state, now = states[entry.job_id], progress[entry.job_id]
        shown_state = f"{state.state} ({state.reason})" if state.reason else state.state
        cells = (entry.job, entry.job_id, str(entry.gpus), shown_state, now.epochs, now.throughput)
        table.add_row(*map(escape, cells))  # a reason may hold node[1-2]
    live.update(table, refresh=True)


def show_lines(console: Console, entries, states, progress, shown: dict) -> None:
    """Print what is new: a job's state when it changes, each epoch's line as it appears."""
    for entry in entries:
        state, lines = states[entry.job_id], progress[entry.job_id].epoch_lines
        *old_state, old_lines = shown.get(entry.job_id, ("", "", 0))
        for line in lines[old_lines:]:
            console.print(f"          {line}", markup=False)
        why = state.reason if state.is_active or state.state == FORGOTTEN.state else ""
        if [state.state, why] != old_state:  # a pending job's reason is news, too
            reason = f" ({why})" if why else ""
            clock = time.strftime("%H:%M:%S")
            console.print(
                f"{clock}  {entry.folder:<20} job {entry.job_id}  {state.state}{reason}",
                markup=False,
            )
        shown[entry.job_id] = (state.state, why, len(lines))
