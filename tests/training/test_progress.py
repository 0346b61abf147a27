"""A bar on a terminal, and not a byte of one in a log."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from training.epoch import show_progress

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PROGRAM = """
import sys, time
from training.epoch import show_progress
for step in show_progress(range(20), 20, "Epoch 1/3", is_main=sys.argv[1] == "main"):
    time.sleep(0.02)
print("Epoch [1/3] done")
"""


def run_on_a_terminal(rank: str) -> tuple[str, str]:
    """Run PROGRAM with stderr on a terminal and stdout in a pipe; returns what each got."""
    mine, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, rank],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS), "TERM": "xterm", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=its,
    )
    os.close(its)
    shown = b""
    try:
        while chunk := os.read(mine, 4096):
            shown += chunk
    except OSError:  # Linux ends a terminal nobody writes to any more with an error
        pass
    os.close(mine)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    return shown.decode(), printed.decode()


def test_a_terminal_shows_a_bar():
    shown, printed = run_on_a_terminal("main")
    assert "Epoch 1/3" in shown
    assert "%" in shown
    assert "\r" in shown
    assert printed == "Epoch [1/3] done\n"  # nothing of the bar


def test_other_ranks_draw_nothing():
    shown, printed = run_on_a_terminal("other")
    assert shown == ""
    assert printed == "Epoch [1/3] done\n"


def test_a_log_gets_nothing():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "main"],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS), "FORCE_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )
    assert done.stdout == b"Epoch [1/3] done\n"


@pytest.mark.parametrize("is_main", [True, False])
def test_every_step_comes_through(is_main):
    assert list(show_progress(iter("abc"), 3, "Epoch", is_main=is_main)) == ["a", "b", "c"]
