"""train_spiral.py: it learns at every scale, and its files are those of the run contract."""

import math
import re
from pathlib import Path

import pytest
import torch

import train_spiral
from run_folders import parse_epoch_line
from spiral_runs import SPIRAL, load, run_spiral
from torch_server import run_python
from training import TrainingError
from training.batches import plan_batch
from training.spiral.arguments import parse_args
from training.spiral.data import NOISE, keep_batch, load_splits, make_spiral

# The default is 50 epochs. The run at 4 processes has 372 steps with these, less than the 1,550 of
# 50 epochs at 8.
EPOCHS = {1: 3, 2: 4, 4: 6}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A training at 1, 2 and 4 processes: {processes: (its output, its workdir)}."""
    made = {}
    for processes, epochs in EPOCHS.items():
        workdir = tmp_path_factory.mktemp(f"spiral{processes}") / "results"
        options = (f"--workdir={workdir}", f"--epochs={epochs}")
        done = run_python(SPIRAL, *options, ranks=processes)
        assert done.returncode == 0, done.stderr
        made[processes] = done.stdout, workdir
    return made


@pytest.mark.parametrize("processes", EPOCHS)
def test_it_reaches_95_percent_at_every_scale(runs, processes):
    output, workdir = runs[processes]
    best = load(workdir / "training_metrics.json")["summary"]["best_val_accuracy"]
    assert best >= 0.95
    assert f"Best validation accuracy: {best:.2%}" in output
    assert "\r" not in output  # no progress bar where there is no terminal


@pytest.mark.parametrize("processes", EPOCHS)
def test_every_scale_leaves_the_files_of_the_contract(runs, processes):
    _, workdir = runs[processes]
    ranks = {
        f"rank{rank}_results_epoch{epoch}.json"
        for rank in range(processes)
        for epoch in range(EPOCHS[processes])
    }
    names = {path.name for path in workdir.iterdir()}
    assert names == ranks | {"run.json", "training_metrics.json", "RUN_COMPLETE.txt"}


def test_epoch_lines_are_in_samples_per_second(runs):
    output, workdir = runs[2]
    lines = [line for line in output.splitlines() if line.startswith("Epoch [")]
    epochs = load(workdir / "training_metrics.json")["epochs"]
    assert len(lines) == len(epochs) == EPOCHS[2]
    seen = parse_epoch_line(lines[-1])
    assert (seen.epoch, seen.epochs, seen.unit) == (EPOCHS[2], EPOCHS[2], "samples/s")
    assert float(seen.throughput_per_s) == pytest.approx(
        epochs[-1]["samples_per_sec_global"], abs=0.05
    )


def test_weak_scaling_keeps_the_batch_per_gpu(runs):
    for processes in EPOCHS:
        run = load(runs[processes][1] / "run.json")
        expected = {
            "workload": "spiral", "unit": "samples/s", "model": "MLP [64, 32, 16]",
            "scaling": "weak", "batch_size_per_gpu": 32, "global_batch_size": 32 * processes,
            "world_size": processes, "lr": 0.01, "lr_scaling": "none", "optimizer": "Adam",
            "num_workers": 0, "strategy": "ddp",
            "dataset": {"name": "spiral", "classes": 3, "train": 8000, "val": 2000},
        }  # fmt: skip
        assert {key: run[key] for key in expected} == expected
        rank = load(runs[processes][1] / "rank0_results_epoch1.json")
        assert rank["steps"] == 8000 // (32 * processes)
        assert rank["samples"] == 32 * rank["steps"]
        parts = ("data_wait_s", "copy_s", "compute_s", "optimizer_s", "other_s")
        assert sum(rank[part] for part in parts) == pytest.approx(rank["training_time"])
        if processes == 1:  # nobody to talk to
            assert rank["exposed_comm_s"] is None
        else:
            assert rank["exposed_comm_s"] >= 0


def test_one_process_and_two_take_the_same_steps(tmp_path):
    """Of one global batch, since the ranks share one shuffle: rank r has every 2nd point of it."""
    losses = []
    for processes, batch in ((1, 64), (2, 32)):
        workdir = tmp_path / f"{processes}"
        done = run_spiral(
            workdir, f"--batch-size={batch}", "--limit-batches=20", "--epochs=2",
            processes=processes,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        epochs = load(workdir / "training_metrics.json")["epochs"]
        losses.append([epoch["train_loss_avg_global"] for epoch in epochs])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][1] < losses[0][0] - 0.05


def test_a_run_cut_in_mid_epoch_ends_with_the_same_weights(tmp_path):
    options = ["--limit-batches=50", "--epochs=3", "--checkpoint-every=70"]
    options += [f"--checkpoint-dir={tmp_path}/checkpoints"]
    whole = run_spiral(tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    last = tmp_path / "checkpoints/step_00000150.pt"
    first_end = torch.load(last, weights_only=True)
    last.unlink()  # as if it had ended after step 140, the 40th of epoch 3
    resumed = run_spiral(tmp_path / "resumed", *options)
    assert "Going on after step 140, in epoch 3" in resumed.stdout, resumed.stderr
    second_end = torch.load(last, weights_only=True)
    for name, tensor in first_end["model"].items():
        assert torch.equal(tensor, second_end["model"][name]), name


# ---- The points ---------------------------------------------------------------------------


def test_points_lie_on_their_arms():
    points, arms = make_spiral(10_000, 3, seed=0)
    assert points.shape == (10_000, 2)
    assert points.dtype == torch.float32
    assert torch.bincount(arms).tolist() == [3334, 3333, 3333]
    radius = points.norm(dim=1)
    assert 0 <= radius.min() < 0.01 < 0.99 < radius.max() < 1
    angle = torch.atan2(points[:, 1], points[:, 0])
    off = angle - 2 * math.pi * (radius + arms / 3)
    off = torch.remainder(off + math.pi, 2 * math.pi) - math.pi
    assert off.std().item() == pytest.approx(NOISE, rel=0.05)
    assert (off.abs() < math.pi / 3).float().mean() > 0.999  # hardly a point is nearer to another


def test_points_come_from_the_seed():
    first, again, other = (make_spiral(100, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_fifth_is_kept_for_validation():
    train_set, val_set = load_splits(1000, 3, seed=5)
    points, arms = make_spiral(1000, 3, seed=5)
    assert (len(train_set), len(val_set)) == (800, 200)
    assert torch.equal(torch.cat([train_set.points, val_set.points]), points)
    assert torch.equal(torch.cat([train_set.arms, val_set.arms]), arms)
    assert set(val_set.arms.tolist()) == {0, 1, 2}


def test_a_batch_is_its_samples():
    train_set, _ = load_splits(100, 3, seed=0)
    points, arms = keep_batch(train_set.__getitems__([7, 3, 7]))
    assert points.tolist() == [train_set[index][0].tolist() for index in (7, 3, 7)]
    assert arms.tolist() == [train_set[index][1].item() for index in (7, 3, 7)]


# ---- Refusals -----------------------------------------------------------------------------


@pytest.fixture
def parse(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: str):
        monkeypatch.setattr("sys.argv", ["train_spiral.py", *args])
        return parse_args()

    return call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples=20"], "--samples 20 is too few for 3 arms; take 30"),
        (["--samples=30"], "24 training samples are less than one global batch of 32"),
    ],
)
def test_too_few_samples_are_refused_before_the_ranks_meet(parse, tmp_path, options, message):
    args = parse(f"--workdir={tmp_path}/w", *options)
    with pytest.raises(TrainingError, match=message):
        train_spiral.main(args)
    assert not torch.distributed.is_initialized()
    assert not (tmp_path / "w").exists()


# ---- The model and its schedule -----------------------------------------------------------


@pytest.fixture
def built(parse):
    """What build_model makes of the defaults: (model, optimizer, scheduler, steps in all)."""
    args = parse("--precision=fp32")
    train_set, _ = train_spiral.load_data(args)
    plan = plan_batch(args, len(train_set))
    device = train_spiral.init_distributed(60)
    try:
        model, optimizer, scheduler, _ = train_spiral.build_model(args, plan, train_set, device)
        yield model, optimizer, scheduler, plan.steps_per_epoch * args.epochs
    finally:
        torch.distributed.destroy_process_group()


def test_the_model_has_2851_parameters(built):
    layers = [(2, 64), (64, 32), (32, 16), (16, 3)]
    assert sum(n * m + m for n, m in layers) == 2851
    assert sum(parameter.numel() for parameter in built[0].parameters()) == 2851


def test_the_learning_rate_is_a_cosine_down_to_a_hundredth(built):
    _, optimizer, scheduler, steps = built
    assert steps == 12_500
    factors = {step: scheduler.lr_lambdas[0](step) for step in (0, steps // 2, steps)}
    assert factors == pytest.approx({0: 1.0, steps // 2: 0.505, steps: 0.01})
    assert optimizer.param_groups[0]["lr"] == 0.01


def list_sections(path: Path) -> list[str]:
    return re.findall(r"^# ---- (.+?) -+$", path.read_text(), re.MULTILINE)


def test_it_reads_as_train_py_does():
    """The same headings and functions in the same order: a diff shows what a workload changes."""
    spiral, train = SPIRAL, SPIRAL.with_name("train.py")
    assert list_sections(spiral) == list_sections(train)
    functions = [
        re.findall(r"^def (\w+)", path.read_text(), re.MULTILINE) for path in (spiral, train)
    ]
    assert [name for name in functions[0] if name in functions[1]] == [
        name
        for name in functions[1]
        if name != "to_device"  # its data lie on the device
    ]
    assert set(functions[0]) <= set(functions[1])


def test_too_few_points_for_the_arms():
    with pytest.raises(TrainingError, match="too few for 2 arms; take 20"):
        load_splits(19, 2, seed=0)
