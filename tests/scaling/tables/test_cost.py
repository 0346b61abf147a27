"""What a scale costs: GPU-hours, energy from power samples, money; the memory of every GPU."""

import json
from pathlib import Path

import pytest

from common.errors import UserError
from filled_tables import call, fill, parse_markdown, rows
from metrics_files import write_timed_run
from run_folders import GPU_HEADER, gpu_row, put, write_run
from scaling.runs import find_runs, make_samples, make_study
from scaling.tables import PlannedJob, make_cost, make_estimate, make_memory_table
from scaling.tables.cost import measure_energy_j
from submit_command import run_submit


def read(folder: Path):
    return make_study(find_runs(folder))


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
    (row,) = make_cost(read(one_gpu), price=2.5, currency="EUR").rows
    assert row["gpu_hours"].text == "0.100"  # 360 s
    assert row["money"].text == "0.25"
    assert row["samples_per_gpu_hour"].text == "3000000"  # 300,000 in a tenth of an hour
    assert row["energy_j_per_sample"].text == "0.140"  # 42,000 J / 300,000
    assert float(row["energy_kwh"].value) == pytest.approx(42000 / 3.6e6)
    assert row["money_per_million"].text == "0.833"


def test_without_a_price_there_is_no_money(one_gpu):
    assert "money" not in make_cost(read(one_gpu)).headers
    assert make_cost(read(one_gpu), 0.0).rows[0]["money"].text == "0.00"


def test_energy_is_that_of_all_gpus_of_all_nodes(tmp_path):
    folder = write_timed_run(tmp_path, 2, 2, "12", "360.0")
    rows = [(second, index, 100.0) for second in MINUTES for index in (0, 1)]
    for node in ("_node0", "_node1"):
        power_log(folder, "12", rows, node)
    (run,) = find_runs(tmp_path)
    assert measure_energy_j(run) == pytest.approx(4 * 36000)
    assert make_cost(read(tmp_path)).rows[0]["gpu_hours"].text == "0.400"


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
    (row,) = make_cost(read(one_gpu)).rows
    assert row["energy_j_per_sample"].text == "—" and words in row["energy_j_per_sample"].note


def test_costs_of_repeats_are_means(tmp_path):
    for run_id, wall_s in (("11", "360.0"), ("12", "720.0")):
        write_timed_run(tmp_path, 1, 1, run_id, wall_s)
    (row,) = make_cost(read(tmp_path)).rows
    assert row["gpu_hours"].text == "0.150" and row["config"].note == "mean of 2 runs"


def test_energy_of_the_latest_runs_alone(tmp_path):
    for run_id, watts in (("11", 900.0), ("12", 100.0)):
        folder = write_timed_run(tmp_path, 1, 1, run_id, "360.0")
        power_log(folder, run_id, [(s, 0, watts) for s in MINUTES])
    every, latest = (make_cost(read(tmp_path), energy_runs=n) for n in (None, 1))
    assert every.rows[0]["energy_kwh"].value * 3_600_000 == pytest.approx(180_000)
    assert latest.rows[0]["energy_kwh"].value * 3_600_000 == pytest.approx(36_000)
    assert "Energy is of the latest 1 run of a scale." in latest.definitions


def test_a_bare_log_has_no_samples_and_says_so(tmp_path):
    write_run(tmp_path, 1, 1, "11", record={}, exit_status=None)
    (row,) = make_cost(read(tmp_path)).rows
    assert row["gpu_hours"].text == "0.0259"  # 93.1 s of the log
    assert row["samples_per_gpu_hour"].note == "how many were trained on is not recorded"


# ---- Memory ---------------------------------------------------------------------------------


def test_memory_of_every_gpu_of_every_node(tmp_path):
    write_run(tmp_path, 1, 1, "11", used_mib=[20000] * 10 + [26532] * 10)
    write_run(tmp_path, 2, 2, "12", used_mib=[24000] * 20)
    rows = make_memory_table(fill(tmp_path)).rows
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
    row = make_memory_table(fill(tmp_path)).rows[-1]
    assert row["peak_mib"].text == "—" and "no GPU log of node 1 of job 12" in row["peak_mib"].note


