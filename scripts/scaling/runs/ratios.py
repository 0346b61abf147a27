"""The one place where two throughputs, or two times, are divided.

Values may be Decimal (printed digits, exact to 28), float, or pandas Series of floats.
"""

SUPERLINEAR_PCT = 105  # up to here it is noise
GOOD_ONE_NODE_PCT, GOOD_NODES_PCT, POOR_PCT = 85, 75, 70


def divide(value, base):
    """Return value / base; for scalars None when either is missing or the base is 0."""
    if hasattr(base, "iloc"):  # a Series; pandas is not imported for this
        return value / base.where(base > 0)
    if hasattr(value, "iloc"):
        return value / (base if base > 0 else float("nan"))
    return None if value is None or not base else value / base


def compute_efficiency_pct(speedup, gpus, base_gpus=1):
    """Return parallel efficiency in %: speedup over what so many more GPUs would ideally give."""
    return None if speedup is None else speedup * 100 * base_gpus / gpus


def name_band(efficiency_pct: float | None, nodes: int | None) -> str | None:
    """Return good, fair or poor: good is above 85 % on one node, above 75 % across nodes."""
    if efficiency_pct is None or efficiency_pct != efficiency_pct:
        return None
    good = GOOD_NODES_PCT if (nodes or 1) > 1 else GOOD_ONE_NODE_PCT
    return "good" if efficiency_pct > good else "poor" if efficiency_pct < POOR_PCT else "fair"
