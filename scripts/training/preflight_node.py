"""Look at a node from inside a job, before its ranks start, for preflight.py --node."""

import argparse
import fcntl
import os
import re
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from training.files import write_json

SIOCGIFFLAGS, SIOCGIFADDR = 0x8913, 0x8915  # linux/sockios.h
IFF_UP = 0x1
INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
DRIVERS = {"nvidia": "/proc/driver/nvidia/version", "amd": "/sys/module/amdgpu"}
MIB = 2**20


def look_at_node(facts: dict, path: Path, args: argparse.Namespace) -> None:
    """Take each step in turn; one that fails leaves its error in its place."""
    steps: dict[str, Callable] = {
        "log": find_log,
        "cpus": count_cpus,
        "shm": lambda: read_space(Path("/dev/shm")),
        "interfaces": list_interfaces,
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


def list_interfaces() -> dict:
    """This node's network interfaces, and what the environment says of which to use."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            flags = struct.unpack_from("16xH", fcntl.ioctl(probe, SIOCGIFFLAGS, request))[0]
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, request)
                address = socket.inet_ntoa(answer[20:24])
            except OSError:  # it has no IPv4 address
                address = None
            found.append({"name": name, "up": bool(flags & IFF_UP), "ipv4": address})
    chosen = {name: os.environ[name] for name in INTERFACE_VARIABLES if os.environ.get(name)}
    return {"found": found, "chosen": chosen}


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
    """PyTorch's version, the GPUs it sees, and whether it can compute on each of them."""
    import torch

    found = {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}
    found["visible_devices"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    found["gpus"] = [
        {"name": gpu.name, "uuid": str(getattr(gpu, "uuid", "")) or None} for gpu in gpus
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
