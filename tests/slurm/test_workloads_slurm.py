"""One real training of each other workload on a real Slurm: it learns, and leaves all files.

The rehearsal trains tinyimagenet at three scales; each of these takes another road: gpt2 two nodes,
translation two processes, and spiral is cut off by its time limit's signal and goes on. torchrun is
real here; tests/training has what a longer training reaches, BLEU for one.
"""

import json
import re
from pathlib import Path

import pytest

from run_folders import parse_epoch_line
from slurm_cluster import REPO, render_jobs, shrink_job

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The jobs of all workloads for the virtual cluster."""
    profile = REPO / "templates/clusters/virtual.toml"
    return render_jobs(profile, tmp_path_factory.mktemp("workloads"))


def change_options(folder: Path, old: str, new: str) -> Path:
    """Give the trainer of the job in `folder` other options."""
    (script,) = folder.glob("*.slurm")
    text = script.read_text()
    assert text.count(old) == 1
    script.write_text(text.replace(old, new))
    return folder


def check_training(folder: Path, job: str, workload: str, processes: int, attempts: int) -> dict:
    """Assert that the job's log and files hold a whole training that learnt; returns its metrics.

    folder: the job's. The last of its attempts has the metrics of all.
    """
    (log,) = folder.glob(f"log/*_{job}.out")
    text = log.read_text(errors="replace")
    results = [folder / "results" / f"{job}{f'.{k}' if k else ''}" for k in range(attempts)]
    assert (results[-1] / "RUN_COMPLETE.txt").is_file(), text
    run = json.loads((results[-1] / "run.json").read_text())
    assert (run["workload"], run["world_size"]) == (workload, processes)
    epochs = run["epochs"]
    names = {path.name for attempt in results for path in attempt.iterdir()}
    assert names - {"REQUEUE", "STOP_USR1"} == {
        "run.json", "training_metrics.json", "RUN_COMPLETE.txt", "job_end.json",
        *(f"rank{r}_results_epoch{e}.json" for r in range(processes) for e in range(epochs)),
    }  # fmt: skip
    lines = [parse_epoch_line(line) for line in re.findall(r"^Epoch \[.*$", text, re.MULTILINE)]
    assert [line.epoch for line in lines] == list(range(1, epochs + 1))
    metrics = json.loads((results[-1] / "training_metrics.json").read_text())
    losses = [epoch["val_loss_avg_global"] for epoch in metrics["epochs"]]
    assert metrics["summary"]["completed"] is True
    assert losses[-1] < losses[0]
    return metrics


def test_gpt2_on_two_nodes(slurm, folder, tokens):
    job_folder = shrink_job(folder / "gpt2/multi_node/2_nodes", gpus=2)
    job = slurm.submit(job_folder, REPO_DIR=str(REPO), DATA_DIR=str(tokens))
    state = slurm.wait(job, timeout_s=900)
    check_training(job_folder, job, "gpt2", processes=4, attempts=1)
    assert state == "COMPLETED"


def test_translation_on_two_processes(slurm, folder, pairs):
    job_folder = folder / "translation/multi_gpu/2_gpus"
    change_options(job_folder, "--n-epochs=2", "--n-epochs=2 --limit-batches=80")
    job = slurm.submit(job_folder, REPO_DIR=str(REPO), DATA_DIR=str(pairs))
    state = slurm.wait(job, timeout_s=900)
    check_training(job_folder, job, "translation", processes=2, attempts=1)
    assert state == "COMPLETED"


def test_spiral_that_is_cut_off_goes_on(slurm, folder):
    """SIGUSR1 to the step, as Slurm sends it before the time limit: a real trainer, requeued."""
    job_folder = shrink_job(folder / "spiral/multi_gpu/4_gpus", gpus=2)
    change_options(job_folder, "--epochs=50", "--epochs=12")
    job = slurm.submit(job_folder, REPO_DIR=str(REPO))
    log = job_folder / f"log/spiral_mlp_4gpu_{job}.out"
    slurm.wait_for(log, "processes x", timeout_s=240)
    slurm.run("scancel", "--signal=USR1", f"{job}.0")
    slurm.wait_for_restart(job)
    assert slurm.wait(job, timeout_s=900) == "COMPLETED"
    text = log.read_text()
    assert text.count("Stopped by SIGUSR1, all is saved") == 1
    assert len(re.findall(r"^Going on after step \d+, in epoch \d+$", text, re.MULTILINE)) == 1
    metrics = check_training(job_folder, job, "spiral", processes=2, attempts=2)
    assert metrics["summary"]["best_val_accuracy"] >= 0.95
