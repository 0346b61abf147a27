"""Tables with a row per scale, setting or strategy of a study: how it scales, and what differs."""

import math

import pandas as pd

from common.errors import UserError
from common.rounding import round_half_even
from scaling.runs.compare import (
    COMPARED_SETTINGS,
    WORK_TOLERANCE,
    divide,
    list_differences,
    look_up,
    over_repeats,
)
from scaling.runs.study import Study, count
from scaling.tables.hardware import add_hardware, make_hardware_cells
from scaling.tables.readme import explain_superlinear
from scaling.tables.table import ROUNDING, Cell, Table, join_notes, make_table, missing, say, show

CONFIG = ("Configuration", lambda row: say(row.label))


def _list_unlike(study: Study, run: int, base: int, but: str) -> list[str]:
    """List what two runs (by position) differ in besides the setting `but`."""
    names = tuple(name for name in COMPARED_SETTINGS if name != but)
    return list_differences(study.settings(run), study.settings(base), names)


def _name_rate(study: Study) -> str:
    return f"{study.noun.capitalize()}/sec (global)"


# ---- Fixed work: throughput and wall time at each number of GPUs -------------------------------

_COLUMNS = {
    "throughput": ("throughput", "speedup", "efficiency_pct"),
    "walltime": ("wall", "wall_speedup", "wall_efficiency_pct"),
}
_FORMULAS = {
    "throughput": "throughput / the baseline's throughput",
    "walltime": "the baseline's wall time / wall time",
}


def make_fixed_work(study: Study, basis: str = "throughput") -> Table:
    """Return the table; `basis` is what speedup and efficiency are made from."""
    base, scales = study.find_baseline(basis), list(study.scales.itertuples())
    base_name = count(int(base.gpus), "GPU")
    ratios = {row.config: make_ratio_cells(study, row, basis) for row in scales}

    def show_rate(row) -> Cell:
        spread = study.spread(row, "throughput")
        note = join_notes(spread and spread.describe(), *row.run_notes)
        return show(row.throughput_per_s, note=note, why=note or "")

    def show_wall(row) -> Cell:
        spread = study.spread(row, "wall")
        return show(row.wall_s, note=spread and spread.describe())

    has_twins = study.scales["gpus"].duplicated().any()
    columns = {
        **({"config": CONFIG} if has_twins else {}),
        "gpus": "GPUs",
        "throughput_per_s": (_name_rate(study), show_rate),
        "wall_s": ("Wall time (s)", show_wall),
        "speedup": (f"Speedup vs {base_name}", lambda row: ratios[row.config][0]),
        "efficiency": ("Scaling efficiency", lambda row: ratios[row.config][1]),
    }
    definitions = (
        f"Basis: {basis}. Speedup = {_FORMULAS[basis]}; efficiency = speedup / (GPUs / "
        f"{base.gpus}). Baseline: {base_name} ({study.sources[base.latest].name}).",
        study.define_throughput(),
        "Wall time: as it stands there." if study.definition else (
            "Wall time: all epochs, warm-up and validation included."),
        ROUNDING,
    )  # fmt: skip
    title = f"Fixed work: speedup by {'wall time' if basis == 'walltime' else 'throughput'}"
    table = make_table("fixed_work", title, columns, scales, definitions=definitions,
                       remarks=study.list_remarks())  # fmt: skip
    return add_hardware(study, table, scales)


def make_ratio_cells(study: Study, row, basis: str) -> tuple[Cell, Cell]:
    """Return the cells of speedup and efficiency (a fraction of 1), or why there are none.

    row: of study.scales. A speedup has an interval where both scales have repeats.
    """
    measure, *names = _COLUMNS[basis]
    speedup, efficiency_pct = (getattr(row, name) for name in names)
    if math.isnan(speedup):
        none = missing(study.explain_no_ratio(row, basis))
        return none, none
    note = f"unlike runs compared (--allow-unlike): {row.difference}" if row.difference else None
    if basis == "walltime" and abs(row.work) > WORK_TOLERANCE:
        note = join_notes(note, f"off by as much: {study.describe_work(row)}")
    base, interval = study.find_baseline(basis), None
    spreads = [study.spread(each, measure) for each in (row, base)]
    if row.config != base.config and all(spread.kind == "repeats" for spread in spreads):
        half = speedup * math.hypot(*(spread.half_width / spread.mean for spread in spreads))
        half = round_half_even(half, 2)
        interval = f"± {half}: from both 95 % intervals, widths added in squares"
    superlinear = explain_superlinear(efficiency_pct)
    return (
        show(speedup, note=join_notes(note, interval)),
        show(efficiency_pct / 100, note=join_notes(note, superlinear)),
    )


