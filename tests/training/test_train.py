"""train.py as its user runs it, and the files that it leaves."""

import json
import math
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import train
from common.torch_lines import name_line
from run_folders import parse_epoch_line
from torch_server import SCRIPTS, run_python, run_torchrun
from training import TrainingError, device, network
from training.epoch import EpochResult, format_epoch_line
from training.images.arguments import parse_args
from training.record import check_workdir
from training.stopwatch import Stopwatch

SMALL = ["--model=resnet18", "--image-size=32", "--batch-size=16", "--num-workers=1", "--lr=0.005"]
EPOCH_LINE = (
    "Epoch [3/3] LR: 0.001000 | Loss (train, val): 5.149, 5.664 | "
    "Accuracy (train, val): 2.16%, 0.98% | Throughput: 704.9 img/s"
)


def run_train(*args, ranks: int = 1, **variables: str) -> subprocess.CompletedProcess:
    return run_python(SCRIPTS / "train.py", *args, ranks=ranks, **variables)


# ---- A run on two processes -------------------------------------------------------------


@pytest.fixture(scope="module")
def two_process_run(digits, tmp_path_factory):
    """Two epochs of three batches on two processes: (its output, its workdir)."""
    workdir = tmp_path_factory.mktemp("run") / "results"
    done = run_torchrun(
        SCRIPTS / "train.py", *SMALL, f"--data-dir={digits}", f"--workdir={workdir}",
        "--epochs=2", "--limit-batches=3",
        ranks=2, COMET_API_KEY="a-secret-key", SLURM_JOB_ID="77", SLURM_JOB_NAME="ddp_2g1n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, workdir


def load(path: Path) -> dict:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"JSON has {name}"))


def test_run_leaves_the_files_of_the_contract(two_process_run):
    _, workdir = two_process_run
    assert sorted(path.name for path in workdir.iterdir()) == [
        "RUN_COMPLETE.txt",
        "rank0_results_epoch0.json",
        "rank0_results_epoch1.json",
        "rank1_results_epoch0.json",
        "rank1_results_epoch1.json",
        "run.json",
        "training_metrics.json",
    ]
    newest = max(workdir.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "RUN_COMPLETE.txt"


def test_run_json_says_how_it_ran(two_process_run):
    run = load(two_process_run[1] / "run.json")
    expected = {
        "workload": "tinyimagenet", "unit": "img/s", "model": "resnet18", "image_size": 32,
        "scaling": "weak", "nodes": 1, "gpus_per_node": 2, "world_size": 2,
        "batch_size_per_gpu": 16, "global_batch_size": 32, "grad_accum_steps": 1,
        "precision": "fp32", "strategy": "ddp", "seed": 0, "epochs": 2, "warmup_epochs": 1,
        "device": "cpu", "gpu_name": None, "lr": 0.005, "limit_batches": 3,
        "slurm": {"job_id": "77", "job_name": "ddp_2g1n"},
        "dataset": {"name": "digits", "classes": 10, "train": 1438, "val": 359},
    }  # fmt: skip
    assert {key: run[key] for key in expected} == expected
    assert len(run["trainer_sha256"]) == 64
    assert run["versions"]["torch"] == torch.__version__


def test_no_secret_of_the_environment_is_written(two_process_run):
    output, workdir = two_process_run
    assert "a-secret-key" not in output
    assert [path for path in workdir.iterdir() if "a-secret-key" in path.read_text()] == []


def test_epoch_lines_are_the_metrics_rounded(two_process_run):
    output, workdir = two_process_run
    lines = [line for line in output.splitlines() if line.startswith("Epoch [")]
    metrics = load(workdir / "training_metrics.json")["epochs"]
    assert len(lines) == len(metrics) == 2
    for line, epoch in zip(lines, metrics, strict=True):
        seen = parse_epoch_line(line)
        assert (seen.epoch, seen.epochs, seen.unit) == (epoch["epoch_idx"], 2, "img/s")
        assert float(seen.get("train_loss")) == pytest.approx(
            epoch["train_loss_avg_global"], abs=5e-4
        )
        assert float(seen.get("val_loss")) == pytest.approx(epoch["val_loss_avg_global"], abs=5e-4)
        assert float(seen.throughput_per_s) == pytest.approx(
            epoch["samples_per_sec_global"], abs=0.05
        )
        assert float(seen.get("val_accuracy_pct")) == pytest.approx(
            100 * epoch["val_accuracy_global"], abs=5e-3
        )


def test_throughput_is_all_samples_over_the_slowest_rank(two_process_run):
    _, workdir = two_process_run
    ranks = [load(workdir / f"rank{rank}_results_epoch1.json") for rank in (0, 1)]
    epoch = load(workdir / "training_metrics.json")["epochs"][1]
    assert [rank["samples"] for rank in ranks] == [48, 48]  # 3 batches of 16
    slowest_s = max(rank["training_time"] for rank in ranks)
    assert epoch["samples_per_sec_global"] == pytest.approx(96 / slowest_s)
    assert all(0 <= rank["data_wait_s"] < rank["training_time"] for rank in ranks)
    assert ranks[0]["validation_loss"] == ranks[1]["validation_loss"]  # all-reduced


def test_summary_excludes_the_warmup(two_process_run):
    metrics = load(two_process_run[1] / "training_metrics.json")
    assert metrics["schema_version"] == "2.0"
    assert metrics["summary"]["completed"] is True
    assert metrics["summary"]["mean_samples_per_sec_global"] == pytest.approx(
        metrics["epochs"][1]["samples_per_sec_global"]
    )
    assert metrics["hardware"]["world_size"] == 2


def test_log_ends_with_the_totals(two_process_run):
    output, workdir = two_process_run
    replicas, total, loss, accuracy = output.splitlines()[-4:]
    assert replicas == "Replicas: equal (2 of 2), each sample once"
    assert load(workdir / "run.json")["replicas"] == replicas.removeprefix("Replicas: ")
    summary = load(workdir / "training_metrics.json")["summary"]
    assert total == f"Total training time: {summary['total_wall_time_sec']:.1f} s"
    assert loss == f"Best validation loss: {summary['best_val_loss']:.3f}"
    assert accuracy == f"Best validation accuracy: {summary['best_val_accuracy']:.2%}"


# ---- What goes wrong --------------------------------------------------------------------


def copy_digits(digits: Path, folder: Path) -> Path:
    subprocess.run(["cp", "-r", "--", digits, folder], check=True)
    return folder


def test_corrupt_image_is_named_with_its_rank(digits, tmp_path):
    data = copy_digits(digits, tmp_path / "data")
    for path in data.glob("train/*/images/*_1*.JPEG"):  # a half of them: both ranks meet one
        path.write_bytes(path.read_bytes()[:300])
    done = run_train(*SMALL, f"--data-dir={data}", f"--workdir={tmp_path}/w", ranks=2)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if "] error: " in line]
    assert errors, done.stderr
    assert errors[0].startswith(("[rank 0 on ", "[rank 1 on "))
    assert f"cannot decode {data}/train/" in errors[0]
    assert not (tmp_path / "w/RUN_COMPLETE.txt").exists()


