"""fill_tables.py: the two tables of the README, filled, with a reason for each gap."""

import csv
import io
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import cpu_log, epoch_line, out_text, put, scale_folder, settings, write_run
from scaling.errors import ScalingError
from scaling.files import write_whole
from scaling.numbers import LoggedNumber, round_half_even
from scaling.table_text import escape_csv, escape_markdown, to_csv, to_json, to_markdown
from scaling.tables import Row, build_report

REPO = Path(__file__).resolve().parent.parent

MULTI_GPU_HEADER = [
    *("Config", "Train Loss (Epoch 3)", "Train Acc (Epoch 3)", "Throughput (img/s)"),
    *("GPU 0 Peak (MiB)", "GPU 0 Avg (MiB)", "GPU 0 Mode (MiB)"),
    *("Throughput Scaling vs 1G", "Memory Avg Scaling vs 1G"),
    *("Parallel Efficiency (%)", "CPU Peak (MiB)"),
]
MULTI_NODE_HEADER = [text.replace("vs 1G", "vs 1N") for text in MULTI_GPU_HEADER]
CONFIGS = [
    *("1 GPU, 1 Node (baseline)", "2 GPUs, 1 Node", "4 GPUs, 1 Node", "8 GPUs, 1 Node"),
    *("1 Node (baseline)", "2 Nodes", "4 Nodes", "8 Nodes"),
]


