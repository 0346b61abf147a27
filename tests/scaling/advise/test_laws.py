"""Scaling laws, advice and the prediction from one GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from metrics_files import write_timed_run
from run_folders import put, write_run
from scaling.advise.advice import (
    advise,
    expect_s,
    format_duration,
    list_points,
    make_laws,
    make_plan,
)
from scaling.advise.laws import check_reach, find_peak, fit_laws
from scaling.advise.prediction import (
    Link,
    Machine,
    find_step_s,
    make_prediction,
    predict_efficiency,
    predict_ring_s,
    predict_tree_s,
)
from scaling.runs.study import read_study

REPO = Path(__file__).resolve().parents[3]
COUNTS = (1, 2, 4, 8, 16)
# The three laws at X1 = 100: what each gives is written out, not computed by the module.
AMDAHL = [100 * p / (1 + 0.05 * (p - 1)) for p in COUNTS]
GUSTAFSON = [100 * (p - 0.05 * (p - 1)) for p in COUNTS]
USL = [100 * p / (1 + 0.02 * (p - 1) + 0.003 * p * (p - 1)) for p in COUNTS]


def run(command: str, *options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, REPO / f"scripts/{command}.py", *options]
    return subprocess.run([str(each) for each in command], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("law", "rates", "values"),
    [
        ("Amdahl", AMDAHL, (100, 0.05)),
        ("Gustafson", GUSTAFSON, (100, 0.05)),
        ("USL", USL, (100, 0.02, 0.003)),
    ],
)
def test_the_law_that_made_the_numbers_is_found(law, rates, values):
    best = fit_laws(list(zip(COUNTS, rates, strict=True)))[0]
    assert best.law.name == law
    assert best.values == pytest.approx(values, rel=1e-3)
    assert best.error_pct < 0.01


def test_the_simpler_law_wins_a_tie():
    fits = fit_laws(list(zip(COUNTS, AMDAHL, strict=True)))  # USL with k = 0 is as good
    assert fits[0].law.name == "Amdahl"


def test_intervals_hold_the_truth_and_grow_with_noise():
    noisy = [rate * (1 + sign * 0.02) for rate, sign in zip(AMDAHL, (1, -1, 1, -1, 1), strict=True)]
    exact, rough = (
        next(f for f in fit_laws(list(zip(COUNTS, r, strict=True))) if f.law.name == "Amdahl")
        for r in (AMDAHL, noisy)
    )
    low, high = rough.intervals[1]
    assert low < 0.05 < high
    assert high - low > 10 * (exact.intervals[1][1] - exact.intervals[1][0])
    low, high = rough.predict_interval(32)
    assert low < rough.predict(32) < high


def test_ideal_scaling_has_no_serial_part():
    for fit in fit_laws([(p, 100.0 * p) for p in COUNTS]):
        assert fit.values == pytest.approx((100, *[0] * (len(fit.values) - 1)), abs=1e-4)


def test_superlinear_scaling_stays_within_the_laws():
    for fit in fit_laws([(1, 100.0), (2, 220.0), (4, 460.0), (8, 950.0)]):
        assert all(0 <= value <= 1 for value in fit.values[1:])


def test_fewer_than_four_points_are_refused():
    with pytest.raises(UserError, match="3 scales measured"):
        fit_laws([(1, 100.0), (2, 190.0), (4, 360.0)])
    with pytest.raises(UserError, match="3 scales measured"):  # repeats are no scales
        fit_laws([(1, 100.0), (1, 101.0), (2, 190.0), (4, 360.0)])


def test_nothing_is_said_beyond_eight_times():
    check_reach(128, 16)
    with pytest.raises(UserError, match="129 GPUs are more than 8 times the 16"):
        check_reach(129, 16)


def test_usl_has_a_peak():
    best = fit_laws(list(zip(COUNTS, USL, strict=True)))[0]
    assert find_peak(best) == pytest.approx((0.98 / 0.003) ** 0.5, rel=1e-2)


# ---- Advice ---------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path):
    """Efficiencies 100, 95, 80, 60 %: epochs of 100 s at one GPU."""
    for n, (gpus, rate, wall_s) in enumerate(
        [(1, 100.0, "300"), (2, 190.0, "150"), (4, 320.0, "90"), (8, 480.0, "60")]
    ):
        rates = (1.0, rate, rate)
        write_timed_run(tmp_path, 1, gpus, str(11 + n), wall_s, rates=rates)
    return read_study(tmp_path)


@pytest.mark.parametrize(
    ("target", "gpus"), [(75, 4), (80, 2), (79.9, 4), (59, 8), (96, 1), (50, 8)]
)
def test_the_largest_scale_above_the_target(study, target, gpus):
    assert advise(study, target).scale.gpus == gpus


def test_of_equal_gpus_the_better_shape_is_advised(tmp_path):
    for n, (nodes, gpus, rate) in enumerate([(1, 1, 100.0), (1, 4, 376.0), (2, 2, 352.0)]):
        write_timed_run(tmp_path, nodes, gpus, str(11 + n), "90", rates=(1.0, rate, rate))
    assert advise(read_study(tmp_path)).scale.label == "4 GPUs (1 node)"


def test_advice_in_words(study):
    assert advise(study).text == (
        "4 GPUs (1 node) is the largest measured scale above 75 % efficiency (80.0 %). "
        "8 GPUs (1 node) has 60.0 %."
    )
    assert "Nothing larger keeps the target" in advise(study, 99).text
    assert "the largest that was measured" in advise(study, 50).text


def test_time_and_gpu_hours_for_epochs(study):
    rows = make_plan(study, 90).rows
    assert [row["expected_s"].text for row in rows] == ["9000", "4500", "2700", "1800"]
    assert [row["gpu_hours"].text for row in rows] == ["2.50", "2.50", "3.00", "4.00"]
    assert rows[0]["expected"].text == "2 h 30 min"


def test_the_warm_up_is_counted_as_it_was(tmp_path):
    folder = write_timed_run(tmp_path, 1, 1, "11", "300")
    path = folder / "results/11/training_metrics.json"
    record = json.loads(path.read_text())
    for epoch, seconds in zip(record["epochs"], (150.0, 80.0, 70.0), strict=True):
        epoch["epoch_wall_time_sec"] = seconds
    path.write_text(json.dumps(record))
    (scale,) = read_study(tmp_path).scales
    assert expect_s(scale, 10) == 150 + 9 * 75
    assert expect_s(scale, 1) == 150


def test_a_bare_log_gives_wall_time_by_epochs(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    row = make_plan(read_study(tmp_path), 30).rows[0]
    assert row["expected_s"].text == "931"
    assert row["epoch_s"].note == "wall time / epochs, warm-up included"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (725, "12 min 5 s"), (12000, "3 h 20 min"), (187200, "2 d 4 h"), (0, "0 s")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


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
    assert [gpus for gpus, _ in list_points(read_study(tmp_path))] == [1]


def test_the_command(tmp_path, study):
    done = run("advise", tmp_path, "--epochs", 90, "--at", 64)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 GPUs (1 node) is the largest measured scale" in done.stdout
    assert "Amdahl" in done.stdout and "EXTRAPOLATED" in done.stdout
    done = run("advise", tmp_path, "--at", 65)
    assert (done.returncode, done.stdout) == (1, "")
    assert "ask for 64 or fewer" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_command_says_why_there_is_no_law(tmp_path):
    path = put(tmp_path / "t.csv", "gpus,img/s\n1,100\n2,190\n")
    assert "No scaling law: 2 scales measured" in run("advise", "--from-csv", path).stdout
    done = run("advise", "--from-csv", path, "--at", 4)
    assert done.returncode == 1 and "2 scales measured" in done.stderr


@pytest.mark.parametrize(
    "options",
    [["--target", "0"], ["--target", "100"], ["--epochs", "0"], ["--at", "1.5"], ["--predict"],
     ["--predict", "--gradient-mb", "1", "--bandwidth", "0"],
     ["--predict", "--gradient-mb", "1", "--bandwidth", "a,b"],
     ["--predict", "--gradient-mb", "inf", "--bandwidth", "1"]],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(options):
    done = run("advise", *options)
    assert (done.returncode, done.stdout) == (2, "")


# ---- Prediction -----------------------------------------------------------------------------

LINK = Link(10e9, 1e-5)  # 10 GB/s, 10 us
MACHINE = Machine(4, Link(100e9, 0.0), LINK)


def test_ring_and_tree_by_hand():
    # 8 ranks, 100 MB: ring 14 x (10 us + 12.5 MB / 10 GB/s), tree 6 x 10 us + 200 MB / 10 GB/s.
    assert predict_ring_s(8, 100e6, LINK) == pytest.approx(14 * (1e-5 + 1.25e-3))
    assert predict_tree_s(8, 100e6, LINK) == pytest.approx(6e-5 + 0.02)
    assert predict_ring_s(1, 100e6, LINK) == predict_tree_s(1, 100e6, LINK) == 0


def test_efficiency_by_hand():
    assert predict_efficiency(0.1, 0.025) == pytest.approx(0.8)
    assert predict_efficiency(0.1, 0.025, hidden_s=0.02) == pytest.approx(0.1 / 0.105)
    assert predict_efficiency(0.1, 0.025, hidden_s=0.05) == 1


def test_the_table_goes_to_4096_beside_what_was_measured(study):
    table = make_prediction(study, 0.1, 100e6, MACHINE)
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
    assert find_step_s(read_study(tmp_path / "bare")) == 2.0  # 512 images / 256 img/s
    write_timed_run(tmp_path / "two", 1, 2, "11", "100")
    with pytest.raises(UserError, match="--step-ms X"):
        find_step_s(read_study(tmp_path / "two"))


def test_prediction_needs_no_run_when_the_step_is_given(tmp_path):
    (tmp_path / "none").mkdir()
    options = ["--predict", "--gradient-mb", 95.6, "--bandwidth", "150,12.5"]
    done = run("advise", tmp_path / "none", *options, "--step-ms", 300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| 4096" in done.stdout
    done = run("advise", tmp_path / "none", *options)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
