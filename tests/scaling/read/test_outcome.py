"""scaling.read.outcome: how a run stands, judged from what it left behind."""

from pathlib import Path

import pytest

from run_folders import epoch_line, out_text
from scaling.read.causes import State
from scaling.read.job_log import read_job_log
from scaling.read.outcome import SILENT_S, Evidence, judge
from scaling.read.sacct import SacctJob

LIMIT = "slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026-11-21T10:00:00 DUE TO TIME LIMIT ***"


ALL_EPOCHS = "".join(epoch_line(n) + "\n" for n in (1, 2, 3))


def gather(tmp_path: Path, out: str | None = None, **known: object) -> Evidence:
    log = None
    if out is not None:
        path = tmp_path / "ddp_1g1n_12.out"
        path.write_text(out)
        log = read_job_log(path)
    found = {
        "has_record": True, "run_complete": False, "wants_requeue": False, "exit_status": None,
        "log": log, "attempt": log.last_attempt if log else None, "last_written_s": 1000.0,
        "requeued_as": None,
    }  # fmt: skip
    return Evidence(**found | known)


VERDICTS = [
    ({"run_complete": True, "exit_status": 0}, None, "complete"),
    ({"run_complete": True, "exit_status": 1}, "error: cannot write\n", "failed: error: cannot"),
    ({"has_record": False}, out_text(), "complete"),
    ({"has_record": False}, out_text(2), "running, epoch 2 of 3 done"),
    ({"has_record": False}, ALL_EPOCHS, "complete: all epochs are done, and no end was recorded"),
    ({"has_record": False, "accounting": SacctJob("12", "COMPLETED")}, ALL_EPOCHS, "complete: all"),
    ({"has_record": False, "accounting": SacctJob("12", "TIMEOUT")}, ALL_EPOCHS, "timed out"),
    ({"has_record": False}, ALL_EPOCHS + LIMIT + "\n", "timed out"),
    ({"has_record": True}, ALL_EPOCHS, "running, epoch 3 of 3 done"),
    ({"wants_requeue": True, "requeued_as": "12.1"}, None,
     "timed out: saved a checkpoint to go on, requeued as 12.1"),
    ({"requeued_as": "12.1"}, None, "cancelled: requeued as 12.1"),
    ({"exit_status": 0}, out_text(2),
     "failed: ended with exit status 0 but without RUN_COMPLETE.txt, epoch 2 of 3 done"),
    ({"exit_status": 143}, out_text(1) + LIMIT + "\n",
     "timed out: reached its time limit, epoch 1 of 3 done"),
    ({"exit_status": 137}, out_text(1),
     "failed: exit status 137, killed (SIGKILL), often because memory ran out, epoch 1 of 3 done"),
    ({"exit_status": 2}, None,
     "failed: exit status 2, the log does not say why (no log was found), no epoch line yet"),
    ({"accounting": SacctJob("12", "TIMEOUT")}, out_text(1),
     "timed out: sacct says TIMEOUT, epoch 1 of 3 done"),
]  # fmt: skip


@pytest.mark.parametrize(("known", "out", "reason"), VERDICTS, ids=[v[2] for v in VERDICTS])
def test_verdicts(tmp_path, known, out, reason):
    verdict = judge(gather(tmp_path, out, **known), now_s=1000.0)
    assert verdict.reason.startswith(reason)
    assert verdict.reason.startswith(str(verdict.state))


def test_a_run_that_wrote_nothing_for_long(tmp_path):
    late = 1000.0 + SILENT_S + 1
    verdict = judge(gather(tmp_path, "", has_record=False), now_s=late)
    assert (verdict.state, verdict.reason) == (
        State.NEVER_STARTED,
        "never started: its log is empty, nothing written for 1 h",
    )
    assert "perhaps killed without a trace" in judge(gather(tmp_path, "hello\n"), late).reason


def test_a_complete_run_does_not_ask_for_its_log():
    class Lazy:
        has_record = run_complete = True
        wants_requeue = False
        exit_status = 0

    assert judge(Lazy()).state is State.COMPLETE


def test_a_step_out_of_memory_outweighs_what_sacct_says_of_the_job():
    assert SacctJob("12", "COMPLETED", steps={"0": "OUT_OF_MEMORY"}).state is State.OUT_OF_MEMORY


SEEN_IN_THE_FIELD = [
    ("slurm_script: line 23: 4711 Killed                  python train.py\n", "memory"),
    ("NVRM: Xid (PCI:0000:10:00): 79, pid=1, GPU has fallen off the bus.\n"
     "RuntimeError: CUDA error: unspecified launch failure\n"
     "srun: error: n1: task 3: Exited with exit code 1\n", "--exclude"),
    ("[rank0]:[E ProcessGroupNCCL.cpp:1316] [PG 0 Rank 0] Heartbeat monitor timed out! Process "
     "will be terminated\nsrun: error: n1: task 0: Aborted (core dumped)\n", "hung in NCCL"),
    ("srun: error: Node failure on n2\nsrun: Job step aborted: Waiting up to 32 seconds for job "
     "step to finish.\nslurmstepd: error: *** STEP 9.0 ON n1 CANCELLED AT 2026-01-06T04:52:18 "
     "***\n", "--exclude"),
    ("Traceback (most recent call last):\n  File \"train.py\", line 9, in <module>\nRuntimeError: "
     "CUDA driver version is insufficient for CUDA runtime version\n", "older CUDA"),
    ("torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n  rank      : 2\n"
     "  exitcode  : -7 (pid: 10)\n  traceback : Signal 7 (SIGBUS) received by PID 10\n",
     "/dev/shm"),
]  # fmt: skip


@pytest.mark.parametrize(("out", "hint"), SEEN_IN_THE_FIELD, ids=[h for _, h in SEEN_IN_THE_FIELD])
def test_what_failed_jobs_say(tmp_path, out, hint):
    verdict = judge(gather(tmp_path, out, exit_status=1))
    assert hint in verdict.cause.hint
    assert verdict.state is State.FAILED
