"""advise.py --memory: predictions beside what runs measured."""

import json

import pytest

from common.memory import name_sources
from run_folders import write_run
from scaling.advise import make_memory_advice
from scaling.advise.advice import make_request
from scaling.runs import find_runs, make_study
from study_folders import write_ranks

ARGV = ["scripts/train.py", "--batch-size=512", "--data-dir=/data"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A run of four ranks that peak at 3,000 MiB; PyTorch's answer to it is kept already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_run(tmp_path / "runs", 1, 4, "12", argv=ARGV)
    write_ranks(folder / "results/12", 0, 4, 10.0, 3.0)
    for path in folder.glob("results/12/rank*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"peak_memory_mib": 3000.0}))
    study = make_study(find_runs(tmp_path / "runs"))
    answer = {"batch": 512, "peak_mib": 2700.0, "fixed_mib": 140.0, "per_sample_mib": 5.0}
    key = json.dumps([*name_sources(), make_request(study.settings(0))], sort_keys=True)
    kept = tmp_path / "cache/ddp-scaling/memory.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({key: answer}))
    return study


def test_predicted_beside_measured(study):
    (row,) = make_memory_advice(study).rows
    assert {name: cell.text for name, cell in row.items()} == {
        "config": "4 GPUs (1 node)", "batch": "512", "predicted_mib": "2700",
        "measured_mib": "3000", "error_pct": "-10.0", "gpu_mib": "32510", "verdict": "fits",
        "largest": "5269",  # ((32,510 - 2,048) / 1.15 - 140) / 5
    }  # fmt: skip


def test_what_is_asked_about_a_run(study):
    assert make_request(study.settings(0)) == {
        "trainer": "train.py", "words": [*ARGV[1:], "--precision=fp16"], "world_size": 4,
        "local_world_size": 4, "device": "cuda", "classes": 200,
    }  # fmt: skip
    assert make_request({}) is None


def test_a_run_that_says_nothing_has_no_prediction(tmp_path):
    write_run(tmp_path, 1, 1, "12")
    (row,) = make_memory_advice(make_study(find_runs(tmp_path))).rows
    assert (row["predicted_mib"].text, row["error_pct"].text) == ("—", "—")
    assert row["predicted_mib"].note == "no command line is recorded"
