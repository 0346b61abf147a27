"""The cells of the scaling tables: where each value comes from, and why one is missing."""

import json
from pathlib import Path

import pytest

from filled_tables import cell, fill, parse_markdown, rows
from run_folders import cpu_log, epoch_line, out_text, put, settings, write_run
from scaling.runs import find_runs
from scaling.runs.compare import COMPARED_SETTINGS, look_up
from scaling.tables import make_readme_tables
from scaling.tables.table import to_csv, to_json, to_markdown

# ---- Cells without a value -----------------------------------------------------------------

MEMORY = ("gpu0_peak_mib", "gpu0_avg_mib", "gpu0_mode_mib", "memory_avg_scaling")


def memory_notes(root: Path) -> set[str]:
    row = rows(root)["2 GPUs, 1 Node"]
    assert {row.cells[name].text for name in MEMORY} == {"—"}
    assert cell(row, "throughput_scaling") == ("1.00×", None)  # the other cells stand
    return {row.cells[name].note for name in MEMORY}


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """The folder of the 2-GPU job, beside a baseline."""
    write_run(tmp_path, 1, 1, "11")
    return write_run(tmp_path, 1, 2, "12")


def test_without_nvidia_smi_the_memory_cells_say_so(pair, tmp_path):
    (pair / "gpu_memory/12/gpu_memory_log.csv").unlink()
    expected = "no GPU log of node 0 of job 12"
    assert memory_notes(tmp_path) == {expected}


def test_a_logger_that_died_costs_its_own_cells(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 2, "12", used_mib=[100] * 8)  # 0 to 35 s
    assert memory_notes(tmp_path) == {"GPU log stops after 35 s of 93 s of training"}


@pytest.mark.parametrize(("samples", "stands"), [(17, True), (16, False)])
def test_two_sampling_intervals_and_five_seconds_are_allowed_for(tmp_path, samples, stands):
    # 16 steps of 5 s are 80 s; 80 + 2 x 5 + 5 = 95 >= 93.1, and 75 + 15 = 90 < 93.1
    write_run(tmp_path, 1, 1, "11", used_mib=[100] * samples)
    row = rows(tmp_path)["1 GPU, 1 Node (baseline)"]
    assert (row.cells["gpu0_peak_mib"].value == 100) is stands


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "GPU log {}: it is empty"),
        ("No devices were found\n", 'GPU log {}: nvidia-smi said "No devices were found"'),
        ("a, b\n", '{}: not an nvidia-smi CSV: no header line names memory.used; it has "a, b"'),
    ],
)
def test_a_gpu_log_without_a_value_says_why(pair, tmp_path, content, reason):
    path = put(pair / "gpu_memory/12/gpu_memory_log.csv", content)
    (note,) = memory_notes(tmp_path)
    assert note.startswith(reason.format(path))


def test_more_gpus_than_the_jobs_are_not_guessed_at(pair, tmp_path):
    write_run(tmp_path, 1, 4, "13")
    path = pair / "gpu_memory/12/gpu_memory_log.csv"
    other = tmp_path / "multi_gpu/4_gpus/gpu_memory/13/gpu_memory_log.csv"
    path.write_bytes(other.read_bytes())
    (note,) = memory_notes(tmp_path)
    assert "shows 4 GPUs and the job had 2 a node" in note


def test_dropped_rows_are_named_beside_the_value(pair, tmp_path):
    path = pair / "gpu_memory/12/gpu_memory_log.csv"
    path.write_text(path.read_text() + "rubbish\n")
    text, note = cell(rows(tmp_path)["2 GPUs, 1 Node"], "gpu0_avg_mib")
    assert text == "24266.00"
    assert note == f"GPU log {path}: 1 of 42 lines dropped: 1 error text"


