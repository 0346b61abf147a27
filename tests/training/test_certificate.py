"""The certificate: replicas that are one model, and each way in which they are not."""

import json
from pathlib import Path

import pytest
import torch

from torch_server import TESTS, run_python
from training.batches import ResumableBatches
from training.certificate import compare_orders, digest


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What tests/certificate_probe.py found on four processes, by case: rank 0's and rank 3's."""
    out = tmp_path_factory.mktemp("certificate")
    done = run_python(TESTS / "certificate_probe.py", out, out, ranks=4)
    assert done.returncode == 0, done.stderr[-3000:]
    return {rank: json.loads((out / f"{rank}.json").read_text()) for rank in (0, 3)}


@pytest.mark.parametrize(
    ("case", "faults"),
    [
        ("equal", []),
        ("sharded", []),
        ("two copies of two shares", []),
        ("data begins again within the epoch", []),
        ("trains alone", ["rank 2 has other parameters, first in weight"]),
        ("buffers differ", []),  # BatchNorm's may
        ("no set_epoch",
         ["the samples came in the order of the epoch before: call sampler.set_epoch(epoch)"]),
        ("shard twice", ["rank 3 drew the samples of rank 1: give the sampler its own rank",
                         "8 samples were drawn more than 1 time"]),
        ("overlapping shards", ["1 samples were drawn more than 1 time"]),
        ("another seed, sharded",
         ["ranks [1] began with other weights than rank 0: use one --seed"]),
    ],
)  # fmt: skip
def test_each_fault_is_named_on_every_rank(found, case, faults):
    assert found[0][case] == found[3][case] == faults


@pytest.mark.parametrize(
    ("orders", "fault"),
    [
        ([5, 5, 7, 7], None),
        ([5, 5, 7, 8], "rank 3 drew other samples than rank 2 of its tensor group"),
        ([5, 5, 5, 5], "rank 2 drew the samples of rank 0: give the sampler its own rank"),
    ],
)
def test_a_tensor_group_draws_the_same(orders, fault):
    found = list(compare_orders(torch.tensor(orders), torch.zeros(4), readers=2))
    assert found[:1] == ([fault] if fault else [])


def test_one_line_says_it(found):
    assert found[0]["line"] == "equal (4 of 4), each sample once"
    assert found[0]["faulty line"] == "FAULT: rank 2 has other parameters, first in weight"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_digest_sees_the_last_bit(dtype):
    values = torch.arange(1, 60).to(dtype).reshape(1, 59)
    other = values.clone()
    other.view(torch.int8)[0, 3] ^= 1
    assert digest([values]) == digest([values.clone()]) != digest([other])


def test_drawn_are_the_batches_trained_on(tmp_path: Path):
    batches = ResumableBatches(range(10), 3)
    batches.skip = 1  # a resumed epoch: its first batch was trained on before
    loader = iter(batches)
    assert [next(loader), next(loader)] == [[3, 4, 5], [6, 7, 8]]
    assert batches.drawn(2) == [0, 1, 2, 3, 4, 5]  # the third was asked for ahead
