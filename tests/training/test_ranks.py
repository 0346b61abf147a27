"""A trainer that starts its own ranks: one cause when one fails, signals for all, nobody left."""

import signal
import time
from pathlib import Path

import pytest

from torch_server import TESTS, Program, start_python


def start(what: str) -> Program:
    return start_python(TESTS / "ranks_probe.py", what)


def list_ranks(program: Program) -> list[int]:
    """The pids of the program's children."""
    (pid,) = program.pids
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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
    program = start(what)
    _, err = program.communicate(timeout=100)
    assert program.returncode == status
    assert message in err.splitlines()[-1]
    assert err.startswith(said)
    assert err.count("Traceback") == (said == "Traceback")
    assert err.count("error: ") == 1


@pytest.mark.parametrize(
    ("what", "number", "status", "error"),
    [
        ("both_sleep", signal.SIGINT, 130, "error: stopped by Ctrl-C\n"),
        ("both_sleep", signal.SIGKILL, 137, ""),
        ("save_on_sigterm", signal.SIGTERM, 143, ""),
    ],
)
def test_signal_to_the_parent(what, number, status, error):
    program = start(what)
    while program.peek() != "asleep\n":
        assert program.poll() is None, program.communicate()
        time.sleep(0.02)
    ranks = list_ranks(program)
    assert len(ranks) == 2
    program.send_signal(number)
    out, err = program.communicate(timeout=100)
    assert program.returncode == status
    assert err == error
    if what == "save_on_sigterm":  # nobody is ended before all have saved
        assert out == "asleep\nrank 0 has saved\nrank 1 has saved\n"
    deadline = time.monotonic() + 5
    while any(map(is_running, ranks)):
        assert time.monotonic() < deadline, "a rank outlives its parent"
        time.sleep(0.05)
