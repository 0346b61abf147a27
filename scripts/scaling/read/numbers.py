"""Numbers as they were logged, and rounding that never drifts.

Ratios are made from the digits that stand in the log, as exact fractions, and rounded half
to even once, when they are printed: what a participant gets with a calculator.
"""

import math
import re
from fractions import Fraction

NUMBER = r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|nan|inf)"
_FINITE = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?")


class LoggedNumber(float):
    """A float that remembers the digits it was printed with (`.text`)."""

    text: str

    def __new__(cls, text: str) -> "LoggedNumber":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __reduce__(self):
        return (LoggedNumber, (self.text,))


def to_fraction(value: float | Fraction) -> Fraction | None:
    """Return the exact value of the digits shown, None for nan and infinity."""
    if isinstance(value, Fraction):
        return value
    text = value.text if isinstance(value, LoggedNumber) else repr(value)
    if not math.isfinite(value) or not _FINITE.fullmatch(text):
        return None
    return Fraction(text)


def round_half_even(value: float | Fraction, places: int) -> str:
    """Return value with `places` decimals, ties to the even digit: 0.125 -> '0.12'.

    Works on the decimal digits, not on the binary float. Raises ValueError for nan.
    """
    exact = to_fraction(value)
    if exact is None:
        raise ValueError(f"{value} cannot be rounded")
    scaled = round(exact * 10**places)  # round(Fraction) is half to even, and exact
    sign, digits = "-" if scaled < 0 else "", str(abs(scaled)).rjust(places + 1, "0")
    return f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"


def plain_number(value: float | Fraction) -> int | float | None:
    """Return value for JSON and CSV: ints stay ints, all else a float; None for nan and inf."""
    if isinstance(value, int):
        return value
    return None if to_fraction(value) is None else float(value)
