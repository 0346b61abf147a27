"""A fault is put into real trainings, and the diagnosis must name it first.

All runs here are on two ranks, against one rank without the fault. A "device" that computes while
the CPU sleeps (faulty_spiral.py) keeps the control healthy on a machine that does other things.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scaling.diagnose import Finding, diagnose
from scaling.runs import find_runs, make_study, read_workdir
from slurm_cluster import shrink_job
from spiral_runs import run_spiral

REPO = Path(__file__).resolve().parents[2]
TRAINER = REPO / "tests/faulty_spiral.py"
DEVICE = {"DEVICE_S": "0.1"}
OPTIONS = ["--epochs=4", "--limit-batches=8", "--batch-size=64", "--hidden-dims=128,128"]
# The device takes 0.1 s for a pass, of 64 samples or of 32: so few do not fill it.
TINY = [*OPTIONS, "--scaling=strong", "--global-batch-size=64"]


def train(folder: Path, options: list[str], processes: int = 1, **variables: str) -> Path:
    done = run_spiral(folder, *options, processes=processes, script=TRAINER, **variables)
    assert done.returncode == 0, done.stderr
    return folder


def compare(*folders: Path) -> Finding:
    """The finding on the larger of the configurations in these folders."""
    return diagnose(make_study(map(read_workdir, folders), "spiral"))[-1]


def name_causes(finding: Finding) -> list[str]:
    return [factor.key for factor in finding.named]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("base") / "one", OPTIONS, **DEVICE)


def test_healthy_control_names_no_cause(tmp_path, base):
    """At the third attempt at the latest: what disturbs a run is named, as it should be."""
    for attempt in range(3):
        finding = compare(base, train(tmp_path / str(attempt), OPTIONS, processes=2, **DEVICE))
        assert finding.base is not None, finding.gaps
        if not finding.named:
            return
    pytest.fail(finding.text())


@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        ("loader", "data", "Data wait: 1"),
        ("rank", "imbalance", "rank 1"),
        ("stopped", "imbalance", "rank 1"),  # by the system, in all that it does
        ("tracker", "host_overhead", "Monitoring and bookkeeping: 1"),
    ],
)
def test_injected_delay_ranks_first(tmp_path, base, fault, cause, words):
    late = {**DEVICE, "FAULT": fault, "LATE_S": "0.1"}
    finding = compare(base, train(tmp_path / "two", OPTIONS, processes=2, **late))
    text = finding.text()
    assert name_causes(finding)[:1] == [cause], text
    assert words in text.splitlines()[1]
    first, loss = finding.named[0], finding.loss.lost_points
    # 0.1 s of 0.2 s and a little: half of the efficiency, and most of the loss.
    assert 30 < first.points < 60 and first.points > 0.6 * loss, text


def test_tiny_batch_ranks_first(tmp_path):
    one = train(tmp_path / "one", TINY, **DEVICE)
    finding = compare(one, train(tmp_path / "two", TINY, processes=2, **DEVICE))
    text = finding.text()
    assert name_causes(finding)[:1] == ["batch"], text
    assert "32 samples per GPU and step at 2 GPUs, 64 at 1 GPU" in text
    assert finding.named[0].points > 35, text


# ---- A link between two nodes of a real Slurm ---------------------------------------------------


def render_job(folder: Path) -> Path:
    """The committed job of 2 nodes for the virtual cluster, with one GPU and a faulty trainer."""
    command = [sys.executable, REPO / "render.py", "--cluster", "virtual", "--to", folder]
    subprocess.run([*command, "--only", "spiral/multi_node/2_nodes"], check=True)
    job = folder / "spiral/multi_node/2_nodes"
    (script,) = job.glob("*.slurm")
    text = script.read_text()
    for old, new in (
        ('"$REPO_DIR/scripts/train_spiral.py"', f'"{TRAINER}"'),
        ("--epochs=50 --batch-size=32", " ".join(OPTIONS)),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    script.write_text(text)
    return shrink_job(job, gpus=1)


@contextmanager
def throttled(slurm, rate: str) -> Iterator[None]:
    """Both nodes send no faster; skipped where the kernel has no token bucket, but in CI."""
    spaces = [["ip", "netns", "exec", f"vs-{slurm.name}-{node}"] for node in ("node1", "node2")]
    limit = ["root", "tbf", "rate", rate, "burst", "16kb", "latency", "2s"]
    try:
        for space in spaces:
            command = [*space, "tc", "qdisc", "add", "dev", "ib0", *limit]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
                give_up(f"a link cannot be throttled here: {done.stderr.strip()}")
        yield
    finally:
        for space in spaces:
            command = [*space, "tc", "qdisc", "del", "dev", "ib0", "root"]
            subprocess.run(command, capture_output=True, check=False)


@pytest.mark.slurm
def test_throttled_link_ranks_first(tmp_path, base, slurm):
    """That an open one is not blamed is seen from the healthy control."""
    job_folder = render_job(tmp_path)
    # 70 kB of gradients per step: 0.14 s at 4 Mbit/s.
    with throttled(slurm, "4mbit"):
        job = slurm.submit(job_folder, REPO_DIR=str(REPO), **DEVICE)
        state = slurm.wait(job)
    (log,) = job_folder.glob(f"log/*_{job}.out")
    assert state == "COMPLETED", log.read_text()
    finding = diagnose(make_study([read_workdir(base), *find_runs(job_folder)], "spiral"))[-1]
    text = finding.text()
    assert (finding.gpus, "2 nodes" in finding.label) == (2, True), text
    assert name_causes(finding)[:1] == ["communication"], text
    assert finding.named[0].points > 35, text
