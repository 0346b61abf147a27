"""doctor.py on a real Slurm: drafts are accepted as they stand, refusals are explained."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.toml import tomllib
from doctor.cluster import Partition
from doctor.probe import check_script
from doctor.sources import COMMANDS
from profiles import load_matrix
from slurm_cluster import VirtualSlurm
from slurm_shapes import REPO, doctor, list_groups

# ---- A real Slurm -----------------------------------------------------------------------


@pytest.mark.slurm
def test_the_draft_for_a_real_slurm_states_it_and_renders(slurm, tmp_path):
    """The virtual cluster: 2 nodes, each 8 GPUs without a type, 64 CPUs, 262144 MB; 4 h."""
    path = tmp_path / "here.toml"
    doctor("--write", path, **slurm.environment)
    values = tomllib.loads(path.read_text())
    assert values == {
        "name": "here", "gpus_per_node": 8, "nodes": 2, "gpu_request": ["gpus-per-node"],
        "partition": "main", "cpus_per_node": 64, "cpus_per_gpu": 8, "mem_per_gpu": "32768M",
    }  # fmt: skip
    assert '# At most time = "04:00:00" (scontrol show partition: MaxTime of main).' in (
        path.read_text()
    )
    jobs = tmp_path / "jobs"
    render = [sys.executable, REPO / "render.py", "--cluster", path, "--to", jobs]
    shown = slurm.run(*render, "--only", "ddp_*")
    left_out = [line for line in shown.splitlines() if line.startswith("left out")]
    assert [line.split('"')[1] for line in left_out] == ["ddp_2g4n", "ddp_2g8n"]
    scripts = sorted(jobs.glob("**/*.slurm"))
    assert len(scripts) == 5
    for script in scripts:
        slurm.run("sbatch", "--test-only", script.name, cwd=script.parent)


@pytest.mark.slurm
def test_saved_outputs_say_what_the_live_cluster_says(slurm, tmp_path):
    live = json.loads(doctor("--json", **slurm.environment).stdout)
    for file, command in COMMANDS.items():
        if file != "sacctmgr.txt" and shutil.which(command[0]):
            (tmp_path / file).write_text(slurm.run(*command) + "\n")
    saved = json.loads(doctor("--from", tmp_path, "--json").stdout)
    assert saved["partitions"] == live["partitions"]
    assert saved["config"] == live["config"]
    (main,) = live["partitions"]
    assert list_groups(main) == [(2, 2, {None: 8}, 64, 1, 262144)]
    assert main["groups"][0]["hosts"] == ["node1", "node2"]


class ShapedSlurm(VirtualSlurm):
    """A virtual cluster of two nodes whose configuration is exchanged: another site."""

    def start(self, host: str, *daemon: str) -> None:
        """Start a daemon as virtual_cluster.sh does: in the host's network, with its name."""
        script = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'
        command = [
            "nsenter", f"--net=/run/netns/vs-{self.name}-{host}", "unshare", "--uts", "--mount",
            "sh", "-c", script, "sh", self.folder / "hosts", host, *daemon,
        ]  # fmt: skip
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        subprocess.run(
            command, env=self.environment, stderr=subprocess.DEVNULL, check=True, **quiet
        )

    @property
    def folder(self) -> Path:
        return Path(self.environment["SLURM_CONF"]).parent

    def stop(self) -> None:
        """End slurmctld and both slurmd, whose state would not fit the next configuration."""
        for file in self.folder.glob("slurm*.pid"):
            pid = int(file.read_text())
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        shutil.rmtree(self.folder / "slurmctld")

    def reshape(self, gres: str, nodes: list[str], partitions: str, select: str) -> None:
        """Run the cluster with other GPUs, nodes and partitions; wait until its nodes are idle."""
        self.stop()
        conf = self.folder / "slurm.conf"
        text = conf.read_text()
        addresses = sorted(set(re.findall(r"NodeAddr=[0-9.]+", text)))
        kept = [x for x in text.splitlines() if not x.startswith(("NodeName", "PartitionName"))]
        kept = [re.sub(r"^SelectType=.*", f"SelectType=select/{select}", line) for line in kept]
        for number, (address, node) in enumerate(zip(addresses, nodes, strict=True), start=1):
            kept.append(f"NodeName=node{number} {address} {node}")
        conf.write_text("\n".join([*kept, partitions]) + "\n")
        devices = gres.replace("File=", f"File={self.folder}/dev/nvidia")
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\n{devices}\n")
        self.start("controller", "slurmctld")
        for number in (1, 2):
            self.start(f"node{number}", "slurmd", "-N", f"node{number}")
        deadline = time.monotonic() + 60
        while True:
            idle = ["sinfo", "--noheader", "--states=idle", "--Node", "--format=%n %t"]
            done = subprocess.run(idle, env=self.environment, capture_output=True, text=True)
            names = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" idle")}
            if names == {"node1", "node2"}:
                return
            assert time.monotonic() < deadline, (done.stdout, done.stderr)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def shaped():
    cluster = ShapedSlurm("shapes")
    cluster.up(nodes=2, gpus=4)
    yield cluster
    cluster.control("down")


