"""scaling.runs.frames and export_runs.py: runs as tidy tables."""

import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from run_folders import epoch_line, gpu_csv, out_text, put, write_run
from scaling.read.text import UTC
from scaling.runs import Run, find_runs, frames
from scaling.runs.frames import (
    EPOCH_COLUMNS,
    FRAMES,
    RANK_COLUMNS,
    RUN_COLUMNS,
    SAMPLE_COLUMNS,
    find_utc_offset,
    make_epochs_frame,
    make_rank_epochs_frame,
    make_runs_frame,
    make_samples_frame,
)

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
COLUMNS = dict(zip(FRAMES, (RUN_COLUMNS, EPOCH_COLUMNS, RANK_COLUMNS, SAMPLE_COLUMNS), strict=True))


def write_ranks(folder: Path, run_id: str, ranks: int = 2, epochs: int = 3) -> None:
    """Each rank's files: rank r needs 10 + r s for 1,000 samples, 1 s of which it waits."""
    for rank in range(ranks):
        for epoch in range(epochs):
            record = {"rank": rank, "epoch": epoch, "training_time": 10.0 + rank, "samples": 1000}
            record |= {"samples_per_sec": 1000 / (10 + rank), "data_wait_s": 1.0, "bleu": None}
            record |= {"validation_loss": 2.5, "validation_accuracy": 0.5, "peak_memory_mib": 512.5}
            put(
                folder / f"results/{run_id}/rank{rank}_results_epoch{epoch}.json",
                json.dumps(record),
            )


def write_metrics(folder: Path, run_id: str, epochs: int = 3) -> None:
    entries = [
        {
            "epoch_idx": epoch,
            "epoch_wall_time_sec": 20.0 + epoch,
            "train_time_slowest_rank_sec": 11.0,
            "samples_processed_global": 2000,
            "samples_per_sec_global": 2000 / 11,
            "train_loss_avg_global": 3.0,
            "val_loss_avg_global": 2.5,
            "val_accuracy_global": 0.5,
        }
        for epoch in range(1, epochs + 1)
    ]
    metrics = {"schema_version": "2.0", "epochs": entries, "summary": {"completed": True}}
    put(folder / f"results/{run_id}/training_metrics.json", json.dumps(metrics))


def gpu_samples(runs: list[Run]) -> pd.DataFrame:
    samples = make_samples_frame(runs)
    return samples[samples["source"] == "nvidia-smi"].reset_index(drop=True)


def cpu_samples(runs: list[Run]) -> pd.DataFrame:
    samples = make_samples_frame(runs)
    return samples[samples["source"] == "psrecord"].reset_index(drop=True)


def only(root: Path) -> list[Run]:
    runs = find_runs(root)
    assert len(runs) == 1
    return runs


