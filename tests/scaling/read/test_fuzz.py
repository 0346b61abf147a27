"""scaling.read on damaged files: no uncaught exception, no hang, no silent loss, no cut number.

Each form has a good file; a case damages it in a random way, or cuts it. FUZZ_CASES=1000000 asks
for more than the usual number; a case that fails is named by its seed, which makes it again.
"""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UserError
from run_folders import cpu_log, epoch_line, gpu_csv, out_text
from scaling.read import contract
from scaling.read.cpu_log import read_cpu_log
from scaling.read.foreign_log import read_foreign_log
from scaling.read.gpu_log import read_gpu_log
from scaling.read.job_log import read_job_log
from scaling.read.kinds import detect_kind
from scaling.read.sacct import read_sacct
from scaling.read.symptoms import load_symptoms

RULES, _ = load_symptoms()
CASES = int(os.environ.get("FUZZ_CASES", "5000"))
LONGEST_S = 5.0  # for a file of a few kB, on a busy machine
BLOCK = """\
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_10:00:00
  host      : n1
  rank      : 2 (local_rank: 0)
  exitcode  : -9 (pid: 4711)
"""
JOB_LOG = "".join(
    [
        "Results: /scratch/me\n", out_text(1), "Traceback (most recent call last):\n  x\n",
        "ValueError: bad\nResults: /scratch/me\n", *(f"{rule.prints}\n" for rule in RULES[::8]),
        "0: \x1b[32m", epoch_line(2), "\n", BLOCK, *(f"{rule.prints}\n" for rule in RULES[4::8]),
        "n1:7:9 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] via NET/Socket/0\n", out_text(),
    ]
)  # fmt: skip
SACCT = (
    "JobID|JobName|State|ExitCode|Elapsed|MaxRSS\n12|ddp|TIMEOUT|0:0|00:30:00|\n"
    "12.batch|batch|CANCELLED|0:15|00:30:01|123456K\n12.0|bash|CANCELLED by 7|0:9|00:29:59|9.5G\n"
)
MEGATRON = "".join(
    f" iteration {step:8}/    1000 | consumed samples: {step * 4:12} | elapsed time per iteration "
    f"(ms): {2000 + step}.2 | learning rate: 1.0E-04 | global batch size:     4 | lm loss: 1.2 |\n"
    for step in range(10, 60, 10)
)
RECORD = json.dumps({"exit_status": 0, "elapsed_s": 93, "nodes": 2, "training_time": 4.5, "x": [1]})


def read_job(path: Path) -> list[tuple]:
    log = read_job_log(path, epochs=3)
    assert log.counts.is_whole
    assert all(attempt.cause is None or attempt.cause.hint for attempt in log.attempts)
    figures = [
        (e.epoch, e.get("train_loss"), e.throughput_per_s) for a in log.attempts for e in a.epochs
    ]
    return figures + [item for attempt in log.attempts for item in attempt.totals.items()]


def read_gpus(path: Path) -> list[tuple]:
    log = read_gpu_log(path, samples=True)
    assert log.counts.is_whole and (log.gpus or log.problem)
    assert all(gpu.peak_mib is None or gpu.peak_mib >= 0 for gpu in log.gpus)
    return list(zip(log.samples["gpu"], log.samples["used_mib"], strict=True)) if log.gpus else []


def read_cpu(path: Path) -> list[tuple]:
    log = read_cpu_log(path, samples=True)
    assert log.counts.is_whole and (log.peak_mib is not None or log.problem)
    return list(zip(log.samples["elapsed_s"], log.samples["rss_mib"], strict=True))


def read_accounts(path: Path) -> list[tuple]:
    log = read_sacct(path)
    assert log.counts.is_whole
    return [(job.id, job.slurm_state) for job in log.jobs]


def read_foreign(path: Path) -> list[tuple]:
    log = read_foreign_log(path)
    assert log.counts.is_whole
    return [(*window.key, window.rate, window.seconds) for window in log.windows]


def read_record(path: Path) -> list[tuple]:
    record = contract.read_json(path)
    found = contract.whole_number(record, "exit_status", path), contract.epochs_of(record)
    return [found] if found[0] is not None else []


FORMS: dict[str, tuple[str, str, Callable]] = {
    "job log": ("ddp_1g1n_12.out", JOB_LOG, read_job),
    "GPU log": ("gpu_memory_log.csv", gpu_csv({0: [100, 200, 300], 1: [7, 8, 9]}), read_gpus),
    "CPU log": ("cpu_memory_log.txt", cpu_log([4000.5, 4100.25, 4200.125]), read_cpu),
    "sacct": ("sacct_12.txt", SACCT, read_accounts),
    "log of others": ("slurm-12.out", MEGATRON, read_foreign),
    "record": ("job_end.json", RECORD, read_record),
}
TOKENS = [
    b"\0", b"\r", b"\r\n", b"\n\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\x1b]0;", b"nan",
    b"inf", b"1e999", b"-1", b"9" * 400, b",", b"|", b'"', b"{", b"[" * 2000, b"Epoch [", b"[N/A]",
    b"%s {0}",
    b"Epoch [9999/9999] LR: 1 | Loss ", b"Traceback (most recent call last):\n", b"x" * 70_000,
    b"Root Cause (first observed failure):\n", b"  exitcode  : -", b"srun: error: n1: task 0: ",
    b"Results: /scratch/me\n", b"\xe2\x80\xae", b"\xd9\xa3",
    b"slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 1 DUE TO TIME LIMIT ***",
]  # fmt: skip


def damage(rng: random.Random, data: bytes) -> bytes:
    """Damage a file as a crash, a full disk, another process or a hostile program would."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        until = min(len(data), at + rng.choice([1, 3, 20, 200]))
        kind = rng.randrange(7)
        if kind == 0:
            data = data[:at] + data[until:]
        elif kind == 1:
            data = data[:at] + data[at:until] * 3 + data[until:]
        elif kind == 2:
            data = data[:at] + rng.randbytes(until - at) + data[until:]
        elif kind == 3:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = b"\n".join(lines)
        elif kind == 4:
            data = data[until:] + data[:at]
        else:
            data = data[:at] + rng.choice(TOKENS) + data[at:]
    return data


def run(read: Callable, path: Path, data: bytes) -> list[tuple]:
    """Read it in time; a UserError, which names the file, is an answer."""
    path.write_bytes(data)
    began = time.process_time()
    try:
        detect_kind(path)
        return read(path)
    except UserError as error:
        assert path.name in str(error)
        return []
    finally:
        assert time.process_time() - began < LONGEST_S


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_file_is_read_or_refused(tmp_path, form):
    name, text, read = FORMS[form]
    assert run(read, tmp_path / name, text.encode())
    for seed in range(CASES // len(FORMS)):
        try:
            run(read, tmp_path / name, damage(random.Random(seed), text.encode()))
        except Exception as error:
            error.args = (f"case {seed} of {form}: {error}",)
            raise


@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_at_any_byte_gives_no_number_that_it_does_not_hold(tmp_path, form):
    name, text, read = FORMS[form]
    whole = run(read, tmp_path / name, text.encode())
    step = max(len(text) // 150, 1)
    for size in range(0, len(text), step):
        found = run(read, tmp_path / name, text.encode()[:size])
        assert [item for item in found if item not in whole] == [], size
