"""Means over repeats, the baseline, what is not compared, and the tables made of them."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from common.errors import UserError
from metrics_files import GPT2, write_timed_run
from run_folders import write_run
from scaling.read.numbers import round_half_even
from scaling.report.study_grids import list_study_grids
from scaling.runs.comparing import name_band
from scaling.runs.measured import Measured
from scaling.runs.spread import Spread, over_epochs, over_repeats
from scaling.runs.study import make_study, read_study
from scaling.tables import grid
from scaling.tables.fixed_work import make_fixed_work
from scaling.tables.quality import compare_quality
from scaling.tables.summary import format_summary

REPO = Path(__file__).resolve().parents[3]


def measured(gpus: int, nodes: int = 1, **known: object) -> Measured:
    return Measured(known.pop("name", f"{gpus}"), nodes, gpus, unit="img/s", **known)


def rate(value: float) -> Spread:
    return Spread(Fraction(repr(value)), 1, None, "single")


def column(table, name: str) -> list[str]:
    return [row[name].text for row in table.rows]


def fill(*options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, REPO / "scripts/fill_tables.py", *options]
    return subprocess.run([str(each) for each in command], capture_output=True, text=True)


# ---- Spread ---------------------------------------------------------------------------------


def test_repeats_give_a_student_interval():
    spread = over_repeats([10.0, 12.0, 14.0])  # deviation 2, t(2) = 4.3027
    assert (spread.mean, spread.n, spread.kind) == (12, 3, "repeats")
    assert spread.half_width == pytest.approx(4.302653 * 2 / 3**0.5)


def test_two_repeats_have_one_degree_of_freedom():
    assert over_repeats([1.0, 3.0]).half_width == pytest.approx(12.7062, rel=1e-5)


def test_epochs_give_a_sample_deviation():
    spread = over_epochs([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert spread.mean == 5
    assert spread.half_width == pytest.approx((32 / 7) ** 0.5)  # ddof 1, not 2.0
    assert "ddof 1" in spread.describe() and "one run, so no interval" in spread.describe()


def test_one_value_has_no_spread():
    assert over_repeats([5.0]).half_width is None
    assert over_epochs([5.0]).describe() is None


def test_a_mean_of_nothing_or_of_nan_is_refused():
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="no mean"):
            over_repeats(values)


@pytest.mark.parametrize(
    ("value", "shown"), [(2.675, "2.68"), (2.665, "2.66"), (0.125, "0.12"), (1.005, "1.00")]
)
def test_rounding_is_of_decimal_digits_and_half_to_even(value, shown):
    assert round_half_even(value, 2) == shown


# ---- Known numbers --------------------------------------------------------------------------


@pytest.fixture
def gpt2():
    runs = [
        measured(gpus, throughput=rate(tokens), wall_s=Fraction(repr(wall_s)))
        for gpus, (tokens, wall_s) in GPT2.items()
    ]
    return make_study(runs, unit="tokens/s")


def test_throughputs_give_the_known_ratios(gpt2):
    table = make_fixed_work(gpt2)
    assert list(table.headers.values()) == [
        "GPUs", "Tokens/sec (global)", "Wall time (s)", "Speedup vs 1 GPU", "Scaling efficiency",
    ]  # fmt: skip
    assert column(table, "throughput_per_s") == ["29600.05", "57289.31", "100791.44"]
    assert column(table, "speedup") == ["1.00", "1.94", "3.41"]
    assert column(table, "efficiency") == ["1.00", "0.97", "0.85"]
    assert table.definitions[0].startswith("Basis: throughput.")


def test_wall_times_give_the_known_ratios(gpt2):
    table = make_fixed_work(gpt2, "walltime")
    assert column(table, "speedup") == ["1.00", "1.95", "3.44"]
    assert table.definitions[0].startswith("Basis: walltime.")


SUMMARY = """\
BENCHMARK RESULTS SUMMARY
Job ID     Configuration                  GPUs   Nodes  Time (s)   Time/Epoch (s) Val Loss  Val Acc
123456     Single GPU                     1      1      362.45     7.25           0.1187    0.9530
123457     4 GPUs (1 node)                4      1      95.23      1.90           0.1192    0.9525
SPEEDUP ANALYSIS
Baseline (Single GPU): 362.45 seconds
Multi-GPU (4 GPUs, 1 node):
  Average time: 95.23 seconds
  Speedup: 3.81x
  Parallel efficiency: 95.2%
