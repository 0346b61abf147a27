"""One setting as an experiment: runs that differ in it alone, at one scale, side by side."""

import math

from common.errors import UserError
from common.rounding import round_half_even
from scaling.runs.compare import COMPARED_SETTINGS, list_differences, look_up, over_repeats
from scaling.runs.study import Study, count
from scaling.tables.table import ROUNDING, Cell, Table, missing, say, show


def make_option_tables(study: Study, name: str, values: list[str]) -> list[Table]:
    """Return one table per scale that has runs with two of these values or more.

    name: of a setting in run.json, with dots where it is nested (`versions.torch`); values: as
    they are typed, `none` for null. Raises UserError when no scale has two of them, and when two
    of the runs differ in something else as well.
    """
    found = study.runs.assign(value=[_read(study, run, name) for run in study.runs["run"]])
    recorded = sorted(set(found["value"]))
    tables = []
    for (gpus, nodes), runs in found.groupby(["gpus", "nodes_key"]):
        groups = {value: runs[runs["value"] == value] for value in values}
        groups = {value: group for value, group in groups.items() if len(group)}
        if len(groups) > 1:
            scale = count(gpus, "GPU") + (f", {nodes} nodes" if nodes > 1 else "")
            tables.append(_make_table(study, name, groups, scale))
    if not tables:
        raise UserError(
            f"no scale has runs with two of {name} = {', '.join(values)}; the runs recorded: "
            f"{', '.join(recorded)}"
        )
    return tables


def _read(study: Study, run: int, name: str) -> str:
    value = look_up(study.settings(run), name)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _make_table(study: Study, name: str, groups: dict, scale: str) -> Table:
    base = next(iter(groups))
    reference = study.settings(groups[base]["run"].iloc[-1])
    others = tuple(each for each in COMPARED_SETTINGS if each != name)
    for value, group in groups.items():
        for run in group["run"]:
            unlike = list_differences(study.settings(run), reference, others)
            if unlike := [each for each in unlike if not each.startswith(f"{name} ")]:  # the batch
                raise UserError(
                    f"job {study.sources[run].name} ({name} {value}) differs in more than {name}: "
                    f"{'; '.join(unlike)}"
                )
    headers = {
        "value": name,
        "runs": "Runs",
        "throughput_per_s": f"{study.noun.capitalize()}/sec (global)",
        "difference_pct": f"Difference from {base} (%)",
        "val_loss": "Val Loss",
    }
    rows = [_make_row(value, group, groups[base]) for value, group in groups.items()]
    definitions = (
        study.define_throughput(),
        "Difference: of the means; with two runs or more of both, its 95 % interval (Welch). An "
        "interval that holds 0 shows no difference.",
        ROUNDING,
    )
    return Table("option", f"{name} on {scale}", headers, rows, definitions)


def _make_row(value: str, group, base) -> dict[str, Cell]:
    rates = group["throughput_per_s"].dropna().tolist()
    mean = over_repeats(rates) if rates else None
    loss = group["val_loss"].mean()
    return {
        "value": say(value),
        "runs": say(len(group)),
        "throughput_per_s": show(mean and mean.mean, note=mean and mean.describe(),
                                 why="no throughput is recorded"),
        "difference_pct": missing("the others are set against it") if group is base
        else _compare(rates, base["throughput_per_s"].dropna().tolist()),
        "val_loss": show(loss, 4, why="no validation loss is recorded"),
    }  # fmt: skip


def _compare(rates: list[float], base: list[float]) -> Cell:
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
    if low <= 0 <= high:
        shown += ", which holds 0: no difference shown"
    return show(difference_pct, 1, note=f"95 % interval {shown}")
