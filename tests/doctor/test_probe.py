"""What the doctor reads in a job script, and what it says where sbatch says nothing."""

import os
from pathlib import Path

import pytest

from doctor.cluster import Node, Partition
from doctor.probe import ask_sbatch, check_script, drop_directives, probe
from profiles import load_cluster, load_matrix, make_environment
from slurm_shapes import REPO
from submission import SlurmError, read_directives


def script(*options: str) -> str:
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "set -e", ""])


def test_directives_in_the_forms_that_sbatch_takes():
    text = script("--mem=64G   # a node", "--gres gpu:2", "--exclusive", "--exclusive  # alone",
                  "--time=1:00 --x=2", "-N 2")  # fmt: skip
    assert read_directives(text) == {
        "mem": "64G", "gres": "gpu:2", "exclusive": "", "time": "1:00", "x": "2", "nodes": "2",
    }  # fmt: skip
    assert read_directives("#!/bin/sh\ntrue\n#SBATCH --mem=1\n") == {}


def test_one_option_is_dropped_and_not_those_that_begin_like_it():
    text = script("--gpus=4   # in all", "--gpus-per-node=2", "--mem=1G")
    assert read_directives(drop_directives(text, {"gpus"})) == {"gpus-per-node": "2", "mem": "1G"}
    assert read_directives(drop_directives(text, {"mem", "gpus-per-node"})) == {"gpus": "4"}


GPUS = [
    # directives, and whether they contradict each other
    (["--gres=gpu:4", "--gpus-per-node=4"], False),
    (["--gres=gpu:a100:4", "--gpus-per-node=4"], False),
    (["--gres=gpu:4,lscratch:100", "--gpus-per-node=4"], False),
    (["--gres=lscratch:100", "--gpus-per-node=4"], False),
    (["--gres=gpu:2", "--gpus-per-node=4"], True),
    (["--gres=gpu:a100:4", "--gpus-per-node=v100:4"], True),
    (["--nodes=2", "--gpus=8", "--gpus-per-node=4"], False),
    (["--nodes=2", "--gpus=4", "--gpus-per-node=4"], True),
    (["--ntasks=2", "--ntasks-per-node=1", "--gpus=4", "--gpus-per-node=2"], False),
    (["--ntasks=2", "--ntasks-per-node=1", "--gpus=4", "--gpus-per-node=4"], True),
    (["--gpus=4", "--gpus-per-node=4"], False),  # of how many nodes it does not say
    (["--ntasks-per-node=4", "--gpus-per-task=1", "--gpus-per-node=4"], False),
    (["--ntasks-per-node=4", "--gpus-per-task=4", "--gpus-per-node=4"], True),
    (["--gpus-per-node=4"], False),
    ([], False),
]


@pytest.mark.parametrize(("options", "wrong"), GPUS, ids=[" ".join(row[0]) for row in GPUS])
def test_gpu_requests_that_contradict_each_other(options, wrong):
    remarks = check_script(script(*options), [])
    assert [("contradict each other" in remark) for remark in remarks] == [True] * wrong


PLACES = [
    Partition("short", time_limit="01:00:00"),
    Partition("long", default=True, time_limit="2-00:00:00"),
    Partition("endless", time_limit="unlimited"),
    Partition("silent"),
]


@pytest.mark.parametrize(
    ("partition", "time", "over"),
    [
        ("short", "60", None),
        ("short", "61", "--time=01:01:00 is over 01:00:00, MaxTime of short: set time"),
        ("", "2-00:00:01", "--time=2-00:00:01 is over 2-00:00:00, MaxTime of long: set time"),
        ("short,long", "10:00:00", None),  # long takes it
        ("short,long", "3-0", "--time=3-00:00:00 is over 2-00:00:00, MaxTime of long: set time"),
        ("endless", "30-0", None),
        ("silent", "30-0", None),
        ("elsewhere", "30-0", None),
        ("short", "", None),
    ],
)
def test_time_over_the_partitions(partition, time, over):
    options = [f"--partition={partition}"] * bool(partition) + [f"--time={time}"] * bool(time)
    assert check_script(script(*options), PLACES) == ([over] if over else [])


# ---- What a site refuses ----------------------------------------------------------------

