"""The summary of a study as text: a line a run, the speedups, and what is good of them."""

from collections import Counter
from fractions import Fraction

from common.console import shorten
from scaling.read.numbers import round_half_even
from scaling.runs.comparing import GOOD_NODES_PCT, GOOD_ONE_NODE_PCT, POOR_PCT, name_band
from scaling.runs.study import Scale, Study, count
from scaling.tables.cells import MISSING, Cell
from scaling.tables.fixed_work import (
    compute_efficiency,
    compute_speedup,
    explain_no_ratio,
    list_remarks,
    make_ratio_cells,
)
from scaling.tables.grid import ROUNDING, Grid, say, show
from scaling.tables.quality import compare_quality

_COLUMNS = (
    ("job", "Job ID", 10), ("config", "Configuration", 30), ("gpus", "GPUs", 6),
    ("nodes", "Nodes", 6), ("wall_s", "Time (s)", 10), ("epoch_s", "Time/Epoch (s)", 14),
    ("val_loss", "Val Loss", 9), ("val_accuracy", "Val Acc", 0),
)  # fmt: skip
_RESULTS = (
    ("config", "Configuration", 30), ("minutes", "Time (min)", 10), ("speedup", "Speedup", 8),
    ("efficiency", "Efficiency", 10), ("band", "Band", 0),
)  # fmt: skip
_IDEAL = (
    ("gpus", "GPUs", 5), ("ideal", "Ideal speedup", 13), ("measured", "Measured", 9),
    ("lost", "Lost", 6), ("ideal_s", "Ideal time (s)", 14), ("wall_s", "Time (s)", 10),
    ("spread", "Spread", 0),
)  # fmt: skip


def format_summary(study: Study, cluster: str | None = None) -> str:
    """Return the whole summary; times are wall times, so speedups are those of the work done."""
    parts = [
        format_benchmark(study) + format_speedups(study),
        format_results(study, cluster),
        format_ideal(study),
        format_notes(study),
    ]
    return "\n".join(parts)


def format_benchmark(study: Study) -> str:
    """Return a line a run: its wall time, and the losses of its last epoch."""
    rows = [{name: cell.text for name, cell in row.items()} for row in make_runs_grid(study).rows]
    return _lay_out("BENCHMARK RESULTS SUMMARY", _COLUMNS, rows)


def format_speedups(study: Study) -> str:
    """Return the speedup of each scale over the baseline, from the mean wall times."""
    base = study.baseline
    lines = ["SPEEDUP ANALYSIS", f"Baseline ({base.label}): {_format_wall(base)}"]
    for scale in study.scales:
        if scale is base:
            continue
        lines += [f"{_name(scale)}:", f"  Average time: {_format_wall(scale)}"]
        speedup = compute_speedup(study, scale, "walltime")
        if speedup is None or not study.is_compared(scale):
            lines.append(f"  Speedup: {MISSING} ({explain_no_ratio(study, scale, 'walltime')})")
            continue
        efficiency = compute_efficiency(study, scale, "walltime")
        lines.append(f"  Speedup: {round_half_even(speedup, 2)}x")
        lines.append(f"  Parallel efficiency: {round_half_even(efficiency * 100, 1)}%")
    return "\n".join(lines) + "\n"


def _name(scale: Scale) -> str:
    if scale.nodes is None:
        return f"Multi-GPU ({scale.label})"
    kind = "Multi-Node" if scale.nodes > 1 else "Multi-GPU"
    return f"{kind} ({scale.gpus} GPUs, {count(scale.nodes, 'node')})"


def _format_wall(scale: Scale) -> str:
    wall_s = scale.wall_s
    if wall_s is None:
        return f"{MISSING} (no wall time is recorded)"
    if wall_s.kind != "repeats":
        return f"{round_half_even(wall_s.mean, 2)} seconds"
    return (
        f"{round_half_even(wall_s.mean, 2)} ± {round_half_even(wall_s.half_width, 2)} seconds "
        f"(95 % interval, n = {wall_s.n})"
    )


def format_results(study: Study, cluster: str | None = None) -> str:
    """Return the block `Training Results on <cluster>`: what was trained, and how it scaled."""
    facts = describe_training(study)
    title = f"Training Results on {cluster or find_cluster(study) or 'this machine'}"
    head = "\n".join([title, *(f"  {name}: {value}" for name, value in facts.items())])
    rows = []
    for scale in study.scales:
        speedup, efficiency = make_ratio_cells(study, scale, "walltime")
        pct = None if efficiency.value is None else efficiency.value * 100
        rows.append({
            "config": scale.label,
            "minutes": _round(scale.wall_s.mean / 60 if scale.wall_s else None, 2),
            "speedup": speedup.text + ("" if speedup.value is None else "x"),
            "efficiency": _round(pct, 1) + ("" if pct is None else "%"),
            "band": "baseline" if scale is study.baseline else name_band(pct, scale.nodes),
        })  # fmt: skip
    return _lay_out(head, _RESULTS, rows)


def describe_training(study: Study) -> dict[str, str]:
    """Return dataset, model, epochs and batch as the baseline's run recorded them."""
    settings = study.baseline.latest.settings or {}
    dataset = settings.get("dataset")
    dataset = dataset if isinstance(dataset, dict) else {}
    size = dataset.get("train")
    strong = settings.get("scaling") == "strong"
    batch = settings.get("global_batch_size" if strong else "batch_size_per_gpu")
    kind = "in all (strong scaling)" if strong else "per GPU"
    name = shorten(dataset.get("name") or "not recorded", 60)
    return {
        "Dataset": name + (f" ({size} training samples)" if size else ""),
        "Model": shorten(settings.get("model") or "not recorded", 60),
        "Epochs": str(settings.get("epochs") or study.baseline.latest.epochs or "not recorded"),
        "Batch": f"{batch} {kind}" if batch else "not recorded",
    }


