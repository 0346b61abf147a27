"""sbatch typed inside a session, which is a job itself: the rendered job runs, or says why not."""

import shlex
import subprocess

import pytest

from slurm_cluster import render_jobs

pytestmark = pytest.mark.slurm
SESSIONS = {
    # srun leaves CPU bindings, a hint and a distribution; salloc the options that it was given.
    "srun": "srun --ntasks=1 --gpus=1 --cpus-per-task=1 --mem-per-cpu=500 --hint=nomultithread "
    "--distribution=cyclic",
    "salloc": "salloc --ntasks=1 --gpus=1 --ntasks-per-node=1 --mem-per-cpu=500 --cpus-per-task=1",
}


@pytest.mark.parametrize("session", SESSIONS)
def test_a_job_typed_in_a_session_of_one_gpu_is_the_rendered_one(
    slurm, tmp_path, checkout, data, session
):
    folder = render_jobs("short", tmp_path / "jobs", "--only", "ddp_2g2n") / "multi_node/2_nodes"
    typed = f"cd {shlex.quote(str(folder))} && sbatch --parsable --mem=2G multi_node.slurm"
    place = {"REPO_DIR": str(checkout), "DATA_DIR": str(data), "STANDIN_STEPS": "2"}
    done = subprocess.run(
        [*shlex.split(SESSIONS[session]), "bash", "-c", typed],
        env=slurm.environment | place, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    job = done.stdout.split()[-1]
    state, log = slurm.wait(job), (folder / f"log/ddp_2g2n_{job}.out").read_text()
    assert state == "COMPLETED", log
    assert "4 processes x" in log


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ntasks=4", "--ntasks-per-node=2"], "was given 4 tasks on 2 nodes (2(x2) per node)"),
        (["--nodes=1"], "was given 1 tasks on 1 nodes (1 per node), but this job is 2 x 1;"),
        (["--gpus-per-node=1"], "shows 1 GPUs, but this job is 2 x 2 (SLURM_GPUS_ON_NODE=1, CUDA_"),
    ],
)
def test_another_job_than_the_rendered_one_ends_in_one_line(
    slurm, tmp_path, checkout, data, options, said
):
    folder = render_jobs("short", tmp_path / "jobs", "--only", "ddp_2g2n") / "multi_node/2_nodes"
    job = slurm.submit(folder, *options, REPO_DIR=str(checkout), DATA_DIR=str(data))
    state, log = slurm.wait(job), (folder / f"log/ddp_2g2n_{job}.out").read_text()
    assert state == "FAILED", log
    assert f"error: node1 {said}" in log
    assert "processes x" not in log
