"""Which jobs a command line means, when several workloads have a baseline."""

from pathlib import Path

import pytest

from common.errors import UserError
from profiles.repository import Repository, plan_scales, select_scale
from submit_command import REPO

JOB = '[jobs.{}]\nworkload = "{}"\ntemplate = "{}"\nfolder = "{}"\nnodes = {}\n'
MATRIX = (
    'cluster = "short"\n'
    '[workloads.tinyimagenet]\ntitle = "A"\ntrainer = "train.py"\n'
    '[workloads.gpt2]\ntitle = "B"\ntrainer = "train.py"\n'
    + JOB.format("ddp_1g1n", "tinyimagenet", "baseline", "baseline", 1)
    + "gpus_per_node = 1\ntime = '30'\n"
    + JOB.format("ddp_4g1n", "tinyimagenet", "multi_gpu", "multi_gpu/4_gpus", 1)
    + "gpus_per_node = 4\ntime = '30'\n"
    + JOB.format("gpt2_1g1n", "gpt2", "baseline", "gpt2/baseline", 1)
    + "gpus_per_node = 1\ntime = '30'\n"
    + JOB.format("gpt2_4g1n", "gpt2", "multi_gpu", "gpt2/multi_gpu/4_gpus", 1)
    + "gpus_per_node = 4\ntime = '30'\n"
)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two workloads at two scales, on a cluster with nodes of two GPUs."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/matrix.toml").write_text(MATRIX)
    (tmp_path / "templates/clusters").mkdir(parents=True)
    (tmp_path / "templates/clusters/short.toml").write_text('name = "short"\ngpus_per_node = 2\n')
    (tmp_path / "scripts").symlink_to(REPO / "scripts")
    return Repository(tmp_path)


@pytest.mark.parametrize(
    ("scale", "workload", "names"),
    [
        ("*", None, ["ddp_1g1n", "ddp_4g1n"]),
        ("*", "gpt2", ["gpt2_1g1n", "gpt2_4g1n"]),
        ("baseline", None, ["ddp_1g1n"]),
        ("baseline", "gpt2", ["gpt2_1g1n"]),
        ("multi_gpu/4_gpus", "gpt2", ["gpt2_4g1n"]),
        ("gpt2/multi_gpu/4_gpus", "gpt2", ["gpt2_4g1n"]),
        ("gpt2/baseline", None, ["gpt2_1g1n"]),
        ("gpt2_4g1n", None, ["gpt2_4g1n"]),
        ("gpt2/*", None, ["gpt2_1g1n", "gpt2_4g1n"]),
    ],
)
def test_a_scale_is_the_default_workloads_unless_another_is_named(
    repository, scale, workload, names
):
    assert select_scale(repository, scale, workload) == names


@pytest.mark.parametrize(
    ("scale", "workload", "message"),
    [
        ("ddp_4g1n", "gpt2", 'no job of workload "gpt2" matches the scale "ddp_4g1n"; '),
        ("gpt2_4g2n", None, 'no job matches the scale "gpt2_4g2n"; did you mean "gpt2_4g1n"'),
        ("*", "gtp2", 'no workload "gtp2" in experiments/matrix.toml; did you mean "gpt2"'),
    ],
)
def test_a_scale_that_is_none_names_the_nearest(repository, scale, workload, message):
    with pytest.raises(UserError) as refusal:
        select_scale(repository, scale, workload)
    assert str(refusal.value).startswith(message)


def test_all_leaves_out_what_cannot_run_or_was_not_rendered(repository, tmp_path):
    jobs = tmp_path / "experiments"
    script = jobs / "multi_gpu/4_gpus/multi_gpu.slurm"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/bash\n")
    planned, left_out = plan_scales(repository, ["*"], jobs, every=True)
    assert planned == []
    assert left_out[0] == f"ddp_1g1n, which has no {jobs}/baseline/baseline.slurm"
    assert left_out[1].startswith('job "ddp_4g1n": gpus_per_node = 4 exceeds gpus_per_node = 2')
    for name in ("baseline", "4_gpus"):
        with pytest.raises(UserError):
            plan_scales(repository, [name], jobs)
