"""How far a mean can be trusted: repeats give an interval, a single run its epochs' spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from common.rounding import round_half_even

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A mean and what is around it.

    half_width: of the 95 % interval (kind "repeats"), or the sample standard deviation
    (kind "epochs"); None where n is 1 (kind "single"): nothing to judge a spread from.
    """

    mean: float
    n: int
    half_width: float | None
    kind: str

    def describe(self, places: int = 2, unit: str = "") -> str | None:
        """Say what the ± is, None where there is none."""
        if self.half_width is None:
            return None
        width = round_half_even(self.half_width, places) + unit
        if self.kind == "repeats":
            return f"± {width}: 95 % interval of the mean, Student t, n = {self.n} runs"
        return (
            f"one run, so no interval; its {self.n} epochs or windows after warm-up spread by "
            f"± {width} (sample standard deviation, ddof 1)"
        )


def _deviation(values: Sequence[float]) -> float:
    try:
        return stdev(values)
    except OverflowError:  # Python 3.10, of values near the largest float
        most = max(map(abs, values))
        return stdev([value / most for value in values]) * most


def over_repeats(values: Sequence[float]) -> Spread:
    """Return mean and 95 % interval of independent runs (Student t with n - 1 degrees)."""
    mean, n = fmean(values), len(values)
    if n < 2:
        return Spread(mean, n, None, "single")
    return Spread(mean, n, quantile_t(n - 1) * _deviation(values) / math.sqrt(n), "repeats")


def over_epochs(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation of one run's epochs.

    Epochs of one run share its node and its luck: their spread is no interval of the mean.
    """
    if len(values) < 2:
        return Spread(fmean(values), len(values), None, "single")
    return Spread(fmean(values), len(values), _deviation(values), "epochs")


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the pooled sample standard deviation of groups, None when none has two values."""
    repeated = [values for values in groups if len(values) > 1]
    if not repeated:
        return None
    squares = sum((len(values) - 1) * _deviation(values) ** 2 for values in repeated)
    return math.sqrt(squares / sum(len(values) - 1 for values in repeated))


def quantile_t(degrees: int) -> float:
    """Return the factor of a two-sided 95 % interval: 12.71 for 1 degree, 4.30 for 2."""
    from scipy.special import stdtrit  # slow to import, and only repeats need it

    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))
