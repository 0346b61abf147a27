"""A run's timelines: memory and utilisation of each GPU, CPU and memory of each node."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scaling.plots import style

MOST_GPUS = 1_000_000  # of a node
MOST_LINES = 8  # more GPUs are drawn as their range and median
# Source of the samples -> what its figures show: title, unit, column, factor.
FIGURES = {
    "nvidia-smi": (
        ("GPU memory in use", "GiB", "used_mib", 1 / 1024),
        ("GPU utilisation", "%", "utilization_pct", 1.0),
    ),
    "psrecord": (
        ("CPU load of the training's processes", "%, 100 per core", "cpu_pct", 1.0),
        ("Resident memory (shared pages count once per process)", "GiB", "rss_mib", 1 / 1024),
    ),
}


class Timeline(NamedTuple):
    """One figure over time: a line for each GPU or node, as (minutes, values).

    With more than MOST_LINES of them: `Greatest`, `Median` and `Least` of each second. `note`
    says how the lines were made.
    """

    title: str
    unit: str
    lines: dict[str, tuple[list[float], list[float]]]
    note: str = ""


def list_timelines(
    samples: pd.DataFrame, source: str, most_points: int = style.MOST_POINTS
) -> list[Timeline]:
    """Return the timelines of one run's samples (the frame of runs/) from one of FIGURES' sources.

    Figures without a sample are left out. most_points: of a line; a longer one is thinned.
    """
    samples = samples[(samples["source"] == source).to_numpy(bool)]
    node, gpu = (samples[name].to_numpy(float, na_value=0) for name in ("node", "gpu"))
    places, line = np.unique(MOST_GPUS * node + gpu, return_inverse=True)
    nodes, gpus = np.divmod(places, MOST_GPUS)
    what, names = "nodes", [f"Node {each:.0f}" for each in nodes]
    if source == "nvidia-smi":
        of_node = [f"{name}, " if len({*nodes}) > 1 else "" for name in names]
        what = "GPUs"
        names = [f"{each}GPU {number:.0f}" for each, number in zip(of_node, gpus, strict=True)]
    minutes, found = samples["elapsed_s"].to_numpy() / 60, []
    for title, unit, column, factor in FIGURES[source]:
        values = factor * samples[column].to_numpy()
        at = np.flatnonzero(~np.isnan(minutes + values))
        at = at[line[at].argsort(kind="stable")]
        kept, starts = np.unique(line[at], return_index=True)
        parts = np.split(at, starts[1:]) if len(at) else []
        lines = {names[n]: (minutes[own], values[own])
                 for n, own in zip(kept, parts, strict=True)}  # fmt: skip
        if lines:
            found.append(Timeline(title, unit, *_thin_lines(lines, what, most_points)))
    return found


def _thin_lines(lines: dict[str, tuple], what: str, most_points: int) -> tuple[dict, str]:
    """Return the lines thinned, those of many GPUs as three, and a note on how they were made."""
    count, note = len(lines), ""
    is_thinned = sum(len(xs) for xs, _ in lines.values()) > most_points * count
    if count > MOST_LINES:
        xs, ys = map(np.concatenate, zip(*lines.values(), strict=True))
        second = pd.Series(ys).groupby((xs * 60).round())
        parts = {"Greatest": second.max(), "Median": second.median(), "Least": second.min()}
        lines = {name: (part.index.to_numpy() / 60, part) for name, part in parts.items()}
        note = f"{count} {what}: the greatest, median and least of each second with a sample."
    if is_thinned:
        note += (
            f" Thinned to about {most_points} points per line: of each stretch of samples the "
            "least and the greatest are drawn, so no peak is lost."
        )
    return {name: style.thin(*points, most_points) for name, points in lines.items()}, note.strip()


def draw_timelines(timelines: list[Timeline]) -> Figure:
    """Draw timelines below each other on one time axis."""
    figure = style.new_figure(height_in=0.6 + 2.4 * len(timelines))
    panels = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
    for axes, timeline in zip(panels, timelines, strict=True):
        colors = style.pick_colors(len(timeline.lines))
        for number, (name, (xs, ys)) in enumerate(timeline.lines.items()):
            marker = style.MARKERS[number % len(style.MARKERS)] if len(xs) == 1 else None
            axes.plot(xs, ys, color=colors[number], label=name, marker=marker, linewidth=1.4)
        axes.set_title(timeline.title, loc="left")
        axes.set_ylabel(timeline.unit)
        axes.set_ylim(bottom=0)
        if timeline.unit == "%":
            axes.set_ylim(0, 105)
            axes.axhline(100, color=style.MUTED, linewidth=0.8)
    panels[-1].set_xlabel("Time since the log's first sample (min)")
    style.add_legend(panels[0])
    return figure
