"""A reader's own trainer, named in the matrix, on a real Slurm: launched, logged, requeued as ours.

It is twenty lines that import nothing of this repository: it prints the epoch line, and leaves
REQUEUE when SIGUSR1 says that its time is nearly up.
"""

import shutil
import subprocess
import sys

import pytest

from filled_tables import call
from slurm_cluster import REPO, TESTS

pytestmark = pytest.mark.slurm
OWN = """
import os, signal, sys, time
from pathlib import Path

warned = []
signal.signal(signal.SIGUSR1, lambda *_: warned.append(1))
saved = Path(os.environ["CHECKPOINT_DIR"], "epoch")
saved.parent.mkdir(parents=True, exist_ok=True)
begin = int(saved.read_text()) if saved.exists() else 0
print("options:", *sys.argv[1:], flush=True)
for epoch in range(begin + 1, 4):
    print(f"Epoch [{epoch}/3] Throughput: {100 * epoch}.0 samples/s", flush=True)
    saved.write_text(str(epoch))
    while begin == 0 and not warned:
        time.sleep(0.1)
    if begin == 0:
        Path(os.environ["RESULTS_DIR"], "REQUEUE").touch()
        sys.exit(0)
time.sleep(2)  # psrecord must find it
"""
MATRIX = """
cluster = "ibex"
[workloads.mine]
title = "My model"
trainer = "{trainer}"
args = {{ batch_size = 64 }}
[jobs.mine_1g1n]
workload = "mine"
template = "baseline"
folder = "mine/baseline"
nodes = 1
gpus_per_node = 1
time = "00:10:00"
"""


def test_own_trainer_is_launched_requeued_and_read(slurm, checkout, tmp_path):
    own, root = tmp_path / "own.py", tmp_path / "root"
    own.write_text(OWN)
    (root / "experiments").mkdir(parents=True)
    (root / "experiments/matrix.toml").write_text(MATRIX.format(trainer=own))
    for name in ("templates", "scripts"):
        (root / name).symlink_to(REPO / name)
    shutil.copy(REPO / "render.py", root)
    profile = tmp_path / "short.toml"
    profile.write_text((TESTS / "profiles/short.toml").read_text().partition("[train_args")[0])
    render = [sys.executable, root / "render.py", "--cluster", profile]
    subprocess.run(render, check=True, capture_output=True)
    folder = root / "experiments/mine/baseline"
    job = slurm.submit(folder, REPO_DIR=str(checkout))
    log = folder / f"log/mine_1g1n_{job}.out"
    slurm.wait_for(log, "Epoch [1/3]")
    slurm.run("scancel", "--signal=USR1", f"{job}.0")
    slurm.wait_for_restart(job)
    assert slurm.wait(job) == "COMPLETED", log.read_text()
    text = log.read_text()
    assert text.count("options: --batch_size=64\n") == 2 and text.count("Epoch [") == 3
    done = call("fill_tables", root / "experiments")
    assert " 300.0 |" in done.stdout, done.stdout + done.stderr
    assert f"job {job}.1" in done.stdout