def find_cluster(study: Study) -> str | None:
    """Return the cluster that most runs name in their Slurm record."""
    names: Counter[str] = Counter()
    for scale in study.scales:
        for run in scale.runs:
            slurm = (run.settings or {}).get("slurm")
            name = slurm.get("cluster_name") if isinstance(slurm, dict) else None
            if isinstance(name, str) and name:
                names[shorten(name, 40)] += 1
    return names.most_common(1)[0][0] if names else None


def format_ideal(study: Study) -> str:
    """Return ideal beside measured: speedup, time, and how far repeats or epochs spread."""
    rows = [{name: cell.text for name, cell in row.items()} for row in make_ideal_grid(study).rows]
    return _lay_out("IDEAL VERSUS MEASURED", _IDEAL, rows)


def make_ideal_grid(study: Study) -> Grid:
    """Return the ideal-versus-measured table by wall time."""
    base_wall = study.baseline.wall_s
    rows = []
    for scale in study.scales:
        ideal = Fraction(scale.gpus, study.baseline.gpus)
        speedup, efficiency = make_ratio_cells(study, scale, "walltime")
        lost = None if efficiency.value is None else (1 - efficiency.value) * 100
        wall_s = scale.wall_s
        rows.append({
            "gpus": say(scale.gpus),
            "ideal": show(ideal, 2, sign="x"),
            "measured": Cell(speedup.value, speedup.text + ("x" if speedup.value else ""),
                             speedup.note),
            "lost": show(lost, 1, sign="%", why=speedup.note or ""),
            "ideal_s": show(base_wall and base_wall.mean / ideal, why="no baseline time"),
            "wall_s": show(wall_s and wall_s.mean, why="no wall time is recorded"),
            "spread": say(_describe_spread(scale)),
        })  # fmt: skip
    headers = {name: header for name, header, _ in _IDEAL}
    definitions = ("Lost: 100 % less the efficiency, by wall time.", ROUNDING)
    return Grid("ideal", "Ideal versus measured", headers, rows, definitions)


def _describe_spread(scale: Scale) -> str:
    wall_s, epoch_s = scale.wall_s, scale.epoch_s
    if wall_s and wall_s.kind == "repeats":
        return f"± {round_half_even(wall_s.half_width, 2)} s (95 %, n = {wall_s.n} runs)"
    if epoch_s and epoch_s.kind == "epochs":
        return f"1 run; an epoch ± {round_half_even(epoch_s.half_width, 2)} s (n = {epoch_s.n})"
    return "1 run; no steady state" if (scale.latest.epochs or 0) < 2 else "1 run"


def list_summary_grids(study: Study) -> list[Grid]:
    """Return the summary's figures as tables: a row a run, then ideal beside measured."""
    return [make_runs_grid(study), make_ideal_grid(study)]


def make_runs_grid(study: Study) -> Grid:
    """Return a row a run: its wall time, and the losses of its last epoch."""
    headers = {name: header for name, header, _ in _COLUMNS}
    rows = []
    for scale in study.scales:
        for run in scale.runs:
            per_epoch = run.wall_s / run.epochs if run.wall_s is not None and run.epochs else None
            rows.append({
                "job": say(shorten(run.name, 60)),
                "config": say(scale.label),
                "gpus": say(run.gpus),
                "nodes": show(run.nodes, 0),
                "wall_s": show(run.wall_s, 2),
                "epoch_s": show(per_epoch, 2),
                "val_loss": show(run.val_loss, 4),
                "val_accuracy": show(run.val_accuracy, 4),
            })  # fmt: skip
    remarks = tuple(_list_all_remarks(study))
    return Grid("runs", "Runs", headers, rows, (), remarks)


def _list_all_remarks(study: Study) -> list[str]:
    return list(dict.fromkeys([*list_remarks(study), *compare_quality(study)]))


def format_notes(study: Study) -> str:
    """Return what the figures are, and what to know of them."""
    lines = [
        "Time: training and validation of all epochs, warm-up included; Time/Epoch: that / epochs.",
        "Val Loss and Val Acc: of the last epoch. Speedup and efficiency are by this time.",
        f"Bands: good is above {GOOD_ONE_NODE_PCT} % on one node and above {GOOD_NODES_PCT} % "
        f"across nodes, poor is under {POOR_PCT} %.",
        ROUNDING,
        *(f"- {remark}" for remark in _list_all_remarks(study)),
    ]
    return "\n".join(["NOTES", *(shorten(line, 400) for line in lines)]) + "\n"


def _round(value: Fraction | float | None, places: int) -> str:
    return MISSING if value is None else round_half_even(value, places)


def _lay_out(title: str, columns: tuple, rows: list[dict[str, str]]) -> str:
    """Lay rows out in columns of a fixed width; a longer cell pushes the rest to the right."""
    header = " ".join(text.ljust(width) for _, text, width in columns)
    lines = (" ".join(row[name].ljust(width) for name, _, width in columns) for row in rows)
    return "\n".join([title, header.rstrip(), *(line.rstrip() for line in lines)]) + "\n"
