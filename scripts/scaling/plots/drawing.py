"""Each figure from a frame: lines over GPUs, bars, epochs, shares of a step, timelines, dots."""

import re
from collections.abc import Iterator, Sequence
from math import log2
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from scaling.plots import style
from scaling.runs.compare import GOOD_NODES_PCT
from scaling.tables.participants import Workshop

GOOD_PCT = GOOD_NODES_PCT  # the charts have one line: what is worth asking for at any scale
MARKS = 12  # at most, of a line of epochs
GOLDEN = 0.618  # its multiples spread points evenly, and the same way each time
# Column -> what is written beside its points.
FORMATS = {
    "speedup": "{:.2f}×".format, "efficiency_pct": "{:.0f} %".format,
    "throughput_per_s": style.show_rate,
}  # fmt: skip
# Part of a training step -> colour. Greys are for what is not told apart further.
PARTS = {
    "waiting for data": "#D55E00",
    "copy": "#E69F00",
    "compute": "#0072B2",
    "exposed communication": "#CC79A7",
    "optimizer": "#009E73",
    "rest": style.MUTED,
    "all but waiting": "#56B4E9",
}


# ---- Over the number of GPUs --------------------------------------------------------------------


def draw_lines(configs: pd.DataFrame, column: str, ylabel: str) -> Figure:
    """Draw a column of FORMATS against GPUs: each series on one node and across, with the ideal.

    Strong scaling is dashed; marks without a steady state are hollow.
    """
    axes, lines = style.new_figure().subplots(), list(_split_lines(configs))
    is_rate = column == "throughput_per_s"
    if column != "efficiency_pct":
        _draw_ideal(axes, configs, column)
    for number, (name, points) in enumerate(lines):
        color, marker = style.pick(number)
        dashes = "--" if points["mode"].iloc[0] == "strong" else "-"
        x, y = points["gpus"], points[column]
        axes.plot(x, y, dashes, color=color, marker=marker, label=style.shorten_label(name))
        hollow = points[~points["is_steady"].astype(bool)]
        axes.plot(hollow["gpus"], hollow[column], marker, color=color, markerfacecolor="white")
        if is_rate:
            axes.errorbar(x, y, yerr=points["throughput_half"], fmt="none", color=color,
                          ecolor=color, capsize=4, linewidth=1.4)  # fmt: skip
        # The baseline's value is 1 or 100, but of throughputs.
        first = 0 if is_rate and number == 0 else 1
        texts = list(zip(x, y, strict=True))[first:] if len(lines) <= len(style.MARKERS) else ()
        for at, value in texts:
            style.annotate(axes, FORMATS[column](value), at, value, color)
    _scale_gpus(axes, sorted(configs["gpus"].unique()))
    if column == "efficiency_pct":
        axes.axhline(100, **style.IDEAL, label="Ideal")
        axes.axhline(GOOD_PCT, **style.GOOD, label=f"{GOOD_PCT} %")
        axes.set_ylim(0, max(112, 1.1 * configs[column].max()))
    else:
        _scale_values(axes)
    axes.set_ylabel(ylabel)
    style.add_legend(axes)
    style.settle_texts(axes.figure)
    return axes.figure


def _split_lines(configs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a line's name and points: each series on one node and across, its baseline in both."""
    for _, series in configs.groupby("series", sort=False):
        name, is_across = series["series_name"].iloc[0], series["nodes_key"] > 1
        for shape, is_here in (("one node", ~is_across), ("across nodes", is_across)):
            points = pd.concat([series[:1], series[is_here]]).drop_duplicates("config")
            if is_here.any() and (len(points) > 1 or len(series) == 1):
                yield f"{name}, {shape}" if name else shape.capitalize(), points


def _draw_ideal(axes: Axes, configs: pd.DataFrame, column: str) -> None:
    """Draw what ideal scaling gives from each smallest scale on; throughputs of one series only."""
    bases, most = configs.drop_duplicates("series"), configs["gpus"].max()
    if column == "throughput_per_s" and (len(bases) > 1 or configs["gpus"].nunique() == 1):
        return
    for number, base in enumerate(bases.drop_duplicates("gpus").sort_values("gpus").itertuples()):
        value, label = getattr(base, column), None if number else "Ideal"
        axes.plot([base.gpus, most], [value, value * most / base.gpus], **style.IDEAL, label=label)


def _scale_gpus(axes: Axes, counts: list[int]) -> None:
    """Make x a log2 axis with as many of the counts as fit, powers of two first."""
    ticks = []
    axes.set_xscale("log", base=2)
    axes.set_xlabel("GPUs")
    room = max(log2(counts[-1] / counts[0]), 1) / 9  # about nine numbers fit side by side
    for count in sorted(counts, key=lambda count: (count & (count - 1) != 0, count)):
        if all(abs(log2(count / tick)) >= room for tick in ticks):
            ticks.append(count)
    axes.set_xticks(sorted(ticks), map(str, sorted(ticks)))
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.12)
    if len(counts) == 1:
        axes.set_xlim(counts[0] / 2, counts[0] * 2)


