"""The preflight's verdicts: what a healthy job looks like, and one thing wrong at a time."""

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import preflight
import pytest
from profiles.cluster import Cluster
from profiles.matrix import DoesNotFit, Job, load_matrix
from profiles.preflight_flight import NEVER
from profiles.preflight_group import judge_group, match_interfaces
from profiles.preflight_job import Preflight, plan_preflight, render_preflight
from profiles.preflight_node import judge_nodes
from profiles.preflight_report import Cause, find_line, find_status, format_table, judge
from profiles.preflight_verdict import Asked
from profiles.render_job import make_environment
from profiles.slurm import JobState

REPO = Path(__file__).resolve().parent.parent
GIB = 1024
H100 = "NVIDIA H100 80GB HBM3"


def make_task(number: int) -> dict:
    """What --node writes on a healthy node of two H100s."""
    links = [
        {"name": "lo", "up": True, "ipv4": "127.0.0.1"},
        {"name": "eno1", "up": True, "ipv4": f"10.0.0.{number + 1}"},
        {"name": "ib0", "up": True, "ipv4": f"10.1.0.{number + 1}"},
    ]
    gpus = [{"name": H100, "uuid": f"{number}-{k}"} for k in range(2)]
    room = {"free_mib": 500 * GIB, "total_mib": 900 * GIB}
    return {
        "host": f"n{number + 1}",
        "task": number,
        "log": {"folder": "/scratch/log", "seen": True},
        "cpus": {"usable": 16, "online": 64, "granted": 16},
        "shm": {"path": "/dev/shm", "free_mib": 250 * GIB, "total_mib": 256 * GIB},
        "interfaces": {"found": links, "chosen": {"NCCL_SOCKET_IFNAME": "ib0"}},
        "driver": {"nvidia": True, "amd": False},
        "master": {"name": "n1", "node_id": number, "addresses": ["10.0.0.1"], "own": number == 0},
        "run_dir": {"path": "/scratch/results", **room},
        "tmp": {"path": "/tmp", **room},
        "data": [{"name": "DATA_DIR", "path": "/data", "read": "/data/a", "seconds": 0.01}],
        "torch": {"version": "2.15.0", "cuda": "13.2", "hip": None, "visible_devices": "0,1",
                  "gpus": gpus},
    }  # fmt: skip


def make_rank(number: int) -> dict:
    """What a healthy rank writes; 2 nodes x 2 GPUs over InfiniBand."""
    return {
        "host": f"n{number // 2 + 1}",
        "rank": number,
        "world_size": 4,
        "backend": "nccl",
        "reduce": {"values": 262144, "wrong": 0, "bytes": 256 * 2**20, "seconds": 0.01},
        "clock": [{"host": "n2", "offset_s": 0.0003, "uncertainty_s": 0.0001}],
        "nccl": {"version": "2.27.3", "network": "IB", "gdr": 4, "warning": None,
                 "transports": {"NET/IB": 4, "P2P": 4}},
    }  # fmt: skip


ASKED = Asked(nodes=2, gpus_per_node=2, tasks_per_node=1, cpus_per_task=16, accelerator="nvidia")


def put(place: list[dict], where: str, value) -> None:
    """Set `0.torch.gpus` of a list of facts; `*` for each of them."""
    first, *keys, last = where.split(".")
    for facts in place if first == "*" else [place[int(first)]]:
        for key in keys:
            facts = facts[int(key) if isinstance(facts, list) else key]
        facts[last] = copy.deepcopy(value)


def judge_all(tasks: list[dict], ranks: list[dict], asked: Asked = ASKED) -> dict:
    verdicts = [*judge_nodes(tasks, asked), *judge_group(tasks, ranks, asked)]
    assert len({verdict.check for verdict in verdicts}) == len(verdicts)
    return {verdict.check: verdict for verdict in verdicts}


def test_a_healthy_job_is_ok_everywhere():
    tasks, ranks = [make_task(k) for k in range(2)], [make_rank(k) for k in range(4)]
    found = {name: (v.status, v.found) for name, v in judge_all(tasks, ranks).items()}
    assert found == {
        "log folder": ("ok", "seen"),
        "run folder": ("ok", "500.0 GiB free in /scratch/results"),
        "temporary files": ("ok", "500.0 GiB free in /tmp"),
        "/dev/shm": ("ok", "250.0 GiB of 256.0 GiB free"),
        "CPUs": ("ok", "16 usable of 16 asked for"),
        "PyTorch": ("ok", "2.15.0 (CUDA 13.2)"),
        "GPUs": ("ok", f"2 of 2 visible: {H100}"),
        "data": ("ok", "/data is readable"),
        "master address": ("ok", "n1 is 10.0.0.1"),
        "interfaces": ("ok", "NCCL_SOCKET_IFNAME=ib0 is there"),
        "ranks meet": ("ok", "4 of 4, over nccl"),
        "all-reduce": ("ok", "the sum of 262144 numbers is right on every rank"),
        # 268435456 bytes in 10 ms; x 2 (4 - 1) / 4
        "bandwidth": (
            "ok", "all-reduce of 256 MiB in 10 ms: algbw 26.8 GB/s, busbw 40.3 GB/s",
        ),
        "transport": ("ok", "NET/IB, P2P (NCCL 2.27.3), with GPUDirect RDMA"),
        "clocks": ("ok", "n2 is 0.3 ms ahead, within 0.1 ms"),
    }  # fmt: skip


