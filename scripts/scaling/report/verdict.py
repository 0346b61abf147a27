"""The report's first words: what scales how far, and what stands in the way of knowing it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from scaling.diagnose import NAMED_POINTS, Finding
from scaling.plots.scaling_charts import (
    GOOD_PCT,
    list_compared,
    list_configs,
    list_left_out,
)
from scaling.runs import Run, State, Study
from scaling.runs.compare import name_band
from scaling.runs.study import count

MOST_SERIES = 6  # with a sentence of their own


class Sentence(NamedTuple):
    """One sentence of the verdict; `kind` is good, fair, poor or note."""

    kind: str
    text: str


def state_verdict(
    studies: Sequence[Study], runs: Sequence[Run], losses: Iterable[str] = ()
) -> list[Sentence]:
    """Return the verdict on each workload, what costs it efficiency, then what became of the runs.

    losses: of state_loss.
    """
    found = [sentence for study in studies for sentence in _judge_study(study)]
    notes = [*losses, _count_runs(runs), *(text for study in studies for text in _warn(study))]
    return found + [Sentence("note", text) for text in notes]


def _judge_study(study: Study) -> list[Sentence]:
    compared = list_compared(study)
    series = [rows for _, rows in compared.groupby("series", sort=False)]
    found = [_judge_series(study.workload, rows) for rows in series[:MOST_SERIES]]
    note = ""
    if compared.empty:
        scales = ", ".join(list_configs(study)["short_label"].unique()) or "no known throughput"
        note = (
            "nothing to compare yet. A speedup needs two runs with equal settings at different "
            f"numbers of GPUs; there are complete runs at {scales}."
        )
    elif len(series) > MOST_SERIES:
        note = f"{len(series) - MOST_SERIES} more series are in the tables."
    return [*found, *([Sentence("note", f"{study.workload}: {note}")] if note else [])]


def _judge_series(workload: str, series: pd.DataFrame) -> Sentence:
    """Say up to how many GPUs a series is worth asking for, and what the next ones give."""
    base = series.iloc[0]
    name = f"{workload} ({base.series_name})" if base.series_name else workload
    series = series.assign(ratio=[
        f"{row.speedup:.2f} times as fast as {base.short_label} "
        f"({row.efficiency_pct:.1f} % efficient)"
        for row in series.itertuples()
    ])  # fmt: skip
    rest = series[series["gpus"] > base.gpus].sort_values(["gpus", "throughput_per_s"])
    worth = rest[rest["efficiency_pct"] > GOOD_PCT]
    if worth.empty:
        best = rest.loc[rest["speedup"].idxmax()]
        return Sentence("poor", (
            f"{name}: no scale beyond {base.short_label} is above {GOOD_PCT} % efficiency. The "
            f"fastest, {best.short_label}, is {best.ratio}."
        ))  # fmt: skip
    chosen, end = worth.iloc[-1], "That is the largest scale measured: the limit lies beyond."
    beyond = series[series["gpus"] > chosen.gpus]
    if len(beyond):
        following = beyond.loc[beyond["gpus"].idxmin()]
        end = f"Beyond, {following.short_label} is {following.ratio}, not above {GOOD_PCT} %."
    kind = name_band(chosen.efficiency_pct, chosen.nodes)
    return Sentence(kind, f"{name}: ask for up to {chosen.short_label}, {chosen.ratio}. {end}")


def count_states(started: Iterable[Run]) -> str:
    """Return `7 complete, 1 out of memory`."""
    counts = Counter(run.state for run in started)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])


def _count_runs(runs: Sequence[Run]) -> str:
    started = [run for run in runs if run.id]
    bad = [run for run in started if run.state not in (State.COMPLETE, State.RUNNING)]
    if not started:
        return "No run has been started yet."
    text = f"{count(len(started), 'run')}: {count_states(started)}."
    return text + (f" The last that did not end well: {bad[-1].account}." if bad else "")


def _warn(study: Study) -> list[str]:
    configs, found = study.configs, []
    series, single = configs["series"].nunique(), (configs["n_runs"] == 1).sum()
    if series > 1:
        found.append(
            f"the runs have {series} different settings; only runs with equal settings are "
            "compared. What differs is listed below."
        )
    if single:
        found.append(
            f"{single} of {len(configs)} configurations were run once only; a second run would "
            "show how far the figures vary."
        )
    found += [f"left out: {each}." for each in list_left_out(study)]
    return [f"{study.workload}: {text}" for text in found]


def state_loss(workload: str, findings: Sequence[Finding]) -> str | None:
    """Return the verdict's sentence on the scale that loses most, None when little is lost."""
    compared = [finding for finding in findings if finding.base is not None]
    worst = min(compared, key=lambda finding: finding.efficiency_pct, default=None)
    if worst is None or 100 - worst.efficiency_pct < NAMED_POINTS:
        return None
    lost = f"loses {100 - worst.efficiency_pct:.1f} points of efficiency"
    if worst.loss is None:
        gap = f": {worst.gaps[0]}" if worst.gaps else ""
        text = f"{lost}. To what is not recorded{gap}."
    elif not worst.causes:
        text = f"{lost}, and no cause stands out. {worst.rest}"
    else:
        more = ", ".join(f"{cause.name} {cause.points:.1f}" for cause in worst.named[1:])
        text = f"{lost}. {worst.causes[0][0]}" + (f" Then {more}." if more else "")
    seen = "".join(f" Seen: {each}." for each in worst.seen)
    return f"{workload}: {worst.label} {text}{seen}"
