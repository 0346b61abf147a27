"""What a column of a log holds: how many numbers, their mean, largest and smallest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

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
    """One column: n numbers, their sum and extremes, in `unit` ('' when it has none).

    Sums are made of the printed digits, so 3 x 251.3 / 3 is 251.3. `no_data` counts cells that
    say that there is none; `unreadable` those that are no number.
    """

    name: str
    unit: str = ""
    n: int = 0
    total: Decimal = Decimal(0)
    max: Decimal | None = None
    min: Decimal | None = None
    no_data: int = 0
    unreadable: int = 0

    def add(self, value: Decimal | float, times: int = 1) -> None:
        """Take a number in, so many times; nan and infinity count as no data."""
        number = value if isinstance(value, Decimal) else Decimal(str(value))
        if not number.is_finite():
            self.no_data += times
            return
        self.n += times
        self.total += number * times
        self.max = number if self.max is None else max(self.max, number)
        self.min = number if self.min is None else min(self.min, number)

    def add_all(self, values: list[Decimal]) -> None:
        """Take many finite numbers in."""
        self.n += len(values)
        self.total += sum(values)
        self.max = max(values if self.max is None else (self.max, *values))
        self.min = min(values if self.min is None else (self.min, *values))

    def add_text(self, cell: str, times: int = 1) -> None:
        """Take a cell in as it was printed; its unit is kept when the header gave none."""
        cell = cell.strip()
        match = AMOUNT.fullmatch(cell)
        factor = _convert(match[2], self.unit) if match else None
        if factor:
            self.unit = self.unit or match[2] or ""
            self.add(Decimal(match[1]) * factor, times)
        elif NO_DATA.fullmatch(cell):
            self.no_data += times
        else:
            self.unreadable += times

    def merge(self, other: Column) -> None:
        """Take in what another column of the same unit holds."""
        self.unit = self.unit or other.unit
        self.n += other.n
        self.total += other.total
        self.max = max((c.max for c in (self, other) if c.max is not None), default=None)
        self.min = min((c.min for c in (self, other) if c.min is not None), default=None)
        self.no_data += other.no_data
        self.unreadable += other.unreadable

    @property
    def mean(self) -> float | None:
        """The mean, None without a number or when it is beyond any float."""
        return finite_float(self.total / self.n) if self.n else None

    def describe(self) -> dict:
        """Return n, mean, max, min and unit for JSON; cells without a number when there are."""
        record = {
            "n": self.n, "mean": self.mean, "max": plain_number(self.max),
            "min": plain_number(self.min), "unit": self.unit,
        }  # fmt: skip
        lacking = {"no_data": self.no_data, "unreadable": self.unreadable}
        return record | {name: count for name, count in lacking.items() if count}


def _convert(unit: str | None, wanted: str) -> Decimal | int:
    """Return what a number in `unit` is multiplied by to be in the wanted one; 0: it cannot be."""
    if unit is None or unit == wanted or not wanted:
        return 1
    sizes = BYTES.get(unit.upper(), 0), BYTES.get(wanted.upper(), 0)
    return Decimal(sizes[0]) / sizes[1] if all(sizes) else 0


def finite_float(value: Decimal) -> float | None:
    """Return a number as a float, None for nan, infinity and what is beyond any float."""
    number = float(value)
    return number if math.isfinite(number) else None


def plain_number(value: Decimal | float | None) -> int | float | None:
    """Return a number for JSON: a whole printed one stays an int; None for nan and infinity."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Decimal) and value.is_finite() and value.as_tuple().exponent == 0:
        return int(value)
    return finite_float(value) if isinstance(value, Decimal) else finite_float(Decimal(value))


def describe_columns(columns: Iterable[Column]) -> dict[str, dict]:
    """Return name -> description of the columns that hold any number."""
    return {column.name: column.describe() for column in columns if column.n}
