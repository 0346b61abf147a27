"""Draw the scaling tables: speedup and efficiency against the number of GPUs."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display on a cluster

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scaling.errors import ScalingError
from scaling.tables import Report, Table

# Two of Okabe and Ito's colours, which colour-blind readers tell apart (jfly.uni-koeln.de/color).
STYLES = {"multi_gpu": ("#0072B2", "o"), "multi_node": ("#D55E00", "s")}
GOOD_EFFICIENCY_PCT = 75
DPI = 300


@dataclass(frozen=True)
class Point:
    """One filled row of a table: total GPUs, its label, speedup (x) and efficiency (%)."""

    gpus: int
    label: str
    speedup: float
    efficiency_pct: float


def list_points(table: Table) -> list[Point]:
    """List the rows of a table that have a ratio to the baseline, smallest first."""
    points = []
    for row in table.rows:
        speedup, efficiency = (
            row.cells[name].value for name in ("throughput_scaling", "efficiency_pct")
        )
        if row.run is None or speedup is None or efficiency is None:
            continue
        label = f"{row.nodes} x {row.gpus_per_node}"
        points.append(Point(row.run.gpus, label, float(speedup), float(efficiency)))
    return sorted(points, key=lambda point: point.gpus)


def draw_charts(report: Report, folder: Path) -> list[Path]:
    """Write speedup_chart.png and efficiency_chart.png into `folder`; returns their paths.

    Raises ScalingError when no row has a ratio, and when the folder cannot be written.
    """
    series = {table.name: list_points(table) for table in report.tables}
    if not any(series.values()):
        raise ScalingError("nothing to plot: no complete 1-GPU run to compare others with")
    titles = {table.name: table.title for table in report.tables}
    charts = {"speedup_chart.png": draw_speedup, "efficiency_chart.png": draw_efficiency}
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in charts.items():
            figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
            draw(axes, series, titles)
            figure.savefig(folder / name, dpi=DPI)
            plt.close(figure)
            paths.append(folder / name)
    except OSError as error:
        raise ScalingError(f"cannot write plots to {folder}: {error.strerror}") from None
    return paths


def draw_speedup(axes: Axes, series: dict[str, list[Point]], titles: dict[str, str]) -> None:
    """Draw throughput over the baseline's against GPUs, with the ideal line."""
    counts = sorted({point.gpus for points in series.values() for point in points})
    axes.plot(counts, counts, color="0.6", linestyle="--", label="Ideal")
    for name, points in series.items():
        color, marker = STYLES[name]
        x, y = [p.gpus for p in points], [p.speedup for p in points]
        axes.plot(x, y, color=color, marker=marker, label=titles[name])
        for point in points:
            if point.gpus > 1:
                axes.annotate(
                    f"{point.speedup:.2f}x", (point.gpus, point.speedup), color=color,
                    textcoords="offset points", xytext=(6, -12 if name == "multi_node" else 6),
                )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xticks(counts)
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel("GPUs")
    axes.set_ylabel("Speedup over 1 GPU (throughput)")
    axes.set_title("Speedup")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def draw_efficiency(axes: Axes, series: dict[str, list[Point]], titles: dict[str, str]) -> None:
    """Draw parallel efficiency as bars, one a row, with the line that is called good."""
    bars = [(name, point) for name, points in series.items() for point in points]
    bars = [bar for i, bar in enumerate(bars) if bar[1].gpus > 1 or i == 0]  # one baseline
    heights = [point.efficiency_pct for _, point in bars]
    drawn = axes.bar(range(len(bars)), heights, color=[STYLES[name][0] for name, _ in bars])
    axes.bar_label(drawn, fmt="{:.1f}", padding=2)
    axes.axhline(GOOD_EFFICIENCY_PCT, color="0.4", linestyle="--")
    axes.text(
        len(bars) - 0.5, GOOD_EFFICIENCY_PCT, f"{GOOD_EFFICIENCY_PCT} %", ha="right", va="bottom"
    )
    axes.set_xticks(range(len(bars)), [point.label for _, point in bars])
    axes.set_xlabel("Nodes x GPUs per node")
    axes.set_ylabel("Parallel efficiency (%)")
    axes.set_ylim(0, max(110, 1.1 * max(heights)))
    axes.set_title("Parallel efficiency")
