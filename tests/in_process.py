"""Run a command in the tests' own process: no second interpreter, the same text."""

import io
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from common.console import run_command

REPO = Path(__file__).resolve().parent.parent


def run_script(
    name: str, *args: object, repo: Path = REPO, **variables: str
) -> subprocess.CompletedProcess:
    """Run `name`, such as scripts/submit.py, from the top of the checkout `repo`, without stdin.

    It is found by its path: the package doctor/ has the name of its command. Packages are those of
    this checkout. variables: of the environment, besides those that are set.
    """
    command = [str(word) for word in (repo / name, *args)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    before = Path.cwd()
    with (
        redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, variables),
        patch.object(sys, "argv", command), patch.object(sys, "stdin", io.StringIO()),
        patch.object(sys, "path", [*sys.path]),
    ):  # fmt: skip
        os.chdir(repo)
        try:
            run_command(runpy.run_path(command[0])["main"])
        except SystemExit as end:
            status = end.code
        finally:
            os.chdir(before)
    shown = []
    for stream in (out, err):
        stream.flush()
        shown.append(stream.buffer.getvalue().decode())
    return subprocess.CompletedProcess(command, status, *shown)


def without_torch(folder: Path) -> dict[str, str]:
    """Variables with which a new Python has no PyTorch, as on many a login node."""
    (folder / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    return {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