LARGE, SMALL = "CPUs=64 RealMemory=262144", "CPUs=16 RealMemory=65536"
SITES = {
    "typed gres, the time limit below the jobs'": (
        "Name=gpu Type=a100 File=[0-3]",
        [f"{LARGE} Gres=gpu:a100:4"] * 2,
        "PartitionName=batch Default=YES Nodes=ALL MaxTime=20\n"
        "PartitionName=debug Nodes=node1 MaxTime=5",
        "cons_tres",
        {"gpus_per_node": 4, "nodes": 2, "gpu_request": ["gres"], "gpu_type": "a100",
         "partition": "batch", "time": "00:20:00", "cpus_per_node": 64, "cpus_per_gpu": 16,
         "mem_per_gpu": "65536M"},
        ["1x1", "1x2", "1x4", "2x2"],
    ),
    "GPUs told apart by a constraint": (
        "Name=gpu File=[0-3]",
        [f"{LARGE} Gres=gpu:4 Feature=v100,4gpus", f"{LARGE} Gres=gpu:4 Feature=a100,4gpus"],
        "PartitionName=gpu Default=YES Nodes=ALL MaxTime=INFINITE",
        "cons_tres",
        {"gpus_per_node": 4, "nodes": 1, "gpu_request": ["gpus-per-node"], "partition": "gpu",
         "constraint": "v100", "cpus_per_node": 64, "cpus_per_gpu": 16, "mem_per_gpu": "65536M"},
        ["1x1", "1x2", "1x4"],
    ),
    "whole nodes by rule, one with one GPU": (
        "NodeName=node1 Name=gpu File=0\nNodeName=node2 Name=gpu File=[0-3]",
        [f"{SMALL} Gres=gpu:1", f"{LARGE} Gres=gpu:4"],
        "PartitionName=single Default=YES Nodes=node1 MaxTime=2:00:00 OverSubscribe=EXCLUSIVE\n"
        "PartitionName=four Nodes=node2 MaxTime=1-0 OverSubscribe=EXCLUSIVE",
        "cons_tres",
        {"gpus_per_node": 4, "nodes": 1, "gpu_request": ["gpus-per-node"],
         "partition": [{"gpus_per_node": "1", "use": "single"}, {"use": "four"}],
         "cpus_per_node": 64, "cpus_per_gpu": 16, "mem": "0"},
        ["1x1", "1x2", "1x4"],
    ),
    "two types on a node, a limit of CPUs, no cons_tres": (
        "Name=gpu Type=a100 File=[0-1]\nName=gpu Type=t4 File=[2-3]",
        [f"{LARGE} Gres=gpu:a100:2,gpu:t4:2"] * 2,
        "PartitionName=mix Default=YES Nodes=ALL MaxTime=2:00:00 MaxCPUsPerNode=32",
        "cons_res",
        {"gpus_per_node": 2, "nodes": 2, "gpu_request": ["gres"], "gpu_type": "a100",
         "partition": "mix", "cpus_per_node": 32, "cpus_per_gpu": 16,
         "mem": [{"gpus_per_node": "1", "use": "65536M"},
                 {"gpus_per_node": "2", "use": "131072M"}]},
        ["1x1", "1x2", "2x2"],
    ),
}  # fmt: skip


