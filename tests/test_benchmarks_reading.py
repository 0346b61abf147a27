"""The benchmarks of readers and report run: a smoke run on small inputs, without their figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"


@pytest.mark.parametrize(
    "name",
    [
        "read_slurm_logs",
        pytest.param("read_gpu_log", marks=pytest.mark.benchmark),
        pytest.param("read_large_logs", marks=pytest.mark.benchmark),
        pytest.param("write_report", marks=pytest.mark.benchmark),
        pytest.param("fill_many_runs", marks=pytest.mark.benchmark),
    ],
)
def test_a_benchmark_prints_its_table_and_writes_it(tmp_path, name):
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--rounds", "1"]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / f"{name}.md").read_text() + "\n"
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["rows"]
    assert {"cpu", "python", "utc"} <= set(record["machine"])
