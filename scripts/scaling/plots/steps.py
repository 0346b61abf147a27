"""The chart of where a training step's time goes, at each scale."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from scaling.plots.data import Config, Source, Study
from scaling.plots.scaling_charts import BAR_IN, label_bars
from scaling.plots.style import LEAST_PT, MUTED, add_legend, new_figure

# Name -> colour. Greys are for what is not told apart further.
PARTS = {
    "waiting for data": "#D55E00",
    "copy": "#E69F00",
    "compute": "#0072B2",
    "exposed communication": "#CC79A7",
    "optimizer": "#009E73",
    "rest": MUTED,
    "all but waiting": "#56B4E9",
}


@dataclass(frozen=True)
class Breakdown:
    """Seconds of the training part of an epoch: mean over ranks and steady epochs, by part."""

    total_s: float
    parts_s: dict[str, float]
    scope: str  # whose time it is


def break_down(source: Source) -> Breakdown | None:
    """Return where a run's training time went, None when no file of it says."""
    return _from_ranks(source) or _from_metrics(source)


def _from_ranks(source: Source) -> Breakdown | None:
    ranks = source.ranks
    if ranks.empty:
        return None
    steady = ranks[~ranks["is_warmup"]]
    ranks = steady if len(steady) else ranks
    means = ranks[
        ["training_s", "data_wait_s", "copy_s", "compute_s", "optimizer_s", "exposed_comm_s"]
    ].mean()
    if means[["data_wait_s", "compute_s"]].isna().any() or not means["training_s"] > 0:
        return None
    means = means.fillna(0.0)
    exposed = min(means["exposed_comm_s"], means["compute_s"])
    parts = {
        "waiting for data": means["data_wait_s"],
        "copy": means["copy_s"],
        "compute": means["compute_s"] - exposed,  # the all-reduce happens inside of backward
        "exposed communication": exposed,
        "optimizer": means["optimizer_s"],
    }
    parts["rest"] = max(0.0, means["training_s"] - sum(parts.values()))
    return Breakdown(float(means["training_s"]), parts, "mean over ranks")


def _from_metrics(source: Source) -> Breakdown | None:
    epochs = source.steady_epochs
    if not {"step_s", "step_wait_s"} <= set(epochs):
        return None
    step_s, wait_s = epochs["step_s"].mean(), epochs["step_wait_s"].mean()
    if not (step_s > 0 and wait_s >= 0):
        return None
    total_s = epochs["train_s"].mean() if epochs["train_s"].notna().any() else step_s
    waited = min(wait_s / step_s, 1.0) * total_s
    parts = {"waiting for data": waited, "all but waiting": total_s - waited}
    return Breakdown(float(total_s), parts, "rank 0")


def list_breakdowns(study: Study) -> list[tuple[Config, Breakdown]]:
    found = ((config, break_down(config.latest)) for config in study.configs)
    return [(config, breakdown) for config, breakdown in found if breakdown]


def draw_breakdown(study: Study) -> Figure:
    """Draw the shares of the training time as stacked bars, the seconds an epoch beside them."""
    rows = list_breakdowns(study)
    figure = new_figure(height_in=1.6 + BAR_IN * len(rows))
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for part, color in PARTS.items():
        shares = [100 * b.parts_s.get(part, 0.0) / sum(b.parts_s.values()) for _, b in rows]
        if any(shares):
            axes.barh(range(len(rows)), shares, left=left, height=0.72, color=color, label=part)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    for at, (_, breakdown) in enumerate(rows):
        axes.text(101, at, f"{breakdown.total_s:,.3g} s", va="center", fontsize=LEAST_PT)
    label_bars(axes, [study.label(config) for config, _ in rows])
    axes.set_xlim(0, 130)
    axes.set_xticks(range(0, 101, 50))
    axes.set_xlabel("Training time (%)")
    axes.text(101, -0.75, "epoch", va="bottom", fontsize=LEAST_PT)
    add_legend(figure, axes, most_inside=0)
    return figure
