"""fill_tables.py: the two tables of the README, filled, with a reason for each gap."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.files import write_whole
from filled_tables import call, cell, fill, notes, parse_markdown, rows, write_seven_scales
from run_folders import out_text, put, scale_folder, write_run
from scaling.tables.table import escape_csv, escape_markdown, to_csv, to_json, to_markdown

REPO = Path(__file__).resolve().parents[3]

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


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    return write_seven_scales(tmp_path / "experiments")


# ---- The tables ----------------------------------------------------------------------------


def test_both_tables_hold_exactly_the_rows_and_columns_of_the_readme(experiments):
    table = parse_markdown(to_markdown(fill(experiments)))
    assert table[0] == MULTI_GPU_HEADER
    assert table[5] == MULTI_NODE_HEADER
    assert [row[0] for row in table[1:5] + table[6:]] == CONFIGS


def test_the_values(experiments):
    table = parse_markdown(to_markdown(fill(experiments)))
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
    text = to_markdown(fill(experiments))
    assert "—" not in text
    assert "Notes" not in text
    assert "Not in these tables" not in text


def test_the_definition_and_the_source_of_each_row_stand_below(experiments):
    text = to_markdown(fill(experiments))
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
        cells = [cell for name, cell in row.cells.items() if name != "config"]
        assert {cell.text for cell in cells} == {"—"}
        assert all(cell.note.startswith("no run yet: cd ") for cell in cells)
    assert notes(table["8 GPUs, 1 Node"]) == {
        f"no run yet: cd {tmp_path}/multi_gpu/8_gpus && sbatch multi_gpu.slurm"
    }
    assert "Train Loss (Epoch 3)" in to_markdown(fill(tmp_path))


def test_the_number_of_epochs_is_that_of_the_runs(tmp_path):
    write_run(tmp_path, 1, 1, "11", out=out_text(5, 5), epochs=5)
    write_run(tmp_path, 1, 2, "12", out=out_text(3, 3), epochs=3)
    assert "| Train Loss (Epoch 5) |" in to_markdown(fill(tmp_path))
    two = rows(tmp_path)["2 GPUs, 1 Node"]
    assert two.note == "this run has 3 epochs: its values are of epoch 3"
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
    text = to_markdown(fill(tmp_path))
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
    text = to_markdown(fill(tmp_path))
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
    with pytest.raises(UserError, match=message):
        fill(tmp_path, jobs=jobs)


def test_other_workloads_and_scales_have_no_row(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 3, "12")
    write_run(tmp_path / "gpt2", 1, 2, "13", workload="gpt2")
    scale_folder(tmp_path / "translation", 1, 4)
    tokens = out_text().replace("img/s", "tokens/s")
    write_run(tmp_path / "old", 1, 8, "14", out=tokens, record={}, exit_status=None)
    left_out = "not in these tables: job 12 (1 nodes × 3 GPUs has no row): complete"
    assert [table.remarks for table in fill(tmp_path)] == [(), [left_out]]
    table = rows(tmp_path)
    for config, folder in [("2 GPUs, 1 Node", "2_gpus"), ("4 GPUs, 1 Node", "4_gpus")]:
        script = f"multi_gpu/{folder}/multi_gpu.slurm"
        expected = f"no run yet, and no job file {script}: write it with python render.py"
        assert notes(table[config]) == {expected}
    assert table["8 GPUs, 1 Node"].run is None


def test_a_run_whose_record_cannot_be_read_gives_way_to_an_earlier_one(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12")
    write_run(tmp_path, 1, 2, "13")
    path = put(folder / "results/13/run.json", "{")
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert row.run.id == "12"
    assert f"; later and not shown: job 13: complete; {path} cannot be read: " in row.source


def test_a_rank_record_that_cannot_be_read_is_a_note_on_the_row(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12")
    path = put(folder / "results/12/rank1_results_epoch2.json", "")
    row = rows(tmp_path)["2 GPUs, 1 Node"]
    assert row.note == f"{path} cannot be read: it is empty"
    assert "| 2 GPUs, 1 Node [" in to_markdown(fill(tmp_path))


# ---- Formats -------------------------------------------------------------------------------

HOSTILE = '<script>alert(1)</script> `rm` a|b [x](http://evil.example) **b** &lt; =cmd|"/C calc"'


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    out = f"error: {HOSTILE}\x1b[2J\u202e\n"
    write_run(tmp_path, 1, 1, "11", complete=False, exit_status=1, out=out)
    return tmp_path


def test_text_from_a_log_is_not_obeyed_by_markdown(hostile):
    text = to_markdown(fill(hostile))
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
    records = list(csv.DictReader(io.StringIO(to_csv(fill(experiments)))))
    assert [record["table"] for record in records] == ["multi_gpu"] * 4 + ["multi_node"] * 4
    assert [record["config"] for record in records] == CONFIGS
    assert records[1]["throughput_per_s"] == "1388.6"
    assert float(records[1]["throughput_scaling"]) == pytest.approx(1388.6 / 704.9)
    assert (records[1]["job_id"], records[1]["notes"]) == ("12", "")
    assert records[1]["log"].endswith("ddp_2g1n_12.out")


def test_csv_gives_a_gap_its_reason_and_no_formula(hostile):
    records = list(csv.DictReader(io.StringIO(to_csv(fill(hostile)))))
    assert records[0]["throughput_per_s"] == ""
    assert "cpu_peak_mib: job 11: failed: error: <script>" in records[0]["notes"]
    assert escape_csv('=HYPERLINK("x")') == '\'=HYPERLINK("x")'


def test_json_carries_numbers_as_numbers(experiments):
    table = json.loads(to_json(fill(experiments)))["tables"][0]
    assert (table["table"], table["epochs"]) == ("multi_gpu", 3)
    row = table["rows"][1]
    assert (row["throughput_per_s"], row["gpu0_peak_mib"], row["gpus_per_node"]) == (
        1388.6,
        24508,
        2,
    )
    assert row["efficiency_pct"] == pytest.approx(1388.6 / 704.9 / 2 * 100)
    assert (row["notes"], row["epoch"], row["job_id"]) == ({}, 3, "12")


# ---- The command ---------------------------------------------------------------------------


def assert_one_line_error(done, words: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_command_reads_experiments_here_by_default(experiments):
    command = [sys.executable, REPO / "scripts/fill_tables.py"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=experiments.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(parse_markdown(done.stdout)) == 10


def test_command_writes_a_file_whole(experiments, tmp_path):
    target = put(tmp_path / "out/tables.csv", "old")
    done = call("fill_tables", experiments, "--format", "csv", "-o", target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert target.read_text().startswith("table,config,")
    assert [path.name for path in target.parent.iterdir()] == ["tables.csv"]


def test_command_names_a_fix_and_leaves_the_file_alone(tmp_path):
    folder = tmp_path / "experiments"
    folder.mkdir()
    target = put(tmp_path / "tables.md", "old")
    assert_one_line_error(call("fill_tables", folder, "-o", target), "python render.py")
    assert_one_line_error(call("fill_tables", tmp_path / "no", "-o", target), "no such folder")
    assert target.read_text() == "old"


def test_command_refuses_a_path_that_cannot_be_written(experiments, tmp_path):
    done = call("fill_tables", experiments, "-o", tmp_path)
    assert_one_line_error(done, "it is a folder")
    gone = tmp_path / "no/such/folder/tables.md"
    assert_one_line_error(call("fill_tables", experiments, "-o", gone), "No such file or directory")


@pytest.mark.parametrize(
    "options",
    [["--summary"], ["--fixed-work"], ["--cost", "--price", "2"], ["--from-csv", "t.csv"]],
)
def test_options_of_tables_that_moved_name_the_command(options):
    done = call("fill_tables", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"python scripts/scaling_tables.py {options[0]}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_unlike_runs_are_divided_only_when_asked(tmp_path):
    write_run(tmp_path, 1, 1, "11", throughput=704.9)
    write_run(tmp_path, 1, 2, "12", throughput=1388.6, precision="bf16")
    assert "1.97×" not in call("fill_tables", tmp_path).stdout
    allowed = call("fill_tables", tmp_path, "--allow-unlike").stdout
    assert "1.97× [" in allowed
    assert "unlike, and compared (--allow-unlike) with job 11: precision bf16" in allowed


def test_every_format_holds_both_tables(experiments):
    text = {
        name: call("fill_tables", experiments, "--format", name).stdout
        for name in ("md", "markdown", "csv", "json", "html", "text")
    }
    assert all("12.77" in text[name] for name in ("md", "html", "text"))
    assert text["md"] == text["markdown"]
    names = [table["table"] for table in json.loads(text["json"])["tables"]]
    assert names == ["multi_gpu", "multi_node", "gpu_memory"]
    assert text["html"].count("<table>") == 3


def test_a_write_that_fails_midway_leaves_the_old_file_and_no_other(tmp_path):
    target = put(tmp_path / "tables.md", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "half\udc80")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_command_needs_no_pandas(tmp_path):
    write_run(tmp_path, 1, 1, "12")  # pandas takes longer to import than a thousand runs to read
    code = "import sys, fill_tables; fill_tables.main(); sys.exit('pandas' in sys.modules)"
    command = [sys.executable, "-c", code, tmp_path]
    assert subprocess.run(command, cwd=REPO / "scripts", capture_output=True).returncode == 0
