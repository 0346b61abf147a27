"""The tools of a real GPU's driver: what a job logs and checks, and what is read of it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.gpus import find_gpu
from gpu_runs import Training
from in_process import run_script
from scaling.read.gpu_log import read_gpu_log
from torch_server import SCRIPTS, find_free_port, make_environment

pytestmark = pytest.mark.gpu
REPO = SCRIPTS.parent
FIELDS = (
    "timestamp,index,name,memory.used,memory.total,utilization.gpu,power.draw,temperature.gpu,"
    "clocks.sm,clocks_throttle_reasons.active,uuid"
)


def log_gpus(folder: Path, fields: str, seconds: float, **variables: str) -> Path:
    """Log as a job does, scripts/gpus.sh's way, for some seconds; returns the file."""
    path = folder / "gpu_memory_log.csv"
    query = f"--query-gpu={fields} --format=csv,nounits --loop=1"
    lines = f'source "$1"; log_gpus "$2" nvidia-smi {query}; sleep {seconds}; kill $!; wait'
    environment = {"PATH": os.environ["PATH"], "GPUS_PER_NODE": "1", **variables}
    command = ["bash", "-c", lines, "bash", SCRIPTS / "gpus.sh", path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return path


def test_a_training_is_seen_in_the_drivers_log(gpu, images, tmp_path):
    words = ("--model=resnet18", "--epochs=30", "--batch-size=64", "--input=device")
    training = Training(tmp_path, "train.py", *words, gpu=gpu, DATA_DIR=images)
    while "Epoch [1/" not in training.stdout:
        assert training.process.poll() is None, training.stderr
        time.sleep(0.1)
    path = log_gpus(tmp_path, FIELDS, 5, CUDA_VISIBLE_DEVICES=gpu.uuid)
    training.finish()
    log = read_gpu_log(path, columns=True)
    text = path.read_text()
    header, *rows = text.splitlines()
    assert header.startswith("timestamp, index, name, memory.used [MiB], memory.total [MiB], ")
    assert (log.problem, log.counts.kept, sum(log.counts.dropped.values())) == (None, len(rows), 0)
    (use,) = log.keep_gpus(training.run["gpu_uuids"]).gpus
    assert (use.name, use.uuid) == (gpu.name, gpu.uuid)
    assert use.n == len(rows) >= 4 and use.interval_s == pytest.approx(1, abs=0.2)
    assert use.peak_mib > training.peak_mib
    measures = {name: (column.n, column.unreadable) for name, column in log.columns.items()}
    assert len(header.split(", ")) == 11, header
    for name in ("utilization_pct", "power_w", "temperature_c", "sm_clock_mhz"):
        assert measures[name] == (len(rows), 0), (measures, text)


@pytest.mark.parametrize(
    ("asked", "columns"),
    [(FIELDS, 11), (FIELDS.replace("uuid", "no_such_field"), 6)],
    ids=["ours", "one unknown"],
)
def test_a_field_that_the_driver_does_not_know_costs_no_log(gpu, tmp_path, asked, columns):
    path = log_gpus(tmp_path, asked, 4, CUDA_VISIBLE_DEVICES=gpu.uuid)
    header, *rows = path.read_text().splitlines()
    assert (len(header.split(", ")), len(rows) >= 1) == (columns, True), header
    (use,) = read_gpu_log(path).gpus
    assert (use.name, use.uuid, use.n) == (gpu.name, gpu.uuid, len(rows))


@pytest.mark.parametrize(
    ("told", "asked", "seen"),
    [({}, 1, True), ({"CUDA_VISIBLE_DEVICES": "0"}, 1, True),
     ({"CUDA_VISIBLE_DEVICES": ""}, 1, False), ({}, 64, False)],
)  # fmt: skip
def test_a_job_counts_the_nodes_gpus(gpu, tmp_path, told, asked, seen):
    function = "run_on_node() { echo ran; }\nexport -f run_on_node"
    job = {
        "PATH": os.environ["PATH"], "RESULTS_DIR": str(tmp_path), "SLURM_JOB_ID": "7",
        "SLURMD_NODENAME": "node1", "MASTER_ADDR": "localhost", "NODES": "1",
        "TASKS_PER_NODE": "1", "GPUS_PER_NODE": str(asked), "ACCELERATOR": "nvidia",
    }  # fmt: skip
    command = ["bash", "-c", f"{function}\nexec bash {SCRIPTS}/node.sh"]
    done = subprocess.run(command, env=job | told, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == (("ran\n", 0) if seen else ("", 1)), done.stderr
    assert seen or f"but this job is 1 x {asked}" in done.stderr


# ---- The preflight --------------------------------------------------------------------------


def test_the_preflight_finds_nothing_wrong(gpu, images, tmp_path):
    from doctor.verdicts import Asked, judge_group, judge_nodes

    (tmp_path / "log").mkdir()
    (tmp_path / "log/preflight_7.out").touch()
    told = {
        "RESULTS_DIR": tmp_path, "MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": gpu.uuid,
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "preflight", "SLURM_CPUS_PER_TASK": "2",
        "DATA_DIR": images, "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }  # fmt: skip
    launch = [
        "-m", "torch.distributed.run", "--nnodes=1", "--node-rank=0", "--nproc-per-node=1",
        "--master-addr=127.0.0.1", f"--master-port={find_free_port()}",
    ]  # fmt: skip
    for words in ([SCRIPTS / "preflight.py", "--node"], [*launch, SCRIPTS / "preflight.py"]):
        subprocess.run(
            list(map(str, [sys.executable, *words])), env=make_environment(told), cwd=tmp_path,
            check=True, timeout=240,
        )  # fmt: skip
    task = json.loads((tmp_path / "preflight_task0.json").read_text())
    rank = json.loads((tmp_path / "preflight_rank0.json").read_text())
    (found,) = task["torch"]["gpus"]
    assert found["name"] == gpu.name and gpu.uuid == f"GPU-{found['uuid']}"
    assert found["capability"] == round(float(gpu.capability) * 10)
    assert task["torch"]["driver"] == gpu.driver
    topology = (tmp_path / "hardware_task0.txt").read_text()
    assert "$ nvidia-smi topo -m\n" in topology and "GPU0" in topology
    assert task["hardware"]["gpu_links"].keys() <= {"X", "SYS", "NODE", "PHB", "PXB", "PIX"} | {
        f"NV{number}" for number in range(1, 37)
    }
    assert rank["backend"] == "nccl" and len(rank["sweep"]) == 11
    assert rank["nccl"]["version"] and rank["reduce"]["wrong"] == 0
    asked = Asked(1, 1, 1, 2, "nvidia")
    verdicts = [*judge_nodes([task], asked), *judge_group([task], [rank], asked)]
    wrong = [verdict for verdict in verdicts if verdict.status == "FAIL"]
    assert not wrong
    said = {verdict.check: verdict for verdict in verdicts}
    assert said["GPUs"].found == f"1 of 1 visible: {gpu.name}"


# ---- A whole job, without its Slurm -----------------------------------------------------------

PROFILE = """
name = "here"
gpus_per_node = 1
cpus_per_gpu = 2
setup = ['export PATH={bin}:$PATH']
[data_dir]
tinyimagenet = "{data}"
[train_args.tinyimagenet]
epochs = 100
batch-size = 64
"""
SRUN = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'


def test_a_rendered_job_ends_with_its_tables(gpu, images, tmp_path):
    profile, jobs, tools = tmp_path / "here.toml", tmp_path / "jobs", tmp_path / "bin"
    profile.write_text(PROFILE.format(bin=Path(sys.executable).parent, data=images))
    run_script("render.py", "--cluster", profile, "--to", jobs, "--only", "ddp_1g1n")
    for name, text in {"srun": SRUN, "squeue": "#!/bin/sh\nexit 1\n"}.items():
        (tools / name).parent.mkdir(exist_ok=True)
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    job, folder = jobs / "baseline/baseline.slurm", jobs / "baseline"
    slurm = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "ddp_1g1n", "SLURM_NNODES": "1", "SLURM_NTASKS": "1",
        "SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_CPUS_PER_TASK": "2",
        "SLURM_GPUS_ON_NODE": "1", "SLURMD_NODENAME": "here", "CUDA_VISIBLE_DEVICES": gpu.uuid,
        "REPO_DIR": str(REPO), "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }  # fmt: skip
    log = folder / "log/ddp_1g1n_7.out"
    with log.open("w") as file:
        done = subprocess.run(
            ["bash", job], env=slurm, cwd=folder, stdout=file, stderr=file, timeout=240
        )
    text = log.read_text()
    assert done.returncode == 0, text
    (gpu_log,) = folder.glob("gpu_memory/7/*.csv")
    (use,) = read_gpu_log(gpu_log).gpus
    assert (use.name, use.uuid) == (gpu.name, gpu.uuid) and use.n >= 2
    run = json.loads((folder / "results/7/run.json").read_text())
    assert run["gpu_uuids"] == [gpu.uuid]
    last = [line for line in text.splitlines() if "GPU" in line][-1]
    assert str(use.peak_mib) in text, last
    filled = run_script("scripts/fill_tables.py", jobs)
    assert filled.returncode in (0, None), filled.stderr
    assert str(use.peak_mib) in filled.stdout.replace(",", ""), filled.stdout
    if find_gpu(gpu.name) is None:
        pytest.skip(f"common/gpus.csv has no peak of the {gpu.name}")
    summary = run_script("scripts/scaling_tables.py", jobs)
    assert "MFU (%)" in summary.stdout and "TFLOP/s per GPU" in summary.stdout, summary.stdout
    assert "not shown" not in summary.stdout, summary.stdout
