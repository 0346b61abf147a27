"""What several test files share: the repository, the real data of each workload, a cluster."""

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_server import Server
from slurm_cluster import VirtualSlurm

REPO = Path(__file__).resolve().parent.parent
# A shell that starts the tests in the background makes them ignore Ctrl-C, and what they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Near enough to each other that 5,000 sentences teach a small model something.
PAIRS_LANGUAGES = ("de", "nl", "sv", "fr", "it", "es", "pt")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give one worker all tests of a file or cluster, longest first; leave out the benchmarks.

    The trainings that the tests of a file share would be done twice, if two workers had them. A
    group is a file, and all files of the session's cluster are one.
    """
    for item in items:
        group = "slurm" if "slurm" in item.fixturenames else item.module.__name__
        item.add_marker(pytest.mark.xdist_group(group))
    folders = [REPO / "tests" / name for name in ("slurm", "training")]  # the others take seconds
    items.sort(key=lambda item: [folder not in item.path.parents for folder in folders])
    if "benchmark" not in config.option.markexpr:
        benchmarks = [item for item in items if item.get_closest_marker("benchmark")]
        config.hook.pytest_deselected(items=benchmarks)
        items[:] = [item for item in items if item not in benchmarks]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rehearsal's data set: 1,438 training and 359 validation images of 10 classes."""
    return prepare_once(tmp_path_factory, "digits", "tinyimagenet", "--digits")


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 MB of Python's standard library in a vocabulary of 2,048: over 500,000 tokens."""
    options = ("--vocab-size", 2048, "--max-bytes", 2_000_000)
    return prepare_once(tmp_path_factory, "tokens", "gpt2", *options)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 real sentences of Django's in seven languages; a vocabulary of 4,000 for all."""
    django = Path(importlib.util.find_spec("django").origin).parent
    options = ("--max-pairs", 5000, "--vocab-size", 4000, "--language", *PAIRS_LANGUAGES)
    return prepare_once(tmp_path_factory, "pairs", "translation", *options, "--gettext", django)


def prepare_once(
    factory: pytest.TempPathFactory, name: str, workload: str, *options: object
) -> Path:
    """Make the folder with `prepare_data.py WORKLOAD FOLDER OPTIONS`, once for all workers."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own in this one
        shared = shared.parent
    folder = shared / "data" / name
    folder.parent.mkdir(exist_ok=True)
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():  # it is made whole or not at all
            command = [sys.executable, REPO / "scripts/prepare_data.py", workload, folder, *options]
            subprocess.run([str(each) for each in command], check=True, capture_output=True)
    return folder


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """A server whose content a test sets; no proxy comes between."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def slurm():
    """A virtual cluster of two nodes with 8 GPUs each, for the whole session.

    VIRTUAL_CLUSTER_NAME names it, so that two sessions can run side by side.

    Where none can run the tests that ask for it are skipped, except in CI: there they fail.
    """
    cluster = VirtualSlurm(os.environ.get("VIRTUAL_CLUSTER_NAME", "tests"))
    cluster.up(nodes=2, gpus=8)
    yield cluster
    cluster.control("down")
