"""Charts of the training itself: loss and score by epoch and time, and where a step's time goes."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from scaling.plots import style
from scaling.plots.scaling_charts import list_configs
from scaling.runs import Study

X_TITLES = {"epoch": "Epoch", "minutes": "Time since the first epoch (min)"}
MOST_MARKED = 12  # epochs of a line that has its marks
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


def list_latest_epochs(study: Study) -> pd.DataFrame:
    """Return the epochs of each configuration's latest run, with its `title` and `gpus`.

    `minutes` is when an epoch ended: the sum of whole epochs, else of their training parts.
    """
    configs = list_configs(study)[["config", "title", "gpus", "latest"]]
    epochs = configs.merge(study.epochs, left_on="latest", right_on="run")
    has_whole = epochs.groupby("config")["epoch_s"].transform("count") > 0
    whole_s = epochs["epoch_s"].where(has_whole, epochs["train_s"])
    # One epoch without its time leaves those after it without theirs.
    is_known = whole_s.notna().groupby(epochs["config"]).cummin()
    minutes = whole_s.groupby(epochs["config"]).cumsum() / 60
    return epochs.assign(minutes=minutes.where(is_known))


class Curve(NamedTuple):
    """A column of the epochs to be drawn: in a full line, or (style "--") in a thinner one.

    name: what the line is, where a chart has several.
    """

    column: str
    name: str = ""
    style: str = "-"
    factor: float = 1.0


LOSSES = (Curve("train_loss", "Training", "--"), Curve("val_loss", "Validation"))


def draw_epochs(epochs: pd.DataFrame, x: str, title: str, curves: Sequence[Curve]) -> Figure:
    """Draw curves of each configuration's latest run. x: a key of X_TITLES; title: of y."""
    figure, gpus = style.new_figure(), epochs.groupby("config")["gpus"].first()
    axes, has_bar = figure.subplots(), len(gpus) > len(style.COLORS)
    norm = LogNorm(gpus.min(), max(gpus.max(), gpus.min() + 1))
    for number, (config, rows) in enumerate(epochs.groupby("config", sort=False)):
        color = style.viridis(float(norm(gpus[config]))) if has_bar else style.COLORS[number]
        marker = style.MARKERS[number % len(style.MARKERS)] if len(rows) <= MOST_MARKED else None
        label = None if has_bar else style.shorten_label(rows["title"].iloc[0])
        if rows[[curve.column for curve in curves]].isna().all(axis=None):
            continue
        for curve in curves:
            xs, ys = style.thin(rows[x], curve.factor * rows[curve.column])
            is_main = curve.style == "-"
            axes.plot(
                xs, ys, curve.style, color=color, markersize=5, linewidth=2 if is_main else 1.2,
                # Of one epoch there is no line: a hollow mark stands for the thin one.
                marker=marker if is_main or len(xs) == 1 else None,
                markerfacecolor=color if is_main else "white", label=label if is_main else None,
            )  # fmt: skip
    for curve in curves if len(curves) > 1 else ():
        width = 2 if curve.style == "-" else 1.4
        axes.plot([], [], curve.style, color=style.MUTED, linewidth=width, label=curve.name)
    axes.set_xlabel(X_TITLES[x])
    axes.set_ylabel(title)
    if x == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True)
    if not has_bar:
        style.add_legend(axes)
        return figure
    colors = ListedColormap([style.viridis(at / 255) for at in range(256)])
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, label="GPUs")
    counts = sorted(gpus.unique())
    ticks = [count for count in counts if count & (count - 1) == 0] or [counts[0], counts[-1]]
    bar.set_ticks(ticks, labels=map(str, ticks))
    bar.minorticks_off()
    if len(curves) > 1:
        axes.legend()
    return figure


# ---- Where the training time goes --------------------------------------------------------------


def break_down(study: Study) -> pd.DataFrame:
    """Return the seconds of an epoch's training part in PARTS and in all (`total_s`).

    One row for each configuration whose latest run says it, with its `title`; means over ranks
    and epochs after the warm-up. Without rank files, rank 0's wait of the metrics file.
    """
    steps = pd.concat([_from_ranks(study.rank_epochs), _from_metrics(study.epochs)])
    steps = steps[~steps.index.duplicated()].fillna(0.0)  # rank files know more
    rows = list_configs(study)[["config", "title", "latest"]]
    return rows.merge(steps, left_on="latest", right_index=True)


def _from_ranks(ranks: pd.DataFrame) -> pd.DataFrame:
    names = ["training_s", "data_wait_s", "copy_s", "compute_s", "optimizer_s", "exposed_comm_s"]
    mean = _keep_steady(ranks).groupby("run")[names].mean()
    mean = mean[mean["training_s"] > 0].dropna(subset=["data_wait_s", "compute_s"]).fillna(0.0)
    exposed = mean[["exposed_comm_s", "compute_s"]].min(axis=1)
    parts = pd.DataFrame({
        "waiting for data": mean["data_wait_s"],
        "copy": mean["copy_s"],
        "compute": mean["compute_s"] - exposed,  # the all-reduce happens inside of backward
        "exposed communication": exposed,
        "optimizer": mean["optimizer_s"],
    })  # fmt: skip
    rest = (mean["training_s"] - parts.sum(axis=1)).clip(lower=0)
    return parts.assign(rest=rest, total_s=mean["training_s"])


def _from_metrics(epochs: pd.DataFrame) -> pd.DataFrame:
    mean = _keep_steady(epochs).groupby("run")[["step_s", "step_wait_s", "train_s"]].mean()
    mean = mean[(mean["step_s"] > 0) & (mean["step_wait_s"] >= 0)]
    total_s = mean["train_s"].fillna(mean["step_s"])
    waiting_s = (mean["step_wait_s"] / mean["step_s"]).clip(upper=1) * total_s
    parts = {"waiting for data": waiting_s, "all but waiting": total_s - waiting_s}
    return pd.DataFrame({**parts, "total_s": total_s})


def _keep_steady(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the epochs after the warm-up; of a run that has no other, the warm-up's."""
    is_steady = ~frame["is_warmup"].astype(bool)
    return frame[is_steady | ~is_steady.groupby(frame["run"]).transform("any")]


def share_out(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the percent of each of PARTS in the rows of break_down."""
    parts = steps[[part for part in PARTS if part in steps]]
    return parts.div(parts.sum(axis=1), axis=0) * 100


def draw_breakdown(steps: pd.DataFrame) -> Figure:
    """Draw the shares of the training time as stacked bars, the seconds per epoch beside them."""
    axes = style.new_figure(height_in=1.6 + style.BAR_IN * len(steps)).subplots()
    shares = share_out(steps)
    left = shares.cumsum(axis=1) - shares
    for part in shares:
        if shares[part].any():
            axes.barh(range(len(steps)), shares[part], left=left[part], height=0.72,
                      color=PARTS[part], label=part)  # fmt: skip
    for at, total_s in enumerate(steps["total_s"]):
        axes.text(101, at, f"{total_s:,.3g} s", va="center", fontsize=style.LEAST_PT)
    style.label_bars(axes, steps["title"].to_list())
    axes.set_xlim(0, 130)
    axes.set_xticks(range(0, 101, 50))
    axes.set_xlabel("Training time (%)")
    axes.text(101, -0.75, "epoch", va="bottom", fontsize=style.LEAST_PT)
    style.add_legend(axes)
    return axes.figure
