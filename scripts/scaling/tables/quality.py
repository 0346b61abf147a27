"""Whether the scales learnt equally well: losses across scales against those of repeats."""

import math
from collections.abc import Callable

from scaling.read.numbers import round_half_even
from scaling.runs.measured import Measured
from scaling.runs.spread import deviation_of, mean_of
from scaling.runs.study import Study

_FIGURES: dict[str, Callable[[Measured], float | None]] = {
    "validation loss": lambda run: run.val_loss,
    "validation accuracy": lambda run: run.val_accuracy,
}


def compare_quality(study: Study) -> list[str]:
    """Return a sentence a figure of the last epoch; none where fewer than two scales have it.

    The rule: the sample standard deviation of the scales' means is set against that of the
    repeats (pooled over the scales that have any). Only comparable scales take part.
    """
    return [text for name in _FIGURES if (text := _compare(study, name))]


def _compare(study: Study, name: str) -> str | None:
    take = _FIGURES[name]
    groups = {}
    for scale in study.scales:
        values = [value for run in scale.runs if (value := take(run)) is not None]
        if values and study.is_compared(scale):
            groups[scale.label] = values
    if len(groups) < 2 or len({value for values in groups.values() for value in values}) < 2:
        return None
    means = {label: float(mean_of(values)) for label, values in groups.items()}
    across, repeats = deviation_of(list(means.values())), pool(list(groups.values()))
    low, high = min(means, key=means.get), max(means, key=means.get)
    found = (
        f"{name}: from {round_half_even(means[low], 4)} ({low}) to "
        f"{round_half_even(means[high], 4)} ({high}); standard deviation across scales "
        f"{_show(across)}"
    )
    if repeats is None:
        return f"{found}; no scale has repeats, so whether that is more than chance is not known"
    if across <= repeats:
        return f"{found}, of repeats {_show(repeats)}: no more than the repeats spread"
    return (
        f"FLAG {found}, of repeats {_show(repeats)}: the scales do not learn alike. A larger "
        "global batch with the same schedule does that"
    )


def pool(groups: list[list[float]]) -> float | None:
    """Return the pooled sample standard deviation of groups, None when none has two values."""
    repeated = [values for values in groups if len(values) > 1]
    if not repeated:
        return None
    squares = sum((len(values) - 1) * deviation_of(values) ** 2 for values in repeated)
    return math.sqrt(squares / sum(len(values) - 1 for values in repeated))


def _show(value: float) -> str:
    return f"{value:.2g}"
