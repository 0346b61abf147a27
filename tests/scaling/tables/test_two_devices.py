"""One device against several, from rank files."""

import json
import shutil
from pathlib import Path

import pytest

from common.errors import UserError
from run_folders import put
from scaling.tables import compare_devices, format_comparison

# Seconds and tokens/s of the epochs; the first is left out.
SINGLE = ([60.0, 43.0, 47.46], [2000.0, 2700.0, 2991.34])
MULTI = ([40.0, 24.0, 25.0], [1500.0, 2600.0, 2650.0])


def write_workdir(
    folder: Path, ranks: int, batch: int | None, values=SINGLE, rate="tokens"
) -> Path:
    for rank in range(ranks):
        for epoch, (seconds, per_second) in enumerate(zip(*values, strict=True)):
            record = {"training_time": seconds + rank * 0.1, f"{rate}_per_sec": per_second}
            put(folder / f"rank{rank}_results_epoch{epoch}.json", json.dumps(record))
    if batch:
        put(folder / "run.json", json.dumps({"global_batch_size": batch, "world_size": ranks}))
    return folder


@pytest.fixture
def workdirs(tmp_path):
    single = write_workdir(tmp_path / "workdir_single", 1, 64)
    return single, write_workdir(tmp_path / "workdir_2gpu", 2, 128, MULTI)


def test_the_text_of_the_comparison(workdirs):
    # 43.00 and 47.46 s: mean 45.23, deviation 4.46 / sqrt(2). Two ranks: 24.05 and 25.05 s.
    assert format_comparison(compare_devices(*workdirs)).startswith(
        "Single Device (world_size=1, batch_size=64):\n"
        "  Training Time: 45.23 ± 3.15 seconds\n"
        "  Tokens/Second: 2845.67 ± 206.01\n"
        "Multi-Device (world_size=2, batch_size=128):\n"
        "  Training Time: 24.55 ± 0.71 seconds\n"
        "  Tokens/Second: 5250.00 ± 70.71\n"
        "Speedup:\n"
        "  Training Time Speedup: 1.84x\n"
        "  Throughput Speedup: 1.84x\n"
    )


def test_bars_of_each_rank(workdirs):
    multi = compare_devices(*workdirs).multi
    assert [float(spread.mean) for spread in multi.per_rank_s] == [24.5, 24.6]


def test_run_folders_serve_as_well(tmp_path, workdirs):
    single, multi = workdirs
    job = tmp_path / "multi_gpu/2_gpus"
    shutil.copytree(single, job / "results/9")  # an older run
    shutil.copytree(multi, job / "results/10")
    assert compare_devices(single, job).multi.world_size == 2


def test_samples_are_called_so(tmp_path):
    single = write_workdir(tmp_path / "a", 1, None, rate="samples")
    multi = write_workdir(tmp_path / "b", 2, None, MULTI, rate="samples")
    text = format_comparison(compare_devices(single, multi))
    assert "batch_size=unknown" in text and "Samples/Second: 2845.67" in text
    assert f"Note: {single}: no run.json" in text
    put(multi / "run.json", json.dumps({"unit": "tokens/s"}))  # it counts samples all the same
    assert compare_devices(single, multi).multi.unit == "samples/s"


def test_the_same_global_batch_is_strong_scaling(tmp_path, workdirs):
    multi = write_workdir(tmp_path / "strong", 2, 64, MULTI)
    assert "strong scaling" in format_comparison(compare_devices(workdirs[0], multi))


def test_one_epoch_says_no_steady_state(tmp_path, workdirs):
    single = write_workdir(tmp_path / "one", 1, 64, ([40.0], [2000.0]))
    text = format_comparison(compare_devices(single, workdirs[1]))
    assert "Training Time: 40.00 (one epoch: no deviation) seconds" in text
    assert "no steady state" in text


def test_unlike_runs_have_no_speedup(workdirs):
    for folder, precision in zip(workdirs, ("fp16", "fp32"), strict=True):
        put(folder / "run.json", json.dumps({"unit": "tokens/s", "precision": precision}))
    comparison = compare_devices(*workdirs)
    text = format_comparison(comparison)
    assert "  Throughput Speedup: —\n" in text
    assert "not alike: precision fp32, baseline fp16" in text
    assert "  Throughput Speedup: 1.84x\n" in format_comparison(comparison, allow_unlike=True)


@pytest.mark.parametrize(
    "name", ["rank0_results_epoch0.json", "rank1_results_epoch1.json", "rank0_results_epoch2.json"]
)
def test_a_missing_file_is_named(workdirs, name):
    (workdirs[1] / name).unlink()
    with pytest.raises(UserError) as error:
        compare_devices(*workdirs)
    assert f"missing: {workdirs[1] / name}" in str(error.value)


def test_a_rank_that_run_json_promises_is_missing(workdirs):
    put(workdirs[1] / "run.json", json.dumps({"world_size": 4}))
    with pytest.raises(UserError, match=r"rank2_results_epoch0\.json"):
        compare_devices(*workdirs)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "cannot be read"), ("{}", "not a rank's record"),
     ('{"training_time": 0, "tokens_per_sec": 1}', "no throughput, or no time"),
     ('{"training_time": 1, "tokens_per_sec": null}', "no throughput, or no time")],
)  # fmt: skip
def test_a_broken_file_is_named(workdirs, text, words):
    put(workdirs[1] / "rank1_results_epoch1.json", text)
    with pytest.raises(UserError, match=words) as error:
        compare_devices(*workdirs)
    assert "rank1_results_epoch1.json" in str(error.value)


def test_folders_the_wrong_way_round_are_refused(workdirs, tmp_path):
    single, multi = workdirs
    with pytest.raises(UserError, match="files of 2 ranks, and is given"):
        compare_devices(multi, multi)
    with pytest.raises(UserError, match=r"missing: .*rank1_results_epoch0\.json"):
        compare_devices(single, single)
    with pytest.raises(UserError, match="no such folder"):
        compare_devices(tmp_path / "nowhere", multi)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"missing: .*rank0_results_epoch0\.json"):
        compare_devices(tmp_path / "empty", multi)


def test_epochs_of_other_work_are_noted(workdirs):
    for folder, samples in zip(workdirs, (1000, 1000), strict=True):
        for path in folder.glob("rank*.json"):
            record = json.loads(path.read_text())
            path.write_text(json.dumps({**record, "tokens": samples}))
    text = format_comparison(compare_devices(*workdirs))
    assert "had 100.0 % more samples (or tokens) than the single's" in text
