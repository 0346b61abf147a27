"""scaling.runs.find: which runs a folder holds, at which scale, and how each stands."""

import json
import os
import time
from decimal import Decimal
from pathlib import Path

import pytest

from common.errors import UserError
from run_folders import epoch_line, gpu_csv, out_text, put, scale_folder, settings, write_run
from scaling.runs import Run, State, find_runs, order_in_time

PREEMPTED = (
    "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T10:00:00 DUE TO {} ***\n"
)
LIMIT = PREEMPTED.format("TIME LIMIT")
ERROR = "[rank 1 on node2] error: cannot decode n01443537_0.JPEG\n"


def only_run(root: Path, now_s: float | None = None) -> Run:
    (run,) = find_runs(root, now_s)
    return run


def test_a_complete_run(tmp_path):
    folder = write_run(tmp_path, 2, 2, "12")
    run = only_run(tmp_path)
    assert (run.id, run.job_name) == ("12", "ddp_2g2n")
    assert (run.state, run.reason) == ("complete", "complete")
    assert (run.nodes, run.gpus_per_node, run.gpus, run.workload) == (2, 2, 4, "tinyimagenet")
    assert run.log_path == folder / "log/ddp_2g2n_12.out"
    assert sorted(run.gpu_log_paths) == sorted(run.cpu_log_paths) == [0, 1]
    assert run.attempt.last.throughput_per_s == Decimal("704.9")
    assert run.is_usable


def test_each_run_below_a_folder_is_found_and_each_unused_job_file(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 4, "12")
    write_run(tmp_path, 1, 4, "13")
    scale_folder(tmp_path, 8, 2)
    (tmp_path / ".git/results/99").mkdir(parents=True)
    (tmp_path / "baseline/results/notes").mkdir()
    found = {(run.id, run.nodes, run.gpus_per_node) for run in find_runs(tmp_path)}
    assert found == {("11", 1, 1), ("12", 1, 4), ("13", 1, 4), ("", 8, 2)}


