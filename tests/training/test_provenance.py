"""training.provenance: what run.json says of the GPUs that the ranks use."""

import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from training.provenance import read_gpu_uuid

REPO = Path(__file__).resolve().parents[2]
ID = "8a4f2c6e-0b1d-4c3e-9f70-112233445566"
PROBE = """
import json, sys, torch, torch.distributed as dist
sys.path.insert(0, "scripts")
from training.provenance import gather_places
dist.init_process_group("gloo")
places = gather_places(torch.device("cpu"))
if dist.get_rank() == 0:
    print(json.dumps(places))
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ({"uuid": uuid.UUID(ID)}, f"GPU-{ID}"),  # printed without its prefix, as PyTorch does
        ({"uuid": f"GPU-{ID.upper()}"}, f"GPU-{ID}"),
        ({"uuid": None}, None),
        ({}, None),  # an older PyTorch
    ],
)
def test_a_gpus_uuid_is_written_as_nvidia_smi_writes_it(monkeypatch, said, written):
    # A GPU is what this machine cannot have: PyTorch's answer is stood in for.
    properties = SimpleNamespace(**said)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert read_gpu_uuid(torch.device("cuda", 1)) == written


def test_a_cpu_has_none():
    assert read_gpu_uuid(torch.device("cpu")) is None


def test_every_rank_has_its_entry_and_a_node_one_host(tmp_path):
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(probe)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    host = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
    assert done.stdout.strip() == f'[["{host}"], [null, null]]', done.stderr
