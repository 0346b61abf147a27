"""training.provenance: what run.json says of the GPUs that the ranks use."""

import shutil
import subprocess
import uuid
from types import SimpleNamespace

import pytest
import torch

from common.sources import hash_sources
from torch_server import SCRIPTS, run_python
from training.provenance import format_cpus, read_gpu_uuid

ID = "8a4f2c6e-0b1d-4c3e-9f70-112233445566"
PROBE = """
import json, torch, torch.distributed as dist
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
    done = run_python(probe, ranks=2)
    host = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
    assert done.stdout.strip() == f'[["{host}"], [null, null]]', done.stderr


@pytest.mark.parametrize(
    ("changed", "is_other"),
    [
        ("train.py", True),
        ("training/run.py", True),
        ("training/images/augment.py", True),
        ("common/files.py", True),
        ("scaling/read/contract.py", False),
    ],
)
def test_the_hash_covers_all_that_a_trainer_is_made_of(tmp_path, changed, is_other):
    copy = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = hash_sources(copy / "train.py", copy)
    assert before == hash_sources(copy / "train.py", copy)
    with (copy / changed).open("a") as file:
        file.write("# one more line\n")
    assert (hash_sources(copy / "train.py", copy) != before) == is_other


def test_cpus_are_written_as_ranges():
    assert format_cpus({8, 0, 1, 2, 10}) == "0-2,8,10"
    assert format_cpus({3}) == "3"
