"""Numbers as people type them into tables: 29,600.05 or 29600,05, 1.94x, 97 %, 00:16:57."""

import re
from collections.abc import Iterable
from decimal import Decimal

_POINT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_GROUPED_BY_POINTS = re.compile(r"[+-]?(?:(?:\d{1,3}(?:\.\d{3})+|\d+),\d+|\d{1,3}(?:\.\d{3})+)")
_CLOCK = re.compile(r"(?:(\d{1,5})-)?(\d{1,5}):(\d{1,2})(?::(\d{1,2}(?:\.\d+)?))?")
_PARTS = re.compile(
    r"(?:(\d{1,5}) ?h(?:ours?|rs?)?)? ?(?:(\d{1,5}) ?m(?:in(?:ute)?s?)?)?"
    r" ?(?:(\d{1,5}(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?)?"
)
# The G of GPU and GCD is no giga.
_TYPED = re.compile(
    r"(?:[x×] ?)?([^A-Za-z%×]*\d(?:[eE][+-]?\d+)?\.?)\s*((?:[kKM]|G(?!PU|CD))?)"
    r"(\s*[A-Za-z%×/][^0-9]*)?"
)
THOUSANDS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_SPREAD = re.compile(r"\s*(?:±|\+/-|\+-|\\pm)\s*[\d.,]+(?:[eE][+-]?\d+)?")
# A footnote's mark, or the spread, speedup or count in brackets behind a number: 400 (3), 380 [^1].
_BEHIND = re.compile(
    r"(?<=[\w%×.)])\s*(?:\((?:n\s*=\s*|[±~+-]\s*)?[\d.,]+\s*[%x×]?\)|\[\^?\w{1,3}\]|\^\{?\w\}?"
    r"|<sup>.*?</sup>|[*†‡§¶#¹²³⁴⁵⁶⁷⁸⁹⁰]+)$"
)
# Seconds in one of a unit that a header or a cell names.
TIME_UNITS_S = {
    **dict.fromkeys(("us", "usec", "microseconds"), Decimal("1e-6")),
    **dict.fromkeys(("ms", "msec", "milliseconds"), Decimal("0.001")),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}


def has_decimal_comma(cells: Iterable[str], is_open: bool = False) -> bool:
    """Whether a comma parts the decimals of these cells.

    `29600,05` and `1.234.567` say that it does, `29600.05` and `1,234,567` that it does not.
    `29,600` may be either: where nothing else tells and `is_open`, it is refused. Raises
    ValueError for that, and when cells say both.
    """
    told, doubtful = set(), []
    for cell in cells:
        match = re.search(r"\d[\d.,]*", "" if ":" in cell else strip_marks(cell))
        digits = match[0].rstrip(".,") if match else ""
        marks = re.sub(r"\d", "", digits)
        if len(marks) == 1 and re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", digits):
            doubtful.append(cell)
        elif marks:
            is_grouped = len(marks) > 1 and len(set(marks)) == 1
            told.add((marks[-1] == ",") != is_grouped)
    if len(told) > 1:
        raise ValueError("decimals are parted by a comma in some cells and by a point in others")
    if doubtful and not told and is_open:
        raise ValueError(f"{doubtful[0]!r} may be thousands or three decimals")
    return True in told


def split_number(cell: str, decimal_comma: bool = False) -> tuple[Decimal, str, str] | None:
    """Return (number, thousands letter, unit) of a typed number, None for anything else.

    What is behind ± is left out, and so are footnotes' marks: `29.6k ± 0.3 tokens/s [1]` is
    (29600, "k", "tokens/s"). A percent sign does not divide: `97 %` is 97.
    """
    match = _TYPED.fullmatch(strip_marks(cell))
    if match is None:
        return None
    digits, size, rest = match[1].strip(), match[2], (match[3] or "").strip()
    if size in ("M", "G") and re.match(r"i?B\b", rest):  # MiB is no number of ours
        return None
    if decimal_comma and _GROUPED_BY_POINTS.fullmatch(digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif not decimal_comma and _GROUPED.fullmatch(digits):
        digits = digits.replace(",", "")
    if not _POINT.fullmatch(digits):
        return None
    return Decimal(digits) * THOUSANDS[size.lower()], size, rest


def parse_number(cell: str, decimal_comma: bool = False) -> Decimal | None:
    """Return the exact value of a typed number without its unit, None for anything else."""
    found = split_number(cell, decimal_comma)
    return found[0] if found else None


def parse_seconds(
    cell: str, unit_s: Decimal | int = 1, decimal_comma: bool = False
) -> Decimal | None:
    """Return a time in s: a number of the column's unit, h:mm:ss, d-hh:mm:ss or 1h 2m 3s.

    `1:30` is minutes and seconds, in a column of hours hours and minutes.
    """
    cell = strip_marks(cell)
    parts = _PARTS.fullmatch(cell)
    if parts and sum(part is not None for part in parts.groups()) > 1:
        hours, minutes, seconds = (Decimal(part or 0) for part in parts.groups())
        return hours * 3600 + minutes * 60 + seconds
    if clock := _CLOCK.fullmatch(cell):
        days, *whole, second = clock.groups()
        if second is not None:
            hours = int(whole[0]) + 24 * int(days or 0)
            return hours * 3600 + int(whole[1]) * 60 + Decimal(second)
        if days is not None:
            return None  # 1-02:03 is no time that can be told
        return Decimal(int(whole[0]) * 60 + int(whole[1])) * (60 if unit_s == 3600 else 1)
    if unit := re.search(r"[\d.,]\s*([A-Za-zµ]+)\.?$", cell):  # `16.9 min`: its own unit counts
        unit_s = TIME_UNITS_S.get(unit[1].lower().replace("µ", "u"))
        cell = cell[: unit.start(1)].rstrip(". ")
    found = split_number(cell, decimal_comma)
    return None if unit_s is None or found is None or found[2] else found[0] * unit_s


def count_places(cell: str) -> int:
    """Return the decimals that a number is printed with: 2 for `1.94x`."""
    match = re.search(r"\d[.,](\d+)\D*$", strip_marks(cell))
    return len(match[1]) if match else 0


def is_rounding_of(number: Decimal, exact: Decimal, places: int, slack: Decimal = 0) -> bool:
    """Whether a number is `exact` with so many decimals, ties either way.

    slack: how far off `exact` may be, as a fraction, besides a binary float's own digits.
    """
    return abs(number - exact) <= Decimal(5).scaleb(-places - 1) + abs(exact) * max(
        slack, Decimal("1e-12")
    )


def strip_marks(cell: str) -> str:
    """Return a cell without emphasis, footnotes' marks, spread and separators of thousands."""
    text = cell.replace("\u00a0", " ").replace("\u202f", " ").replace("\u2212", "-").strip()
    text = re.sub(r"</?(?:b|i|strong|em)>|[`$]", "", text).strip("*~≈_ ")
    text = _SPREAD.sub("", text)
    while (shorter := _BEHIND.sub("", text)) != text:
        text = shorter
    text = re.sub(r"(?<=\d)[ _'’](?=\d{3}\b)", "", text)  # 29 600, 29_600, 29'600
    return text.strip("*~≈_ ")
