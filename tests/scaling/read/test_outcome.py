"""scaling.read.outcome: how a run stands, judged from what it left behind."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from run_folders import epoch_line, out_text
from scaling.read.job_log import read_job_log
from scaling.read.outcome import FRESH_S, SILENT_S, judge
from scaling.read.sacct import SacctJob
from scaling.read.symptoms import State

STARS = "slurmstepd: error: *** JOB {} ON n1 CANCELLED AT 2026-11-21T10:00:00{} ***\n"
LIMIT = STARS.format(12, " DUE TO TIME LIMIT")
OWN = "[rank 1 on n2] error: KeyError: 'x'\n"
PEERS = "".join(
    f"[rank {r} on n1] error: RuntimeError: Connection closed by peer\n" for r in (0, 1)
)
RESUME = "cd /x && CHECKPOINT_DIR=/x/checkpoints/12 sbatch job.slurm"
ALL_EPOCHS = "".join(epoch_line(n) + "\n" for n in (1, 2, 3))
SETTINGS = {"world_size": 3, "gpus_per_node": 2, "hosts": ["n1", "n2"], "epochs": 3}


def gather(tmp_path: Path, out: str | None = None, **known: object) -> SimpleNamespace:
    """The evidence of job 12: what is not named is not known."""
    log = None
    settings = known.get("settings") or {}
    if out is not None:
        path = tmp_path / "ddp_1g1n_12.out"
        path.write_text(out)
        log = read_job_log(path, epochs=settings.get("epochs"))
    found = {
        "has_record": True, "run_complete": False, "wants_requeue": False, "exit_status": None,
        "end_signal": None, "log": log, "attempt": log.last_attempt if log else None,
        "last_written_s": 1000.0, "requeued_as": None, "is_queued": None, "accounting": None,
        "resume_command": None, "settings": settings, "results_dir": tmp_path,
    }  # fmt: skip
    return SimpleNamespace(**found | known)


VERDICTS = [
    # One rule says which run is complete, whatever happens after RUN_COMPLETE.txt.
    ({"run_complete": True, "exit_status": 0}, None, "complete"),
    ({"run_complete": True, "exit_status": 137}, OWN, "complete: its job ended with exit"),
    ({"has_record": False}, out_text(), "complete"),
    ({"has_record": False}, out_text(2), "running, epoch 2 of 3 done"),
    ({"has_record": False}, ALL_EPOCHS, "complete: all epochs are done, and no end was recorded"),
    ({"has_record": False, "accounting": SacctJob("12", "COMPLETED")}, ALL_EPOCHS, "complete: all"),
    ({"has_record": False, "accounting": SacctJob("12", "TIMEOUT")}, ALL_EPOCHS, "timed out"),
    ({"has_record": False}, ALL_EPOCHS + LIMIT, "timed out"),
    ({"has_record": True}, ALL_EPOCHS, "running, epoch 3 of 3 done"),
    # Requeued, or not.
    ({"wants_requeue": True, "requeued_as": "12.1"}, None,
     "timed out: saved a checkpoint to go on, requeued as 12.1"),
    ({"wants_requeue": True, "exit_status": 1}, OWN,
     "timed out: saved a checkpoint, then ended with exit status 1: [rank 1 on n2] error: KeyE"),
    ({"requeued_as": "12.1"}, None, "cancelled: requeued as 12.1"),
    ({"exit_status": 1}, "[rank 0 on n1] error: no progress in 3 restarts: each began after st\n"
     + STARS.format(12, ""), "failed: no progress in 3 restarts"),
    # Slurm's word, of this job, that no file denies.
    ({"exit_status": 0}, out_text(2),
     "failed: ended with exit status 0 but without RUN_COMPLETE.txt, epoch 2 of 3 done"),
    ({"exit_status": 143}, out_text(1) + LIMIT,
     "timed out: reached its time limit, epoch 1 of 3 done"),
    ({}, OWN + LIMIT, "timed out: reached its time limit; first: [rank 1 on n2] error"),
    ({}, LIMIT + OWN, "timed out: reached its time limit, no epoch line yet"),
    ({"exit_status": 1}, LIMIT + OWN, "failed: [rank 1 on n2] error: KeyError"),
    ({"exit_status": 1}, STARS.format(1, " DUE TO TIME LIMIT") + OWN, "failed: [rank 1 on n2]"),
    ({"accounting": SacctJob("12", "FAILED")}, LIMIT + OWN, "failed: [rank 1 on n2] error"),
    ({"accounting": SacctJob("12", "TIMEOUT")}, out_text(1),
     "timed out: sacct says TIMEOUT, epoch 1 of 3 done"),
    ({"accounting": SacctJob("12", "TIMEOUT")}, OWN, "timed out: sacct says TIMEOUT; first: [ran"),
    ({"accounting": SacctJob("12", "COMPLETED")}, out_text(1), "failed: ended with exit status 0"),
    # Cancelled only when Slurm said so or the job's shell was told to end.
    ({"exit_status": 143, "end_signal": "TERM"}, out_text(1), "cancelled: told to end (SIGTERM)"),
    ({"exit_status": 143}, out_text(1),
     "failed: exit status 143: a process was ended by SIGTERM, epoch 1 of 3 done"),
    ({"exit_status": 143}, OWN, "failed: [rank 1 on n2] error"),
    ({"exit_status": 137}, out_text(1), "failed: exit status 137: a process was ended by SIGKILL"),
    ({"exit_status": 2}, None,
     "failed: exit status 2, the log does not say why (no log was found), no epoch line yet"),
    # A rank that dies without a word.
    ({"exit_status": 1, "settings": SETTINGS}, out_text(1) + PEERS
     + "srun: error: n1: task 0: Exited with exit code 1\n",
     "failed: rank 2 on n2 ended and printed no error, in epoch 2 of 3: all others lost it"),
    ({"exit_status": 1}, out_text(1) + "srun: error: n2: task 1: Exited with exit code 7\n",
     "failed: task 1 on n2 ended with exit code 7 and printed no error, in epoch 2 of 3"),
    ({"exit_status": 1}, out_text(3) + "srun: error: n2: task 1: Exited with exit code 7\n",
     "failed: task 1 on n2 ended with exit code 7 and printed no error, after the last epoch"),
]  # fmt: skip


@pytest.mark.parametrize(("known", "out", "reason"), VERDICTS, ids=[v[2][:50] for v in VERDICTS])
def test_verdicts(tmp_path, known, out, reason):
    verdict = judge(gather(tmp_path, out, **known), now_s=1000.0)
    assert verdict.reason.startswith(reason)
    assert verdict.reason.startswith(str(verdict.state))


# Small logs of other people's jobs: the kinds that are met most.
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\n{}\n'
NVIDIA_SMI = """\
+-----------------------------------------------------------------------------+
| NVIDIA-SMI 550.54       Driver Version: 550.54       CUDA Version: 12.4     |
| GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
|   0  NVIDIA A100          On  | 00000000:16:00.0 Off |                    0 |
"""
KILLED = "slurm_script: line 23: 4711 Killed                  python train.py\n"
JOBS = [
    (NVIDIA_SMI + "Epoch 1: loss 0.5\n" + TRACEBACK.format("ValueError: bad batch"),
     "failed: ValueError: bad batch", "traceback"),
    (KILLED, "failed: python train.py was killed by SIGKILL", "memory"),
    (f"step 1\n{KILLED}slurmstepd: error: Detected 1 oom_kill event in StepId=42.batch. Some.\n",
     "out of memory: a process was killed: the job had used up its memory", "--mem"),
    (TRACEBACK.format("OSError: no config.json") + "  0%|   | 0/100 [00:00<?, ?it/s]\n"
     " 50%|##  | 50/100 [00:50<00:50, 1it/s]\n" + STARS.format(42, ""),
     "cancelled: stopped by scancel or by Slurm", "scancel"),
    (TRACEBACK.format("ModuleNotFoundError: No module named 'apex'") + "iter 1: loss 3.1, time 4\n"
     "iter 2: loss 3.0, time 4ms\n" + STARS.format(9, " DUE TO TIME LIMIT"),
     "timed out: reached its time limit", "--time"),
    ("step 4 loss 2.0\nNVRM: Xid (PCI:0000:10:00): 79, pid=1, GPU has fallen off the bus.\n"
     "RuntimeError: CUDA error: unspecified launch failure\n"
     "srun: error: n1: task 3: Exited with exit code 1\n",
     "failed: n1: the GPU failed: NVRM: Xid (PCI:0000:10:00): 79", "--exclude=n1"),
    ("[rank0]:[E ProcessGroupNCCL.cpp:1316] [PG 0 Rank 0] Heartbeat monitor timed out! Process wil"
     "l be terminated\nsrun: error: n1: task 0: Aborted (core dumped)\n",
     "failed: rank 0 on n1: a rank hung in NCCL", "another rank"),
    ("epoch 3 done\nsrun: error: Node failure on n2\nsrun: Job step aborted: Waiting up to 32 sec\n"
     "slurmstepd: error: *** STEP 9.0 ON n1 CANCELLED AT 2026-01-06T04:52:18 ***\n",
     "failed: node n2 failed", "--exclude=n2"),
    (TRACEBACK.format("RuntimeError: CUDA driver version is insufficient for CUDA runtime version"),
     "failed: the node's driver is older than PyTorch's CUDA", "older CUDA"),
    ("torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\nRoot Cause (first observ"
     "ed failure):\n  host      : n1\n  rank      : 2 (local_rank: 2)\n  exitcode  : -7 (pid: 10)\n"
     "  traceback : Signal 7 (SIGBUS) received by PID 10\n",
     "failed: rank 2 on n1 was killed by SIGBUS", "/dev/shm"),
]  # fmt: skip


@pytest.mark.parametrize(("out", "reason", "advice"), JOBS, ids=[job[1][:50] for job in JOBS])
def test_what_other_peoples_jobs_died_of(tmp_path, out, reason, advice):
    path = tmp_path / "job.out"  # its name tells no job id
    path.write_text(out)
    log = read_job_log(path)
    run = gather(tmp_path, has_record=False, log=log, attempt=log.last_attempt)
    verdict = judge(run)
    assert verdict.reason.startswith(reason)
    assert advice in verdict.advice


def test_an_error_that_a_running_job_has_outlived_is_not_its_end(tmp_path):
    out = OWN.replace("[rank 1 on n2] error", "NCCL WARN error") + out_text(2)
    assert judge(gather(tmp_path, out), 1000.0).reason == "running, epoch 2 of 3 done"
    assert judge(gather(tmp_path, out, exit_status=1)).reason.startswith("failed: NCCL failed")


OPEN = [
    (FRESH_S - 1, None, "running, epoch 1 of 3 done"),
    (FRESH_S - 1, False, "running, epoch 1 of 3 done"),  # of another cluster, perhaps
    (FRESH_S + 9, None, "running, epoch 1 of 3 done; last written 2 min ago"),
    (FRESH_S + 9, True, "running, epoch 1 of 3 done"),
    (FRESH_S + 9, False, "failed: ended without a trace (killed outright, or its node died), epoch "
     "1 of 3 done; Slurm does not know it any more; nothing written for 2 min"),
    (SILENT_S * 5, None, "failed: ended without a trace (killed outright, or its node died), epoch "
     "1 of 3 done; nothing written for 5 h"),
    (SILENT_S * 5, True, "running, epoch 1 of 3 done"),
]  # fmt: skip


@pytest.mark.parametrize(("silent_s", "is_queued", "reason"), OPEN)
def test_a_job_that_is_gone_is_not_called_running(tmp_path, silent_s, is_queued, reason):
    run = gather(tmp_path, out_text(1), is_queued=is_queued)
    assert judge(run, now_s=1000.0 + silent_s).reason == reason


def test_a_job_with_an_empty_log_never_started(tmp_path):
    verdict = judge(gather(tmp_path, "", has_record=False), now_s=1000.0 + 2 * SILENT_S)
    assert (verdict.state, verdict.reason) == (
        State.NEVER_STARTED,
        "never started: its log is empty, nothing written for 2 h",
    )


def test_a_complete_run_does_not_ask_for_its_log():
    run = SimpleNamespace(has_record=True, run_complete=True, exit_status=0)
    assert judge(run).state is State.COMPLETE


@pytest.mark.parametrize("out", [STARS.format(12, ""), LIMIT])
def test_the_advice_is_the_command_that_continues_from_a_checkpoint(tmp_path, out):
    assert RESUME in judge(gather(tmp_path, out, resume_command=RESUME)).advice
    assert "CHECKPOINT_DIR" not in judge(gather(tmp_path, out)).advice
    saved = gather(tmp_path, "", wants_requeue=True, exit_status=1, resume_command=RESUME)
    assert RESUME in judge(saved).advice


def test_a_ranks_records_tell_its_epoch_before_the_log_does(tmp_path):
    out = "Root Cause (first observed failure):\n[0]:\n  rank      : 1 (local_rank: 1)\n"
    out += "  exitcode  : -9 (pid: 7)\n"
    (tmp_path / "rank1_results_epoch1.json").write_text("{}")
    verdict = judge(gather(tmp_path, out, exit_status=1, settings=SETTINGS))
    assert verdict.reason == "failed: rank 1 was killed by SIGKILL, in epoch 3 of 3"


def test_each_attempt_has_its_own_cause(tmp_path):
    out = f"Results: /x\n{OWN}{LIMIT.replace('TIME LIMIT', 'JOB REQUEUE')}Results: /x\nhello\n"
    run = gather(tmp_path, out, exit_status=1)
    assert [attempt.cause and attempt.cause.text for attempt in run.log.attempts] == [
        "preempted or requeued by Slurm", None,
    ]  # fmt: skip
    assert judge(run).reason.startswith("failed: exit status 1, the log does not say why")


def test_of_several_jobs_in_one_log_the_last_part_is_this_ones(tmp_path):
    log = gather(tmp_path, f"Results: /x\n{OWN}Results: /x\n{out_text(1)}").log
    assert log.find_attempt(0, 0, False) is log.last_attempt
    assert [log.find_attempt(n, 1, False).number for n in (0, 1)] == [0, 1]
    assert log.find_attempt(2, 2, False) is None  # it has printed nothing yet


def test_a_step_out_of_memory_outweighs_what_sacct_says_of_the_job():
    assert SacctJob("12", "COMPLETED", steps={"0": "OUT_OF_MEMORY"}).state is State.OUT_OF_MEMORY