SEEN = [{"name": H100, "uuid": "0-0"}]
SHM = {"path": "/dev/shm", "free_mib": 64, "total_mib": 64}
FULL = {"path": "/tmp", "free_mib": 12, "total_mib": 9000}
OTHERS = [{"name": H100, "uuid": f"x{k}"} for k in range(8)]
SOCKET = {"version": "2.27.3", "network": "Socket", "gdr": 0, "transports": {"NET/Socket": 4}}
NODES = [
    # a node's fact, what it is instead; the check, its status, parts of the words and the advice
    ("log.seen", False, "log folder", "FAIL", "n2: the job's log is not to be seen in", "share"),
    ("run_dir.error", "Read-only file system",
        "run folder", "FAIL", "n2: /scratch/results: Read-only", "RUN_DIR",
    ),
    ("run_dir.free_mib", 2048, "run folder", "warn", "n2: 2.0 GiB free", "checkpoints"),
    ("tmp", FULL, "temporary files", "FAIL", "n2: 12 MiB free in /tmp", "TMPDIR"),
    ("tmp.path", "/t" * 40, "temporary files", "warn", "is 80 characters long", "short path"),
    ("shm", SHM, "/dev/shm", "FAIL", "n2: 64 MiB of 64 MiB free", "--shm-size"),
    ("shm.free_mib", 600, "/dev/shm", "warn", "600 MiB", "1.0 GiB would be safe for 2"),
    ("cpus.usable", 8, "CPUs", "FAIL", "n2: 8 usable of 16 asked for", "hint"),
    ("cpus.usable", 64, "CPUs", "ok", "64 usable of 16", ""),
    ("cpus", {"usable": 4, "online": 4, "granted": 16},
        "CPUs", "warn", "4 usable of 16 asked for: all of the node's", "lower cpus_per_gpu",
    ),
    ("cpus", {"error": "OSError"}, "CPUs", "not run", "n2: OSError", ""),
    ("torch", {"error": "ModuleNotFoundError: No module named 'torch'"},
        "PyTorch", "FAIL", "n2: ModuleNotFoundError", "activate PyTorch in setup",
    ),
    ("torch.gpus", [], "GPUs", "FAIL", "n2: 0 of 2 visible", "cannot use the driver"),
    ("torch", {"version": "2", "gpus": [], "visible_devices": None},
        "GPUs", "FAIL", "CUDA_VISIBLE_DEVICES is unset", "srun_args",
    ),
    ("torch.gpus", SEEN, "GPUs", "FAIL", "n2: 1 of 2 visible", "gpu_request"),
    ("torch.gpus", OTHERS, "GPUs", "warn", "n2: 8 of 2 visible", "exclusive"),
    ("torch.gpus", [SEEN[0], {"name": "V100", "uuid": "1", "error": "no kernel image"}],
        "PyTorch", "FAIL", "cannot use the V100: no kernel image", "built for this GPU",
    ),
    ("data", [{"name": "DATA_DIR", "path": "/data", "error": "Permission denied"}],
        "data", "FAIL", "n2: /data: Permission denied", "data_dir",
    ),
    ("data", [{"name": "DATA_DIR", "path": "/data", "read": "/data/a", "seconds": 9.0}],
        "data", "warn", "first file took 9 s", "stage it",
    ),
    ("master.error", "Name or service not known",
        "master address", "FAIL", "n2: n1: Name or service not known", "set master",
    ),
    ("master.addresses", ["127.0.1.1"],
        "master address", "FAIL", "n2: n1 is 127.0.1.1: loopback", "set master",
    ),
    ("master.addresses", ["::1", "127.0.0.1"], "master address", "FAIL", "loopback", "master"),
    ("master.own", True, "master address", "FAIL", "this node's own, but rank 0", "set master"),
    ("interfaces.chosen", {"GLOO_SOCKET_IFNAME": "ib1"},
        "interfaces", "FAIL", "n2: GLOO_SOCKET_IFNAME=ib1, but up here: eno1, ib0", "every node",
    ),
    ("interfaces.found.2.up", False, "interfaces", "FAIL", "up here: eno1", "every node"),
    ("interfaces.found.2.ipv4", None, "interfaces", "warn", "has no IPv4 address", "another"),
    ("interfaces.chosen", {}, "interfaces", "ok", "none is chosen", ""),
]  # fmt: skip


