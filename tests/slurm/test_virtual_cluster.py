"""scripts/virtual_cluster.sh, used as its users do: a real Slurm whose nodes are namespaces."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm_cluster import SCRIPT, VirtualSlurm

NAMESPACES = Path("/run/netns")


class Cluster(VirtualSlurm):
    """A cluster with a name of its own, away from any that a user or another test has up."""

    def __init__(self, name):
        super().__init__(name)
        self.state_folder = Path(f"/var/tmp/virtual_slurm_{name}")

    def start_up(self, nodes):
        """Begin `up` in a session of its own, as a terminal would, and do not wait for it."""
        return subprocess.Popen(
            ["bash", SCRIPT, "up", "--nodes", str(nodes)],
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def leftovers(self):
        """List what of this cluster is on the machine: processes, namespaces, its cable, files."""
        # Each process has the state folder in its environment, in SLURM_CONF; a zombie has none.
        processes = [
            f"process {path.parent.name}"
            for path in Path("/proc").glob("[0-9]*/environ")
            if f"={self.state_folder}/".encode() in read_if_there(path)
        ]
        return [
            *processes,
            *NAMESPACES.glob(f"vs-{self.name}-*"),
            *Path("/sys/class/net").glob(f"vs-{self.name}"),
            *self.state_folder.parent.glob(f"{self.state_folder.name}*"),
        ]


def read_if_there(path):
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with two GPUs each, shared by the tests that leave it as it is."""
    cluster = Cluster("vctest")
    cluster.up(nodes=2, gpus=2)
    yield cluster
    cluster.control("down")


@pytest.fixture
def other_cluster():
    """A second name, for one test to start and to break."""
    cluster = Cluster("vctest100")  # the checksum of the name leads to the subnet of vctest
    cluster.require()
    yield cluster
    cluster.control("down")


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ([], "valid: install, check, up, status, env, down"),
        (["start"], "valid: install, check, up, status, env, down"),
        (["down", "--force"], "down takes no arguments"),
        (["up", "--node", "2"], "valid: --nodes, --gpus"),
        (["up", ""], "valid: --nodes, --gpus"),
        (["up", "--nodes"], "--nodes takes 1 to 32"),
        (["up", "--nodes", "0"], "--nodes takes 1 to 32"),
        (["up", "--nodes", "33"], "--nodes takes 1 to 32"),
        (["up", "--nodes", "two"], "--nodes takes 1 to 32"),
        (["up", "--gpus", "17"], "--gpus takes 1 to 16"),
        (["up", "--gpus", "1+1"], "--gpus takes 1 to 16"),
        (["up", "--link", "100"], "--link takes a rate such as 100mbit, not '100'"),
        (["up", "--link"], "--link takes a rate such as 100mbit, not ''"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, fix):
    result = Cluster("vctest").control(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"error: .*\n", result.stderr)
    assert fix in result.stderr


@pytest.mark.parametrize("name", ["Upper", "has-dash", "../escape", "tencharsxx", "$(touch x)"])
def test_a_name_that_cannot_name_an_interface_is_refused(name):
    result = Cluster(name).control("status")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"error: VIRTUAL_CLUSTER_NAME=.*\n", result.stderr)


@pytest.mark.parametrize("folder", ["here", "/with space", "/" + 40 * "x"])
def test_a_folder_that_slurm_cannot_use_is_refused(folder):
    cluster = Cluster("vctest")
    cluster.environment |= {"VIRTUAL_CLUSTER_BASE": folder}
    result = cluster.control("status")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"error: VIRTUAL_CLUSTER_BASE=.*\n", result.stderr)


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["up", "--help"]])
def test_help_names_every_command(arguments):
    result = Cluster("vctest").control(*arguments)
    assert result.returncode == 0
    for command in ["install", "check", "up [--nodes 4] [--gpus 8]", "status", "env", "down"]:
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", ["env", "status"])
def test_without_a_cluster_there_is_nothing_to_show(command):
    result = Cluster("vcnone").control(command)
    assert (result.returncode, result.stdout) == (1, "")
    message = rf"error: {command}: no cluster 'vcnone' is up; run: .* up\n"
    assert re.fullmatch(message, result.stderr)


@pytest.mark.parametrize("command", ["check", "up", "down"])
def test_without_root_the_error_says_so(command):
    nobody = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    with SCRIPT.open() as script:  # as standard input: nobody may not be able to read the folder
        result = subprocess.run(
            ["bash", "-s", command],
            stdin=script,
            capture_output=True,
            text=True,
            cwd="/",
            **(nobody if os.geteuid() == 0 else {}),
        )
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"error: {command}: needs root; run it with sudo: .*\n", result.stderr)


