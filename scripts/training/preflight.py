"""Look at a job from inside, for preflight.py: each node before its ranks start, then the ranks.

PyTorch is imported late: where that fails, the failure is what there is to report.
"""

import argparse
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from common.files import write_json, write_whole
from training.network import list_interfaces

INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
DRIVERS = {"nvidia": "/proc/driver/nvidia/version", "amd": "/sys/module/amdgpu"}
INFINIBAND = Path("/sys/class/infiniband")
HARDWARE_TOOLS = (
    ("nvidia-smi", "topo", "-m"), ("ip", "-brief", "link"), ("ibstat",), ("rocm-smi", "--showtopo"),
)  # fmt: skip
MIB = 2**20
SWEEP = [2**n for n in range(10, 31, 2)]  # bytes of an all-reduce: 1 KiB to 1 GiB
MOST_ON_CPUS = 8 * MIB  # over gloo, which is slow
LONGEST_S = 2.0  # an all-reduce that takes longer is the last of the sweep


# ---- A node ----


def look_at_node(facts: dict, path: Path, args: argparse.Namespace) -> None:
    """Take each step in turn; one that fails leaves its error in its place."""
    steps: dict[str, Callable] = {
        "log": find_log,
        "cpus": count_cpus,
        "shm": lambda: read_space(Path("/dev/shm")),
        "interfaces": look_at_interfaces,
        "hardware": lambda: look_at_hardware(path),
        "driver": lambda: {name: Path(file).exists() for name, file in DRIVERS.items()},
        "master": resolve_master,
        "run_dir": lambda: read_space(path.parent, write=True),
        "tmp": lambda: read_space(find_tmp(), write=True),
        "data": lambda: [read_data(*item) for item in list_data(args).items()],
        "torch": look_at_torch,
    }
    for name, step in steps.items():
        facts["in"] = name  # what it hangs in, if it does
        write_json(path, facts)
        try:
            facts[name] = step()
        except Exception as error:  # whatever it is, the other steps still tell something
            facts[name] = {"error": describe_error(error)}
    del facts["in"]
    write_json(path, facts)


def describe_error(error: Exception) -> str:
    """Describe an exception in one line: an OSError's own words, else type and first line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = re.sub(r"^\[enforce fail at [^]]*\] (?:\S+ != nullptr\. )?", "", str(error).strip())
    lines = lines.splitlines()  # gloo's errors begin with a place in its source
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def find_log() -> dict:
    """Say whether this node sees the log that the job's first node writes to."""
    name = f"{os.environ.get('SLURM_JOB_NAME')}_{os.environ.get('SLURM_JOB_ID')}.out"
    return {"folder": str(Path("log").absolute()), "seen": (Path("log") / name).is_file()}


def count_cpus() -> dict:
    """CPUs that this task may use, that the node has, and that Slurm says it granted."""
    granted = os.environ.get("SLURM_CPUS_PER_TASK")
    return {
        "usable": len(os.sched_getaffinity(0)),
        "online": os.sysconf("SC_NPROCESSORS_ONLN"),
        "granted": int(granted) if granted else None,
    }


def read_space(folder: Path, write: bool = False) -> dict:
    """Free and total MiB of the file system of `folder`; `write`: after writing 1 MiB there."""
    found = {"path": str(folder)}
    try:
        sizes = os.statvfs(folder)
        unit = sizes.f_frsize / MIB
        found |= {"free_mib": sizes.f_bavail * unit, "total_mib": sizes.f_blocks * unit}
        if write:
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                file.write(bytes(MIB))
                file.flush()
                os.fsync(file.fileno())  # a quota may show only here
    except OSError as error:
        found["error"] = describe_error(error)
    return found


