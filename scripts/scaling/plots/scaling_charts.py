"""Charts over the scales: speedup, efficiency, throughput; and one device against several."""

from collections.abc import Callable, Iterator
from math import log2

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from scaling.plots import style
from scaling.runs import Spread, Study
from scaling.runs.compare import GOOD_NODES_PCT
from scaling.runs.study import sort_naturally

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


def name_baseline(compared: pd.DataFrame) -> str:
    """Return `1 GPU`, or the smallest scale where there is none; several when series differ."""
    return " / ".join(compared.drop_duplicates("series")["short_label"].unique())


def draw_speedup(compared: pd.DataFrame) -> Figure:
    """Draw throughput over the baseline's against GPUs, with the ideal line."""
    axes, most = style.new_figure().subplots(), compared["gpus"].max()
    for number, base in enumerate(sorted(compared.drop_duplicates("series")["gpus"].unique())):
        label = None if number else "Ideal"
        axes.plot([base, most], [1, most / base], **style.IDEAL, label=label)
    _plot_lines(axes, compared, "speedup", "{:.2f}×".format)
    return _scale_values(axes, f"Speedup over {name_baseline(compared)} (×)")


def draw_throughput(configs: pd.DataFrame, unit: str | None) -> Figure:
    """Draw throughput against GPUs for every series, with what ideal scaling would give."""
    axes = style.new_figure().subplots()
    if configs["series"].nunique() == 1 < configs["gpus"].nunique():
        base, most = configs.iloc[0], configs["gpus"].max()
        ideal = [base.throughput_per_s, base.throughput_per_s * most / base.gpus]
        axes.plot([base.gpus, most], ideal, **style.IDEAL, label="Ideal")
    _plot_lines(axes, configs, "throughput_per_s", style.show_rate)
    return _scale_values(axes, f"Throughput ({unit})")


def draw_modes(compared: pd.DataFrame) -> Figure:
    """Draw efficiency against GPUs: weak scaling as full lines, strong scaling as dashed ones."""
    axes = style.new_figure().subplots()
    _plot_lines(axes, compared, "efficiency_pct", "{:.0f} %".format)
    axes.axhline(100, **style.IDEAL, label="Ideal")
    _mark_good(axes.axhline)
    axes.set_ylim(0, max(112, 1.1 * compared["efficiency_pct"].max()))
    axes.set_ylabel("Parallel efficiency (%)")
    style.add_legend(axes)
    style.settle_texts(axes.figure)
    return axes.figure


def draw_efficiency(compared: pd.DataFrame) -> Figure:
    """Draw parallel efficiency as bars, with the line of what is called good."""
    axes = style.new_figure(height_in=1.5 + style.BAR_IN * len(compared)).subplots()
    codes, series = pd.factorize(compared["series"])
    colors = [style.pick_colors(len(series))[code] for code in codes]
    bars = axes.barh(range(len(compared)), compared["efficiency_pct"], height=0.72, color=colors)
    axes.bar_label(bars, fmt="{:.1f}", padding=4, fontsize=style.LEAST_PT)
    _mark_good(axes.axvline)
    style.label_bars(axes, compared["title" if len(series) > 1 else "short_label"].to_list())
    axes.set_xlim(0, max(122, 1.2 * compared["efficiency_pct"].max()))
    axes.set_xlabel("Parallel efficiency (%)")
    style.add_legend(axes)
    return axes.figure


def _mark_good(draw_line: Callable) -> None:
    draw_line(GOOD_PCT, color="#000000", linestyle=":", linewidth=1.6, label=f"{GOOD_PCT} %")


def _split_lines(configs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a line's name and points: each series on one node and across, its baseline in both."""
    for _, series in configs.groupby("series", sort=False):
        name, is_across = series["series_name"].iloc[0], series["nodes"].fillna(1) > 1
        for shape, is_here in (("one node", ~is_across), ("across nodes", is_across)):
            points = pd.concat([series[:1], series[is_here]]).drop_duplicates("config")
            if is_here.any() and (len(points) > 1 or len(series) == 1):
                yield f"{name}, {shape}" if name else shape.capitalize(), points


def _plot_lines(axes: Axes, configs: pd.DataFrame, column: str, form: Callable) -> None:
    """Plot a column against GPUs on a log2 axis; marks without a steady state are hollow."""
    lines, is_rate = list(_split_lines(configs)), column == "throughput_per_s"
    colors = style.pick_colors(len(lines))
    for number, (name, points) in enumerate(lines):
        color, marker = colors[number], style.MARKERS[number % len(style.MARKERS)]
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
            style.annotate(axes, form(value), at, value, color)
    counts, ticks = sorted(configs["gpus"].unique()), []
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


def _scale_values(axes: Axes, ylabel: str) -> Figure:
    """Put y on a log scale too, so that ideal scaling is a straight line; add names and legend."""
    low, high = axes.dataLim.ymin, axes.dataLim.ymax
    if low <= 0 or high / low < 3:  # one scale: show it from 0
        axes.set_ylim(0, 1.25 * high)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: style.show_rate(value))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.12, y=0.12)
    axes.set_ylabel(ylabel)
    style.add_legend(axes, most_inside=4)
    style.settle_texts(axes.figure)
    return axes.figure


def draw_devices(spreads: dict[str, Spread], form: str, ylabel: str) -> Figure:
    """Draw a bar for each mean over epochs, the last (the single device's) in another colour.

    The standard deviation is drawn where there are several epochs.
    """
    axes, last = style.new_figure().subplots(), len(spreads) - 1
    means = [float(spread.mean) for spread in spreads.values()]
    halves = [spread.half_width or float("nan") for spread in spreads.values()]
    tops = [
        mean + (spread.half_width or 0)
        for mean, spread in zip(means, spreads.values(), strict=True)
    ]
    axes.bar(range(last + 1), means, width=0.62, color=[style.COLORS[0]] * last + [style.COLORS[1]])
    axes.errorbar(range(last + 1), means, yerr=halves, fmt="none", ecolor="#000000", capsize=6,
                  linewidth=1.6)  # fmt: skip
    for at, top in enumerate(tops if last < MOST_VALUES else ()):
        axes.annotate(form.format(means[at]), (at, top), xytext=(0, 5), ha="center",
                      textcoords="offset points", fontsize=style.LEAST_PT)  # fmt: skip
    step = -(-len(means) // MOST_NAMES)
    ticks = [*range(0, last + 1 - step, step), last]  # the single one is always named
    axes.set_xticks(ticks, [list(spreads)[tick] for tick in ticks])
    axes.set_ylim(0, 1.15 * max(tops))
    axes.set_ylabel(ylabel)
    axes.grid(visible=False, axis="x")
    return axes.figure