def parse_markdown(text: str) -> list[list[str]]:
    """The cells of each table line (the two headers first in theirs), rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def rows(root: Path, **options: object) -> dict[str, Row]:
    return {r.config: r for t in build_report(root, **options).tables for r in t.rows}


def cell(row: Row, name: str) -> tuple[str, str | None]:
    return row.cells[name].text, row.cells[name].note


def notes(row: Row) -> set[str]:
    return {cell.note for cell in row.cells.values() if cell.note}


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """All seven scales run once: 704.9 img/s on one GPU."""
    root = tmp_path / "experiments"
    write_run(root, 1, 1, "11", throughput=704.9, used_mib=[22000] * 10 + [26532] * 10)
    for i, (nodes, gpus, throughput) in enumerate(
        [
            (1, 2, 1388.6),
            (1, 4, 2750.0),
            (1, 8, 5399.5),
            (2, 2, 2700.0),
            (4, 2, 5000.1),
            (8, 2, 9e3),
        ]
    ):
        write_run(root, nodes, gpus, str(12 + i), throughput=throughput, used_mib=[24508] * 20)
    return root


# ---- The tables ----------------------------------------------------------------------------


def test_both_tables_hold_exactly_the_rows_and_columns_of_the_readme(experiments):
    table = parse_markdown(to_markdown(build_report(experiments)))
    assert table[0] == MULTI_GPU_HEADER
    assert table[5] == MULTI_NODE_HEADER
    assert [row[0] for row in table[1:5] + table[6:]] == CONFIGS


def test_the_values(experiments):
    table = parse_markdown(to_markdown(build_report(experiments)))
    loss = ["5.149", "2.16%"]
    baseline = [*loss, "704.9", "26532", "24266.00", "22000", "1.0×", "1.0×", "100.0", "4019.0"]
    assert table[1][1:] == table[6][1:] == baseline
    # 1388.6 / 704.9 = 1.96992…; 24508 / 24266 = 1.00997…; 1.96992 / 2 = 98.496 %
    two = [*loss, "1388.6", "24508", "24508.00", "24508", "1.97×", "1.01×", "98.5", "4019.0"]
    assert table[2][1:] == two
    # 5000.1 / 704.9 = 7.09335…; / 8 GPUs (4 nodes x 2) = 88.67 %
    assert table[8][7:10] == ["7.09×", "1.01×", "88.7"]
    assert table[9][7:10] == ["12.77×", "1.01×", "79.8"]


def test_nothing_missing_no_note(experiments):
    text = to_markdown(build_report(experiments))
    assert "—" not in text
    assert "Notes" not in text
    assert "Not in these tables" not in text


def test_the_definition_and_the_source_of_each_row_stand_below(experiments):
    text = to_markdown(build_report(experiments))
    definition = (
        "samples of all ranks / seconds of the slowest rank, "
        "training part of the epoch only, last epoch"
    )
    assert text.count(definition) == 2
    assert f"- 2 GPUs, 1 Node: job 12, {experiments}/multi\\_gpu" not in text  # inside a word
    for config, source in [
        ("1 GPU, 1 Node (baseline)", "job 11, {}/baseline/log/ddp_1g1n_11.out"),
        ("2 GPUs, 1 Node", "job 12, {}/multi_gpu/2_gpus/log/ddp_2g1n_12.out"),
        ("8 Nodes", "job 17, {}/multi_node/8_nodes/log/ddp_2g8n_17.out"),
    ]:
        assert f"- {config}: {source.format(escape_markdown(experiments))}\n" in text


def test_only_job_files_print_tables_of_reasons(tmp_path):
    for nodes, gpus in [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 2), (8, 2)]:
        scale_folder(tmp_path, nodes, gpus)
    table = rows(tmp_path)
    assert list(table) == CONFIGS
    for row in table.values():
        assert {text.text for text in row.cells.values()} == {"—"}
        assert all(cell.note.startswith("no run yet: cd ") for cell in row.cells.values())
    assert notes(table["8 GPUs, 1 Node"]) == {
        f"no run yet: cd {tmp_path}/multi_gpu/8_gpus && sbatch multi_gpu.slurm"
    }
    assert "Train Loss (Epoch 3)" in to_markdown(build_report(tmp_path))


def test_the_number_of_epochs_is_that_of_the_runs(tmp_path):
    write_run(tmp_path, 1, 1, "11", out=out_text(5, 5), epochs=5)
    write_run(tmp_path, 1, 2, "12", out=out_text(3, 3), epochs=3)
    report = build_report(tmp_path)
    assert "| Train Loss (Epoch 5) |" in to_markdown(report)
    two = rows(tmp_path)["2 GPUs, 1 Node"]
    assert two.notes == ("this run has 3 epochs: its values are of epoch 3",)
    assert cell(two, "throughput_scaling") == (
        "—",
        "not compared with job 11: epochs 3, baseline 5",
    )


def test_committed_blank_tables_have_the_same_rows_and_columns():
    table = parse_markdown((REPO / "experiments/TABLES.md").read_text(encoding="utf-8"))
    assert table[0] == MULTI_GPU_HEADER
    assert table[5] == MULTI_NODE_HEADER
    assert [row[0] for row in table[1:5] + table[6:]] == CONFIGS
    filled = {cell for row in table[1:5] + table[6:] for cell in row[1:]} - {""}
    assert filled == {"1.0×", "100.0"}


# ---- Which run -----------------------------------------------------------------------------


def test_the_latest_complete_run_counts_and_a_later_one_is_named(tmp_path):
    write_run(tmp_path, 1, 2, "12", throughput=1.0)
    write_run(tmp_path, 1, 2, "13", throughput=2.0)
    write_run(tmp_path, 1, 2, "14", complete=False, exit_status=None, out=out_text(1))
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert (row.run.id, cell(row, "throughput_per_s")) == ("13", ("2.0", None))
    text = to_markdown(build_report(tmp_path))
    assert "ddp_2g1n_13.out; later and not shown: job 14: running, epoch 1 of 3 done\n" in text


def test_a_scale_without_a_complete_run_keeps_its_row_with_the_reason(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None, out=out_text(1))
    write_run(
        tmp_path, 1, 4, "13", complete=False, exit_status=1,
        out=out_text(1) + "[rank 1 on node2] error: cannot decode n01443537_0.JPEG\n",
    )  # fmt: skip
    table = rows(tmp_path)
    assert notes(table["2 GPUs, 1 Node"]) == {"job 12: running, epoch 1 of 3 done"}
    assert notes(table["4 GPUs, 1 Node"]) == {
        "job 13: failed: [rank 1 on node2] error: cannot decode n01443537_0.JPEG"
    }
    text = to_markdown(build_report(tmp_path))
    assert "] job 13: failed: [rank 1 on node2] error: cannot decode n01443537_0.JPEG\n" in text


def test_a_named_job_takes_the_place_of_the_latest(experiments):
    write_run(experiments, 1, 2, "30", throughput=1.0)
    assert rows(experiments)["2 GPUs, 1 Node"].run.id == "30"
    assert rows(experiments, jobs=["12"])["2 GPUs, 1 Node"].run.id == "12"
    assert rows(experiments, jobs=["12"])["4 GPUs, 1 Node"].run.id == "13"


def test_a_named_job_that_is_not_complete_gives_its_reason(tmp_path):
    write_run(tmp_path, 1, 2, "12")
    write_run(tmp_path, 1, 2, "11", complete=False, exit_status=None, out=out_text(2))
    row = rows(tmp_path, jobs=["11"])["2 GPUs, 1 Node"]
    assert (row.run, notes(row)) == (None, {"job 11: running, epoch 2 of 3 done"})


def test_a_named_job_means_its_last_complete_attempt(tmp_path):
    write_run(tmp_path, 1, 2, "12", complete=False, exit_status=None)
    write_run(tmp_path, 1, 2, "12.1")
    assert rows(tmp_path, jobs=["12"])["2 GPUs, 1 Node"].run.id == "12.1"
    assert rows(tmp_path, jobs=["12.1"])["2 GPUs, 1 Node"].run.id == "12.1"


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (["99"], "--job 99: no such run; there are: 11, 12, 15"),
        (["11", "15"], "--job 11 and --job 15 are of the same scale"),
        (["12"], r"--job 12: no row for it \(1 nodes × 3 GPUs\)"),
    ],
)
def test_a_named_job_that_no_row_can_show_is_refused(tmp_path, jobs, message):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 3, "12")
    write_run(tmp_path, 1, 1, "15")
    with pytest.raises(ScalingError, match=message):
        build_report(tmp_path, jobs)


def test_other_workloads_and_scales_have_no_row(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 3, "12")
    write_run(tmp_path / "gpt2", 1, 2, "13", workload="gpt2")
    scale_folder(tmp_path / "translation", 1, 4)
    tokens = out_text().replace("img/s", "tokens/s")
    write_run(tmp_path / "old", 1, 8, "14", out=tokens, record={}, exit_status=None)
    report = build_report(tmp_path)
    assert report.left_out == ["job 12 (1 nodes × 3 GPUs has no row): complete"]
    table = rows(tmp_path)
    for config, folder in [("2 GPUs, 1 Node", "2_gpus"), ("4 GPUs, 1 Node", "4_gpus")]:
        expected = f"no run yet: cd {tmp_path}/multi_gpu/{folder} && sbatch multi_gpu.slurm"
        assert notes(table[config]) == {expected}
    assert table["8 GPUs, 1 Node"].run is None


def test_a_run_whose_record_cannot_be_read_gives_way_to_an_earlier_one(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12")
    write_run(tmp_path, 1, 2, "13")
    path = put(folder / "results/13/run.json", "{")
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert row.run.id == "12"
    assert row.later.startswith(f"job 13: complete; {path} cannot be read: ")


def test_a_rank_record_that_cannot_be_read_is_a_note_on_the_row(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12")
    path = put(folder / "results/12/rank1_results_epoch2.json", "")
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert row.notes == (f"{path} cannot be read: it is empty",)
    assert "| 2 GPUs, 1 Node [" in to_markdown(build_report(tmp_path))


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
    expected = "no nvidia-smi on node0: there is no GPU log of job 12"
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
    assert memory_notes(tmp_path) == {reason.format(path)}


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
    assert cell(rows(tmp_path)[name], "cpu_peak_mib") == ("—", "no psrecord log of node0 of job 12")


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
    report = build_report(tmp_path)
    assert parse_markdown(to_markdown(report))[1][1] == "nan [1]"
    record = json.loads(to_json(report))["rows"][0]
    assert (record["train_loss"], record["reasons"]["train_loss"]) == (None, "nan in the log")


# ---- Ratios --------------------------------------------------------------------------------


def test_without_a_one_gpu_run_there_is_no_ratio(tmp_path):
    write_run(tmp_path, 1, 2, "12")
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert row.cells["throughput_per_s"].text == "704.9"
    for name in ("throughput_scaling", "memory_avg_scaling", "efficiency_pct"):
        text, note = cell(row, name)
        assert text == "—"
        assert note.startswith("no complete 1-GPU run to compare with: no run yet: cd ")


DIFFERENCES = [
    ({"precision": "fp32"}, "precision fp32, baseline fp16"),
    ({"batch_size_per_gpu": 256}, "batch_size_per_gpu 256, baseline 512"),
    ({"model": "resnet18"}, "model resnet18, baseline resnet50"),
    ({"image_size": 224}, "image_size 224, baseline 64"),
    ({"gpu_name": "NVIDIA A100"}, "gpu_name NVIDIA A100, baseline Tesla V100-SXM2-32GB"),
    ({"versions": {"torch": "2.4.0"}}, "versions.torch 2.4.0, baseline 2.15.0"),
    ({"versions": None}, "versions.torch not recorded, baseline 2.15.0"),
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
        "not compared: the settings of job 11 are unknown (no run.json)",
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
    assert cell(row, "efficiency_pct") == ("—", "the number of GPUs is not known: no run.json")


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [
        (Fraction(1, 8), 2, "0.12"),
        (Fraction(3, 8), 2, "0.38"),
        (LoggedNumber("2.675"), 2, "2.68"),  # the float is 2.67499999…
        (LoggedNumber("1.005"), 2, "1.00"),
        (0.5, 0, "0"),
        (1.5, 0, "2"),
        (-0.125, 2, "-0.12"),
        (LoggedNumber("1e-05"), 2, "0.00"),
        (1234567, 1, "1234567.0"),
    ],
)
def test_rounding_is_half_to_even_on_the_digits_shown(value, places, text):
    assert round_half_even(value, places) == text


# ---- Formats -------------------------------------------------------------------------------

HOSTILE = '<script>alert(1)</script> `rm` a|b [x](http://evil.example) **b** &lt; =cmd|"/C calc"'


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    out = f"error: {HOSTILE}\x1b[2J\u202e\n"
    write_run(tmp_path, 1, 1, "11", complete=False, exit_status=1, out=out)
    return tmp_path


def test_text_from_a_log_is_not_obeyed_by_markdown(hostile):
    text = to_markdown(build_report(hostile))
    (note,) = {line for line in text.splitlines() if "error:" in line and "- [1]" in line}
    assert note == (
        "- [1] job 11: failed: error: &lt;script&gt;alert(1)&lt;/script&gt; \\`rm\\` a\\|b "
        '[x]\\(http:\\//evil.example) \\*\\*b\\*\\* &amp;lt; =cmd\\|"/C calc"'
    )
    assert "<" not in text
    assert not set(text) & {"\x1b", "\u202e"}


@given(st.text(max_size=60))
def test_escaped_text_stays_one_cell_of_one_line(text):
    line = escape_markdown(text)
    assert line.isprintable()
    assert not re.search(r"<|(?<!\\)(?:\\\\)*[|`*]|\]\(|://", line)
    assert not escape_csv(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_csv_is_one_tidy_table_with_numbers_and_reasons(experiments):
    records = list(csv.DictReader(io.StringIO(to_csv(build_report(experiments)))))
    assert [record["table"] for record in records] == ["multi_gpu"] * 4 + ["multi_node"] * 4
    assert [record["config"] for record in records] == CONFIGS
    assert records[1]["throughput_per_s"] == "1388.6"
    assert float(records[1]["throughput_scaling"]) == pytest.approx(1388.6 / 704.9)
    assert (records[1]["job_id"], records[1]["reason"]) == ("12", "")


def test_csv_gives_a_gap_its_reason_and_no_formula(hostile):
    records = list(csv.DictReader(io.StringIO(to_csv(build_report(hostile)))))
    assert records[0]["throughput_per_s"] == ""
    assert records[0]["reason"].startswith("job 11: failed: error: <script>")
    assert escape_csv('=HYPERLINK("x")') == '\'=HYPERLINK("x")'


def test_json_carries_numbers_as_numbers(experiments):
    document = json.loads(to_json(build_report(experiments)))
    assert document["epochs"] == 3
    row = document["rows"][1]
    assert (row["throughput_per_s"], row["gpu0_peak_mib"], row["gpus_per_node"]) == (
        1388.6,
        24508,
        2,
    )
    assert row["efficiency_pct"] == pytest.approx(1388.6 / 704.9 / 2 * 100)
    assert (row["reason"], row["reasons"], row["epoch"]) == (None, {}, 3)


def test_json_gives_a_gap_its_reason(pair, tmp_path):
    (pair / "gpu_memory/12/gpu_memory_log.csv").unlink()
    row = json.loads(to_json(build_report(tmp_path)))["rows"][1]
    assert row["gpu0_peak_mib"] is None
    assert row["reasons"]["gpu0_peak_mib"].startswith("no nvidia-smi on node0")
    assert row["reason"].startswith("gpu0_peak_mib, gpu0_avg_mib, gpu0_mode_mib, memory_avg_")


# ---- The command ---------------------------------------------------------------------------


def fill_tables(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, REPO / "scripts/fill_tables.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, encoding="utf-8")


def assert_one_line_error(done: subprocess.CompletedProcess, words: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_command_reads_experiments_here_by_default(experiments):
    done = fill_tables(cwd=experiments.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(parse_markdown(done.stdout)) == 10


def test_command_writes_a_file_whole(experiments, tmp_path):
    target = put(tmp_path / "out/tables.csv", "old")
    done = fill_tables(experiments, "--format", "csv", "-o", target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert target.read_text().startswith("table,config,")
    assert [path.name for path in target.parent.iterdir()] == ["tables.csv"]


def test_command_names_a_fix_and_leaves_the_file_alone(tmp_path):
    (tmp_path / "experiments").mkdir()
    target = put(tmp_path / "tables.md", "old")
    assert_one_line_error(fill_tables("-o", target, cwd=tmp_path), "python render.py")
    assert_one_line_error(fill_tables("nowhere", "-o", target, cwd=tmp_path), "no such folder")
    assert target.read_text() == "old"


def test_command_refuses_a_path_that_cannot_be_written(experiments, tmp_path):
    assert_one_line_error(fill_tables(experiments, "-o", tmp_path), "it is a folder")
    gone = tmp_path / "no/such/folder/tables.md"
    assert_one_line_error(fill_tables(experiments, "-o", gone), "No such file or directory")


def test_a_write_that_fails_midway_leaves_the_old_file_and_no_other(tmp_path):
    target = put(tmp_path / "tables.md", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "half\udc80")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_settings_helper_says_what_the_contract_says():
    """The stand-in's settings hold every field that is compared."""
    from scaling.cells import COMPARED_SETTINGS, _look_up

    record = settings(1, 1, "12")
    absent = [name for name in COMPARED_SETTINGS if _look_up(record, name) is None]
    assert absent == ["limit_batches"]  # None unless asked for
