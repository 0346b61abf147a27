"""The summary of a study as text: one line per run, the speedups, and what is good of them."""

from collections import Counter
from dataclasses import replace

from common.console import shorten
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
from scaling.tables.fixed_work import make_ratio_cells
from scaling.tables.hardware import make_hardware_table
from scaling.tables.table import (
    MISSING,
    ROUNDING,
    Cell,
    Table,
    draw_text,
    is_missing,
    say,
    show,
    to_text,
)

# Column -> header and the least width in the text.
_RUNS = {
    "job": ("Job ID", 10), "config": ("Configuration", 30), "gpus": ("GPUs", 6),
    "nodes": ("Nodes", 6), "wall_s": ("Time (s)", 10), "epoch_s": ("Time/Epoch (s)", 14),
    "val_loss": ("Val Loss", 9), "val_accuracy": ("Val Acc", 0),
}  # fmt: skip
_RESULTS = {
    "config": ("Configuration", 30), "minutes": ("Time (min)", 10), "speedup": ("Speedup", 8),
    "efficiency": ("Efficiency", 10), "band": ("Band", 0),
}  # fmt: skip
_IDEAL = {
    "gpus": ("GPUs", 5), "ideal": ("Ideal speedup", 13), "measured": ("Measured", 9),
    "lost": ("Lost", 6), "ideal_s": ("Ideal time (s)", 14), "wall_s": ("Time (s)", 10),
    "spread": ("Spread", 0),
}  # fmt: skip


def make_summary_tables(study: Study) -> list[Table]:
    """Return the summary's figures as tables: runs, ideal beside measured, the use of the GPUs.

    Of a run: its wall time, and the losses of its last epoch. Ideal beside measured is by wall
    time, with how far repeats or epochs spread.
    """
    runs, ideal, base = [], [], study.baseline
    for scale in study.scales.itertuples():
        for run in study.list_runs(scale).itertuples():
            runs.append({
                "job": say(shorten(run.name, 60)),
                "config": say(scale.label),
                "gpus": say(run.gpus),
                "nodes": show(run.nodes, 0),
                "wall_s": show(run.wall_s),
                "epoch_s": show(None if is_missing(run.wall_s) else divide(run.wall_s, run.epochs)),
                "val_loss": show(run.val_loss, 4),
                "val_accuracy": show(run.val_accuracy, 4),
            })  # fmt: skip
        times = scale.gpus / base.gpus
        speedup, efficiency = make_ratio_cells(study, scale, "walltime")
        lost = None if efficiency.value is None else (1 - efficiency.value) * 100
        ideal.append({
            "gpus": say(scale.gpus),
            "ideal": show(times, sign="x"),
            "measured": _add_sign(speedup),
            "lost": show(lost, 1, sign="%", why=speedup.note or ""),
            "ideal_s": show(base.wall_s / times, why="no baseline time"),
            "wall_s": show(scale.wall_s, why="no wall time is recorded"),
            "spread": say(_describe_spread(study, scale)),
        })  # fmt: skip
    definitions = ("Lost: 100 % less the efficiency, by wall time.", ROUNDING)
    use = make_hardware_table(study)
    return [
        Table("runs", "Runs", _name(_RUNS), runs, (), _list_remarks(study)),
        Table("ideal", "Ideal versus measured", _name(_IDEAL), ideal, definitions),
        *([use] if use.max_width else []),  # of metrics files there is none
    ]


def _name(columns: dict[str, tuple[str, int]]) -> dict[str, str]:
    return {name: header for name, (header, _) in columns.items()}


def _add_sign(speedup: Cell) -> Cell:
    return speedup if speedup.value is None else replace(speedup, text=f"{speedup.text}x")


def _describe_spread(study: Study, scale) -> str:
    wall_s, epoch_s = study.spread(scale, "wall"), study.spread(scale, "epoch")
    if wall_s and wall_s.kind == "repeats":
        return f"± {round_half_even(wall_s.half_width, 2)} s (95 %, n = {wall_s.n} runs)"
    if epoch_s and epoch_s.kind == "epochs":
        return f"1 run; an epoch ± {round_half_even(epoch_s.half_width, 2)} s (n = {epoch_s.n})"
    return "1 run" if study.runs["is_steady"][scale.latest] else "1 run; no steady state"


def _list_remarks(study: Study) -> list[str]:
    return list(dict.fromkeys([*study.list_remarks(), *compare_quality(study)]))