def test_missing_data_is_one_line_before_anything_is_written(tmp_path):
    done = run_train(*SMALL, f"--data-dir={tmp_path}/none", f"--workdir={tmp_path}/w")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"error: {tmp_path}/none is not a folder; set --data-dir or $DATA_DIR" in done.stderr
    assert not (tmp_path / "w/run.json").exists()


@pytest.fixture
def call_main(monkeypatch):
    """Call train.main() in this process with command-line arguments."""

    def call(*args: str) -> None:
        for name in ("RANK", "WORLD_SIZE", "DATA_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, args)])
        train.main(parse_args())

    return call


def test_class_mismatch_is_refused_before_the_ranks_meet(call_main, digits, tmp_path):
    data = copy_digits(digits, tmp_path / "data")
    (data / "train/d0000003").rename(data / "train/d0000099")
    with pytest.raises(TrainingError, match=r"d0000003") as caught:
        call_main(*SMALL, f"--data-dir={data}", f"--workdir={tmp_path}/w")
    assert "\n" not in str(caught.value)
    assert not torch.distributed.is_initialized()


def test_a_workdir_is_never_overwritten(call_main, digits, two_process_run):
    _, workdir = two_process_run
    before = (workdir / "run.json").read_bytes()
    with pytest.raises(TrainingError, match="already holds a run; choose another --workdir"):
        call_main(*SMALL, f"--data-dir={digits}", f"--workdir={workdir}")
    assert (workdir / "run.json").read_bytes() == before


def test_fp16_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="use bf16 or fp32"):
        device.choose_precision("fp16")
    assert device.choose_precision(None) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.choose_precision(None) == "fp16"
    assert device.choose_precision("bf16") == "bf16"


def test_batch_larger_than_the_data_is_refused(call_main, digits, tmp_path):
    with pytest.raises(TrainingError, match=r"1438 training samples are less than .* of 2000 \(1"):
        call_main(f"--data-dir={digits}", "--batch-size=2000", f"--workdir={tmp_path}/w")


