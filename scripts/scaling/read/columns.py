"""What a column of a log holds: how many numbers, their mean and their largest."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

# What tools print in the place of a number: [N/A], [Not Supported], [Unknown Error], N/A, -, ''.
NO_DATA = re.compile(r"\[[^\]]*\]|N/?A|NaN|None|null|-*", re.IGNORECASE)
AMOUNT = re.compile(r"([+-]?\d{1,18}(?:\.\d{1,18})?(?:[eE][+-]?\d{1,3})?) ?([A-Za-z%°/]{1,8})?")
# The GPU tools' and psrecord's "MB" are 1024² bytes, as MiB are.
BYTES = {
    "B": 1, "BYTES": 1, "KIB": 1 << 10, "KB": 1 << 10, "MIB": 1 << 20, "MB": 1 << 20,
    "GIB": 1 << 30, "GB": 1 << 30,
}  # fmt: skip


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

    def add(self, value: float, times: int = 1) -> None:
        """Take a number in, so many times; nan and infinity count as no data."""
        if not math.isfinite(value):
            self.no_data += times
            return
        self.n += times
        share = value * times
        total = self.total + share
        is_larger = abs(self.total) >= abs(share)
        self._lost += self.total - total + share if is_larger else share - total + self.total
        self.total = total
        self.max = value if self.max is None else max(self.max, value)
        self.min = value if self.min is None else min(self.min, value)

    def add_text(self, cell: str, times: int = 1) -> None:
        """Take a cell in as it was printed; its unit is kept when the header gave none."""
        cell = cell.strip()
        match = AMOUNT.fullmatch(cell)
        unit = match[2] if match else None
        if match and (factor := _convert(unit, self.unit)):
            self.unit = self.unit or unit or ""
            self.add(_number(match[1]) if factor == 1 else float(match[1]) * factor, times)
        elif NO_DATA.fullmatch(cell):
            self.no_data += times
        else:
            self.unreadable += times

    @property
    def mean(self) -> float | None:
        if not self.n or not math.isfinite(self.total + self._lost):
            return None
        return float((Fraction(self.total) + Fraction(self._lost)) / self.n)

    def describe(self) -> dict:
        """Return n, mean, max, min and unit for JSON; cells without a number when there are."""
        record = {
            "n": self.n, "mean": self.mean, "max": self.max, "min": self.min, "unit": self.unit,
        }  # fmt: skip
        lacking = {"no_data": self.no_data, "unreadable": self.unreadable}
        return record | {name: count for name, count in lacking.items() if count}


def _convert(unit: str | None, wanted: str) -> float:
    """Return what a number in `unit` is multiplied by to be in the wanted one; 0: it cannot be."""
    if unit is None or unit == wanted or not wanted:
        return 1
    sizes = BYTES.get(unit.upper(), 0), BYTES.get(wanted.upper(), 0)
    return sizes[0] / sizes[1] if all(sizes) else 0


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def describe_columns(columns: Iterable[Column]) -> dict[str, dict]:
    """Return name -> description of the columns that hold any number."""
    return {column.name: column.describe() for column in columns if column.n}
