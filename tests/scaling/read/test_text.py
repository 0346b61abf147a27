"""scaling.read.text: times as logs print them."""

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.read.text import LONGEST_LINE_CHARS, UTC, parse_timestamp, read_lines

quick = settings(max_examples=100, deadline=None)

NOON = datetime(2026, 11, 21, 12, 0, 5)
NOON_UTC = NOON.replace(tzinfo=UTC)
TIMES = [
    ("2026/11/21 12:00:05.000", NOON), ("2026-11-21 12:00:05", NOON), ("2026-11-21T12:00:05", NOON),
    ("2026-11-21T12:00:05Z", NOON_UTC),
    ("2026/11/21 12:00:05 UTC", NOON_UTC),
    ("2026-11-21T15:00:05+03:00", NOON_UTC),
    ("2026-11-21 15:00:05 +0300", NOON_UTC),
    ("1795262405", NOON_UTC), ("1795262405000", NOON_UTC),
    ("Sat Nov 21 12:00:05 2026", NOON), ("Sat Nov 21 12:00:05 UTC 2026", NOON_UTC),
    ("21/11/2026 12:00:05", None), ("11/21/2026 12:00:05", None), ("12:00:05", None), ("", None),
    ("2026", None), ("99999999999999999999", None), ("x" * 50, None),
    ("Sat Nov 31 12:00:05 2026", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), TIMES)
def test_times(text, expected):
    assert parse_timestamp(text) == expected


@quick
@given(st.text(max_size=30))
def test_any_text_is_a_time_or_none(text):
    assert parse_timestamp(text) is None or isinstance(parse_timestamp(text), datetime)


def test_no_line_is_longer_than_any_parser_needs(tmp_path):
    path = tmp_path / "long.out"
    path.write_bytes(b"x" * 100_000 + b"\n" + b"y" * 3_000_000 + b"\nz")
    lines = list(read_lines(path))
    assert [(line[0], len(line), has_end) for line, has_end in lines] == [
        ("x", LONGEST_LINE_CHARS, True),
        ("y", LONGEST_LINE_CHARS, True),
        ("z", 1, False),
    ]
