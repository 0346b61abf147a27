"""submit.py --dry-run: whether a batch fits the GPU that the profile names."""

from argparse import Namespace

import pytest

from profiles import Repository
from submission.memory import check_memory, describe_memory, find_gpu_memory, make_request
from submission.submit import plan
from submit_command import REPO

ANSWER = {
    "batch": 512, "precision": "fp16", "peak_mib": 14_000.0, "fixed_mib": 300.0,
    "per_sample_mib": 26.8,
}  # fmt: skip


@pytest.fixture(scope="module")
def repository():
    return Repository(REPO)


@pytest.fixture
def jobs(repository):
    asked = Namespace(scales=["ddp_1g1n", "ddp_8g1n"], experiments=REPO / "experiments", all=False,
                      workload=None, max_gpus=None, repeat=2)  # fmt: skip
    return plan(repository, asked)


def test_each_size_that_the_gpu_may_have_is_judged():
    # 16 GB: 16,384 - 2,048 = 14,336; / 1.15 = 12,466, less 300, / 26.8: 453 samples
    assert describe_memory(ANSWER, "v100", [16, 32]) == (
        "14000 MiB predicted (batch 512 per GPU, fp16, v100): may not fit 16 GB (largest batch "
        "about 453), fits 32 GB (largest batch about 985); say which with gpu_memory_gb in the "
        "profile"
    )
    assert describe_memory(ANSWER, "", [8]).endswith("does not fit 8 GB (largest batch about 188)")
    assert describe_memory({"error": "python has no PyTorch"}, "", [8]) == (
        "not estimated: python has no PyTorch"
    )


def test_what_is_asked_about_a_job(jobs):
    assert make_request(jobs[1]) == {
        "trainer": "train.py", "words": ["--epochs=3", "--batch-size=512", "--lr=0.001"],
        "world_size": 8, "local_world_size": 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "found"),
    [
        ("ibex", ("v100", [16, 32])),
        ("bridges2", ("v100-32", [32])),
        ("alex", ("a100_80", [80])),
        ("perlmutter", ("", [])),
    ],
)
def test_the_gpu_that_a_profile_names(repository, jobs, profile, found):
    assert find_gpu_memory(repository.load_profile(profile), jobs[0]) == found


def test_no_gpu_needs_no_check_and_an_unknown_one_is_said(repository, jobs, tmp_path):
    names = {job.name for job in jobs}
    cpus = tmp_path / "cpus.toml"
    cpus.write_text('name = "cpus"\ngpus_per_node = 8\naccelerator = "none"\n')
    assert check_memory(repository, jobs, dict.fromkeys(names, str(cpus))) == ([], [])
    assert check_memory(repository, jobs, dict.fromkeys(names, "perlmutter")) == ([], [
        "memory: not checked: templates/clusters/perlmutter.toml names no GPU whose memory is "
        "known; gpu_memory_gb = 40 there would say it"
    ])  # fmt: skip