def test_a_run(tmp_path):
    folder = write_run(tmp_path, 2, 2, "12", hosts=["node1", "node2"], grad_accum_steps=2)
    (row,) = make_runs_frame(only(tmp_path)).to_dict("records")
    assert row["start_utc"] == datetime(2026, 11, 21, 10, 12, tzinfo=UTC)
    expected = {
        "folder": str(folder), "run_id": "12", "job_id": 12, "job_name": "ddp_2g2n",
        "workload": "tinyimagenet", "state": "complete", "nodes": 2, "gpus_per_node": 2,
        "world_size": 4, "batch_size_per_gpu": 512, "global_batch_size": 2048, "scaling": "weak",
        "precision": "fp16", "strategy": "ddp", "grad_accum_steps": 2, "epochs": 3,
        "epochs_done": 3, "warmup_epochs": 1, "unit": "img/s", "torch": "2.15.0",
        "gpu_name": "Tesla V100-SXM2-32GB", "trainer_sha256": "c0ffee", "elapsed_s": 93.0,
        "total_training_s": 93.1, "hosts": "node1 node2",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_a_run_without_json_is_a_row_with_what_its_log_says(tmp_path):
    write_run(tmp_path, 1, 4, "13", record={}, exit_status=None)
    runs = only(tmp_path)
    (row,) = make_runs_frame(runs).to_dict("records")
    assert (row["state"], row["nodes"], row["gpus_per_node"]) == ("complete", 1, 4)
    assert (row["world_size"], row["epochs"], row["unit"]) == (4, 3, "img/s")
    assert pd.isna(row["precision"])
    assert pd.isna(row["batch_size_per_gpu"])
    epochs = make_epochs_frame(runs)
    assert list(epochs["throughput_per_s"]) == [704.9] * 3
    assert list(epochs["val_accuracy"]) == [0.0098] * 3
    assert set(epochs["source"]) == {"log"}
    assert len(gpu_samples(runs)) == 20 * 4


def test_a_failed_run_is_a_row_with_its_cause(tmp_path):
    error = "[rank 1 on node2] error: cannot decode n01443537_0.JPEG"
    write_run(tmp_path, 1, 2, "12", out=f"{out_text(1)}{error}\n", complete=False, exit_status=1)
    (row,) = make_runs_frame(only(tmp_path)).to_dict("records")
    assert (row["state"], row["cause"], row["epochs_done"]) == ("failed", error, 1)


def test_epochs_of_the_metrics_file(tmp_path):
    write_metrics(write_run(tmp_path, 1, 2, "12"), "12")
    frame = make_epochs_frame(only(tmp_path))
    assert list(frame["epoch"]) == [1, 2, 3]
    assert list(frame["epoch_s"]) == [21.0, 22.0, 23.0]
    assert list(frame["samples"]) == [2000] * 3
    assert frame["throughput_per_s"][0] == pytest.approx(181.81818)
    assert list(frame["is_warmup"]) == [True, False, False]
    assert set(frame["unit"]) == {"img/s"}  # as run.json calls it
    assert set(frame["source"]) == {"training_metrics.json"}


def test_epochs_of_rank_files_alone(tmp_path):
    folder = write_run(tmp_path, 1, 2, "12", out="no epoch line\n")
    write_ranks(folder, "12")
    frame = make_epochs_frame(only(tmp_path))
    assert list(frame["throughput_per_s"]) == [pytest.approx(2000 / 11)] * 3  # the slowest rank
    assert list(frame["train_s"]) == [11.0] * 3
    (folder / "results/12/rank1_results_epoch2.json").unlink()
    assert list(make_epochs_frame(only(tmp_path))["epoch"]) == [1, 2]  # no figure of half the ranks


def test_attempts_in_one_log_are_told_apart(tmp_path):
    out = out_text(2, throughput=1.0) + out_text(3, throughput=2.0)
    write_run(tmp_path, 1, 4, "13", record={}, exit_status=None, out=out)
    frame = make_epochs_frame(only(tmp_path))
    assert list(frame["attempt"]) == [1, 1, 2, 2, 2]
    assert list(frame["is_superseded"]) == [True, True, False, False, False]
    assert list(frame["throughput_per_s"]) == [1.0, 1.0, 2.0, 2.0, 2.0]


def test_processes_that_print_other_figures_make_the_run_unusable(tmp_path):
    lines = [epoch_line(e, throughput=100.0 * r) for e in (1, 2, 3) for r in (1, 2)]
    out = "\n".join([*lines, "Total training time: 9.0 s", ""])
    write_run(tmp_path, 1, 2, "12", record={}, exit_status=None, out=out)
    (run,) = only(tmp_path)
    assert (run.attempt is not None, run.is_usable) == (True, False)
    assert "which are the job's is unknown" in run.account


def test_rank_epochs(tmp_path):
    folder = write_run(tmp_path, 2, 1, "12", hosts=["node1", "node2"])
    write_ranks(folder, "12")
    put(folder / "results/12/rank0_results_epoch1.json.tmp", "{}")
    put(folder / "results/12/rank1_results_epoch9.json", '{"rank": 1')
    runs = only(tmp_path)
    frame = make_rank_epochs_frame(runs)
    assert list(frame["rank"]) == [0, 1] * 3
    assert list(frame["epoch"]) == [1, 1, 2, 2, 3, 3]
    assert list(frame["host"]) == ["node1", "node2"] * 3
    assert list(frame["training_s"]) == [10.0, 11.0] * 3
    assert set(frame["peak_mib"]) == {512.5}
    assert frame["copy_s"].isna().all()
    assert len(runs[0].lost_records) == 1
    assert "rank1_results_epoch9.json cannot be read" in runs[0].lost_records[0]


def test_gpu_samples_have_times_in_utc(tmp_path):
    write_run(tmp_path, 1, 2, "12", start_utc="2026-11-21T07:00:12Z", used_mib=[5, 6, 7])
    frame = gpu_samples(only(tmp_path))  # the log's clock shows 10:00:00, three hours on
    assert list(frame["gpu"]) == [0, 1] * 3
    assert list(frame["used_mib"]) == [5, 6, 6, 7, 7, 8]
    assert frame["timestamp_utc"][0] == datetime(2026, 11, 21, 7, 0, 0, 123000, tzinfo=UTC)
    assert list(frame["elapsed_s"]) == [0.0, 0.0, 5.0, 5.0, 10.0, 10.0]
    assert set(frame["power_w"]) == {251.3}
    assert set(frame["sm_clock_mhz"]) == {1530.0}


START = datetime(2026, 11, 21, 10, 0, 30, tzinfo=UTC)
OFFSETS = [
    (datetime(2026, 11, 21, 13, 0), 3.0),
    (datetime(2026, 11, 21, 9, 58), 0.0),
    (datetime(2026, 11, 21, 15, 44), 5.75),  # Nepal
    (datetime(2026, 11, 21, 2, 1), -8.0),
    (datetime(2026, 11, 23, 2, 1), None),  # no zone is so far: another day's log
    (datetime(2026, 11, 21, 13, 0, tzinfo=UTC), None),  # it has a zone of its own
]


@pytest.mark.parametrize(("first", "hours"), OFFSETS)
def test_offset_from_utc(first, hours):
    assert find_utc_offset(first, START) == (None if hours is None else timedelta(hours=hours))
    assert find_utc_offset(first, None) is None


def test_cpu_samples(tmp_path):
    write_run(tmp_path, 2, 1, "12", rss_mib=[100.0, 200.0])
    frame = cpu_samples(only(tmp_path))
    assert list(frame["node"]) == [0, 0, 1, 1]
    assert list(frame["rss_mib"]) == [100.0, 200.0] * 2
    assert frame["cpu_pct"].isna().tolist() == [True, False] * 2  # the first one is no measurement


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_has_its_columns_and_types_whatever_is_missing(tmp_path, name):
    write_run(tmp_path / "a", 1, 2, "12")
    write_run(tmp_path / "b", 1, 2, "13", record={}, exit_status=None)
    full, empty = FRAMES[name](find_runs(tmp_path)), FRAMES[name]([])
    assert tuple(full.columns) == tuple(empty.columns) == COLUMNS[name]
    assert full.dtypes.to_dict() == empty.dtypes.to_dict()
    readme = (SCRIPTS / "README.md").read_text()
    assert [column for column in COLUMNS[name] if f"`{column}`" not in readme] == []


GARBAGE = [[1], {"a": 1}, "x", True, -1, 1e300, 10**400, None]


@pytest.mark.parametrize("value", GARBAGE, ids=repr)
def test_settings_that_are_no_settings_are_missing(tmp_path, value):
    names = (
        "world_size", "epochs", "batch_size_per_gpu", "warmup_epochs", "unit", "precision", "hosts",
        "versions", "workload", "start_utc", "slurm", "torch", "grad_accum_steps",
    )  # fmt: skip
    folder = write_run(tmp_path, 1, 2, "12", **dict.fromkeys(names, value))
    write_ranks(folder, "12")
    runs = find_runs(tmp_path)
    found = frames.make_frames(runs)
    assert len(found["runs"]) == 1
    assert len(found["epochs"]) == 3
    assert len(found["rank_epochs"]) == 6
    json.loads(frames.to_json(found["runs"]))
    frames.to_csv(found["runs"])


# ---- The command ---------------------------------------------------------------------------


def export(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPTS / "export_runs.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_command_writes_each_table(tmp_path, kind):
    folder = write_run(tmp_path / "jobs", 1, 2, "12", job_note="x", precision="=1+1")
    write_ranks(folder, "12")
    done = export(tmp_path / "jobs", "--format", kind, "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in FRAMES)
    path = tmp_path / f"out/runs.{kind}"
    csv = kind == "csv"
    (row,) = pd.read_csv(path).to_dict("records") if csv else json.loads(path.read_text())
    assert row["start_utc"] == "2026-11-21T10:12:00.000000Z"
    assert row["precision"] == ("'=1+1" if csv else "=1+1")


def test_command_can_write_one_table(tmp_path):
    write_run(tmp_path / "jobs", 1, 2, "12")
    done = export(tmp_path / "jobs", "--table", "epochs", "-o", tmp_path / "out")
    assert done.stdout == f"{tmp_path / 'out/epochs.csv'}: 3 rows\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["epochs.csv"]


def test_command_names_a_folder_that_is_not_there(tmp_path):
    done = export(tmp_path / "gone", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'gone'}: no such folder")
    assert not (tmp_path / "out").exists()


def test_the_samples_of_a_damaged_log_are_those_that_are_whole(tmp_path):
    folder = write_run(tmp_path, 1, 1, "12")
    put(folder / "gpu_memory/12/gpu_memory_log.csv", gpu_csv({0: [5, 6, 7]})[:-3])
    assert list(gpu_samples(only(tmp_path))["used_mib"]) == [5, 6]
    put(folder / "gpu_memory/12/gpu_memory_log.csv", "No devices were found\n")
    assert len(gpu_samples(only(tmp_path))) == 0


AMD = {
    "monitor": "timestamp,gpu,power_usage,hotspot_temperature,gfx_clk,gfx,vram_used,vram_total\n"
    "1795255200,0,540,62,2100,98,120345,196592\n",
    "metric": "timestamp,gpu,gfx_activity,socket_power,hotspot,mem,gfx_clock,total_vram,used_vram\n"
    "1795255200,0,98,540,62,55,2100,196592,120345\n",
    "rocm-smi": "timestamp,device,Temperature (Sensor junction) (C),"
    "Average Graphics Package Power (W),GPU use (%),VRAM Total Memory (B),"
    "VRAM Total Used Memory (B)\n"
    "1795255200,card0,62.0,540.0,98,206141652992,126190878720\n",
}


@pytest.mark.parametrize("name", AMD)
def test_samples_of_amds_tools_have_the_same_columns(tmp_path, name):
    folder = write_run(tmp_path, 1, 1, "12")
    put(folder / "gpu_memory/12/gpu_memory_log.csv", AMD[name])
    (row,) = gpu_samples(find_runs(tmp_path)).to_dict("records")
    known = {"gpu": 0, "used_mib": 120345, "total_mib": 196592, "utilization_pct": 98,
             "power_w": 540, "temperature_c": 62}  # fmt: skip
    assert {key: row[key] for key in known} == known
    assert row["sm_clock_mhz"] == 2100 or name == "rocm-smi"