@pytest.mark.parametrize(("where", "value", "check", "status", "words", "advice"), NODES)
def test_one_node_differs(where, value, check, status, words, advice):
    tasks, ranks = [make_task(k) for k in range(2)], [make_rank(k) for k in range(4)]
    put(tasks, f"1.{where}", value)
    verdict = judge_all(tasks, ranks)[check]
    assert verdict.status == status
    assert words in verdict.found or status == "ok"
    assert advice in verdict.todo
    if status == "FAIL":
        assert "n1: " not in verdict.found.removeprefix("n2: n1: ")  # the healthy one is not blamed


def test_the_same_on_every_node_is_told_once():
    tasks = [make_task(k) for k in range(2)]
    put(tasks, "*.shm", SHM)
    verdict = judge_all(tasks, [])["/dev/shm"]
    assert (verdict.status, verdict.found) == ("FAIL", "64 MiB of 64 MiB free")


def test_the_first_node_must_own_the_address():
    tasks = [make_task(k) for k in range(2)]
    put(tasks, "0.master.own", False)
    verdict = judge_all(tasks, [])["master address"]
    assert (verdict.status, verdict.found) == (
        "FAIL", "n1: n1 is 10.0.0.1: not an address of this node, where rank 0 is",
    )  # fmt: skip


RANKS = [
    ("2.reduce.wrong", 7, "all-reduce", "FAIL", "7 of 262144 numbers are wrong", "result of n2"),
    ("*.reduce.seconds", 1.0, "bandwidth", "warn", "busbw 0.403 GB/s", "10 Gbit"),
    ("*.nccl", SOCKET, "transport", "warn", "NET/Socket (NCCL 2.27.3)", "InfiniBand"),
    ("*.nccl", None, "transport", "not run", "names no transport", "via"),
    ("*.nccl.transports", {}, "transport", "ok", "NET/IB", ""),  # older: only `Using network`
    ("*.backend", "gloo", "transport", "warn", "gloo over TCP", "GPUs"),
    ("0.clock.0.offset_s", -3.0, "clocks", "warn", "n2 is 3 s behind", "NTP"),
    ("0.clock.0.uncertainty_s", 4.0, "clocks", "warn", "within 4 s", "too slow"),
    ("0.clock", [], "clocks", "not run", "not compared", ""),
]  # fmt: skip


@pytest.mark.parametrize(("where", "value", "check", "status", "words", "advice"), RANKS)
def test_something_between_the_ranks(where, value, check, status, words, advice):
    ranks = [make_rank(k) for k in range(4)]
    put(ranks, where, value)
    verdict = judge_all([make_task(k) for k in range(2)], ranks)[check]
    assert (verdict.status, words in verdict.found, advice in verdict.todo) == (status, True, True)


def test_a_rank_that_did_not_come():
    ranks = [make_rank(k) for k in range(4)]
    for rank in ranks:
        del rank["reduce"]
        rank |= {"in": "meeting"}
    ranks[3]["error"] = "DistNetworkError: connection refused"
    found = judge_all([make_task(k) for k in range(2)], ranks)
    assert found["ranks meet"].status == "FAIL"
    assert found["ranks meet"].found == (
        "0 of 4 ranks; rank 3 on n2: DistNetworkError: connection refused"
    )
    assert [found[check].status for check in ("all-reduce", "bandwidth", "transport")] == (
        ["not run"] * 3
    )
    ranks[3]["nccl"]["warning"] = "Bootstrap : no socket interface found"  # NCCL knows better
    found = judge_all([make_task(k) for k in range(2)], ranks)
    assert "no socket interface found" in found["ranks meet"].found


def test_an_all_reduce_that_did_not_end():
    ranks = [make_rank(k) for k in range(4)]
    for rank in ranks:
        del rank["reduce"], rank["clock"]
        rank["in"] = "all-reduce"
    found = judge_all([make_task(k) for k in range(2)], ranks)
    assert found["ranks meet"].status == "ok"
    assert found["all-reduce"].status == "FAIL"
    assert found["all-reduce"].found == "did not end on n1, n2: it hung, or was killed"
    assert found["bandwidth"].found == "rank 0 on n1: stopped in: all-reduce"