def test_a_relative_run_dir_gives_one_run(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12", out=f"Results: runs/first\n{out_text()}")
    for name in ("results", "gpu_memory", "cpu_memory"):
        (folder / "runs/first").mkdir(parents=True, exist_ok=True)
        (folder / name).rename(folder / "runs/first" / name)
    run = only_run(tmp_path)
    assert (run.state, run.folder, run.gpus) == (State.COMPLETE, folder, 2)
    assert run.attempt.has_all_epochs and run.gpu_logs


def test_files_that_the_log_says_are_elsewhere_are_found(tmp_path):
    here, there = tmp_path / "jobs/baseline", write_run(tmp_path / "scratch", 1, 1, "12")
    (here / "log").mkdir(parents=True)
    for log in (there / "log").iterdir():
        text = log.read_text()
        (here / "log" / log.name).write_text(f"Results: {there}\n{text}")
        log.unlink()
    (run,) = find_runs(tmp_path / "jobs")
    assert run.state is State.COMPLETE
    assert run.settings["world_size"] == 1
    assert run.results_dir == there / "results/12"


def test_a_job_file_without_a_run_says_how_to_start_it(tmp_path):
    scale_folder(tmp_path / "my jobs", 1, 8)
    run = only_run(tmp_path)
    folder = tmp_path / "my jobs/multi_gpu/8_gpus"
    assert run.state is State.NEVER_STARTED
    assert run.reason == f"no run yet: cd '{folder}' && sbatch multi_gpu.slurm"
    assert run.account == run.reason


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder; run this from"):
        find_runs(tmp_path / "nowhere")
    assert find_runs(tmp_path) == []


# ---- States --------------------------------------------------------------------------------

# The log, job_end.json's exit status (None: not written), the state and the reason.
STATES = [
    (out_text(1), None, State.RUNNING, "running, epoch 1 of 3 done"),
    ("", None, State.RUNNING, "running, no epoch line yet"),
    (out_text(2) + ERROR, 1, State.FAILED, f"failed: {ERROR.strip()}"),
    (ERROR, None, State.FAILED, f"failed: {ERROR.strip()}"),
    (
        out_text(2) + LIMIT,
        143,
        State.TIMED_OUT,
        "timed out: reached its time limit, epoch 2 of 3 done",
    ),
    (
        out_text(2) + ERROR + LIMIT,
        143,
        State.TIMED_OUT,
        f"timed out: reached its time limit; first: {ERROR.strip()}",
    ),
    (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0.\n",
        137,
        State.OUT_OF_MEMORY,
        "out of memory: a process was killed: the job had used up its memory",
    ),
    (
        PREEMPTED.replace(" DUE TO {}", ""),
        143,
        State.CANCELLED,
        "cancelled: stopped by scancel or by Slurm, no epoch line yet",
    ),
    (
        out_text(1),
        3,
        State.FAILED,
        "failed: exit status 3, the log does not say why, epoch 1 of 3 done",
    ),
    (
        out_text(1) + "Connection closed by peer\n",
        137,
        State.FAILED,
        "failed: exit status 137: a process was ended by SIGKILL, often because memory ran out, "
        "epoch 1 of 3 done",
    ),
    (
        out_text(2),
        0,
        State.FAILED,
        "failed: ended with exit status 0 but without RUN_COMPLETE.txt, epoch 2 of 3 done",
    ),
]


@pytest.mark.parametrize(("out", "status", "state", "reason"), STATES, ids=[s[3] for s in STATES])
def test_a_run_that_is_not_complete_says_how_it_stands(tmp_path, out, status, state, reason):
    write_run(tmp_path, 1, 2, "12", out=out, complete=False, exit_status=status)
    run = only_run(tmp_path)
    assert (run.state, run.reason) == (state, reason)
    assert run.account == f"job 12: {reason}"
    assert not run.is_usable


def test_what_comes_after_the_marker_of_completion_does_not_undo_it(tmp_path):
    write_run(tmp_path, 1, 2, "12", exit_status=1)
    run = only_run(tmp_path)
    assert (run.state, run.is_usable) == (State.COMPLETE, True)
    assert run.reason == "complete: its job ended with exit status 1 after that"


def test_a_job_that_asked_for_a_requeue(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12", complete=False, out=out_text(1))
    put(folder / "results/12/REQUEUE", "")
    run = only_run(tmp_path)
    assert run.state == State.TIMED_OUT
    assert run.reason == "timed out: saved a checkpoint to go on"
    write_run(tmp_path, 1, 2, "12.1")
    first, second = find_runs(tmp_path)
    assert first.reason == "timed out: saved a checkpoint to go on, requeued as 12.1"
    assert (second.id, second.state) == ("12.1", State.COMPLETE)


def test_a_run_that_has_been_silent_for_long_is_doubted(tmp_path):
    write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out_text(1))
    run = only_run(tmp_path, now_s=time.time() + 26 * 3600)
    assert run.reason == (
        "failed: ended without a trace (killed outright, or its node died), epoch 1 of 3 done; "
        "nothing written for 26 h"
    )
    assert only_run(tmp_path).reason == "running, epoch 1 of 3 done"


def test_an_old_empty_log_alone_never_started(tmp_path):
    path = put(tmp_path / "baseline/log/ddp_1g1n_12.out", "")
    os.utime(path, (0, 0))
    assert only_run(tmp_path).state is State.NEVER_STARTED
    os.utime(path)
    assert only_run(tmp_path).state is State.RUNNING


# ---- Without this project's records --------------------------------------------------------


def test_a_run_of_log_and_csv_alone_is_judged_by_its_log(tmp_path):
    write_run(tmp_path, 1, 4, "12", record={}, exit_status=None)
    run = only_run(tmp_path)
    assert (run.state, run.settings, run.workload) == (State.COMPLETE, None, None)
    assert (run.nodes, run.gpus_per_node) == (1, 4)


@pytest.mark.parametrize(
    ("cut", "state"), [("Total training", State.COMPLETE), ("Epoch [2/3]", State.RUNNING)]
)
def test_such_a_run_needs_every_epoch(tmp_path, cut, state):
    out = "".join(line for line in out_text().splitlines(keepends=True) if cut not in line)
    write_run(tmp_path, 1, 4, "12", record={}, exit_status=None, out=out)
    assert only_run(tmp_path).state is state


def test_a_run_with_a_record_needs_its_marker(tmp_path):
    write_run(tmp_path, 1, 4, "12", complete=False, exit_status=None)
    assert only_run(tmp_path).state is State.RUNNING


SCALES = [
    ("multi_gpu/4_gpus", "102.out", (1, 4)),  # --output=log/%j.out
    ("multi_gpu/4_gpus", "slurm-102.out", (1, 4)),
    ("study", "ddp_2g4n.102.out", (4, 2)),
    ("study", "ddp_2g4n-102.out", (4, 2)),
    ("x", "ddp_2g8n_12.out", (8, 2)),
    ("x", "gpt2_4g1n_12.out", (1, 4)),
    ("baseline", "slurm-12.out", (1, 1)),
    ("multi_gpu/4_gpus", "job_12.out", (1, 4)),
    ("multi_node/8_nodes", "job_12.out", (8, None)),
    ("x", "job_12.out", (None, None)),
]


@pytest.mark.parametrize(("folder", "log", "scale"), SCALES)
def test_the_scale_comes_from_the_jobs_name_else_from_the_folder(tmp_path, folder, log, scale):
    put(tmp_path / folder / "log" / log, out_text())
    run = only_run(tmp_path)
    assert (run.nodes, run.gpus_per_node) == scale
    assert run.gpus == (scale[0] * scale[1] if all(scale) else None)


def test_the_record_outweighs_the_jobs_name(tmp_path):
    write_run(tmp_path, 1, 4, "12", record=settings(1, 2, "12"), complete=True)
    assert (only_run(tmp_path).nodes, only_run(tmp_path).gpus_per_node) == (1, 2)


@pytest.mark.parametrize("gpu_log", ["gpu_memory_log.csv", "gpu_memory/gpu_memory_log.csv"])
@pytest.mark.parametrize("log", ["ddp_4g1n_12.out", "log/ddp_4g1n_12.out"])
def test_an_older_workshops_folder_may_be_flat(tmp_path, log, gpu_log):
    put(tmp_path / "runs/one" / log, out_text())
    put(tmp_path / "runs/one" / gpu_log, gpu_csv({0: [5, 6]}))
    put(tmp_path / "runs/one/cpu_memory_log.txt", "")
    run = only_run(tmp_path / "runs")
    assert (run.id, run.state, run.nodes, run.gpus_per_node) == ("12", State.COMPLETE, 1, 4)
    assert run.gpu_log_paths == {0: tmp_path / "runs/one" / gpu_log}


def test_a_gpu_log_that_names_no_run_is_no_ones_beside_two_runs(tmp_path):
    for run_id in ("12", "13"):
        put(tmp_path / f"one/ddp_4g1n_{run_id}.out", out_text())
    put(tmp_path / "one/gpu_memory_log.csv", gpu_csv({0: [5, 6]}))
    assert [(run.id, run.gpu_log_paths) for run in find_runs(tmp_path)] == [("12", {}), ("13", {})]


def test_a_log_alone_beside_other_files_is_no_run(tmp_path):
    put(tmp_path / "tables/scaling_tables_12.out", "hello\n")
    assert find_runs(tmp_path) == []


# ---- Requeued jobs -------------------------------------------------------------------------


def test_each_attempt_of_a_requeued_job_is_a_run_of_its_own(tmp_path):
    out = out_text(2, throughput=1.0) + PREEMPTED.format("PREEMPTION") + out_text(throughput=2.0)
    write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out)
    write_run(tmp_path, 1, 2, "12.1", out=out)
    first, second = find_runs(tmp_path)
    assert (first.id, first.state) == ("12", State.CANCELLED)
    assert first.reason == "cancelled: requeued as 12.1"
    assert first.attempt.last.throughput_per_s == 1.0
    assert (second.id, second.state) == ("12.1", State.COMPLETE)
    assert second.attempt.last.throughput_per_s == 2.0


