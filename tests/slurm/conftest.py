"""What the Slurm tests share: a checkout whose trainer needs no PyTorch, and data for it."""

import subprocess
from pathlib import Path

import pytest

from slurm_cluster import make_checkout


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Cancel what a failed test left on the session's cluster: the next one looks at all jobs."""
    report = yield
    if report.when == "call" and report.failed and "slurm" in item.funcargs:
        command = ["scancel", "--partition=main"]
        subprocess.run(command, env=item.funcargs["slurm"].environment, check=False)
    return report


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a job reads of the repository; trainer and torchrun are stand-ins."""
    return make_checkout(tmp_path / "repository")


@pytest.fixture
def torchrun_checkout(tmp_path: Path) -> Path:
    """What a job reads of the repository, with the real torchrun; the trainer is a stand-in."""
    return make_checkout(tmp_path / "real launcher", has_torchrun=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of data, all that the stand-in asks for."""
    image = tmp_path / "shared/digits/train/0/images/0_7.JPEG"
    image.parent.mkdir(parents=True)
    image.write_text("an image")
    return tmp_path / "shared/digits"
