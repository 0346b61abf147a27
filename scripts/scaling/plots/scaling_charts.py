"""Charts over the scales: speedup, efficiency, throughput; and one device against several."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log2

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from scaling.plots.style import (
    BAR_IN,
    COLORS,
    LEAST_PT,
    MARKERS,
    MUTED,
    add_legend,
    annotate_points,
    label_bars,
    new_figure,
    pick_colors,
    settle_texts,
    shorten_label,
    show_rate,
)
from scaling.runs import Spread, Study
from scaling.runs.ratios import GOOD_NODES_PCT
from scaling.runs.study import sort_naturally
from scaling.tables.devices import Comparison

GOOD_PCT = GOOD_NODES_PCT  # the charts have one line: what is worth asking for at any scale
MOST_VALUES, MOST_NAMES = 5, 6  # of device bars: more would lie on each other


def list_configs(study: Study) -> pd.DataFrame:
    """Return the configurations whose throughput is known, with `title`, their full name.

    The series with most of them comes first, series of one size by their names.
    """
    configs = study.configs.dropna(subset="throughput_per_s")
    sizes = configs.groupby("series")["config"].transform("size")
    order = sorted(
        configs.index, key=lambda at: (-sizes[at], sort_naturally(configs["series_name"][at]))
    )
    configs = configs.loc[order]
    named = configs["short_label"] + " (" + configs["series_name"] + ")"
    return configs.assign(title=named.where(configs["series_name"] != "", configs["short_label"]))


def list_compared(study: Study) -> pd.DataFrame:
    """Return those of series that have something to compare: two numbers of GPUs at least."""
    configs = list_configs(study)
    return configs[configs.groupby("series")["gpus"].transform("nunique") > 1]


def list_left_out(study: Study) -> list[str]:
    """Return a line for each run that is in no chart, with the reason."""
    unknown = study.runs[study.runs["throughput_per_s"].isna()]["name"]
    return [
        *study.left_out, *(f"job {name}: not every epoch has a throughput" for name in unknown)
    ]  # fmt: skip


def name_baseline(study: Study) -> str:
    """Return `1 GPU`, or the smallest scale where there is none; several when series differ."""
    firsts = list_compared(study).drop_duplicates("series")
    return " / ".join(firsts["short_label"].unique())


@dataclass(frozen=True)
class Line:
    """A series' configurations on one node or across nodes, the baseline first in both."""

    name: str
    mode: str | None
    points: pd.DataFrame


def list_lines(configs: pd.DataFrame) -> list[Line]:
    """Return a line for each series and shape: on one node, and across nodes."""
    lines = []
    for _, series in configs.groupby("series", sort=False):
        base = series.iloc[:1]
        name, mode = base["series_name"].iloc[0], base["mode"].iloc[0]
        is_across = series["nodes"].fillna(1) > 1
        for shape, points in (("one node", ~is_across), ("across nodes", is_across)):
            points = series[points]
            if not points.index.isin(base.index).any() and len(points):
                points = pd.concat([base, points])
            if len(points) > 1 or len(points) == len(series):
                title = f"{name}, {shape}" if name else shape.capitalize()
                lines.append(Line(title, mode, points))
    return lines


def draw_speedup(study: Study) -> Figure:
    """Draw throughput over the baseline's against GPUs, with the ideal line."""
    configs, axes = list_compared(study), new_figure().subplots()
    most = configs["gpus"].max()
    for number, base in enumerate(sorted(configs.drop_duplicates("series")["gpus"].unique())):
        _draw_ideal(axes, [base, most], [1, most / base], None if number else "Ideal")
    _plot_lines(axes, list_lines(configs), "speedup", "{:.2f}×".format)
    return _finish(axes, configs, f"Speedup over {name_baseline(study)} (×)")


def draw_throughput(study: Study) -> Figure:
    """Draw throughput against GPUs for every series, with what ideal scaling would give."""
    configs, axes = list_configs(study), new_figure().subplots()
    if configs["series"].nunique() == 1 < configs["gpus"].nunique():
        base, most = configs.iloc[0], configs["gpus"].max()
        ideal = [base.throughput_per_s, base.throughput_per_s * most / base.gpus]
        _draw_ideal(axes, [base.gpus, most], ideal)
    _plot_lines(axes, list_lines(configs), "throughput_per_s", show_rate, with_spread=True)
    return _finish(axes, configs, f"Throughput ({study.unit})")


def _draw_ideal(axes: Axes, gpus: list, values: list, label: str | None = "Ideal") -> None:
    axes.plot(gpus, values, color=MUTED, linestyle="--", linewidth=1.4, label=label)


def _finish(axes: Axes, configs: pd.DataFrame, ylabel: str) -> Figure:
    """Put both axes on a log scale, so that ideal scaling is a straight line; name them."""
    _scale_gpus(axes, configs)
    low, high = axes.dataLim.ymin, axes.dataLim.ymax
    if low <= 0 or high / low < 3:  # one scale: show it from 0
        axes.set_ylim(0, 1.25 * high)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: show_rate(value))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.12, y=0.12)
    axes.set_ylabel(ylabel)
    add_legend(axes.figure, axes)
    settle_texts(axes.figure)
    return axes.figure


def draw_modes(study: Study) -> Figure:
    """Draw efficiency against GPUs: weak scaling as full lines, strong scaling as dashed ones."""
    configs, axes = list_compared(study), new_figure().subplots()
    _plot_lines(axes, list_lines(configs), "efficiency_pct", "{:.0f} %".format)
    axes.axhline(100, color=MUTED, linestyle="--", linewidth=1.4, label="Ideal")
    _mark_good(axes.axhline)
    _scale_gpus(axes, configs)
    axes.set_ylim(0, max(112, 1.1 * configs["efficiency_pct"].max()))
    axes.set_ylabel("Parallel efficiency (%)")
    add_legend(axes.figure, axes, most_inside=0)
    settle_texts(axes.figure)
    return axes.figure