# A site's rule as bash finds it broken in the job script $1, what its sbatch says then, and what
# the doctor finds out with it. The words are Slurm's own or those of public job_submit plugins.
SITES = {
    "no CPUs may be named": (
        'grep -q -- "^#SBATCH --cpus-per-task" "$1"',
        "sbatch: error: Please do not use --cpus-per-task",
        ["accepted without --cpus-per-task=8; cpus_per_gpu: leave it out, or tell srun alone with "
         'omit = ["cpus-per-task"]'],
    ),
    "fewer CPUs": (
        'grep -q -- "^#SBATCH --cpus-per-task=[2-9]" "$1"',
        "allocation failure: Requested node configuration is not available",
        ["accepted without --cpus-per-task=8; cpus_per_gpu: write less; see scontrol show node, "
         "CPUTot"],
    ),
    "no memory may be named": (
        'grep -q -- "^#SBATCH --mem=" "$1"',
        "sbatch: error: --mem is not allowed here",
        ["accepted without --mem=64G; mem: leave it out"],
    ),
    "no tasks per node": (
        'grep -q -- "^#SBATCH --ntasks-per-node" "$1"',
        "sbatch: error: Batch job submission failed: Invalid directive",
        ['accepted without --ntasks-per-node=1; omit: write ["ntasks-per-node"]'],
    ),
    "a directive of the profile's own": (
        'grep -q -- "^#SBATCH -d singleton" "$1" || grep -q -- "^#SBATCH --nvmps" "$1"',
        "sbatch: unrecognized option '--nvmps'",
        ["accepted without --nvmps; extra_sbatch: leave it out"],
    ),
    "whole nodes": (
        '! grep -q -- "^#SBATCH --exclusive" "$1"',
        "sbatch: error: this partition gives whole nodes",
        ["exclusive = true is accepted"],
    ),
    "GPUs are not asked for": (
        'grep -Eq -- "^#SBATCH --g(pu|res)" "$1"',
        "--> Verifying job request...\nsbatch: error: no --gres here, please",
        ["accepted without --gpus-per-node=2; gpu_request or gpu_type: see scontrol show node, "
         "Gres",
         'gpu_request = [] is accepted, where nodes are given whole, or ["srun"], where srun asks '
         "for GPUs"],
    ),
    "GPUs in another form": (
        '! grep -q -- "^#SBATCH --gres=gpu:2" "$1"',
        "sbatch: error: use --gres=gpu:N",
        ['gpu_request = ["gres"] is accepted'],
    ),
    "two in the way, and GPUs needed": (
        '! grep -q -- "--gpus-per-node" "$1" || grep -Eq -- "^#SBATCH --(mem|cpus)" "$1"',
        "sbatch: error: ask for GPUs alone",
        ["accepted without --cpus-per-task=8 and --mem=64G; cpus_per_gpu: leave it out, or tell "
         'srun alone with omit = ["cpus-per-task"]; mem: leave it out'],
    ),
    "a project": (
        "true",
        "sbatch: error: Name your project with --account",
        ["no directive is the reason; ask the site, and quote it"],
    ),
}  # fmt: skip


def probe_one(folder: Path, text: str) -> list:
    """Probe the job of two GPUs with a profile that says `text` besides."""
    profile = folder / "there.toml"
    profile.write_text(f'name = "there"\ngpus_per_node = 2\nnodes = 1\n{text}')
    matrix = load_matrix(REPO / "experiments/matrix.toml")
    one = matrix.model_copy(update={"jobs": {"ddp_2g1n": matrix.jobs["ddp_2g1n"]}})
    templates = make_environment(REPO / "templates")
    return probe(load_cluster(str(profile), folder), one, templates, [])


@pytest.mark.parametrize("site", SITES)
def test_what_a_site_refuses_is_found_out(site, tmp_path, monkeypatch):
    broken, words, remarks = SITES[site]
    (sbatch := tmp_path / "sbatch").write_text(
        f"#!/bin/bash\nshift\nif {broken}; then cat >&2 << 'EOF'\n{words}\nEOF\nexit 1; fi\n"
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (result,) = probe_one(tmp_path, 'cpus_per_gpu = 4\nmem = "64G"\nextra_sbatch = ["--nvmps"]\n')
    said = words.replace("sbatch: ", "").replace("error: ", "")
    assert "\n".join(result.refused) == said.replace("allocation failure: ", "")
    assert result.remarks == remarks


def test_what_does_not_go_with_the_profile_is_not_tried(tmp_path, monkeypatch):
    """`exclusive = true` beside its own --oversubscribe is refused when rendering."""
    (sbatch := tmp_path / "sbatch").write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (result,) = probe_one(tmp_path, 'extra_sbatch = ["--oversubscribe"]')
    assert result.remarks == ["no directive is the reason; ask the site, and quote it"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SlurmError, match="no sbatch here; run this on a login node"):
        probe_one(tmp_path, "")


def test_a_warning_of_an_accepted_job_is_shown(tmp_path, monkeypatch):
    (sbatch := tmp_path / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: warning: limits were lowered' >&2\necho 'sbatch: Job 1' >&2\n"
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert ask_sbatch(script("--nodes=1")) == (True, ("warning: limits were lowered", "Job 1"))


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        (["--partition=lab"], "lab is closed to you (AllowGroups=staff): write another partition"),
        (["--partition=lab,gpu"], None),
        ([], "no --partition, and the default, cpu, has no GPUs: set partition, unless the site"),
        (["-p gpu"], None),
    ],
)
def test_partitions_that_cannot_take_the_job(options, remark):
    gpus = [Node("g1", gpus={None: 4})]
    places = [
        Partition("cpu", default=True, nodes=[Node("c1", gpus={})]),
        Partition("gpu", nodes=gpus),
        Partition("lab", nodes=gpus, closed_by="AllowGroups=staff"),
    ]
    said = check_script(script(*options), places)
    assert said == [] if remark is None else said[0].startswith(remark)
