"""The preflight's verdicts: what a healthy job looks like, and one thing wrong at a time."""

import pytest

from doctor.verdicts import Asked, judge_group, judge_nodes, judge_rank_cpus, match_interfaces
from preflight_records import ASKED, H100, make_rank, make_task, put


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
        # 268435456 bytes in 10 ms; x 2 (4 - 1) / 4; 16 MiB in 1 ms have 25.2 GB/s
        "bandwidth": (
            "ok", "all-reduce of 256 MiB in 10 ms: algbw 26.8 GB/s, busbw 40.3 GB/s; half of it "
            "from 16 MiB on; 1 KiB in 0.02 ms",
        ),
        "links and cards": (
            "ok", "GPU pairs: 1 x NV18; cards: mlx5_0:1 400 Gb/sec (4X NDR), InfiniBand",
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
    ("log.seen", False, "log folder", "FAIL", "n2: the job's log cannot be seen in", "share"),
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
        "PyTorch", "FAIL", "cannot use the V100: no kernel image", "--torch 2.7.1",
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
    ("interfaces.chosen", {}, "interfaces", "ok", "none chosen", ""),
    ("hardware.cards.0.state", "1: DOWN",
        "links and cards", "warn", "no InfiniBand or RoCE; down: mlx5_0:1", "tell the site",
    ),
    ("hardware.cards", [], "links and cards", "ok", "", ""),
    ("hardware", {"error": "No space left"}, "links and cards", "not run", "No space", ""),
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


def test_the_same_on_every_node_is_said_once():
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
    ("2.reduce.wrong", 7, "all-reduce", "FAIL", "7 of 262144 numbers are wrong", "results of n2"),
    ("*.sweep", [{"bytes": 2**28, "seconds": 1.0}], "bandwidth", "warn", "0.403 GB/s", "10 Gbit"),
    ("*.sweep", [{"bytes": 2**20, "seconds": 0.001}, {"bytes": 2**28, "seconds": 0.01}],
        "bandwidth", "warn", "half of it from 256 MiB on", "--bucket-cap-mb"),
    ("*.nccl", SOCKET, "transport", "warn", "NET/Socket (NCCL 2.27.3)", "mlx5_0:1 is up but not"),
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
        del rank["reduce"], rank["sweep"]
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
        del rank["reduce"], rank["sweep"], rank["clock"]
        rank["in"] = "all-reduce"
    found = judge_all([make_task(k) for k in range(2)], ranks)
    assert found["ranks meet"].status == "ok"
    assert found["all-reduce"].status == "FAIL"
    assert found["all-reduce"].found == "did not end on n1, n2: it hung, or was killed"
    assert found["bandwidth"].found == "rank 0 on n1: stopped in: all-reduce"


def test_what_a_node_did_not_report_is_not_ok():
    tasks = [make_task(k) for k in range(2)]
    for name in ("data", "torch"):
        del tasks[1][name]
    tasks[1]["in"] = "data"  # it hangs there
    found = judge_all(tasks, [])
    assert (found["data"].status, found["data"].found) == (
        "FAIL",
        "n2: checking data did not end",
    )
    assert (found["PyTorch"].status, found["GPUs"].status) == ("not run", "not run")
    alone = judge_all(tasks[:1], [])
    assert {alone[c].status for c in ("CPUs", "GPUs", "data", "master address")} == {"not run"}
    assert alone["CPUs"].found == "1 of 2 nodes reported nothing"
    nothing = judge_all([], [])
    assert {verdict.status for verdict in nothing.values()} == {"not run"}


def test_a_task_a_gpu_sees_its_own():
    """Launcher srun: 2 tasks per node, each with one GPU; or, wrongly, all with the same."""
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
    assert (found["GPUs"].status, "not checked" in found["GPUs"].found) == ("ok", True)
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


@pytest.mark.parametrize(
    ("cpus", "said"), [([[3], [3]], "n1: 2 ranks share CPU [3]"), ([[2, 3], [2, 3]], None)]
)
def test_ranks_that_share_a_cpu_are_named(cpus, said):
    ranks = [{"host": "n1", "rank": rank, "cpus": each} for rank, each in enumerate(cpus)]
    verdicts = judge_rank_cpus(ranks)
    assert [(each.status, each.found) for each in verdicts] == ([("warn", said)] if said else [])