def test_a_restart_that_has_printed_nothing_has_no_epoch_yet(tmp_path):
    out = out_text(2) + PREEMPTED.format("PREEMPTION")
    write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out)
    write_run(tmp_path, 1, 2, "12.1", complete=False, exit_status=None, out=out + "hello\n")
    assert find_runs(tmp_path)[1].attempt is None


def test_the_log_of_a_requeued_job_is_no_run_beside_its_restart(tmp_path):
    write_run(tmp_path, 1, 2, "12.1")
    assert only_run(tmp_path).id == "12.1"


# ---- Unreadable records --------------------------------------------------------------------

BAD_JSON = {
    "cut": '{"nodes": 1, "gpus_per',
    "empty": "",
    "binary": b"\xff\xfe\x00\x80",
    "a list": "[1, 2]",
    "deep": "[" * 100_000,
    "nodes in words": json.dumps({**settings(1, 2, "12"), "nodes": "one"}),
    "no node": json.dumps({**settings(1, 2, "12"), "nodes": 0}),
}


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_a_record_that_cannot_be_read_costs_its_own_run_a_reason(tmp_path, content):
    folder = write_run(tmp_path, 1, 2, "12")
    write_run(tmp_path, 1, 2, "13")
    path = folder / "results/12/run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad, good = find_runs(tmp_path)
    assert (bad.state, bad.is_usable, good.is_usable) == (State.COMPLETE, False, True)
    assert len(bad.problems) == 1
    assert bad.account.startswith(f"job 12: complete; {path} cannot be ")
    assert (bad.nodes, bad.gpus_per_node) == (1, 2)


