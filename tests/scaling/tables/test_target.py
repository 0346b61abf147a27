"""scaling_tables.py --target-loss and --target-accuracy: when each scale first reached it."""

from dataclasses import replace

import pytest

from filled_tables import call
from made_studies import make_run, make_study
from scaling.tables import make_target_table
from study_folders import write_study


def column(table, name: str) -> list[str]:
    return [row[name].text for row in table.rows]


def make_epochs(name: str, gpus: int = 1, epoch_s: float = 60.0, losses=(5.3, 5.2, 5.1, 5.0)):
    """A run with these validation losses, of epochs that took equally long."""
    run = make_run(gpus, [100.0] * len(losses), name=name)
    run.metrics.epochs[:] = [
        epoch.model_copy(update={"epoch_s": epoch_s, "val_loss": loss})
        for epoch, loss in zip(run.metrics.epochs, losses, strict=True)
    ]
    return run


def test_seconds_and_epochs_until_the_loss_first_fell_to_it():
    runs = [make_epochs("a"), make_epochs("b", 4, 20.0, (5.3, 5.1, 5.4, 5.0))]
    table = make_target_table(make_study(runs), "val_loss", 5.1)
    assert column(table, "epochs") == ["3.0", "2.0"]
    assert column(table, "elapsed_s") == ["180.00", "40.00"]
    assert column(table, "speedup") == ["1.00", "4.50"]
    assert column(table, "best") == ["5.0000", "5.0000"]


def test_repeats_have_an_interval_and_those_that_did_not_reach_it_are_named():
    runs = [make_epochs("a"), make_epochs("b", 1, 64.0), make_epochs("c", losses=[5.3, 5.2] * 2)]
    (row,) = make_target_table(make_study(runs), "val_loss", 5.1).rows
    # 180 and 192 s: mean 186, t of one degree of freedom 12.706 x 8.485 / sqrt(2) = 76.24
    assert row["elapsed_s"].text == "186.00" and row["elapsed_s"].note.startswith("± 76.24: 95 %")
    assert row["reached"].text == "2 of 3 runs"
    assert row["reached"].note == "not reached by job c (5.2000)"


def test_what_was_not_reached_says_the_best():
    runs = [make_epochs("a"), make_epochs("b", 4)]
    table = make_target_table(make_study(runs), "val_accuracy", 0.9)
    assert column(table, "elapsed_s") == column(table, "speedup") == ["—", "—"]
    # 1 - 0.9 x 0.8^3
    assert table.rows[0]["elapsed_s"].note == "not reached: the best is 0.5392"


@pytest.mark.parametrize("lost", ["epoch_s", "epoch"])
def test_a_time_that_is_not_whole_is_missing(lost):
    run = make_epochs("a")
    first, *others = run.metrics.epochs
    epochs = others if lost == "epoch" else [first.model_copy(update={"epoch_s": None}), *others]
    run.metrics = replace(run.metrics, epochs=epochs)
    (row,) = make_target_table(make_study([run]), "val_loss", 5.1).rows
    assert row["epochs"].text == "3.0"
    assert (row["elapsed_s"].text, row["elapsed_s"].note) == (
        "—", "the time of an epoch up to it is not recorded",
    )  # fmt: skip


def test_the_command(tmp_path):
    root = write_study(tmp_path, ((1, 1), (1, 2)))
    done = call("scaling_tables", root, "--target-accuracy", "40%", "--target-loss", "3.9")
    assert (done.returncode, done.stderr) == (0, "")
    assert "## Time to a validation loss of 3.9" in done.stdout
    assert "## Time to a validation accuracy of 0.4" in done.stdout
    for value in ("40", "1", "x", "40%%", "-1"):
        done = call("scaling_tables", root, f"--target-accuracy={value}")
        assert done.returncode == 2 and "write 75% or 0.75" in done.stderr
    assert "a number above 0" in call("scaling_tables", root, "--target-loss", "nan").stderr
