"""Rendered job scripts on a real Slurm: what they leave, and what happens when something fails.

The trainer is tests/standin/train.py, which leaves a real one's files without training. torchrun
is real where its own doing is part of the test.
"""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from in_process import run_script
from slurm_cluster import TESTS, VirtualSlurm, render_jobs

pytestmark = pytest.mark.slurm
LONG = {"STANDIN_STEPS": "600"}  # 30 s per epoch: longer than any of these tests
FOR_PSRECORD = {"STANDIN_STEPS": "50"}  # 7.5 s in all: it looks every 5 s


@pytest.fixture
def jobs(tmp_path):
    """A folder of job scripts of the profile short, ready to be submitted."""
    return render_jobs("short", tmp_path / "jobs")


@pytest.fixture
def place(checkout, data) -> dict[str, str]:
    """Where a job finds its trainer and its data."""
    return {"REPO_DIR": str(checkout), "DATA_DIR": str(data)}


def run_job(slurm: VirtualSlurm, folder: Path, **variables: str) -> tuple[str, str, str]:
    """Submit the job in `folder` and wait; returns (job id, state, log)."""
    job = slurm.submit(folder, **variables)
    state = slurm.wait(job)
    (log,) = folder.glob(f"log/*_{job}.out")
    return job, state, log.read_text(errors="replace")


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def use_standin(tmp_path: Path, gpus: dict) -> dict[str, str]:
    """Environment in which nvidia-smi is tests/standin/nvidia-smi, which tells of `gpus`."""
    told = tmp_path / "gpus.json"
    told.write_text(json.dumps(gpus))
    return {"PATH": f"{TESTS}/standin:{os.environ['PATH']}", "STANDIN_GPUS": str(told)}


# ---- Logging on every node --------------------------------------------------------------


def test_gpu_memory_of_all_four_gpus(slurm, jobs, place, tmp_path):
    first = {"0": [0, 20000, *[26532] * 38], "1": [10, *[20] * 39]}
    second = {"0": [7] * 40, "1": [*[4] * 30, *[8] * 10]}
    gpus = {  # 40 samples 5 s apart: longer than the job
        "node1": {"period_s": 5, "dies": False, "memory": first},
        "node2": {"period_s": 5, "dies": False, "memory": second},
    }
    folder = jobs / "multi_node/2_nodes"
    job, state, log = run_job(slurm, folder, **place, **use_standin(tmp_path, gpus))
    assert state == "COMPLETED", log

    files = sorted(path.name for path in (folder / "gpu_memory" / job).iterdir())
    assert files == ["gpu_memory_log_node0.csv", "gpu_memory_log_node1.csv"]
    header = (folder / "gpu_memory" / job / files[0]).read_text().splitlines()[0]
    assert header == (
        "timestamp, index, name, memory.used [MiB], memory.total [MiB], utilization.gpu [%], "
        "power.draw [W], temperature.gpu, clocks.current.sm [MHz], "
        "clocks_throttle_reasons.active, uuid"
    )
    # Worked out by hand: (0 + 20000 + 38 x 26532) / 40 = 25705.4; (10 + 39 x 20) / 40 = 19.75;
    # 7; (30 x 4 + 10 x 8) / 40 = 5.
    expected = """\
[gpu_memory_log_node0 - GPU 0] Peak = 26532 MiB, Avg = 25705.40 MiB, Mode = 26532 MiB
[gpu_memory_log_node0 - GPU 1] Peak = 20 MiB, Avg = 19.75 MiB, Mode = 20 MiB
[gpu_memory_log_node1 - GPU 0] Peak = 7 MiB, Avg = 7.00 MiB, Mode = 7 MiB
[gpu_memory_log_node1 - GPU 1] Peak = 8 MiB, Avg = 5.00 MiB, Mode = 4 MiB
"""
    analyzed = run_script("scripts/analyze_memory.py", folder / "gpu_memory" / job)
    lines = [line for line in analyzed.stdout.splitlines(keepends=True) if line.startswith("[")]
    assert "".join(lines) == expected
    assert expected in log
    table = fill_tables(jobs)["2 Nodes"]
    assert table[4:7] == ["26532", "25705.40", "26532"]
    slurm.wait_until_idle()


def fill_tables(folder: Path) -> dict[str, list[str]]:
    """Row label -> its cells, of the tables that fill_tables.py prints for `folder`.

    A cell's footnote `[3]` is replaced by the note's words.
    """
    text = run_script("scripts/fill_tables.py", folder).stdout
    notes = dict(re.findall(r"^- (\[\d+\]) (.*)$", text, re.MULTILINE))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [
        [re.sub(r"\[\d+\]", lambda mark: notes[mark[0]], cell).strip() for cell in row.split("|")]
        for row in rows
    ]
    return {row[1]: row[1:] for row in cells}


