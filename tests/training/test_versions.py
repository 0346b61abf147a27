"""Every trainer on the oldest Python and PyTorch, where the other tests take the newest.

And what needs no PyTorch: the summary and the renderer.
"""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from run_folders import parse_epoch_line
from torch_server import SCRIPTS, TESTS
from training.ranks import find_free_port

REPO = TESTS.parent
PROBE, OLDEST = TESTS / "versions_probe.py", REPO / ".venv-oldest/bin/python"
TRAININGS = ("tinyimagenet", "gpt2", "gpt2_zero1", "gpt2_fsdp", "gpt2_tp", "translation", "spiral")
COMMANDS = [*sorted(SCRIPTS.glob("*.py")), REPO / "render.py"]


@cache
def find_oldest() -> str:
    """The Python of .venv-oldest. CI makes it where the machine has a Python 3.10."""
    if not OLDEST.exists() and os.environ.get("CI") == "true":
        command = ["bash", SCRIPTS / "setup_env.sh", "--oldest"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "no Python 3.10" in done.stderr, done.stderr
    if not OLDEST.exists():
        pytest.skip("no .venv-oldest; make it with: bash scripts/setup_env.sh --oldest")
    return str(OLDEST)


def run_both(python: str, *args: object) -> str:
    """Run the probe in two processes of another Python; returns rank 0's output."""
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    told |= {"MASTER_PORT": str(find_free_port()), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [python, PROBE, *map(str, args)], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | told | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [rank.communicate(timeout=400)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    return outputs[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits, tokens, pairs) -> tuple[str, Path]:
    """(What rank 0 printed, the folder of all runs), on the oldest PyTorch."""
    folder = tmp_path_factory.mktemp("oldest")
    return run_both(find_oldest(), folder, digits, tokens, pairs), folder


@pytest.mark.parametrize("name", TRAININGS)
def test_a_trainer_goes_on_from_its_checkpoint_and_records_its_epoch(trained, name):
    printed, folder = trained
    if name == "gpt2_fsdp":
        assert re.search(
            r"^gpt2_fsdp: --strategy fsdp on CPUs needs PyTorch >= 2\.6, this is 2\.5\.1.*; ",
            printed, re.MULTILINE,
        )  # fmt: skip
        return
    run = json.loads((folder / name / "2/run.json").read_text())
    assert run["resumed_from"] == {"epoch": 0, "step": 1}
    assert run["versions"]["torch"].startswith("2.5.1")
    assert (folder / name / "2/RUN_COMPLETE.txt").exists()
    assert {path.name for path in (folder / name / "2").glob("rank*")} == {
        "rank0_results_epoch0.json", "rank1_results_epoch0.json",
    }  # fmt: skip


def test_the_minimal_trainer_prints_its_epoch(trained):
    *_, last = (epoch for line in trained[0].splitlines() if (epoch := parse_epoch_line(line)))
    assert (last.epoch, last.epochs, last.unit) == (1, 1, "img/s")


# ---- Without PyTorch -------------------------------------------------------------------


def test_jobs_are_rendered_by_python_3_10(tmp_path):
    done = subprocess.run(
        [find_oldest(), REPO / "render.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_summary_needs_no_package_of_python_3_10(tmp_path):
    log = tmp_path / "log/x_7.out"
    log.parent.mkdir()
    log.write_text("Epoch [1/1] LR: 0.001000 | Loss (train, val): 2.5, 2.3 | Throughput: 9 img/s\n")
    done = subprocess.run(
        [find_oldest(), "-S", SCRIPTS / "job_summary.py", "--run-dir", tmp_path, "--run-id", "7",
         "--log", log, "--exit-status", "1", "--elapsed-s", "3"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stderr, "Job 7: failed (exit status 1)" in done.stdout) == ("", True)


def find_older() -> list[Path]:
    """Pythons that are too old, on PATH or where pyenv keeps them; one of each version."""
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    found = [path for root in roots for path in root.glob("3.[89].*/bin/python")]
    return sorted({path.parts[-3][:3]: path for path in found}.values())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_an_older_python_can_read_a_command_as_far_as_its_line(command):
    ast.parse(command.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("python", find_older(), ids=lambda path: path.parts[-3])
@pytest.mark.parametrize("name", ["train.py", "train_spiral.py", "job_summary.py", "submit.py"])
def test_an_older_python_is_told_in_one_line(python, name):
    done = subprocess.run(
        [python, SCRIPTS / name], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"error: needs Python >= 3\.10 and PyTorch >= 2\.5, this is Python 3\.[89]\.\d+ \(.*\)\n",
        done.stderr,
    )


def test_an_older_pytorch_is_told_in_one_line(tmp_path):
    (tmp_path / "torch-2.2.0.dist-info").mkdir()
    (tmp_path / "torch-2.2.0.dist-info/METADATA").write_text("Name: torch\nVersion: 2.2.0\n")
    done = subprocess.run(
        [sys.executable, SCRIPTS / "train_gpt2.py"], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(r"error: needs .*, this is PyTorch 2\.2\.0 \(.*\)\n", done.stderr)
