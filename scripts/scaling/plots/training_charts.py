"""Charts of the training itself: loss and score against epochs and against time, all scales."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from scaling.plots.data import Config, Source, Study
from scaling.plots.scaling_charts import shorten_label
from scaling.plots.style import COLORS, MARKERS, MUTED, add_legend, new_figure

MOST_POINTS = 400  # of a line; more are thinned to the least and greatest of each stretch


@dataclass(frozen=True)
class Score:
    """A column of the epochs frame that says how good the model is: its name and unit."""

    column: str
    title: str
    factor: float = 1.0


SCORES = (
    Score("val_accuracy", "Validation accuracy (%)", 100.0),
    Score("perplexity", "Validation perplexity"),
    Score("bleu", "BLEU (validation)"),
)


def find_score(study: Study) -> Score | None:
    """Return the first score that any run of the study holds."""
    for score in SCORES:
        if any(_has(config.latest, score.column) for config in study.configs):
            return score
    return None


def has_loss(study: Study) -> bool:
    return any(_has(config.latest, "val_loss") for config in study.configs)


def has_times(study: Study) -> bool:
    """Whether any run's epochs have their seconds: a log alone does not say them."""
    return any(_has(c.latest, "epoch_s") or _has(c.latest, "train_s") for c in study.configs)


def _has(source: Source, column: str) -> bool:
    return column in source.epochs and bool(source.epochs[column].notna().any())


def draw_loss_by_epoch(study: Study) -> Figure:
    """Draw training (dashed) and validation loss of the latest run of each configuration."""
    return _draw(study, _draw_losses, list_epochs, "Epoch", "Loss")


def draw_loss_by_time(study: Study) -> Figure:
    """Draw the same losses against the minutes since the first epoch began."""
    return _draw(study, _draw_losses, list_minutes, "Time since the first epoch (min)", "Loss")


def draw_score_by_epoch(study: Study) -> Figure:
    """Draw the validation score of the latest run of each configuration."""
    score = find_score(study)
    return _draw(study, _score_drawer(score), list_epochs, "Epoch", score.title)


def draw_score_by_time(study: Study) -> Figure:
    """Draw the same score against the minutes since the first epoch began."""
    score, title = find_score(study), "Time since the first epoch (min)"
    return _draw(study, _score_drawer(score), list_minutes, title, score.title)


def list_epochs(source: Source) -> pd.Series:
    return source.epochs["epoch"].astype(float)


def list_minutes(source: Source) -> pd.Series:
    """Return the minutes at which each epoch ended: whole epochs, else their training parts."""
    column = "epoch_s" if _has(source, "epoch_s") else "train_s"
    if column not in source.epochs:
        return pd.Series(float("nan"), index=source.epochs.index)
    return source.epochs[column].astype(float).cumsum(skipna=False) / 60


def thin(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS):
    """Return at most about `most` points that keep every peak: two a stretch, least and greatest.

    Each stretch has the same number of points; its least and its greatest are kept, in their
    order, with the first and last point of all.
    """
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if x == x and y == y]
    if len(points) <= most:
        return [list(each) for each in zip(*points, strict=True)] or [[], []]
    size = -(-2 * len(points) // most)
    kept = [points[0]]
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        low, high = min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])
        kept += sorted({low, high})
    kept.append(points[-1])
    return [list(each) for each in zip(*dict.fromkeys(kept), strict=True)]


def _draw(
    study: Study,
    draw_line: Callable,
    list_x: Callable[[Source], pd.Series],
    x_title: str,
    y_title: str,
) -> Figure:
    figure = new_figure()
    axes = figure.subplots()
    configs = study.configs
    many = len(configs) > len(COLORS)
    for number, (config, color) in enumerate(zip(configs, _color(configs), strict=True)):
        label = None if many else shorten_label(study.label(config))
        draw_line(axes, config.latest, list_x(config.latest), color, number, label)
    if draw_line is _draw_losses:
        axes.plot([], [], color=MUTED, linestyle="--", linewidth=1.4, label="Training")
        axes.plot([], [], color=MUTED, label="Validation")
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    if many:
        _add_colorbar(figure, axes, configs)
        if draw_line is _draw_losses:
            axes.legend()
    else:
        add_legend(figure, axes, most_inside=0)
    if list_x is list_epochs:
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _color(configs: list[Config]) -> list:
    if len(configs) <= len(COLORS):
        return list(COLORS[: len(configs)])
    counts = [config.gpus for config in configs]
    norm = LogNorm(min(counts), max(max(counts), min(counts) + 1))
    return [matplotlib.colormaps["viridis"](0.92 * float(norm(count))) for count in counts]


def _add_colorbar(figure: Figure, axes: Axes, configs: list[Config]) -> None:
    """Say what the colours of many lines mean: the number of GPUs."""
    counts = sorted({config.gpus for config in configs})
    norm = LogNorm(counts[0], max(counts[-1], counts[0] + 1))
    colors = [matplotlib.colormaps["viridis"](0.92 * i / 255) for i in range(256)]
    scale = matplotlib.cm.ScalarMappable(norm, matplotlib.colors.ListedColormap(colors))
    bar = figure.colorbar(scale, ax=axes, label="GPUs")
    powers = [count for count in counts if count & (count - 1) == 0] or [counts[0], counts[-1]]
    bar.set_ticks(powers, labels=[str(count) for count in powers])
    bar.minorticks_off()


def _draw_losses(axes: Axes, source: Source, x: pd.Series, color, number: int, label) -> None:
    marker = MARKERS[number % len(MARKERS)] if len(x) <= 12 else None
    for column, style in (("train_loss", "--"), ("val_loss", "-")):
        if _has(source, column):
            is_main = column == "val_loss"
            xs, ys = thin(x.astype(float), source.epochs[column].astype(float))
            axes.plot(
                xs, ys, style, color=color, markersize=5, linewidth=2 if is_main else 1.2,
                # Of one epoch there is no line: a hollow mark stands for the training's.
                marker=marker if is_main or len(xs) == 1 else None,
                markerfacecolor=color if is_main else "white", label=label if is_main else None,
            )  # fmt: skip


def _score_drawer(score: Score) -> Callable:
    def draw(axes: Axes, source: Source, x: pd.Series, color, number: int, label) -> None:
        if _has(source, score.column):
            marker = MARKERS[number % len(MARKERS)] if len(x) <= 12 else None
            ys = source.epochs[score.column].astype(float) * score.factor
            xs, ys = thin(x.astype(float), ys)
            axes.plot(xs, ys, color=color, marker=marker, markersize=5, label=label)

    return draw