def test_gpu_logger_that_dies_costs_only_its_own_cells(slurm, jobs, place, tmp_path):
    dying = {"period_s": 1, "dies": True, "memory": {"0": [100, 200]}}
    told = use_standin(tmp_path, {"node1": dying, "node2": dying})
    _, state, log = run_job(slurm, jobs / "baseline", **place, **told, STANDIN_STEPS="75")
    assert state == "COMPLETED", log
    row = fill_tables(jobs)["1 GPU, 1 Node (baseline)"]
    for cell in row[4:7]:
        assert re.match(r"— GPU log stops after 1 s of \d+ s of training", cell)
    assert float(row[3]) > 0
    assert float(row[10]) > 100  # CPU Peak (MiB): psrecord went on


def test_one_task_a_gpu_without_torchrun(slurm, place, tmp_path):
    gpus = {f"node{k}": {"period_s": 5, "dies": False, "memory": {"0": [k] * 40, "1": [k] * 40}}
            for k in (1, 2)}  # fmt: skip
    folder = render_jobs("direct", tmp_path / "direct") / "multi_node/2_nodes"
    told = use_standin(tmp_path, gpus)
    job, state, log = run_job(slurm, folder, **place, **told, **FOR_PSRECORD)
    assert state == "COMPLETED", log
    assert re.search(r"^4 processes x 16 = 64 samples per step", log, re.MULTILINE)
    run = load(folder / "results" / job / "run.json")
    assert (run["hosts"], run["world_size"]) == (["node1", "node2"], 4)
    for kind, end in (("gpu", "csv"), ("cpu", "txt")):  # one logger per node, not per task
        assert sorted(path.name for path in (folder / f"{kind}_memory" / job).iterdir()) == [
            f"{kind}_memory_log_node0.{end}", f"{kind}_memory_log_node1.{end}",
        ]  # fmt: skip
    rows = (folder / "cpu_memory" / job / "cpu_memory_log_node0.txt").read_text().splitlines()
    both_trainers_mib = 2 * 128
    assert max(float(row.split()[2]) for row in rows[1:]) > both_trainers_mib
    slurm.wait_until_idle()


# ---- Failures ---------------------------------------------------------------------------


def test_failing_rank_fails_the_job_and_is_named(slurm, jobs, torchrun_checkout, place):
    folder = jobs / "multi_node/2_nodes"
    variables = place | LONG | {"REPO_DIR": str(torchrun_checkout), "STANDIN_FAILS_RANK": "3"}
    job, state, log = run_job(slurm, folder, **variables)
    assert state == "FAILED"
    assert re.search(r"^\[rank 3 on node2\] error: cannot decode .*JPEG", log, re.MULTILINE)
    end = load(folder / "results" / job / "job_end.json")
    assert end["exit_status"] != 0
    assert not (folder / "results" / job / "RUN_COMPLETE.txt").exists()
    assert "cannot decode" in log[log.rindex("elastic") :]  # said again in the summary at the end
    slurm.wait_until_idle()
    assert "cannot decode" in fill_tables(jobs)["2 Nodes"][1]


def test_killed_rank_fails_the_job_within_30_s(slurm, jobs, torchrun_checkout, place):
    folder = jobs / "multi_node/2_nodes"
    job = slurm.submit(folder, **place | LONG | {"REPO_DIR": str(torchrun_checkout)})
    for rank in range(4):
        slurm.wait_for(folder / f"log/ddp_2g2n_{job}.out", f"rank {rank} begins")
    workers = [
        pid for pid, words in slurm.processes().items()
        if "scripts/train.py" in words and "torchrun" not in words and "psrecord" not in words
    ]  # fmt: skip
    os.kill(max(workers), signal.SIGKILL)
    assert slurm.wait(job, timeout_s=30) == "FAILED"
    assert load(folder / "results" / job / "job_end.json")["exit_status"] != 0
    slurm.wait_until_idle()


def test_cancelled_job_ends_at_once_and_says_so(slurm, jobs, place):
    folder = jobs / "multi_gpu/2_gpus"
    job = slurm.submit(folder, **place, **LONG)
    slurm.wait_for(folder / f"log/ddp_2g1n_{job}.out", "processes x")
    slurm.run("scancel", job)
    assert slurm.wait(job, timeout_s=60) == "CANCELLED"
    assert load(folder / "results" / job / "job_end.json")["exit_status"] == 143
    slurm.wait_until_idle()
    assert "cancelled" in fill_tables(jobs)["2 GPUs, 1 Node"][1]


