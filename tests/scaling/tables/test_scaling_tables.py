"""scaling_tables.py: fixed work and summary, from repeats, unlike runs and other work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from filled_tables import call
from metrics_files import GPT2, write_timed_run
from opened_files import count_opens
from run_folders import out_text, write_run
from scaling.runs import find_runs, make_study
from scaling.runs.study import TableRow, build_study
from scaling.tables import format_summary, make_cost, make_fixed_work, make_summary_tables
from study_folders import write_study

REPO = Path(__file__).resolve().parents[3]


def study_of(*rows: tuple, unit: str = "img/s"):
    """A study of (GPUs, throughput, wall seconds) on one node."""
    return build_study([TableRow(f"{gpus}", 1, gpus, unit, *rest) for gpus, *rest in rows])


def read(folder: Path, **options: object):
    return make_study(find_runs(folder), **options)


def column(table, name: str) -> list[str]:
    return [row[name].text for row in table.rows]


# ---- Fixed work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("basis", "speedups", "efficiencies"),
    [
        ("throughput", ["1.00", "1.94", "3.41"], ["1.00", "0.97", "0.85"]),
        ("walltime", ["1.00", "1.95", "3.44"], ["1.00", "0.97", "0.86"]),
    ],
)
def test_published_numbers_give_the_known_ratios(basis, speedups, efficiencies):
    study = study_of(*((gpus, *figures) for gpus, figures in GPT2.items()), unit="tokens/s")
    table = make_fixed_work(study, basis)
    assert list(table.headers.values()) == [
        "GPUs", "Tokens/sec (global)", "Wall time (s)", "Speedup vs 1 GPU", "Scaling efficiency",
    ]  # fmt: skip
    assert column(table, "throughput_per_s") == ["29600.05", "57289.31", "100791.44"]
    assert column(table, "speedup") == speedups
    assert column(table, "efficiency") == efficiencies
    assert table.definitions[0].startswith(f"Basis: {basis}. Speedup = ")


def test_repeats_have_an_interval_and_one_run_has_none(tmp_path):
    for run_id, steady in (("11", 100.0), ("12", 102.0), ("13", 104.0)):
        write_timed_run(tmp_path, 1, 1, run_id, "90.0", rates=(1.0, steady - 1, steady + 1))
    write_timed_run(tmp_path, 1, 2, "14", "50.0", rates=(1.0, 190.0, 194.0))
    one, two = make_fixed_work(read(tmp_path)).rows
    assert one["throughput_per_s"].text == "102.00"
    assert "± 4.97: 95 % interval" in one["throughput_per_s"].note  # 4.3027 * 2 / sqrt(3)
    assert "n = 3 runs" in one["throughput_per_s"].note
    assert "n = 3 runs" in one["wall_s"].note
    assert two["throughput_per_s"].text == "192.00"
    assert "one run, so no interval; its 2 epochs" in two["throughput_per_s"].note
    assert two["speedup"].text == "1.88"
    assert two["speedup"].note is None  # an interval needs repeats of both


def test_a_speedup_of_repeats_has_an_interval(tmp_path):
    for n, (gpus, steady) in enumerate([(1, 99.0), (1, 101.0), (2, 190.0), (2, 194.0)]):
        write_timed_run(tmp_path, 1, gpus, str(11 + n), "9.0", rates=(1.0, steady, steady))
    row = make_fixed_work(read(tmp_path)).rows[1]
    # Half widths 12.706 of 100 and 25.412 of 192: 1.92 x sqrt(0.12706^2 + 0.13236^2).
    assert row["speedup"].text == "1.92" and row["speedup"].note.startswith(
        "± 0.35: from both 95 % intervals"
    )


def test_the_baseline_is_named_in_the_header(tmp_path):
    write_timed_run(tmp_path, 1, 2, "12", "50.0", rates=(1.0, 200.0, 200.0))
    write_timed_run(tmp_path, 1, 8, "13", "25.0", rates=(1.0, 700.0, 700.0))
    table = make_fixed_work(read(tmp_path))
    assert table.headers["speedup"] == "Speedup vs 2 GPUs"
    assert column(table, "speedup") == ["1.00", "3.50"]
    assert column(table, "efficiency") == ["1.00", "0.88"]  # 3.5 / 4 = 0.875, to even
    assert "no 1-GPU run: ratios are over 2 GPUs" in table.remarks


def test_one_epoch_says_that_it_is_no_steady_state(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(50.0,), epochs=1)
    (row,) = make_fixed_work(read(tmp_path)).rows
    assert row["throughput_per_s"].text == "50.00"
    assert "no steady state: its only epoch is warm-up" in row["throughput_per_s"].note


def test_superlinear_efficiency_asks_for_a_second_look():
    table = make_fixed_work(study_of((1, 100.0, None), (2, 220.0, None)))
    note = table.rows[1]["efficiency"].note
    assert "110.0 % is above 105 %" in note and "data_wait_s" in note
    assert table.rows[1]["wall_s"].note == "no wall time is recorded"


def test_unlike_runs_have_no_ratio_unless_asked(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    write_timed_run(tmp_path, 1, 2, "12", "50.0", precision="bf16")
    row = make_fixed_work(read(tmp_path)).rows[1]
    assert (row["speedup"].text, row["efficiency"].text) == ("—", "—")
    assert "precision bf16, baseline fp16" in row["speedup"].note
    assert "--allow-unlike" in row["speedup"].note
    assert "  Speedup: —" in format_summary(read(tmp_path))
    allowed = make_fixed_work(read(tmp_path, allow_unlike=True)).rows[1]
    assert allowed["speedup"].text == "1.00"
    assert "precision bf16, baseline fp16" in allowed["speedup"].note


def write_work(root: Path, second: int) -> Path:
    """One GPU that trains on 1,000 samples in 10 s, two on `second` in 5 s."""
    for gpus, wall_s, samples in ((1, "10.0", 1000), (2, "5.0", second)):
        folder = write_timed_run(root, 1, gpus, str(10 + gpus), wall_s, rates=(gpus,), epochs=1)
        path = folder / f"results/{10 + gpus}/training_metrics.json"
        record = json.loads(path.read_text())
        record["epochs"][0]["samples_processed_global"] = samples
        path.write_text(json.dumps(record))
    return root


def test_wall_times_of_other_work_are_not_divided(tmp_path):
    study = read(write_work(tmp_path, 500))
    row = make_fixed_work(study, "walltime").rows[1]
    assert (row["speedup"].text, row["efficiency"].text) == ("—", "—")
    assert "not the same work: trained on 50.0 % fewer samples" in row["speedup"].note
    assert "Speedup: — (not the same work" in format_summary(study)
    assert make_fixed_work(study).rows[1]["speedup"].text == "2.00"  # rates have no such trouble
    allowed = make_fixed_work(read(tmp_path, allow_unlike=True), "walltime").rows[1]
    assert allowed["speedup"].text == "2.00" and "50.0 % fewer" in allowed["speedup"].note


@pytest.mark.parametrize(
    ("samples", "note"),
    [(1000, None), (991, None), (950, "off by as much: trained on 5.0 % fewer samples than the "
                                      "baseline")],
)  # fmt: skip
def test_a_dropped_last_batch_is_noted(tmp_path, samples, note):
    row = make_fixed_work(read(write_work(tmp_path, samples)), "walltime").rows[1]
    assert (row["speedup"].text, row["speedup"].note) == ("2.00", note)


def test_a_flag_stands_below_the_table(tmp_path):
    for n, (gpus, loss) in enumerate([(1, 1.0), (1, 1.02), (2, 1.5)]):
        write_timed_run(tmp_path, 1, gpus, str(11 + n), "9.0", val_loss=loss)
    study = read(tmp_path)
    assert any(text.startswith("FLAG validation loss") for text in make_fixed_work(study).remarks)
    assert format_summary(study).count("FLAG validation loss") == 1


# ---- Summary --------------------------------------------------------------------------------

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


@pytest.fixture
def study_folder(tmp_path):
    rates = (704.9,) * 50
    write_timed_run(tmp_path, 1, 1, "123456", "362.45", rates=rates, epochs=50)
    changed = {"val_loss": 0.1192, "val_accuracy": 0.9525, "rates": rates, "epochs": 50}
    write_timed_run(tmp_path, 1, 4, "123457", "95.23", **changed)
    return tmp_path


def test_summary_has_these_words(study_folder):
    text = format_summary(read(study_folder), "ibex")
    assert text.startswith(SUMMARY)
    assert "\nTraining Results on ibex\n" in text
    assert "\n  Dataset: tinyimagenet (100000 training samples)\n" in text
    assert "\n  Batch: 512 per GPU\n" in text


def test_a_third_scale_across_nodes(study_folder):
    write_timed_run(study_folder, 2, 4, "123458", "57.14", rates=(704.9,) * 50, epochs=50)
    text = format_summary(read(study_folder))
    assert (
        "Multi-Node (8 GPUs, 2 nodes):\n  Average time: 57.14 seconds\n  Speedup: 6.34x\n"
        "  Parallel efficiency: 79.3%\n"
    ) in text
    assert "8 GPUs (2 nodes)               0.95       6.34x    79.3%      good" in text
    assert "8     8.00x         6.34x     20.7%  45.31          57.14      1 run" in text


def test_repeats_stand_in_the_summary(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    write_timed_run(tmp_path, 1, 2, "12", "49.0")
    write_timed_run(tmp_path, 1, 2, "13", "51.0")
    text = format_summary(read(tmp_path))
    assert text.count("2 GPUs (1 node)                2 ") == 2  # one line per run
    assert "  Average time: 50.00 ± 12.71 seconds (95 % interval, n = 2)\n  Speedup: 2.00x" in text
    assert "± 12.71 s (95 %, n = 2 runs)" in text


def test_a_bare_log_without_settings_is_summarised(tmp_path):
    write_run(tmp_path, 1, 1, "11", record={}, exit_status=None)
    text = format_summary(read(tmp_path))
    assert "Training Results on this machine\n  Dataset: not recorded\n" in text
    assert "93.10" in text


def test_the_tables_of_a_study_have_these_names(study_folder):
    study = read(study_folder)
    tables = [make_fixed_work(study), *make_summary_tables(study), make_cost(study)]
    assert [table.name for table in tables] == ["fixed_work", "runs", "ideal", "cost"]


# ---- The command ----------------------------------------------------------------------------


def test_the_command_prints_the_summary_of_run_folders(study_folder):
    command = [sys.executable, REPO / "scripts/scaling_tables.py", study_folder]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(SUMMARY)


def test_a_hostile_name_is_text_in_every_form_of_the_summary(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "362.45", slurm={"cluster_name": "ibex|<b>"})
    done = call("scaling_tables", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Training Results on ibex|<b>" in done.stdout.splitlines()
    page = call("scaling_tables", tmp_path, "--format", "html").stdout
    assert "ibex|&lt;b&gt;" in page and "<b>" not in page
    assert call("scaling_tables", tmp_path, "--format", "md").stdout == f"````\n{done.stdout}````\n"
    records = json.loads(call("scaling_tables", tmp_path, "--format", "json").stdout)
    assert [table["table"] for table in records["tables"]] == ["runs", "ideal"]


def test_every_format_holds_the_table(study_folder):
    texts = {}
    for name in ("md", "markdown", "csv", "json", "html", "text"):
        options = ("--fixed-work", "--basis", "walltime", "--format", name)
        done = call("scaling_tables", study_folder, *options)
        assert (done.returncode, done.stderr) == (0, ""), name
        assert "3.8" in done.stdout, name
        texts[name] = done.stdout
    assert texts["md"] == texts["markdown"]
    rows = json.loads(texts["json"])["tables"][0]["rows"]
    assert rows[1]["speedup"] == pytest.approx(362.45 / 95.23)
    assert texts["csv"].splitlines()[0].startswith("table,gpus,throughput_per_s,wall_s,speedup")


def test_fixed_work_and_cost_may_stand_together(study_folder):
    text = call("scaling_tables", study_folder, "--fixed-work", "--cost", "--price", "2").stdout
    assert text.count("\n## ") == 1 and text.startswith("## Fixed work")
    assert "Cost: GPU-hours x 2 per GPU-hour." in text


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("scaling_tables", ["--summary"]),
        ("scaling_tables", ["--fixed-work"]),
        ("scaling_tables", ["--cost"]),
        ("fill_tables", []),
    ],
)
def test_every_table_says_that_a_loss_is_no_number(tmp_path, command, options):
    bad = out_text().replace("Epoch [2/3] LR: 0.001000 | Loss (train, val): 5.149",
                             "Epoch [2/3] LR: 0.001000 | Loss (train, val): nan")  # fmt: skip
    write_run(tmp_path, 1, 1, "11", out=bad)
    write_run(tmp_path, 1, 2, "12")
    assert "the loss is no number since epoch 2" in call(command, tmp_path, *options).stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--summary", "--fixed-work"], "ask for one"),
        (["--price", "2"], "--price is for --cost"),
        (["--job", "12"], "unrecognized arguments: --job"),
        (["--basis", "walltime"], "--basis is for --fixed-work or --from-csv"),
        (["--fixed-work", "--throughput", "a"], "--throughput is for --from-csv"),
        (["--from-csv", "x", "--allow-unlike"], "--allow-unlike is for --summary or --fixed-work"),
        (["--from-csv", "x", "--gpu1", "y"], "name different files"),
        (["--cost", "--price", "-1"], "is no price"),
        (["--cost", "--price", "nan"], "is no price"),
        (["--from-csv", "x.csv", "--where", "a"], "is not COL=VALUE"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, words):
    done = call("scaling_tables", *options)
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("scaling_tables", ["--fixed-work", "--cost"]),
        ("fill_tables", []),
        ("fill_tables", ["--format", "json"]),
        ("check_tables", []),
    ],
)
def test_each_file_of_a_study_is_opened_once(tmp_path, command, options):
    root = write_study(tmp_path / "study", ((1, 1), (1, 2), (2, 2)), rounds=20)
    blank = [REPO / "experiments/TABLES.md"] if command == "check_tables" else []
    with count_opens(root) as opened:
        done = call(command, *blank, root, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert len([name for name in opened if "gpu_memory" in name]) == 4  # one per node
    assert {name: n for name, n in opened.items() if n > 1} == {}
