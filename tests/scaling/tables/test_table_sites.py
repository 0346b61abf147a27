"""Tables that know their cluster (what it cannot run, what it should reach) and other workloads."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from common.errors import UserError
from filled_tables import call, cell, fill, notes, parse_markdown, rows
from in_process import run_script
from run_folders import out_text, write_run
from scaling.tables import Cell, Site
from scaling.tables.readme import check_expected
from scaling.tables.table import to_csv, to_json, to_markdown
from submit_command import render_short

EIGHT = "8 GPUs, 1 Node"
REASON = "the cluster cannot run it: 4 GPUs per node"
SITE = Site(cannot_run={"multi_gpu/8_gpus": REASON})


# ---- Scales that the cluster cannot run ------------------------------------------------------


def test_a_scale_that_the_cluster_cannot_run_keeps_a_labelled_row(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    row = rows(tmp_path, site=SITE)[EIGHT]
    assert (row.run, row.note, notes(row)) == (None, REASON, {REASON})
    text = to_markdown(fill(tmp_path, site=SITE))
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {EIGHT} "))
    mark = line.split("|")[1].strip().removeprefix(EIGHT).strip()
    assert f"- {mark} {REASON}\n" in text
    assert f"- {EIGHT}: no run: this cluster cannot run it\n" in text
    assert "8_gpus && sbatch" not in text
    record = json.loads(to_json(fill(tmp_path, site=SITE)))["tables"][0]["rows"][3]
    assert (record["notes"]["train_loss"], record["notes"]["config"]) == (REASON, REASON)
    assert REASON in to_csv(fill(tmp_path, site=SITE))


def test_a_run_weighs_more_than_what_the_profile_says(tmp_path):
    folder = write_run(tmp_path, 1, 8, "12")
    assert cell(rows(tmp_path, site=SITE)[EIGHT], "throughput_per_s") == ("704.9", None)
    (folder / "results/12/RUN_COMPLETE.txt").unlink()
    write_run(tmp_path, 1, 8, "12", complete=False, exit_status=1, out=out_text(1))
    (note,) = notes(rows(tmp_path, site=SITE)[EIGHT])
    assert note.startswith("job 12: failed: ")


def test_a_baseline_that_cannot_run_is_why_there_is_no_ratio(tmp_path):
    write_run(tmp_path, 1, 2, "12")
    site = Site(cannot_run={"baseline": "the cluster cannot run it: whole nodes only"})
    note = cell(rows(tmp_path, site=site)["2 GPUs, 1 Node"], "efficiency_pct")[1]
    assert note == (
        "no complete 1-GPU run to compare with: the cluster cannot run it: whole nodes only"
    )


def test_command_takes_the_reason_from_the_profile_of_the_scripts(tmp_path):
    four = ("--only", "ddp_[124]g1n")  # what fits a node of four GPUs
    assert run_script("render.py", "--cluster", "raven", "--to", tmp_path, *four).returncode == 0
    done = call("fill_tables", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    words = "] the cluster cannot run it: gpus_per_node = 8 exceeds gpus_per_node = 4 of cluster"
    assert words in done.stdout
    assert done.stdout.count("no run: this cluster cannot run it") == 1
    assert "8_gpus && sbatch" not in done.stdout


def test_command_goes_on_without_a_profile_that_can_be_read(tmp_path):
    jobs = render_short(tmp_path / "jobs")
    script = jobs / "baseline/baseline.slurm"
    script.write_text(script.read_text().replace("tests/profiles/short.toml", "gone"))
    done = call("fill_tables", jobs)
    assert done.returncode == 0
    assert done.stderr.startswith('warning: no cluster "gone" in templates/clusters; ')
    assert done.stderr.endswith("; rows are not set against a profile\n")
    assert len(parse_markdown(done.stdout)) == 10


# ---- What the cluster should reach -----------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ("800.0", None),  # the edge itself is inside
        ("1200.0", None),
        ("799.9", "799.9 img/s is 20.0 % below the 1000 img/s that the cluster's profile expects"),
        ("1200.1", "1200.1 img/s is 20.0 % above the 1000 img/s that the cluster's profile "),
        ("250.0", "250.0 img/s is 75.0 % below the 1000 img/s that the cluster's profile expects"),
    ],
)
def test_a_throughput_outside_of_what_is_expected_names_both_numbers(measured, words):
    value = Decimal(measured)
    expected = {"throughput": 1000.0, "tolerance_pct": 20, "source": "site benchmark, 2026-03"}
    note = check_expected(Cell(value, measured), expected, "img/s").note
    if words is None:
        assert note is None
    else:
        assert note.startswith(words)
        assert note.endswith("(± 20 %, site benchmark, 2026-03)")


def test_expected_numbers_are_shown_as_the_profile_has_them():
    expected = {"throughput": 1000000.25, "tolerance_pct": 2.5}
    note = check_expected(Cell(Decimal("1.0"), "1.0"), expected, "tokens/s").note
    assert "below the 1000000.25 tokens/s that the cluster's profile expects (± 2.5 %)" in note


def test_the_note_stands_beside_the_run_and_the_ratio_stays(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    write_run(tmp_path, 1, 2, "12", throughput=1000.0)
    site = Site(expected={"multi_gpu/2_gpus": {"throughput": 1400, "tolerance_pct": 10}})
    row = rows(tmp_path, site=site)["2 GPUs, 1 Node"]
    assert cell(row, "throughput_per_s") == (
        "1000.0",
        "1000.0 img/s is 28.6 % below the 1400 img/s that the cluster's profile expects (± 10 %)",
    )
    assert row.cells["throughput_per_s"].value == Decimal(1000)
    assert cell(row, "throughput_scaling") == ("1.42×", None)


# ---- Other workloads -------------------------------------------------------------------------


def out_of(unit: str, scores: str, throughput: float = 704.9) -> str:
    text = out_text(throughput=throughput).replace("img/s", unit)
    return text.replace("Accuracy (train, val): 2.16%, 0.98%", scores)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """GPT-2 at one, two and 2 x 4 GPUs beside a TinyImageNet run; batches as in fixed work."""
    write_run(tmp_path, 1, 1, "11")
    fixed = {"workload": "gpt2", "scaling": "strong", "global_batch_size": 16, "unit": "tokens/s"}
    for nodes, gpus, run_id, throughput, micro in [
        (1, 1, "21", 29600.0, 4),
        (1, 2, "22", 57289.3, 4),
        (2, 4, "23", 100791.4, 2),
    ]:
        out = out_of("tokens/s", "Perplexity (train, val): 31.5, 40.25", throughput)
        write_run(
            tmp_path / "gpt2", nodes, gpus, run_id, out=out, batch_size_per_gpu=micro, **fixed
        )
    return tmp_path


def test_tables_of_a_language_model_are_in_its_own_words(gpt2):
    done = call("fill_tables", gpt2, "--workload", "gpt2")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.split("## ")[1:]
    table = parse_markdown(first)
    assert table[0][1:4] == [
        "Train Loss (Epoch 3)",
        "Train Perplexity (Epoch 3)",
        "Throughput (tokens/s)",
    ]
    assert [row[0] for row in table[1:]] == ["1 GPU, 1 Node (baseline)", "2 GPUs, 1 Node"]
    assert table[2][2:4] + table[2][7:8] == ["31.5", "57289.3", "1.94×"]
    assert "Throughput: tokens of all ranks / seconds of the slowest rank" in first
    assert [row[0] for row in parse_markdown(second)[1:]] == ["1 Node (baseline)", "2 Nodes"]
    assert parse_markdown(second)[2][7] == "3.41×"
    assert parse_markdown(second)[2][9] == "42.6"  # 3.405 / 8 GPUs


def test_the_workload_stands_in_json_and_csv(gpt2):
    report = fill(gpt2, workload="gpt2")
    table = json.loads(to_json(report))["tables"][0]
    assert (table["workload"], table["throughput_unit"]) == ("gpt2", "tokens/s")
    assert table["rows"][0]["train_perplexity"] == 31.5
    assert to_csv(report).splitlines()[0].count("train_perplexity") == 1


def test_other_workloads_do_not_mix(gpt2):
    table = rows(gpt2)
    assert table["1 GPU, 1 Node (baseline)"].run.id == "11"
    assert table["2 GPUs, 1 Node"].run is None
    with pytest.raises(
        UserError, match="no run of workload spiral; there are those of: gpt2, tinyimagenet"
    ):
        fill(gpt2, workload="spiral")


def test_bleu_stands_where_accuracy_has_no_meaning(tmp_path):
    out = out_of("tokens/s", "BLEU (val): 12.5")
    write_run(tmp_path / "translation", 1, 1, "31", out=out, workload="translation")
    report = fill(tmp_path, workload="translation")
    assert "| Val BLEU (Epoch 3) |" in to_markdown(report)
    assert report[0].rows[0]["val_bleu"].text == "12.5"
    assert [table.name for table in report] == ["multi_gpu"]  # no job on several nodes


def test_a_score_or_unit_that_the_line_does_not_hold_is_named(tmp_path):
    write_run(tmp_path / "gpt2", 1, 1, "31", workload="gpt2")  # img/s, accuracies
    row = rows(tmp_path, workload="gpt2")["1 GPU, 1 Node (baseline)"]
    assert cell(row, "train_perplexity") == ("—", "the epoch line holds no perplexity")
    assert cell(row, "throughput_per_s") == ("—", "logged as 704.9 img/s, not in tokens/s")


def test_a_workload_of_ones_own_is_judged_by_its_lines(tmp_path):
    out = out_of("samples/s", "Perplexity (train, val): 2.5, 3.5")
    write_run(tmp_path / "mine", 1, 1, "31", out=out, workload="mine")
    text = to_markdown(fill(tmp_path, workload="mine"))
    assert "| Train Perplexity (Epoch 3) | Throughput (samples/s) |" in text