def test_what_a_node_did_not_tell_is_not_ok():
    tasks = [make_task(k) for k in range(2)]
    for name in ("data", "torch"):
        del tasks[1][name]
    tasks[1]["in"] = "data"  # it hangs there
    found = judge_all(tasks, [])
    assert (found["data"].status, found["data"].found) == (
        "FAIL",
        "n2: looking at data did not end",
    )
    assert (found["PyTorch"].status, found["GPUs"].status) == ("not run", "not run")
    alone = judge_all(tasks[:1], [])
    assert {alone[c].status for c in ("CPUs", "GPUs", "data", "master address")} == {"not run"}
    assert alone["CPUs"].found == "1 of 2 nodes told nothing"
    nothing = judge_all([], [])
    assert {verdict.status for verdict in nothing.values()} == {"not run"}


def test_a_task_a_gpu_sees_its_own():
    """Launcher srun: 2 tasks a node, each with one GPU; or, wrongly, all with the same."""
    tasks = [make_task(k // 2) | {"task": k} for k in range(4)]
    asked = Asked(2, 2, 2, 8, "nvidia")
    for task in tasks:
        task["torch"]["gpus"] = [{"name": H100, "uuid": f"{task['task']}"}]
    assert judge_all(tasks, [], asked)["GPUs"].found == f"2 of 2 visible: {H100}"
    for task in tasks:
        task["torch"]["gpus"][0]["uuid"] = "0"
    assert judge_all(tasks, [], asked)["GPUs"].status == "FAIL"
    for task in tasks:  # an old PyTorch tells no UUIDs
        task["torch"]["gpus"][0]["uuid"] = None
    assert judge_all(tasks, [], asked)["GPUs"].status == "ok"
    tasks[3]["cpus"]["usable"] = 4
    assert judge_all(tasks, [], asked)["CPUs"].found == "n2: 4 usable of 8 asked for"


@pytest.mark.parametrize(("usable", "status"), [(1, "warn"), (2, "warn"), (3, "ok")])
def test_cpus_that_nobody_asked_for(usable, status):
    task = make_task(0)
    task["cpus"]["usable"] = usable
    found = judge_all([task], [], Asked(1, 2, 1, None, "none"))
    assert found["CPUs"].status == status
    assert (found["GPUs"].status, "none looked for" in found["GPUs"].found) == ("ok", True)
    assert "master address" not in found  # one node needs none


@pytest.mark.parametrize(
    ("variable", "value", "matched"),
    [
        ("NCCL_SOCKET_IFNAME", "ib", ["ib0", "ib1"]),
        ("NCCL_SOCKET_IFNAME", "=ib", []),
        ("NCCL_SOCKET_IFNAME", "=ib1", ["ib1"]),
        ("NCCL_SOCKET_IFNAME", "^docker0,ib", ["eno1"]),
        ("NCCL_SOCKET_IFNAME", "^=ib0", ["eno1", "ib1"]),
        ("NCCL_SOCKET_IFNAME", "hsn0,ib0", ["ib0"]),
        ("GLOO_SOCKET_IFNAME", "ib0", ["ib0"]),
        ("GLOO_SOCKET_IFNAME", "ib", []),
        ("GLOO_SOCKET_IFNAME", "ib0,ib1", ["ib0", "ib1"]),
        ("GLOO_SOCKET_IFNAME", "ib0,hsn0", []),
    ],
)
def test_interfaces_that_a_setting_chooses(variable, value, matched):
    links = [{"name": name} for name in ("eno1", "ib0", "ib1")]
    assert [link["name"] for link in match_interfaces(variable, value, links)] == matched


# ---- The program in the job -------------------------------------------------------------


NCCL_LOG = """\
n1:11:11 [0] NCCL INFO Bootstrap: Using ib0:10.1.0.1<0>
n1:11:11 [0] NCCL INFO NCCL version 2.27.3+cuda12.9
n1:11:40 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB ib0:10.1.0.1<0>
n1:11:40 [0] NCCL INFO Using network {network}
n1:11:40 [0] NCCL INFO Channel 00/02 : 0 1 2 3
n1:11:44 [0] NCCL INFO Channel 00/0 : 3[1] -> 0[0] [receive] via NET/{way}
n1:11:44 [0] NCCL INFO Channel 01/0 : 3[1] -> 0[0] [receive] via NET/{way}
n1:11:44 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read
n1:11:44 [0] NCCL INFO Channel 01 : 0[0] -> 1[1] via SHM/direct/direct
n1:11:44 [0] NCCL INFO Connected all rings, use ring PXN 0 GDR 1
"""


@pytest.mark.parametrize(
    ("network", "way", "transports", "gdr"),
    [
        ("IB", "IB/0/GDRDMA", {"NET/IB": 2, "P2P": 1, "SHM": 1}, 2),
        ("IB", "IB/0(3)/GDRDMA", {"NET/IB": 2, "P2P": 1, "SHM": 1}, 2),
        ("Socket", "Socket/0", {"NET/Socket": 2, "P2P": 1, "SHM": 1}, 0),
        ("AWS Libfabric", "AWS Libfabric/0", {"NET/AWS Libfabric": 2, "P2P": 1, "SHM": 1}, 0),
    ],
)
def test_transports_in_nccls_log(network, way, transports, gdr):
    found = preflight.parse_nccl(NCCL_LOG.format(network=network, way=way))
    assert found == {
        "version": "2.27.3+cuda12.9", "network": network, "transports": transports, "gdr": gdr,
        "warning": None,
    }  # fmt: skip


def test_nccls_last_warning_and_an_empty_log(tmp_path):
    text = "n1:1:1 [0] bootstrap.cc:45 NCCL WARN Bootstrap : no socket interface found\n"
    assert preflight.parse_nccl(text)["warning"] == "Bootstrap : no socket interface found"
    assert preflight.parse_nccl("")["transports"] == {}
    assert preflight.read_nccl_log(tmp_path / "none") is None


def test_offset_is_taken_from_the_fastest_exchange():
    exchanges = [(100.0, 104.0, 106.0), (110.0, 113.2, 110.4), (120.0, 124.0, 122.0)]
    found = preflight.find_offset(exchanges)
    assert found["offset_s"] == pytest.approx(3.0)
    assert found["uncertainty_s"] == pytest.approx(0.2)


def test_clocks_of_two_real_processes(tmp_path):
    """Rank 1's clock is 3 s ahead: gloo carries the times, as in a job."""
    (tmp_path / "probe.py").write_text(
        "import json, sys, time, torch, torch.distributed as dist, preflight\n"
        "dist.init_process_group('gloo')\n"
        "rank = dist.get_rank()\n"
        "clock = lambda: time.time() + 3 * rank\n"
        "rows = preflight.compare_clocks(f'n{rank + 1}', torch.device('cpu'), clock)\n"
        "facts = preflight.check_sum(torch.device('cpu'))\n"
        "if rank == 0: open(sys.argv[1], 'w').write(json.dumps([rows, facts]))\n"
        "dist.barrier()\n"
        "dist.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [tmp_path / "probe.py", tmp_path / "out.json"]
    environment = os.environ | {"PYTHONPATH": str(REPO / "scripts"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows, facts = json.loads((tmp_path / "out.json").read_text())
    assert [row["host"] for row in rows] == ["n2"]
    assert abs(rows[0]["offset_s"] - 3) <= rows[0]["uncertainty_s"] < 1
    assert facts == {"values": 2**18, "wrong": 0}


def test_first_file_of_a_data_folder(tmp_path):
    (tmp_path / "train/n01/images").mkdir(parents=True)
    assert preflight.read_data("w", str(tmp_path))["error"] == "holds no file"
    (tmp_path / "train/n01/images/a.jpeg").write_bytes(b"x")
    found = preflight.read_data("w", str(tmp_path))
    assert found["read"] == str(tmp_path / "train/n01/images/a.jpeg")
    assert preflight.read_data("w", str(tmp_path / "x"))["error"] == "No such file or directory"
    assert "Not a directory" in preflight.read_data("w", found["read"])["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody who may not read")
def test_data_that_may_not_be_read(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "a").write_text("x")
    os.seteuid(65534)
    try:
        found = preflight.read_data("w", str(folder))
    finally:
        os.seteuid(0)
    assert found == {"name": "w", "path": str(folder), "error": "Permission denied"}


def test_this_node_looked_at(tmp_path):
    """The program on this machine: every step tells something, none breaks off."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log/job_7.out").touch()
    environment = os.environ | {
        "RESULTS_DIR": str(tmp_path), "SLURM_PROCID": "3", "SLURM_JOB_NAME": "job",
        "SLURM_JOB_ID": "7", "MASTER_ADDR": "127.0.0.1", "SLURM_NODEID": "0", "TMPDIR": "/tmp",
        "NCCL_SOCKET_IFNAME": "lo", "DATA_DIR": str(tmp_path / "log"),
    }  # fmt: skip
    command = [sys.executable, REPO / "scripts/preflight.py", "--node", "--num-workers=4"]
    command.append('--data-dirs={"gpt2": "/no/such"}')
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    found = json.loads((tmp_path / "preflight_task3.json").read_text())
    assert "in" not in found
    assert found["log"]["seen"]
    assert found["cpus"]["usable"] == len(os.sched_getaffinity(0))
    assert found["shm"]["total_mib"] >= found["shm"]["free_mib"] > 0
    assert {"name": "lo", "up": True, "ipv4": "127.0.0.1"} in found["interfaces"]["found"]
    assert found["interfaces"]["chosen"]["NCCL_SOCKET_IFNAME"] == "lo"
    assert found["master"] == {
        "name": "127.0.0.1", "node_id": 0, "addresses": ["127.0.0.1"], "own": True,
    }  # fmt: skip
    assert [row.get("error") for row in found["data"]] == [None, "No such file or directory"]
    assert (found["torch"]["gpus"] == []) == (not found["driver"]["nvidia"])


def test_a_name_nobody_knows(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    assert "error" in preflight.resolve_master()
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.77")  # for documentation only (RFC 5737)
    assert preflight.resolve_master()["own"] is False


# ---- The job ----------------------------------------------------------------------------


def make_cluster(**facts) -> Cluster:
    return Cluster.model_validate({"name": "there", "gpus_per_node": 4} | facts)


MATRIX = load_matrix(REPO / "experiments/matrix.toml")
JOBS = {name: row for name, row in MATRIX.jobs.items() if row.workload == "tinyimagenet"}
MATRIX = MATRIX.model_copy(update={"jobs": JOBS})  # 1, 2, 4, 8 GPUs of a node; 2 of 2, 4, 8 nodes
TEMPLATES = make_environment(REPO / "templates")


def test_the_preflight_is_the_real_job_with_another_trainer(tmp_path):
    cluster = make_cluster(
        gpu_request=["gres"], gpu_type="a100", cpus_per_gpu=8, setup=["module load pytorch"],
        partition=[{"nodes": "1", "use": "small"}, {"use": "large"}], srun_args=["--cpu-bind=none"],
        container="apptainer exec --nv image.sif", master={"suffix": "i"}, env={"A": "b c"},
        step_setup=["ulimit -l unlimited"], data_dir={"tinyimagenet": "/d"},
    )  # fmt: skip
    job = plan_preflight(2, MATRIX, cluster, None)
    text = render_preflight(job, cluster, TEMPLATES, tmp_path)
    assert (job.nodes, job.gpus_per_node, job.name) == (2, 2, "preflight_2n")
    for line in [
        "#SBATCH --time=00:05:00", "#SBATCH --partition=large", "#SBATCH --gres=gpu:a100:2",
        "module load pytorch", "export A='b c'", "export MASTER_ADDR=${hosts[0]}i",
        "  ulimit -l unlimited", "export DATA_DIR=${DATA_DIR:-/d}",
    ]:  # fmt: skip
        assert line in text
    look, launch = text.index('preflight.py" --node'), text.index("torchrun --nnodes")
    assert text.index("ulimit") < look < launch
    assert 'apptainer exec --nv image.sif python "$REPO_DIR/scripts/preflight.py" --node' in text
    assert 'REPO_DIR=$(cd -- "${REPO_DIR:-../../..}"' in text  # from preflight/there/2_nodes
    assert text.count("scripts/preflight.py") == 4  # the check of $REPO_DIR says it twice
    (tmp_path / "job.slurm").write_text(text)
    subprocess.run(["bash", "-n", tmp_path / "job.slurm"], check=True)


@pytest.mark.parametrize(
    ("facts", "nodes", "gpus", "found"),
    [
        ({}, 1, None, (1, 4, "multi_gpu")),  # the largest of the matrix that fits
        ({"gpus_per_node": 8}, 1, None, (1, 8, "multi_gpu")),
        ({"gpus_per_node": 1}, 1, None, (1, 1, "baseline")),
        ({}, 1, 3, (1, 3, "multi_gpu")),
        ({}, 2, None, (2, 2, "multi_node")),
        ({}, 2, 4, (2, 4, "multi_node")),
        ({"nodes": 1}, 2, None, "exceeds nodes = 1"),
        ({"gpus_per_node": 1}, 2, None, "exceeds gpus_per_node = 1"),
        ({}, 1, 5, "exceeds gpus_per_node = 4"),
        (
            {"cannot_run": [{"gpus_per_node": "3+", "because": "shared"}]}, 1, None,
            (1, 2, "multi_gpu"),
        ),
    ],
)  # fmt: skip
def test_sizes_of_the_jobs(facts, nodes, gpus, found):
    if isinstance(found, str):
        with pytest.raises(DoesNotFit, match=found):
            plan_preflight(nodes, MATRIX, make_cluster(**facts), gpus)
    else:
        job = plan_preflight(nodes, MATRIX, make_cluster(**facts), gpus)
        assert (job.nodes, job.gpus_per_node, job.template) == found


def test_data_of_other_workloads_is_looked_at_too(tmp_path):
    folders = {"tinyimagenet": "/d", "gpt2": "/it's here"}
    cluster = make_cluster().model_copy(update={"data_dir": folders})
    matrix = MATRIX.model_copy(
        update={"workloads": MATRIX.workloads | {"gpt2": MATRIX.workloads["tinyimagenet"]}}
    )
    job = plan_preflight(1, matrix, cluster, None)
    text = render_preflight(job, cluster, TEMPLATES, tmp_path)
    script = next(line for line in text.splitlines() if "--node '--data" in line)
    shown = subprocess.run(
        ["bash", "-c", f'python() {{ printf "%s\\n" "$@"; }}; REPO_DIR=/x; {script}'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.splitlines() == [
        "/x/scripts/preflight.py", "--node", '--data-dirs={"gpt2": "/it\'s here"}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "never"),
    [
        ("Resources", False), ("Priority", False), ("ReqNodeNotAvail", False),
        ("AssocGrpGRES", False), ("QOSMaxJobsPerUserLimit", False), ("QOSMaxGRESPerUser", False),
        ("BadConstraints", True), ("InvalidAccount", True), ("PartitionTimeLimit", True),
        ("JobHeldAdmin", True), ("QOSMaxCpuPerJobLimit", True), ("QOSMaxNodePerJobLimit", True),
        ("AssocMaxWallDurationPerJobLimit", True), ("BeginTime", False), ("", False),
    ],
)  # fmt: skip
def test_reasons_for_which_a_job_waits_for_ever(reason, never):
    assert bool(NEVER.match(reason)) == never


# ---- What is said of a job ---------------------------------------------------------------


def make_flight(tmp_path: Path, state: str, problem: str = "") -> Preflight:
    job: Job = plan_preflight(2, MATRIX, make_cluster(), None)
    text = render_preflight(job, make_cluster(setup=["module load torch"]), TEMPLATES, tmp_path)
    return Preflight(job, tmp_path, text, "12", JobState(state, ""), problem)


def number_of(text: str, line: str) -> int:
    return text.splitlines().index(line) + 1


def test_the_line_at_which_a_script_stopped(tmp_path):
    text = make_flight(tmp_path, "FAILED").text
    setup = number_of(text, "module load torch")
    trap = number_of(text, "trap finish EXIT")
    log = (
        f"Results: /x\n/var/spool/job12/slurm_script: line {setup}: module: command not found\n"
        f"/var/spool/job12/slurm_script: line {trap - 5}: python: command not found\n"
    )
    stop = f"module: command not found (line {setup}: module load torch)"
    assert find_line(text, log) == ("Software", stop)
    flight = make_flight(tmp_path, "FAILED")
    (job, *rest) = judge(flight, make_cluster(), ([], []), log, Cause("other", "other"))
    assert (job.status, job.todo) == ("FAIL", "mend setup, env or data_dir in the profile")
    assert job.found == f'FAILED, in "Software": {stop}'
    assert {verdict.status for verdict in rest} == {"not run"}
    assert find_line(text, "environment: line 6: torchrun: command not found\n") == (
        "What every node runs", "torchrun: command not found",
    )  # fmt: skip
    assert find_line(text, "slurm_script: line 99999: x\nslurm_script: line 0: y\n") is None


@pytest.mark.parametrize(
    ("state", "log", "steps", "words"),
    [
        ("FAILED", None, ([], []), "before its script began: there is no log"),
        ("FAILED", "error: no scripts/\n", ([], []), 'in "Paths"'),
        ("FAILED", "Results: /x\n", ([], []), "in the setup lines, or at the launch"),
        ("FAILED", "Results: /x\nNodes: a b\n", ([], []), "at the launch"),
        ("FAILED", "Results: /x\n", (["torch"], []), "while looking at the nodes (torch)"),
        ("FAILED", "Results: /x\n", ([None], []), "when the launcher started the ranks"),
        ("TIMEOUT", "Results: /x\n", ([None], ["clock"]), "in the ranks (clock) (its limit is"),
        ("OUT_OF_MEMORY", "Results: /x\n", ([None], [None]), "OUT_OF_MEMORY, after the checks"),
    ],
)
def test_the_stage_at_which_a_job_stopped(tmp_path, state, log, steps, words):
    tasks = [make_task(0) | ({"in": step} if step else {}) for step in steps[0]]
    ranks = [make_rank(0) | ({"in": step} if step else {}) for step in steps[1]]
    flight = make_flight(tmp_path, state)
    job, *_ = judge(flight, make_cluster(), (tasks, ranks), log, None)
    assert (job.check, job.status, words in job.found) == ("job", "FAIL", True), job.found
    assert job.todo


def test_a_job_that_was_refused_or_given_up(tmp_path):
    flight = make_flight(tmp_path, "", "not submitted: sbatch: error: invalid partition")
    flight.job_id = ""
    (job,) = judge(flight, make_cluster(), ([], []), None, None)
    assert (job.status, job.todo) == (
        "FAIL",
        "ask doctor.py --probe which line is refused, and why",
    )
    flight = make_flight(tmp_path, "PENDING", "cancelled: still PENDING (Priority) after 30 min")
    (job,) = judge(flight, make_cluster(), ([], []), None, None)
    assert "--timeout" in job.todo
    flight.state = JobState("PENDING", "InvalidAccount")
    (job,) = judge(flight, make_cluster(), ([], []), None, None)
    assert job.todo.startswith("account: ")


def test_a_job_that_slurm_has_forgotten_is_judged_by_its_files(tmp_path):
    files = ([make_task(k) for k in range(2)], [make_rank(k) for k in range(4)])
    job, *_ = judge(make_flight(tmp_path, "UNKNOWN"), make_cluster(), files, "", None)
    assert job.status == "ok"
    job, *_ = judge(make_flight(tmp_path, "UNKNOWN"), make_cluster(), (files[0], []), "", None)
    assert job.status == "FAIL"


def test_table_and_status(tmp_path):
    flight = make_flight(tmp_path, "COMPLETED")
    files = ([make_task(k) for k in range(2)], [make_rank(k) for k in range(4)])
    verdicts = judge(flight, make_cluster(cpus_per_gpu=8), files, "", None)
    assert find_status(verdicts) == 0
    put(files[0], "1.shm.free_mib", 600)
    verdicts = judge(flight, make_cluster(cpus_per_gpu=8), files, "", None)
    assert find_status(verdicts) == 0  # a warning
    put(files[0], "1.data", [{"name": "gpt2", "path": "/d\x1b[2J", "error": "gone"}])
    files[1].pop()
    verdicts = judge(flight, make_cluster(cpus_per_gpu=8), files, "", None)
    assert find_status(verdicts) == 1
    lines = format_table(flight, verdicts).splitlines()
    assert lines[0] == "2 nodes x 2 GPUs (job 12)"
    assert "warn    /dev/shm        n2: 600 MiB of 256.0 GiB free" in lines
    assert "FAIL    data of gpt2    n2: /d?[2J: gone" in lines
    assert lines[-1] == ("not run all-reduce, bandwidth, transport: only 3 of 4 ranks told")


def test_files_of_a_job(tmp_path):
    """Cut files count as absent, and a requeued job's last attempt is the one that counts."""
    flight = make_flight(tmp_path, "COMPLETED")
    for folder, text in [("12", '{"host": "old"}'), ("12.1", '{"host": "new"}')]:
        (tmp_path / "results" / folder).mkdir(parents=True)
        (tmp_path / "results" / folder / "preflight_task0.json").write_text(text)
    for other in ("123", "12.x", "12.0"):  # other jobs', and nobody's
        (tmp_path / "results" / other).mkdir()
    (tmp_path / "results/12.1/preflight_rank0.json").write_text('{"host": ')
    (tmp_path / "results/12.1/preflight_rank1.json").write_text("[]")
    assert flight.read_files() == ([{"host": "new"}], [])
    flight.job_id = ""
    assert flight.read_files() == ([], [])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--submit", "--from", "x"], "--submit asks the Slurm of this login node"),
        (["--submit", "--probe", "x"], "not allowed with argument"),
        (["--submit", "--timeout", "0"], "must be above 0"),
        (["--submit", "--gpus", "0"], "must be above 0"),
    ],
)
def test_mistakes_in_one_line(args, said):
    done = subprocess.run(
        [sys.executable, REPO / "scripts/doctor.py", *args], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_no_slurm_no_profile(tmp_path):
    command = [sys.executable, REPO / "scripts/doctor.py", "--to", tmp_path / "jobs", "--submit"]
    done = subprocess.run([*command, "ibx"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1, 'error: no cluster "ibx" in templates/clusters; did you mean "ibex"?\n',
    )  # fmt: skip
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*command[:2], "--submit", "ibex", "--to", tmp_path / "file"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Not a directory; choose a folder that all nodes see, --to DIR" in done.stderr
    done = subprocess.run([*command, "workstation", "--gpus", "9"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("left out: job"), "Trace" in done.stderr) == (
        1, 2, False,
    )  # fmt: skip
    environment = os.environ | {"PATH": str(tmp_path)}
    start = time.monotonic()
    done = subprocess.run([*command, "ibex"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "FAIL    job             not submitted: no sbatch here" in done.stdout
    assert time.monotonic() - start < 15
