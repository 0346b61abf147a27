"""What several test files share: the repository, the real data of each workload, a cluster."""

import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_server import Server
from prepared_data import PAIRS_LANGUAGES, prepare_once
from slurm_cluster import VirtualSlurm

# A shell that starts the tests in the background makes them ignore Ctrl-C, and what they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Taken first, so that no worker begins a long file when the others have ended.
LONGEST = (
    "test_rehearse", "test_train_gpt2", "test_workloads_slurm", "test_train_translation",
    "test_preflight_slurm", "test_requeue", "test_slurm_jobs", "test_diagnosis_injected",
    "test_faults", "test_versions", "test_train_spiral", "test_doctor_slurm", "test_walks",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give one worker all tests of a file, longest file first.

    The trainings that the tests of a file share would be done twice, if two workers had them.
    Benchmarks and the tests that need a GPU are left out unless -m names them.
    """

    def find_turn(item: pytest.Item) -> tuple[int, bool]:
        name, folder = item.path.stem, item.path.parent.name
        turn = LONGEST.index(name) if name in LONGEST else len(LONGEST)
        return turn, folder not in ("slurm", "training")  # the others take seconds

    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.module.__name__))
    items.sort(key=find_turn)
    for marker in ("benchmark", "gpu"):
        if marker not in config.option.markexpr:
            config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker(marker)])
            items[:] = [item for item in items if not item.get_closest_marker(marker)]


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
    """A virtual cluster of two nodes with 8 GPUs each, for all tests of a worker.

    VIRTUAL_CLUSTER_NAME names it, and the worker's number: two sessions can run side by side.

    Where none can run the tests that ask for it are skipped, except in CI: there they fail.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    cluster = VirtualSlurm(os.environ.get("VIRTUAL_CLUSTER_NAME", "tests") + worker)
    cluster.up(nodes=2, gpus=8)
    yield cluster
    cluster.control("down")
