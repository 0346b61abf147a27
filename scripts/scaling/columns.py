"""What a column of a log holds: how many numbers, their mean and their largest."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

# What tools print in the place of a number: [N/A], [Not Supported], [Unknown Error], N/A, -, ''.
NO_DATA = re.compile(r"\[[^\]]*\]|N/?A|NaN|None|null|-*", re.IGNORECASE)
AMOUNT = re.compile(r"([+-]?\d{1,18}(?:\.\d{1,18})?(?:[eE][+-]?\d{1,3})?) ?([A-Za-z%°/]{1,8})?")


@dataclass
class Column:
    """One column: n numbers, their sum and maximum, in `unit` ('' when it has none).

    `no_data` counts cells that say that there is none; `unreadable` those that are no number.
    """

    name: str
    unit: str = ""
    n: int = 0
    total: float = 0.0
    max: float | None = None
    min: float | None = None
    no_data: int = 0
    unreadable: int = 0
    _lost: float = 0.0  # what rounding took from the sum (Neumaier): 3 x 251.3 / 3 is 251.3

    def add(self, value: float) -> None:
        """Take one number in; nan and infinity count as no data."""
        if not math.isfinite(value):
            self.no_data += 1
            return
        self.n += 1
        total = self.total + value
        larger, smaller = (
            (self.total, value) if abs(self.total) >= abs(value) else (value, self.total)
        )
        self._lost += larger - total + smaller
        self.total = total
        self.max = value if self.max is None else max(self.max, value)
        self.min = value if self.min is None else min(self.min, value)

    def add_text(self, cell: str) -> None:
        """Take a cell in as it was printed; its unit is kept when the header gave none."""
        cell = cell.strip()
        match = AMOUNT.fullmatch(cell)
        if match:
            self.unit = self.unit or (match[2] or "")
            self.add(_number(match[1]))
        elif NO_DATA.fullmatch(cell):
            self.no_data += 1
        else:
            self.unreadable += 1

    @property
    def mean(self) -> float | None:
        if not self.n or not math.isfinite(self.total):
            return None
        return float((Fraction(self.total) + Fraction(self._lost)) / self.n)

    def describe(self) -> dict:
        """Return n, mean, max, min and unit for JSON; cells without a number when there are."""
        record = {
            "n": self.n, "mean": self.mean, "max": self.max, "min": self.min, "unit": self.unit,
        }  # fmt: skip
        lacking = {"no_data": self.no_data, "unreadable": self.unreadable}
        return record | {name: count for name, count in lacking.items() if count}


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def describe_columns(columns: Iterable[Column]) -> dict[str, dict]:
    """Return name -> description of the columns that hold any number."""
    return {column.name: column.describe() for column in columns if column.n}