def test_gpu_0_is_the_lowest_index_of_node0(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    folder = write_run(tmp_path, 2, 2, "12", used_mib=[500] * 20)
    put(folder / "gpu_memory/12/gpu_memory_log_node1.csv", "rubbish\n")
    node0 = folder / "gpu_memory/12/gpu_memory_log_node0.csv"
    node0.write_text(node0.read_text().replace(", 0, Tesla", ", 7, Tesla"))
    assert cell(rows(tmp_path)["2 Nodes"], "gpu0_peak_mib") == ("501", None)  # index 1


def test_the_cpu_cell_stands_and_falls_alone(pair, tmp_path):
    path = pair / "cpu_memory/12/cpu_memory_log.txt"
    name = "2 GPUs, 1 Node"
    put(path, cpu_log([100.05] * 20))
    assert cell(rows(tmp_path)[name], "cpu_peak_mib") == ("100.0", None)  # half to even
    put(path, cpu_log([100.0] * 8))
    assert cell(rows(tmp_path)[name], "cpu_peak_mib") == (
        "—",
        "CPU log stops after 35 s of 93 s of training",
    )
    path.unlink()
    assert cell(rows(tmp_path)[name], "cpu_peak_mib") == ("—", "no CPU log of node 0 of job 12")


def test_a_complete_run_without_a_readable_last_epoch_line(tmp_path):
    write_run(tmp_path, 1, 1, "11", out=f"{epoch_line(1)}\n{epoch_line(2)}\nEpoch [3/3] LR: 0.\n")
    row = rows(tmp_path)["1 GPU, 1 Node (baseline)"]
    assert cell(row, "train_loss") == (
        "—",
        "the log has no readable line for epoch 3 of 3",
    )
    assert row.cells["gpu0_peak_mib"].text == "26532"


def test_a_complete_run_without_its_log(pair, tmp_path):
    (pair / "log/ddp_2g1n_12.out").unlink()
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert cell(row, "train_loss")[1] == f"no Slurm log: {pair}/log has no *_12.out"


def test_a_loss_of_nan_is_shown_as_logged_and_is_no_number_in_json(tmp_path):
    out = out_text().replace("5.149", "nan")
    write_run(tmp_path, 1, 1, "11", out=out)
    report = fill(tmp_path)
    assert parse_markdown(to_markdown(report))[1][1] == "nan [2]"
    record = json.loads(to_json(report))["tables"][0]["rows"][0]
    assert (record["train_loss"], record["notes"]["train_loss"]) == (None, "nan in the log")


def test_json_gives_a_gap_its_reason(pair, tmp_path):
    (pair / "gpu_memory/12/gpu_memory_log.csv").unlink()
    row = json.loads(to_json(fill(tmp_path)))["tables"][0]["rows"][1]
    assert row["gpu0_peak_mib"] is None
    assert row["notes"]["gpu0_peak_mib"].startswith("no GPU log of node 0")
    joined = to_csv(fill(tmp_path)).splitlines()[2]
    assert '"gpu0_peak_mib, gpu0_avg_mib, gpu0_mode_mib, memory_avg_scaling: no GPU log' in joined


# ---- Ratios --------------------------------------------------------------------------------


def test_without_a_one_gpu_run_there_is_no_ratio(tmp_path):
    write_run(tmp_path, 1, 2, "12")
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert row.cells["throughput_per_s"].text == "704.9"
    for name in ("throughput_scaling", "memory_avg_scaling", "efficiency_pct"):
        text, note = cell(row, name)
        assert text == "—"
        assert note.startswith("no complete 1-GPU run to compare with: no run yet, and no job ")


DIFFERENCES = [
    ({"precision": "fp32"}, "precision fp32, baseline fp16"),
    ({"batch_size_per_gpu": 256}, "batch_size_per_gpu 256, baseline 512"),
    ({"model": "resnet18"}, "model resnet18, baseline resnet50"),
    ({"image_size": 224}, "image_size 224, baseline 64"),
    ({"gpu_name": "NVIDIA A100"}, "gpu_name NVIDIA A100, baseline Tesla V100-SXM2-32GB"),
    ({"versions": {"torch": "2.4.0"}}, "versions.torch 2.4.0, baseline 2.15.0"),
    ({"versions": None}, "versions.torch not recorded, baseline 2.15.0"),
    ({"strategy": "fsdp"}, "strategy fsdp, baseline ddp"),
    ({"scaling": "strong"}, "scaling strong, baseline weak"),
    ({"limit_batches": 4}, "limit_batches 4, baseline not recorded"),
    ({"bucket_cap_mb": 200.0}, "bucket_cap_mb 200.0, baseline not recorded"),
    ({"activation_checkpointing": True}, "activation_checkpointing True, baseline not recorded"),
    ({"gpu_name": None}, "gpu_name none, baseline Tesla V100-SXM2-32GB"),
    ({"trainer_sha256": "beef"}, "trainer_sha256 beef, baseline c0ffee"),
    ({"dataset": {"train": 1438, "classes": 200}}, "dataset.train 1438, baseline 100000"),
    (
        {"model": "vit", "precision": "bf16"},
        "model vit, baseline resnet50; precision bf16, baseline fp16",
    ),
]


@pytest.mark.parametrize(("changed", "words"), DIFFERENCES)
def test_unlike_runs_are_not_compared(tmp_path, changed, words):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 2, "12", **changed)
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    for name in ("throughput_scaling", "memory_avg_scaling", "efficiency_pct"):
        assert cell(row, name) == ("—", f"not compared with job 11: {words}")
    assert row.cells["throughput_per_s"].text == "704.9"


def test_a_setting_that_is_null_is_none_and_no_gap_in_the_record(tmp_path):
    write_run(tmp_path, 1, 1, "11", limit_batches=None)
    write_run(tmp_path, 1, 2, "12", limit_batches=4)
    write_run(tmp_path, 1, 4, "13")  # an older record, which has no such field
    table = rows(tmp_path)
    words = "not compared with job 11: limit_batches 4, baseline none"
    assert cell(table["2 GPUs, 1 Node"], "throughput_scaling") == ("—", words)
    assert cell(table["4 GPUs, 1 Node"], "throughput_scaling") == ("1.00×", None)


