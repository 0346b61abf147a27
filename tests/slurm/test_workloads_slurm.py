"""Every workload on a real Slurm, at 1, 2 and 2 x 2 processes: it learns, and leaves all files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.read.slurm_log import parse_epoch_line

pytestmark = pytest.mark.slurm
REPO = Path(__file__).resolve().parents[2]
# The scripts of 4 GPUs take what Slurm gives them: a smaller job is a matter of sbatch's options.
TWO = ["--gpus-per-node=2", "--cpus-per-task=2"]
JOBS = [
    ("gpt2", "baseline", [], 1),
    ("gpt2", "multi_gpu/2_gpus", [], 2),
    ("gpt2", "multi_node/2_nodes", TWO, 4),
    ("translation", "baseline", [], 1),
    ("translation", "multi_gpu/2_gpus", [], 2),
    ("spiral", "baseline", [], 1),
    ("spiral", "multi_gpu/4_gpus", TWO, 2),
    ("spiral", "multi_node/2_nodes", TWO, 4),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The jobs of all workloads for the virtual cluster."""
    folder = tmp_path_factory.mktemp("workloads")
    command = [sys.executable, REPO / "render.py", "--cluster", "virtual", "--to", folder]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("workload", "scale", "options", "processes"),
    JOBS,
    ids=[f"{workload}-{processes}" for workload, _, _, processes in JOBS],
)
def test_workload_learns_and_leaves_its_files(
    workload, scale, options, processes, slurm, folder, request
):
    data = {"gpt2": "tokens", "translation": "pairs"}.get(workload)
    variables = {"DATA_DIR": str(request.getfixturevalue(data))} if data else {}
    job_folder = folder / workload / scale
    job = slurm.submit(job_folder, *options, REPO_DIR=str(REPO), **variables)
    state = slurm.wait(job, timeout_s=900)
    (log,) = job_folder.glob(f"log/*_{job}.out")
    text = log.read_text(errors="replace")
    assert state == "COMPLETED", text

    results = job_folder / "results" / job
    run = json.loads((results / "run.json").read_text())
    assert (run["workload"], run["world_size"]) == (workload, processes)
    epochs = run["epochs"]
    assert {path.name for path in results.iterdir()} == {
        "run.json", "training_metrics.json", "RUN_COMPLETE.txt", "job_end.json",
        *(f"rank{r}_results_epoch{e}.json" for r in range(processes) for e in range(epochs)),
    }  # fmt: skip
    lines = [parse_epoch_line(line) for line in re.findall(r"^Epoch \[.*$", text, re.MULTILINE)]
    assert [line.epoch for line in lines] == list(range(1, epochs + 1))
    metrics = json.loads((results / "training_metrics.json").read_text())
    losses = [epoch["val_loss_avg_global"] for epoch in metrics["epochs"]]
    assert metrics["summary"]["completed"] is True
    assert losses[-1] < losses[0]
    if workload == "spiral":
        assert metrics["summary"]["best_val_accuracy"] >= 0.95
    if workload == "translation":
        assert metrics["epochs"][0]["val_bleu_global"] >= run["bleu_before"] + 1
