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
from scaling.runs.workloads import SCORES
from scaling.tables.devices import Comparison

DPI = 300
MAIN = ("speedup_chart", "efficiency_chart", "throughput_chart")


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
    epochs, score = training_charts.list_latest_epochs(study), training_charts.find_score(study)
    steps = training_charts.break_down(study)
    no_rate = "no run says its throughput" if configs.empty else None
    alone = no_rate
    if compared.empty:
        alone = alone or "no two runs with equal settings at different numbers of GPUs"
    no_loss = None if epochs["val_loss"].notna().any() else "no run holds a loss"
    *names, last = (score.name for score in SCORES)
    no_score = None if score else f"no run holds an {', '.join(names)} or {last}"
    no_time = None if epochs["minutes"].notna().any() else "no run says how long its epochs took"
    no_steps = "no run says where its steps' time went (rank files or training_metrics.json)"
    base = "" if alone else f"Baseline: {scaling_charts.name_baseline(study)}. "
    means = "Throughput is the mean over the epochs after the warm-up."
    if not configs["is_steady"].all():
        means += " Hollow marks: runs of one epoch, which have no steady state."
    latest = "The latest complete run of each configuration."
    ratios = "; ".join(
        f"{row.title}: {row.speedup:.2f} times, {row.efficiency_pct:.1f} %"
        for row in compared.itertuples()
    )
    rates = "; ".join(
        f"{row.title}: {show_rate(row.throughput_per_s)} {study.unit}"
        for row in configs.itertuples()
    )
    scoring = score.axis if score else "Score"
    table = (
        ("speedup_chart", "Speedup", base + means, ratios, scaling_charts.draw_speedup, alone),
        ("efficiency_chart", "Parallel efficiency",
         f"{base}{means} The dotted line is {scaling_charts.GOOD_PCT} %.", ratios,
         scaling_charts.draw_efficiency, alone),
        ("throughput_chart", "Throughput",
         f"{means} Bars: {_describe_spread(configs['throughput_kind'])}.", rates,
         scaling_charts.draw_throughput, no_rate),
        ("strong_weak_efficiency", "Efficiency in weak and strong scaling",
         f"{base}Full lines: weak scaling (fixed batch per GPU); dashed: strong scaling (fixed "
         "global batch).", ratios, scaling_charts.draw_modes, alone),
        ("loss_by_epoch", "Loss by epoch", latest, "",
         partial(training_charts.draw_loss, x="epoch"), no_loss),
        ("loss_by_time", "Loss by time", latest, "",
         partial(training_charts.draw_loss, x="minutes"), no_loss or no_time),
        ("score_by_epoch", f"{scoring} by epoch", latest, "",
         partial(training_charts.draw_score, x="epoch"), no_score),
        ("score_by_time", f"{scoring} by time", latest, "",
         partial(training_charts.draw_score, x="minutes"), no_score or no_time),
        ("step_breakdown", "Where the training time goes",
         f"{latest} Means over ranks and epochs after the warm-up (of a metrics file: rank 0's).",
         _describe_steps(steps), training_charts.draw_breakdown,
         no_steps if steps.empty else None),
    )  # fmt: skip
    return [
        Chart(name, title, caption, alt or f"{title}: {caption}", partial(draw, study), reason)
        for name, title, caption, alt, draw, reason in table
    ]


def _describe_spread(kinds) -> str:
    """Say what the error bars of configurations are: of repeats, of one run's epochs, or both."""
    repeats = set(kinds == "repeats")
    if repeats == {True}:
        return "95 % interval over repeats (Student t)"
    if repeats == {False}:
        return "standard deviation over the epochs of the one run"
    return "95 % interval over repeats, with one run its epochs' deviation"


def _describe_steps(steps) -> str:
    shares = training_charts.share_out(steps)
    return "; ".join(
        f"{title}: " + ", ".join(f"{part} {pct:.0f} %" for part, pct in row.items() if pct > 0)
        for title, (_, row) in zip(steps["title"], shares.iterrows(), strict=True)
    )


def list_run_charts(study: Study) -> Iterator[Chart]:
    """Yield the timelines of the latest run of each configuration that is known by its folder."""
    by_run = dict(tuple(study.samples.groupby("run")))
    for row in scaling_charts.list_configs(study).itertuples():
        run = study.find_run(row)
        if run is None:
            continue
        title = f"job {run.id}, {row.title}"
        for kind, source in (("gpu", "nvidia-smi"), ("cpu", "psrecord")):
            samples = by_run.get(row.latest, study.samples.iloc[:0])
            found = timelines.list_timelines(samples, source)
            note = " ".join(dict.fromkeys(each.note for each in found if each.note))
            draw = partial(timelines.draw_timelines, found)
            reason = None if found else f"job {run.id} has no such log"
            yield Chart(f"{kind}_timeline_{run.id}", title, note, title, draw, reason)


def list_device_charts(comparison: Comparison) -> list[Chart]:
    """Return the two charts of one device against several."""
    spread = "Mean and standard deviation over the epochs after the first."
    if comparison.single.training_s.n == 1 or comparison.multi.training_s.n == 1:
        spread += " A run of one epoch has no steady state, and no error bar."
    return [
        Chart("training_time_comparison", "Training time", spread, spread,
              partial(scaling_charts.draw_device_times, comparison)),
        Chart("tokens_per_second_comparison", "Throughput", spread, spread,
              partial(scaling_charts.draw_device_rates, comparison)),
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
    metadata = {"Title": chart.title}
    if path.suffix == ".png":
        metadata["Description"] = chart.caption
    if path.suffix in (".svg", ".pdf"):
        metadata["Date" if path.suffix == ".svg" else "CreationDate"] = None
    try:
        with rc_context(STYLE):
            figure.savefig(part, format=path.suffix[1:], dpi=DPI, metadata=metadata)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