def test_a_gpu_that_pytorch_cannot_use_is_no_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "DRIVER", tmp_path)  # a driver is there
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(TrainingError, match=r"NVIDIA driver, but PyTorch .* cannot use it"):
        device.check_gpus()
    monkeypatch.setattr(device, "DRIVER", tmp_path / "none")
    device.check_gpus()
    monkeypatch.setattr(device, "AMD_DRIVER", tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(TrainingError, match=r"\(ROCm None\) finds no AMD GPU here; load"):
        device.check_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device.check_gpus()


@pytest.mark.parametrize(
    ("gpu", "driver", "line"),
    [
        (70, "550.54.15", "--torch 2.7.1 (CUDA 12, V100 to H200, drivers from 525)"),
        (90, "550.54.15", "--torch 2.7.1 "),
        (120, "580.65.06", "--torch newest (CUDA 13, T4 to Blackwell, drivers from 580)"),
        (None, "535.1", "--torch 2.7.1 "),
        (None, None, "--torch 2.7.1 "),
        (120, "550.1", "no PyTorch of PyPI fits this GPU with driver 550.1: load the site's"),
        (70, "470.1", "no PyTorch of PyPI fits"),
    ],
)
def test_the_line_for_a_gpu_and_its_driver(gpu, driver, line):
    assert line in name_line(gpu, driver)


@pytest.mark.parametrize(
    ("archs", "gpu", "fits"),
    [
        (["sm_80", "sm_86"], (8, 9), True),  # the same generation
        (["sm_80", "sm_90"], (12, 0), False),
        (["sm_90", "compute_90"], (12, 0), True),  # PTX is compiled on the spot
        (["gfx90a"], (9, 0), True),  # ROCm's names are not judged
    ],
)
def test_code_of_a_generation_runs_on_its_gpus(archs, gpu, fits):
    assert device.has_code(archs, *gpu) is fits


def test_gloo_takes_the_interface_that_leads_to_the_master(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that what is set below is taken away again
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("MASTER_ADDR", "127.0.1.1")  # Debian's own name
    network.choose_gloo_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    here = [each for each in network.list_interfaces() if each["ipv4"] and each["name"] != "lo"]
    if here:
        monkeypatch.setenv("PEER_ADDR", here[0]["ipv4"])  # the way to another node, if it was one
        monkeypatch.setattr(network, "list_interfaces", lambda: [{"name": "ib7", "ipv4": own}])
        own = here[0]["ipv4"]
        network.choose_gloo_interface()
        assert os.environ["GLOO_SOCKET_IFNAME"] == "ib7"
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
        network.choose_gloo_interface()
        assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"


@pytest.mark.parametrize(("capability", "refused"), [((7, 0), True), ((7, 5), False)])
def test_a_gpu_older_than_the_build_is_named(monkeypatch, capability, refused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    expected = pytest.raises(TrainingError, match=r"for this Tesla V100 \(sm_70\), only for sm_75")
    with expected if refused else nullcontext():
        device.check_gpus()


# ---- The small parts --------------------------------------------------------------------


def test_epoch_line_is_exactly_this():
    result = EpochResult(
        epoch=2, lr=0.001, train_loss=5.1494, val_loss=5.6636, train_accuracy=0.02164,
        val_accuracy=0.00981, samples=7049, slowest_s=10.0,
    )  # fmt: skip
    assert format_epoch_line(result, 3, "img/s") == EPOCH_LINE


def test_epoch_line_with_nan_can_be_read():
    result = EpochResult(0, 1e-7, math.nan, math.inf, 10, 1.0, 0.0, 0.0)
    line = format_epoch_line(result, 3, "img/s")
    assert "Loss (train, val): nan, inf" in line
    assert math.isnan(float(parse_epoch_line(line).get("train_loss")))


def test_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot make --workdir"):
        check_workdir(tmp_path / "file/sub")


def test_stopwatch_tells_waiting_from_working():
    def slow_batches():
        for batch in range(3):
            time.sleep(0.02)
            yield batch

    with Stopwatch(torch.device("cpu")) as stopwatch:
        batches = slow_batches()
        for _ in range(3):
            stopwatch.wait_for(batches)
            time.sleep(0.01)
            stopwatch.mark("compute")
            stopwatch.end_step()
    assert stopwatch.steps == len(stopwatch.step_times_s) == 3
    assert 0.06 <= stopwatch.parts["data_wait"] < stopwatch.seconds - 0.025
    assert 0.03 <= stopwatch.parts["compute"] < stopwatch.seconds - 0.055
    assert sum(stopwatch.parts.values()) <= stopwatch.seconds