# ---- A model that grows with the GPUs ----------------------------------------------------------


def make_growing(study: Study) -> Table:
    """Return one row per scale; raises UserError unless two models were run.

    study: of runs whose model grows with the GPUs.
    """
    base, *_ = scales = list(study.scales.itertuples())
    told = {row.config: study.settings(row.latest).get("parameters") for row in scales}
    parameters = {config: n if isinstance(n, int) else None for config, n in told.items()}
    tflops = {row.config: make_hardware_cells(study, row)["tflops_per_gpu"] for row in scales}
    if len(set(parameters.values())) < 2:
        raise UserError(
            "no two models ran on different numbers of GPUs; submit them with: "
            "python scripts/submit.py 'gpt2/growing/*'"
        )

    def compare(row) -> Cell:
        """What differs in more than the model's size is not compared."""
        unlike = "; ".join(_list_unlike(study, row.latest, base.latest, "model_size"))
        if unlike and not study.allow_unlike:
            return missing(f"not compared with {base.label}: {unlike}; --allow-unlike compares it")
        ratio = divide(tflops[row.config].value, tflops[base.config].value)
        note = f"unlike {base.label}: {unlike}" if unlike else None
        why = "flops_per_sample or throughput is not recorded"
        return show(ratio and ratio * 100, 1, note=note, why=why)

    columns = {
        "gpus": "GPUs",
        "parameters_m": (
            "Parameters (million)", lambda row: show(divide(parameters[row.config], 1e6), 1)),
        "throughput_per_s": _name_rate(study),
        "efficiency_pct": ("Efficiency (%)", compare),
    }  # fmt: skip
    definitions = (
        "The model grows with the GPUs, and each GPU keeps its batch. "
        "Efficiency: TFLOP/s per GPU over those of the smallest scale "
        f"({base.label}, job {study.sources[base.latest].name}). Tokens/sec per GPU fall as each "
        "token takes more work, and say nothing of scaling.",
        study.define_throughput(),
        ROUNDING,
    )
    table = make_table("growing", "A model that grows with the GPUs", columns, scales,
                       definitions=definitions, remarks=study.left_out)  # fmt: skip
    return add_hardware(study, table, scales)


# ---- Time to a target: when the validation loss or accuracy first reached it -------------------

_NAMES = {"val_loss": "validation loss", "val_accuracy": "validation accuracy"}


def make_target_table(study: Study, column: str, target: float) -> Table:
    """Return seconds and epochs until `val_loss` fell, or `val_accuracy` rose, to the target.

    target: a loss, or an accuracy from 0 to 1. Means are over the runs of a scale that reached it.
    """
    name, best = _NAMES[column], "min" if column == "val_loss" else "max"
    runs = dict(list(_find_reached(study, column, target, best).groupby("config")))
    base_s, rows = runs[study.baseline.config]["elapsed_s"].mean(), []
    for scale in study.scales.itertuples():
        found = runs[scale.config]
        reached = found[found["epoch"].notna()]
        best_cell = show(found["best"].agg(best), 4, why=f"no {name} is recorded")
        why = best_cell.note or f"not reached: the best is {best_cell.text}"
        elapsed_s = _average(reached["elapsed_s"], 2, why)
        speedup = divide(base_s, elapsed_s.value)
        no_speedup = elapsed_s.note or f"{study.base_name} has no such time"
        rows.append({
            "config": scale.label,
            "reached": f"{len(reached)} of {count(len(found), 'run')}",
            "epochs": _average(reached["epoch"], 1, why),
            "elapsed_s": elapsed_s,
            "speedup": show(speedup, why=no_speedup) if scale.is_compared else (
                missing(study.explain_no_ratio(scale))),
            "best": best_cell,
        })  # fmt: skip
    columns = {
        "config": "Configuration", "reached": "Reached by", "epochs": "Epochs",
        "elapsed_s": "Time (s)", "speedup": f"Speedup vs {study.base_name}", "best": f"Best {name}",
    }  # fmt: skip
    sign = "fell to" if column == "val_loss" else "rose to"
    definitions = (
        f"Epochs and time until the {name} of an epoch first {sign} {target:.10g}: training and "
        "validation, the first epoch included; a mean over the runs that reached it.",
        ROUNDING,
    )
    return make_table("target", f"Time to a {name} of {target:.10g}", columns, rows,
                      definitions=definitions, remarks=study.list_remarks())  # fmt: skip