def test_training_that_is_cut_off_goes_on(slurm, jobs, place):
    """SIGUSR1 to the step, as Slurm sends it before the time limit; the rest is the job's."""
    folder = jobs / "multi_gpu/2_gpus"
    job = slurm.submit(folder, **place, STANDIN_STEPS="50")
    log = folder / f"log/ddp_2g1n_{job}.out"
    slurm.wait_for(log, "Epoch [1/3]", timeout_s=240)
    slurm.run("scancel", "--signal=USR1", f"{job}.0")
    slurm.wait_for_restart(job)
    assert slurm.wait(job) == "COMPLETED"
    text = log.read_text()
    assert text.count("Stopped by SIGUSR1, all is saved") == 1
    assert len(re.findall(r"^Going on after step \d+, in epoch [123]$", text, re.MULTILINE)) == 1
    assert re.findall(r"^Epoch \[(\d)/3\]", text, re.MULTILINE) == ["1", "2", "3"]
    second = folder / f"results/{job}.1"
    assert load(second / "training_metrics.json")["summary"]["epochs_completed"] == 3
    assert (second / "RUN_COMPLETE.txt").exists()
    assert fill_tables(jobs)["2 GPUs, 1 Node"][3] != "—"


def test_each_node_trains_on_its_own_copy_of_the_data(slurm, place, data, tmp_path):
    profile = (TESTS / "profiles/short.toml").read_text()
    path, disk = tmp_path / "short.toml", tmp_path / "disk"
    path.write_text(profile.replace("setup =", f'stage_data = "{disk}"\nsetup ='))
    render_jobs(path, tmp_path / "jobs", "--only", "ddp_2g2n")
    job, state, log = run_job(slurm, tmp_path / "jobs/multi_node/2_nodes", **place)
    assert state == "COMPLETED", log
    copies = re.findall(rf"^Data: (node\d) copied {data} to (\S+) in", log, re.MULTILINE)
    assert sorted(copies) == [(n, f"{disk}/data_{job}_{n}") for n in ("node1", "node2")]
    assert list(disk.iterdir()) == []  # the copies are gone, the folder is not the job's
    results = tmp_path / "jobs/multi_node/2_nodes/results" / job
    assert load(results / "run.json")["dataset"]["name"] == "digits"


def test_job_submitted_from_the_wrong_folder_says_so(slurm, jobs):
    folder = jobs / "baseline"
    job = slurm.submit(folder, REPO_DIR=str(jobs))
    assert slurm.wait(job) == "FAILED"
    log = (folder / f"log/ddp_1g1n_{job}.out").read_text()
    assert log.startswith("error: no scripts/train.py in ")


def test_job_in_its_checkout_runs_from_a_symlink_to_its_folder(slurm, checkout, data, tmp_path):
    """sbatch copies the script to its spool; the checkout is found from where it was typed."""
    folder = render_jobs("short", checkout / "experiments") / "multi_gpu/2_gpus"
    link = tmp_path / "some where/else/link"
    link.parent.mkdir(parents=True)
    link.symlink_to(folder)
    job, state, log = run_job(slurm, link, DATA_DIR=str(data), PWD=str(link))
    assert state == "COMPLETED", log
    assert (folder / "results" / job / "RUN_COMPLETE.txt").is_file()
    assert fill_tables(checkout / "experiments")["2 GPUs, 1 Node"][3] != "—"


def test_run_dir_puts_all_but_the_log_elsewhere(slurm, jobs, place, tmp_path):
    elsewhere = tmp_path / "else where"
    variables = {"RUN_DIR": str(elsewhere), **FOR_PSRECORD}
    job, state, log = run_job(slurm, jobs / "baseline", **place, **variables)
    assert state == "COMPLETED", log
    assert sorted(path.name for path in elsewhere.iterdir()) == [
        "cpu_memory",
        "gpu_memory",
        "results",
    ]
    assert sorted(path.name for path in (jobs / "baseline").iterdir()) == ["baseline.slurm", "log"]
    assert (elsewhere / "results" / job / "RUN_COMPLETE.txt").exists()
    mode = (elsewhere / "results" / job / "run.json").stat().st_mode & 0o777
    assert mode == 0o640
    row = fill_tables(jobs)["1 GPU, 1 Node (baseline)"]  # follows the log to the other files
    assert float(row[10]) > 100  # CPU Peak (MiB)
    assert row[7] == "1.0×"
