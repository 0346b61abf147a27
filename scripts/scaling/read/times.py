"""Times as logs print them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

UTC = timezone.utc
_SINCE_1970 = re.compile(r"(\d{9,10}(?:\.\d{1,9})?)|(\d{13})")  # seconds, or milliseconds
_ISO = re.compile(
    r"(\d{4})[-/](\d\d?)[-/](\d\d?)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
    r"(?: ?(?:(UTC|GMT|Z)|([+-])(\d\d):?(\d\d)))?"
)
_CTIME = re.compile(
    r"(?:[A-Z][a-z]{2},? )?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d:\d\d:\d\d)"
    r"(?: (UTC|GMT|[A-Z]{3,5}))? (\d{4})"
)
_LONGEST = 40  # characters


def parse_timestamp(text: str) -> datetime | None:
    """Return the time that a log's cell holds, None when it holds none.

    Read: nvidia-smi's `2026/11/21 10:00:05.123` (local time, without a zone), ISO 8601 with
    or without a zone, seconds or milliseconds since 1970 (UTC), and date's and ctime's
    `Sat Nov 21 10:00:05 UTC 2026`. A day and month in figures without the year first are not
    read: which is which is not known.
    """
    if len(text) > _LONGEST or not text.isascii():
        return None
    try:
        if match := _ISO.fullmatch(text):
            return _make_time(match)
        if match := _SINCE_1970.fullmatch(text):
            seconds = float(match[1]) if match[1] else int(match[2]) / 1000
            return datetime.fromtimestamp(seconds, UTC)
        if match := _CTIME.fullmatch(text):
            month, day, clock, zone, year = match.groups()
            when = datetime.strptime(f"{year} {month} {day} {clock}", "%Y %b %d %H:%M:%S")
            return when.replace(tzinfo=UTC) if zone in ("UTC", "GMT") else when
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _make_time(match: re.Match) -> datetime:
    *day_and_clock, fraction, utc, sign, hours, minutes = match.groups()
    zone = UTC if utc else None
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        zone = timezone(-offset if sign == "-" else offset)
    microsecond = int((fraction or "")[:6].ljust(6, "0"))
    return datetime(*map(int, day_and_clock), microsecond, zone)


def seconds_between(earlier: datetime, later: datetime) -> float:
    """Return the seconds between two times, 0.0 when only one of them has a zone."""
    try:
        return (later - earlier).total_seconds()
    except TypeError:
        return 0.0
