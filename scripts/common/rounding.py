"""Round once, half to even, from the decimal digits: what a person gets with a calculator."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext


def to_decimal(value: Decimal | float) -> Decimal:
    """Return a number as Decimal; a float by its first 15 digits, so 0.1 + 0.2 is 0.3."""
    return value if isinstance(value, Decimal) else Decimal(format(value, ".15g"))


def round_half_even(value: Decimal | float, places: int) -> str:
    """Return value with `places` decimals, ties to the even digit: 0.125 -> '0.12'.

    Works on decimal digits, not on the binary float. Raises ValueError for nan and infinity.
    """
    number = to_decimal(value)
    if not number.is_finite():
        raise ValueError(f"{value} cannot be rounded")
    with localcontext() as context:
        context.prec = max(28, number.adjusted() + places + 2)
        rounded = number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
        return f"{abs(rounded) if rounded.is_zero() else rounded:f}"
