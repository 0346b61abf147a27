"""All charts: which there are, why one cannot be drawn, and writing them as PNG, SVG or PDF."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from common.errors import UserError
from scaling.plots import scaling_charts, timelines, training_charts
from scaling.plots.style import HEIGHT_IN, STYLE, WIDTH_IN, show_rate
from scaling.runs import Study
from scaling.runs.compare import SCORES
from scaling.tables.devices import Comparison

DPI = 300
MAIN = ("speedup_chart", "efficiency_chart", "throughput_chart")
# What the bars of throughputs are, by the kinds of the configurations' spreads.
_BARS = {
    (True,): "95 % interval over repeats (Student t)",
    (False,): "standard deviation over the epochs of the one run",
    (False, True): "95 % interval over repeats, with one run its epochs' deviation",
}


@dataclass(frozen=True)
class Chart:
    """A figure to be drawn. `caption` says how its numbers were made, `alt` what it shows.

    `reason` says why it cannot be drawn; then `draw` is not called.
    """

    name: str
    title: str
    caption: str = ""
    alt: str = ""
    draw: Callable[[], Figure] | None = None
    reason: str | None = None


def list_charts(study: Study) -> list[Chart]:
    """Return every chart of a study, those that it has no data for with the reason."""
    configs, compared = scaling_charts.list_configs(study), scaling_charts.list_compared(study)
    epochs, steps = training_charts.list_latest_epochs(study), training_charts.break_down(study)
    score = next((each for each in SCORES if epochs[each.column].notna().any()), None)
    no_rate = "no run says its throughput" if configs.empty else None
    alone = no_rate
    if compared.empty:
        alone = alone or "no two runs with equal settings at different numbers of GPUs"
    no_time = None if epochs["minutes"].notna().any() else "no run says how long its epochs took"
    no_steps = "no run says where its steps' time went (rank files or training_metrics.json)"
    base = "" if alone else f"Baseline: {scaling_charts.name_baseline(compared)}. "
    means = "Throughput is the mean over the epochs after the warm-up."
    if not configs["is_steady"].all():
        means += " Hollow marks: runs of one epoch, which have no steady state."
    kinds = tuple(sorted(set(configs["throughput_kind"] == "repeats"))) or (False, True)
    ratios = "; ".join(
        f"{row.title}: {row.speedup:.2f} times, {row.efficiency_pct:.1f} %"
        for row in compared.itertuples()
    )
    rates = "; ".join(
        f"{row.title}: {show_rate(row.throughput_per_s)} {study.unit}"
        for row in configs.itertuples()
    )
    latest = "The latest complete run of each configuration."
    charts = [
        Chart("speedup_chart", "Speedup", base + means, ratios,
              partial(scaling_charts.draw_speedup, compared), alone),
        Chart("efficiency_chart", "Parallel efficiency",
              f"{base}{means} The dotted line is {scaling_charts.GOOD_PCT} %.", ratios,
              partial(scaling_charts.draw_efficiency, compared), alone),
        Chart("throughput_chart", "Throughput", f"{means} Bars: {_BARS[kinds]}.", rates,
              partial(scaling_charts.draw_throughput, configs, study.unit), no_rate),
        Chart("strong_weak_efficiency", "Efficiency in weak and strong scaling",
              f"{base}Full lines: weak scaling (fixed batch per GPU); dashed: strong scaling "
              "(fixed global batch).", ratios,
              partial(scaling_charts.draw_modes, compared), alone),
    ]  # fmt: skip
    *names, last = (each.name for each in SCORES)
    scored = score.axis if score else "Score"
    curves = score and [training_charts.Curve(score.column, factor=score.factor)]
    no_loss = None if epochs["val_loss"].notna().any() else "no run holds a loss"
    no_score = None if score else f"no run holds an {', '.join(names)} or {last}"
    for kind, title, lines, missing in (
        ("loss", "Loss", training_charts.LOSSES, no_loss),
        ("score", scored, curves, no_score),
    ):
        for by, x, reason in (("epoch", "epoch", missing), ("time", "minutes", missing or no_time)):
            name = f"{title} by {by}"
            drawn = partial(training_charts.draw_epochs, epochs, x, title, lines)
            charts.append(
                Chart(f"{kind}_by_{by}", name, latest, f"{name}: {latest}", drawn, reason)
            )
    shares = training_charts.share_out(steps)
    spent = "; ".join(
        f"{title}: " + ", ".join(f"{part} {pct:.0f} %" for part, pct in row.items() if pct > 0)
        for title, (_, row) in zip(steps["title"], shares.iterrows(), strict=True)
    )
    caption = (
        f"{latest} Means over ranks and epochs after the warm-up (of a metrics file: rank 0's)."
    )
    drawn = partial(training_charts.draw_breakdown, steps)
    reason = no_steps if steps.empty else None
    title = "Where the training time goes"
    return [*charts, Chart("step_breakdown", title, caption, spent, drawn, reason)]


def list_run_charts(study: Study) -> Iterator[Chart]:
    """Yield the timelines of the latest run of each configuration that is known by its folder."""
    for row in scaling_charts.list_configs(study).itertuples():
        run = study.find_run(row)
        if run is None:
            continue
        samples = study.samples[study.samples["run"] == row.latest]
        title = f"job {run.id}, {row.title}"
        for kind, source in (("gpu", "nvidia-smi"), ("cpu", "psrecord")):
            found = timelines.list_timelines(samples, source)
            note = " ".join(dict.fromkeys(each.note for each in found if each.note))
            drawn = partial(timelines.draw_timelines, found)
            reason = None if found else f"job {run.id} has no such log"
            yield Chart(f"{kind}_timeline_{run.id}", title, note, title, drawn, reason)


def list_device_charts(comparison: Comparison) -> list[Chart]:
    """Return the two charts of one device against several."""
    single, multi = comparison.single, comparison.multi
    spread = "Mean and standard deviation over the epochs after the first."
    if 1 in (single.training_s.n, multi.training_s.n):
        spread += " A run of one epoch has no steady state, and no error bar."
    times = {f"GPU {rank}": each for rank, each in enumerate(multi.per_rank_s)}
    times["Single GPU"] = single.training_s
    rates = {f"{multi.world_size} GPUs (sum)": multi.throughput, "Single GPU": single.throughput}
    return [
        Chart(name, title, spread, spread, partial(scaling_charts.draw_devices, bars, form, axis))
        for name, title, bars, form, axis in (
            ("training_time_comparison", "Training time", times, "{:,.2f} s",
             "Training time per epoch (s)"),
            ("tokens_per_second_comparison", "Throughput", rates, "{:,.1f}",
             f"Throughput ({single.unit})"),
        )
    ]  # fmt: skip


def draw(chart: Chart, size_in: tuple[float, float] = (WIDTH_IN, HEIGHT_IN)) -> Figure:
    """Return a chart's figure in the style of this package; one with many rows grows higher."""
    with rc_context({**STYLE, "figure.figsize": size_in}):
        return chart.draw()


def save_charts(
    charts: Iterable[Chart], folder: Path, formats: Iterable[str] = ("png",)
) -> tuple[list[Path], list[str]]:
    """Write each chart as NAME.FORMAT; return the paths, and a line for each chart not drawn.

    Raises UserError when the folder cannot be written.
    """
    paths, left_out = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            if chart.reason:
                left_out.append(f"{chart.name}: {chart.reason}")
                continue
            figure = draw(chart)
            for suffix in dict.fromkeys(formats):
                paths.append(_save(figure, chart, folder / f"{chart.name}.{suffix}"))
    except OSError as error:
        raise UserError(f"cannot write plots to {folder}: {error.strerror}") from None
    return paths, left_out


def _save(figure: Figure, chart: Chart, path: Path) -> Path:
    """Write a figure under another name first, so that no half of one is ever there."""
    part = path.with_name(f".{path.name}.part")
    more = {"png": {"Description": chart.caption}, "svg": {"Date": None}}
    metadata = {"Title": chart.title, **more.get(path.suffix[1:], {"CreationDate": None})}
    try:
        with rc_context(STYLE):
            figure.savefig(part, format=path.suffix[1:], dpi=DPI, metadata=metadata)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
