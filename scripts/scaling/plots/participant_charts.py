"""A workshop's chart: each run's throughput in % of its equals', the runs of slow nodes marked."""

import re

from matplotlib.figure import Figure

from scaling.plots.charts import Chart
from scaling.plots.style import COLORS, MUTED, add_legend, new_figure, settle_texts
from scaling.tables.participants import Workshop

GOLDEN = 0.618  # its multiples spread points evenly, and the same way each time


def make_spread_chart(workshop: Workshop) -> Chart:
    """Return the chart of all runs that have equals, or why there is none."""
    title = "Every run against its equals"
    if not len(workshop.ratios):
        return Chart("participants", title, reason="no three equal runs at any scale")
    caption = (
        "A dot per complete run: its throughput in % of the median of the runs with equal settings "
        f"and scale. Dotted: {workshop.limit_pct:.1f} %, below which a run is an outlier."
    )
    ratios = workshop.ratios
    alt = "; ".join(
        f"{label}: {rows['pct'].min():.1f} to {rows['pct'].max():.1f} %, {len(rows)} runs"
        for label, rows in ratios.groupby("label", sort=False)
    )
    return Chart("participants", title, caption, alt, lambda: draw_spread(workshop))


def draw_spread(workshop: Workshop) -> Figure:
    """Draw pct of each run over its scale; those on slow nodes in a colour of their own."""
    axes = new_figure().subplots()
    ratios = workshop.ratios.sort_values(["gpus", "label"], kind="stable")
    labels = list(dict.fromkeys(ratios["label"]))
    is_slow = ratios["hosts"].map(lambda hosts: bool(set(hosts) & set(workshop.slow_hosts)))
    slow_name = f"With {', '.join(list(workshop.slow_hosts)[:2])}" + (
        f" and {len(workshop.slow_hosts) - 2} more" if len(workshop.slow_hosts) > 2 else ""
    )
    for mask, color, marker, name in (
        (~is_slow, COLORS[0], "o", "Runs"), (is_slow, COLORS[1], "s", slow_name),
    ):  # fmt: skip
        rows = ratios[mask]
        if len(rows):
            xs = [labels.index(label) + (n * GOLDEN % 1 - 0.5) * 0.5
                  for n, label in enumerate(rows["label"])]  # fmt: skip
            axes.plot(xs, rows["pct"], marker, color=color, markersize=5, alpha=0.75, label=name)
    axes.axhline(100, color=MUTED, linestyle="--", linewidth=1.4)
    axes.axhline(workshop.limit_pct, color=MUTED, linestyle=":", linewidth=1.4)
    numbers = [re.sub(" GPUs?", "", label).replace(", ", "\n") for label in labels]
    axes.set_xticks(range(len(labels)), numbers)
    axes.set_xlabel("GPUs")
    low = min(ratios["pct"].min(), workshop.limit_pct)
    axes.set_ylim(low - 4, max(ratios["pct"].max(), 100) + 4)
    axes.set_ylabel("Throughput (% of equal runs' median)")
    add_legend(axes, most_inside=4)
    settle_texts(axes.figure)
    return axes.figure
