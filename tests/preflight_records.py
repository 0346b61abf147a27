"""What preflight.py writes in a healthy job of two nodes with two H100s each."""

import copy

from doctor.verdicts import Asked

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
        "hardware": {
            "file": f"hardware_task{number}.txt", "gpu_links": {"NV18": 1},
            "cards": [{"name": "mlx5_0:1", "state": "4: ACTIVE", "rate": "400 Gb/sec (4X NDR)",
                       "link": "InfiniBand"}],
        },
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
        "reduce": {"values": 262144, "wrong": 0},
        "sweep": [{"bytes": 2**10, "seconds": 2e-5}, {"bytes": 2**24, "seconds": 0.001},
                  {"bytes": 2**28, "seconds": 0.01}],
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
