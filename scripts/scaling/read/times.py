"""Times as logs print them."""

import re
from datetime import UTC, datetime

_EPOCH = re.compile(r"\d{9,10}(?:\.\d{1,9})?")
_EPOCH_MS = re.compile(r"\d{13}")
_CTIME = re.compile(
    r"(?:[A-Z][a-z]{2},? )?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d:\d\d:\d\d)"
    r"(?: (UTC|GMT|[A-Z]{3,5}))? (\d{4})"
)
_ZONE = re.compile(r" ?(UTC|GMT|Z)$|(?<=\d) (?=[+-]\d\d:?\d\d$)")
_LONGEST = 40  # characters


def parse_timestamp(text: str) -> datetime | None:
    """Return the time that a log's cell holds, None when it holds none.

    Read: nvidia-smi's `2026/11/21 10:00:05.123` (local time, without a zone), ISO 8601 with
    or without a zone, seconds or milliseconds since 1970 (UTC), and date's and ctime's
    `Sat Nov 21 10:00:05 UTC 2026`. A day and month in figures without the year first are not
    read: which is which is not known.
    """
    if len(text) > _LONGEST:
        return None
    try:
        if _EPOCH.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        if _EPOCH_MS.fullmatch(text):
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        if text[:1].isalpha():
            return _parse_ctime(text)
        return datetime.fromisoformat(_tidy(text))
    except (ValueError, OverflowError, OSError):
        return None


def _tidy(text: str) -> str:
    """Return text as ISO 8601 writes it: `-` in the date, `Z` or `+hh:mm` without a space."""
    text = text.replace("/", "-")
    if text[-1:].isdigit() and (len(text) < 6 or text[-6] not in " +-:"):
        return text
    return _ZONE.sub(lambda match: "Z" if match[1] else "", text)


def _parse_ctime(text: str) -> datetime | None:
    match = _CTIME.fullmatch(text)
    if match is None:
        return None
    month, day, clock, zone, year = match.groups()
    when = datetime.strptime(f"{year} {month} {day} {clock}", "%Y %b %d %H:%M:%S")
    return when.replace(tzinfo=UTC) if zone in ("UTC", "GMT") else when


def seconds_between(earlier: datetime, later: datetime) -> float:
    """Return the seconds between two times, 0.0 when only one of them has a zone."""
    try:
        return (later - earlier).total_seconds()
    except TypeError:
        return 0.0