def test_an_end_that_cannot_be_read_is_not_a_good_end(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12")
    put(folder / "results/12/job_end.json", '{"exit_status": ')
    assert not only_run(tmp_path).is_usable
    put(folder / "results/12/job_end.json", '{"exit_status": "1"}')
    assert "exit_status is '1', not a whole number" in only_run(tmp_path).account


def test_rank_records_that_cannot_be_read_are_named(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12")
    bad = put(folder / "results/12/rank1_results_epoch2.json", '{"rank": 1')
    run = only_run(tmp_path)
    assert run.rank_epochs == []
    assert run.is_usable  # the log's figures stand
    (problem,) = run.lost_records
    assert problem.startswith(f"{bad} cannot be read: ")


# ---- Order ---------------------------------------------------------------------------------


def test_latest_is_by_start_time_and_by_job_id_where_one_has_none(tmp_path):
    write_run(tmp_path, 1, 2, "9", start_utc="2026-11-21T12:00:00+03:00")  # 09:00 UTC
    write_run(tmp_path, 1, 2, "10", start_utc="2026-11-21T08:00:00Z")
    runs = find_runs(tmp_path)
    assert [run.id for run in order_in_time(runs)] == ["10", "9"]
    write_run(tmp_path, 1, 2, "11", start_utc="yesterday")
    assert [run.id for run in order_in_time(find_runs(tmp_path))] == ["9", "10", "11"]


def test_the_log_is_read_when_it_is_asked_for_only(tmp_path):
    write_run(tmp_path, 1, 2, "12")
    run = only_run(tmp_path)
    assert "log" not in vars(run)
    run.log_path.write_text(epoch_line(1, throughput=5.0) + "\n")
    assert run.attempt.last.throughput_per_s == 5.0


# ---- Slurm's accounting, where somebody kept it --------------------------------------------

ACCOUNTS = [
    ("12|TIMEOUT\n12.batch|CANCELLED\n", State.TIMED_OUT, "timed out: sacct says TIMEOUT"),
    ("12|CANCELLED by 1000\n", State.CANCELLED, "cancelled: sacct says CANCELLED"),
    ("12|NODE_FAIL\n", State.FAILED, "failed: sacct says NODE_FAIL"),
    ("12|COMPLETED\n12.0|OUT_OF_MEMORY\n", State.OUT_OF_MEMORY, "out of memory: sacct says"),
    ("12|COMPLETED\n", State.FAILED, "failed: ended with exit status 0 but without RUN_COMPLETE"),
    ("12|RUNNING\n", State.RUNNING, "running, epoch 1 of 3 done"),
    ("99|TIMEOUT\n", State.RUNNING, "running, epoch 1 of 3 done"),
]


@pytest.mark.parametrize(("rows", "state", "reason"), ACCOUNTS)
def test_what_sacct_says_of_a_run_that_left_no_end(tmp_path, rows, state, reason):
    folder = write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out_text(1))
    put(folder / "log/sacct_12.txt", f"JobID|State\n{rows}")
    run = only_run(tmp_path)
    assert run.state is state
    assert run.reason.startswith(reason)


def test_the_logs_own_cause_says_more_than_sacct(tmp_path):
    out = out_text(2) + ERROR
    folder = write_run(tmp_path, 1, 2, "12", out=out, complete=False, exit_status=None)
    put(folder / "log/sacct.txt", "JobID|State\n12|FAILED\n")
    assert only_run(tmp_path).reason == f"failed: {ERROR.strip()}"


def test_a_complete_run_stays_complete_and_a_bad_sacct_file_harms_nothing(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12")
    put(folder / "log/sacct.txt", "hello\n")
    assert only_run(tmp_path).is_usable
