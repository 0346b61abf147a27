"""The benchmarks of readers and report run: a smoke run on small inputs, without their figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"


@pytest.mark.parametrize(
    "name",
    ["read_gpu_log", "read_slurm_logs", "read_large_logs", "write_report", "fill_many_runs"],
)
def test_a_benchmark_prints_its_table_and_writes_it(tmp_path, name):
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--rounds", "1"]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / f"{name}.md").read_text() + "\n"
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["rows"]
    assert {"cpu", "python", "utc"} <= set(record["machine"])
