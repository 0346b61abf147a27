"""How far a mean can be trusted: repeats give an interval, a single run its epochs' spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from scaling.read.numbers import round_half_even, to_fraction

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A mean and what is around it.

    half_width: of the 95 % interval (kind "repeats"), or the sample standard deviation
    (kind "epochs"); None where n is 1. kind "single": nothing to judge a spread from.
    """

    mean: Fraction
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
            f"one run, so no interval; its {self.n} epochs after warm-up spread by ± {width} "
            "(sample standard deviation, ddof 1)"
        )


def mean_of(values: Sequence[float | Fraction]) -> Fraction:
    """Return the mean, exact in the digits of the values. Raises ValueError for none or nan."""
    exact = [to_fraction(value) for value in values]
    if not exact or None in exact:
        raise ValueError("no mean of nothing, nor of nan")
    return sum(exact, Fraction(0)) / len(exact)


def deviation_of(values: Sequence[float | Fraction]) -> float | None:
    """Return the sample standard deviation (ddof 1), None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = mean_of(values)
    misses = [to_fraction(value) - mean for value in values]
    largest = max(map(abs, misses))
    if not largest:
        return 0.0
    squares = sum((miss / largest) ** 2 for miss in misses)  # no square too large for a float
    return float(largest) * math.sqrt(squares / (len(values) - 1))


def over_repeats(values: Sequence[float | Fraction]) -> Spread:
    """Return mean and 95 % interval of independent runs (Student t with n - 1 degrees)."""
    mean, deviation, n = mean_of(values), deviation_of(values), len(values)
    if deviation is None:
        return Spread(mean, n, None, "single")
    return Spread(mean, n, quantile_t(n - 1) * deviation / math.sqrt(n), "repeats")


def over_epochs(values: Sequence[float | Fraction]) -> Spread:
    """Return mean and sample standard deviation of one run's epochs.

    Epochs of one run share its node and its luck: their spread is no interval of the mean.
    """
    deviation = deviation_of(values)
    kind = "single" if deviation is None else "epochs"
    return Spread(mean_of(values), len(values), deviation, kind)


def quantile_t(degrees: int) -> float:
    """Return the factor of a two-sided 95 % interval: 12.71 for 1 degree, 4.30 for 2."""
    from scipy.special import stdtrit  # slow to import, and only repeats need it

    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))