# ---- As text ---------------------------------------------------------------------------------


def format_summary(study: Study, cluster: str | None = None) -> str:
    """Return the whole summary; times are wall times, so speedups are those of the work done."""
    runs, ideal, *use = make_summary_tables(study)
    parts = [
        _draw("BENCHMARK RESULTS SUMMARY", _RUNS, runs.rows) + _format_speedups(study),
        _format_results(study, cluster),
        _draw("IDEAL VERSUS MEASURED", _IDEAL, ideal.rows),
        *(to_text([replace(table, title="USE OF THE GPUS")]) for table in use),
        _format_notes(study),
    ]
    return "\n".join(parts)


def _draw(title: str, columns: dict[str, tuple[str, int]], rows: list[dict[str, Cell]]) -> str:
    headers, widths = zip(*columns.values(), strict=True)
    drawn = draw_text(headers, [[row[name].text for name in columns] for row in rows], widths)
    return f"{title}\n{drawn}\n"


def _format_speedups(study: Study) -> str:
    """Return the speedup of each scale over the baseline, from the mean wall times."""
    base, *scales = study.scales.itertuples()
    lines = ["SPEEDUP ANALYSIS", f"Baseline ({base.label}): {_format_wall(study, base)}"]
    for scale in scales:
        name = f"Multi-GPU ({scale.label})"
        if not is_missing(scale.nodes):
            kind = "Multi-Node" if scale.nodes > 1 else "Multi-GPU"
            name = f"{kind} ({scale.gpus} GPUs, {count(int(scale.nodes), 'node')})"
        lines += [f"{name}:", f"  Average time: {_format_wall(study, scale)}"]
        if is_missing(scale.wall_speedup):
            why = study.explain_no_ratio(scale, "walltime")
            lines.append(f"  Speedup: {MISSING} ({why})")
            continue
        lines.append(f"  Speedup: {round_half_even(scale.wall_speedup, 2)}x")
        lines.append(f"  Parallel efficiency: {round_half_even(scale.wall_efficiency_pct, 1)}%")
    return "\n".join(lines) + "\n"


def _format_wall(study: Study, scale) -> str:
    wall_s = study.spread(scale, "wall")
    if wall_s is None:
        return f"{MISSING} (no wall time is recorded)"
    mean = round_half_even(wall_s.mean, 2)
    if wall_s.kind != "repeats":
        return f"{mean} seconds"
    half = round_half_even(wall_s.half_width, 2)
    return f"{mean} ± {half} seconds (95 % interval, n = {wall_s.n})"


def _format_results(study: Study, cluster: str | None) -> str:
    """Return the block `Training Results on <cluster>`: what was trained, and how it scaled."""
    title = f"Training Results on {cluster or _find_cluster(study) or 'this machine'}"
    facts = [f"  {name}: {value}" for name, value in _describe_training(study).items()]
    rows = []
    for place, scale in enumerate(study.scales.itertuples()):
        band = name_band(scale.wall_efficiency_pct, scale.nodes) or MISSING
        rows.append({
            "config": say(scale.label),
            "minutes": show(scale.wall_s / 60),
            "speedup": _add_sign(make_ratio_cells(study, scale, "walltime")[0]),
            "efficiency": show(scale.wall_efficiency_pct, 1, sign="%"),
            "band": say(band if place else "baseline"),
        })  # fmt: skip
    return _draw("\n".join([title, *facts]), _RESULTS, rows)


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
    names: Counter[str] = Counter()
    for scale in study.scales.itertuples():
        for run in study.list_runs(scale)["run"]:
            name = look_up(study.settings(run), "slurm.cluster_name")
            if isinstance(name, str) and name and name != "not recorded":
                names[shorten(name, 40)] += 1
    return names.most_common(1)[0][0] if names else None


def _format_notes(study: Study) -> str:
    """Return what the figures are, and what to know of them."""
    lines = [
        "Time: training and validation of all epochs, warm-up included; Time/Epoch: that / epochs.",
        "Val Loss and Val Acc: of the last epoch. Speedup and efficiency are by this time.",
        f"Bands: good is above {GOOD_ONE_NODE_PCT} % on one node and above {GOOD_NODES_PCT} % "
        f"across nodes, poor is under {POOR_PCT} %.",
        ROUNDING,
        *(f"- {remark}" for remark in _list_remarks(study)),
    ]
    return "\n".join(["NOTES", *(shorten(line, 400) for line in lines)]) + "\n"