"""


def summary_runs(*walls: tuple[int, int, str]) -> list[Measured]:
    return [
        measured(gpus, nodes, name=str(123456 + n), wall_s=Fraction(wall_s), epochs=50,
                 val_loss=0.1187 if n == 0 else 0.1192, val_accuracy=0.953 if n == 0 else 0.9525)
        for n, (gpus, nodes, wall_s) in enumerate(walls)
    ]  # fmt: skip


def test_summary_has_these_words():
    text = format_summary(make_study(summary_runs((1, 1, "362.45"), (4, 1, "95.23"))), "ibex")
    assert text.startswith(SUMMARY)
    assert "\nTraining Results on ibex\n" in text


def test_a_third_scale_across_nodes():
    runs = summary_runs((1, 1, "362.45"), (4, 1, "95.23"), (8, 2, "57.14"))
    text = format_summary(make_study(runs))
    assert (
        "Multi-Node (8 GPUs, 2 nodes):\n  Average time: 57.14 seconds\n  Speedup: 6.34x\n"
        "  Parallel efficiency: 79.3%\n"
    ) in text
    assert "8 GPUs (2 nodes)               0.95       6.34x    79.3%      good" in text
    assert "8     8.00x         6.34x     20.7%  45.31          57.14      1 run" in text


@pytest.mark.parametrize(
    ("pct", "nodes", "band"),
    [
        (85.1, 1, "good"), (85, 1, "fair"), (75.1, 1, "fair"), (75.1, 2, "good"), (75, 2, "fair"),
        (70, 1, "fair"), (69.9, 1, "poor"), (69.9, 4, "poor"), (None, 1, "—"),
    ],
)  # fmt: skip
def test_bands(pct, nodes, band):
    assert name_band(pct, nodes) == band


# ---- Repeats, warm-up, baseline -------------------------------------------------------------


def test_repeats_are_averaged_and_the_warm_up_is_left_out(tmp_path):
    for run_id, steady in (("11", 100.0), ("12", 102.0), ("13", 104.0)):
        write_timed_run(tmp_path, 1, 1, run_id, "90.0", rates=(1.0, steady - 1, steady + 1))
    write_timed_run(tmp_path, 1, 2, "14", "50.0", rates=(1.0, 190.0, 194.0))
    one, two = make_fixed_work(read_study(tmp_path)).rows
    assert one["throughput_per_s"].text == "102.00"
    assert "± 4.97: 95 % interval" in one["throughput_per_s"].note  # 4.3027 * 2 / sqrt(3)
    assert "n = 3 runs" in one["throughput_per_s"].note
    assert two["throughput_per_s"].text == "192.00"
    assert "one run, so no interval; its 2 epochs" in two["throughput_per_s"].note
    assert "± 2.83" in two["throughput_per_s"].note
    assert two["speedup"].text == "1.88"
    assert two["speedup"].note is None  # an interval needs repeats of both


def test_a_speedup_of_repeats_has_an_interval(tmp_path):
    for n, (gpus, steady) in enumerate([(1, 99.0), (1, 101.0), (2, 190.0), (2, 194.0)]):
        write_timed_run(tmp_path, 1, gpus, str(11 + n), "9.0", rates=(1.0, steady, steady))
    row = make_fixed_work(read_study(tmp_path)).rows[1]
    # Half widths 12.706 of 100 and 25.412 of 192: 1.92 x sqrt(0.12706^2 + 0.13236^2).
    assert row["speedup"].text == "1.92" and row["speedup"].note.startswith(
        "± 0.35: from both 95 % intervals"
    )


def test_repeats_stand_in_the_summary(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    write_timed_run(tmp_path, 1, 2, "12", "49.0")
    write_timed_run(tmp_path, 1, 2, "13", "51.0")
    text = format_summary(read_study(tmp_path))
    assert text.count("2 GPUs (1 node)                2 ") == 2  # a line a run
    assert "  Average time: 50.00 ± 12.71 seconds (95 % interval, n = 2)\n  Speedup: 2.00x" in text


def test_one_epoch_is_no_steady_state_and_says_so(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(50.0,), epochs=1)
    (row,) = make_fixed_work(read_study(tmp_path)).rows
    assert row["throughput_per_s"].text == "50.00"
    assert "no steady state: its only epoch is warm-up" in row["throughput_per_s"].note


def test_baseline_is_the_smallest_and_named(tmp_path):
    write_timed_run(tmp_path, 1, 2, "12", "50.0", rates=(1.0, 200.0, 200.0))
    write_timed_run(tmp_path, 1, 8, "13", "25.0", rates=(1.0, 700.0, 700.0))
    table = make_fixed_work(read_study(tmp_path))
    assert table.headers["speedup"] == "Speedup vs 2 GPUs"
    assert column(table, "speedup") == ["1.00", "3.50"]
    assert column(table, "efficiency") == ["1.00", "0.88"]  # 3.5 / 4 = 0.875, to even
    assert "no 1-GPU run: ratios are over 2 GPUs" in table.remarks


def test_superlinear_efficiency_asks_for_a_second_look(gpt2):
    runs = [measured(1, throughput=rate(100.0)), measured(2, throughput=rate(220.0))]
    note = make_fixed_work(make_study(runs)).rows[1]["efficiency"].note
    assert "above 105 %" in note and "data_wait_s" in note


# ---- Unlike runs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"precision": "bf16"}, "precision bf16, baseline fp16"),
        ({"batch_size_per_gpu": 256}, "batch_size_per_gpu 256, baseline 512"),
        ({"trainer_sha256": "beef"}, "trainer_sha256 beef, baseline c0ffee"),
        ({"strategy": "fsdp"}, "strategy fsdp, baseline ddp"),
        ({"gpu_name": "A100"}, "gpu_name A100, baseline Tesla V100-SXM2-32GB"),
        ({"versions": {"torch": "2.9.0"}}, "versions.torch 2.9.0, baseline 2.15.0"),
        ({"epochs": 5}, "epochs 5, baseline 3"),
    ],
)
def test_unlike_runs_have_no_ratio_unless_asked(tmp_path, changed, named):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    write_timed_run(tmp_path, 1, 2, "12", "50.0", **changed)
    row = make_fixed_work(read_study(tmp_path)).rows[1]
    assert (row["speedup"].text, row["efficiency"].text) == ("—", "—")
    assert named in row["speedup"].note and "--allow-unlike" in row["speedup"].note
    assert "  Speedup: —" in format_summary(read_study(tmp_path))
    allowed = make_fixed_work(read_study(tmp_path, allow_unlike=True)).rows[1]
    assert allowed["speedup"].text == "1.00"
    assert named in allowed["speedup"].note


def test_the_readmes_tables_divide_unlike_runs_only_when_asked(tmp_path):
    write_run(tmp_path, 1, 1, "11", throughput=704.9)
    write_run(tmp_path, 1, 2, "12", throughput=1388.6, precision="bf16")
    assert "1.97×" not in fill(tmp_path).stdout
    allowed = fill(tmp_path, "--allow-unlike").stdout
    assert "1.97× [" in allowed
    assert "unlike, and compared (--allow-unlike) with job 11: precision bf16" in allowed


def test_the_git_commit_is_not_compared(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", git_commit="a")
    write_timed_run(tmp_path, 1, 2, "12", "50.0", git_commit="b")
    table = make_fixed_work(read_study(tmp_path))
    assert table.rows[1]["speedup"].value is not None
    assert {"git commit a: Single GPU", "git commit b: 2 GPUs (1 node)"} <= set(table.remarks)


def test_an_unlike_repeat_is_not_averaged_in(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(1.0, 10.0, 10.0), precision="fp32")
    write_timed_run(tmp_path, 1, 1, "12", "50.0", rates=(1.0, 20.0, 20.0))
    table = make_fixed_work(read_study(tmp_path))
    assert column(table, "throughput_per_s") == ["20.00"]
    assert any("job 11: not in the means: precision fp32" in text for text in table.remarks)


def test_runs_without_settings_compare_among_themselves(tmp_path):
    write_run(tmp_path, 1, 1, "11", throughput=100.0, record={}, exit_status=None)
    write_run(tmp_path, 1, 2, "12", throughput=190.0, record={}, exit_status=None)
    table = make_fixed_work(read_study(tmp_path))
    assert column(table, "speedup") == ["1.00", "1.90"]
    assert "2 GPUs (1 node): settings unknown (no run.json)" in table.remarks
    write_timed_run(tmp_path, 1, 4, "13", "10.0")
    row = make_fixed_work(read_study(tmp_path)).rows[2]
    assert row["speedup"].text == "—" and "unknown" in row["speedup"].note


def test_incomplete_runs_are_named_and_not_averaged(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(1.0, 10.0, 10.0))
    write_run(tmp_path, 1, 1, "12", throughput=99.0, complete=False, exit_status=1)
    table = make_fixed_work(read_study(tmp_path))
    assert column(table, "throughput_per_s") == ["10.00"]
    assert any(text.startswith("job 12: failed") for text in table.remarks)


def run_work(samples: int, **options: bool):
    walls = [measured(1, samples=1000, wall_s=Fraction(10), throughput=rate(1.0))]
    walls.append(measured(2, samples=samples, wall_s=Fraction(5), throughput=rate(2.0)))
    return make_study(walls, **options)


def test_wall_times_of_other_work_are_not_divided():
    study = run_work(500)
    row = make_fixed_work(study, "walltime").rows[1]
    assert (row["speedup"].text, row["efficiency"].text) == ("—", "—")
    assert "not the same work: trained on 50.0 % fewer samples" in row["speedup"].note
    assert "Speedup: — (not the same work" in format_summary(study)
    assert make_fixed_work(study).rows[1]["speedup"].text == "2.00"  # rates have no such trouble
    allowed = make_fixed_work(run_work(500, allow_unlike=True), "walltime").rows[1]
    assert allowed["speedup"].text == "2.00" and "50.0 % fewer" in allowed["speedup"].note


@pytest.mark.parametrize(
    ("samples", "note"),
    [(1000, None), (991, None), (950, "off by as much: trained on 5.0 % fewer samples than the "
                                      "baseline")],
)  # fmt: skip
def test_a_dropped_last_batch_is_noted(samples, note):
    row = make_fixed_work(run_work(samples), "walltime").rows[1]
    assert (row["speedup"].text, row["speedup"].note) == ("2.00", note)


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no complete run of workload gpt2"):
        read_study(tmp_path, "gpt2")


# ---- Loss and accuracy ----------------------------------------------------------------------


def losses(*groups: tuple[int, list[float]]) -> list[str]:
    runs = [measured(gpus, val_loss=loss) for gpus, values in groups for loss in values]
    return compare_quality(make_study(runs))


def test_losses_that_spread_more_than_repeats_are_flagged():
    (text,) = losses((1, [1.0, 1.02]), (2, [1.5]))
    assert text.startswith("FLAG validation loss: from 1.0100 (Single GPU) to 1.5000")
    assert "0.35, of repeats 0.014" in text


def test_a_flag_stands_below_the_table(tmp_path):
    for n, (gpus, loss) in enumerate([(1, 1.0), (1, 1.02), (2, 1.5)]):
        write_timed_run(tmp_path, 1, gpus, str(11 + n), "9.0", val_loss=loss)
    study = read_study(tmp_path)
    assert any(text.startswith("FLAG validation loss") for text in make_fixed_work(study).remarks)
    assert format_summary(study).count("FLAG validation loss") == 1


def test_losses_within_the_repeats_are_not():
    (text,) = losses((1, [1.0, 1.4]), (2, [1.21]))
    assert "no more than the repeats spread" in text and "FLAG" not in text


def test_without_repeats_nothing_is_judged():
    (text,) = losses((1, [1.0]), (2, [1.5]))
    assert "no scale has repeats" in text and "FLAG" not in text


# ---- The command and its formats ------------------------------------------------------------


@pytest.fixture
def study_folder(tmp_path):
    write_timed_run(tmp_path, 1, 1, "123456", "362.45", slurm={"cluster_name": "ibex|<b>"})
    write_timed_run(tmp_path, 1, 4, "123457", "95.23", val_loss=0.1192, val_accuracy=0.9525)
    return tmp_path


def test_summary_of_run_folders(study_folder):
    done = fill(study_folder, "--summary")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert " ".join(lines[2].split()) == "123456 Single GPU 1 1 362.45 120.82 0.1187 0.9530"
    assert "  Parallel efficiency: 95.2%" in lines
    assert "Training Results on ibex|<b>" in lines
    assert "  Dataset: tinyimagenet (100000 training samples)" in lines
    page = fill(study_folder, "--summary", "--format", "html").stdout
    assert "ibex|&lt;b&gt;" in page and "<b>" not in page


def test_every_format_holds_the_table(study_folder):
    records = {}
    for name in ("md", "markdown", "csv", "json", "html"):
        done = fill(study_folder, "--fixed-work", "--basis", "walltime", "--format", name)
        assert (done.returncode, done.stderr) == (0, ""), name
        assert "3.8" in done.stdout, name
        records[name] = done.stdout
    assert records["md"] == records["markdown"]
    rows = json.loads(records["json"])["tables"][0]["rows"]
    assert rows[1]["speedup"] == pytest.approx(362.45 / 95.23)
    assert records["csv"].splitlines()[0].startswith("table,gpus,throughput_per_s,wall_s,speedup")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--summary", "--fixed-work"], "ask for one"),
        (["--price", "2"], "--price is for --cost"),
        (["--summary", "--job", "12"], "--job is for the README tables"),
        (["--basis", "walltime"], "--basis is for --fixed-work or --from-csv"),
        (["--fixed-work", "--gpus", "a"], "--gpus is for --from-csv"),
        (["--from-csv", "x", "--allow-unlike"], "--allow-unlike is for --summary or --fixed-work"),
        (["--cost", "--price", "-1"], "is no price"),
        (["--cost", "--price", "nan"], "is no price"),
        (["--from-csv", "x.csv", "--where", "a"], "is not COL=VALUE"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, words):
    done = fill(*options)
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1]


HOSTILE = "=cmd()|<script>x</script>|`a`\n"


def test_text_of_logs_is_escaped_for_each_format():
    cell = grid.say(HOSTILE, HOSTILE)
    table = grid.Grid("t", HOSTILE, {"a": HOSTILE}, [{"a": cell}], (HOSTILE,), (HOSTILE,))
    page = grid.to_html([table])
    assert "<script>" not in page and "&lt;script&gt;" in page
    for line in grid.to_markdown([table]).splitlines():
        assert "<" not in line and line.count("|") - line.count("\\|") in (0, 2)
    assert grid.to_csv([table]).splitlines()[1].split(",")[1].startswith("'=cmd")
    assert json.loads(grid.to_json([table]))["tables"][0]["rows"][0]["a"] == HOSTILE.strip()


def test_every_table_of_a_study_for_a_report(study_folder):
    tables = list_study_grids(read_study(study_folder))
    assert [table.name for table in tables] == [
        "advice", "fixed_work", "runs", "ideal", "cost", "plan",
    ]  # fmt: skip
    assert grid.to_html(tables).count("<table>") == 6
