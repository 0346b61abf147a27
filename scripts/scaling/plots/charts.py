"""All charts: what each shows and from what, why one cannot be drawn, and how it is written."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from common.errors import UserError
from scaling.plots import drawing
from scaling.plots.drawing import GOOD_PCT, PARTS, Curve, Timeline
from scaling.plots.style import (
    COLORS,
    HEIGHT_IN,
    MOST_POINTS,
    MUTED,
    STYLE,
    WIDTH_IN,
    show_rate,
    thin,
)
from scaling.runs import Study
from scaling.runs.study import sort_naturally
from scaling.runs.workloads import SCORES
from scaling.tables.devices import Comparison
from scaling.tables.participants import Workshop

DPI = 300
MAIN = ("speedup_chart", "efficiency_chart", "throughput_chart")
# Captions.
MEANS = (
    "Throughput is the mean over the epochs after the warm-up. Hollow marks: runs of one epoch, "
    "which have no steady state."
)
BARS = "Bars: 95 % interval over repeats (Student t); of a single run, its epochs' deviation."
MODES = "Full lines: weak scaling (fixed batch per GPU); dashed: strong (fixed global batch)."
LATEST = "The latest complete run of each configuration."
STEPS = "Means over ranks and epochs after the warm-up (of a metrics file: rank 0's)."
LOSSES = [Curve("train_loss", "Training", "--"), Curve("val_loss", "Validation")]
# Column of a rank's epoch -> part of a step. The all-reduce happens inside of backward.
CLOCKS = {
    "data_wait_s": "waiting for data", "copy_s": "copy", "compute_s": "compute",
    "exposed_comm_s": "exposed communication", "optimizer_s": "optimizer",
}  # fmt: skip
MOST_GPUS = 1_000_000  # of a node
MOST_LINES = 8  # more GPUs are drawn as their range and median
# Source of the samples -> what its timelines show: title, unit, column, factor.
TIMELINES = {
    "nvidia-smi": (
        ("GPU memory in use", "GiB", "used_mib", 1 / 1024),
        ("GPU utilisation", "%", "utilization_pct", 1.0),
    ),
    "psrecord": (
        ("CPU load of the training's processes", "%, 100 per core", "cpu_pct", 1.0),
        ("Resident memory (shared pages count once per process)", "GiB", "rss_mib", 1 / 1024),
    ),
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


# ---- The charts ---------------------------------------------------------------------------------


def list_charts(study: Study) -> list[Chart]:
    """Return every chart of a study, those that it has no data for with the reason."""
    configs, compared = list_configs(study), list_compared(study)
    epochs, steps = list_latest_epochs(study), break_down(study)
    score = next((each for each in SCORES if epochs[each.column].notna().any()), None)
    *names, last = (each.name for each in SCORES)
    no_rate = None if len(configs) else "no run says its throughput"
    unequal = "no two runs with equal settings at different numbers of GPUs"
    alone = None if len(compared) else no_rate or unequal
    no_loss = None if epochs["val_loss"].notna().any() else "no run holds a loss"
    no_score = None if score else f"no run holds an {', '.join(names)} or {last}"
    no_time = None if epochs["minutes"].notna().any() else "no run says how long its epochs took"
    no_steps = "no run says where its steps' time went (rank files or training_metrics.json)"
    # 1 GPU, or the smallest scale where there is none; several when series differ.
    base = " / ".join(compared.drop_duplicates("series")["short_label"].unique())
    over = f"Baseline: {base}. " if base else ""
    ratios = "; ".join(
        f"{row.title}: {row.speedup:.2f} times, {row.efficiency_pct:.1f} %"
        for row in compared.itertuples()
    )
    rates = "; ".join(
        f"{row.title}: {show_rate(row.throughput_per_s)} {study.unit}"
        for row in configs.itertuples()
    )
    spent = "; ".join(
        f"{row['title']}: " + ", ".join(f"{part} {row[part]:.0f} %" for part in PARTS if row[part])
        for _, row in steps.iterrows()
    )
    lines, curves = partial(partial, drawing.draw_lines), partial(partial, drawing.draw_epochs)
    rate, efficiency = f"Throughput ({study.unit})", "Parallel efficiency (%)"
    scored = [Curve(score.column, factor=score.factor)] if score else []
    return [
        Chart("speedup_chart", "Speedup", over + MEANS, ratios,
              lines(compared, "speedup", f"Speedup over {base} (×)"), alone),
        Chart("efficiency_chart", "Parallel efficiency",
              f"{over}{MEANS} The dotted line is {GOOD_PCT} %.", ratios,
              partial(draw_efficiency, compared), alone),
        Chart("throughput_chart", "Throughput", f"{MEANS} {BARS}", rates,
              lines(configs, "throughput_per_s", rate), no_rate),
        Chart("strong_weak_efficiency", "Efficiency in weak and strong scaling", over + MODES,
              ratios, lines(compared, "efficiency_pct", efficiency), alone),
        *(Chart(f"{kind}_by_{by}", f"{title} by {by}", LATEST, f"{title} by {by}. {LATEST}",
                curves(epochs, by, title, drawn), missing or (no_time if by == "time" else None))
          for kind, title, drawn, missing in (
              ("loss", "Loss", LOSSES, no_loss),
              ("score", score.axis if score else "Score", scored, no_score))
          for by in ("epoch", "time")),
        Chart("step_breakdown", "Where the training time goes", f"{LATEST} {STEPS}", spent,
              partial(drawing.draw_breakdown, steps), None if len(steps) else no_steps),
    ]  # fmt: skip


def list_run_charts(study: Study) -> Iterator[Chart]:
    """Yield the timelines of the latest run of each configuration that is known by its folder."""
    for row in list_configs(study).itertuples():
        run = study.find_run(row)
        if run is None:
            continue
        samples = study.samples[study.samples["run"] == row.latest]
        title = f"job {run.id}, {row.title}"
        for kind, source in (("gpu", "nvidia-smi"), ("cpu", "psrecord")):
            found = list_timelines(samples, source)
            note = " ".join(dict.fromkeys(each.note for each in found if each.note))
            drawn = partial(drawing.draw_timelines, found)
            reason = None if found else f"job {run.id} has no such log"
            yield Chart(f"{kind}_timeline_{run.id}", title, note, title, drawn, reason)


def draw_efficiency(compared: pd.DataFrame) -> Figure:
    """Draw parallel efficiency as bars, a colour for each series."""
    series = pd.factorize(compared["series"])[0]
    names = compared["title" if series.any() else "short_label"].to_list()
    values, label = compared["efficiency_pct"], "Parallel efficiency (%)"
    return drawing.draw_bars(names, values, "{:.1f}", label, series, good=GOOD_PCT)


def list_device_charts(comparison: Comparison) -> list[Chart]:
    """Return the two charts of one device against several, the single one as the last bar."""
    single, multi = comparison.single, comparison.multi
    spread = "Mean and standard deviation over the epochs after the first."
    if 1 in (single.training_s.n, multi.training_s.n):
        spread += " A run of one epoch has no steady state, and no error bar."
    times = {f"GPU {rank}": each for rank, each in enumerate(multi.per_rank_s)}
    rates = {f"{multi.world_size} GPUs (sum)": multi.throughput}
    charts = []
    for name, title, bars, form, axis in (
        ("training_time_comparison", "Training time", times | {"Single GPU": single.training_s},
         "{:,.2f} s", "Training time per epoch (s)"),
        ("tokens_per_second_comparison", "Throughput", rates | {"Single GPU": single.throughput},
         "{:,.1f}", f"Throughput ({single.unit})"),
    ):  # fmt: skip
        means = [each.mean for each in bars.values()]
        halves = [each.half_width or float("nan") for each in bars.values()]
        colors = [0] * (len(bars) - 1) + [1]
        drawn = partial(drawing.draw_bars, list(bars), means, form, axis, colors, halves)
        charts.append(Chart(name, title, spread, spread, drawn))
    return charts


def make_spread_chart(workshop: Workshop) -> Chart:
    """Return the chart of a workshop's runs that have equals, or why there is none."""
    title, ratios = "Every run against its equals", workshop.ratios
    if not len(ratios):
        return Chart("participants", title, reason="no three equal runs at any scale")
    caption = (
        "A dot per complete run: its throughput in % of the median of the runs with equal settings "
        f"and scale. Dotted: {workshop.limit_pct:.1f} %, below which a run is an outlier."
    )
    alt = "; ".join(
        f"{label}: {rows['pct'].min():.1f} to {rows['pct'].max():.1f} %, {len(rows)} runs"
        for label, rows in ratios.groupby("label", sort=False)
    )
    return Chart("participants", title, caption, alt, partial(drawing.draw_spread, workshop))


