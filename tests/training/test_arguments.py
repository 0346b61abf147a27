"""The options of the trainers: defaults, refusals in one line, other spellings. Without PyTorch."""

import sys
import time
from pathlib import Path

import pytest

from training.arguments import TrainerParser, add_run_arguments, dash_option
from training.gpt2 import arguments as gpt2
from training.images import arguments as images
from training.spiral import arguments as spiral
from training.translation import arguments as translation

WORKLOADS = {"images": images, "gpt2": gpt2, "spiral": spiral, "translation": translation}


@pytest.fixture
def parse(monkeypatch):
    """Parse a workload's arguments as rank 0 of `world_size`; no environment but `variables`."""

    def call(workload: str, *args, world_size: int | None = None, **variables: str):
        for name in ("RANK", "WORLD_SIZE", "DATA_DIR", "CHECKPOINT_DIR", "RESULTS_DIR"):
            monkeypatch.delenv(name, raising=False)
        if world_size:
            variables["WORLD_SIZE"] = str(world_size)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["trainer.py", *map(str, args)])
        return WORKLOADS[workload].parse_args()

    return call


# ---- Refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "args", "world_size", "message"),
    [
        ("images", ["--epochs=0"], None, "argument --epochs: must be a whole number above 0, not"),
        ("images", ["--batch_size", "x"], None, "argument --batch-size: must be a whole number ab"),
        ("images", ["--lr=nan"], None, "argument --lr: must be a number above 0, not nan"),
        ("images", ["--model=resnet51"], None, "torchvision has no classification model 'resnet51"),
        ("images", ["--precision=fp8"], None, "argument --precision: invalid choice: 'fp8'"),
        ("images", ["--input=gif"], None, "argument --input: invalid choice: 'gif'"),
        ("images", ["--epoch=3"], None, "unrecognized arguments: --epoch=3"),
        ("images", ["--naive"], None, "unrecognized arguments: --naive"),
        ("images", ["--data-dir="], None, "no data: pass --data-dir DIR or set DATA_DIR"),
        ("gpt2", ["--run_type=baseline"], 2, "--run-type baseline is one process, and here are 2"),
        ("gpt2", ["--width=100", "--heads=3"], 2, "--width 100 is no multiple of --heads 3"),
        ("gpt2", ["--seq-length=2000"], 2, "--seq-length 2000 is more than GPT-2's 1024 positions"),
        ("gpt2", ["--dropout=1"], 2, "--dropout 1.0 leaves nothing"),
        ("gpt2", ["--strategy=zero4"], 2, "argument --strategy: invalid choice: 'zero4'"),
        ("gpt2", ["--steps=0"], 2, "argument --steps: must be a whole number above 0, not 0"),
        ("gpt2", ["--grad-clip=-1"], 2, "argument --grad-clip: must be a number of 0 or more, not"),
        ("translation", ["--world_size=2"], 4, "--world-size 2, but 4 ranks have been started; le"),
        ("translation", ["--world_size=0"], None, "argument --world-size: must be a whole number"),
        ("translation", ["--n_epochs=0"], None, "argument --epochs/--n-epochs: must be a whole n"),
        ("translation", ["--width=128", "--heads=3"], None, "--width 128 is no multiple of 2 x -"),
        ("translation", ["--dropout=1"], None, "argument --dropout: must be a number from 0 to be"),
        ("translation", ["--data-dir="], None, "no data: pass --data-dir DIR or set DATA_DIR"),
        ("spiral", ["--hidden-dims=64,,16"], None, "argument --hidden-dims: must be widths such"),
        ("spiral", ["--hidden_dims", "64", "0"], None, "argument --hidden-dims: must be widths su"),
        ("spiral", ["--arms=4"], None, "argument --arms: invalid choice: 4"),
        ("spiral", ["--samples=0"], None, "argument --samples: must be a whole number above 0, no"),
        ("spiral", ["--profile-ranks=0,1"], None, "argument --profile-ranks: the last of 1 ranks"),
    ],
)
def test_wrong_argument_is_one_line(workload, args, world_size, message, parse, capsys):
    data = ["--data-dir=x"] if workload in ("images", "translation") else []
    with pytest.raises(SystemExit) as caught:
        parse(workload, *data, *args, world_size=world_size)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_wrong_argument_is_printed_by_rank_0_alone(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(SystemExit):
        TrainerParser("").parse_args(["--nonsense"])
    assert capsys.readouterr().err == ""


# ---- Defaults ------------------------------------------------------------------------------


def test_defaults_are_the_workshops(parse):
    args = vars(parse("images", "--data-dir=x"))
    expected = {
        "epochs": 3, "batch_size": 512, "lr": 0.001, "model": "resnet50", "image_size": 64,
        "step_size": 30, "gamma": 0.1, "precision": None, "flip": True, "limit_batches": None,
        "input": "cache",
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected


def test_defaults_are_the_benchmarks(parse):
    args = vars(parse("gpt2", world_size=4, DATA_DIR="/data"))
    expected = {
        "layers": 12, "heads": 12, "width": 768, "seq_length": 512, "steps": 3561, "epochs": 1,
        "batch_size": 4, "global_batch_size": 16, "scaling": "strong", "lr": 1e-4, "dropout": 0.0,
        "grad_clip": 1.0, "strategy": "ddp", "run_type": "optimized",
        "train_data_path": Path("/data/train_small.bin"),
        "val_data_path": Path("/data/val_small.bin"),
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected
    assert parse("gpt2").run_type == "baseline"


def test_defaults_of_the_spiral(parse):
    args = parse("spiral", "--num-workers=4")  # what every job script passes
    assert (args.epochs, args.batch_size, args.samples, args.scaling) == (50, 32, 10_000, "weak")
    assert args.num_workers == 0


@pytest.mark.parametrize(
    ("args", "widths"),
    [
        ([], [64, 32, 16]),
        (["--hidden_dims", "64,32,16"], [64, 32, 16]),
        (["--hidden-dims", "8", "4", "--epochs=1"], [8, 4]),
        (["--hidden_dims=128"], [128]),
        (["--hidden-dims", "8,4", "2"], [8, 4, 2]),
    ],
)
def test_hidden_dims(parse, args, widths):
    assert parse("spiral", *args).hidden_dims == widths


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--batch_size", "--batch-size"),
        ("--batch_size=4_0", "--batch-size=4_0"),
        ("a_b", "a_b"),
        ("--workdir=a_b", "--workdir=a_b"),
    ],
)
def test_underscores_in_options(word, expected):
    assert dash_option(word) == expected


def test_help_gives_every_default(capsys):
    parser = TrainerParser("")
    add_run_arguments(parser, epochs=3, batch_size=512, lr=0.001, scaling="weak")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    for action in parser._actions[2:]:  # but --help and --version
        assert "default" in action.help, action.dest
        assert action.option_strings[0] in text
