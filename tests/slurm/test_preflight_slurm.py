"""doctor.py --submit on a real Slurm: all is well, one thing broken on a node, Ctrl-C."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm
REPO = Path(__file__).resolve().parents[2]
PROFILE = """
name = "here"
gpus_per_node = 2
cpus_per_gpu = 1
accelerator = "none"   # its GPUs are names
setup = ['source "$REPO_DIR/.venv/bin/activate"']
data_dir = { tinyimagenet = "DATA" }
env = { GLOO_SOCKET_IFNAME = "ib0" }
"""


@pytest.fixture
def site(tmp_path):
    """A profile of the virtual cluster, and a folder of data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/image.jpeg").write_text("x")
    (tmp_path / "here.toml").write_text(PROFILE.replace("DATA", str(tmp_path / "data")))
    return tmp_path


def command(site: Path, *args: str) -> list:
    doctor = [sys.executable, REPO / "scripts/doctor.py", "--submit", site / "here.toml"]
    return [*doctor, "--to", site / "jobs", "--timeout", "5", *args]


def fly(slurm, site: Path, *args: str) -> tuple[int, dict]:
    """Run the preflight; returns its exit status, and per number of nodes its checks by name."""
    done = subprocess.run(
        command(site, "--json", *args), env=slurm.environment, capture_output=True, text=True
    )
    jobs = json.loads(done.stdout)["jobs"]
    return done.returncode, {
        job["nodes"]: {check["check"]: check for check in job["checks"]} for job in jobs
    }


def in_network(slurm, node: str, *words: str) -> None:
    """Run a command in the network of a node."""
    subprocess.run(["nsenter", f"--net=/run/netns/vs-{slurm.name}-{node}", *words], check=True)


def rename_link(slurm, node: str, old: str, new: str) -> None:
    for words in (["set", old, "down"], ["set", old, "name", new], ["set", new, "up"]):
        in_network(slurm, node, "ip", "link", *words)


def test_a_healthy_cluster_passes_at_one_and_two_nodes(slurm, site):
    status, jobs = fly(slurm, site)
    assert list(jobs) == [1, 2]
    told = [check for checks in jobs.values() for check in checks.values()]
    wrong = [check for check in told if check["status"] != "ok"]
    assert (status, wrong) == (0, [])
    assert jobs[1]["ranks meet"]["found"] == "2 of 2, over gloo"
    assert jobs[2]["ranks meet"]["found"] == "4 of 4, over gloo"
    assert jobs[2]["transport"]["found"] == "gloo over TCP sockets: the ranks run on CPUs"
    assert re.search(r"algbw [\d.]+ GB/s, busbw", jobs[2]["bandwidth"]["found"])
    # Both nodes are one machine: its clock is ahead of itself by no more than was measured.
    clocks = jobs[2]["clocks"]["found"]
    found = re.search(r"node2 is (\S+) ms (?:ahead|behind), within (\S+) ms", clocks)
    assert float(found[1]) <= float(found[2]) < 1000
    log = next((site / "jobs/here/2_nodes/log").glob("*.out")).read_text()
    assert re.search(r"^Job \d+: complete \(exit status 0\)", log, re.MULTILINE)


def test_an_interface_that_one_node_lacks(slurm, site):
    """The job's own check ends it there, before the node could be looked at."""
    rename_link(slurm, "node2", "ib0", "eth7")
    try:
        status, jobs = fly(slurm, site, "--gpus", "1")
    finally:
        rename_link(slurm, "node2", "eth7", "ib0")
    assert status == 1
    checks = jobs[2]
    failed = {name for name, check in checks.items() if check["status"] == "FAIL"}
    # node1 is killed after 10 s, on a busy machine while it loads PyTorch: "did not end".
    assert failed - {"PyTorch"} == {"job"}
    words = "node2 has no network interface ib0 (GLOO_SOCKET_IFNAME); it has: lo eth7; set GLOO_"
    assert words in checks["job"]["found"]
    lacking = {name for name, check in checks.items() if check["status"] == "not run"}
    assert lacking >= {"interfaces", "ranks meet", "all-reduce", "bandwidth", "transport", "clocks"}


def test_a_setup_line_that_fails_is_named(slurm, site):
    path = site / "here.toml"
    path.write_text(re.sub(r"setup = .*", "setup = ['source /no/such/activate']", path.read_text()))
    environment = slurm.environment | {"SBATCH_HINT": "x"}
    done = subprocess.run(command(site), env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "look    SBATCH_HINT='x' in this shell overrides the job scripts" in done.stdout
    stops = re.findall(r'^FAIL    job +FAILED, in "Software": (.*)$', done.stdout, re.MULTILINE)
    assert len(stops) == 2
    assert stops[0].startswith("/no/such/activate: No such file or directory (line ")
    assert "-> fix setup, env or data_dir in the profile" in done.stdout


def test_a_job_that_sbatch_refuses_is_told(slurm, site):
    path = site / "here.toml"
    path.write_text(path.read_text().replace("\ncpus", '\npartition = "no"\ncpus'))
    status, jobs = fly(slurm, site)
    assert status == 1
    assert list(jobs[1]) == list(jobs[2]) == ["job"]
    assert "not submitted: sbatch: " in jobs[1]["job"]["found"]
    assert "invalid partition" in jobs[1]["job"]["found"].lower()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_it_cancels_its_own_jobs_and_no_other(slurm, site, number, status):
    (site / "other.slurm").write_text("#!/bin/bash\n#SBATCH --output=/dev/null\nsleep 60\n")
    other = slurm.run("sbatch", "--parsable", str(site / "other.slurm"))
    try:
        process = subprocess.Popen(
            command(site, "--gpus", "1"), env=slurm.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(number)
        rest = process.communicate(timeout=60)[0]
        mine = [re.search(r"^job (\d+),", line)[1] for line in said]
        assert (process.returncode, "Traceback" in rest) == (status, False)
        assert f"cancelled {' '.join(mine)}" in rest
        time.sleep(0.5)
        assert {slurm.state(job) for job in mine} <= {"CANCELLED", "COMPLETING"}
        assert slurm.state(other) in ("RUNNING", "PENDING")
    finally:
        slurm.run("scancel", other)


def test_a_job_that_cannot_start_in_time_is_given_up(slurm, site):
    """Every node is taken; the wait is bounded, the pending reason is shown, nothing is left."""
    hold = ["sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null"]
    other = slurm.run(*hold, "--wrap", "sleep 100")
    deadline = time.monotonic() + 60
    while slurm.state(other) != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    try:
        status, jobs = fly(slurm, site, "--timeout", "0.1")
        assert status == 1
        for checks in jobs.values():
            assert re.fullmatch(
                r"cancelled: still PENDING \((?:Resources|Priority)\) after 0.1 min",
                checks["job"]["found"],
            )
        assert slurm.run("squeue", "--noheader", "--name=preflight_1n,preflight_2n") == ""
        assert slurm.state(other) == "RUNNING"
    finally:
        slurm.run("scancel", other)