def test_strong_scaling_compares_the_global_batch(tmp_path):
    batch = {"scaling": "strong", "global_batch_size": 16}
    write_run(tmp_path, 1, 1, "11", **batch, batch_size_per_gpu=4)
    write_run(tmp_path, 1, 2, "12", **batch, batch_size_per_gpu=2)
    write_run(tmp_path, 1, 4, "13", scaling="strong", global_batch_size=32, batch_size_per_gpu=4)
    table = rows(tmp_path)
    assert cell(table["2 GPUs, 1 Node"], "throughput_scaling") == ("1.00×", None)
    words = "not compared with job 11: global_batch_size 32, baseline 16"
    assert cell(table["4 GPUs, 1 Node"], "throughput_scaling") == ("—", words)


@pytest.mark.parametrize(("throughput", "noted"), [(1480.2, False), (1480.3, True)])
def test_an_efficiency_that_is_too_good_says_what_to_look_at(tmp_path, throughput, noted):
    # 1480.2 / 704.9 / 2 = 104.994 %, printed as 105.0; 1480.3 gives 105.001 %
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 2, "12", throughput=throughput)
    text, note = cell(rows(tmp_path)["2 GPUs, 1 Node"], "efficiency_pct")
    assert text == "105.0"
    assert (note is not None) is noted
    if noted:
        assert note.startswith("105.0 % is above 105 %, more than ideal: most often the 1-GPU run")


def test_what_may_differ_between_scales_does(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 2, "12", git_commit="other", seed=1, hosts=["node9"])
    assert cell(rows(tmp_path)["2 GPUs, 1 Node"], "throughput_scaling") == ("1.00×", None)


def test_runs_without_records_are_compared_among_themselves(tmp_path):
    write_run(tmp_path, 1, 1, "11", record={}, exit_status=None)
    write_run(tmp_path, 1, 2, "12", record={}, exit_status=None, throughput=1409.8)
    unknown = "settings unknown (no run.json)"
    assert cell(rows(tmp_path)["2 GPUs, 1 Node"], "throughput_scaling") == ("2.00×", unknown)
    write_run(tmp_path, 1, 2, "12", throughput=1409.8)
    assert cell(rows(tmp_path)["2 GPUs, 1 Node"], "throughput_scaling") == (
        "—",
        "not compared with job 11: the settings of job 11 are unknown (no run.json)",
    )


def test_a_baseline_of_zero_or_nan_divides_nothing(tmp_path):
    write_run(tmp_path, 1, 1, "11", throughput=0.0)
    write_run(tmp_path, 1, 2, "12")
    assert cell(rows(tmp_path)["2 GPUs, 1 Node"], "throughput_scaling") == (
        "—",
        "704.9 / 0.0 is no number",
    )


def test_the_number_of_gpus_must_be_known_for_an_efficiency(tmp_path):
    write_run(tmp_path, 1, 1, "11", record={}, exit_status=None)
    put(tmp_path / "multi_node/2_nodes/log/job_12.out", out_text(throughput=1409.8))
    row = rows(tmp_path)["2 Nodes"]
    assert row.cells["throughput_scaling"].text == "2.00×"
    assert cell(row, "efficiency_pct") == ("—", "the number of GPUs is unknown: no run.json")


def test_settings_helper_says_what_the_contract_says():
    """The stand-in's settings hold every field that is compared."""
    record = settings(1, 1, "12")
    absent = [name for name in COMPARED_SETTINGS if look_up(record, name) in (None, "not recorded")]
    # The first two are of metrics files of others, the last four of GPT-2; limit_batches is None
    # unless asked for.
    assert absent == [
        "model_size", "seq_len", "limit_batches",
        "activation_checkpointing", "grad_compression", "bucket_cap_mb", "tensor_parallel",
    ]  # fmt: skip


def test_strategy_is_a_dimension_and_never_a_repeat(tmp_path):
    """The latest run at the scale is fsdp's; the row is ddp's, as the baseline is."""
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 2, "12", throughput=1400.0)
    write_run(tmp_path / "fsdp", 1, 2, "13", throughput=900.0, strategy="fsdp")
    tables = make_readme_tables(find_runs(tmp_path))
    assert tables[0].rows[1]["throughput_per_s"].text == "1400.0"
    assert tables[-1].remarks == [
        "of another strategy, not in these tables: job 13 (fsdp); see "
        "python scripts/scaling_tables.py --strategies"
    ]
    asked = make_readme_tables(find_runs(tmp_path), jobs=["13"])
    assert asked[0].rows[1]["throughput_per_s"].text == "900.0"


def test_replicas_that_were_not_one_model_are_named_in_the_row(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 2, "12", replicas="FAULT: rank 1 has other parameters, first in fc.bias")
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert "replicas: FAULT: rank 1 has other parameters" in row.cells["config"].note
