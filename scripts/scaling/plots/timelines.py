"""A run's timelines: memory and utilisation of each GPU, CPU and memory of each node."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from scaling.plots.style import MARKERS, MUTED, add_legend, new_figure, pick_colors
from scaling.plots.training_charts import thin
from scaling.runs.samples import Samples

MOST_LINES = 8  # more GPUs are drawn as their range and median


@dataclass(frozen=True)
class Timeline:
    """One figure over time: a line a GPU or node, each (minutes, values).

    With more than MOST_LINES of them: `Greatest`, `Median` and `Least` of each round. `note`
    says how the lines were made.
    """

    title: str
    unit: str
    lines: dict[str, tuple[list[float], list[float]]]
    note: str = ""


def list_gpu_timelines(samples: Samples, most_points: int = 400) -> list[Timeline]:
    """Return GPU memory (GiB) and utilisation (%); those without a sample are left out."""
    frame = samples.gpus
    nodes = frame["node"].nunique()
    names = [
        f"Node {node}, GPU {gpu}" if nodes > 1 else f"GPU {gpu}"
        for node, gpu in zip(frame["node"], frame["gpu"], strict=True)
    ]
    return _list(frame.assign(name=names), (
        ("GPU memory in use", "GiB", "used_mib", 1 / 1024),
        ("GPU utilisation", "%", "utilization_pct", 1.0),
    ), "GPUs", most_points)  # fmt: skip


def list_cpu_timelines(samples: Samples, most_points: int = 400) -> list[Timeline]:
    """Return CPU load (%, 100 a core) and resident memory (GiB) of each node's processes."""
    frame = samples.cpus
    return _list(frame.assign(name=[f"Node {node}" for node in frame["node"]]), (
        ("CPU load of the training's processes", "%, 100 a core", "cpu_pct", 1.0),
        ("Resident memory (shared pages count once a process)", "GiB", "rss_mib", 1 / 1024),
    ), "nodes", most_points)  # fmt: skip


def _list(frame: pd.DataFrame, figures: tuple, what: str, most_points: int) -> list[Timeline]:
    found = []
    for title, unit, column, factor in figures:
        values = frame[["name", "elapsed_s", column]].dropna() if column in frame else frame[:0]
        if len(values):
            values = values.assign(value=values[column].astype(float) * factor)
            lines, note = _make_lines(values, what, most_points)
            found.append(Timeline(title, unit, lines, note))
    return found


def _make_lines(values: pd.DataFrame, what: str, most_points: int) -> tuple[dict, str]:
    count = values["name"].nunique()
    if count > MOST_LINES:
        rounds = values["elapsed_s"].round()
        by_round = values["value"].groupby(rounds)
        parts = {
            "Greatest": by_round.max(), "Median": by_round.median(), "Least": by_round.min()
        }  # fmt: skip
        lines = {
            name: _thin(part.index.to_list(), part.to_list(), most_points)
            for name, part in parts.items()
        }
        note = f"{count} {what}: the greatest, median and least of each second with a sample."
    else:
        groups = values.groupby("name", sort=False)
        lines = {
            str(name): _thin(part["elapsed_s"].to_list(), part["value"].to_list(), most_points)
            for name, part in groups
        }
        note = ""
    if len(values) > most_points * max(count, 1):
        note += (
            f" Thinned to about {most_points} points a line: of each stretch of samples the "
            "least and the greatest are drawn, so no peak is lost."
        )
    return lines, note.strip()


def _thin(seconds: list[float], values: list[float], most: int) -> tuple[list, list]:
    xs, ys = thin(seconds, values, most)
    return [x / 60 for x in xs], ys


def draw_timelines(timelines: list[Timeline]) -> Figure:
    """Draw timelines below each other on one time axis."""
    figure = new_figure(height_in=0.6 + 2.4 * len(timelines))
    panels = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
    for axes, timeline in zip(panels, timelines, strict=True):
        colors = pick_colors(len(timeline.lines))
        for number, (name, (xs, ys)) in enumerate(timeline.lines.items()):
            marker = MARKERS[number % len(MARKERS)] if len(xs) == 1 else None
            axes.plot(xs, ys, color=colors[number], label=name, marker=marker, linewidth=1.4)
        axes.set_title(timeline.title, loc="left")
        axes.set_ylabel(timeline.unit)
        axes.set_ylim(bottom=0)
        if timeline.unit == "%":
            axes.set_ylim(0, 105)
            axes.axhline(100, color=MUTED, linewidth=0.8)
    panels[-1].set_xlabel("Time since the log's first sample (min)")
    add_legend(figure, panels[0], most_inside=0)
    return figure
