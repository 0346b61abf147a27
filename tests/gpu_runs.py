"""Trainings on this machine's GPU: launched as a job's run_on_node does, one rank on one GPU.

    training = Training(folder, "train.py", "--epochs=2", gpu=gpu)    # it runs by now
    training.finish()                                                 # it has ended well

A folder has its output in stdout.txt and stderr.txt, and its results files in results/.
"""

import csv
import json
import math
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from run_folders import parse_epoch_line
from torch_server import SCRIPTS, find_free_port, make_environment


class Gpu(NamedTuple):
    """What nvidia-smi says of a GPU."""

    name: str
    uuid: str
    driver: str
    capability: str  # 9.0


def list_gpus() -> list[Gpu]:
    """This machine's GPUs; none where there is no driver."""
    query = "--query-gpu=name,uuid,driver_version,compute_cap"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [Gpu(*row) for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True)]


class Training:
    """One training, started; `variables` are added to its environment."""

    def __init__(self, folder: Path, script: str, *words: object, gpu: Gpu, **variables: object):
        self.folder, self.workdir = folder, folder / "results"
        self.workdir.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--node-rank=0",
            "--nproc-per-node=1", "--rdzv-conf=timeout=120", "--master-addr=127.0.0.1",
            f"--master-port={find_free_port()}", SCRIPTS / script, *words,
        ]  # fmt: skip
        told = {"RESULTS_DIR": self.workdir, "CUDA_VISIBLE_DEVICES": gpu.uuid, **variables}
        told |= {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        with (folder / "stdout.txt").open("w") as out, (folder / "stderr.txt").open("w") as err:
            self.process = subprocess.Popen(
                list(map(str, command)), env=make_environment(told), stdout=out, stderr=err
            )

    def finish(self, timeout_s: float = 240) -> "Training":
        """Wait for its end, which must be a good one."""
        try:
            status = self.process.wait(timeout_s)
        finally:
            self.process.kill()  # torchrun ends its ranks
        assert status == 0, self.stderr[-3000:]
        return self

    def read(self, name: str) -> dict:
        """One of its results files."""
        return json.loads((self.workdir / name).read_text())

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout.txt").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr.txt").read_text()

    @cached_property
    def run(self) -> dict:
        return self.read("run.json")

    @cached_property
    def epochs(self) -> list[dict]:
        return self.read("training_metrics.json")["epochs"]

    @property
    def losses(self) -> list[float]:
        return [epoch["train_loss_avg_global"] for epoch in self.epochs]

    @property
    def lines(self) -> list:
        """The log's epoch lines, as our readers have them."""
        return [parse_epoch_line(line) for line in self.stdout.splitlines()
                if line.startswith("Epoch [")]  # fmt: skip

    @property
    def peak_mib(self) -> float:
        """The most memory that PyTorch's allocator gave out."""
        most = max(epoch["max_cuda_mem_allocated_bytes_rank0"] for epoch in self.epochs)
        return most / 2**20


def check_training(training: Training, gpu: Gpu) -> None:
    """What every training on a GPU leaves: where it ran, its memory, equal replicas, a fall."""
    run, epochs = training.run, training.epochs
    assert (run["device"], run["gpu_name"], run["driver"]) == ("cuda", gpu.name, gpu.driver)
    assert (run["gpu_uuids"], run["gpus_visible"], run["world_size"]) == ([gpu.uuid], 1, 1)
    assert run["versions"]["cuda"] and run["versions"]["nccl"]
    assert run["replicas"] == "equal (1 of 1), each sample once"
    assert f"Replicas: {run['replicas']}\n" in training.stdout
    assert all(math.isfinite(loss) for loss in training.losses)
    assert training.losses[-1] < training.losses[0]
    assert len(training.lines) == len(epochs) == run["epochs"]
    assert training.peak_mib > 1
    for number in range(len(epochs)):
        rank = training.read(f"rank0_results_epoch{number}.json")
        assert rank["peak_memory_mib"] > 1
        parts_s = [rank[f"{part}_s"] for part in ("data_wait", "copy", "compute", "optimizer")]
        assert 0 < sum(parts_s) <= rank["training_time"] * 1.02
    assert (training.workdir / "RUN_COMPLETE.txt").exists()
