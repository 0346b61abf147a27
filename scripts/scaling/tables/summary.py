"""The summary of a study as text: one line per run, the speedups, and what is good of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from common.console import printable, shorten
from common.rounding import round_half_even
from scaling.runs.compare import (
    GOOD_NODES_PCT,
    GOOD_ONE_NODE_PCT,
    POOR_PCT,
    divide,
    look_up,
    name_band,
)
from scaling.runs.study import Study, compare_quality, count
from scaling.tables.hardware import make_hardware_table
from scaling.tables.scaling import make_ratio_cells
from scaling.tables.table import (
    MISSING,
    ROUNDING,
    Table,
    draw_text,
    is_missing,
    make_table,
    show,
    to_text,
)

RUN_COLUMNS = {
    "job": "Job ID", "config": "Configuration", "gpus": "GPUs", "nodes": "Nodes",
    "wall_s": "Time (s)", "epoch_s": "Time/Epoch (s)", "val_loss": ("Val Loss", 4),
    "val_accuracy": ("Val Acc", 4),
}  # fmt: skip
RUN_WIDTHS = (10, 30, 6, 6, 10, 14, 9, 0)  # the least in the text
RESULT_COLUMNS = {
    "config": "Configuration", "minutes": "Time (min)", "speedup": "Speedup",
    "efficiency": "Efficiency", "band": "Band",
}  # fmt: skip
IDEAL_COLUMNS = {
    "gpus": "GPUs", "ideal": "Ideal speedup", "measured": "Measured", "lost": "Lost",
    "ideal_s": "Ideal time (s)", "wall_s": "Time (s)",
}  # fmt: skip


def make_summary_tables(study: Study) -> list[Table]:
    """Return the summary's figures as tables: runs, ideal beside measured, the use of the GPUs.

    Of a run: its wall time, and the losses of its last epoch. Ideal beside measured is by wall
    time.
    """
    scales = list(study.scales.itertuples())
    runs = [
        run._asdict() | {
            "job": shorten(run.name, 60), "config": scale.label,
            "epoch_s": None if is_missing(run.wall_s) else divide(run.wall_s, run.epochs),
        }
        for scale in scales for run in study.list_runs(scale).itertuples()
    ]  # fmt: skip
    remarks = list(dict.fromkeys([*study.list_remarks(), *compare_quality(study)]))
    of_scales = [_describe_scale(study, scale) for scale in scales]
    definitions = ("Lost: 100 % less the efficiency, by wall time.", ROUNDING)
    use = make_hardware_table(study)
    return [
        make_table("runs", "Runs", RUN_COLUMNS, runs, remarks=remarks),
        make_table("ideal", "Ideal versus measured", IDEAL_COLUMNS, of_scales,
                   definitions=definitions),
        *([use] if use.max_width else []),  # of metrics files there is none
    ]  # fmt: skip


def _describe_scale(study: Study, scale) -> dict[str, object]:
    """Return what the summary's tables show of a scale; speedups are by wall time."""
    base, times = study.baseline, scale.gpus / study.baseline.gpus
    speedup, efficiency = make_ratio_cells(study, scale, "walltime")
    lost = None if efficiency.value is None else (1 - efficiency.value) * 100
    measured = speedup if lost is None else replace(speedup, text=f"{speedup.text}x")
    band = name_band(scale.wall_efficiency_pct, scale.nodes) or MISSING
    return {
        "config": scale.label,
        "gpus": scale.gpus,
        "minutes": scale.wall_s / 60,
        "speedup": measured,
        "measured": measured,
        "efficiency": show(scale.wall_efficiency_pct, 1, sign="%"),
        "band": "baseline" if scale.Index == study.scales.index[0] else band,
        "ideal": show(times, sign="x"),
        "lost": show(lost, 1, sign="%", why=speedup.note or ""),
        "ideal_s": show(base.wall_s / times, why="no baseline time"),
        "wall_s": scale.wall_s,
    }


# ---- As text ---------------------------------------------------------------------------------


