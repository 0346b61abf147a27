"""What several test files share: the repository, and the real handwritten digits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import VirtualSlurm

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rehearsal's data set: 1,438 training and 359 validation images of 10 classes."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    command = [sys.executable, REPO / "scripts/prepare_data.py", "tinyimagenet", "--digits", folder]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def slurm():
    """A virtual cluster of two nodes with 8 GPUs each, for the whole session.

    Where none can run the tests that ask for it are skipped, except in CI: there they fail.
    """
    cluster = VirtualSlurm("tests")
    check = cluster.control("check")
    if check.returncode != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(check.stderr.strip())
    cluster.up(nodes=2, gpus=8)
    yield cluster
    cluster.control("down")