def find_tmp() -> Path:
    """The folder for temporary files: the job's own where the site makes one."""
    return Path(os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def look_at_interfaces() -> dict:
    """This node's network interfaces, and what the environment says of which to use."""
    found = list(list_interfaces())
    chosen = {name: os.environ[name] for name in INTERFACE_VARIABLES if os.environ.get(name)}
    return {"found": found, "chosen": chosen}


def look_at_hardware(path: Path) -> dict:
    """How the node's GPUs and network cards are linked; the tools' own words go beside the run.

    path: of this task's facts. The file has what the tools below print, each under its command.
    """
    file = path.with_name(path.name.replace("preflight", "hardware")).with_suffix(".txt")
    said = {" ".join(words): run_tool(words) for words in HARDWARE_TOOLS}
    write_whole(file, "".join(f"$ {words}\n{text}\n" for words, text in said.items()))
    return {
        "file": file.name,
        "gpu_links": parse_topology(said["nvidia-smi topo -m"]),
        "cards": list_cards(INFINIBAND),
    }


def run_tool(words: tuple[str, ...]) -> str:
    """What a command prints, or why it prints nothing: a node need not have it."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return describe_error(error)
    return (done.stdout + done.stderr).rstrip()


def parse_topology(text: str) -> dict[str, int]:
    """Count the kinds of links between pairs of GPUs in `nvidia-smi topo -m`: {"NV12": 6}.

    A row begins with its GPU and has a column for each; the legend explains the kinds.
    """
    rows = [re.sub(r"\x1b\[[\d;]*m", "", line).split() for line in text.splitlines()]
    rows = [words for words in rows if words and re.fullmatch(r"GPU\d+", words[0])]
    # The header begins with GPU0, too, followed by the other names.
    rows = [words[1 : len(rows)] for words in rows if not words[1:2] or "GPU" not in words[1]]
    links: dict[str, int] = {}
    for number, words in enumerate(rows):
        for kind in words[number + 1 : len(rows)]:
            links[kind] = links.get(kind, 0) + 1
    return links


def list_cards(folder: Path) -> list[dict]:
    """The ports of InfiniBand and RoCE cards: {"name", "state", "rate", "link"} as sysfs has them.

    Source: Documentation/ABI/stable/sysfs-class-infiniband of the Linux kernel.
    """
    cards = []
    for port in sorted(folder.glob("*/ports/*")):
        facts = {"name": f"{port.parent.parent.name}:{port.name}"}
        for fact, name in (("state", "state"), ("rate", "rate"), ("link", "link_layer")):
            try:
                facts[fact] = (port / name).read_text().strip()
            except OSError as error:
                facts[fact] = describe_error(error)
        cards.append(facts)
    return cards


def resolve_master() -> dict:
    """The addresses that this node finds for MASTER_ADDR, and whether one is its own."""
    name = os.environ.get("MASTER_ADDR", "")
    found = {"name": name, "node_id": int(os.environ.get("SLURM_NODEID", 0))}
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return found | {"error": describe_error(error)}
    found["addresses"] = sorted({answer[4][0] for answer in answers})
    return found | {"own": any(is_own(family, where) for family, *_, where in answers)}


def is_own(family: int, where: tuple) -> bool:
    """Say whether an address is this node's: only then a socket can be bound to it."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(where)
        except OSError:
            return False
    return True


def list_data(args: argparse.Namespace) -> dict[str, str]:
    """The data folders to read: $DATA_DIR, and the profile's of the other workloads."""
    here = os.environ.get("DATA_DIR")
    return ({"DATA_DIR": here} if here else {}) | args.data_dirs


def read_data(name: str, folder: str) -> dict:
    """Read the start of the first file below a data folder, and time it."""
    found = {"name": name, "path": folder}
    start = time.perf_counter()
    try:
        file = find_file(Path(folder), depth=5)
        if file is None:
            return found | {"error": "holds no file"}
        with file.open("rb") as opened:
            opened.read(MIB)
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, folder) else ""
        return found | {"error": describe_error(error) + where}
    return found | {"read": str(file), "seconds": time.perf_counter() - start}


def find_file(folder: Path, depth: int, most: int = 50) -> Path | None:
    """Find a file below `folder`, looking at the first `most` entries of each folder only."""
    folders = []
    with os.scandir(folder) as entries:
        for _, entry in zip(range(most), entries, strict=False):
            if entry.is_dir():
                folders.append(Path(entry.path))
            else:
                return Path(entry.path)
    found = (find_file(inner, depth - 1) for inner in folders if depth > 1)
    return next((file for file in found if file), None)


