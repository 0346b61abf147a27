"""How commands end, and what their --help loads."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.console import run_command
from common.errors import UserError

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (lambda: 3, 3, ""),
        (UserError("a.toml: no key\n\x1b[2J; add it"), 1, "error: a.toml: no key  [2J; add it\n"),
        (KeyboardInterrupt(), 130, ""),
        (KeyboardInterrupt(15), 143, ""),  # as common.signals raises it
        (PermissionError(13, "denied", "a.toml"), 1, "error: a.toml: denied\n"),
        (SystemExit(2), 2, ""),
    ],
)
def test_a_command_ends_with_a_status_and_one_line(capsys, end, status, said):
    def main() -> int:
        if isinstance(end, BaseException):
            raise end
        return end()

    with pytest.raises(SystemExit) as exit_:
        run_command(main)
    assert (exit_.value.code, capsys.readouterr().err) == (status, said)


@pytest.mark.parametrize(
    ("argument", "closed", "status"),
    [
        ("--help", "| head", {0, 141}),  # argparse of Python 3.13 hides it
        ("--from tests/slurm_dumps/typed", "| head", {141}),
        ("--from tests/slurm_dumps/typed", ">&-", {0}),
        ("--from nowhere", "2>&-", {1}),
    ],
)
def test_output_that_nobody_reads_ends_a_command_quietly(argument, closed, status):
    read, write = os.pipe()
    os.close(read)  # as `head` that has read enough
    command = [sys.executable, REPO / "scripts/doctor.py", *argument.split()]
    if closed != "| head":
        command = ["bash", "-c", f'exec "$@" {closed}', "bash", *command]
    out = write if closed == "| head" else subprocess.PIPE
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, cwd=REPO, check=False)
    os.close(write)
    assert (done.stderr, done.returncode in status) == (b"", True)


@pytest.mark.parametrize(
    "command", ["render.py", "scripts/submit.py", "scripts/prepare_data.py", "scripts/doctor.py"]
)
def test_help_loads_nothing_slow(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", REPO / command, "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("usage: ")
    slow = r"\b(pydantic|jinja2|profiles|rich|numpy|pandas|torch|multiprocessing|tokenizers)\b"
    assert not re.search(slow, done.stderr)
