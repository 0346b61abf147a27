"""job_summary.py: the last lines of every job's log."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

import job_summary
from run_folders import gpu_csv, out_text, put, write_run
from scaling.read.contract import make_resume_command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/job_summary.py"
CANCELLED = "slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026-11-21T10:00:00"
OWN = "[rank 1 on node2] error: cannot decode n01443537_0.JPEG"


def summarise(
    folder: Path, status: int = 0, run_id: str = "12", log: Path | None = None
) -> list[str]:
    log = log or next(iter(folder.glob("log/*.out")), folder / "log/none.out")
    arguments = ["--run-dir", folder, "--run-id", run_id, "--log", log]
    arguments += ["--exit-status", status, "--elapsed-s", 93]
    argv = ["job_summary.py", *map(str, arguments)]
    out, errors = io.StringIO(), io.StringIO()
    with mock.patch("sys.argv", argv), redirect_stdout(out), redirect_stderr(errors):
        assert job_summary.main() == 0
    assert errors.getvalue() == ""
    return out.getvalue().splitlines()


def test_a_job_that_went_well(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12", exit_status=None)
    assert summarise(folder) == [
        "[gpu_memory_log - GPU 0] Peak = 26532 MiB, Avg = 24266.00 MiB, Mode = 22000 MiB",
        "[gpu_memory_log - GPU 1] Peak = 26533 MiB, Avg = 24267.00 MiB, Mode = 22001 MiB",
        "[cpu_memory_log] Peak = 4019.0 MiB, CPU mean = 190.0 %",
        "Job 12: complete (exit status 0) after 93 s",
    ]


def test_a_job_of_several_nodes_has_a_line_for_each_gpu_and_each_node_without(tmp_path):
    folder = write_run(tmp_path, 3, 1, "12", exit_status=None)
    (folder / "gpu_memory/12/gpu_memory_log_node1.csv").unlink()
    put(folder / "gpu_memory/12/gpu_memory_log_node2.csv", "")
    lines = summarise(folder)
    assert [line for line in lines if "GPU" in line] == [
        "[gpu_memory_log_node0 - GPU 0] Peak = 26532 MiB, Avg = 24266.00 MiB, Mode = 22000 MiB",
        "GPU memory: gpu_memory_log_node2.csv: it is empty",
        "GPU memory of node1: not logged (nvidia-smi left no file)",
    ]


def test_a_job_that_failed_says_why_and_what_to_do(tmp_path):
    folder = write_run(
        tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out_text(1) + OWN + "\n"
    )
    assert summarise(folder, status=1)[-3:] == [
        "Job 12: failed (exit status 1) after 93 s",
        f"First cause: {OWN}",
        "What to do: fix what this line names, then sbatch again",
    ]


@pytest.mark.parametrize(
    ("tail", "status", "state"),
    [
        (f"{CANCELLED} DUE TO TIME LIMIT ***", 143, "timed out"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=12.0.", 137, "out of memory"),
        (f"{CANCELLED} ***", 143, "cancelled"),
        ("a line that is still being writ", 1, "failed"),
        ("", 143, "failed"),  # who ended it is not known
    ],
)
def test_states(tmp_path, tail, status, state):
    out = out_text(1) + tail
    folder = write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out)
    end = summarise(folder, status)[3:]
    assert end[0] == f"Job 12: {state} (exit status {status}) after 93 s"
    assert 2 <= len(end) <= 5


def test_a_job_that_ended_well_without_its_marker_is_not_complete(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None)
    assert summarise(folder)[-3:-1] == [
        "Job 12: failed (exit status 0) after 93 s",
        "Why: ended with exit status 0 but without RUN_COMPLETE.txt, epoch 3 of 3 done",
    ]


def test_a_signal_that_the_jobs_own_shell_got_is_a_cancellation(tmp_path, monkeypatch):
    folder = write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out_text(1))
    put(folder / "checkpoints/12/step_00000040.pt", "")
    end = '{"exit_status": 143, "elapsed_s": 93, "signal": "TERM"}'
    put(folder / "results/12/job_end.json", end)
    monkeypatch.chdir(folder)
    lines = summarise(folder, status=143)
    assert lines[-3:] == [
        "Job 12: cancelled (exit status 143) after 93 s",
        "Why: told to end (SIGTERM): cancelled, preempted or out of time, epoch 1 of 3 done",
        f"What to do: to continue it type: cd {folder} && CHECKPOINT_DIR={folder}/checkpoints/12 "
        "sbatch multi_gpu.slurm",
    ]


def test_the_command_that_continues_a_job_names_the_sites_own_sbatch(tmp_path):
    put(tmp_path / "checkpoints/12/step_00000040.pt", "")
    source = 'source "$REPO_DIR/scripts/job.sh" x.slurm {} # makes folders; handles the end\n'
    for given, sbatch in (("", "sbatch"), ("'sbatch.tiny --export=A'", "sbatch.tiny --export=A")):
        put(tmp_path / "x.slurm", "#!/bin/bash\n" + source.format(given))
        command = make_resume_command(tmp_path, tmp_path / "checkpoints/12")
        where = f"CHECKPOINT_DIR={tmp_path}/checkpoints/12"
        assert command == f"cd {tmp_path} && {where} {sbatch} x.slurm"
    assert make_resume_command(tmp_path, tmp_path / "checkpoints/13") is None


def test_a_tool_that_is_missing_is_told_from_one_that_failed(tmp_path):
    out = "environment: line 40: psrecord: command not found\n" + out_text()
    folder = write_run(tmp_path, 1, 2, "12", exit_status=None, out=out)
    (folder / "cpu_memory/12/cpu_memory_log.txt").unlink()
    assert "CPU memory: not logged (no psrecord there)" in summarise(folder)


def test_a_loss_that_is_no_number_is_said(tmp_path):
    out = out_text().replace("Epoch [2/3] LR: 0.001000 | Loss (train, val): 5.149, 5.664",
                             "Epoch [2/3] LR: 0.001000 | Loss (train, val): nan, inf")  # fmt: skip
    folder = write_run(tmp_path, 1, 2, "12", exit_status=None, out=out)
    assert summarise(folder)[-1] == (
        "Note: the loss is no number since epoch 2 (training NaN, validation Infinity): lower "
        "--lr, or clip the gradients"
    )


def test_a_record_that_cannot_be_read_is_one_line_more(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12", exit_status=None)
    path = put(folder / "results/12/run.json", "{")
    assert summarise(folder)[-1].startswith(f"Cannot be read: {path} cannot be read: ")


def test_a_job_that_left_nothing(tmp_path):
    assert summarise(tmp_path, status=2) == [
        "GPU memory: not logged (nvidia-smi left no file)",
        "CPU memory: not logged (psrecord left no file)",
        "Job 12: failed (exit status 2) after 93 s",
        "Why: exit status 2, the log does not say why (no log was found), no epoch line yet",
        "What to do: look at the last lines of the log above",
    ]


def test_damaged_logs_are_lines_and_no_failure(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12", exit_status=None)
    put(folder / "gpu_memory/12/gpu_memory_log.csv", "rubbish, of, a\nkind\n")
    (folder / "cpu_memory/12/cpu_memory_log.txt").write_bytes(b"\xff\0\n")
    gpu, cpu, end = summarise(folder)
    assert gpu.startswith("GPU memory: ") and "not an nvidia-smi CSV" in gpu
    assert cpu.startswith("CPU memory: ") and "not a psrecord log" in cpu
    assert end.startswith("Job 12: complete")


def test_dropped_rows_are_named(tmp_path):
    folder = write_run(tmp_path, 1, 1, "12", exit_status=None)
    put(folder / "gpu_memory/12/gpu_memory_log.csv", gpu_csv({0: [5]}) + "rubbish\ncut")
    assert summarise(folder)[1] == (
        "gpu_memory_log.csv: 2 of 4 lines dropped: 1 error text, 1 cut: the last line has no end"
    )


def test_each_attempt_has_its_own_memory_lines(tmp_path):
    write_run(tmp_path, 1, 1, "12", complete=False, exit_status=None, used_mib=[1] * 20)
    folder = write_run(tmp_path, 1, 1, "12.1", exit_status=None, used_mib=[2] * 20)
    lines = summarise(folder, run_id="12.1")
    assert "Peak = 2 MiB" in lines[0]
    assert lines[-1] == "Job 12.1: complete (exit status 0) after 93 s"


def test_terminal_escapes_from_a_log_are_not_printed(tmp_path):
    out = "error: \x1b[31mred\x07 \u202ebackwards\n"
    folder = write_run(tmp_path, 1, 1, "12", complete=False, exit_status=None, out=out)
    lines = summarise(folder, status=1)
    assert "First cause: error: red backwards" in lines
    assert all(line.isprintable() for line in lines)


def test_wrong_arguments_alone_are_an_error():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--run-id", "12"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--run-dir" in done.stderr


def test_of_a_shared_node_only_the_jobs_own_gpus_have_a_line(tmp_path):
    folder = write_run(tmp_path, 1, 1, "12", exit_status=None, gpu_uuids=["GPU-1"])
    put(folder / "gpu_memory/12/gpu_memory_log.csv", gpu_csv({0: [5, 5], 1: [7, 9]}))
    assert [line for line in summarise(folder) if "GPU" in line] == [
        "[gpu_memory_log - GPU 1] Peak = 9 MiB, Avg = 8.00 MiB, Mode = 7 MiB"
    ]


def test_it_runs_under_a_python_without_any_package(tmp_path):
    out = out_text(1) + OWN + "\n"
    folder = write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out)
    command = [
        *(sys.executable, "-S", "-I", "-c"),
        f"import sys, runpy; sys.path.insert(0, {str(SCRIPT.parent)!r}); sys.argv[0] = 'x'\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')",
        *("--run-dir", folder, "--run-id", "12", "--log", next(folder.glob("log/*.out"))),
        *("--exit-status", "1", "--elapsed-s", "93"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"First cause: {OWN}" in done.stdout
