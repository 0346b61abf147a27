"""Time to a target: when the validation loss or accuracy of each scale's runs first reached it."""

import pandas as pd

from scaling.runs.compare import divide, over_repeats
from scaling.runs.study import Study, count
from scaling.tables.table import ROUNDING, Cell, Table, missing, say, show

_NAMES = {"val_loss": "validation loss", "val_accuracy": "validation accuracy"}


def make_target_table(study: Study, column: str, target: float) -> Table:
    """Return seconds and epochs until `val_loss` fell, or `val_accuracy` rose, to the target.

    target: a loss, or an accuracy from 0 to 1. Means are over the runs of a scale that reached it.
    """
    runs = _find_reached(study, column, target)
    runs = {row.config: runs[runs["config"] == row.config] for row in study.scales.itertuples()}
    base, name = study.baseline, _NAMES[column]
    base_s = runs[base.config]["elapsed_s"].mean()
    headers = {
        "config": "Configuration",
        "reached": "Reached by",
        "epochs": "Epochs",
        "elapsed_s": "Time (s)",
        "speedup": f"Speedup vs {study.base_name}",
        "best": f"Best {name}",
    }
    rows = []
    for row in study.scales.itertuples():
        found = runs[row.config]
        best = found["best"].min() if column == "val_loss" else found["best"].max()
        why = f"not reached: the best is {show(best, 4).text}"
        if pd.isna(best):
            why = f"no {name} is recorded"
        elapsed_s = _average(found["elapsed_s"][found["epoch"].notna()], 2, why)
        unlike = None if row.is_compared else study.explain_no_ratio(row)
        speedup = divide(base_s, elapsed_s.value)
        rows.append({
            "config": say(row.label),
            "reached": say(f"{found['epoch'].count()} of {count(len(found), 'run')}",
                           _list_others(found)),
            "epochs": _average(found["epoch"].dropna(), 1, why),
            "elapsed_s": elapsed_s,
            "speedup": missing(unlike) if unlike else show(
                speedup, why=elapsed_s.note or f"{study.base_name} has no such time"),
            "best": show(best, 4, why=why),
        })  # fmt: skip
    sign = "fell to" if column == "val_loss" else "rose to"
    definitions = (
        f"Epochs and time until the {name} of an epoch first {sign} {target:.10g}: training and "
        "validation, the first epoch included; a mean over the runs that reached it.",
        ROUNDING,
    )
    title = f"Time to a {name} of {target:.10g}"
    return Table("target", title, headers, rows, definitions, study.list_remarks())


def _find_reached(study: Study, column: str, target: float) -> pd.DataFrame:
    """Return per run the epoch that first reached the target, the seconds to its end, the best.

    The seconds are missing where an epoch up to it has no record, or none of its time.
    """
    epochs = study.epochs[["run", "epoch", "epoch_s", column]].sort_values(["run", "epoch"])
    by_run = epochs.groupby("run")
    elapsed_s = by_run["epoch_s"].transform(lambda times: times.cumsum(skipna=False))
    epochs["elapsed_s"] = elapsed_s.where(by_run.cumcount() + 1 == epochs["epoch"])
    is_there = epochs[column] <= target if column == "val_loss" else epochs[column] >= target
    first = epochs[is_there].drop_duplicates("run").set_index("run")[["epoch", "elapsed_s"]]
    best = by_run[column].agg("min" if column == "val_loss" else "max").rename("best")
    return study.runs.set_index("run")[["config", "name"]].join([first.astype("float64"), best])


def _average(values: pd.Series, places: int, why: str) -> Cell:
    """Return the mean of runs with its interval; `why` there is none, or that a time is missing."""
    if values.empty:
        return missing(why)
    if values.isna().any():
        return missing("the time of an epoch up to it is not recorded")
    spread = over_repeats(values.tolist())
    return show(spread.mean, places, spread.describe(places))


def _list_others(found: pd.DataFrame) -> str | None:
    """Name the runs that did not reach the target where others did, with their best."""
    others = found[found["epoch"].isna()]
    if len(others) in (0, len(found)):
        return None
    bests = (f"job {run.name} ({show(run.best, 4).text})" for run in others.itertuples())
    return f"not reached by {', '.join(bests)}"
