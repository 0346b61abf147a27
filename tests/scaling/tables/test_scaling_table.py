"""generate_scaling_table.py: the fixed-work table from named metrics files, ours or others'."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from filled_tables import call, parse_markdown
from metrics_files import metrics, put_json, write_gpt2_files
from run_folders import put
from scaling.runs import make_metrics_study

REPO = Path(__file__).resolve().parents[3]


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
    table = cells(generate(*named(files), "--basis", basis))
    assert [row[0] for row in table[1:]] == ["1", "2", "4"]
    assert [row[1] for row in table[1:]] == ["29600.05", "57289.31", "100791.44"]
    assert [row[2] for row in table[1:]] == ["1017.61", "522.01", "296.10"]
    assert [row[3] for row in table[1:]] == speedups
    assert [row[4] for row in table[1:]] == efficiencies


def test_world_size_counts_and_not_the_visible_gpus(files):
    done = generate("--gpu4", files[2])
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {files[2]}: its world_size is 2, and it is given as that of 4 GPUs; "
        "give it as --gpu2"
    ]


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


def test_repeats_of_a_scale(tmp_path, files):
    again = put_json(tmp_path / "again.json", metrics(1, [29700.05], 1000.0))
    done = generate("--gpu1", files[1], "--gpu1", again, "--gpu2", files[2])
    assert cells(done)[1][1] == "29650.05"
    assert "95 % interval of the mean, Student t, n = 2 runs" in done.stdout


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
