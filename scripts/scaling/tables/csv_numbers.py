"""Numbers as people type them into tables: 29,600.05 or 29600,05, 1.94x, 97 %, 00:16:57."""

import re
from fractions import Fraction

_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_POINT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_COMMA = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d+),\d+")
_POINTS = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+")
_CLOCK = re.compile(r"(?:(\d{1,5})-)?(\d{1,5}):(\d{1,2})(?::(\d{1,2}(?:\.\d+)?))?")
_PARTS = re.compile(
    r"(?:(\d{1,5}) ?h(?:ours?|rs?)?)? ?(?:(\d{1,5}) ?m(?:in(?:ute)?s?)?)?"
    r" ?(?:(\d{1,5}(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?)?"
)
_TYPED = re.compile(r"([^A-Za-z%×]*\d(?:[eE][+-]?\d+)?\.?)\s*([kKMG]?)(\s*[A-Za-z%×/][^0-9]*)?")
_SIZES = {"k": 1000, "m": 1000**2, "g": 1000**3}
# Seconds in one of a unit that a header or a cell names.
TIME_UNITS_S = {
    "ms": Fraction(1, 1000), "msec": Fraction(1, 1000), "milliseconds": Fraction(1, 1000),
    "s": Fraction(1), "sec": Fraction(1), "secs": Fraction(1), "second": Fraction(1),
    "seconds": Fraction(1), "m": Fraction(60), "min": Fraction(60), "mins": Fraction(60),
    "minutes": Fraction(60), "h": Fraction(3600), "hr": Fraction(3600), "hrs": Fraction(3600),
    "hours": Fraction(3600), "d": Fraction(86400), "days": Fraction(86400),
}  # fmt: skip
_SPREAD = re.compile(r"\s*(?:±|\+/-|\+-).*$")


def has_decimal_comma(cells: list[str]) -> bool:
    """Whether a comma must be a decimal one somewhere: `29600,05`, `1,5`, but not `29,600`."""
    return any(
        _COMMA.fullmatch(text) and not _GROUPED.fullmatch(text)
        for cell in cells
        if (text := _strip(cell))
    )


def parse_number(cell: str, decimal_comma: bool = False) -> Fraction | None:
    """Return the exact value of a typed number, None for anything else.

    What is behind ± is left out, and so is a unit (`29.6k tokens/s` is 29600). A percent sign
    does not divide: `97 %` is 97.
    """
    text = _strip(cell)
    match = _TYPED.fullmatch(text)
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
    if not _POINT.fullmatch(digits):
        return None
    return Fraction(digits) * _SIZES.get(size.lower(), 1)


def parse_seconds(cell: str, unit_s: Fraction, decimal_comma: bool = False) -> Fraction | None:
    """Return a time in s: a number of the column's unit, h:mm:ss, d-hh:mm:ss or 1h 2m 3s."""
    parts = _PARTS.fullmatch(cell.strip())
    if parts and sum(part is not None for part in parts.groups()) > 1:
        hours, minutes, seconds = (Fraction(part or 0) for part in parts.groups())
        return hours * 3600 + minutes * 60 + seconds
    clock = _CLOCK.fullmatch(cell.strip())
    if clock is None:
        unit = re.search(r"[\d.]\s*([A-Za-z]+)\.?$", cell.strip())
        if unit is not None:  # `16.9 min`: the cell's own unit counts
            if unit[1].lower() not in TIME_UNITS_S:
                return None
            unit_s, cell = TIME_UNITS_S[unit[1].lower()], cell.strip()[: -len(unit[1])].rstrip(". ")
        number = parse_number(cell, decimal_comma)
        return None if number is None else number * unit_s
    days, first, second, third = clock.groups()
    if third is None:
        if days is not None:
            return None  # 1-02:03 is no time that can be told
        return Fraction(int(first) * 60 + int(second))
    hours = int(first) + (int(days) * 24 if days else 0)
    return hours * 3600 + int(second) * 60 + Fraction(third)


def count_places(cell: str) -> int:
    """Return the decimals that a number is printed with: 2 for `1.94x`."""
    match = re.search(r"\d[.,](\d+)\D*$", _strip(cell))
    return len(match[1]) if match else 0


def _strip(cell: str) -> str:
    text = cell.replace("\u00a0", " ").replace("\u202f", " ").replace("\u2212", "-").strip()
    text = re.sub(r"(?<=\d)[ _'](?=\d{3}\b)", "", text)  # 29 600, 29_600, 29'600
    return _SPREAD.sub("", text).strip("*~$ ")