@pytest.mark.slurm
@pytest.mark.parametrize("site", SITES)
def test_drafts_for_contrasting_sites_are_accepted_as_they_stand(shaped, tmp_path, site):
    gres, nodes, partitions, select, expected, scales = SITES[site]
    plugins = shaped.run("scontrol", "show", "config")
    if select == "cons_res" and not re.search(r"SLURM_VERSION\s*= (20|21|22)\.", plugins):
        pytest.skip("this Slurm has no cons_res any more")
    shaped.reshape(gres, nodes, partitions, select)
    path = tmp_path / "here.toml"
    doctor("--write", path, **shaped.environment)
    assert tomllib.loads(path.read_text()) == {"name": "here"} | expected
    jobs = tmp_path / "jobs"
    render = [sys.executable, REPO / "render.py", "--cluster", path, "--to", jobs]
    shaped.run(*render, "--only", "ddp_*")
    accepted = []
    for script in sorted(jobs.glob("**/*.slurm")):
        shaped.run("sbatch", "--test-only", script.name, cwd=script.parent)
        name = re.search(r"--job-name=ddp_(\d+)g(\d+)n", script.read_text())
        accepted.append(f"{name[2]}x{name[1]}")
    assert sorted(accepted) == scales
    shown = doctor("--probe", path, **shaped.environment).stdout
    assert len(re.findall(r"^ok +ddp_", shown, re.MULTILINE)) == len(scales)
    assert "refused" not in shown
    if select == "cons_res":  # where --gpus is not known
        text = path.read_text().replace('name = "here"', 'name = "gpus"')
        path = tmp_path / "gpus.toml"
        path.write_text(text.replace('gpu_request = ["gres"]', 'gpu_request = ["gpus"]'))
        done = doctor("--probe", path, **shaped.environment)
        assert done.returncode == 1
        assert 'gpu_request = ["gpus-per-node"] is accepted' in done.stdout


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('partition = "gpuu"', "accepted without --partition=gpuu; partition: write one of main"),
        ('constraint = "a100"', "accepted without --constraint=a100; constraint: write"),
        ("cpus_per_gpu = 100", "accepted without --cpus-per-task=100; cpus_per_gpu: write less"),
        ('gpu_type = "h100"', "accepted without --gpus-per-node=h100:1; gpu_request or gpu_type"),
        ('mem = "900G"', "accepted without --mem=900G; mem: write less"),
        (  # two causes at once, and three
            'mem = "900G"\nconstraint = "a100"',
            "accepted without --mem=900G and --constraint=a100; mem: write less; "
            "constraint: write a feature",
        ),
        (
            'mem = "900G"\nconstraint = "a100"\npartition = "no"',
            "accepted without --mem=900G and --partition=no and --constraint=a100; mem",
        ),
        (
            'extra_sbatch = ["--licenses=matlab:1"]',
            "accepted without --licenses=matlab:1; extra_sbatch: leave it out",
        ),
        ('time = "05:00:00"', "--time=05:00:00 is over 04:00:00, MaxTime of main: set time"),
        ('gpu_request = ["gpus", "gpus-per-task"]\nlauncher = "srun"', None),
    ],
)
def test_refusals_are_translated(slurm, tmp_path, wrong, said):
    path = tmp_path / "wrong.toml"
    path.write_text(f'name = "wrong"\ngpus_per_node = 1\nnodes = 1\n{wrong}\n')
    done = doctor("--probe", path, **slurm.environment | {"SBATCH_TIMELIMIT": "1"})
    assert done.stderr == ""
    assert done.returncode == (said is not None), done.stdout
    assert said is None or said in done.stdout
    assert "SBATCH_TIMELIMIT='1' in this shell overrides the job scripts" in done.stdout