@pytest.mark.slurm
def test_a_folder_without_devices_is_found_out_before_anything_is_made():
    Cluster("vctest").require()
    cluster = Cluster("vcnodev")
    mount_and_up = 'mount -t tmpfs -o nodev none /mnt && VIRTUAL_CLUSTER_BASE=/mnt bash "$1" up'
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount_and_up, "sh", SCRIPT],
        env=cluster.environment,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (1, "")
    message = r"error: up: opening a device: .*; set VIRTUAL_CLUSTER_BASE to .*\n"
    assert re.fullmatch(message, result.stderr)
    assert cluster.leftovers() == []


@pytest.mark.slurm
def test_all_nodes_are_idle_and_have_their_gpus(cluster):
    nodes = cluster.run("sinfo", "--noheader", "--Node", "--format=%N %t %G")
    assert nodes.splitlines() == ["node1 idle gpu:2", "node2 idle gpu:2"]


@pytest.mark.slurm
def test_a_job_runs_on_two_hosts_with_a_network_and_gpus(cluster, tmp_path):
    (tmp_path / "job.slurm").write_text(
        "#!/bin/bash\n"
        "#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=2 --output=job.out\n"
        "srun --label bash -c '\n"
        '  echo "host $(hostname)"\n'
        "  ip -oneline -4 address show dev ib0\n"
        '  echo "gpus $SLURM_GPUS_ON_NODE cuda $CUDA_VISIBLE_DEVICES"\n'
        '  echo "node2 is $(getent hosts node2)"\n'
        "'\n"
    )
    assert cluster.wait(cluster.submit(tmp_path)) == "COMPLETED"
    lines = (tmp_path / "job.out").read_text().splitlines()
    for task in (0, 1):
        host, address, gpus, node2 = [line[3:] for line in lines if line[:3] == f"{task}: "]
        assert host == f"host node{task + 1}"
        assert re.search(rf"ib0 +inet 198\.1[89]\.\d+\.{task + 1}/24 ", address)
        assert gpus == "gpus 2 cuda 0,1"
        assert re.fullmatch(r"node2 is 198\.1[89]\.\d+\.2 +node2", node2)


# Takes what is sent to it, and prints how many bytes in how many seconds.
RECEIVE = """
import socket, time
server = socket.create_server(("", 5000))
print("ready", flush=True)
connection, _ = server.accept()
size, start = len(connection.recv(1)), time.perf_counter()
while part := connection.recv(65536):
    size += len(part)
print(size, time.perf_counter() - start)
"""
SEND = 'import socket, sys; socket.create_connection((sys.argv[1], 5000)).sendall(b"x" * 500_000)'


@pytest.mark.slurm
def test_a_limited_link_sends_no_faster(other_cluster):
    """4 Mbit take a second at 4 Mbit per second; the token bucket has 32 kB ahead of that."""
    up = other_cluster.control("up", "--nodes", "2", "--link", "4mbit")
    if up.returncode != 0 and "tc" in up.stderr:
        pytest.skip(up.stderr.strip())  # a kernel without the token bucket
    assert (up.returncode, up.stderr) == (0, "")
    assert "2 nodes x 8 GPUs, links of 4mbit" in up.stdout
    enter = ["ip", "netns", "exec"]
    spaces = [f"vs-{other_cluster.name}-node{node}" for node in (1, 2)]
    shown = subprocess.run([*enter, spaces[1], "ip", "-oneline", "-4", "address", "show", "ib0"],
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    address = re.search(r"inet ([\d.]+)/", shown)[1]
    receive = [*enter, spaces[1], sys.executable, "-c", RECEIVE]
    with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout.readline() == "ready\n"
        subprocess.run([*enter, spaces[0], sys.executable, "-c", SEND, address], check=True)
        size, seconds = receiver.stdout.readline().split()
    assert int(size) == 500_000
    assert float(seconds) > 0.8
    other = other_cluster.control("up", "--nodes", "2")
    assert (other.returncode, other.stdout) == (1, "")
    assert "already up, but with 2 nodes x 8 GPUs, links of 4mbit" in other.stderr


@pytest.mark.slurm
def test_jobs_share_a_node_and_get_different_gpus(cluster, tmp_path):
    # Each waits until the other has begun: if only one at a time could run, neither would end.
    (tmp_path / "job.slurm").write_text(
        "#!/bin/bash\n"
        "#SBATCH --nodelist=node1 --gpus-per-node=1 --output=%j.out --time=1\n"
        "touch $SLURM_JOB_ID.begun\n"
        "until (( $(ls *.begun | wc --lines) == 2 )); do sleep 0.1; done\n"
        "echo $CUDA_VISIBLE_DEVICES\n"
    )
    jobs = [cluster.submit(tmp_path), cluster.submit(tmp_path)]
    assert [cluster.wait(job) for job in jobs] == ["COMPLETED", "COMPLETED"]
    assert sorted((tmp_path / f"{job}.out").read_text() for job in jobs) == ["0\n", "1\n"]


@pytest.mark.slurm
def test_a_new_cluster_does_not_use_old_job_ids(other_cluster):
    """A rehearsal's folders are named by job ids: an id that came twice would mix two runs."""
    ids = []
    for _ in range(2):
        assert other_cluster.control("up", "--nodes", "1", "--gpus", "1").returncode == 0
        settings = other_cluster.control("env").stdout
        other_cluster.environment |= dict(re.findall(r"export (\w+)=(\S+)", settings))
        ids.append(int(other_cluster.run("sbatch", "--parsable", "--wrap", "true")))
        other_cluster.control("down")
        time.sleep(1)
    assert 1 < ids[0] < ids[1] < 67_000_000  # Slurm's own limit


@pytest.mark.slurm
def test_an_ended_job_can_still_be_looked_up(cluster):
    job = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "exit 3")
    assert cluster.wait(job) == "FAILED"
    wait_for(lambda: f"JobId={job} " in read_completion_log(cluster))
    status = cluster.control("status").stdout
    assert status.startswith("vctest: 2 nodes x 2 GPUs")
    assert re.search(rf"^{job} +wrap +FAILED ", status, re.MULTILINE)


