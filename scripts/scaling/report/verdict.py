"""The report's first words: what scales how far, and what stands in the way of knowing it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from scaling.diagnose import NAMED_POINTS, Finding
from scaling.plots.scaling_charts import (
    GOOD_PCT,
    list_compared,
    list_configs,
    list_left_out,
)
from scaling.runs import Run, State, Study
from scaling.runs.ratios import name_band

MOST_SERIES = 6  # with a sentence of their own


@dataclass(frozen=True)
class Sentence:
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
    notes = [*losses, *_count_runs(runs), *(text for study in studies for text in _warn(study))]
    return found + [Sentence("note", text) for text in notes]


def _judge_study(study: Study) -> list[Sentence]:
    compared = list_compared(study)
    if compared.empty:
        scales = ", ".join(list_configs(study)["short_label"].unique()) or "no known throughput"
        return [Sentence("note", (
            f"{study.workload}: nothing to compare yet. A speedup needs two runs with equal "
            f"settings at different numbers of GPUs; there are complete runs at {scales}."
        ))]  # fmt: skip
    series = [rows for _, rows in compared.groupby("series", sort=False)]
    found = [_judge_series(study, rows) for rows in series[:MOST_SERIES]]
    if len(series) > MOST_SERIES:
        text = f"{study.workload}: {len(series) - MOST_SERIES} more series are in the tables."
        found.append(Sentence("note", text))
    return found


def _judge_series(study: Study, series: pd.DataFrame) -> Sentence:
    """Say up to how many GPUs a series is worth asking for, and what the next ones give."""
    base = series.iloc[0]
    name = f"{study.workload} ({base.series_name})" if base.series_name else study.workload
    rest = series[series["gpus"] > base.gpus].sort_values(["gpus", "throughput_per_s"])
    worth = rest[rest["efficiency_pct"] > GOOD_PCT]
    if worth.empty:
        best = rest.loc[rest["speedup"].idxmax()]
        return Sentence("poor", (
            f"{name}: no scale beyond {base.short_label} is above {GOOD_PCT} % efficiency. The "
            f"fastest, {best.short_label}, is {_compare(best, base)}."
        ))  # fmt: skip
    chosen = worth.iloc[-1]
    kind = name_band(chosen.efficiency_pct, chosen.nodes)
    text = f"{name}: ask for up to {chosen.short_label}, {_compare(chosen, base)}."
    beyond = series[series["gpus"] > chosen.gpus]
    if beyond.empty:
        return Sentence(kind, f"{text} That is the largest scale measured: the limit lies beyond.")
    next_one = beyond.loc[beyond["gpus"].idxmin()]
    return Sentence(kind, (
        f"{text} Beyond, {next_one.short_label} is {_compare(next_one, base)}, not above "
        f"{GOOD_PCT} %."
    ))  # fmt: skip


def _compare(config: pd.Series, base: pd.Series) -> str:
    return (
        f"{config.speedup:.2f} times as fast as {base.short_label} "
        f"({config.efficiency_pct:.1f} % efficient)"
    )


def _count_runs(runs: Sequence[Run]) -> list[str]:
    started = [run for run in runs if run.id]
    if not started:
        return ["No run has been started yet."]
    counts = Counter(run.state for run in started)
    states = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    text = f"{len(started)} run{'s' if len(started) != 1 else ''}: {states}."
    bad = [run for run in started if run.state not in (State.COMPLETE, State.RUNNING)]
    if bad:
        text += f" The last that did not end well: {bad[-1].account}."
    return [text]


def _warn(study: Study) -> list[str]:
    configs, found = study.configs, []
    series, single = configs["series"].nunique(), (configs["n_runs"] == 1).sum()
    if series > 1:
        found.append(
            f"{study.workload}: the runs have {series} different settings; only runs with equal "
            "settings are compared. What differs is listed below."
        )
    if single:
        found.append(
            f"{study.workload}: {single} of {len(configs)} configurations were run once only; a "
            "second run would show how far the figures vary."
        )
    return found + [f"{study.workload}: left out: {each}." for each in list_left_out(study)]


def state_loss(workload: str, findings: Sequence[Finding]) -> str | None:
    """Return the verdict's sentence on the scale that loses most, None when little is lost."""
    compared = [finding for finding in findings if finding.base is not None]
    worst = min(compared, key=lambda finding: finding.efficiency_pct, default=None)
    if worst is None or 100 - worst.efficiency_pct < NAMED_POINTS:
        return None
    where = f"{workload}: {worst.label} loses {100 - worst.efficiency_pct:.1f} points of efficiency"
    seen = "".join(f" Seen: {text}." for text in worst.seen)
    if worst.loss is None:
        return f"{where}. To what is not recorded{_name(worst.gaps)}.{seen}"
    if not worst.causes:
        return f"{where}, and no cause stands out. {worst.rest}{seen}"
    more = ", ".join(f"{cause.name} {cause.points:.1f}" for cause in worst.named[1:])
    return f"{where}. {worst.causes[0][0]}" + (f" Then {more}." if more else "") + seen


def _name(gaps: Sequence[str]) -> str:
    return f": {gaps[0]}" if gaps else ""
