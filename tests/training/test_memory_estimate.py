"""The predicted peak beside the one that PyTorch's allocator reports for the same step."""

import json
from functools import partial

import pytest

from torch_server import run_python

PROBE = """
import json, sys
import torch
from torch.profiler import ProfilerActivity, profile
from training import memory_estimate as estimate

trainer, *words = sys.argv[1:]
request = {"trainer": trainer, "words": words, "world_size": 2, "device": "cpu"}
answer = estimate.answer(request)
with estimate.ranks(2, 2):
    args = estimate.read_words(trainer, words)
make_step = estimate.TRAINERS[trainer][1](args, estimate.CLASSES, False)
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
    model, optimizer, *passes = make_step(answer["batch"])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # as in DDP's buckets
    optimizer.step()
    for each in filter(None, passes):
        each(torch.autocast("cpu", enabled=False))
        optimizer.step()
events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
total = peak = 0
for event in sorted(events, key=lambda each: each.start_ns()):
    total += event.nbytes()
    peak = max(peak, total)
print(json.dumps(answer | {"measured_mib": peak / 2**20}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "probe.py"
    path.write_text(PROBE)
    return partial(run_python, path)


@pytest.mark.parametrize(
    "words",
    [
        ("train.py", "--model=resnet18", "--batch-size=16", "--image-size=32"),
        ("train_gpt2.py", "--layers=2", "--heads=4", "--width=128", "--vocab-size=1000",
         "--seq-length=128", "--global-batch-size=8", "--activation-checkpointing"),
    ],
)  # fmt: skip
def test_the_predicted_peak_is_the_measured_one(probe, words):
    done = probe(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak_mib"] == pytest.approx(found["measured_mib"], rel=0.15)
    parts = ("parameters_mib", "gradients_mib", "optimizer_mib", "activations_mib")
    assert sum(found[name] for name in parts) == pytest.approx(found["peak_mib"])


def test_shares_of_a_strategy_by_hand(tmp_path):
    """4 ranks: quarters; with fsdp the embeddings (50) and two blocks (100 each) beside them."""
    path = tmp_path / "shares.py"
    path.write_text(
        "import json; from argparse import Namespace\n"
        "from training.memory_estimate import ranks, share_out\n"
        "whole = {'parameters': 800, 'gradients': 800, 'optimizer': 1600}\n"
        "with ranks(4, 2):\n"
        "    for strategy in ('ddp', 'zero1', 'zero2', 'fsdp', 'hsdp'):\n"
        "        held = share_out(whole, strategy, Namespace(shard_group=None), (100, 50))\n"
        "        print(json.dumps(list(held.values())))\n"
    )
    done = run_python(path)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [800, 800, 1600],
        [800, 800, 400],
        [1000, 350, 400],
        [450, 350, 400],
        [650, 550, 800],  # a copy of the model in each node of 2
    ]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"trainer": "train_spiral.py", "words": []}, "train_spiral.py is not estimated, only"),
        ({"trainer": "train.py", "words": ["--model=resnet5"]}, "no classification model"),
        ({"trainer": "train_gpt2.py", "words": ["--strategy=deepspeed"]}, "deepspeed is not"),
    ],
)
def test_what_cannot_be_said_says_why(tmp_path, request_, why):
    (tmp_path / "ask.py").write_text(
        "import json, sys; from training.memory_estimate import answer\n"
        "print(json.dumps(answer(json.loads(sys.argv[1]))))\n"
    )
    done = run_python(tmp_path / "ask.py", json.dumps(request_))
    assert why in json.loads(done.stdout)["error"]
