"""How many GPUs are worth asking for: measured, fitted by a scaling law, or predicted."""

from scaling.advise.advice import (
    DEFAULT_TARGET_PCT,
    estimate_s,
    find_largest_worth,
    list_advice,
)
from scaling.advise.memory import make_memory_advice
from scaling.advise.prediction import Link, Machine, find_step_s, make_prediction

__all__ = [
    "DEFAULT_TARGET_PCT", "Link", "Machine", "estimate_s", "find_largest_worth",
    "find_step_s", "list_advice", "make_memory_advice", "make_prediction",
]  # fmt: skip
