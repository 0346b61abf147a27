"""Slurm's times as sbatch, sinfo and sacct write them."""

import math

import pytest

from common.slurm_time import format_time, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30 * 60),
        ("30:00", 30 * 60),
        ("90:30", 90 * 60 + 30),
        ("01:30:00", 5400),
        ("2:00:00", 7200),
        ("72:00:00", 3 * 86400),
        ("2-00", 2 * 86400),
        ("2-12", 60 * 3600),
        ("1-06:30", 30.5 * 3600),
        ("2-12:00:00", 60 * 3600),
        # sacct's Elapsed and TotalCPU
        ("00:01.234", 1.234),
        ("01:02:03.5", 3723.5),
        ("1-00:00:01", 86401),
        ("UNLIMITED", math.inf),
        ("infinite", math.inf),
    ],
)
def test_times_in_seconds(text, seconds):
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "NONE", "n/a", "soon", "1:2:3:4", "-5", "2-", "5.5", "Partition_Limit", "1:" + "9" * 400],
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="is not a time of Slurm's"):
        parse_time(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1200, "00:20:00"), (86400, "1-00:00:00"), (90061, "1-01:01:01"), (math.inf, "unlimited")],
)
def test_limits_as_slurm_writes_them(seconds, text):
    assert format_time(seconds) == text
    assert parse_time(text) == seconds