def draw_efficiency(study: Study) -> Figure:
    """Draw parallel efficiency as bars, with the line of what is called good."""
    configs = list_compared(study)
    figure = new_figure(height_in=1.5 + BAR_IN * len(configs))
    axes, heights = figure.subplots(), configs["efficiency_pct"].to_list()
    codes, series = pd.factorize(configs["series"])
    colors = pick_colors(len(series))
    axes.barh(range(len(heights)), heights, height=0.72, color=[colors[code] for code in codes])
    for at, height in enumerate(heights):
        axes.annotate(
            f"{height:.1f}", (height, at), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=LEAST_PT,
        )  # fmt: skip
    _mark_good(axes.axvline)
    label_bars(axes, configs["title" if len(series) > 1 else "short_label"].to_list())
    axes.set_xlim(0, max(122, 1.2 * max(heights)))
    axes.set_xlabel("Parallel efficiency (%)")
    add_legend(figure, axes, most_inside=0)
    return figure


def _mark_good(draw_line: Callable) -> None:
    draw_line(GOOD_PCT, color="#000000", linestyle=":", linewidth=1.6, label=f"{GOOD_PCT} %")


def _plot_lines(
    axes: Axes, lines: list[Line], column: str, form: Callable, with_spread: bool = False
) -> None:
    """Plot a column of each line's points against GPUs, hollow where there is no steady state."""
    colors = pick_colors(len(lines))
    for number, line in enumerate(lines):
        color, marker = colors[number], MARKERS[number % len(MARKERS)]
        points, style = line.points, "--" if line.mode == "strong" else "-"
        x, y = points["gpus"], points[column]
        axes.plot(x, y, color=color, marker=marker, linestyle=style, label=shorten_label(line.name))
        hollow = points[~points["is_steady"].astype(bool)]
        axes.plot(hollow["gpus"], hollow[column], color=color, marker=marker, linestyle="none",
                  markerfacecolor="white")  # fmt: skip
        if with_spread:
            axes.errorbar(
                x, y, yerr=points["throughput_half"], fmt="none", color=color,
                ecolor=color, capsize=4, linewidth=1.4,
            )  # fmt: skip
        is_named = with_spread and number == 0  # the baseline's value is 1 or 100 elsewhere
        texts = [(at, value, form(value)) for at, value in zip(x, y, strict=True)]
        if len(lines) <= len(MARKERS):
            annotate_points(axes, texts if is_named else texts[1:], color)


def _scale_gpus(axes: Axes, configs: pd.DataFrame) -> None:
    """Put GPUs on a log2 axis whose ticks are scales that were measured and do not collide."""
    counts = sorted(configs["gpus"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xlabel("GPUs")
    ticks: list[int] = []
    room = max(log2(counts[-1] / counts[0]), 1) / 9  # about nine numbers fit side by side
    for count in sorted(counts, key=lambda count: (count & (count - 1) != 0, count)):
        if all(abs(log2(count / tick)) >= room for tick in ticks):
            ticks.append(count)
    axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.12)
    if len(counts) == 1:
        axes.set_xlim(counts[0] / 2, counts[0] * 2)


# ---- One device against several ----------------------------------------------------------------


def draw_device_times(comparison: Comparison) -> Figure:
    """Draw the seconds of an epoch's training part on each GPU of the several, and the single."""
    several = {f"GPU {rank}": spread for rank, spread in enumerate(comparison.multi.per_rank_s)}
    bars = {**several, "Single GPU": comparison.single.training_s}
    return _draw_bars(bars, "{:,.2f} s", "Training time per epoch (s)")


def draw_device_rates(comparison: Comparison) -> Figure:
    """Draw the throughput of the several together beside the single one's."""
    single, multi = comparison.single, comparison.multi
    bars = {f"{multi.world_size} GPUs (sum)": multi.throughput, "Single GPU": single.throughput}
    return _draw_bars(bars, "{:,.1f}", f"Throughput ({single.unit})")


def _draw_bars(spreads: dict[str, Spread], form: str, ylabel: str) -> Figure:
    """Draw means over epochs, with their standard deviation where there are several epochs."""
    bars = pd.DataFrame({
        "name": list(spreads),
        "mean": [float(spread.mean) for spread in spreads.values()],
        "std": [spread.half_width or float("nan") for spread in spreads.values()],
    })  # fmt: skip
    axes, last = new_figure().subplots(), len(bars) - 1
    tops = bars["mean"] + bars["std"].fillna(0)
    axes.bar(bars.index, bars["mean"], width=0.62, color=[COLORS[0]] * last + [COLORS[1]])
    axes.errorbar(bars.index, bars["mean"], yerr=bars["std"], fmt="none", ecolor="#000000",
                  capsize=6, linewidth=1.6)  # fmt: skip
    for at in bars.index if len(bars) <= MOST_VALUES else ():
        axes.annotate(
            form.format(bars["mean"][at]), (at, tops[at]), xytext=(0, 5),
            textcoords="offset points", ha="center", fontsize=LEAST_PT,
        )  # fmt: skip
    step = -(-len(bars) // MOST_NAMES)
    ticks = [*range(0, last + 1 - step, step), last]  # the single one is always named
    axes.set_xticks(ticks, bars["name"][ticks])
    axes.set_ylim(0, 1.15 * tops.max())
    axes.set_ylabel(ylabel)
    axes.grid(visible=False, axis="x")
    return axes.figure
