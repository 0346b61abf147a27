"""Charts over the scales: speedup, efficiency, throughput, strong against weak."""

from collections.abc import Callable
from math import log2, nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from scaling.plots.data import Config, Series, Study
from scaling.plots.style import (
    LEAST_PT,
    MARKERS,
    MUTED,
    WIDTH_IN,
    add_legend,
    annotate_points,
    new_figure,
    pick_colors,
    settle_texts,
    show_rate,
)

GOOD_EFFICIENCY_PCT = 75
BAR_IN = 0.34  # height of a bar and its gap
Line = tuple[str, Series, list[Config]]  # a line of a chart: its name and points


def list_compared(study: Study) -> list[Series]:
    """Return the series that have something to compare: two numbers of GPUs at least."""
    return [s for s in study.series if len({config.gpus for config in s.configs}) > 1]


def name_baseline(study: Study) -> str:
    """Return `1 GPU`, or the smallest scale where there is none; several when series differ."""
    return " / ".join(dict.fromkeys(s.baseline.label for s in list_compared(study)))


def _list_lines(study: Study, series: list[Series]) -> list[Line]:
    """Return a line for each series and shape: on one node, and across nodes."""
    lines = []
    for each in series:
        base = each.baseline
        shapes: dict[str, list[Config]] = {"one node": [], "across nodes": []}
        for config in each.configs:
            across = (config.nodes or 1) > 1
            shapes["across nodes" if across else "one node"].append(config)
        for shape, configs in shapes.items():
            if not configs or (configs == [base] and len(each.configs) > 1):
                continue
            points = configs if base in configs else [base, *configs]
            named = each.name and len(series) > 1
            name = f"{each.name}, {shape}" if named else shape.capitalize()
            lines.append((name, each, points))
    return lines


def draw_speedup(study: Study) -> Figure:
    """Draw throughput over the baseline's against GPUs, with the ideal line."""
    figure = new_figure()
    axes = figure.subplots()
    lines = _list_lines(study, list_compared(study))
    counts = _list_counts(lines)
    bases = {series.baseline.gpus for _, series, _ in lines}
    for base in sorted(bases):
        label = "Ideal" if base == min(bases) else None
        _draw_ideal(axes, [base, counts[-1]], [1, counts[-1] / base], label)
    _plot_lines(axes, lines, lambda series, config: series.speedup(config), "{:.2f}×".format)
    _finish(axes, counts, f"Speedup over {name_baseline(study)} (×)")
    return figure


def draw_throughput(study: Study) -> Figure:
    """Draw throughput against GPUs for every series, with what ideal scaling would give."""
    figure = new_figure()
    axes = figure.subplots()
    lines = _list_lines(study, list(study.series))
    counts = _list_counts(lines)
    if len(study.series) == 1 and len(counts) > 1:
        base = study.series[0].baseline
        ideal = [base.throughput_per_s * count / base.gpus for count in (base.gpus, counts[-1])]
        _draw_ideal(axes, [base.gpus, counts[-1]], ideal)
    _plot_lines(axes, lines, lambda _, config: config.throughput_per_s, show_rate, spread=True)
    _finish(axes, counts, f"Throughput ({study.unit})")
    return figure


def _draw_ideal(axes: Axes, gpus: list, values: list, label: str | None = "Ideal") -> None:
    axes.plot(gpus, values, color=MUTED, linestyle="--", linewidth=1.4, label=label)


def _finish(axes: Axes, counts: list[int], ylabel: str) -> None:
    _scale_both(axes, counts)
    axes.set_xlabel("GPUs")
    axes.set_ylabel(ylabel)
    add_legend(axes.figure, axes)
    settle_texts(axes.figure)


def draw_modes(study: Study) -> Figure:
    """Draw efficiency against GPUs: weak scaling as full lines, strong scaling as dashed ones."""
    figure = new_figure()
    axes = figure.subplots()
    lines = _list_lines(study, list_compared(study))
    _plot_lines(
        axes, lines, lambda series, config: series.efficiency_pct(config), "{:.0f} %".format
    )
    axes.axhline(100, color=MUTED, linestyle="--", linewidth=1.4, label="Ideal")
    _mark_good(axes.axhline)
    counts = _list_counts(lines)
    _scale_gpus(axes, counts)
    axes.set_ylim(0, max(112, *(1.1 * e for e in _list_efficiencies(lines))))
    axes.set_xlabel("GPUs")
    axes.set_ylabel("Parallel efficiency (%)")
    add_legend(figure, axes, most_inside=0)
    settle_texts(figure)
    return figure