def look_at_torch() -> dict:
    """PyTorch's version, the GPUs it sees, and whether it can compute on each of them.

    The modules are those that a trainer imports: what is missing is missing here already.
    """
    import torch

    import training.run  # noqa: F401
    from training.provenance import read_driver

    found = {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}
    found["visible_devices"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    found |= {"driver": read_driver(), "archs": torch.cuda.get_arch_list()}
    gpus = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    found["gpus"] = [
        {
            "name": gpu.name,
            "uuid": str(getattr(gpu, "uuid", "")) or None,
            "capability": 10 * gpu.major + gpu.minor,
        }
        for gpu in gpus
    ]
    for number in range(len(gpus)):
        try:
            total = torch.ones(1024, device=f"cuda:{number}").sum().item()
            problem = None if total == 1024 else f"the sum of 1024 ones is {total}"
        except RuntimeError as error:  # no kernel image for this GPU, an ECC error, …
            problem = describe_error(error)
        if problem:
            found["gpus"][number]["error"] = problem
    return found


# ---- The ranks ----


def look_at_group(facts: dict, path: Path, timeout_s: int) -> None:
    """Meet the other ranks and measure; ends the process with status 1 when that fails."""
    nccl_log = path.with_name(f"nccl_rank{facts['rank']}.log")
    # INFO names the transports; the profile's own settings choose them and stay as they are.
    os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(nccl_log)}
    os.environ.pop("NCCL_DEBUG_SUBSYS", None)
    facts["in"] = "torch"
    write_json(path, facts)
    try:
        from training.launch import launch  # imports PyTorch
    except Exception as error:
        write_json(path, facts | {"error": describe_error(error)})
        raise

    def measure() -> None:
        try:
            measure_group(facts, path, timeout_s)
        except Exception as error:
            facts["error"] = describe_error(error)
            raise
        finally:
            facts["nccl"] = read_nccl_log(nccl_log)
            write_json(path, facts)

    launch(measure)
    if facts["rank"] == 0:  # by it the job's summary knows that all went well
        write_whole(path.with_name("RUN_COMPLETE.txt"), f"{time.time():.0f}\n")


def measure_group(facts: dict, path: Path, timeout_s: int) -> None:
    """Join the process group as train.py does; sum, time the sum, compare clocks."""
    import torch
    import torch.distributed as dist

    from training.launch import leave_group

    device, facts["backend"], backend = torch.device("cpu"), "gloo", "gloo"
    if torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", 0)) if torch.cuda.device_count() > 1 else 0
        device, facts["backend"] = torch.device("cuda", local_rank), "nccl"
        backend = "cpu:gloo,cuda:nccl"  # as the trainers do
        torch.cuda.set_device(device)
    facts["cpus"] = sorted(os.sched_getaffinity(0))
    facts["in"] = "meeting"
    write_json(path, facts)
    # NCCL connects only with the first collective; waiting for it so, a rank that nobody answers
    # raises an error instead of being aborted.
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    dist.all_reduce(torch.zeros(1))  # over gloo, which takes an interface of its own
    dist.all_reduce(torch.zeros(1, device=device))
    facts["in"] = "all-reduce"
    write_json(path, facts)
    facts["reduce"] = check_sum(device)
    facts["sweep"] = sweep_reduce(device)
    facts["in"] = "clock"
    facts["clock"] = compare_clocks(facts["host"], device)
    del facts["in"]
    dist.barrier()
    leave_group()


def check_sum(device) -> dict:
    """All-reduce known numbers; the sums are below 2**24, so float32 has them exactly."""
    import torch
    import torch.distributed as dist

    world, count = dist.get_world_size(), 2**18
    pattern = torch.arange(count, device=device, dtype=torch.float32) % 97
    numbers = pattern * (dist.get_rank() % 16 + 1)
    dist.all_reduce(numbers)
    factor = sum(rank % 16 + 1 for rank in range(world))
    return {"values": count, "wrong": int((numbers != pattern * factor).sum())}