def _scale_values(axes: Axes) -> None:
    """Put y on a log scale too, so that ideal scaling is a straight line; one scale: from 0."""
    low, high = axes.dataLim.ymin, axes.dataLim.ymax
    if low <= 0 or high / low < 3:
        axes.set_ylim(0, 1.25 * high)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: style.show_rate(value))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12, y=0.12)


def draw_bars(
    names: Sequence[str], values: Sequence[float], form: str, xlabel: str, colors: Sequence[int],
    halves: Sequence[float] | None = None, good: float | None = None,
) -> Figure:  # fmt: skip
    """Draw a bar with its value for each name, the first one on top.

    colors: their numbers in the style. halves: of the error bars, nan where there is none. good: a
    line at that value.
    """
    axes = style.new_figure(height_in=1.5 + style.BAR_IN * len(names)).subplots()
    error = {"xerr": halves, "error_kw": {"capsize": 6, "linewidth": 1.6}}
    bars = axes.barh(range(len(names)), values, height=0.72,
                     color=[style.pick(each)[0] for each in colors], **error)  # fmt: skip
    axes.bar_label(bars, fmt=form, padding=4, fontsize=style.LEAST_PT)
    style.label_bars(axes, names)
    axes.set_xlim(0, 1.22 * max(axes.dataLim.xmax, 0 if good is None else 100))
    axes.set_xlabel(xlabel)
    if good is not None:
        axes.axvline(good, **style.GOOD, label=f"{good} %")
        style.add_legend(axes)
    return axes.figure


def draw_spread(workshop: Workshop) -> Figure:
    """Draw each run of a workshop in % of its equals; those on slow nodes in their own colour."""
    axes, slow = style.new_figure().subplots(), list(workshop.slow_hosts)
    ratios = workshop.ratios.sort_values(["gpus", "label"], kind="stable")
    labels = list(dict.fromkeys(ratios["label"]))
    is_slow = ratios["hosts"].map(lambda hosts: bool(set(hosts) & set(slow)))
    more = f" and {len(slow) - 2} more" if len(slow) > 2 else ""
    named = ((~is_slow, "o", "Runs"), (is_slow, "s", f"With {', '.join(slow[:2])}{more}"))
    for color, (mask, marker, name) in zip(style.COLORS, named, strict=False):
        rows = ratios[mask]
        if len(rows):
            xs = [labels.index(label) + (n * GOLDEN % 1 - 0.5) * 0.5
                  for n, label in enumerate(rows["label"])]  # fmt: skip
            axes.plot(xs, rows["pct"], marker, color=color, markersize=5, alpha=0.75, label=name)
    axes.axhline(100, **style.IDEAL)
    axes.axhline(workshop.limit_pct, **style.IDEAL | {"linestyle": ":"})
    numbers = [re.sub(" GPUs?", "", label).replace(", ", "\n") for label in labels]
    axes.set_xticks(range(len(labels)), numbers)
    axes.set_xlabel("GPUs")
    low = min(ratios["pct"].min(), workshop.limit_pct)
    axes.set_ylim(low - 4, max(ratios["pct"].max(), 100) + 4)
    axes.set_ylabel("Throughput (% of equal runs' median)")
    style.add_legend(axes)
    return axes.figure


