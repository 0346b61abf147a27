"""What a GPU's name says of its memory, and whether a prediction fits it."""

import json
from pathlib import Path

import pytest

from common.gpus import list_memory_gb
from common.memory import RESERVE_MIB, find_largest_batch, judge_memory, predict_memory
from in_process import without_torch

# 1,000 MiB and 100 per sample; of 4,348 MiB all but the reserve is 2,300, and 2,300 / 1.15 = 2,000
ANSWER = {"batch": 10, "peak_mib": 2000.0, "fixed_mib": 1000.0, "per_sample_mib": 100.0}
ROOM = RESERVE_MIB + 2300


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("v100", [16, 32]),
        ("v100-32", [32]),  # names that clusters gave to their GPUs
        ("a100_80", [80]),
        ("a100,4gpus", [40, 80]),
        ("GPU_SKU:H100_SXM5", [80, 94]),
        ("NVIDIA A100-SXM4-80GB", [80]),  # as PyTorch prints them
        ("NVIDIA A100-SXM-64GB", [64]),
        ("NVIDIA GH200 480GB", [96, 144]),  # 480 GB are the CPU's
        ("gpu", []),
        ("rtx3080", []),
    ],
)
def test_memory_by_name(name, sizes):
    assert list_memory_gb(name) == sizes


def test_the_largest_batch_is_the_largest_that_is_said_to_fit():
    assert find_largest_batch(ANSWER, ROOM) == 10
    assert find_largest_batch(ANSWER, RESERVE_MIB) == 0
    assert judge_memory(ANSWER, ROOM) == "fits"
    assert judge_memory(ANSWER | {"peak_mib": 2100.0}, ROOM) == "may not fit"
    assert judge_memory(ANSWER | {"peak_mib": 2700.0}, ROOM) == "does not fit"


def test_without_pytorch_the_answer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in without_torch(tmp_path).items():
        monkeypatch.setenv(name, value)
    (answer,) = predict_memory([{"trainer": "train.py", "words": [], "world_size": 1}])
    assert answer["error"].endswith(" has no PyTorch")
    kept = json.loads((tmp_path / "cache/ddp-scaling/memory.json").read_text())
    assert kept == {}  # the next call asks again
