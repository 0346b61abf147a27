"""How a trainer starts: --help answers without PyTorch, and main() begins with little more than it.

What is counted are modules, not seconds: tests/benchmarks/command_starts.py measures those.
"""

import json
import subprocess
import sys

import pytest

from torch_server import SCRIPTS, make_environment, run_python

TRAINERS = ("train", "train_gpt2", "train_spiral", "train_translation")
LIST_AFTER = """
import atexit, json, runpy, sys
atexit.register(lambda: print("\\n" + json.dumps(sorted(sys.modules))))
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""
# Each trainer after PyTorch, as a job loads it: what comes with them that PyTorch has not loaded.
LIST_IMPORTED = f"""
import json, sys
import torch
before = set(sys.modules)
for name in {TRAINERS!r}:
    __import__(name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def list_modules(*command) -> list[str]:
    """The last line that Python prints, with these arguments."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=make_environment({}), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 2), done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in (*TRAINERS, "train_minimal") for option in ("--help", "--lr=x")]
    + [("preflight", "--help"), ("preflight", "--timeout-s=x")],
)
def test_help_and_mistakes_load_no_pytorch(name, option):
    modules = list_modules("-c", LIST_AFTER, SCRIPTS / f"{name}.py", option)
    packages = {module.partition(".")[0] for module in modules}
    assert not packages & {"torch", "torchvision", "numpy", "PIL", "rich", "pandas"}
    assert len(modules) < 250  # Python itself and argparse have about 120


def test_trainers_load_little_beside_pytorch():
    modules = list_modules("-c", LIST_IMPORTED)
    late = (
        "torchvision", "torch._dynamo", "torch._inductor", "torch.onnx", "sympy", "rich", "pandas",
        "comet_ml", "wandb", "tensorboard", "sacrebleu", "tokenizers", "deepspeed",
    )  # fmt: skip
    assert [module for module in modules if module.startswith(late)] == []
    ours = [m for m in modules if m.startswith(("training", "common", "train"))]
    assert len(modules) - len(ours) < 100  # Pillow has 20, the standard library the rest


def test_models_are_torchvisions(tmp_path):
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import torchvision\n"
        "from training.images.arguments import MODELS\n"
        "print(sorted(MODELS) == sorted(torchvision.models.list_models(module=torchvision.models)))"
    )
    done = run_python(probe)
    assert done.stdout == "True\n", done.stderr
