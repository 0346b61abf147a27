"""report.py --proposal: the tables, the rule, the GPU-hours, and where each number comes from."""

import json
import re
from pathlib import Path

import pytest

from common.errors import UserError
from in_process import run_script
from run_folders import write_run
from scaling.report import make_proposal, to_text
from scaling.runs import find_runs
from study_folders import write_study_run


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Weak scaling on 1, 2 and 4 GPUs, twice each: 4 GPUs reach 60 %; strong on 1 and 2, once."""
    root = tmp_path_factory.mktemp("study")
    for number in (0, 1):
        for gpus, factor in ((1, 1.0), (2, 1.0), (4, 0.65)):
            run = str(100 + 10 * number + gpus)
            folder = write_study_run(root / "weak", 1, gpus, run, rounds=2,
                                     factor=factor * (1 + 0.01 * number))  # fmt: skip
            end = {"exit_status": 0, "elapsed_s": 2000}
            (folder / f"results/{run}/job_end.json").write_text(json.dumps(end))
    return root


def make(root: Path, **changed):
    given = {"asked_runs": 10, "epochs": 20, "target_pct": 75.0} | changed
    return make_proposal(find_runs(root), "tinyimagenet", str(root), **given)


def read_request(proposal) -> dict[str, str]:
    return {row["what"].text: row["value"].text for row in proposal.tables[-1].rows}


def test_the_job_size_is_the_largest_above_the_target(study):
    proposal = make(study)
    rule = proposal.tables[-1].definitions[0]
    assert "largest measured job in weak scaling" in rule
    assert "2 GPUs (1 node) is the largest measured scale above 75 % efficiency (96.6 %)" in rule
    assert read_request(proposal)["GPUs of a job"] == "2"
    assert read_request(make(study, target_pct=97.0))["GPUs of a job"] == "1"


def test_gpu_hours_follow_from_the_measured_epochs(study):
    found = read_request(make(study))
    # The epochs of jobs 102 and 112, worked out from what they recorded.
    seconds = []
    for run in ("102", "112"):
        record = json.loads(
            (study / f"weak/multi_gpu/2_gpus/results/{run}/training_metrics.json").read_text()
        )
        seconds.append([epoch["epoch_wall_time_sec"] for epoch in record["epochs"]])
    steady = [sum(each[1:]) / 4 for each in seconds]
    mean = sum(steady) / 2
    training = seconds[1][0] + 19 * mean  # the latest run's warm-up, then the mean
    around = 2000 - 93.1  # elapsed_s less the total training time
    half = 19 * 12.706 * abs(steady[0] - steady[1]) / 2  # Student t, one degree of freedom
    hours, half_h = 10 * 2 * (training + around) / 3600, 10 * 2 * half / 3600
    assert found["Epoch (s)"] == f"{mean:.2f}"
    assert float(found["Training of 20 epochs (s)"]) == pytest.approx(training, abs=0.06)
    assert float(found["Start and end of a job (s)"]) == pytest.approx(around, abs=0.06)
    assert float(found["GPU-hours for 10 runs"]) == pytest.approx(hours, abs=0.06)
    assert float(found["± of that (GPU-hours)"]) == pytest.approx(half_h, abs=0.06)
    asked = re.match(r"(\d+) \(95 % interval: ([\d.]+) to ([\d.]+)\)", found["Asked for"])
    assert hours + half_h <= int(asked[1]) < hours + half_h + 1
    assert float(asked[3]) == pytest.approx(hours + half_h, abs=0.06)


def test_every_number_names_its_job_and_line(study):
    proposal = make(study)
    text = to_text(proposal, str(study))
    for table in proposal.tables[:2]:
        assert all(row["from"].text for row in table.rows)
    assert "weak/baseline/results/111/run.json, model" in text.replace("\\", "")
    sources = proposal.tables[2].sources
    assert len(sources) == 6
    for line in sources:
        log, first, last = re.search(r"\((\S+), lines (\d+) to (\d+)\)", line).groups()
        lines = (study / log).read_text().splitlines()
        assert "Epoch [2/5]" in lines[int(first) - 1]
        assert "Epoch [5/5]" in lines[int(last) - 1]


def test_strong_scaling_decides_where_it_was_measured(tmp_path):
    for run, (gpus, batch) in {"1": (1, 512), "2": (2, 256)}.items():
        write_study_run(tmp_path / "a", 1, gpus, run, scaling="strong", global_batch_size=512,
                        batch_size_per_gpu=batch, rounds=2, metrics=False)  # fmt: skip
        write_study_run(tmp_path / "b", 1, gpus, f"1{run}", rounds=2)
    proposal = make(tmp_path, epochs=None, asked_runs=1)
    assert [table.name for table in proposal.tables[2:4]] == ["strong_scaling", "weak_scaling"]
    assert "in strong scaling" in proposal.tables[-1].definitions[0]
    found = read_request(proposal)
    assert found["Training of 5 epochs (s)"] == "93.1"  # of a bare log: its wall time
    assert found["± of that (GPU-hours)"] == "—"
    batches = {row["what"].text: row["value"].text for row in proposal.tables[1].rows}
    assert (batches["Batch per GPU, on 1 GPU"], batches["Batch per GPU, on 2 GPUs"]) == (
        "512", "256"
    )  # fmt: skip


def test_one_scale_is_no_evidence(tmp_path):
    write_run(tmp_path, 1, 1, "1")
    with pytest.raises(UserError, match="no two scales of workload tinyimagenet can be compared"):
        make(tmp_path)


def test_the_command_writes_page_and_markdown(study, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "scaling.report.page.draw_picture",
        lambda chart, key: drawn.append(chart.name) or "<svg></svg>",
    )
    page = tmp_path / "p.html"
    options = ("--proposal", "--runs", 10, "--epochs", 20, "-o", page)
    done = run_script("scripts/report.py", study, *options)
    assert done.returncode == 0, done.stderr
    assert drawn == ["speedup_chart", "efficiency_chart"]
    asked = make(study).asked
    assert asked in page.read_text() and 'http-equiv="refresh"' not in page.read_text()
    assert asked.split(" (")[0] in (tmp_path / "p.md").read_text()
    done = run_script("scripts/report.py", study, "--epochs", 3)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
