"""A run's part of the report: its settings, epochs, timelines, log excerpts, counted lines."""

import json
from dataclasses import dataclass

import pandas as pd

from common.console import shorten
from scaling.plots.timelines import FIGURES, list_timelines
from scaling.report.svg import draw_timeline
from scaling.runs import Run, State, make_samples
from scaling.runs.workloads import SCORES
from scaling.tables.table import Cell, Table, say

POINTS_PER_CHART = 1200  # shared by its lines, so that 200 runs stay a page that opens
LEAST_POINTS = 80
MOST_EPOCHS = 40
LONGEST_CHARS = 240  # of a line of a log


@dataclass(frozen=True)
class Picture:
    """A timeline ready for the page; `keys` are its lines' names in the order of their colours."""

    title: str
    unit: str
    svg: str
    keys: list[str]
    note: str


@dataclass(frozen=True)
class RunPage:
    """What the report shows of one run; every text is plain, to be escaped by the template.

    excerpts: (title, lines), a line being (number, text). files: (path, what became of its lines).
    """

    anchor: str
    run: Run
    scale: str
    epochs: Table | None
    pictures: list[Picture]
    excerpts: list[tuple[str, list[tuple[int, str]]]]
    files: list[tuple[str, str]]
    settings: Table | None


def make_run_page(run: Run, epochs: pd.DataFrame, number: int) -> RunPage:
    """Return all that is shown of a run; a file that cannot be read costs its own part only.

    epochs: the run's rows of the epochs frame.
    """
    settings = flatten(run.settings or {})
    rows = [{"name": say(name), "value": say(value)} for name, value in settings]
    title = f"Settings of job {run.id}"
    table = Table("settings", title, {"name": "Setting", "value": "Value"}, rows) if rows else None
    return RunPage(
        f"run-{number}", run, describe_scale(run), make_epochs_table(run, epochs),
        list_pictures(run), list_excerpts(run), list_files(run), table,
    )  # fmt: skip


def describe_scale(run: Run) -> str:
    if not run.gpus:
        return "scale unknown"
    text = f"{run.gpus} GPU{'s' if run.gpus != 1 else ''}"
    return f"{text} on {run.nodes} node{'s' if run.nodes != 1 else ''}" if run.nodes else text


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


def make_epochs_table(run: Run, epochs: pd.DataFrame) -> Table | None:
    """Return the last epochs of a run, without those of attempts that were begun again."""
    epochs = epochs[~epochs["is_superseded"]]
    if epochs.empty:
        return None
    units = epochs["unit"].dropna()
    unit = f" ({units.iloc[0]})" if len(units) else ""
    headers = {"epoch": "Epoch", "train_loss": "Loss (train)", "val_loss": "Loss (val)"}
    score = next((each for each in SCORES if epochs[each.column].notna().any()), None)
    if score:
        headers[score.column] = score.axis
    headers |= {"throughput_per_s": f"Throughput{unit}", "epoch_s": "Time (s)"}
    forms = {"train_loss": "{:.3f}", "val_loss": "{:.3f}"}
    rows = []
    for row in epochs.tail(MOST_EPOCHS).to_dict("records"):
        cells = {"epoch": say(f"{row['epoch']}{' (warm-up)' if row['is_warmup'] else ''}")}
        for name in list(headers)[1:]:
            value, form = row[name], forms.get(name, "{:,.1f}")
            if score and name == score.column:
                value, form = value * score.factor, f"{{:.{score.places}f}}"
            cells[name] = Cell(None, "—") if pd.isna(value) else Cell(value, form.format(value))
        rows.append(cells)
    return Table("epochs", f"Epochs of job {run.id}", headers, rows)


def list_pictures(run: Run) -> list[Picture]:
    """Return the timelines of a run's GPUs and nodes."""
    samples, pictures = make_samples(run), []
    for source, lines in zip(FIGURES, (run.gpus or 1, run.nodes or 1), strict=True):
        most = max(POINTS_PER_CHART // min(lines, 8), LEAST_POINTS)
        pictures += [
            Picture(each.title, each.unit, draw_timeline(each), list(each.lines), each.note)
            for each in list_timelines(samples, source, most)
        ]
    return pictures


def list_excerpts(run: Run) -> list[tuple[str, list[tuple[int, str]]]]:
    """Return the lines around the cause of a run that failed, and the last lines of its log."""
    if run.log is None:
        return []
    found = []
    if run.cause is not None and run.cause.excerpt and run.state is not State.COMPLETE:
        where = f"Line {run.cause.line_number} of its log, where the cause was read"
        found.append((where, list(run.cause.excerpt)))
    if run.log.tail:
        found.append((f"The last {len(run.log.tail)} lines of its log", list(run.log.tail)))
    return [(title, [(number, _cut(text)) for number, text in lines]) for title, lines in found]


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST_CHARS else line[: LONGEST_CHARS - 1] + "…"


def list_files(run: Run) -> list[tuple[str, str]]:
    """Return each log that was read, and what became of its lines."""
    files = [(str(run.log.path), run.log.counts.describe())] if run.log else []
    for log in (*run.gpu_logs.values(), *run.cpu_logs.values()):
        counts = log.counts.describe()
        files.append((str(log.path), f"{counts}; {log.problem}" if log.problem else counts))
    return files
