"""The summary of a study as text: one line per run, the speedups, and what is good of them."""

from collections import Counter

from common.console import shorten
from common.rounding import round_half_even
from scaling.runs.alike import look_up
from scaling.runs.ratios import GOOD_NODES_PCT, GOOD_ONE_NODE_PCT, POOR_PCT, divide, name_band
from scaling.runs.study import Study, compare_quality, count
from scaling.tables.fixed_work import make_ratio_cells
from scaling.tables.table import MISSING, ROUNDING, Cell, Table, draw_text, is_missing, say, show

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
    """Return the summary's figures as tables: one row per run, then ideal beside measured."""
    return [make_runs_table(study), make_ideal_table(study)]


def make_runs_table(study: Study) -> Table:
    """Return one row per run: its wall time, and the losses of its last epoch."""
    rows = []
    for scale in study.scales.itertuples():
        for run in study.list_runs(scale).itertuples():
            per_epoch_s = None if is_missing(run.wall_s) else divide(run.wall_s, run.epochs)
            rows.append({
                "job": say(shorten(run.name, 60)),
                "config": say(scale.label),
                "gpus": say(run.gpus),
                "nodes": show(run.nodes, 0),
                "wall_s": show(run.wall_s),
                "epoch_s": show(per_epoch_s),
                "val_loss": show(run.val_loss, 4),
                "val_accuracy": show(run.val_accuracy, 4),
            })  # fmt: skip
    headers = {name: header for name, (header, _) in _RUNS.items()}
    return Table("runs", "Runs", headers, rows, (), _list_remarks(study))


def make_ideal_table(study: Study) -> Table:
    """Return ideal beside measured by wall time, and how far repeats or epochs spread."""
    base = study.baseline
    rows = []
    for scale in study.scales.itertuples():
        ideal = scale.gpus / base.gpus
        speedup, efficiency = make_ratio_cells(study, scale, "walltime")
        lost = None if efficiency.value is None else (1 - efficiency.value) * 100
        rows.append({
            "gpus": say(scale.gpus),
            "ideal": show(ideal, sign="x"),
            "measured": _add_sign(speedup),
            "lost": show(lost, 1, sign="%", why=speedup.note or ""),
            "ideal_s": show(base.wall_s / ideal, why="no baseline time"),
            "wall_s": show(scale.wall_s, why="no wall time is recorded"),
            "spread": say(_describe_spread(study, scale)),
        })  # fmt: skip
    headers = {name: header for name, (header, _) in _IDEAL.items()}
    definitions = ("Lost: 100 % less the efficiency, by wall time.", ROUNDING)
    return Table("ideal", "Ideal versus measured", headers, rows, definitions)


def _add_sign(speedup: Cell) -> Cell:
    text = speedup.text + ("" if speedup.value is None else "x")
    return Cell(speedup.value, text, speedup.note)


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
    parts = [
        _draw("BENCHMARK RESULTS SUMMARY", _RUNS, make_runs_table(study).rows)
        + _format_speedups(study),
        _format_results(study, cluster),
        _draw("IDEAL VERSUS MEASURED", _IDEAL, make_ideal_table(study).rows),
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
        lines += [f"{_name(scale)}:", f"  Average time: {_format_wall(study, scale)}"]
        if is_missing(scale.wall_speedup):
            why = study.explain_no_ratio(scale, "walltime")
            lines.append(f"  Speedup: {MISSING} ({why})")
            continue
        lines.append(f"  Speedup: {round_half_even(scale.wall_speedup, 2)}x")
        lines.append(f"  Parallel efficiency: {round_half_even(scale.wall_efficiency_pct, 1)}%")
    return "\n".join(lines) + "\n"


def _name(scale) -> str:
    if is_missing(scale.nodes):
        return f"Multi-GPU ({scale.label})"
    kind = "Multi-Node" if scale.nodes > 1 else "Multi-GPU"
    return f"{kind} ({scale.gpus} GPUs, {count(int(scale.nodes), 'node')})"


def _format_wall(study: Study, scale) -> str:
    wall_s = study.spread(scale, "wall")
    if wall_s is None:
        return f"{MISSING} (no wall time is recorded)"
    mean = round_half_even(wall_s.mean, 2)
    if wall_s.kind != "repeats":
        return f"{mean} seconds"
    return (
        f"{mean} ± {round_half_even(wall_s.half_width, 2)} seconds (95 % interval, n = {wall_s.n})"
    )


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
