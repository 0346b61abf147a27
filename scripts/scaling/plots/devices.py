"""The two bar charts of one device against several: training time and throughput."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.plots.style import COLORS, LEAST_PT, new_figure
from scaling.runs.spread import Spread
from scaling.tables.devices import Comparison

MOST_VALUES = 5  # bars with their value above them; more would lie on each other
MOST_NAMES = 6


@dataclass(frozen=True)
class Bar:
    """A mean over epochs and their sample standard deviation (None: one epoch)."""

    name: str
    value: float
    spread: float | None
    color: str


def list_time_bars(comparison: Comparison) -> list[Bar]:
    """Return the training time of each GPU of the several, then of the single one (s)."""
    ranks = enumerate(comparison.multi.per_rank_s)
    bars = [_make_bar(f"GPU {rank}", spread, COLORS[0]) for rank, spread in ranks]
    return [*bars, _make_bar("Single GPU", comparison.single.training_s, COLORS[1])]


def list_rate_bars(comparison: Comparison) -> list[Bar]:
    """Return the throughput of the several together, then of the single one."""
    multi = comparison.multi
    return [
        _make_bar(f"{multi.world_size} GPUs (sum)", multi.throughput, COLORS[0]),
        _make_bar("Single GPU", comparison.single.throughput, COLORS[1]),
    ]


def _make_bar(name: str, spread: Spread, color: str) -> Bar:
    return Bar(name, float(spread.mean), spread.half_width, color)


def draw_training_time(comparison: Comparison) -> Figure:
    """Draw the seconds of an epoch's training part as bars with their deviation."""
    figure = new_figure()
    _draw_bars(figure.subplots(), list_time_bars(comparison), "{:,.2f} s")
    figure.axes[0].set_ylabel("Training time per epoch (s)")
    return figure


def draw_throughput(comparison: Comparison) -> Figure:
    """Draw the throughput of the several together beside the single one's."""
    figure = new_figure()
    _draw_bars(figure.subplots(), list_rate_bars(comparison), "{:,.1f}")
    figure.axes[0].set_ylabel(f"Throughput ({comparison.single.unit})")
    return figure


def _draw_bars(axes: Axes, bars: list[Bar], form: str) -> None:
    heights, halves = [bar.value for bar in bars], [bar.spread or 0.0 for bar in bars]
    axes.bar(range(len(bars)), heights, width=0.62, color=[bar.color for bar in bars])
    shown = [at for at, bar in enumerate(bars) if bar.spread is not None]
    axes.errorbar(
        shown, [heights[at] for at in shown], yerr=[halves[at] for at in shown], fmt="none",
        ecolor="#000000", capsize=6, linewidth=1.6,
    )  # fmt: skip
    for at, bar in enumerate(bars) if len(bars) <= MOST_VALUES else ():
        axes.annotate(
            form.format(bar.value), (at, bar.value + halves[at]), xytext=(0, 5),
            textcoords="offset points", ha="center", fontsize=LEAST_PT,
        )  # fmt: skip
    step = -(-len(bars) // MOST_NAMES)
    ticks = [*range(0, len(bars) - step, step), len(bars) - 1]  # the single one is always named
    axes.set_xticks(ticks, [bars[at].name for at in ticks])
    axes.set_ylim(0, 1.15 * max(h + s for h, s in zip(heights, halves, strict=True)))
    axes.grid(visible=False, axis="x")
