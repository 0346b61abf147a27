"""scaling_tables.py and its alias: fixed work and summary, of run folders and of named files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from filled_tables import call, parse_markdown
from metrics_files import metrics, put_json, write_gpt2_files, write_timed_run
from opened_files import count_opens
from run_folders import out_text, put, write_run
from scaling.runs import find_runs, make_metrics_study, make_study
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


def test_a_speedup_of_repeats_has_an_interval(tmp_path):
    runs = [(1, 99.0), (1, 101.0), (2, 190.0), (2, 194.0), (4, 380.0)]
    for n, (gpus, steady) in enumerate(runs):
        write_timed_run(tmp_path, 1, gpus, str(11 + n), "9.0", rates=(1.0, steady, steady))
    _, row, single = make_fixed_work(read(tmp_path)).rows
    # Half widths 12.706 of 100 and 25.412 of 192: 1.92 x sqrt(0.12706^2 + 0.13236^2).
    assert row["speedup"].text == "1.92" and row["speedup"].note.startswith(
        "± 0.35: from both 95 % intervals"
    )
    assert single["speedup"].note is None  # an interval needs repeats of both


def test_the_baseline_is_named_in_the_header(tmp_path):
    write_timed_run(tmp_path, 1, 2, "12", "50.0", rates=(1.0, 200.0, 200.0))
    write_timed_run(tmp_path, 1, 8, "13", "25.0", rates=(1.0, 700.0, 700.0))
    table = make_fixed_work(read(tmp_path))
    assert table.headers["speedup"] == "Speedup vs 2 GPUs"
    assert column(table, "speedup") == ["1.00", "3.50"]
    assert column(table, "efficiency") == ["1.00", "0.88"]  # 3.5 / 4 = 0.875, to even
    assert "no 1-GPU run: ratios are over 2 GPUs" in table.remarks


def test_superlinear_efficiency_asks_for_a_second_look():
    table = make_fixed_work(study_of((1, 100.0, None), (2, 220.0, None)))
    note = table.rows[1]["efficiency"].note
    assert "110.0 % is above 105 %" in note and "data_wait_s" in note
    assert table.rows[1]["wall_s"].note == "not recorded"


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
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "8 GPUs (2 nodes) 0.95 6.34x 79.3% good" in lines
    assert "8 8.00x 6.34x 20.7% 45.31 57.14" in lines


def test_repeats_stand_in_the_summary(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    write_timed_run(tmp_path, 1, 2, "12", "49.0")
    write_timed_run(tmp_path, 1, 2, "13", "51.0")
    text = format_summary(read(tmp_path))
    assert text.count("2 GPUs (1 node)                2 ") == 2  # one line per run
    assert "  Average time: 50.00 ± 12.71 seconds (95 % interval, n = 2)\n  Speedup: 2.00x" in text


def test_a_bare_log_without_settings_is_summarised(tmp_path):
    write_run(tmp_path, 1, 1, "11", record={}, exit_status=None)
    text = format_summary(read(tmp_path))
    assert "Training Results on this machine\n  Dataset: not recorded\n" in text
    assert "93.10" in text


def test_the_tables_of_a_study_have_these_names(study_folder):
    study = read(study_folder)
    tables = [make_fixed_work(study), *make_summary_tables(study), make_cost(study)]
    assert [table.name for table in tables] == [
        "fixed_work", "runs", "ideal", "gpu_use", "cost",
    ]  # fmt: skip


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
    assert [table["table"] for table in records["tables"]] == ["runs", "ideal", "gpu_use"]


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


# ---- Named metrics files, ours or others' ---------------------------------------------------


def generate(*options: object):
    return call("generate_scaling_table", *options)


def cells(done) -> list[list[str]]:
    assert (done.returncode, done.stderr) == (0, "")
    return [[cell.split(" [")[0] for cell in row] for row in parse_markdown(done.stdout)]


@pytest.fixture
def files(tmp_path):
    return write_gpt2_files(tmp_path)


def named(files: dict[int, Path]) -> list[object]:
    return [part for gpus, path in files.items() for part in (f"--gpu{gpus}", path)]


@pytest.mark.parametrize(
    ("basis", "speedups", "efficiencies"),
    [
        ("throughput", ["1.00", "1.94", "3.41"], ["1.00", "0.97", "0.85"]),
        ("walltime", ["1.00", "1.95", "3.44"], ["1.00", "0.97", "0.86"]),
    ],
)
def test_the_known_numbers(files, basis, speedups, efficiencies):
    done = generate(*named(files), "--basis", basis)
    table = cells(done)
    assert table[0] == [
        "GPUs", "Tokens/sec (global)", "Wall time (s)", "Speedup vs 1 GPU", "Scaling efficiency",
    ]  # fmt: skip
    assert f"Basis: {basis}. Speedup = " in done.stdout
    assert [row[0] for row in table[1:]] == ["1", "2", "4"]
    assert [row[1] for row in table[1:]] == ["29600.05", "57289.31", "100791.44"]
    assert [row[2] for row in table[1:]] == ["1017.61", "522.01", "296.10"]
    assert [row[3] for row in table[1:]] == speedups
    assert [row[4] for row in table[1:]] == efficiencies


def test_a_rate_that_may_be_of_one_gpu_is_asked_for(tmp_path):
    files = []
    for gpus, rate in ((1, 100.0), (4, 95.0)):
        record = {"world_size": gpus, "epochs": [{"epoch": 1, "samples_per_sec": rate}]}
        files += [f"--gpu{gpus}", put_json(tmp_path / f"{gpus}.json", record)]
    done = generate(*files)
    assert done.returncode == 1 and "Say --per gpu or --per job" in done.stderr
    assert cells(generate(*files, "--per", "gpu"))[2][1].startswith("380.00")
    assert cells(generate(*files, "--per", "job"))[2][1].startswith("95.00")


def test_schema_1_lists(tmp_path):
    for gpus, rates in ((1, [1.0, 100.0, 102.0]), (2, [1.0, 99.0, 100.0])):  # of one process
        lists = {"train_time_per_epoch": [30.0, 20.0, 20.0], "train_throughput": rates}
        put_json(tmp_path / f"{gpus}.json", lists)
    done = generate("--gpu1", tmp_path / "1.json", "--gpu2", tmp_path / "2.json")
    table = cells(done)
    assert table[1][1:] == ["101.00", "70.00", "1.00", "1.00"]
    assert table[2][1:] == ["199.00", "70.00", "1.97", "0.99"]
    assert "world_size is not recorded, 2 GPUs as given" in done.stdout


def test_another_precision_by_the_same_format_is_noted_and_compared_with_one_gpu(tmp_path):
    one = put_json(tmp_path / "1.json", metrics(1, [100.0], precision="fp16_torch_amp"))
    how = {"precision": "fp16_deepspeed", "zero_stage": 1}
    two = put_json(tmp_path / "2.json", metrics(2, [190.0], **how))
    done = generate("--gpu1", one, "--gpu2", two)
    assert cells(done)[2][3] == "1.90"
    assert "mixed precision by deepspeed" in done.stdout
    four = put_json(tmp_path / "4.json", metrics(4, [380.0], precision="fp16_torch_amp"))
    assert cells(generate("--gpu2", two, "--gpu4", four))[2][3] == "—"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"precision": "bf16"}, "precision bf16, baseline fp16"),
        ({"seq_len": 1024}, "seq_len 1024, baseline not recorded"),
        ({"model_name": "bert"}, "model bert, baseline gpt2"),
        (
            {"micro_batch_size_per_gpu": 8, "global_batch_size": 64},
            "batch_size_per_gpu 8, baseline 4; global_batch_size 64, baseline 16",
        ),
    ],
)
def test_unlike_files_have_no_ratio_unless_asked(tmp_path, config, words):
    one = put_json(tmp_path / "1.json", metrics(1, [100.0]))
    two = put_json(tmp_path / "2.json", metrics(2, [190.0], **config))
    done = generate("--gpu1", one, "--gpu2", two)
    assert cells(done)[2][3:] == ["—", "—"] and words in done.stdout
    assert cells(generate("--gpu1", one, "--gpu2", two, "--allow-unlike"))[2][3] == "1.90"


@pytest.mark.parametrize("config", [{"global_batch_size": 32}, {"micro_batch_size_per_gpu": 2}])
def test_either_batch_may_be_the_same(tmp_path, config):
    one = put_json(tmp_path / "1.json", metrics(1, [100.0]))
    two = put_json(tmp_path / "2.json", metrics(2, [190.0], **config))
    assert cells(generate("--gpu1", one, "--gpu2", two))[2][3] == "1.90"


def test_a_mean_in_the_summary_serves_when_epochs_have_none(tmp_path):
    record = metrics(1, [100.0])
    del record["epochs"][0]["tokens_per_sec_global"]
    record["summary"]["mean_tokens_per_sec_global"] = 99.5
    done = generate("--gpu1", put_json(tmp_path / "1.json", record))
    assert cells(done)[1][1] == "99.50"
    assert "the mean of its summary" in done.stdout


def test_an_unfinished_run_is_named(tmp_path):
    record = metrics(1, [100.0, 100.0])
    record["summary"]["completed"] = False
    done = generate("--gpu1", put_json(tmp_path / "1.json", record))
    assert "the run is not complete" in done.stdout


def test_step_time_of_passes_that_accumulate(tmp_path):
    record = metrics(1, [100.0, 100.0])
    for epoch in record["epochs"]:
        steps = {"steps": 400, "micro_steps": 400, "optimizer_steps": 100}
        epoch.update(step_time_mean_sec=0.05, **steps)
    study = make_metrics_study([(1, put_json(tmp_path / "1.json", record))])
    assert study.runs["step_s"][0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "it is empty"), ("[]", "no JSON object"), ("{}", ""), ('{"epochs": 3}', "")],
)
def test_a_file_that_is_none_is_one_line(tmp_path, text, words):
    done = generate("--gpu1", put(tmp_path / "1.json", text))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and "1.json" in done.stderr and words in done.stderr


def test_it_is_another_name_of_scaling_tables(files):
    command = [sys.executable, REPO / "scripts/generate_scaling_table.py", *named(files)]
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == call("scaling_tables", *named(files)).stdout


def test_no_file_at_all_is_refused():
    done = generate()
    assert done.returncode == 2 and "name at least one" in done.stderr
    assert generate("--gpu1", "nowhere.json").returncode == 1


def test_the_file_is_written_whole_in_json(tmp_path, files):
    target = tmp_path / "table.json"
    done = generate(*named(files), "--format", "json", "-o", target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = json.loads(target.read_text())["tables"][0]["rows"]
    assert rows[2]["speedup"] == pytest.approx(100791.44 / 29600.05)
