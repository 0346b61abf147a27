"""scaling_tables.py --compare: one setting's values side by side, and the interval over repeats."""

import pytest

from common.errors import UserError
from made_studies import make_run, make_study
from scaling.tables import make_option_tables


def make_tables(rates: dict, values=("25", "200"), **of_last):
    """rates: value of bucket_cap_mb -> one throughput per run, on 4 GPUs."""
    runs = [
        make_run(4, [rate, rate, rate], name=f"{value}-{n}", bucket_cap_mb=value)
        for value, each in rates.items()
        for n, rate in enumerate(each)
    ]
    runs[-1].settings |= of_last
    return make_option_tables(make_study(runs), "bucket_cap_mb", list(values))


def test_repeats_give_the_difference_an_interval():
    """By hand: means 100 and 110, deviations 1 and 1: 10 +- 2.7764 (t, 4 degrees) x sqrt(2/3)."""
    (table,) = make_tables({25.0: [99.0, 100.0, 101.0], 200.0: [109.0, 110.0, 111.0]})
    base, other = table.rows
    assert (base["value"].text, base["runs"].text, base["difference_pct"].text) == ("25", "3", "—")
    assert other["difference_pct"].text == "10.0"
    assert other["difference_pct"].note == "95 % interval 7.7 to 12.3 %"
    assert table.title == "bucket_cap_mb on 4 GPUs"


def test_an_interval_that_holds_0_says_so():
    (table,) = make_tables({25.0: [90.0, 110.0], 200.0: [95.0, 111.0]})
    assert table.rows[1]["difference_pct"].note.endswith("which holds 0: no difference shown")


def test_one_run_has_no_interval():
    (table,) = make_tables({25.0: [100.0, 101.0], 200.0: [120.0]})
    assert "one run" in table.rows[1]["difference_pct"].note


def test_null_is_called_none():
    (table,) = make_tables({None: [100.0], 200.0: [120.0]}, ("none", "200"))
    assert [row["value"].text for row in table.rows] == ["none", "200"]


def test_runs_that_differ_in_more_are_refused():
    with pytest.raises(UserError, match=r"bucket_cap_mb 200. differs in more than .*: model"):
        make_tables({25.0: [100.0], 200.0: [120.0]}, model="vit")


def test_values_that_nobody_ran_are_named():
    with pytest.raises(UserError, match="no scale has runs with two of bucket_cap_mb = 25, 50; the "
                                        "runs recorded: 200, 25"):  # fmt: skip
        make_tables({25.0: [100.0], 200.0: [120.0]}, ("25", "50"))