# ---- What is drawn ------------------------------------------------------------------------------


def list_configs(study: Study) -> pd.DataFrame:
    """Return the configurations whose throughput is known, with `title`, their full name.

    The series with most of them comes first, series of one size by their names.
    """
    configs = study.configs.dropna(subset="throughput_per_s")
    sizes = configs.groupby("series")["config"].transform("size")
    order = sorted(
        configs.index, key=lambda at: (-sizes[at], sort_naturally(configs["series_name"][at]))
    )
    configs = configs.loc[order]
    named = configs["short_label"] + " (" + configs["series_name"] + ")"
    return configs.assign(title=named.where(configs["series_name"] != "", configs["short_label"]))


def list_compared(study: Study) -> pd.DataFrame:
    """Return those of series that have something to compare: two numbers of GPUs at least."""
    configs = list_configs(study)
    return configs[configs.groupby("series")["gpus"].transform("nunique") > 1]


def list_left_out(study: Study) -> list[str]:
    """Return a line for each run that is in no chart, with the reason."""
    unknown = study.runs[study.runs["throughput_per_s"].isna()]["name"]
    return [
        *study.left_out, *(f"job {name}: not every epoch has a throughput" for name in unknown)
    ]  # fmt: skip


def list_latest_epochs(study: Study) -> pd.DataFrame:
    """Return the epochs of each configuration's latest run, with its `title`.

    `minutes` is when an epoch ended: the sum of whole epochs, else of their training parts.
    """
    configs = list_configs(study)[["config", "title", "latest"]]
    epochs = configs.merge(study.epochs, left_on="latest", right_on="run")
    has_whole = epochs.groupby("config")["epoch_s"].transform("count") > 0
    whole_s = epochs["epoch_s"].where(has_whole, epochs["train_s"])
    # One epoch without its time leaves those after it without theirs.
    is_known = whole_s.notna().groupby(epochs["config"]).cummin()
    minutes = whole_s.groupby(epochs["config"]).cumsum() / 60
    return epochs.assign(minutes=minutes.where(is_known))


