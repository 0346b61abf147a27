"""All charts: which there are, why one cannot be drawn, and writing them as PNG, SVG or PDF."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from common.errors import UserError
from scaling.plots import devices, steps, timelines
from scaling.plots import scaling_charts as scaling
from scaling.plots import training_charts as training
from scaling.plots.data import Study
from scaling.plots.style import HEIGHT_IN, STYLE, WIDTH_IN, show_rate
from scaling.runs.samples import read_samples
from scaling.tables.devices import Comparison

DPI = 300
FORMATS = ("png", "svg", "pdf")
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
    compared = scaling.list_compared(study)
    alone = None if compared else "no two runs with equal settings at different numbers of GPUs"
    no_loss = None if training.has_loss(study) else "no run holds a loss"
    score = training.find_score(study)
    no_score = None if score else "no run holds an accuracy, perplexity or BLEU"
    no_time = None if training.has_times(study) else "no run says how long its epochs took"
    no_steps = None if steps.list_breakdowns(study) else (
        "no run says where its steps' time went (rank files or training_metrics.json)"
    )  # fmt: skip
    name = score.title if score else "Score"
    means = _describe_means(study)
    base = f"Baseline: {scaling.name_baseline(study)}. " if compared else ""
    latest = "The latest complete run of each configuration."
    ran = _describe_efficiencies(study) if compared else ""
    table = (
        ("speedup_chart", "Speedup", base + means, ran, scaling.draw_speedup, alone),
        ("efficiency_chart", "Parallel efficiency", f"{base}{means} The dotted line is "
         f"{scaling.GOOD_EFFICIENCY_PCT} %.", ran, scaling.draw_efficiency, alone),
        ("throughput_chart", "Throughput", f"{means} Bars: {_describe_spread(study)}.",
         _describe_throughputs(study), scaling.draw_throughput, None),
        ("strong_weak_efficiency", "Efficiency in weak and strong scaling",
         f"{base}Full lines: weak scaling (fixed batch per GPU); dashed: strong scaling (fixed "
         "global batch).", ran, scaling.draw_modes, alone),
        ("loss_by_epoch", "Loss by epoch", latest, "", training.draw_loss_by_epoch, no_loss),
        ("loss_by_time", "Loss by time", latest, "", training.draw_loss_by_time,
         no_loss or no_time),
        ("score_by_epoch", f"{name} by epoch", latest, "", training.draw_score_by_epoch, no_score),
        ("score_by_time", f"{name} by time", latest, "", training.draw_score_by_time,
         no_score or no_time),
        ("step_breakdown", "Where the training time goes",
         f"{latest} Means over ranks and epochs after the warm-up (of a metrics file: rank 0's).",
         _describe_steps(study), steps.draw_breakdown, no_steps),
    )  # fmt: skip
    return [
        Chart(name, title, caption, alt or f"{title}: {caption}", _bind(draw, study), reason)
        for name, title, caption, alt, draw, reason in table
    ]


def list_run_charts(study: Study) -> Iterable[Chart]:
    """Yield the timelines of the latest run of each configuration."""
    for config in study.configs:
        source = config.latest
        if source.run is None:
            continue
        samples = read_samples(source.run)
        title = f"job {source.id}, {study.label(config)}"
        for name, found in (
            ("gpu_timeline", timelines.list_gpu_timelines(samples)),
            ("cpu_timeline", timelines.list_cpu_timelines(samples)),
        ):
            if found:
                note = " ".join(dict.fromkeys(each.note for each in found if each.note))
                draw = _bind(timelines.draw_timelines, found)
                yield Chart(f"{name}_{source.id}", title, note, title, draw)
            else:
                reason = f"job {source.id} has no such log"
                yield Chart(f"{name}_{source.id}", title, reason=reason)


def list_device_charts(comparison: Comparison) -> list[Chart]:
    """Return the two charts of one device against several."""
    spread = "Mean and standard deviation over the epochs after the first."
    if comparison.single.training_s.n == 1 or comparison.multi.training_s.n == 1:
        spread += " A run of one epoch has no steady state, and no error bar."
    return [
        Chart("training_time_comparison", "Training time", spread, spread,
              _bind(devices.draw_training_time, comparison)),
        Chart("tokens_per_second_comparison", "Throughput", spread, spread,
              _bind(devices.draw_throughput, comparison)),
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


def _bind(function: Callable, argument: object) -> Callable[[], Figure]:
    return lambda: function(argument)


def _describe_means(study: Study) -> str:
    text = "Throughput is the mean over the epochs after the warm-up."
    if not all(config.is_steady for config in study.configs):
        text += " Hollow marks: runs of one epoch, which have no steady state."
    return text


def _describe_spread(study: Study) -> str:
    repeats = {len(config.sources) > 1 for config in study.configs}
    return {
        (False,): "standard deviation over the epochs of the one run",
        (True,): "95 % interval over repeats (Student t)",
    }.get(tuple(repeats), "95 % interval over repeats, with one run its epochs' deviation")


def _describe_efficiencies(study: Study) -> str:
    found = [
        f"{study.label(config)}: {series.speedup(config):.2f} times, "
        f"{series.efficiency_pct(config):.1f} %"
        for series in scaling.list_compared(study)
        for config in series.configs
    ]
    return "; ".join(found)


def _describe_throughputs(study: Study) -> str:
    return "; ".join(
        f"{study.label(config)}: {show_rate(config.throughput_per_s)} {study.unit}"
        for config in study.configs
    )


def _describe_steps(study: Study) -> str:
    return "; ".join(
        f"{study.label(config)}: "
        + ", ".join(
            f"{part} {100 * seconds / sum(found.parts_s.values()):.0f} %"
            for part, seconds in found.parts_s.items()
        )
        for config, found in steps.list_breakdowns(study)
    )