def _find_reached(study: Study, column: str, target: float, best: str) -> pd.DataFrame:
    """Return per run the epoch that first reached the target, the seconds to its end, the best.

    The seconds are missing where an epoch up to it has no record, or none of its time.
    """
    epochs = study.epochs[["run", "epoch", "epoch_s", column]].sort_values(["run", "epoch"])
    by_run = epochs.groupby("run")
    elapsed_s = by_run["epoch_s"].transform(lambda times: times.cumsum(skipna=False))
    epochs["elapsed_s"] = elapsed_s.where(by_run.cumcount() + 1 == epochs["epoch"])
    is_there = epochs[column] <= target if best == "min" else epochs[column] >= target
    first = epochs[is_there].drop_duplicates("run").set_index("run")[["epoch", "elapsed_s"]]
    bests = by_run[column].agg(best).rename("best")
    return study.runs.set_index("run")[["config", "name"]].join([first.astype("float64"), bests])


def _average(values: pd.Series, places: int, why: str) -> Cell:
    """Return the mean of runs with its interval; `why` there is none, or that a time is missing."""
    if values.empty:
        return missing(why)
    if values.isna().any():
        return missing("the time of an epoch up to it is not recorded")
    spread = over_repeats(values.tolist())
    return show(spread.mean, places, spread.describe(places))


# ---- One setting as an experiment: runs that differ in it alone --------------------------------


def make_option_tables(study: Study, name: str, values: list[str]) -> list[Table]:
    """Return one table per scale that has runs with two of these values or more.

    name: of a setting in run.json, with dots where it is nested (`versions.torch`); values: as
    they are typed, `none` for null. Raises UserError when no scale has two of them, and when two
    of the runs differ in something else as well.
    """

    def read(run: int) -> str:
        value = look_up(study.settings(run), name)
        return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    found, tables = study.runs.assign(value=study.runs["run"].map(read)), []
    for (gpus, nodes), runs in found.groupby(["gpus", "nodes_key"]):
        groups = {value: runs[runs["value"] == value] for value in values}
        groups = {value: group for value, group in groups.items() if len(group)}
        if len(groups) > 1:
            scale = count(gpus, "GPU") + (f", {nodes} nodes" if nodes > 1 else "")
            tables.append(_compare_values(study, name, groups, scale))
    if not tables:
        raise UserError(
            f"no scale has runs with two of {name} = {', '.join(values)}; the runs recorded: "
            f"{', '.join(sorted(set(found['value'])))}"
        )
    return tables


def _compare_values(study: Study, name: str, groups: dict, scale: str) -> Table:
    base, rows = next(iter(groups)), []
    reference = groups[base]["run"].iloc[-1]
    base_rates = groups[base]["throughput_per_s"].dropna().tolist()
    for value, group in groups.items():
        for run in group["run"]:
            unlike = _list_unlike(study, run, reference, name)
            if unlike := [each for each in unlike if not each.startswith(f"{name} ")]:  # the batch
                raise UserError(
                    f"job {study.sources[run].name} ({name} {value}) differs in more than {name}: "
                    f"{'; '.join(unlike)}"
                )
        rates = group["throughput_per_s"].dropna().tolist()
        mean = over_repeats(rates) if rates else None
        rows.append({
            "value": value,
            "runs": len(group),
            "throughput_per_s": show(mean and mean.mean, note=mean and mean.describe()),
            "difference_pct": missing("the others are set against it") if value == base else (
                _compare_rates(rates, base_rates)),
            "val_loss": group["val_loss"].mean(),
        })  # fmt: skip
    columns = {
        "value": name,
        "runs": "Runs",
        "throughput_per_s": _name_rate(study),
        "difference_pct": f"Difference from {base} (%)",
        "val_loss": ("Val Loss", 4),
    }
    definitions = (
        study.define_throughput(),
        "Difference: of the means; with two runs or more of both, its 95 % interval (Welch). An "
        "interval that holds 0 shows no difference.",
        ROUNDING,
    )
    return make_table("option", f"{name} on {scale}", columns, rows, definitions=definitions)