def format_summary(study: Study, cluster: str | None = None) -> str:
    """Return the whole summary; times are wall times, so speedups are those of the work done."""
    runs, ideal, *use = make_summary_tables(study)
    scales = [_describe_scale(study, scale) for scale in study.scales.itertuples()]
    results = make_table("results", "", RESULT_COLUMNS, scales)
    notes = [
        "Time: training and validation of all epochs, warm-up included; Time/Epoch: that / epochs.",
        "Val Loss and Val Acc: of the last epoch. Speedup and efficiency are by this time.",
        f"Bands: good is above {GOOD_ONE_NODE_PCT} % on one node and above {GOOD_NODES_PCT} % "
        f"across nodes, poor is under {POOR_PCT} %.",
        ROUNDING,
        *(f"- {remark}" for remark in runs.remarks),
    ]
    blocks = [
        ["BENCHMARK RESULTS SUMMARY", *_draw(runs, RUN_WIDTHS), "SPEEDUP ANALYSIS",
         *_list_speedups(study)],
        [f"Training Results on {cluster or _find_cluster(study) or 'this machine'}",
         *(f"  {name}: {value}" for name, value in _describe_training(study).items()),
         *_draw(results)],
        ["IDEAL VERSUS MEASURED", *_draw(ideal)],
        *([to_text([replace(table, title="USE OF THE GPUS")]).rstrip()] for table in use),
        ["NOTES", *(shorten(line, 400) for line in notes)],
    ]  # fmt: skip
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _draw(table: Table, widths: Sequence[int] = ()) -> list[str]:
    """Return the lines of a table without its notes."""
    headers = zip_longest(table.headers.values(), widths, fillvalue=0)
    rows = [[printable(row[name].text) for name in table.headers] for row in table.rows]
    return draw_text([[text.ljust(width) for text, width in headers], *rows]).splitlines()


def _list_speedups(study: Study) -> list[str]:
    """Return the lines on each scale's speedup over the baseline, from the mean wall times."""
    base, *scales = study.scales.itertuples()
    lines = [f"Baseline ({base.label}): {_format_wall(study, base)}"]
    for scale in scales:
        name = f"Multi-GPU ({scale.label})"
        if not is_missing(scale.nodes):
            kind = "Multi-Node" if scale.nodes > 1 else "Multi-GPU"
            name = f"{kind} ({scale.gpus} GPUs, {count(int(scale.nodes), 'node')})"
        lines += [f"{name}:", f"  Average time: {_format_wall(study, scale)}"]
        if is_missing(scale.wall_speedup):
            why = study.explain_no_ratio(scale, "walltime")
            lines.append(f"  Speedup: {MISSING} ({why})")
        else:
            lines.append(f"  Speedup: {round_half_even(scale.wall_speedup, 2)}x")
            lines.append(f"  Parallel efficiency: {round_half_even(scale.wall_efficiency_pct, 1)}%")
    return lines


def _format_wall(study: Study, scale) -> str:
    wall_s = study.spread(scale, "wall")
    if wall_s is None:
        return f"{MISSING} (not recorded)"
    mean = round_half_even(wall_s.mean, 2)
    if wall_s.kind != "repeats":
        return f"{mean} seconds"
    half = round_half_even(wall_s.half_width, 2)
    return f"{mean} ± {half} seconds (95 % interval, n = {wall_s.n})"


def _describe_training(study: Study) -> dict[str, str]:
    """Return dataset, model, epochs and batch as the baseline's run recorded them."""
    run = study.baseline.latest
    settings, unknown = study.settings(run), "not recorded"
    size = look_up(settings, "dataset.train")
    name = look_up(settings, "dataset.name")
    strong = settings.get("scaling") == "strong"
    batch = settings.get("global_batch_size" if strong else "batch_size_per_gpu")
    kind = "in all (strong scaling)" if strong else "per GPU"
    done = study.runs["epochs"][run]
    return {
        "Dataset": shorten(str(name or unknown), 60)
        + ("" if size in (None, 0, unknown) else f" ({size} training samples)"),
        "Model": shorten(str(settings.get("model") or unknown), 60),
        "Epochs": str(settings.get("epochs") or (unknown if is_missing(done) else int(done))),
        "Batch": f"{batch} {kind}" if batch else unknown,
    }


def _find_cluster(study: Study) -> str | None:
    """Return the cluster that most runs name in their Slurm record."""
    configs = study.scales["config"]
    runs = study.runs["run"][study.runs["config"].isin(configs)]
    names = [look_up(study.settings(run), "slurm.cluster_name") for run in runs]
    names = Counter(name for name in names if isinstance(name, str) and name != "not recorded")
    return shorten(names.most_common(1)[0][0], 40) if names else None
