"""Small inputs of tests/cases through the commands that a user types: right, or refused."""

from pathlib import Path

import pytest

from filled_tables import call, parse_markdown

CASES = Path(__file__).resolve().parents[1] / "cases"

# File -> (GPUs, speedup, efficiency) of each row, and words that stand in what is printed.
TABLES = {
    "one_gpu_words": ("1 1.00 1.00, 4 3.60 0.90", ""),
    "c2_pergpu": ("1 1.00 1.00, 2 1.96 0.98, 4 3.80 0.95", "196.00"),
    "per_gpu_no_single": ("8 1.00 1.00, 128 14.72 0.92", "678400.00"),
    "c1_na": ("1 1.00 1.00, 2 — —, 4 3.80 0.95", "says 'N/A'"),
    "c12_error": ("1 1.00 1.00, 2 — —, 4 3.80 0.95", "says 'ERROR'"),
    "baseline_oom": ("1 — —, 2 1.00 1.00, 4 1.89 0.95", "says 'OOM'"),
    "c4_unit": ("1 1.00 1.00, 2 1.73 0.86", "Throughput (ns/day)"),
    "c5_pct": ("1 1.00 1.00, 4 3.93 0.98", "of 2 printed speedups and efficiencies 0 are not"),
    "c6_dash": ("1 1.00 1.00, 4 3.93 0.98", "of 1 printed speedups and efficiencies 0 are not"),
    "nodes_times_per_node": ("4 1.00 1.00, 8 1.90 0.95, 16 3.50 0.88", "Speedup vs 4 GPUs"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    rows, words = TABLES[name]
    done = call("scaling_tables", "--from-csv", CASES / f"csv/{name}.csv")
    assert (done.returncode, done.stderr) == (0, "")
    headers, *cells = parse_markdown(done.stdout)
    places = [0, len(headers) - 2, len(headers) - 1]
    plain = [[row[at].split(" [")[0] for at in places] for row in cells]
    assert ", ".join(" ".join(row) for row in plain) == rows
    assert words in done.stdout


def test_two_models_are_two_series():
    done = call("scaling_tables", "--from-csv", CASES / "csv/models_as_numbers.csv")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert '--where "Model=7b"' in done.stderr
