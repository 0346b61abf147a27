"""Figures that only a GPU can give: a predicted peak beside the real one, the certificate's cost.

Each line that begins with "measured:" is one (pytest -rP shows them). Run them alone:
`python -m pytest -n 0 -m gpu tests/gpu/test_gpu_measured.py`.
"""

import json
import subprocess
import sys

import pytest

from gpu_runs import Training
from torch_server import TESTS, make_environment

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def predict(gpu):
    """Returns predict(script, *words) -> the answer of training.memory_estimate."""

    def ask(script: str, *words: str) -> dict:
        request = [{"trainer": script, "words": words, "world_size": 1, "classes": 10}]
        done = subprocess.run(
            [sys.executable, "-m", "training.memory_estimate"], input=json.dumps(request),
            env=make_environment({}), capture_output=True, text=True, check=True, timeout=240,
        )  # fmt: skip
        (answer,) = json.loads(done.stdout)
        return answer

    return ask


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train.py", ("--batch-size=320", "--epochs=2")),
        ("train.py", ("--batch-size=320", "--epochs=2", "--precision=fp32")),
        ("train.py", ("--batch-size=64", "--epochs=2", "--image-size=224")),
        ("train_gpt2.py", ("--steps=4", "--vocab-size=50257")),
        ("train_gpt2.py", ("--steps=4", "--vocab-size=50257", "--run-type=optimized")),
        ("train_gpt2.py", ("--steps=4", "--vocab-size=50257", "--batch-size=16",
                           "--precision=bf16", "--activation-checkpointing")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)  # fmt: skip
def test_the_predicted_peak_is_the_measured_one(
    predict, gpu, images, tokens, tmp_path, script, words
):
    data = images if script == "train.py" else tokens
    training = Training(tmp_path, script, *words, "--limit-batches=4", gpu=gpu, DATA_DIR=data)
    predicted = predict(script, *words)["peak_mib"]
    measured = training.finish().peak_mib
    print(f"measured: {script} {' '.join(words)}: peak {measured:.0f} MiB, "
          f"predicted {predicted:.0f}, off by {predicted / measured - 1:+.1%}")  # fmt: skip
    assert predicted == pytest.approx(measured, rel=0.15)


def test_the_certificate_costs_next_to_nothing(gpu, tmp_path):
    """Of an epoch of TinyImageNet, 100,000 images, by ResNet-50 at this GPU's own speed."""
    command = [sys.executable, TESTS / "certificate_cost_probe.py", tmp_path]
    done = subprocess.run(
        list(map(str, command)), env=make_environment({"CUDA_VISIBLE_DEVICES": gpu.uuid}),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    share = found["check_s"] / found["epoch_s"]
    print(f"measured: certificate {1000 * found['check_s']:.1f} ms of an epoch of "
          f"{found['epoch_s']:.2f} s, {share:.2%} (median of {found['n']})")  # fmt: skip
    assert share < 0.005
