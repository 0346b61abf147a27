"""What preflight.py sees in a job: a node, its data, NCCL's log, the clocks of real processes."""

import json
import os

import pytest

from torch_server import SCRIPTS, run_python
from training.preflight import (
    find_offset,
    list_cards,
    parse_nccl,
    parse_topology,
    read_data,
    read_nccl_log,
    resolve_master,
)

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
    found = parse_nccl(NCCL_LOG.format(network=network, way=way))
    assert found == {
        "version": "2.27.3+cuda12.9", "network": network, "transports": transports, "gdr": gdr,
        "warning": None,
    }  # fmt: skip


def test_nccls_last_warning_and_an_empty_log(tmp_path):
    text = "n1:1:1 [0] bootstrap.cc:45 NCCL WARN Bootstrap : no socket interface found\n"
    assert parse_nccl(text)["warning"] == "Bootstrap : no socket interface found"
    assert parse_nccl("")["transports"] == {}
    assert read_nccl_log(tmp_path / "none") is None


TOPOLOGY = """\
\x1b[4m\tGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV12\tNV12\tSYS\tPXB\t0-31\t0\t\tN/A
GPU1\tNV12\t X \tNV12\tSYS\tPXB\t0-31\t0\t\tN/A
GPU2\tNV12\tNV12\t X \tSYS\tSYS\t32-63\t1\t\tN/A
GPU3\tSYS\tSYS\tSYS\t X \tSYS\t32-63\t1\t\tN/A
NIC0\tPXB\tPXB\tSYS\tSYS\t X

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
"""


def test_links_of_gpus():
    assert parse_topology(TOPOLOGY) == {"NV12": 3, "SYS": 3}
    assert parse_topology("\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n") == {}  # one GPU
    assert parse_topology("No such file or directory") == {}


def test_cards_as_the_kernel_has_them(tmp_path):
    port = tmp_path / "mlx5_0/ports/1"
    port.mkdir(parents=True)
    for name, text in (("state", "4: ACTIVE\n"), ("rate", "200 Gb/sec (4X HDR)\n")):
        (port / name).write_text(text)
    assert list_cards(tmp_path) == [
        {"name": "mlx5_0:1", "state": "4: ACTIVE", "rate": "200 Gb/sec (4X HDR)",
         "link": "No such file or directory"},
    ]  # fmt: skip
    assert list_cards(tmp_path / "none") == []


def test_offset_is_taken_from_the_fastest_exchange():
    exchanges = [(100.0, 104.0, 106.0), (110.0, 113.2, 110.4), (120.0, 124.0, 122.0)]
    found = find_offset(exchanges)
    assert found["offset_s"] == pytest.approx(3.0)
    assert found["uncertainty_s"] == pytest.approx(0.2)


def test_clocks_of_two_real_processes(tmp_path):
    """Rank 1's clock is 3 s ahead: gloo carries the times, as in a job."""
    (tmp_path / "probe.py").write_text(
        "import json, sys, time, torch, torch.distributed as dist\n"
        "from training.preflight import check_sum, compare_clocks, sweep_reduce\n"
        "dist.init_process_group('gloo')\n"
        "rank = dist.get_rank()\n"
        "clock = lambda: time.time() + 3 * rank\n"
        "rows = compare_clocks(f'n{rank + 1}', torch.device('cpu'), clock)\n"
        "facts = check_sum(torch.device('cpu'))\n"
        "facts['sweep'] = sweep_reduce(torch.device('cpu'))\n"
        "if rank == 0: open(sys.argv[1], 'w').write(json.dumps([rows, facts]))\n"
        "dist.barrier()\n"
        "dist.destroy_process_group()\n"
    )
    done = run_python(tmp_path / "probe.py", tmp_path / "out.json", ranks=2)
    assert done.returncode == 0, done.stderr
    rows, facts = json.loads((tmp_path / "out.json").read_text())
    assert [row["host"] for row in rows] == ["n2"]
    assert abs(rows[0]["offset_s"] - 3) <= rows[0]["uncertainty_s"] < 1
    sweep = facts.pop("sweep")
    assert [row["bytes"] for row in sweep] == [*(2**n for n in range(10, 23, 2)), 2**23]
    assert all(row["seconds"] > 0 for row in sweep)
    assert facts == {"values": 2**18, "wrong": 0}


def test_first_file_of_a_data_folder(tmp_path):
    (tmp_path / "train/n01/images").mkdir(parents=True)
    assert read_data("w", str(tmp_path))["error"] == "holds no file"
    (tmp_path / "train/n01/images/a.jpeg").write_bytes(b"x")
    found = read_data("w", str(tmp_path))
    assert found["read"] == str(tmp_path / "train/n01/images/a.jpeg")
    assert read_data("w", str(tmp_path / "x"))["error"] == "No such file or directory"
    assert "Not a directory" in read_data("w", found["read"])["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody who may not read")
def test_data_that_may_not_be_read(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "a").write_text("x")
    os.seteuid(65534)
    try:
        found = read_data("w", str(folder))
    finally:
        os.seteuid(0)
    assert found == {"name": "w", "path": str(folder), "error": "Permission denied"}


def test_this_node_looked_at(tmp_path):
    """The program on this machine: every step tells something, none breaks off."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log/job_7.out").touch()
    environment = {
        "RESULTS_DIR": str(tmp_path), "SLURM_PROCID": "3", "SLURM_JOB_NAME": "job",
        "SLURM_JOB_ID": "7", "MASTER_ADDR": "127.0.0.1", "SLURM_NODEID": "0", "TMPDIR": "/tmp",
        "NCCL_SOCKET_IFNAME": "lo", "DATA_DIR": str(tmp_path / "log"),
    }  # fmt: skip
    options = ("--node", "--num-workers=4", '--data-dirs={"gpt2": "/no/such"}')
    done = run_python(SCRIPTS / "preflight.py", *options, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "preflight_task3.json").read_text())
    assert "in" not in found
    assert found["log"]["seen"]
    assert found["cpus"]["usable"] == len(os.sched_getaffinity(0))
    assert found["shm"]["total_mib"] >= found["shm"]["free_mib"] > 0
    assert {"name": "lo", "up": True, "ipv4": "127.0.0.1"} in found["interfaces"]["found"]
    assert found["hardware"]["file"] == "hardware_task3.txt"
    kept = (tmp_path / "hardware_task3.txt").read_text()
    assert "$ nvidia-smi topo -m\n" in kept and "\nlo " in kept
    assert found["interfaces"]["chosen"]["NCCL_SOCKET_IFNAME"] == "lo"
    assert found["master"] == {
        "name": "127.0.0.1", "node_id": 0, "addresses": ["127.0.0.1"], "own": True,
    }  # fmt: skip
    assert [row.get("error") for row in found["data"]] == [None, "No such file or directory"]
    assert (found["torch"]["gpus"] == []) == (not found["driver"]["nvidia"])


def test_a_name_nobody_knows(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    assert "error" in resolve_master()
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.77")  # for documentation only (RFC 5737)
    assert resolve_master()["own"] is False