# ---- Of the training ----------------------------------------------------------------------------


class Curve(NamedTuple):
    """A column of the epochs to be drawn: in a full line, or (style "--") in a thinner one.

    name: what the line is, where a chart has several.
    """

    column: str
    name: str = ""
    style: str = "-"
    factor: float = 1.0


# By what epochs are drawn -> column and label of the x axis.
EPOCH_AXES = {"epoch": ("epoch", "Epoch"), "time": ("minutes", "Time since the first epoch (min)")}


def draw_epochs(epochs: pd.DataFrame, by: str, ylabel: str, curves: Sequence[Curve]) -> Figure:
    """Draw curves of each configuration's latest run. by: a key of EPOCH_AXES."""
    axes, (x, xlabel) = style.new_figure().subplots(), EPOCH_AXES[by]
    for number, (_, rows) in enumerate(epochs.groupby("config", sort=False)):
        color, marker = style.pick(number)
        if rows[[curve.column for curve in curves]].isna().all(axis=None):
            continue
        for curve in curves:
            xs, ys = style.thin(rows[x], curve.factor * rows[curve.column])
            is_main = curve.style == "-"
            axes.plot(
                xs, ys, curve.style, color=color, markersize=5, linewidth=2 if is_main else 1.2,
                # Of one epoch there is no line: a hollow mark stands for the thin one.
                marker=marker if is_main or len(xs) == 1 else None,
                markevery=-(-len(xs) // MARKS) or 1, markerfacecolor=color if is_main else "white",
                label=style.shorten_label(rows["title"].iloc[0]) if is_main else None,
            )  # fmt: skip
    for curve in curves if len(curves) > 1 else ():
        width = 2 if curve.style == "-" else 1.4
        axes.plot([], [], curve.style, color=style.MUTED, linewidth=width, label=curve.name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if by == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True)
    style.add_legend(axes)
    return axes.figure


def draw_breakdown(steps: pd.DataFrame) -> Figure:
    """Draw the shares of the training time as stacked bars, the seconds per epoch beside them."""
    axes = style.new_figure(height_in=1.6 + style.BAR_IN * len(steps)).subplots()
    left = 0.0
    for part, color in PARTS.items():
        if steps[part].any():
            axes.barh(range(len(steps)), steps[part], left=left, height=0.72, color=color,
                      label=part)  # fmt: skip
        left = left + steps[part]
    for at, total_s in enumerate(steps["total_s"]):
        axes.text(101, at, f"{total_s:,.3g} s", va="center", fontsize=style.LEAST_PT)
    style.label_bars(axes, steps["title"].to_list())
    axes.set_xlim(0, 130)
    axes.set_xticks(range(0, 101, 50))
    axes.set_xlabel("Training time (%)")
    axes.text(101, -0.75, "epoch", va="bottom", fontsize=style.LEAST_PT)
    style.add_legend(axes)
    return axes.figure


class Timeline(NamedTuple):
    """One panel over time: a line for each GPU or node, as (minutes, values).

    note: how the lines were made, where they are not the samples themselves.
    """

    title: str
    unit: str
    lines: dict[str, tuple[list[float], list[float]]]
    note: str = ""


def draw_timelines(timelines: list[Timeline]) -> Figure:
    """Draw timelines below each other on one time axis."""
    figure = style.new_figure(height_in=0.6 + 2.4 * len(timelines))
    panels = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
    for axes, timeline in zip(panels, timelines, strict=True):
        for number, (name, (xs, ys)) in enumerate(timeline.lines.items()):
            color, marker = style.pick(number)
            marker = marker if len(xs) == 1 else None
            axes.plot(xs, ys, color=color, label=name, marker=marker, linewidth=1.4)
        axes.set_title(timeline.title, loc="left")
        axes.set_ylabel(timeline.unit)
        axes.set_ylim(bottom=0)
        if timeline.unit == "%":
            axes.set_ylim(0, 105)
            axes.axhline(100, color=style.MUTED, linewidth=0.8)
    panels[-1].set_xlabel("Time since the log's first sample (min)")
    style.add_legend(panels[0])
    return figure
