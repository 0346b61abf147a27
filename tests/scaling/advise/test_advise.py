"""advise.py: what is worth asking for, a plan, and the prediction from one GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import advise
from common.errors import UserError
from common.memory import name_sources
from metrics_files import write_timed_run
from run_folders import put, write_run
from scaling.advise.advice import (
    estimate_s,
    find_largest_worth,
    make_memory_advice,
    make_plan,
    make_request,
)
from scaling.advise.laws import (
    Link,
    find_step_s,
    list_points,
    make_laws,
    make_prediction,
)
from scaling.runs import find_runs, make_study
from study_folders import write_ranks

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/advise.py"


@pytest.fixture
def study(tmp_path):
    """Efficiencies 100, 95, 80, 60 %: epochs of 100 s at one GPU."""
    for n, (gpus, rate, wall_s) in enumerate(
        [(1, 100.0, "300"), (2, 190.0, "150"), (4, 320.0, "90"), (8, 480.0, "60")]
    ):
        rates = (1.0, rate, rate)
        write_timed_run(tmp_path, 1, gpus, str(11 + n), wall_s, rates=rates)
    return make_study(find_runs(tmp_path))


@pytest.mark.parametrize(
    ("target", "gpus"), [(75, 4), (80, 2), (79.9, 4), (59, 8), (96, 1), (50, 8)]
)
def test_the_largest_scale_above_the_target(study, target, gpus):
    assert find_largest_worth(study.scales, target)[0].gpus == gpus


def test_of_equal_gpus_the_better_shape_is_advised(tmp_path):
    for n, (nodes, gpus, rate) in enumerate([(1, 1, 100.0), (1, 4, 376.0), (2, 2, 352.0)]):
        write_timed_run(tmp_path, nodes, gpus, str(11 + n), "90", rates=(1.0, rate, rate))
    study = make_study(find_runs(tmp_path))
    assert find_largest_worth(study.scales, 75)[0].label == "4 GPUs (1 node)"


def test_advice_in_words(study):
    assert find_largest_worth(study.scales, 75)[1] == (
        "4 GPUs (1 node) is the largest measured scale above 75 % efficiency (80.0 %). "
        "8 GPUs (1 node) has 60.0 %."
    )
    assert "the largest that was measured" in find_largest_worth(study.scales, 50)[1]


def test_advice_from_one_scale_says_nothing_of_larger_ones(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    text = find_largest_worth(make_study(find_runs(tmp_path)).scales, 75)[1]
    assert text.endswith("the largest that was measured: a larger one may do as well.")


def test_time_and_gpu_hours_for_epochs(study):
    rows = make_plan(study, 90).rows
    assert [row["expected_s"].text for row in rows] == [
        "02:30:00", "01:15:00", "00:45:00", "00:30:00",
    ]  # fmt: skip
    assert [row["gpu_hours"].text for row in rows] == ["2.50", "2.50", "3.00", "4.00"]
    assert rows[0]["expected_s"].value == 9000


def test_the_warm_up_is_counted_as_it_was(tmp_path):
    folder = write_timed_run(tmp_path, 1, 1, "11", "300")
    path = folder / "results/11/training_metrics.json"
    record = json.loads(path.read_text())
    for epoch, seconds in zip(record["epochs"], (150.0, 80.0, 70.0), strict=True):
        epoch["epoch_wall_time_sec"] = seconds
    path.write_text(json.dumps(record))
    study = make_study(find_runs(tmp_path))
    assert estimate_s(study, study.baseline, 10) == 150 + 9 * 75
    assert estimate_s(study, study.baseline, 1) == 150


def test_a_bare_log_gives_wall_time_by_epochs(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    row = make_plan(make_study(find_runs(tmp_path)), 30).rows[0]
    assert row["expected_s"].value == pytest.approx(931)
    assert row["epoch_s"].note == "wall time / epochs, warm-up included"


def test_extrapolation_is_marked(study):
    fits, curve = make_laws(study)
    assert len(fits.rows) == 3
    kinds = {row["gpus"].text: row["kind"].text for row in curve.rows}
    assert kinds == {
        "1": "measured", "2": "measured", "4": "measured", "8": "measured",
        "16": "EXTRAPOLATED", "32": "EXTRAPOLATED", "64": "EXTRAPOLATED",
    }  # fmt: skip
    assert make_laws(study, 6)[1].rows[3]["kind"].text == "interpolated"


def test_unlike_scales_make_no_point(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100")
    write_timed_run(tmp_path, 1, 2, "12", "100", precision="bf16")
    assert [gpus for gpus, _ in list_points(make_study(find_runs(tmp_path)))] == [1]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process: run(argument, …) -> (status, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["advise.py", *map(str, args)])
        try:
            status = advise.main()
        except SystemExit as error:  # of argparse
            status = error.code
        return status, *capsys.readouterr()

    return run


def test_the_command(tmp_path, study, run):
    command = [sys.executable, SCRIPT, tmp_path, "--epochs=90", "--at=64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 GPUs (1 node) is the largest measured scale" in done.stdout
    assert "Amdahl" in done.stdout and "EXTRAPOLATED" in done.stdout
    status, out, err = run(tmp_path, "--at", 65)
    assert (status, out) == (1, "")
    assert "ask for 64 or fewer" in err and len(err.splitlines()) == 1


def test_the_command_says_why_there_is_no_law(tmp_path, run):
    path = put(tmp_path / "t.csv", "gpus,img/s\n1,100\n2,190\n")
    assert "No scaling law: 2 scales measured" in run("--from-csv", path)[1]
    status, _, err = run("--from-csv", path, "--at", 4)
    assert status == 1 and "2 scales measured" in err


@pytest.mark.parametrize(
    "options",
    [["--target", "0"], ["--target", "100"], ["--epochs", "0"], ["--at", "1.5"], ["--predict"],
     ["--predict", "--gradient-mb", "1", "--bandwidth", "0"],
     ["--predict", "--gradient-mb", "1", "--bandwidth", "a,b"],
     ["--predict", "--gradient-mb", "inf", "--bandwidth", "1"]],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(run, options):
    status, out, _ = run(*options)
    assert (status, out) == (2, "")


# ---- Prediction ------------------------------------------------------------------------------

LINKS = Link(100e9, 0.0), Link(10e9, 1e-5)  # inside a node of 4 GPUs, and between nodes


def test_the_table_goes_to_4096_beside_what_was_measured(study):
    table = make_prediction(study, 0.1, 100e6, LINKS, 4)
    rows = {row["gpus"].value: row for row in table.rows}
    assert sorted(rows) == [2**n for n in range(13)]
    assert rows[1]["ring_none_pct"].text == "100.0"
    assert rows[8]["ring_ms"].text == "17.640"
    assert rows[8]["ring_none_pct"].text == "85.0"  # 100 / 117.64
    assert [rows[n]["measured_pct"].text for n in (1, 2, 4, 8, 16)] == [
        "100.0", "95.0", "80.0", "60.0", "—",
    ]  # fmt: skip
    assert rows[4]["ring_ms"].text == "1.500"  # 6 x 25 MB / 100 GB/s, inside the node
    ring = [float(rows[2**n]["ring_none_pct"].value) for n in range(13)]
    assert ring == sorted(ring, reverse=True)


def test_the_step_is_taken_from_the_one_gpu(study, tmp_path):
    assert find_step_s(study) == 0.5  # the metrics file's
    write_run(tmp_path / "bare", 1, 1, "11", throughput=256.0)
    with pytest.raises(UserError, match="--step-ms X"):
        find_step_s(make_study(find_runs(tmp_path / "bare")))
    write_timed_run(tmp_path / "two", 1, 2, "11", "100")
    with pytest.raises(UserError, match="--step-ms X"):
        find_step_s(make_study(find_runs(tmp_path / "two")))


def test_prediction_needs_no_run_when_the_step_is_given(tmp_path, run):
    (tmp_path / "none").mkdir()
    options = ["--predict", "--gradient-mb", 95.6, "--bandwidth", "150,12.5"]
    status, out, err = run(tmp_path / "none", *options, "--step-ms", 300)
    assert (status, err) == (0, "")
    assert "| 4096" in out
    status, _, err = run(tmp_path / "none", *options)
    assert status == 1 and len(err.splitlines()) == 1


# ---- Memory ----------------------------------------------------------------------------------

ARGV = ["scripts/train.py", "--batch-size=512", "--data-dir=/data"]


@pytest.fixture
def kept_answer(tmp_path, monkeypatch):
    """A run of four ranks that peak at 3,000 MiB; PyTorch's answer to it is kept already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_run(tmp_path / "runs", 1, 4, "12", argv=ARGV)
    write_ranks(folder / "results/12", 0, 4, 10.0, 3.0)
    for path in folder.glob("results/12/rank*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"peak_memory_mib": 3000.0}))
    study = make_study(find_runs(tmp_path / "runs"))
    answer = {"batch": 512, "peak_mib": 2700.0, "fixed_mib": 140.0, "per_sample_mib": 5.0}
    key = json.dumps([*name_sources(), make_request(study.settings(0))], sort_keys=True)
    kept = tmp_path / "cache/ddp-scaling/memory.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({key: answer}))
    return study


def test_predicted_beside_measured(kept_answer):
    (row,) = make_memory_advice(kept_answer).rows
    assert {name: cell.text for name, cell in row.items()} == {
        "config": "4 GPUs (1 node)", "batch": "512", "predicted_mib": "2700",
        "measured_mib": "3000", "error_pct": "-10.0", "gpu_mib": "32510", "verdict": "fits",
        "largest": "5269",  # ((32,510 - 2,048) / 1.15 - 140) / 5
    }  # fmt: skip


def test_what_is_asked_about_a_run(kept_answer):
    assert make_request(kept_answer.settings(0)) == {
        "trainer": "train.py", "words": [*ARGV[1:], "--precision=fp16"], "world_size": 4,
        "local_world_size": 4, "device": "cuda", "classes": 200,
    }  # fmt: skip
    assert make_request({}) is None


def test_a_run_that_says_nothing_has_no_prediction(tmp_path):
    write_run(tmp_path, 1, 1, "12")
    (row,) = make_memory_advice(make_study(find_runs(tmp_path))).rows
    assert (row["predicted_mib"].text, row["error_pct"].text) == ("—", "—")
    assert row["predicted_mib"].note == "no command line is recorded"
