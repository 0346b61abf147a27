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
from scaling.tables.scaling import NO_WALL_TIME, make_ratio_cells
from scaling.tables.table import (
    MISSING,
    ROUNDING,
    Cell,
    Table,
    draw_text,
    is_missing,
    make_table,
    say,
    show,
    to_text,
)

RUN_WIDTHS = (10, 30, 6, 6, 10, 14, 9, 0)  # the least, of the columns of the runs


def make_summary_tables(study: Study) -> list[Table]:
    """Return the summary's figures as tables: runs, ideal beside measured, the use of the GPUs.

    Of a run: its wall time, and the losses of its last epoch. Ideal beside measured is by wall
    time, with how far repeats or epochs spread.
    """
    base, scales = study.baseline, list(study.scales.itertuples())
    ratios = {scale.config: make_ratio_cells(study, scale, "walltime") for scale in scales}
    runs = [(scale, run) for scale in scales for run in study.list_runs(scale).itertuples()]
    of_run = {
        "job": ("Job ID", lambda row: say(shorten(row[1].name, 60))),
        "config": ("Configuration", lambda row: say(row[0].label)),
        "gpus": ("GPUs", lambda row: say(row[1].gpus)),
        "nodes": ("Nodes", lambda row: show(row[1].nodes, 0)),
        "wall_s": ("Time (s)", lambda row: show(row[1].wall_s)),
        "epoch_s": ("Time/Epoch (s)", lambda row: show(
            None if is_missing(row[1].wall_s) else divide(row[1].wall_s, row[1].epochs))),
        "val_loss": ("Val Loss", lambda row: show(row[1].val_loss, 4)),
        "val_accuracy": ("Val Acc", lambda row: show(row[1].val_accuracy, 4)),
    }  # fmt: skip

    def show_lost(scale) -> Cell:
        speedup, efficiency = ratios[scale.config]
        lost = None if efficiency.value is None else (1 - efficiency.value) * 100
        return show(lost, 1, sign="%", why=speedup.note or "")

    of_scale = {
        "gpus": ("GPUs", lambda scale: say(scale.gpus)),
        "ideal": ("Ideal speedup", lambda scale: show(scale.gpus / base.gpus, sign="x")),
        "measured": ("Measured", lambda scale: _add_sign(ratios[scale.config][0])),
        "lost": ("Lost", show_lost),
        "ideal_s": ("Ideal time (s)", lambda scale: show(
            base.wall_s / (scale.gpus / base.gpus), why="no baseline time")),
        "wall_s": ("Time (s)", lambda scale: show(scale.wall_s, why=NO_WALL_TIME)),
        "spread": ("Spread", lambda scale: say(_describe_spread(study, scale))),
    }  # fmt: skip
    definitions = ("Lost: 100 % less the efficiency, by wall time.", ROUNDING)
    use = make_hardware_table(study)
    return [
        make_table("runs", "Runs", of_run, runs, remarks=_list_remarks(study)),
        make_table("ideal", "Ideal versus measured", of_scale, scales, definitions=definitions),
        *([use] if use.max_width else []),  # of metrics files there is none
    ]


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
         *_draw(_make_results(study, ideal))],
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
        return f"{MISSING} ({NO_WALL_TIME})"
    mean = round_half_even(wall_s.mean, 2)
    if wall_s.kind != "repeats":
        return f"{mean} seconds"
    half = round_half_even(wall_s.half_width, 2)
    return f"{mean} ± {half} seconds (95 % interval, n = {wall_s.n})"


def _make_results(study: Study, ideal: Table) -> Table:
    """Return a row per scale: minutes, speedup, efficiency and what that is called."""
    rows = list(zip(study.scales.itertuples(), ideal.rows, strict=True))

    def say_band(row) -> Cell:
        if row is rows[0]:
            return say("baseline")
        return say(name_band(row[0].wall_efficiency_pct, row[0].nodes) or MISSING)

    columns = {
        "config": ("Configuration", lambda row: say(row[0].label)),
        "minutes": ("Time (min)", lambda row: show(row[0].wall_s / 60)),
        "speedup": ("Speedup", lambda row: row[1]["measured"]),
        "efficiency": ("Efficiency",
                       lambda row: show(row[0].wall_efficiency_pct, 1, sign="%")),
        "band": ("Band", say_band),
    }  # fmt: skip
    return make_table("results", "", columns, rows)


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
