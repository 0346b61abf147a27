"""Job scripts on a real Slurm whose time runs out, or that are cancelled: what is saved goes on.

The trainer is tests/standin/train.py, which counts steps; the signals and the requeue are real, and
torchrun where it starts the ranks of two nodes.
"""

import json
import re
from pathlib import Path

import pytest

from slurm_cluster import render_jobs

pytestmark = pytest.mark.slurm
# Slurm's timer is coarse: of a limit of two minutes this leaves the job 40 to 70 seconds.
SOON = ("--time=2", "--signal=USR1@50")
LONG = {"STANDIN_STEPS": "700"}  # 35 s per epoch: longer than any of these tests
CHECKOUTS = {"short": "torchrun_checkout", "direct": "checkout"}  # with torchrun and without


def render_job(profile: str, scale: str, folder: Path) -> Path:
    """Render the job of `scale` for tests/profiles/<profile>.toml; returns its folder."""
    return render_jobs(profile, folder, "--only", scale) / scale


def signal_soon(slurm, job: str, log: Path, ranks: int) -> None:
    """Send the job's steps what Slurm's timer would, once all ranks count steps."""
    for rank in range(ranks):
        slurm.wait_for(log, f"rank {rank} begins")
    slurm.run("scancel", "--signal=USR1", job)


@pytest.mark.parametrize("profile", CHECKOUTS)
def test_job_goes_on_after_its_time_limit(slurm, tmp_path, profile, request):
    checkout = request.getfixturevalue(CHECKOUTS[profile])
    folder = render_job(profile, "multi_node/2_nodes", tmp_path / "jobs")
    by_timer = profile == "direct"
    job = slurm.submit(folder, *SOON * by_timer, REPO_DIR=str(checkout), **LONG)
    path = folder / f"log/ddp_2g2n_{job}.out"
    if not by_timer:
        signal_soon(slurm, job, path, ranks=4)
    slurm.wait_for_restart(job)
    assert slurm.wait(job) == "COMPLETED"
    log = path.read_text()
    saved = dict(re.findall(r"^rank (\d) saved step (\d+)$", log, re.MULTILINE))
    assert sorted(saved) == ["0", "1", "2", "3"]
    for rank, step in saved.items():
        assert log.count(f"rank {rank} begins at step 0\n") == 1
        assert log.count(f"rank {rank} begins at step {step}\n") == 1
    first, second = folder / "results" / job, folder / f"results/{job}.1"
    names = {attempt: {path.name for path in attempt.iterdir()} for attempt in (first, second)}
    assert names[first] >= {"REQUEUE", "run.json", "job_end.json"}
    assert names[second] >= {"RUN_COMPLETE.txt", "run.json", "job_end.json"}
    assert "RUN_COMPLETE.txt" not in names[first] and "REQUEUE" not in names[second]
    for attempt in (first, second):
        assert json.loads((attempt / "job_end.json").read_text())["exit_status"] == 0
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [job]
    assert len(list((folder / "cpu_memory").iterdir())) == 2


def test_job_that_slurm_does_not_requeue_fails_and_says_what_to_type(slurm, checkout, tmp_path):
    folder = render_job("short", "baseline", tmp_path / "it's here")
    job = slurm.submit(folder, "--no-requeue", REPO_DIR=str(checkout), **LONG)
    path = folder / f"log/ddp_1g1n_{job}.out"
    signal_soon(slurm, job, path, ranks=1)
    assert slurm.wait(job) == "FAILED"
    assert "ExitCode=75:0" in slurm.run("scontrol", "show", "job", "--oneliner", job)
    log = path.read_text()
    advice = re.findall(r"^Not requeued; type: (.+)$", log, re.MULTILINE)
    assert len(advice) == 1
    variables = f"STANDIN_STEPS={LONG['STANDIN_STEPS']} REPO_DIR='{checkout}'"
    shown = f"{variables} {advice[0].replace('sbatch', 'sbatch --parsable')}"
    again = slurm.run("bash", "-c", shown, cwd=folder)
    assert slurm.wait(again) == "COMPLETED"
    saved = re.search(r"^rank 0 saved step (\d+)$", log, re.MULTILINE)[1]
    assert f"begins at step {saved}\n" in (folder / f"log/ddp_1g1n_{again}.out").read_text()


@pytest.mark.parametrize("profile", CHECKOUTS)
def test_cancelled_job_saves_and_is_not_requeued(slurm, tmp_path, profile, request):
    checkout = request.getfixturevalue(CHECKOUTS[profile])
    folder = render_job(profile, "multi_node/2_nodes", tmp_path / "jobs")
    job = slurm.submit(folder, REPO_DIR=str(checkout), **LONG)
    for rank in range(4):
        slurm.wait_for(folder / f"log/ddp_2g2n_{job}.out", f"rank {rank} begins")
    slurm.run("scancel", job)
    assert slurm.wait(job, timeout_s=30) == "CANCELLED"
    saved = {path.name for path in (folder / "checkpoints" / job).iterdir()}
    assert saved == {f"step_of_rank{rank}" for rank in range(4)}
    assert not (folder / "results" / job / "REQUEUE").exists()
    assert json.loads((folder / "results" / job / "job_end.json").read_text())["exit_status"] == 143
