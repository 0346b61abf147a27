"""A trainer that starts its own ranks: one cause when one fails, signals for all, nobody left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def start(what: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent / "scripts")}
    return subprocess.Popen(
        [sys.executable, TESTS / "ranks_probe.py", what],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def list_ranks(process: subprocess.Popen) -> list[int]:
    """The pids of the process's children that are ranks (one more tracks its locks)."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
    return [pid for pid, line in lines.items() if "spawn_main" in line]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("what", "status", "said", "message"),
    [
        ("rank_1_fails", 1, "Traceback", "error: ZeroDivisionError: the cause"),
        ("all_refuse", 1, "[rank ", "error: no data; pass --data-dir"),
        ("rank_1_is_killed", 137, "error: ", "rank 1 ended by SIGKILL (out of memory? look at"),
    ],
)
def test_one_cause_is_said(what, status, said, message):
    process = start(what)
    _, err = process.communicate(timeout=100)
    assert process.returncode == status
    assert message in err.splitlines()[-1]
    assert err.startswith(said)
    assert err.count("Traceback") == (said == "Traceback")
    assert err.count("error: ") == 1


@pytest.mark.parametrize(
    ("what", "number", "status", "error"),
    [
        ("both_sleep", signal.SIGINT, 130, "error: stopped by Ctrl-C\n"),
        ("both_sleep", signal.SIGKILL, -9, ""),
        ("save_on_sigterm", signal.SIGTERM, 143, ""),
    ],
)
def test_signal_to_the_parent(what, number, status, error):
    process = start(what)
    assert process.stdout.readline() == "asleep\n"
    ranks = list_ranks(process)
    assert len(ranks) == 2
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert process.returncode == status
    if number != signal.SIGKILL:  # then Python's own helper process speaks of a lost lock
        assert err == error
    if what == "save_on_sigterm":  # nobody is ended before all have saved
        assert out == "rank 0 has saved\nrank 1 has saved\n"
    deadline = time.monotonic() + 5
    while any(map(is_running, ranks)):
        assert time.monotonic() < deadline, "a rank outlives its parent"
        time.sleep(0.05)