def test_the_command_prints_it(tmp_path):
    write_run(tmp_path, 1, 2, "11")
    done = call("fill_tables", tmp_path, "--memory")
    assert (done.returncode, done.stderr) == (0, "")
    assert [row[2] for row in parse_markdown(done.stdout)] == ["GPU", "0", "1"]
    done = call("fill_tables", tmp_path, "--format", "json")
    memory = json.loads(done.stdout)["tables"][2]
    assert [row["gpu"] for row in memory["rows"]] == [0, 1]


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
    folder, _, _ = shared_node
    (run,) = find_runs(folder)
    row = rows(folder)["2 GPUs, 1 Node"]
    assert row.cells["gpu0_peak_mib"].text == "3000"  # GPU 2 is the job's lowest
    memory = make_memory_table(fill(folder)).rows
    assert [(r["gpu"].text, r["peak_mib"].text) for r in memory] == [("2", "3000"), ("3", "4000")]
    assert measure_energy_j(run) == pytest.approx(2 * 60 * 251.3)
    assert set(make_samples(run)["gpu"].dropna()) == {2, 3}
    words = "53 lines: 26 kept; ignored: 1 header, 26 a GPU that is not the job's"
    assert run.gpu_logs[0].counts.describe() == words


def test_the_line_of_a_shared_nodes_memory_is_that_of_the_jobs_lowest_gpu(shared_node):
    (run,) = find_runs(shared_node[0])
    printed = [f"[gpu_memory_log - GPU {gpu}] Peak = {gpu} MiB" for gpu in (2, 3)]
    with run.log_path.open("a") as file:
        print(*printed, sep="\n", file=file)
    cell = rows(shared_node[0])["2 GPUs, 1 Node"].cells["gpu0_peak_mib"]
    where, line = cell.source.split(", line ")
    assert where == str(run.log_path)
    assert run.log_path.read_text().splitlines()[int(line) - 1] == printed[0]


@pytest.mark.parametrize("uuids", [None, [], [None, None], ["GPU-8", "GPU-9"], "GPU-2", 7, [[]]])
def test_of_a_shared_node_nothing_is_guessed(shared_node, uuids):
    folder, path, _ = shared_node
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gpu_uuids": uuids}))
    (run,) = find_runs(folder)
    note = rows(folder)["2 GPUs, 1 Node"].cells["gpu0_peak_mib"].note
    assert "which are its own is unknown" in note
    with pytest.raises(UserError, match="show 4 of 2 GPUs"):
        measure_energy_j(run)


# ---- What a workshop takes -----------------------------------------------------------------------

ONE = PlannedJob("ddp_1g1n", "tinyimagenet", 1, 1, limit_s=1800, epochs=3)
FOUR = PlannedJob("ddp_4g1n", "tinyimagenet", 1, 4, limit_s=1800, epochs=3, times=2)


def read_estimate(table, job: int) -> list[str]:
    names = ("time_s", "gpu_hours", "all_gpu_hours")
    return [table.rows[job][name].text for name in names]


def test_measured_jobs_give_a_mean_and_sums(tmp_path):
    folder = write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 1, "12")
    (folder / "results/12/job_end.json").write_text('{"exit_status": 0, "elapsed_s": 267}')
    table = make_estimate([ONE, FOUR], find_runs(tmp_path), 10)
    # (93 + 267) / 2 = 180 s: 0.05 h each, 0.5 h of ten.
    assert read_estimate(table, 0) == ["180", "0.05", "0.5"]
    assert read_estimate(table, 1) == ["≤ 1800", "4.00", "40.0"]  # twice 4 GPUs
    assert read_estimate(table, 2)[1:] == ["4.0", "40.5"]
    notes = [row["job"].note for row in table.rows[:2]]
    assert notes == [
        "measured: 2 jobs on Tesla V100-SXM2-32GB (11, 12)",
        "time limit, not measured: no complete job of this scale and 3 epochs has a time",
    ]
    assert table.remarks[0].startswith("1 of 2 jobs are not measured: ")
    assert "GPUs at once: 40 when everybody runs ddp_4g1n" in table.remarks[1]
    assert "; 90 when everybody submits all jobs at once" in table.remarks[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 1}, {"workload": "gpt2"}, {"exit_status": 1, "complete": False},
        {"exit_status": None},
    ],
)  # fmt: skip
def test_what_is_no_measurement_of_this_job_is_not_taken_for_one(tmp_path, changed):
    write_run(tmp_path, 1, 1, "11", **changed)
    table = make_estimate([ONE], find_runs(tmp_path), 1)
    assert table.rows[0]["time_s"].text == "≤ 1800"
    assert table.rows[0]["job"].note.startswith("time limit, not measured: ")
    assert table.remarks[0].startswith(
        "Nothing is measured: their times are time limits, the upper"
    )


def test_the_command_prints_it_and_submits_nothing(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    options = ("--estimate", "--participants", 60, "--study", tmp_path)
    done = run_submit(*options, PATH="/nowhere")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[2].split()
    assert first == ["ddp_1g1n", "[1]", "1", "93", "0.03", "1.6"]  # 60 x 93 s
    assert "[1] measured: 1 job on Tesla V100-SXM2-32GB (11)" in done.stdout
    assert run_submit("--participants", 60, "baseline").returncode == 2