def probe(slurm, path: Path, text: str) -> subprocess.CompletedProcess:
    path.write_text(f'name = "{path.stem}"\ngpus_per_node = 8\n{text}\n')
    return doctor("--probe", path, **slurm.environment)


@pytest.mark.slurm
def test_a_refusal_of_many_scales_is_explained_once(slurm, tmp_path):
    """The cluster has 2 nodes: where the profile does not say so, that is a second cause."""
    shown = probe(slurm, tmp_path / "all.toml", 'partition = "gpuu"').stdout
    jobs = load_matrix(REPO / "experiments/matrix.toml").jobs
    few, many = (", ".join(n for n in jobs if (jobs[n].nodes > 2) == over) for over in (0, 1))
    words = (
        "Invalid partition name specified\n          sbatch: invalid partition specified: gpuu\n"
        "          sbatch: Invalid partition name specified\n"
    )
    assert shown == (
        f"refused {few}: {words}"
        "          accepted without --partition=gpuu; partition: write one of main\n"
        f"refused {many}: {words}"
        "          accepted without --nodes=4 and --partition=gpuu; nodes: write how many a job "
        "may have at most; partition: write one of main\n"
        f"Next: change {tmp_path / 'all.toml'} as the remarks say, then probe again\n"
    )


@pytest.mark.slurm
@pytest.mark.parametrize("wrong", ['partition = "gpuu"', 'mem_per_gpu = "1G"'])
def test_a_site_that_wants_gpus_on_srun_is_offered_no_dialect(slurm, tmp_path, wrong):
    """With --mem-per-gpu a job without GPUs is refused: another dialect would be accepted."""
    text = f'nodes = 2\ngpu_request = ["srun"]\n{wrong}'
    shown = probe(slurm, tmp_path / "step.toml", text).stdout
    assert "refused ddp_1g1n, ddp_2g1n" in shown
    assert "is accepted" not in shown
    text = text.replace("srun", "gpus-per-node")
    assert "is accepted" not in probe(slurm, tmp_path / "step.toml", text).stdout


@pytest.mark.slurm
def test_what_sbatch_takes_for_a_comment_is_told(slurm, tmp_path):
    """sbatch accepts a script whose wrong directives it does not see; the doctor does."""
    script = tmp_path / "job.slurm"
    wrong = ["# SBATCH --partition=no", "##SBATCH --partition=no", "  #SBATCH --partition=no"]
    late = "set -e\n#SBATCH --partition=no\n"
    script.write_text("\n".join(["#!/bin/bash", "#SBATCH --nodes=1", *wrong, late]))
    slurm.run("sbatch", "--test-only", str(script))
    indented = tmp_path / "indented.slurm"  # it does not end the directives either
    indented.write_text("#!/bin/bash\n  #SBATCH --nodes=1\n#SBATCH --partition=no\n")
    refused = subprocess.run(
        ["sbatch", "--test-only", indented], env=slurm.environment, capture_output=True, text=True
    )
    assert "invalid partition" in refused.stderr.lower()
    remarks = check_script(script.read_text(), [])
    assert [remark.split("'")[1] for remark in remarks] == [
        "#SBATCH --partition=no", *map(str.strip, wrong),
    ]  # fmt: skip


def test_directives_that_sbatch_does_not_see():
    text = """#!/bin/bash
#SBATCH --time=2:00:00
# SBATCH --mem=4G
##SBATCH --mem=4G
#SBATCH --gres=gpu:a100:2
#SBATCH --gpus-per-node=4
set -e
#SBATCH --partition=gpu
"""
    remarks = check_script(text, [Partition("main", default=True, time_limit="01:00:00")])
    assert remarks == [
        "'#SBATCH --partition=gpu' stands after the first command: sbatch ignores it",
        "'# SBATCH --mem=4G' is a comment to sbatch: write '#SBATCH --option'",
        "'##SBATCH --mem=4G' is a comment to sbatch: write '#SBATCH --option'",
        "--time=02:00:00 is over 01:00:00, MaxTime of main: set time",
        "--gres=gpu:a100:2 and --gpus-per-node=4 contradict each other: keep one, see "
        "gpu_request and extra_sbatch",
    ]
