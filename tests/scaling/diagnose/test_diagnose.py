"""diagnose.py, as its user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import diagnose
from diagnosis_runs import BASE, FAST, SLOW, drop_ranks, find, rank, write_known_run
from run_folders import put

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/diagnose.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process: run(argument, …) -> (status, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diagnose.py", *map(str, args)])
        status = diagnose.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def study(tmp_path) -> Path:
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 4, "11", [rank(data=0.13, comm=0.08)] * 4)
    return tmp_path


def test_the_command_names_the_first_cause_first(study):
    command = [sys.executable, SCRIPT, study]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    line = "4 GPUs (1 node) against Single GPU: 64.0 % efficient, 36.0 points lost: data wait 20.0"
    assert f"{line}, exposed communication 16.0\n" in done.stdout
    assert (
        "  1. Data wait: 130.0 ms of a 500.0 ms step at 4 GPUs, 30.0 ms of 320.0 ms at 1 GPU: "
        "20.0 of the 36.0 points lost.\n" in done.stdout
    )
    assert (
        "with about 1,900 samples per GPU and step, communication would be 5 % of the step"
        in done.stdout
    )
    assert done.stdout.endswith("points are lost in all.\n")


def test_json_has_the_numbers_unrounded(study, run):
    status, out, err = run(study, "--json", "--job", "11")
    assert (status, err) == (0, "")
    (table,) = json.loads(out)["tables"]
    rows = {row["cause"]: row for row in table["rows"]}
    assert rows["Data wait"]["points"] == pytest.approx(20.0)
    assert rows["Data wait"]["here_s"] == pytest.approx(0.13)
    assert rows["Data wait"]["base_s"] == pytest.approx(0.03)
    assert [rows[c]["place"] for c in rows][:3] == [1, 2, None]
    assert rows["Lost in all"]["base_s"] == pytest.approx(0.32)
    total = sum(row["points"] for cause, row in rows.items() if cause != "Lost in all")
    assert total == pytest.approx(rows["Lost in all"]["points"])


@pytest.mark.parametrize("form", ["md", "csv", "html"])
def test_every_format_has_every_cause(study, run, form):
    _, text, _ = run(study, "--format", form)
    for label in ("Data wait", "Exposed communication", "Imbalance", "Small per-GPU batch",
                  "Monitoring", "Not explained", "Lost in all"):  # fmt: skip
        assert label in text


def test_a_table_without_a_breakdown_has_no_rows_and_a_reason(study):
    drop_ranks(study / "multi_gpu/4_gpus")
    _, finding = find(study)
    table = finding.table()
    assert table.rows == [] and any("Not known: job 11: no rank" in text for text in table.remarks)


def test_workdirs_of_runs_outside_slurm(study, run, tmp_path_factory):
    """--workdir holds the results files flat, and no log."""
    flat = tmp_path_factory.mktemp("flat")
    for name, results in (("one", "baseline/results/10"), ("four", "multi_gpu/4_gpus/results/11")):
        (flat / name).mkdir()
        for path in (study / results).iterdir():
            put(flat / name / path.name, path.read_text())
    status, out, err = run(flat / "one", flat / "four")
    assert (status, err) == (0, "")
    assert "64.0 % efficient, 36.0 points lost: data wait 20.0" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "no such folder"),
        (["--job", "99"], "--job 99: no complete run of this study; there are: 10, 11"),
        (["--workload", "gpt2"], "no complete run of workload gpt2"),
    ],
)
def test_wrong_asks_are_one_line(study, run, args, words):
    status, out, err = run(*(args if args == ["nowhere"] else [study, *args]))
    assert (status, out) == (1, "")
    assert words in err and err.count("\n") == 1


def test_hostile_names_stay_text(tmp_path, run):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    hosts = ["<script>alert(1)</script>\x1b[31m\n|x|"]
    write_known_run(tmp_path, 1, 4, "11", [FAST, SLOW, FAST, FAST], hosts=hosts)
    for form in ("text", "md", "html"):
        _, text, _ = run(tmp_path, "--format", form)
        assert "\x1b" not in text
        assert form == "text" or "<script>" not in text
        assert "alert(1)" in text


ODD = (None, "x", True, 1e308, -1e308, float("nan"), [], {}, 0)


@pytest.mark.parametrize(
    "name",
    ["steps", "samples", "training_time", "data_wait_s", "compute_s", "exposed_comm_s", "probe",
     "optimizer_s", "other_s"],
)  # fmt: skip
def test_odd_records_of_others_end_in_words_not_in_a_crash(tmp_path, run, name):
    """A run of its own scale for each odd value."""
    write_known_run(tmp_path, 1, 1, "10", [BASE], epochs=2)
    for nodes, value in enumerate(ODD, start=1):
        ranks = [rank(data=0.21)] * 2 * nodes
        run_id = f"{10 + nodes}"
        folder = write_known_run(tmp_path, nodes, 2, run_id, ranks, epochs=2, monitors=False)
        for path in folder.glob(f"results/{run_id}/rank1_*.json"):
            put(path, json.dumps({**json.loads(path.read_text()), name: value}))
    status, text, err = run(tmp_path)
    assert (status, err) == (0, "") and "nan" not in text
    for nodes in range(1, len(ODD) + 1):
        assert f"{2 * nodes} GPUs ({nodes} node" in text
