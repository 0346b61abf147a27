"""scripts/node.sh without a Slurm: signals that come early, wrong networks, what ranks leave."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def start(folder: Path, body: str, **variables: str) -> subprocess.Popen:
    """Start node.sh with `body` as the job script's run_on_node."""
    function = f"run_on_node() {{\n{body}\n}}\nexport -f run_on_node"
    text = f"{function}\nexec bash {REPO}/scripts/node.sh"
    told = {"PATH": os.environ["PATH"], "RESULTS_DIR": str(folder), "SLURM_JOB_ID": "7",
            "SLURMD_NODENAME": "node2", "MASTER_ADDR": "localhost", "TASKS_PER_NODE": "1",
            "NODES": variables.get("SLURM_NNODES", "1"), "GPUS_PER_NODE": "1",
            "ACCELERATOR": "nvidia"}  # fmt: skip
    return subprocess.Popen(
        ["bash", "-c", text], cwd=folder, env=told | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@pytest.mark.parametrize("status", [0, 7])
def test_exit_status_is_that_of_the_function(tmp_path, status):
    process = start(tmp_path, f"set -e; (exit {status}); true")
    named = f"error: node2: status {status} of: ( exit {status} )\n" if status else ""
    assert (process.communicate(timeout=20), process.returncode) == (("", named), status)


def test_a_starter_numbers_the_nodes(tmp_path):
    body = 'echo "$SLURM_NODEID $SLURMD_NODENAME"'
    told = {"NODE_RANK_IN": "PMI_RANK", "SLURM_NODEID": "0", "PMI_RANK": "3"}
    output, errors = start(tmp_path, body, **told).communicate(timeout=20)
    assert (output.split()[0], "node2" in output, errors) == ("3", False, "")
    process = start(tmp_path, body, **told | {"PMI_RANK": ""})
    assert process.communicate(timeout=20) == (
        "", "error: node2 has no PMI_RANK; see node_rank in the profile\n",
    )  # fmt: skip
    assert process.returncode == 1


def test_usr1_is_remembered_for_a_trainer_that_cannot_hear_it_yet(tmp_path):
    process = start(tmp_path, 'trap "" USR1; : > begun; sleep 0.5; exit 3')
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGUSR1)
    wait_for(tmp_path / "STOP_USR1")
    process.communicate(timeout=20)
    assert process.returncode == 3


def test_term_waits_for_the_trainer(tmp_path):
    process = start(tmp_path, "trap : TERM; : > begun; sleep 0.5; : > saved")
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert (tmp_path / "saved").exists()


def list_processes_in(folder: Path) -> list[str]:
    """The processes whose working folder it is."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # it has ended
            if link.readlink() == folder:
                found.append(link.parent.name)
    return found


LEFT = {
    "logger": "sleep 61 > /dev/null 2>&1 &",
    "own session": "setsid sleep 61 &",
    "orphan": "(setsid sleep 61 & setsid sleep 62 &);",
    "deaf": "(trap '' TERM; exec sleep 61) &",
    "stopped": "sleep 61 & kill -STOP $!;",
}


@pytest.mark.parametrize("kind", LEFT)
def test_nothing_stays_behind(tmp_path, kind):
    began = time.monotonic()
    process = start(tmp_path, f"{LEFT[kind]} exit 1")
    process.communicate(timeout=20)
    assert process.returncode == 1
    assert time.monotonic() - began < 8
    assert list_processes_in(tmp_path) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"GLOO_SOCKET_IFNAME": "nope"}, "node2 has no network interface nope"),
        ({"GLOO_SOCKET_IFNAME": "nope,lo"}, None),
        ({"NCCL_SOCKET_IFNAME": "nope"}, None),  # no GPU here: NCCL is not asked
        ({"SLURM_NNODES": "2", "MASTER_ADDR": "no.invalid"}, "node2 cannot resolve no"),
        ({"SLURM_NNODES": "2", "MASTER_ADDR": "127.0.0.1"}, None),
    ],
)
def test_a_wrong_network_name_ends_the_job_in_one_line(tmp_path, variables, said):
    process = start(tmp_path, "echo ran", **variables)
    printed, errors = process.communicate(timeout=30)
    if said is None:
        assert (printed, errors, process.returncode) == ("ran\n", "", 0)
        return
    assert (printed, process.returncode) == ("", 1)
    assert errors.startswith(f"error: {said}") and errors.count("\n") == 1
    assert "lo" in errors or "profile" in errors


@pytest.mark.parametrize(
    ("names", "fits"),
    [("lo", True), ("l", True), ("=lo", True), ("=l", False), ("^docker", True), ("ib", False)],
)
def test_nccl_takes_beginnings_of_names(tmp_path, names, fits):
    (tmp_path / "nvidia-smi").write_text("")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    process = start(tmp_path, "true", NCCL_SOCKET_IFNAME=names, PATH=path)
    process.communicate(timeout=20)
    assert (process.returncode == 0) == fits
