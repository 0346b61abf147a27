"""The report's first words: what scales how far, and what stands in the way of knowing it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.plots.data import Config, Series, Study
from scaling.plots.scaling_charts import GOOD_EFFICIENCY_PCT, list_compared
from scaling.read.state import State
from scaling.runs.comparing import name_band
from scaling.runs.find import Run

MOST_SERIES = 6  # with a sentence of their own


@dataclass(frozen=True)
class Sentence:
    """One sentence of the verdict; `kind` is good, fair, poor or note."""

    kind: str
    text: str


def state_verdict(
    studies: list[Study], runs: list[Run], losses: Sequence[str] = ()
) -> list[Sentence]:
    """Return the verdict on each workload, to what efficiency is lost, then on the runs."""
    found = [sentence for study in studies for sentence in _judge_study(study)]
    found += [Sentence("note", text) for text in losses]
    return found + _count_runs(runs) + _warn(studies)


def _judge_study(study: Study) -> list[Sentence]:
    compared = list_compared(study)
    if not compared:
        scales = ", ".join(dict.fromkeys(config.label for config in study.configs))
        return [Sentence("note", (
            f"{study.workload}: nothing to compare yet. A speedup needs two runs with equal "
            f"settings at different numbers of GPUs; there are complete runs at {scales}."
        ))]  # fmt: skip
    found = [_judge_series(study, series) for series in compared[:MOST_SERIES]]
    if len(compared) > MOST_SERIES:
        text = f"{study.workload}: {len(compared) - MOST_SERIES} more series are in the tables."
        found.append(Sentence("note", text))
    return found


def _judge_series(study: Study, series: Series) -> Sentence:
    name = f"{study.workload} ({series.name})" if series.name else study.workload
    rest = [c for c in series.configs if c.gpus > series.baseline.gpus]
    worth = [c for c in rest if series.efficiency_pct(c) > GOOD_EFFICIENCY_PCT]
    largest = max(rest, key=lambda c: (c.gpus, c.throughput_per_s))
    if not worth:
        best = max(rest, key=series.speedup)
        return Sentence("poor", (
            f"{name}: no scale beyond {series.baseline.label} is above {GOOD_EFFICIENCY_PCT} % "
            f"efficiency. The fastest, {best.label}, is {_say(series, best)}."
        ))  # fmt: skip
    chosen = max(worth, key=lambda c: (c.gpus, c.throughput_per_s))
    kind = name_band(series.efficiency_pct(chosen), chosen.nodes)
    text = f"{name}: ask for up to {chosen.label}, {_say(series, chosen)}."
    if chosen.gpus == largest.gpus:
        return Sentence(kind, f"{text} That is the largest scale measured: the limit lies beyond.")
    beyond = min((c for c in rest if c.gpus > chosen.gpus), key=lambda c: c.gpus)
    return Sentence(
        kind,
        f"{text} Beyond, {beyond.label} is {_say(series, beyond)}, not above "
        f"{GOOD_EFFICIENCY_PCT} %.",
    )


def _say(series: Series, config: Config) -> str:
    base = series.baseline
    return (
        f"{series.speedup(config):.2f} times as fast as {base.label} "
        f"({series.efficiency_pct(config):.1f} % efficient)"
    )


def _count_runs(runs: list[Run]) -> list[Sentence]:
    started = [run for run in runs if run.id]
    if not started:
        return [Sentence("note", "No run has been started yet.")]
    counts = Counter(run.state for run in started)
    words = [f"{counts[state]} {state}" for state in State if counts[state]]
    text = f"{len(started)} run{'s' if len(started) != 1 else ''}: {', '.join(words)}."
    bad = [state for state in counts if state not in (State.COMPLETE, State.RUNNING)]
    if bad:
        last = [run for run in started if run.state in bad][-1]
        text += f" The last that did not end well: {last.account}."
    return [Sentence("note", text)]


def _warn(studies: list[Study]) -> list[Sentence]:
    found = []
    for study in studies:
        if len(study.series) > 1:
            found.append(Sentence("note", (
                f"{study.workload}: the runs have {len(study.series)} different settings; only "
                "runs with equal settings are compared. What differs is listed below."
            )))  # fmt: skip
        single = [c for c in study.configs if len(c.sources) == 1]
        if single:
            found.append(Sentence("note", (
                f"{study.workload}: {len(single)} of {len(study.configs)} configurations were run "
                "once only; a second run would show how far the figures vary."
            )))  # fmt: skip
        found += [
            Sentence("note", f"{study.workload}: left out: {each}.") for each in study.skipped
        ]
    return found
