"""The main job, `bash scripts/rehearse.sh`, in a copy of the checkout: a real Slurm, real data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_cluster import VirtualSlurm, copy_checkout

pytestmark = pytest.mark.slurm
REPO = Path(__file__).resolve().parents[2]
SCALES = {      # folder: (job name, nodes, GPUs a node, label in the tables)
    "baseline": ("ddp_1g1n", 1, 1, "1 GPU, 1 Node (baseline)"),
    "multi_gpu/2_gpus": ("ddp_2g1n", 1, 2, "2 GPUs, 1 Node"),
    "multi_node/2_nodes": ("ddp_2g2n", 2, 2, "2 Nodes"),
}  # fmt: skip
LAST_EPOCH = re.compile(  # its training loss, training accuracy and throughput
    r"^Epoch \[3/3\].* \| Loss \(train, val\): (.+), .+"
    r" \| Accuracy \(train, val\): (.+), .+ \| Throughput: (.+) img/s$",
    re.MULTILINE,
)
EVERY_SCALE = pytest.mark.parametrize("scale", SCALES)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory) -> tuple[Path, str]:
    """Run the rehearsal; returns (the copy of the checkout, what was printed)."""
    cluster = VirtualSlurm("rehearse")
    cluster.require()
    copy = copy_checkout(tmp_path_factory.mktemp("rehearsal") / "check out")
    profile = copy / "templates/clusters/virtual.toml"
    text = profile.read_text()
    assert "image-size = 48" in text  # for a speedup to be seen; smaller images are learnt, too
    profile.write_text(text.replace("image-size = 48", "image-size = 32"))
    (copy / ".venv").symlink_to(REPO / ".venv")
    done = subprocess.run(
        ["bash", copy / "scripts/rehearse.sh"], env=cluster.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return copy, done.stdout


def find_run(copy: Path, scale: str) -> tuple[Path, str]:
    """The job's folder and the job's id."""
    folder = copy / "rehearsal" / scale
    (results,) = (folder / "results").iterdir()
    return folder, results.name


def load_epochs(copy: Path, scale: str) -> list[dict]:
    folder, job = find_run(copy, scale)
    return json.loads((folder / "results" / job / "training_metrics.json").read_text())["epochs"]


@EVERY_SCALE
def test_files_of_the_contract(rehearsal, scale):
    folder, job = find_run(rehearsal[0], scale)
    name, nodes, gpus, _ = SCALES[scale]
    ends = [f"_node{k}" for k in range(nodes)] if nodes > 1 else [""]
    assert [path.name for path in folder.glob("log/*.out")] == [f"{name}_{job}.out"]
    assert sorted(path.name for path in (folder / "cpu_memory" / job).iterdir()) == [
        f"cpu_memory_log{end}.txt" for end in ends
    ]
    ranks = range(nodes * gpus)
    assert {path.name for path in (folder / "results" / job).iterdir()} == {
        "run.json", "training_metrics.json", "RUN_COMPLETE.txt", "job_end.json",
        *(f"rank{rank}_results_epoch{epoch}.json" for rank in ranks for epoch in range(3)),
    }  # fmt: skip
    end = json.loads((folder / "results" / job / "job_end.json").read_text())
    assert end["exit_status"] == 0
    assert end["elapsed_s"] > 5


@EVERY_SCALE
def test_run_json_holds_the_scale(rehearsal, scale):
    folder, job = find_run(rehearsal[0], scale)
    name, nodes, gpus, _ = SCALES[scale]
    run = json.loads((folder / "results" / job / "run.json").read_text())
    assert (run["nodes"], run["gpus_per_node"], run["world_size"]) == (nodes, gpus, nodes * gpus)
    assert run["hosts"] == ["node1", "node2"][:nodes]  # rank 0 is on the head node
    assert (run["slurm"]["job_id"], run["slurm"]["job_name"]) == (job, name)


@EVERY_SCALE
def test_cpu_log_saw_the_trainers(rehearsal, scale):
    folder, job = find_run(rehearsal[0], scale)
    for path in (folder / "cpu_memory" / job).iterdir():
        rows = [line.split() for line in path.read_text().splitlines() if line[:1] != "#"]
        assert len(rows) >= 2
        assert max(float(row[2]) for row in rows) > 300  # MiB; srun itself has 9


@EVERY_SCALE
def test_digits_are_learnt(rehearsal, scale):
    accuracies = [epoch["val_accuracy_global"] for epoch in load_epochs(rehearsal[0], scale)]
    assert len(accuracies) == 3
    assert accuracies == sorted(accuracies), "validation accuracy rises over the epochs"
    assert accuracies[-1] >= (0.90 if scale == "baseline" else 0.70)


def list_keys(value: object, before: str = "") -> set[str]:
    """The names in nested objects, with those above them; of a list, its first element's."""
    if isinstance(value, list):
        return list_keys(value[0], f"{before}[]") if value else set()
    if not isinstance(value, dict):
        return {before}
    return set().union(*(list_keys(part, f"{before}.{name}") for name, part in value.items()))


