"""check_tables.py: what a participant filled in, against the logs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from filled_tables import call, fill, write_seven_scales
from run_folders import out_text, put, write_run
from scaling.tables.check import Verdict, check_tables, parse_cell, read_filled_tables
from scaling.tables.table import to_markdown

REPO = Path(__file__).resolve().parents[3]


def check(*options: object):
    return call("check_tables", *options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_seven_scales(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(runs):
    return fill(runs)


def fill_one(report, tmp_path: Path, header: str, written: str, config: str = "2 GPUs, 1 Node"):
    """The verdict on one cell of the first table that is filled in, all others being empty."""
    table = report[0]
    headers = list(table.headers.values())[1:]
    cells = [written if name == header else "" for name in headers]
    lines = [f"## {table.title}", "| Config | " + " | ".join(headers) + " |"]
    lines += ["|---" * (len(headers) + 1) + "|", f"| {config} | " + " | ".join(cells) + " |"]
    path = put(tmp_path / "t.md", "\n".join(lines) + "\n")
    return next(cell for cell in check_tables(path, report) if cell.header == header)


def test_what_fill_tables_prints_is_right(runs, report, tmp_path):
    path = put(tmp_path / "t.md", to_markdown(report))
    cells = check_tables(path, report)
    assert len(cells) == 80 and {cell.verdict for cell in cells} == {Verdict.RIGHT}


def test_the_blank_tables_are_not_filled(runs, report):
    cells = check_tables(REPO / "experiments/TABLES.md", report)
    assert {cell.verdict for cell in cells} == {Verdict.RIGHT, Verdict.NOT_FILLED}
    assert sum(cell.verdict is Verdict.RIGHT for cell in cells) == 6  # the baseline's own ratios


def test_the_blank_tables_without_any_run(tmp_path):
    write_run(tmp_path, 1, 2, "11")
    cells = check_tables(REPO / "experiments/TABLES.md", fill(tmp_path))
    baseline = [cell for cell in cells if "baseline" in cell.config]
    assert {cell.verdict for cell in baseline} == {Verdict.NOTHING}


TWO = "2 GPUs, 1 Node"  # 1388.6 img/s, 704.9 on one: 1.96993... x, 98.4966... %


@pytest.mark.parametrize(
    ("header", "written", "verdict", "why"),
    [
        ("Throughput (img/s)", "1388.6", Verdict.RIGHT, ""),
        ("Throughput (img/s)", "1,388.6 img/s", Verdict.RIGHT, ""),
        ("Throughput (img/s)", "**1388.60**", Verdict.RIGHT, ""),
        ("Throughput (img/s)", "1388,6", Verdict.RIGHT, ""),  # a decimal comma
        ("Throughput (img/s)", "1.388,6", Verdict.RIGHT, ""),
        ("Throughput (img/s)", "1,389", Verdict.ROUNDED, "with 0 decimals"),
        ("Throughput (img/s)", "1388,7", Verdict.WRONG, ""),
        ("Train Loss (Epoch 3)", "5,149", Verdict.RIGHT, ""),
        ("Train Loss (Epoch 3)", "5,15", Verdict.ROUNDED, "with 2 decimals"),
        ("Train Loss (Epoch 3)", "5,148", Verdict.WRONG, ""),
        ("Throughput (img/s)", "1389", Verdict.ROUNDED, "with 0 decimals"),
        ("Throughput (img/s)", "1388", Verdict.WRONG, "cut off, not rounded"),
        ("Throughput (img/s)", "1388.7", Verdict.WRONG, ""),
        ("Throughput (img/s)", "704.9", Verdict.WRONG, ""),
        ("Throughput (img/s)", "fast", Verdict.WRONG, "not a number"),
        ("Throughput (img/s)", "", Verdict.NOT_FILLED, ""),
        ("Throughput (img/s)", "—", Verdict.NOT_FILLED, ""),
        ("Throughput (img/s)", "n/a", Verdict.NOT_FILLED, ""),
        ("Train Loss (Epoch 3)", "5.149", Verdict.RIGHT, ""),
        ("Train Loss (Epoch 3)", "5.15", Verdict.ROUNDED, "with 2 decimals"),
        ("Train Loss (Epoch 3)", "5.664", Verdict.WRONG, "the validation's"),
        ("Train Acc (Epoch 3)", "2.16%", Verdict.RIGHT, ""),
        ("Train Acc (Epoch 3)", "2.16", Verdict.RIGHT, ""),
        ("Train Acc (Epoch 3)", "0.0216", Verdict.ROUNDED, "as a fraction of 1"),
        ("Train Acc (Epoch 3)", "0.98%", Verdict.WRONG, "the validation's"),
        ("Throughput Scaling vs 1G", "1.97×", Verdict.RIGHT, ""),
        ("Throughput Scaling vs 1G", "1.97x", Verdict.RIGHT, ""),
        ("Throughput Scaling vs 1G", "1.97", Verdict.RIGHT, ""),
        ("Throughput Scaling vs 1G", "2.0", Verdict.ROUNDED, "with 1 decimal"),
        ("Throughput Scaling vs 1G", "1.9699", Verdict.ROUNDED, "with 4 decimals"),
        ("Throughput Scaling vs 1G", "1.96", Verdict.WRONG, "cut off, not rounded"),
        ("Parallel Efficiency (%)", "98.5", Verdict.RIGHT, ""),
        ("Parallel Efficiency (%)", "98 %", Verdict.ROUNDED, "with 0 decimals"),
        ("Parallel Efficiency (%)", "0.985", Verdict.WRONG, "in percent"),
        ("GPU 0 Peak (MiB)", "24508 MiB", Verdict.RIGHT, ""),
        ("GPU 0 Peak (MiB)", "23.93 GiB", Verdict.ROUNDED, "in GiB"),
        ("GPU 0 Peak (MiB)", "24509", Verdict.WRONG, ""),
        ("CPU Peak (MiB)", "4019", Verdict.RIGHT, ""),
    ],
)
def test_a_cell(report, tmp_path, header, written, verdict, why):
    cell = fill_one(report, tmp_path, header, written)
    assert cell.verdict is verdict
    assert why in cell.why


def test_efficiency_made_from_the_rounded_scaling(tmp_path):
    write_run(tmp_path, 1, 1, "11", throughput=704.9)
    write_run(tmp_path, 1, 8, "12", throughput=5399.5)  # 7.65995 x, 95.749 %
    eight = fill_one(fill(tmp_path), tmp_path, "Parallel Efficiency (%)", "95.75", "8 GPUs, 1 Node")
    assert eight.verdict is Verdict.ROUNDED
    scaled = fill_one(fill(tmp_path), tmp_path, "Parallel Efficiency (%)", "95.8", "8 GPUs, 1 Node")
    assert scaled.verdict is Verdict.ROUNDED and scaled.why == "made from the rounded scaling"


def test_another_epoch_is_named(tmp_path):
    out = out_text().replace(
        "Epoch [2/3] LR: 0.001000 | Loss (train, val): 5.149",
        "Epoch [2/3] LR: 0.001000 | Loss (train, val): 5.333",
    )
    write_run(tmp_path, 1, 2, "12", out=out)
    cell = fill_one(fill(tmp_path), tmp_path, "Train Loss (Epoch 3)", "5.333")
    assert "that is epoch 2's, not the last one's" in cell.why


def test_a_wrong_cell_names_its_line(report, runs, tmp_path):
    log = runs / "multi_gpu/2_gpus/log/ddp_2g1n_12.out"
    one = runs / "baseline/log/ddp_1g1n_11.out"
    assert fill_one(report, tmp_path, "Throughput (img/s)", "1").why == f"see {log}, line 4"
    why = fill_one(report, tmp_path, "Throughput Scaling vs 1G", "3").why
    assert why == f"see {log}, line 4, over {one}, line 4"
    assert log.read_text().splitlines()[3].endswith("1388.6 img/s")


def test_memory_is_named_by_the_line_that_the_job_printed(tmp_path):
    line = "[gpu_memory_log - GPU 0] Peak = 26532 MiB, Avg = 24266.00 MiB, Mode = 22000 MiB"
    write_run(tmp_path, 1, 2, "12", out=out_text() + line + "\n")
    log = tmp_path / "multi_gpu/2_gpus/log/ddp_2g1n_12.out"
    assert fill_one(fill(tmp_path), tmp_path, "GPU 0 Peak (MiB)", "1").why == (f"see {log}, line 8")


def test_a_number_where_the_logs_have_none_is_wrong(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12")
    for path in (folder / "gpu_memory/12").iterdir():
        path.unlink()
    report = fill(tmp_path)
    cell = fill_one(report, tmp_path, "GPU 0 Peak (MiB)", "26532")
    assert cell.verdict is Verdict.WRONG and "the logs give no value" in cell.why
    assert fill_one(report, tmp_path, "GPU 0 Peak (MiB)", "—").verdict is Verdict.NOTHING


# ---- The command ----------------------------------------------------------------------------


def test_answers_are_printed_only_when_asked(runs, report, tmp_path):
    text = to_markdown(report).replace("1388.6", "7").replace("24508.00", "")
    path = put(tmp_path / "t.md", text)
    command = [sys.executable, REPO / "scripts/check_tables.py", path, runs]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "1388.6" not in done.stdout and "24508.00" not in done.stdout
    assert "wrong (7): see " in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "73 right, 0 rounded differently but right, 1 wrong, 6 not filled, 0 nothing to fill in"
    )
    shown = check(path, runs, "--show").stdout
    assert "-> 1388.6" in shown and "-> 24508.00" in shown
    hidden = json.loads(check(path, runs, "--json").stdout)
    assert hidden["counts"]["wrong"] == 1
    assert "1388.6" not in json.dumps(hidden) and "answer" not in hidden["cells"][0]
    assert json.loads(check(path, runs, "--json", "--show").stdout)["cells"][0]["answer"]


def test_all_right_ends_with_0(runs, report, tmp_path):
    assert check(put(tmp_path / "t.md", to_markdown(report)), runs).returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("| 2 GPUs, 1 Node ", "| 3 GPUs, 1 Node ", "no row '3 GPUs, 1 Node'"),
        ("GPU 0 Peak (MiB)", "GPU 7 Peak (MiB)", "no column 'GPU 7 Peak (MiB)'"),
        ("| 1388.6 |", "| 1388.6 | |", "count its | characters"),
        ("Config", "Setup", "no table whose first column is Config"),
    ],
)
def test_a_table_that_is_none_is_one_line(runs, report, tmp_path, old, new, words):
    text = to_markdown(report).replace("  ", " ").replace("  ", " ").replace("  ", " ")
    text = "\n".join(" ".join(line.split()) for line in text.splitlines())
    assert old in text
    done = check(put(tmp_path / "t.md", text.replace(old, new)), runs)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr


def test_missing_files_are_one_line(tmp_path, runs):
    done = check(tmp_path / "none.md", runs)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    done = check(REPO / "experiments/TABLES.md", tmp_path / "nowhere")
    assert done.returncode == 1 and "no such folder" in done.stderr


def test_tables_as_editors_leave_them(tmp_path):
    text = "# T\nConfig | A\n:-- | --:\n`x` | *1* [2]\n\n| Config | B |\n|--|--|\n| y | 2 |\n"
    first, second = read_filled_tables(put(tmp_path / "t.md", text))
    assert (first.heading, first.rows) == ("T", [(4, {"Config": "x", "A": "1"})])
    assert second.rows == [(8, {"Config": "y", "B": "2"})]
    with pytest.raises(UserError, match="no table"):
        read_filled_tables(put(tmp_path / "t.md", "| a | b |\n"))
    assert parse_cell("1.5 GiB") == [1536]


def test_a_value_of_another_run_names_its_job(tmp_path):
    write_run(tmp_path, 1, 2, "12", throughput=1300.0)
    write_run(tmp_path, 1, 2, "13", throughput=1400.0)
    table = (
        "## Multi-GPU Scaling (1 Node)\n| Config | Throughput (img/s) |\n|---|---|\n"
        "| 2 GPUs, 1 Node | 1300.0 |\n"
    )
    path = put(tmp_path / "t.md", table)
    done = check(path, tmp_path)
    assert "wrong (1300.0): that is job 12's; take it with --job 12; see " in done.stdout
    assert check(path, tmp_path, "--job", 12).returncode == 0


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_in_a_cell_has_a_verdict(report, tmp_path_factory, text):
    written = text.replace("|", " ").replace("\n", " ")
    table = f"## {report[0].title}\n| Config | Throughput (img/s) |\n|---|---|\n"
    path = tmp_path_factory.mktemp("cell") / "t.md"
    path.write_text(f"{table}| 2 GPUs, 1 Node | {written} |\n", encoding="utf-8")
    try:
        cells = check_tables(path, report)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert len(cells) <= 1
