"""Follow submitted jobs to their end: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from profiles.ledger import Entry
from profiles.slurm import JobState


def watch(
    entries: list[Entry],
    experiments: Path,
    read_state: Callable[[str], JobState],
    read_progress: Callable,
    interval_s: float = 10.0,
) -> list[JobState]:
    """Follow `entries` until all have ended; returns their last states, in order.

    read_progress(folder, job id) tells how far a job's log is (see scaling/progress.py). Slurm is
    asked for the active jobs only, every `interval_s` seconds.
    """
    console = Console(highlight=False, soft_wrap=True)
    states: dict[str, JobState] = {}
    show = show_table if console.is_terminal else show_lines
    with Live(console=console, auto_refresh=False) if console.is_terminal else console as screen:
        shown: dict[str, tuple[str, int]] = {}
        while True:
            for entry in entries:
                known = states.get(entry.job_id)
                if known is None or known.is_active:
                    states[entry.job_id] = read_state(entry.job_id)
            progress = {e.job_id: read_progress(experiments / e.folder, e.job_id) for e in entries}
            show(screen, entries, states, progress, shown)
            if not any(state.is_active for state in states.values()):
                break
            time.sleep(interval_s)
    for entry in entries:
        if states[entry.job_id].state not in ("COMPLETED", "UNKNOWN"):
            last = progress[entry.job_id]
            console.print(f"{entry.job} (job {entry.job_id}) ended as", end=" ")
            console.print(f"{states[entry.job_id].state}; the end of {last.log}:", markup=False)
            console.print(*last.tail, sep="\n", markup=False)
    return [states[entry.job_id] for entry in entries]


def show_table(live: Live, entries, states, progress, _shown) -> None:
    """Draw the table anew: a row a job."""
    table = Table(box=None, pad_edge=False)
    for heading in ("Job", "Id", "GPUs", "State", "Epochs", "Throughput"):
        table.add_column(heading, justify="right" if heading in ("Id", "GPUs") else "left")
    for entry in entries:
        state, now = states[entry.job_id], progress[entry.job_id]
        words = f"{state.state} ({state.reason})" if state.reason else state.state
        table.add_row(entry.job, entry.job_id, str(entry.gpus), words, now.epochs, now.throughput)
    live.update(table, refresh=True)


def show_lines(console: Console, entries, states, progress, shown: dict) -> None:
    """Print what is new: a job's state when it changes, each epoch's line as it appears."""
    for entry in entries:
        state, lines = states[entry.job_id], progress[entry.job_id].epoch_lines
        old_state, old_lines = shown.get(entry.job_id, ("", 0))
        for line in lines[old_lines:]:
            console.print(f"          {line}", markup=False)
        if state.state != old_state:
            reason = f" ({state.reason})" if state.reason and state.is_active else ""
            clock = time.strftime("%H:%M:%S")
            console.print(
                f"{clock}  {entry.folder:<20} job {entry.job_id}  {state.state}{reason}",
                markup=False,
            )
        shown[entry.job_id] = (state.state, len(lines))
