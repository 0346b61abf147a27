"""A run's part of the report: its settings, epochs, timelines, log excerpts, counted lines."""

import json

import pandas as pd

from common.console import shorten
from scaling.plots.timelines import FIGURES, Timeline, list_timelines
from scaling.report.svg import draw_timeline
from scaling.runs import Run, State, make_samples
from scaling.runs.compare import SCORES
from scaling.runs.study import count
from scaling.tables.table import Cell, Table, say

POINTS_PER_CHART = 1200  # shared by its lines, so that 200 runs stay a page that opens
LEAST_POINTS = 80
MOST_EPOCHS = 40
LONGEST_CHARS = 240  # of a line of a log


def make_run_page(run: Run, epochs: list[dict]) -> dict[str, object]:
    """Return all that the template shows of a run, its texts plain, to be escaped there.

    epochs: the run's rows of the epochs frame, without those of attempts that were begun again. A
    file that cannot be read costs its own part only.
    """
    scale = count(run.gpus, "GPU") if run.gpus else "scale unknown"
    rows = [{"name": say(name), "value": say(value)} for name, value in flatten(run.settings or {})]
    headers = {"name": "Setting", "value": "Value"}
    return {
        "run": run,
        "scale": f"{scale} on {count(run.nodes, 'node')}" if run.gpus and run.nodes else scale,
        "epochs": make_epochs_table(run, epochs),
        "timelines": list_pictures(run),
        "excerpts": list_excerpts(run),
        "files": list_files(run),
        "settings": Table("settings", f"Settings of job {run.id}", headers, rows) if rows else None,
    }


def flatten(record: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Return a record's values as (dotted name, text); lists as JSON, long texts shortened."""
    found = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found += flatten(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append((shorten(name, 80), shorten(text, 300)))
    return found


def show_as(form: str, value: float) -> Cell:
    """Return the cell of a number in a format of str.format(); — without a note where it is nan."""
    return Cell(None, "—") if pd.isna(value) else Cell(value, form.format(value))


def make_epochs_table(run: Run, epochs: list[dict]) -> Table | None:
    """Return the last epochs of a run."""
    if not epochs:
        return None
    score = next((s for s in SCORES if any(pd.notna(row[s.column]) for row in epochs)), None)
    unit = next((f" ({row['unit']})" for row in epochs if pd.notna(row["unit"])), "")
    columns = {  # header, format, factor
        "train_loss": ("Loss (train)", "{:.3f}", 1),
        "val_loss": ("Loss (val)", "{:.3f}", 1),
        **({score.column: (score.axis, f"{{:.{score.places}f}}", score.factor)} if score else {}),
        "throughput_per_s": (f"Throughput{unit}", "{:,.1f}", 1),
        "epoch_s": ("Time (s)", "{:,.1f}", 1),
    }
    rows = [
        {
            "epoch": say(f"{row['epoch']}{' (warm-up)' if row['is_warmup'] else ''}"),
            **{n: show_as(form, factor * row[n]) for n, (_, form, factor) in columns.items()},
        }
        for row in epochs[-MOST_EPOCHS:]
    ]
    headers = {"epoch": "Epoch", **{name: header for name, (header, *_) in columns.items()}}
    return Table("epochs", f"Epochs of job {run.id}", headers, rows)


def list_pictures(run: Run) -> list[tuple[Timeline, str]]:
    """Return the timelines of a run's GPUs and nodes, each with its picture."""
    samples, found = make_samples(run), []
    for source, lines in zip(FIGURES, (run.gpus or 1, run.nodes or 1), strict=True):
        most = max(POINTS_PER_CHART // min(lines, 8), LEAST_POINTS)
        found += list_timelines(samples, source, most)
    return [(timeline, draw_timeline(timeline)) for timeline in found]


def list_excerpts(run: Run) -> list[tuple[str, list[tuple[int, str]]]]:
    """Return (title, numbered lines): around the cause of a failure, and the end of the log."""
    if run.log is None:
        return []
    found, tail = [], run.log.tail
    if run.cause is not None and run.cause.excerpt and run.state is not State.COMPLETE:
        where = f"Line {run.cause.line_number} of its log, where the cause was read"
        found.append((where, run.cause.excerpt))
    if tail:
        found.append((f"The last {len(tail)} lines of its log", tail))
    return [(title, [(number, _cut(text)) for number, text in lines]) for title, lines in found]


def _cut(line: str) -> str:  # its columns stay, for it may be code
    return line if len(line) <= LONGEST_CHARS else line[: LONGEST_CHARS - 1] + "…"


def list_files(run: Run) -> list[tuple[str, str]]:
    """Return each log that was read, and what became of its lines."""
    files = [(str(run.log.path), run.log.counts.describe())] if run.log else []
    for log in (*run.gpu_logs.values(), *run.cpu_logs.values()):
        counts = log.counts.describe()
        files.append((str(log.path), f"{counts}; {log.problem}" if log.problem else counts))
    return files