def break_down(study: Study) -> pd.DataFrame:
    """Return where an epoch's training part goes: % in each of PARTS, and all of it (`total_s`).

    One row for each configuration whose latest run says it, with its `title`; means over ranks
    and epochs after the warm-up. Without rank files, rank 0's wait of the metrics file.
    """
    mean = _average_steady(study.rank_epochs, ["training_s", *CLOCKS])
    mean = mean[mean["training_s"] > 0].dropna(subset=["data_wait_s", "compute_s"]).fillna(0.0)
    total_s, exposed_s = mean["training_s"], mean[["exposed_comm_s", "compute_s"]].min(axis=1)
    mean = mean.assign(compute_s=mean["compute_s"] - exposed_s, exposed_comm_s=exposed_s)
    rest_s = (total_s - mean.drop(columns="training_s").sum(axis=1)).clip(lower=0)
    ranks = mean.rename(columns=CLOCKS).assign(rest=rest_s, total_s=total_s)
    mean = _average_steady(study.epochs, ["step_s", "step_wait_s", "train_s"])
    mean = mean[(mean["step_s"] > 0) & (mean["step_wait_s"] >= 0)]
    total_s = mean["train_s"].fillna(mean["step_s"])
    waiting_s = (mean["step_wait_s"] / mean["step_s"]).clip(upper=1) * total_s
    parts = {"waiting for data": waiting_s, "all but waiting": total_s - waiting_s}
    steps = pd.concat([ranks, pd.DataFrame({**parts, "total_s": total_s})])
    steps = steps[~steps.index.duplicated()].fillna(0.0)  # rank files know more
    steps = steps.reindex(columns=[*PARTS, "total_s"], fill_value=0.0)
    steps[list(PARTS)] = steps[list(PARTS)].div(steps[list(PARTS)].sum(axis=1), axis=0) * 100
    rows = list_configs(study)[["config", "title", "latest"]]
    return rows.merge(steps, left_on="latest", right_index=True)


