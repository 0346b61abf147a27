"""Where a run's numbers come from: software, hardware, job, sources. Nothing secret is read."""

import os
import platform
import re
import resource
import socket
from pathlib import Path

import torch
import torch.distributed as dist

DRIVER = Path("/proc/driver/nvidia/version")  # there when an NVIDIA driver is loaded

# Read by name: the environment as a whole may hold keys and passwords, and is never dumped.
SLURM_FIELDS = [
    "SLURM_CLUSTER_NAME",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NTASKS",
    "SLURM_CPUS_PER_TASK",
    "SLURM_GPUS_ON_NODE",
    "SLURM_RESTART_COUNT",
]


def describe_software() -> dict[str, str | None]:
    """Versions of Python, PyTorch, CUDA and NCCL; None for what is not there."""
    has_cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_path": str(Path(torch.__file__).parent),
        "cuda": torch.version.cuda if has_cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_cuda else None,
    }


def describe_device(device: torch.device) -> dict[str, str | int | None]:
    """The GPU's model and driver, or the CPU's threads in use."""
    if device.type != "cuda":
        return {"device": "cpu", "gpu_name": None, "driver": None, "gpus_visible": 0}
    return {
        "device": "cuda",
        "gpu_name": torch.cuda.get_device_name(device),
        "driver": read_driver(),
        "gpus_visible": torch.cuda.device_count(),
    }


def read_driver() -> str | None:
    """NVIDIA's driver, 550.54.15; None where there is none."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", DRIVER.read_text())
    except OSError:
        return None
    return found[0] if found else None


def describe_slurm() -> dict[str, str]:
    """The job's Slurm fields, `SLURM_JOB_ID` as `job_id`; empty outside Slurm."""
    return {
        name.removeprefix("SLURM_").lower(): os.environ[name]
        for name in SLURM_FIELDS
        if name in os.environ
    }


def gather_places(device: torch.device) -> tuple[list[str], list[str | None]]:
    """Every node's host name, in the order of their first rank, and every rank's GPU by UUID.

    All ranks must call this.
    """
    places: list[tuple[str, str | None] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(places, (socket.gethostname(), read_gpu_uuid(device)))
    return list(dict.fromkeys(host for host, _ in places)), [uuid for _, uuid in places]


def gather_cpus() -> list[str]:
    """The CPUs that each rank may run on, `0-3,8`, in the order of ranks; all must call this.

    A binding that a session left behind puts all ranks on one core, and nothing else shows it.
    """
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, format_cpus(os.sched_getaffinity(0)))
    return found


def format_cpus(cpus: set[int]) -> str:
    """{0, 1, 2, 8} -> `0-2,8`."""
    starts = sorted(cpu for cpu in cpus if cpu - 1 not in cpus)
    ends = sorted(cpu for cpu in cpus if cpu + 1 not in cpus)
    pairs = zip(starts, ends, strict=True)
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in pairs)


def read_gpu_uuid(device: torch.device) -> str | None:
    """The GPU's UUID as nvidia-smi writes it; None on a CPU, and where PyTorch does not tell it."""
    if device.type != "cuda":
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else "GPU-" + str(uuid).removeprefix("GPU-").lower()


def read_peak_memory(device: torch.device) -> dict[str, float | int]:
    """Peak memory of this process: PyTorch's allocations on a GPU, resident memory on a CPU.

    peak_memory_mib_rank0 is rank 0's when rank 0 asks; the byte counts are those of CUDA's
    allocator, 0 on a CPU.
    """
    cuda = device.type == "cuda"
    allocated = torch.cuda.max_memory_allocated(device) if cuda else 0
    reserved = torch.cuda.max_memory_reserved(device) if cuda else 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    return {
        "peak_memory_mib_rank0": (allocated if cuda else resident) / 2**20,
        "max_cuda_mem_allocated_bytes_rank0": allocated,
        "max_cuda_mem_reserved_bytes_rank0": reserved,
    }