def _compare_rates(rates: list[float], base: list[float]) -> Cell:
    """Return the difference of two means in % of the second, with its interval as the note."""
    if not rates or not base:
        return missing("no throughput to compare")
    means = [sum(each) / len(each) for each in (rates, base)]
    difference_pct = (means[0] / means[1] - 1) * 100
    if min(len(rates), len(base)) < 2:
        return show(difference_pct, 1, note="one run: whether it is more than chance is unknown")
    from scipy.stats import ttest_ind  # not for --help

    interval = ttest_ind(rates, base, equal_var=False).confidence_interval(0.95)
    low, high = (each / means[1] * 100 for each in (interval.low, interval.high))
    if math.isnan(low):
        return show(difference_pct, 1, note="the repeats are equal: no interval")
    shown = f"{round_half_even(low, 1)} to {round_half_even(high, 1)} %"
    holds_0 = ", which holds 0: no difference shown" if low <= 0 <= high else ""
    return show(difference_pct, 1, note=f"95 % interval {shown}{holds_0}")


# ---- Strategies: what a rank holds and sends, at one number of GPUs and nodes ------------------

_HELD = {"parameter": "Parameters", "gradient": "Gradients", "optimizer": "Optimizer"}
_PROFILED = {"comm_ms": "Communication (ms/step)", "comm_exposed_ms": "Of it exposed (ms/step)",
             "overlap_pct": "Overlap (%)"}  # fmt: skip
_KERNELS = {"nccl_ms": "NCCL kernels (ms/step)", "kernels_ms": "Other kernels (ms/step)"}
# What must be equal for a comparison to mean anything: the numbers that are kept and computed with.
_DTYPES = ("precision", "state_dtypes")


def make_strategies(study: Study) -> list[Table]:
    """Return one table per scale that ran with two strategies or more.

    Raises UserError when there is none, and when two strategies compute with other numbers.
    """
    tables = []
    for (gpus, _), rows in study.configs.groupby(["gpus", "nodes_key"]):
        rows = list(rows.sort_values("latest").itertuples())
        names = {row.config: name_strategy(study.settings(row.latest)) for row in rows}
        if gpus > 1 and len(set(names.values())) > 1:
            tables.append(_compare_strategies(study, rows, names))
    if not tables:
        raise UserError(
            "no two strategies ran at one scale; submit them with: "
            "python scripts/submit.py 'gpt2/strategies/*'"
        )
    return tables


def name_strategy(settings: dict) -> str:
    """Return `fsdp`, `tp of 4`, `fsdp, recomputed` (activation checkpointing), `ddp, nsys`."""
    name = str(settings.get("strategy") or "not recorded")
    name += f" of {ranks}" if (ranks := settings.get("tensor_parallel")) else ""
    name += ", recomputed" if settings.get("activation_checkpointing") else ""
    return f"{name}, nsys" if settings.get("nsys_steps") else name