def test_stand_in_of_the_other_tests_leaves_what_a_training_leaves(rehearsal, tmp_path):
    """Its files are this one's, by name and by field; only what it does not know is missing."""
    folder, job = find_run(rehearsal[0], "baseline")
    trainer = REPO / "tests/standin/train.py"
    command = [sys.executable, trainer, "--num-workers=1", "--batch-size=32"]
    outside = {name: value for name, value in os.environ.items() if name[:6] != "SLURM_"}
    done = subprocess.run(
        command, env=outside | {"RESULTS_DIR": str(tmp_path)}, capture_output=True, text=True
    )
    real = {path.name: path for path in (folder / "results" / job).iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == set(real) - {"job_end.json"}
    for path in tmp_path.glob("*.json"):
        ours, theirs = (list_keys(json.loads(p.read_text())) for p in (path, real[path.name]))
        assert ours <= theirs, path.name
        unknown = (".slurm", ".scheduler", ".env", ".host.os", ".hardware.c", ".training_config.")
        assert {key for key in theirs - ours if not key.startswith(unknown)} == set(), path.name
    (log,) = (folder / "log").glob("*.out")
    for line in ("Epoch [3/3] LR: ", "Total training time: ", "Best validation accuracy: "):
        assert f"\n{line}" in log.read_text() and f"\n{line}" in done.stdout


def test_tables_are_filled_with_what_the_logs_say(rehearsal):
    copy, printed = rehearsal
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("|")]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    for scale, (_, _, _, label) in SCALES.items():
        folder, _ = find_run(copy, scale)
        (log,) = folder.glob("log/*.out")
        last = LAST_EPOCH.findall(log.read_text())
        assert [tuple(cells[label][:3])] == last
        assert cells[label][3].startswith("—")  # no nvidia-smi here
        assert float(cells[label][9]) > 300  # CPU Peak (MiB)
    assert cells["1 GPU, 1 Node (baseline)"][6] == "1.0×"
    assert cells["1 Node (baseline)"][:3] == cells["1 GPU, 1 Node (baseline)"][:3]
    first, second = (float(cells[SCALES[s][3]][2]) for s in ("baseline", "multi_gpu/2_gpus"))
    assert cells["2 GPUs, 1 Node"][6] == f"{second / first:.2f}×"
    # A note's mark stands behind it when it is above 105 %: others used the machine meanwhile.
    efficiency = cells["2 GPUs, 1 Node"][8].partition(" ")[0]
    assert float(efficiency) == pytest.approx(50 * second / first, abs=0.06)
    assert cells["8 GPUs, 1 Node"][0].startswith("— [")
    assert "no run yet: cd rehearsal/multi_gpu/8_gpus && sbatch multi_gpu.slurm" in printed


def test_committed_jobs_are_untouched_and_the_cluster_is_down(rehearsal):
    copy, _ = rehearsal
    for path in REPO.glob("experiments/**/*.slurm"):
        assert path.read_bytes() == (copy / path.relative_to(REPO)).read_bytes()
    assert not list((copy / "experiments").rglob("*.out"))
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert "vs-rehearse-" not in namespaces


def test_plots_are_there(rehearsal):
    copy, _ = rehearsal
    for name in ("speedup_chart.png", "efficiency_chart.png"):
        assert (copy / "rehearsal/plots" / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--al"],
            "error: unknown option '--al'; there are --workload W, --all, --data DIR, --keep",
        ),
        (["--data"], "error: --data needs a folder"),
        (["--data", "/no/such"], "error: /no/such is not a folder; make one with scripts/prepare"),
        (["--data", "/tmp"], "error: no train/ and val/ in /tmp; make them with scripts"),
        (["--workload", "gpt"], "error: --workload needs tinyimagenet, gpt2, translation, spiral"),
    ],
)
def test_wrong_option_is_one_line(args, message):
    command = ["bash", REPO / "scripts/rehearse.sh", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
