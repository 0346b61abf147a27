"""A run's part of the report: its settings, epochs, timelines, log excerpts, counted lines."""

import json
from html import escape

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from common.console import shorten
from scaling.plots import TIMELINES, Timeline, list_timelines
from scaling.runs import Run, State, make_samples
from scaling.runs.study import count
from scaling.runs.workloads import SCORES
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


def list_excerpts(run: Run) -> list[tuple[str, list[tuple[int, str]]]]:
    """Return (title, numbered lines): around the cause of a failure, and the end of the log.

    Long lines are cut; their columns stay, for they may be code.
    """
    if run.log is None:
        return []
    found, tail = [], run.log.tail
    if run.cause is not None and run.cause.excerpt and run.state is not State.COMPLETE:
        where = f"Line {run.cause.line_number} of its log, where the cause was read"
        found.append((where, run.cause.excerpt))
    if tail:
        found.append((f"The last {len(tail)} lines of its log", tail))
    most = LONGEST_CHARS - 1
    return [
        (title, [(n, text if len(text) <= most + 1 else text[:most] + "…") for n, text in lines])
        for title, lines in found
    ]


def list_files(run: Run) -> list[tuple[str, str]]:
    """Return each log that was read, and what became of its lines."""
    files = [(str(run.log.path), run.log.counts.describe())] if run.log else []
    for log in (*run.gpu_logs.values(), *run.cpu_logs.values()):
        counts = log.counts.describe()
        files.append((str(log.path), f"{counts}; {log.problem}" if log.problem else counts))
    return files


# ---- Timelines: SVG written directly, since a page has hundreds of them -------------------------

WIDTH, HEIGHT = 360, 150  # of the picture; a phone shows it as large as that
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 22
KEYS = 8  # colours that the page's style has


def list_pictures(run: Run) -> list[tuple[Timeline, Markup]]:
    """Return the timelines of a run's GPUs and nodes, each with its picture."""
    samples, found = make_samples(run), []
    for source, lines in zip(TIMELINES, (run.gpus or 1, run.nodes or 1), strict=True):
        most = max(POINTS_PER_CHART // min(lines, KEYS), LEAST_POINTS)
        found += list_timelines(samples, source, most)
    return [(timeline, Markup(draw_timeline(timeline))) for timeline in found]


def draw_timeline(timeline: Timeline) -> str:
    """Return a timeline as one SVG element; its texts are escaped.

    The x axis is in minutes and the y axis in the timeline's unit, from 0 on.
    """
    minutes = max(max(xs) for xs, _ in timeline.lines.values())
    greatest = 100 if timeline.unit == "%" else max(max(ys) for _, ys in timeline.lines.values())
    ranges = "; ".join(
        f"{name} from {min(ys):.3g} to {max(ys):.3g}" for name, (_, ys) in timeline.lines.items()
    )
    alt = f"{timeline.title} over {minutes:.3g} minutes, in {timeline.unit}: {ranges}"
    right, ticks_y = max(minutes, 1e-3), choose_ticks(greatest, 4)
    top, bottom = ticks_y[-1], HEIGHT - BOTTOM
    x_scale, y_scale = (WIDTH - LEFT - RIGHT) / right, (bottom - TOP) / top
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">']
    for value in ticks_y:
        y = bottom - value * y_scale
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" class="y">{value:g}</text>')
    for value in choose_ticks(right, 5):
        if value <= right * (1 + 1e-9):
            x = LEFT + value * x_scale
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" class="x">{value:g}</text>')
    for number, (xs, ys) in enumerate(timeline.lines.values()):
        path = draw_path(LEFT + np.array(xs) * x_scale, bottom - np.minimum(ys, top) * y_scale)
        parts.append(f'<path class="line k{number % KEYS}" d="{path}"/>')
    return "".join([*parts, "</svg>"])


def draw_path(xs: np.ndarray, ys: np.ndarray) -> str:
    """Return SVG path data on a grid of half units; points on the grid's same spot are one.

    A point in the middle of a level stretch is left out: the line is the same without it.
    """
    x, y = np.round(2 * xs) / 2, np.round(2 * ys) / 2
    is_new, is_turn = np.ones(len(x), bool), np.ones(len(x), bool)
    is_new[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1])
    x, y, is_turn = x[is_new], y[is_new], is_turn[is_new]
    is_turn[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    spots = [f"{a:g} {b:g}" for a, b in zip(x[is_turn].tolist(), y[is_turn].tolist(), strict=True)]
    return "M" + "L".join(spots) + ("h1" if len(spots) == 1 else "")


def choose_ticks(greatest: float, count: int) -> np.ndarray:
    """Return about `count` numbers from 0 to `greatest` or beyond, 1, 2 or 5 x 10^n apart."""
    if greatest <= 0:
        return np.array([0.0, 1.0])
    return MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(0, greatest)