def _compare_strategies(study: Study, rows: list, names: dict) -> Table:
    base = next((row for row in rows if names[row.config] == "ddp"), rows[0])
    figures, records = _measure_ranks(study, rows), []
    for row in rows:
        settings, reference = (study.settings(each.latest) for each in (row, base))
        for name in _DTYPES:
            here, there = settings.get(name), reference.get(name)
            if here != there:
                jobs = [f"job {study.sources[each.latest].name}" for each in (row, base)]
                raise UserError(
                    f"{jobs[0]} has {name} {here}, {jobs[1]} {there}: "
                    "strategies compare at equal numbers alone; run one of them again"
                )
        unlike = "; ".join(_list_unlike(study, row.latest, base.latest, "strategy"))
        own = figures.loc[row.latest]
        activation = (
            show(own["activation_mib"], 1)
            if settings.get("device") == "cuda"
            else (missing("on a CPU the peak is that of the process, its libraries among it"))
        )
        note = f"unlike {base.label}: {unlike}" if unlike else None
        records.append({
            **own,
            "strategy": say(names[row.config], note),
            "wall_s": row.wall_s,
            "val_loss": study.runs["val_loss"][row.latest],
            "activation_mib": activation,
            **{name: show(own[name], 1, why="not profiled: train with --profile 4")
               for name in _PROFILED},
            **{name: show(own[name], 1, why='no kernels recorded: profiler = "nsys", 20 steps '
                          "or more") for name in _KERNELS},
        })  # fmt: skip
    has_kernels = figures["nccl_ms"].notna().any()
    columns = {
        "strategy": "Strategy",
        "wall_s": "Wall time (s)",
        "val_loss": ("Val Loss", 4),
        "peak_mib": ("Peak (MiB)", 1),
        **{f"{name}_mib": (f"{title} (MiB)", 1) for name, title in _HELD.items()},
        "activation_mib": "Activations (MiB)",
        **_PROFILED,
        **(_KERNELS if has_kernels else {}),
    }
    definitions = [
        "Each is the most of any rank. Parameters, gradients and optimizer: kept after the first "
        "step. Peak: of a rank's allocations on its GPU. Activations: its peak less what it keeps.",
        "Communication: time in which any collective ran, in the steps of --profile, mean of the "
        "profiled ranks. Exposed: nothing was computed meanwhile. Overlap: the rest of it.",
        *(["Kernels: nsys's sums over the steps it recorded, mean of the recorded ranks; those "
           "that run at once count each."] if has_kernels else []),
        study.define_throughput(),
        ROUNDING,
    ]  # fmt: skip
    sources = [f"{names[row.config]}: job {study.sources[row.latest].name}" for row in rows]
    table = make_table("strategies", f"Strategies on {base.label}", columns, records,
                       definitions=definitions, sources=sources)  # fmt: skip
    return add_hardware(study, table, rows)


def _measure_ranks(study: Study, rows: list) -> pd.DataFrame:
    """Return per run what the columns of memory, communication and kernels show, NaN for none."""
    held = {f"{name}_mib": study.rank_epochs[f"{name}_bytes"] / 2**20 for name in _HELD}
    ranks = study.rank_epochs.assign(**held)
    ranks["activation_mib"] = ranks["peak_mib"] - ranks[[*held]].sum(axis=1, skipna=False)
    steady = ranks[~ranks["is_warmup"]].groupby("run")
    most = steady[["peak_mib", *held, "activation_mib"]].max()
    by_run = ranks.groupby("run")
    sent = pd.DataFrame({
        "comm_ms": by_run["profiled_comm_per_step_s"].mean() * 1000,
        "comm_exposed_ms": by_run["profiled_exposed_per_step_s"].mean() * 1000,
    })  # fmt: skip
    sent["overlap_pct"] = (1 - divide(sent["comm_exposed_ms"], sent["comm_ms"])) * 100
    kernels = {row.latest: _measure_kernels(study, row) for row in rows}
    return pd.DataFrame(kernels, index=[*_KERNELS]).T.join([most, sent])


def _measure_kernels(study: Study, row) -> tuple[float, float]:
    """Return milliseconds per step in NCCL's kernels and in all others, as nsys recorded them."""
    run, steps = study.find_run(row), study.settings(row.latest).get("nsys_steps")
    if not (run and run.kernels and steps):
        return math.nan, math.nan
    nccl, others = (
        sum(each.total_s for node in run.kernels for each in node if each.is_communication == sent)
        for sent in (True, False)
    )
    per_step = steps * len(run.kernels) / 1000
    return nccl / per_step, others / per_step