def read_completion_log(cluster):
    return (cluster.state_folder / "log" / "jobcomp.log").read_text()


@pytest.mark.slurm
def test_env_is_for_sourcing(cluster):
    count = 'source <(bash "$1" env) && sinfo --noheader --format=%D'
    assert cluster.run("bash", "-c", count, "bash", str(SCRIPT)) == "2"


@pytest.mark.slurm
def test_up_again_changes_nothing(cluster):
    same = cluster.control("up", "--nodes", "2", "--gpus", "2")
    assert (same.returncode, same.stdout) == (0, "vctest: already up, 2 nodes x 2 GPUs\n")
    other = cluster.control("up", "--nodes", "3", "--gpus", "2")
    assert (other.returncode, other.stdout) == (1, "")
    message = r"error: up: already up, but with 2 nodes x 2 GPUs; to change .* down\n"
    assert re.fullmatch(message, other.stderr)
    assert cluster.run("sinfo", "--noheader", "--format=%D %t") == "2 idle"


@pytest.mark.slurm
def test_two_clusters_run_side_by_side(cluster, other_cluster):
    other_cluster.up(nodes=1, gpus=1)
    ask_address = ["srun", "--nodelist=node1", "hostname", "--ip-address"]
    assert cluster.run(*ask_address) != other_cluster.run(*ask_address)
    assert other_cluster.control("down").returncode == 0
    assert cluster.run("sinfo", "--noheader", "--format=%D %t") == "2 idle"


@pytest.mark.slurm
def test_down_leaves_nothing_of_a_cluster_in_use(other_cluster):
    other_cluster.up(nodes=2, gpus=1)
    submit_sleeper(other_cluster, "srun sleep 600")
    assert other_cluster.control("down").stdout == "vctest100: down\n"
    assert other_cluster.leftovers() == []
    again = other_cluster.control("down")
    assert (again.returncode, again.stdout) == (0, "vctest100: already down\n")


def submit_sleeper(cluster, command):
    job = cluster.run("sbatch", "--nodes=2", "--output=/dev/null", "--wrap", command)
    wait_for(lambda: cluster.state(job.split()[-1]) == "RUNNING")


@pytest.mark.slurm
def test_down_leaves_nothing_when_daemons_were_killed(other_cluster):
    other_cluster.up(nodes=2, gpus=1)
    # The child in a session of its own outlives its job: Slurm does not find it.
    submit_sleeper(other_cluster, "trap '' TERM; setsid sleep 600 & srun sleep 600")
    for daemon in ["slurmctld", "slurmd_node1"]:
        pid = int((other_cluster.state_folder / f"{daemon}.pid").read_text())
        assert Path(f"/proc/{pid}/comm").read_text().startswith("slurm")
        os.kill(pid, signal.SIGKILL)

    up = other_cluster.control("up", "--nodes", "2", "--gpus", "1")
    assert up.returncode == 1
    assert "not all of it answers; first run:" in up.stderr
    assert other_cluster.control("down").returncode == 0
    assert other_cluster.leftovers() == []


@pytest.mark.slurm
@pytest.mark.parametrize("begun", ["network", "daemons"])
def test_an_interrupted_up_leaves_nothing(other_cluster, begun):
    sign = {
        "network": NAMESPACES / "vs-vctest100-controller",
        "daemons": other_cluster.state_folder / "log" / "start.log",
    }
    process = other_cluster.start_up(nodes=8)
    wait_for(sign[begun].exists)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does for Ctrl-C
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "up did not end well, removing it" in stderr
    assert other_cluster.leftovers() == []


@pytest.mark.slurm
def test_what_a_killed_up_left_is_no_obstacle(other_cluster):
    process = other_cluster.start_up(nodes=8)
    wait_for((other_cluster.state_folder / "log" / "start.log").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert other_cluster.leftovers() != []
    other_cluster.up(nodes=1, gpus=1)
    assert other_cluster.run("srun", "hostname") == "node1"
