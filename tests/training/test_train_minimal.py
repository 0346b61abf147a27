"""train_minimal.py: short, on its own, and its log fills what train.py's log fills."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from run_folders import parse_epoch_line
from torch_server import SCRIPTS, run_python

TRAINER = SCRIPTS / "train_minimal.py"
EPOCHS = 2


def test_it_is_short_and_imports_nothing_of_this_repository():
    text = TRAINER.read_text()
    assert len(text.splitlines()) <= 100
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    assert names <= {"torch", "torchvision", *sys.stdlib_module_names}


@pytest.fixture(scope="module")
def log(digits, tmp_path_factory) -> tuple[list[str], Path]:
    """Two processes on the digits, with the options of a job of the virtual cluster."""
    folder = tmp_path_factory.mktemp("minimal")
    done = run_python(
        TRAINER, "--num-workers=1", f"--epochs={EPOCHS}", "--batch-size=32", "--lr=0.01",
        "--model=resnet18", "--image-size=16", "--no-flip", ranks=2, cwd=folder,
        DATA_DIR=str(digits), RESULTS_DIR=str(folder / "results"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), folder


def test_its_epoch_lines_are_those_of_the_contract(log):
    lines, _ = log
    epochs = [parse_epoch_line(line) for line in lines[:EPOCHS]]
    assert [(each.epoch, each.epochs, each.unit) for each in epochs] == [
        (1, EPOCHS, "img/s"), (2, EPOCHS, "img/s"),
    ]  # fmt: skip
    assert all(each.text == line for each, line in zip(epochs, lines, strict=False))
    accuracies = [float(each.get("val_accuracy_pct")) for each in epochs]
    assert accuracies[-1] > accuracies[0]
    assert accuracies[-1] > 40  # of 10 classes
    assert float(epochs[-1].get("train_loss")) < float(epochs[0].get("train_loss"))


def test_validation_is_of_every_image_once(log):
    """All 359 of both ranks: the accuracy is a whole number of them."""
    correct = 3.59 * float(parse_epoch_line(log[0][0]).get("val_accuracy_pct"))
    assert correct == pytest.approx(round(correct), abs=0.02)


def test_the_log_ends_with_the_totals_and_is_all_that_it_leaves(log):
    lines, folder = log
    best = max(float(parse_epoch_line(line).get("val_accuracy_pct")) for line in lines[:EPOCHS])
    total, loss, accuracy = lines[EPOCHS:]
    assert total.startswith("Total training time: ") and total.endswith(" s")
    assert loss.startswith("Best validation loss: ")
    assert accuracy == f"Best validation accuracy: {best:.2f}%"
    assert list(folder.iterdir()) == []


def test_images_in_class_folders_are_read_as_well(digits, tmp_path):
    """val/<class>/images/, as conversion scripts leave it: the labels are the same."""
    val = tmp_path / "data/val"
    val.mkdir(parents=True)
    (tmp_path / "data/train").symlink_to(digits / "train")
    for line in (digits / "val/val_annotations.txt").read_text().splitlines():
        name, wnid = line.split()[:2]
        (val / wnid / "images").mkdir(parents=True, exist_ok=True)
        (val / wnid / "images" / name).symlink_to(digits / "val/images" / name)
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys; from pathlib import Path; from train_minimal import load_images\n"
        "for root in sys.argv[1:]:\n"
        "    train_set, val_set = load_images(Path(root), 32, False)\n"
        "    labels = {Path(path).name: label for path, label in val_set.samples}\n"
        "    print(len(train_set), len(val_set), sorted(labels.items()))\n"
    )
    done = run_python(probe, digits, tmp_path / "data")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith("1438 359 ")


def test_help_needs_no_pytorch():
    command = [sys.executable, "-X", "importtime", TRAINER, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--batch-size" in done.stdout
    assert "torch" not in done.stderr
