"""What a scale costs: GPU-hours, energy from power samples, money; the memory of every GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from filled_tables import parse_markdown
from metrics_files import write_timed_run
from run_folders import GPU_HEADER, gpu_row, put, write_run
from scaling.runs.find import find_runs
from scaling.runs.frames import make_gpu_samples_frame
from scaling.runs.samples import read_samples
from scaling.runs.study import read_study
from scaling.runs.summary import summarise_job
from scaling.tables.cell_sources import describe_source
from scaling.tables.cost import make_cost, measure_energy_j
from scaling.tables.memory_table import make_memory_grid
from scaling.tables.readme import build_report

REPO = Path(__file__).resolve().parents[3]


def power_log(
    folder: Path, run_id: str, rows: list[tuple[int, int, object]], node: str = ""
) -> None:
    """A GPU log of (second, index, W)."""
    lines = [gpu_row(s, index, 1000).replace("251.30", str(watts)) for s, index, watts in rows]
    put(
        folder / f"gpu_memory/{run_id}/gpu_memory_log{node}.csv",
        "\n".join([GPU_HEADER, *lines]) + "\n",
    )


MINUTES = range(0, 361, 60)  # the samples of a run of 360 s


@pytest.fixture
def one_gpu(tmp_path):
    folder = write_timed_run(tmp_path, 1, 1, "11", "360.0")
    # 100 W for 300 s, then a ramp to 300 W in 60 s: 30,000 + 12,000 J.
    power_log(folder, "11", [(s, 0, 100.0 if s < 360 else 300.0) for s in MINUTES])
    return tmp_path


def test_gpu_hours_money_and_energy(one_gpu):
    (row,) = make_cost(read_study(one_gpu), price=2.5, currency="EUR").rows
    assert row["gpu_hours"].text == "0.100"  # 360 s
    assert row["money"].text == "0.25"
    assert row["samples_per_gpu_hour"].text == "3000000"  # 300,000 in a tenth of an hour
    assert row["energy_j_per_sample"].text == "0.140"  # 42,000 J / 300,000
    assert float(row["energy_kwh"].value) == pytest.approx(42000 / 3.6e6)
    assert row["money_per_million"].text == "0.833"


def test_without_a_price_there_is_no_money(one_gpu):
    assert "money" not in make_cost(read_study(one_gpu)).headers
    assert make_cost(read_study(one_gpu), 0.0).rows[0]["money"].text == "0.00"


def test_energy_is_that_of_all_gpus_of_all_nodes(tmp_path):
    folder = write_timed_run(tmp_path, 2, 2, "12", "360.0")
    rows = [(second, index, 100.0) for second in MINUTES for index in (0, 1)]
    for node in ("_node0", "_node1"):
        power_log(folder, "12", rows, node)
    (run,) = find_runs(tmp_path)
    assert measure_energy_j(run) == pytest.approx(4 * 36000)
    assert make_cost(read_study(tmp_path)).rows[0]["gpu_hours"].text == "0.400"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(0, 0, "[N/A]"), (5, 0, 100.0)], "no power"),
        ([(0, 0, 100.0)], "one power sample only"),
        ([(0, 0, 100.0), (100, 0, 100.0)], "a gap of 100 s"),
        ([(0, 0, 1.0), (0, 1, 1.0), (5, 0, 1.0), (5, 1, 1.0)], "show 2 of 1 GPUs"),
        ([(s, 0, 100.0) for s in range(0, 61, 5)], "stops after 60 s of 360 s"),
    ],
)
def test_energy_that_is_not_known_says_why(one_gpu, rows, words):
    power_log(one_gpu / "baseline", "11", rows)
    (run,) = find_runs(one_gpu)
    with pytest.raises(UserError, match=words):
        measure_energy_j(run)
    (row,) = make_cost(read_study(one_gpu)).rows
    assert row["energy_j_per_sample"].text == "—" and words in row["energy_j_per_sample"].note


def test_costs_of_repeats_are_means(tmp_path):
    for run_id, wall_s in (("11", "360.0"), ("12", "720.0")):
        write_timed_run(tmp_path, 1, 1, run_id, wall_s)
    (row,) = make_cost(read_study(tmp_path)).rows
    assert row["gpu_hours"].text == "0.150" and row["config"].note == "mean of 2 runs"


def test_energy_of_the_latest_runs_alone(tmp_path):
    for run_id, watts in (("11", 900.0), ("12", 100.0)):
        folder = write_timed_run(tmp_path, 1, 1, run_id, "360.0")
        power_log(folder, run_id, [(s, 0, watts) for s in MINUTES])
    every, latest = (make_cost(read_study(tmp_path), energy_runs=n) for n in (None, 1))
    assert every.rows[0]["energy_kwh"].value * 3_600_000 == 180_000
    assert latest.rows[0]["energy_kwh"].value * 3_600_000 == 36_000
    assert "Energy is of the latest 1 run of a scale." in latest.definitions


def test_a_bare_log_has_no_samples_and_says_so(tmp_path):
    write_run(tmp_path, 1, 1, "11", record={}, exit_status=None)
    (row,) = make_cost(read_study(tmp_path)).rows
    assert row["gpu_hours"].text == "0.0259"  # 93.1 s of the log
    assert row["samples_per_gpu_hour"].note == "how many were trained on is not recorded"


# ---- Memory ---------------------------------------------------------------------------------


def test_memory_of_every_gpu_of_every_node(tmp_path):
    write_run(tmp_path, 1, 1, "11", used_mib=[20000] * 10 + [26532] * 10)
    write_run(tmp_path, 2, 2, "12", used_mib=[24000] * 20)
    rows = make_memory_grid(build_report(tmp_path)).rows
    shown = [[row[name].text for name in ("config", "node", "gpu", "peak_mib")] for row in rows]
    assert shown == [
        ["1 GPU, 1 Node (baseline)", "0", "0", "26532"],
        ["2 Nodes", "0", "0", "24000"],
        ["2 Nodes", "0", "1", "24001"],
        ["2 Nodes", "1", "0", "24000"],
        ["2 Nodes", "1", "1", "24001"],
    ]
    assert rows[0]["avg_mib"].text == "23266.00"


def test_memory_of_a_node_without_a_log_is_a_reason(tmp_path):
    folder = write_run(tmp_path, 2, 2, "12")
    (folder / "gpu_memory/12/gpu_memory_log_node1.csv").unlink()
    row = make_memory_grid(build_report(tmp_path)).rows[-1]
    assert row["peak_mib"].text == "—" and "no GPU log of node 1 of job 12" in row["peak_mib"].note


def test_the_command_prints_it(tmp_path):
    write_run(tmp_path, 1, 2, "11")
    command = [sys.executable, REPO / "scripts/fill_tables.py", tmp_path]
    done = subprocess.run([*command, "--memory"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [row[2] for row in parse_markdown(done.stdout)] == ["GPU", "0", "1"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True)
    assert [row["gpu"] for row in json.loads(done.stdout)["gpu_memory"]] == [0, 1]
    page = subprocess.run([*command, "--format", "html"], capture_output=True, text=True).stdout
    assert page.count("<table>") == 3 and "Multi-GPU Scaling (1 Node)" in page


# ---- A node that jobs share -------------------------------------------------------------------


@pytest.fixture
def shared_node(tmp_path):
    """A job on GPUs 2 and 3 of a node whose log shows four; run.json names them by rank."""
    folder = write_timed_run(tmp_path, 1, 2, "12", "60.0")
    path = folder / "results/12/run.json"
    record = json.loads(path.read_text()) | {"gpu_uuids": ["GPU-3", "gpu-2"]}
    path.write_text(json.dumps(record))
    rows = [
        gpu_row(second, gpu, 1000 * (gpu + 1)) for second in range(0, 61, 5) for gpu in range(4)
    ]
    log = folder / "gpu_memory/12/gpu_memory_log.csv"
    put(log, "\n".join([GPU_HEADER, *rows]) + "\n")
    return tmp_path, path, log


def test_of_a_shared_node_only_the_jobs_gpus_count(shared_node):
    folder, _, log = shared_node
    (run,) = find_runs(folder)
    row = next(r for t in build_report(folder).tables for r in t.rows if r.run)
    assert row.cells["gpu0_peak_mib"].text == "3000"  # GPU 2 is the job's lowest
    rows = make_memory_grid(build_report(folder)).rows
    assert [(r["gpu"].text, r["peak_mib"].text) for r in rows] == [("2", "3000"), ("3", "4000")]
    assert measure_energy_j(run) == pytest.approx(2 * 60 * 251.3)
    assert set(read_samples(run).gpus["gpu"]) == {2, 3}
    assert set(make_gpu_samples_frame([run])["gpu"]) == {2, 3}
    (words,) = (words for path, words in read_samples(run).files if path == log)
    assert words == "53 lines: 26 kept; ignored: 1 header, 26 a GPU that is not the job's"
    lines = list(summarise_job(run.folder, "12", run.log_path, 0, 60))
    with run.log_path.open("a") as file:
        print(*lines, sep="\n", file=file)
    source = describe_source("gpu0_peak_mib", row, None)
    line = int(source.removeprefix(f"{run.log_path}, line "))
    assert run.log_path.read_text().splitlines()[line - 1].startswith("[gpu_memory_log - GPU 2]")
    assert [line[:24] for line in lines[:2]] == [
        "[gpu_memory_log - GPU 2]",
        "[gpu_memory_log - GPU 3]",
    ]


@pytest.mark.parametrize("uuids", [None, [], [None, None], ["GPU-8", "GPU-9"], "GPU-2", 7, [[]]])
def test_of_a_shared_node_nothing_is_guessed(shared_node, uuids):
    folder, path, _ = shared_node
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gpu_uuids": uuids}))
    (run,) = find_runs(folder)
    row = next(r for t in build_report(folder).tables for r in t.rows if r.run)
    assert "which are its own is not known" in row.cells["gpu0_peak_mib"].note
    with pytest.raises(UserError, match="show 4 of 2 GPUs"):
        measure_energy_j(run)