def _average_steady(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return means by run of the epochs after the warm-up; where there is no other, of that."""
    is_steady = ~frame["is_warmup"].astype(bool)
    is_used = is_steady | ~is_steady.groupby(frame["run"]).transform("any")
    return frame[is_used].groupby("run")[names].mean()


def list_timelines(
    samples: pd.DataFrame, source: str, most_points: int = MOST_POINTS
) -> list[Timeline]:
    """Return the timelines of one run's samples (the frame of runs/), by a source of TIMELINES.

    Those without a sample are left out. With more than MOST_LINES GPUs a timeline has `Greatest`,
    `Median` and `Least` of each second. most_points: of a line; a longer one is thinned.
    """
    columns = ["node", "gpu", "elapsed_s", *(column for _, _, column, _ in TIMELINES[source])]
    samples = samples.loc[(samples["source"] == source).to_numpy(bool), columns]
    node, gpu = (samples[name].to_numpy(float, na_value=0) for name in ("node", "gpu"))
    places, line = np.unique(MOST_GPUS * node + gpu, return_inverse=True)
    nodes, gpus = np.divmod(places, MOST_GPUS)
    what, names = "nodes", [f"Node {each:.0f}" for each in nodes]
    if source == "nvidia-smi":
        of_node = [f"{name}, " if len({*nodes}) > 1 else "" for name in names]
        what = "GPUs"
        names = [f"{each}GPU {number:.0f}" for each, number in zip(of_node, gpus, strict=True)]
    minutes, found = samples["elapsed_s"].to_numpy() / 60, []
    for title, unit, column, factor in TIMELINES[source]:
        values = factor * samples[column].to_numpy()
        is_there = ~np.isnan(minutes + values)
        lines = {
            name: (minutes[own], values[own])
            for at, name in enumerate(names)
            if (own := is_there & (line == at)).any()
        }
        if lines:
            found.append(Timeline(title, unit, *_thin_lines(lines, what, most_points)))
    return found


def _thin_lines(lines: dict[str, tuple], what: str, most_points: int) -> tuple[dict, str]:
    """Return the lines thinned, those of many GPUs as three, and a note on how they were made."""
    count, note = len(lines), ""
    is_thinned = sum(len(xs) for xs, _ in lines.values()) > most_points * count
    if count > MOST_LINES:
        xs, ys = map(np.concatenate, zip(*lines.values(), strict=True))
        second = pd.Series(ys).groupby((xs * 60).round())
        parts = {"Greatest": second.max(), "Median": second.median(), "Least": second.min()}
        lines = {name: (part.index.to_numpy() / 60, part) for name, part in parts.items()}
        note = f"{count} {what}: the greatest, median and least of each second with a sample."
    if is_thinned:
        note += (
            f" Thinned to about {most_points} points per line: of each stretch of samples the "
            "least and the greatest are drawn, so no peak is lost."
        )
    return {name: thin(*points, most_points) for name, points in lines.items()}, note.strip()


# ---- As files, and inside a page ----------------------------------------------------------------


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
    data, part, form = io.BytesIO(), path.with_name(f".{path.name}.part"), path.suffix[1:]
    more = {"png": {"Description": chart.caption}, "svg": {"Date": None}}
    metadata = {"Title": chart.title, **more.get(form, {"CreationDate": None})}
    with rc_context(STYLE):
        figure.savefig(data, format=form, dpi=DPI, metadata=metadata)
    part.write_bytes(data.getvalue())
    return part.replace(path)


PAGE_SIZE_IN = (5.6, 4.1)  # narrower than on paper: a phone shows its text at about 10 px
LONGEST_ALT_CHARS = 1500
# Colours become variables of the page's style, which has them for light and dark.
_VARIABLES = {
    **{color.lower(): f"--c{n}" for n, color in enumerate(COLORS)},
    MUTED: "--muted", "#b0b0b0": "--rule", "#ffffff": "--page",
}  # fmt: skip
_EDITS = (
    (r"<(metadata|style)\b[^>]*>.*?</\1>\s*", ""),  # the page has the style once
    (r"'DejaVu Sans', [^;\"]*", "sans-serif"),
)


def draw_picture(chart: Chart, key: str) -> str:
    """Return a chart as one SVG element for a page, with an alternative text and no script.

    key: what its ids begin with, so that no two pictures of a page share one.
    """
    text = io.StringIO()
    figure = draw(chart, PAGE_SIZE_IN)
    with rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern, instead in (*_EDITS, (r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-{chart.name}-")):
        svg = re.sub(pattern, instead, svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var({_VARIABLES[found[0]]})", body)
    alt = f"{chart.title}. {chart.alt}"
    alt = alt if len(alt) <= LONGEST_ALT_CHARS else alt[: LONGEST_ALT_CHARS - 1] + "…"
    return f'{head} role="img" aria-label="{escape(alt)}">{body}'.strip()