def draw_efficiency(study: Study) -> Figure:
    """Draw parallel efficiency as bars, one a configuration, with the line that is called good."""
    compared = list_compared(study)
    bars = [(series, config) for series in compared for config in series.configs]
    figure = new_figure(height_in=1.5 + BAR_IN * len(bars))
    axes = figure.subplots()
    colors = dict(zip((s.name for s in compared), pick_colors(len(compared)), strict=True))
    heights = [series.efficiency_pct(config) for series, config in bars]
    axes.barh(range(len(bars)), heights, height=0.72, color=[colors[s.name] for s, _ in bars])
    for at, height in enumerate(heights):
        axes.annotate(
            f"{height:.1f}", (height, at), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=LEAST_PT,
        )  # fmt: skip
    _mark_good(axes.axvline)
    name = study.label if len(compared) > 1 else lambda config: config.label
    label_bars(axes, [name(config) for _, config in bars])
    axes.set_xlim(0, max(122, 1.2 * max(heights)))
    axes.set_xlabel("Parallel efficiency (%)")
    add_legend(figure, axes, most_inside=0)
    return figure


def label_bars(axes: Axes, names: list[str]) -> None:
    """Name horizontal bars, the first one on top; the names leave the bars half of the width."""
    most = int(36 * (axes.figure.get_figwidth() / WIDTH_IN) ** 2)
    axes.set_yticks(range(len(names)), [shorten_label(name, most) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def shorten_label(name: str, most: int = 36) -> str:
    """Return a name of at most `most` characters: its beginning and its end tell most."""
    head = most * 2 // 3
    return (
        name if len(name) <= most else f"{name[:head].rstrip()}…{name[head + 1 - most :].lstrip()}"
    )


def _mark_good(draw_line) -> None:
    label = f"{GOOD_EFFICIENCY_PCT} %"
    draw_line(GOOD_EFFICIENCY_PCT, color="#000000", linestyle=":", linewidth=1.6, label=label)


def _list_counts(lines: list[Line]) -> list[int]:
    return sorted({config.gpus for _, _, configs in lines for config in configs})


def _list_efficiencies(lines: list[Line]) -> list[float]:
    return [series.efficiency_pct(c) for _, series, configs in lines for c in configs]


def _plot_lines(
    axes: Axes, lines: list[Line], measure, form: Callable, spread: bool = False
) -> None:
    colors = pick_colors(len(lines))
    for number, (name, series, configs) in enumerate(lines):
        color, marker = colors[number], MARKERS[number % len(MARKERS)]
        x, y = [config.gpus for config in configs], [measure(series, c) for c in configs]
        style = "--" if series.mode == "strong" else "-"
        axes.plot(x, y, color=color, marker=marker, linestyle=style, label=shorten_label(name))
        # Hollow: a run without an epoch after the warm-up has no steady state.
        for config, at, value in zip(configs, x, y, strict=True):
            if not config.is_steady:
                axes.plot([at], [value], color=color, marker=marker, markerfacecolor="white")
        if spread:
            halves = [nan if c.spread_per_s is None else c.spread_per_s for c in configs]
            axes.errorbar(
                x, y, yerr=halves, fmt="none", color=color, ecolor=color, capsize=4, linewidth=1.4
            )
        is_base = series.baseline
        points = [
            (at, value, form(value))
            for config, at, value in zip(configs, x, y, strict=True)
            if config is not is_base or (spread and number == 0)
        ]
        if len(lines) <= len(MARKERS):
            annotate_points(axes, points, color)


def _scale_gpus(axes: Axes, counts: list[int]) -> None:
    """Put GPUs on a log2 axis whose ticks are scales that were measured and do not collide."""
    axes.set_xscale("log", base=2)
    ticks: list[int] = []
    room = max(log2(counts[-1] / counts[0]), 1) / 9  # about nine numbers fit side by side
    powers = [count for count in counts if count & (count - 1) == 0]
    for count in sorted(counts, key=lambda c: (c not in powers, c)):
        if all(abs(log2(count / tick)) >= room for tick in ticks):
            ticks.append(count)
    axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.12)
    if len(counts) == 1:
        axes.set_xlim(counts[0] / 2, counts[0] * 2)


def _scale_both(axes: Axes, counts: list[int]) -> None:
    """Put both axes on a log scale, so that ideal scaling is a straight line."""
    _scale_gpus(axes, counts)
    low, high = axes.dataLim.ymin, axes.dataLim.ymax
    if low <= 0 or high / low < 3:  # one scale: show it from 0
        axes.set_ylim(0, 1.25 * high)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: show_rate(value))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12, y=0.12)
