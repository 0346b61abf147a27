"""A training that is cut off at any step goes on as if it had not been."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from torch_server import SCRIPTS, TESTS, run_python, start_python
from training import TrainingError
from training.batches import ResumableBatches
from training.checkpoint import (
    WITHOUT_PROGRESS,
    Checkpoints,
    check_incomplete,
    check_progress,
    may_go_on,
)

CUTS = (1, 3, 4, 5)  # of 2 epochs of 4 steps: 4 is the first epoch's last


SMALL = ["--model=shufflenet_v2_x0_5", "--image-size=16", "--batch-size=8", "--num-workers=0"]


def wait_for(path: Path, program) -> None:
    """Wait until a running training has left this file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline and program.poll() is None, program.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def trainings(digits, tmp_path_factory) -> Path:
    """What tests/resume_probe.py left: a training that nobody disturbs, and cut ones."""
    folder = tmp_path_factory.mktemp("trainings")
    done = run_python(TESTS / "resume_probe.py", digits, folder, *CUTS, ranks=2)
    assert done.returncode == 0, done.stderr
    (folder / "log").write_text(done.stdout)
    return folder


def load_last(folder: Path) -> dict:
    return torch.load(folder / "step_00000008.pt", weights_only=True)


@pytest.mark.parametrize("step", CUTS)
def test_cut_and_resumed_is_bit_equal(step, trainings):
    cut, uncut = (load_last(trainings / name / "checkpoints") for name in (str(step), "uncut"))
    assert f"Going on after step {step}, in epoch" in (trainings / "log").read_text()
    assert cut["model"].keys() == uncut["model"].keys()
    assert [n for n in cut["model"] if not torch.equal(cut["model"][n], uncut["model"][n])] == []
    for index, state in cut["optimizer"]["state"].items():
        other = uncut["optimizer"]["state"][index]
        assert torch.equal(state["momentum_buffer"], other["momentum_buffer"])


@pytest.mark.parametrize("step", CUTS)
def test_figures_of_a_cut_epoch_are_those_of_the_whole(step, trainings):
    figures = [
        [(e["train_loss"], e["val_loss"], e["val_accuracy"], e["lr"], e["samples"]) for e in epochs]
        for epochs in (
            load_last(trainings / name / "checkpoints")["record"]["results"]
            for name in (str(step), "uncut")
        )
    ]
    assert figures[0] == figures[1]
    assert [epoch[-1] for epoch in figures[0]] == [128, 128]  # 4 steps of 2 passes of 8, 2 ranks
    folder = trainings / str(step) / "2"
    assert (folder / "RUN_COMPLETE.txt").exists()
    run = json.loads((folder / "run.json").read_text())
    epoch, before = divmod(step - 1, 4)
    assert run["resumed_from"] == {"epoch": epoch, "step": before + 1}
    metrics = json.loads((folder / "training_metrics.json").read_text())
    assert [epoch["steps"] for epoch in metrics["epochs"]] == [4, 4]
    assert metrics["summary"]["completed"] is True


def test_the_newest_two_are_kept(trainings):
    files = sorted(path.name for path in (trainings / "uncut/checkpoints").iterdir())
    assert files == ["step_00000006.pt", "step_00000008.pt"]


@pytest.mark.parametrize(("number", "requeue"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_signal_saves_once_on_all_ranks(number, requeue, digits, tmp_path):
    """One rank that hears it is enough."""
    training = start_python(
        SCRIPTS / "train.py", *SMALL, "--epochs=500", "--limit-batches=3", "--no-probe",
        f"--data-dir={digits}", f"--workdir={tmp_path}", ranks=2,
    )  # fmt: skip
    wait_for(tmp_path / "rank0_results_epoch0.json", training)
    training.send_signal(number, rank=1)
    out, err = training.communicate()
    status = training.returncode
    assert out.count(f"Stopped by {number.name}, all is saved") == 1, err
    assert status == (0 if requeue else 128 + number)
    assert len(list((tmp_path / "checkpoints").glob("step_*.pt"))) == 1
    assert (tmp_path / "REQUEUE").exists() == requeue
    assert not (tmp_path / "RUN_COMPLETE.txt").exists()


@pytest.mark.parametrize(
    ("epoch", "changed", "message"),
    [
        (1, {"seed": 1}, "is of a run with seed 0, not 1; choose another --checkpoint-dir"),
        (1, {"batch_size_per_gpu": 4}, "is of a run with batch_size_per_gpu 8, not 4; choose"),
        (2, {}, "holds a training that is complete; choose another --checkpoint-dir"),
    ],
)
def test_checkpoint_of_another_training_is_refused(epoch, changed, message, tmp_path):
    settings = {"workload": "tinyimagenet", "seed": 0, "batch_size_per_gpu": 8}
    Checkpoints(tmp_path, settings).save(3, {"epoch": epoch})
    with pytest.raises(TrainingError, match=message):
        check_incomplete(Checkpoints(tmp_path, settings | changed).load_newest(), tmp_path, 2)


# ---- The parts --------------------------------------------------------------------------


def test_damaged_checkpoint_is_left_out_for_the_older_one(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, {"workload": "x"})
    for step in (1, 2, 3):
        checkpoints.save(step, {"total_steps": step})
    assert [path.name for path in checkpoints.list_files()] == [
        "step_00000002.pt", "step_00000003.pt",
    ]  # fmt: skip
    newest = tmp_path / "step_00000003.pt"
    newest.write_bytes(newest.read_bytes()[:200])
    (tmp_path / "step_00000009.tmp").write_bytes(b"half")
    assert checkpoints.load_newest()["total_steps"] == 2
    assert f"Left out {newest}: it cannot be read" in capsys.readouterr().out


def test_checkpoint_that_would_run_code_is_not_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "canary",))

    torch.save({"settings": {}, "model": Evil()}, tmp_path / "step_00000001.pt")
    assert Checkpoints(tmp_path, {}).load_newest() is None
    assert not (tmp_path / "canary").exists()


def test_full_disk_leaves_the_older_checkpoint_alone(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, {"total_steps": 1})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(TrainingError, match=r"step_00000002.pt: .*No space left .*; free some"):
        checkpoints.save(2, {"total_steps": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_batches_are_the_rest_of_the_same_pass(workers):
    batches = ResumableBatches(torch.utils.data.SequentialSampler(range(10)), 3)
    loader = torch.utils.data.DataLoader(range(10), batch_sampler=batches, num_workers=workers)
    for skip, expected in [(0, [0, 3, 6]), (2, [6]), (3, []), (0, [0, 3, 6])]:
        batches.skip = skip
        assert [batch[0].item() for batch in loader] == expected


def test_restarts_without_progress_come_to_an_end(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    check_progress(tmp_path, 7)
    assert list(tmp_path.iterdir()) == []  # a first attempt leaves no trace
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for _ in range(WITHOUT_PROGRESS):
        check_progress(tmp_path, 7)
    with pytest.raises(TrainingError, match="no progress in 3 restarts: each began after step 7"):
        check_progress(tmp_path, 7)
    check_progress(tmp_path, 8)
    check_progress(tmp_path, 8)


def test_restarts_have_a_limit(capsys):
    assert may_go_on(restarts=19, most=20)
    assert not may_go_on(restarts=20, most=20)
    assert "20 restarts are --max-restarts" in capsys.readouterr().out
