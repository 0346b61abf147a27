"""submit.py --estimate: what a workshop takes, from measured jobs or time limits."""

import pytest

from run_folders import write_run
from scaling.runs import find_runs
from scaling.tables import PlannedJob, make_estimate
from submit_command import run_submit

ONE = PlannedJob("ddp_1g1n", "tinyimagenet", 1, 1, limit_s=1800, epochs=3)
FOUR = PlannedJob("ddp_4g1n", "tinyimagenet", 1, 4, limit_s=1800, epochs=3, times=2)


def read(table, job: int) -> list[str]:
    names = ("time_s", "longest_s", "gpu_hours", "all_gpu_hours", "most_gpu_hours")
    return [table.rows[job][name].text for name in names]


def test_measured_jobs_give_mean_longest_and_sums(tmp_path):
    folder = write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 1, "12")
    (folder / "results/12/job_end.json").write_text('{"exit_status": 0, "elapsed_s": 267}')
    table = make_estimate([ONE, FOUR], find_runs(tmp_path), 10)
    # (93 + 267) / 2 = 180 s: 0.05 h each, 0.5 h of ten; at most 10 x 267 s = 0.74 h.
    assert read(table, 0) == ["180", "267", "0.05", "0.5", "0.7"]
    assert read(table, 1) == ["≤ 1800", "≤ 1800", "4.00", "40.0", "40.0"]  # twice 4 GPUs
    assert read(table, 2)[2:] == ["4.0", "40.5", "40.7"]
    notes = [row["job"].note for row in table.rows[:2]]
    assert notes == [
        "measured: 2 jobs on Tesla V100-SXM2-32GB (11, 12)",
        "time limit, not measured: no complete job of this scale",
    ]
    assert table.remarks[0].startswith("1 of 2 jobs are not measured: ")
    assert "GPUs at once: 40 when everybody runs ddp_4g1n" in table.remarks[1]
    assert "; 90 when everybody submits all jobs at once" in table.remarks[1]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"epochs": 1}, "those measured trained 1 epochs, this one 3"),
        ({"workload": "gpt2"}, "no complete job of this scale"),
        ({"exit_status": 1, "complete": False}, "no complete job of this scale"),
        ({"exit_status": None}, "the complete jobs of this scale have no job_end.json"),
    ],
)
def test_what_is_no_measurement_of_this_job_is_not_taken_for_one(tmp_path, changed, why):
    write_run(tmp_path, 1, 1, "11", **changed)
    table = make_estimate([ONE], find_runs(tmp_path), 1)
    assert table.rows[0]["job"].note == f"time limit, not measured: {why}"
    assert table.remarks[0].startswith("Nothing is measured: all times are time limits, the upper")


def test_the_command_prints_it_and_submits_nothing(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    options = ("--estimate", "--participants", 60, "--study", tmp_path)
    done = run_submit(*options, PATH="/nowhere")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[2].split()
    assert first == ["ddp_1g1n", "[1]", "1", "93", "93", "0.03", "1.6", "1.6"]  # 60 x 93 s
    assert "[1] measured: 1 job on Tesla V100-SXM2-32GB (11)" in done.stdout
    assert run_submit("--participants", 60, "baseline").returncode == 2
