"""Numbers as people type them into tables: 29,600.05 or 29600,05, 1.94x, 97 %, 00:16:57."""

import re
from collections.abc import Iterable
from decimal import Decimal

_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_POINT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_COMMA = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d+),\d+")
_POINTS = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+")
_CLOCK = re.compile(r"(?:(\d{1,5})-)?(\d{1,5}):(\d{1,2})(?::(\d{1,2}(?:\.\d+)?))?")
_PARTS = re.compile(
    r"(?:(\d{1,5}) ?h(?:ours?|rs?)?)? ?(?:(\d{1,5}) ?m(?:in(?:ute)?s?)?)?"
    r" ?(?:(\d{1,5}(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?)?"
)
# The G of GPU and GCD is no giga.
_TYPED = re.compile(
    r"([^A-Za-z%×]*\d(?:[eE][+-]?\d+)?\.?)\s*((?:[kKM]|G(?!PU|CD))?)(\s*[A-Za-z%×/][^0-9]*)?"
)
_SIZES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_SPREAD = re.compile(r"\s*(?:±|\+/-|\+-).*$")
# Seconds in one of a unit that a header or a cell names.
TIME_UNITS_S = {
    "ms": Decimal("0.001"), "msec": Decimal("0.001"), "milliseconds": Decimal("0.001"),
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "mins": 60,
    "minutes": 60, "h": 3600, "hr": 3600, "hrs": 3600, "hours": 3600, "d": 86400, "days": 86400,
}  # fmt: skip


def has_decimal_comma(cells: Iterable[str]) -> bool:
    """Whether a comma must be a decimal one somewhere: `29600,05`, `1,5`, but not `29,600`."""
    stripped = map(_strip, cells)
    return any(_COMMA.fullmatch(cell) and not _GROUPED.fullmatch(cell) for cell in stripped)


def parse_number(cell: str, decimal_comma: bool = False) -> Decimal | None:
    """Return the exact value of a typed number, None for anything else.

    What is behind ± is left out, and so is a unit (`29.6k tokens/s` is 29600, `4 GPUs` is 4).
    A percent sign does not divide: `97 %` is 97.
    """
    match = _TYPED.fullmatch(_strip(cell))
    if match is None:
        return None
    digits, size, rest = match[1].strip(), match[2], match[3] or ""
    if size == "M" and rest.strip().startswith("i"):  # MiB is no number of ours
        return None
    if decimal_comma:
        if _COMMA.fullmatch(digits) or _POINTS.fullmatch(digits):  # 29.600,05 and 29.600
            digits = digits.replace(".", "").replace(",", ".")
    elif _GROUPED.fullmatch(digits):
        digits = digits.replace(",", "")
    return Decimal(digits) * _SIZES[size.lower()] if _POINT.fullmatch(digits) else None


def parse_seconds(
    cell: str, unit_s: Decimal | int = 1, decimal_comma: bool = False
) -> Decimal | None:
    """Return a time in s: a number of the column's unit, h:mm:ss, d-hh:mm:ss or 1h 2m 3s."""
    cell = cell.strip()
    parts = _PARTS.fullmatch(cell)
    if parts and sum(part is not None for part in parts.groups()) > 1:
        hours, minutes, seconds = (Decimal(part or 0) for part in parts.groups())
        return hours * 3600 + minutes * 60 + seconds
    clock = _CLOCK.fullmatch(cell)
    if clock is None:
        unit = re.search(r"[\d.]\s*([A-Za-z]+)\.?$", cell)
        if unit is not None:  # `16.9 min`: the cell's own unit counts
            if unit[1].lower() not in TIME_UNITS_S:
                return None
            unit_s, cell = TIME_UNITS_S[unit[1].lower()], cell[: unit.start(1)].rstrip(". ")
        number = parse_number(cell, decimal_comma)
        return None if number is None else number * unit_s
    days, first, second, third = clock.groups()
    if third is None:  # 1-02:03 is no time that can be told
        return None if days is not None else Decimal(int(first) * 60 + int(second))
    hours = int(first) + 24 * int(days or 0)
    return hours * 3600 + int(second) * 60 + Decimal(third)


def count_places(cell: str) -> int:
    """Return the decimals that a number is printed with: 2 for `1.94x`."""
    match = re.search(r"\d[.,](\d+)\D*$", _strip(cell))
    return len(match[1]) if match else 0


def is_rounding_of(number: Decimal, exact: Decimal, places: int) -> bool:
    """Whether a number is `exact` with so many decimals, ties either way, or as a binary float."""
    return abs(number - exact) <= Decimal(5).scaleb(-places - 1) + abs(exact) * Decimal("1e-12")


def _strip(cell: str) -> str:
    text = cell.replace("\u00a0", " ").replace("\u202f", " ").replace("\u2212", "-").strip()
    text = re.sub(r"(?<=\d)[ _'](?=\d{3}\b)", "", text)  # 29 600, 29_600, 29'600
    return _SPREAD.sub("", text).strip("*~$ ")
