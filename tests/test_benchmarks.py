"""The other benchmarks run: a smoke run on small inputs, without their figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from measure import holds, judge  # noqa: E402


@pytest.mark.parametrize("name", ["render_jobs", "command_starts"])
def test_a_benchmark_prints_its_table_and_writes_it(tmp_path, name):
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--rounds", "1"]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / f"{name}.md").read_text() + "\n"
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["rows"]
    assert {"cpu", "python", "utc"} <= set(record["machine"])


@pytest.mark.parametrize(
    ("value", "bar", "expected"),
    [
        (1.5, "<= 1.5", True),
        (1.51, "<= 1.5", False),
        (50.0, ">= 50", True),
        (49.9, ">= 50", False),
        (0.3, "<= 0.3 s", True),
    ],
)
def test_a_bar_is_kept_on_its_side(value, bar, expected):
    assert holds(value, bar) is expected


def test_a_row_is_judged_by_the_median_of_its_rounds():
    row = judge("4", "trainer", ">= 1.6", [1.5, 1.7, 9.0])
    assert (row["ratio"], row["holds"], row["n"]) == (1.7, True, 3)
    assert (row["ratio_min"], row["ratio_max"]) == (1.5, 9.0)
