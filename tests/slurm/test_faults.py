"""The quick part of the fault matrix: one fault of each kind in two jobs."""

import json
import subprocess
import sys

import pytest

from slurm_cluster import TESTS, VirtualSlurm

pytestmark = pytest.mark.slurm


def test_quick_part_of_the_fault_matrix(tmp_path):
    VirtualSlurm("faults").require()
    command = [sys.executable, TESTS / "faults/run.py", "--quick", f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "fault_matrix.json").read_text())
    assert {row["result"] for row in result["faults"]} == {"right"}
    assert len(result["faults"]) > 4
    assert [bar["measure"] for bar in result["bars"] if not bar["held"]] == []


def test_a_fault_that_is_unknown_is_refused():
    command = [sys.executable, TESTS / "faults/run.py", "--only=rank-rises"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "no fault rank-rises" in done.stderr) == (2, True)
