"""The benchmarks run: a smoke run on small inputs, without their figures.

Most take a minute: `bash scripts/test.sh -m benchmark` runs them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from measure import holds, judge  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        "render_jobs",
        pytest.param("command_starts", marks=pytest.mark.benchmark),
        pytest.param("loaders", marks=pytest.mark.benchmark),
        pytest.param("cache_build", marks=pytest.mark.benchmark),
        pytest.param("trainer", marks=pytest.mark.benchmark),
        pytest.param("ddp", marks=pytest.mark.benchmark),
        pytest.param("heartbeat", marks=pytest.mark.benchmark),
        pytest.param("rank_files", marks=pytest.mark.benchmark),
        pytest.param("participants", marks=pytest.mark.benchmark),
        pytest.param("workshop", marks=pytest.mark.benchmark),
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


@pytest.mark.benchmark
def test_the_table_of_all_has_the_rows_that_are_asked_for(tmp_path):
    command = [sys.executable, BENCHMARKS / "all.py", "--quick", "--out", tmp_path]
    done = subprocess.run([*command, "--only", "12", "10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[0] for line in done.stdout.splitlines() if line.startswith("| 1")]
    assert rows == ["| 10", "| 12", "| 12"]
    assert (tmp_path / "all.md").read_text() + "\n" == done.stdout
    assert {path.stem for path in tmp_path.iterdir()} == {"all", "read_slurm_logs", "render_jobs"}


@pytest.mark.benchmark
def test_gpu_figures_need_a_gpu():
    no_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, BENCHMARKS / "gpu.py"]
    done = subprocess.run(command, env=no_gpu, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no GPU here; --smoke tries what can run without one\n"


@pytest.mark.benchmark
def test_a_part_of_the_gpu_benchmark_runs_on_a_cpu_for_a_try(tmp_path):
    command = [sys.executable, BENCHMARKS / "gpu.py", "--smoke", "--part=minimal", "--rounds=1"]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert row["bar"] == ">= 5"
    assert row["n"] == 1 and "cut" not in row["more"]
    assert min(row["more"]["images_per_s"].values()) > 0
