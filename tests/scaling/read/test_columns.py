"""The account of a file's lines, and what a column holds."""

from collections import Counter
from decimal import Decimal

import pytest

from common.counts import LineCounts
from scaling.read.columns import Column


def test_the_account_in_words():
    counts = LineCounts(6, 2, Counter({"no data": 2, "NUL bytes": 1}), Counter({"header": 1}))
    assert counts.is_whole
    assert counts.describe() == (
        "6 lines: 2 kept; dropped: 2 no data, 1 NUL bytes; ignored: 1 header"
    )
    assert counts.describe_dropped() == "3 of 6 lines dropped: 2 no data, 1 NUL bytes"
    assert LineCounts(1, 1).describe() == "1 line: 1 kept"
    assert LineCounts(1, 1).describe_dropped() == ""
    assert not LineCounts(3, 1).is_whole


def test_a_mean_is_of_the_printed_digits():
    column = Column("power.draw", "W")
    column.add(" 251.3", 3)
    column.add("[N/A]")
    column.add("x")
    assert column.describe() == {
        "n": 3, "mean": 251.3, "max": 251.3, "min": 251.3, "unit": "W", "no_data": 1,
        "unreadable": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "unit", "value"),
    [("1 GiB", "MiB", 1024), ("512 KiB", "MiB", Decimal("0.5")), ("7", "MiB", 7), ("7 W", "", 7)],
)
def test_units_are_converted_to_the_columns(cell, unit, value):
    column = Column("any", unit)
    column.add(cell)
    assert (column.max, column.unreadable) == (value, 0)


def test_columns_merge():
    one, other = Column("any", "s"), Column("any", "s")
    one.add(2)
    other.add(Decimal("0.5"), times=3)
    one.merge(other)
    assert (one.n, one.mean, one.min, one.max) == (4, 0.875, Decimal("0.5"), 2)
    one.add(float("nan"))
    assert (one.n, one.no_data) == (4, 1)