def sweep_reduce(device) -> list[dict]:
    """Time all-reduces of growing payloads: {"bytes", "seconds"} of the slowest rank.

    The mean of several, after two that are not counted. All ranks must call this.
    """
    import torch
    import torch.distributed as dist

    on_gpu, rows = device.type == "cuda", []
    sizes = [size for size in SWEEP if on_gpu or size <= MOST_ON_CPUS]
    for size in sizes if on_gpu else dict.fromkeys([*sizes, MOST_ON_CPUS]):
        block = torch.ones(size // 4, device=device)
        reduce_often(block, 2)  # connections and buffers are made in the first
        few = 5 if size >= MIB else 20
        seconds = torch.tensor(reduce_often(block, few), dtype=torch.float64, device=device)
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
        rows.append({"bytes": size, "seconds": seconds.item()})
        if rows[-1]["seconds"] > LONGEST_S:  # the same number on every rank
            break
    return rows


def reduce_often(block, times: int) -> float:
    """All-reduce the block so many times; returns seconds per time on this rank."""
    import torch
    import torch.distributed as dist

    dist.barrier()
    if block.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        dist.all_reduce(block, op=dist.ReduceOp.MAX)  # sums of ones would grow
    if block.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def compare_clocks(host: str, device, now: Callable[[], float] = time.time) -> list[dict]:
    """Compare rank 0's clock with that of each other node; all ranks must call this.

    Returns, on rank 0, one row per node: `offset_s`, how far it is ahead, within `uncertainty_s`.
    """
    import torch
    import torch.distributed as dist

    hosts: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(hosts, host)
    rank, rows = dist.get_rank(), []
    for other in sorted({hosts.index(name) for name in hosts} - {0}):
        told = torch.zeros(1, dtype=torch.float64, device=device)
        exchanges = []
        for _ in range(12):  # the first is slow; the fastest counts
            sent = now()
            if rank == 0:
                dist.send(told, other)
                dist.recv(told, other)
                exchanges.append((sent, told.item(), now()))
            elif rank == other:
                dist.recv(told, 0)
                told.item()  # a GPU has received it only now
                dist.send(told.fill_(now()), 0)
        if rank == 0:
            rows.append({"host": hosts[other]} | find_offset(exchanges))
    return rows


def find_offset(exchanges: list[tuple[float, float, float]]) -> dict:
    """Find a clock's offset from exchanges (sent, the other's time, received), in seconds.

    The other's time was read somewhere between sent and received: that half-width is the
    uncertainty, and the fastest exchange has the smallest (as NTP has it, RFC 5905).
    """
    sent, theirs, received = min(exchanges, key=lambda times: times[2] - times[0])
    return {"offset_s": theirs - (sent + received) / 2, "uncertainty_s": (received - sent) / 2}


def read_nccl_log(path: Path) -> dict | None:
    """Read which transports NCCL chose, and its last warning; None when it wrote nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return parse_nccl(text)


def parse_nccl(text: str) -> dict:
    """`Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA` -> {"transports": {"NET/IB": …}}.

    The numbers count the channels of each transport; `gdr` those with GPUDirect RDMA.
    """
    transports: dict[str, int] = {}
    gdr = 0
    for way in re.findall(r"NCCL INFO Channel .* via ((?:P2P|SHM|NET|COLLNET)\S*.*)", text):
        kind = re.match(r"NET/[^/\n]+|[A-Z0-9]+", way)[0].strip()
        transports[kind] = transports.get(kind, 0) + 1
        gdr += "/GDRDMA" in way
    network = re.findall(r"NCCL INFO Using network (\S.*)", text)
    version = re.search(r"(?:NCCL|RCCL) version\s*:?\s*(\d[\w.+-]*)", text)
    warnings = re.findall(r"NCCL WARN (.+)", text)
    return {
        "version": version[1] if version else None,
        "network": network[-1].strip() if network else None,
        "transports": transports,
        "gdr": gdr,
        "warning": warnings[-1].strip() if warnings else None,
    }
