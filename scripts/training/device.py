"""What this process computes on: the GPU or CPU, its arithmetic and its memory."""

import ctypes
import os
import re
from pathlib import Path

import torch

from common.torch_lines import name_line
from training import TrainingError
from training.provenance import DRIVER, read_driver

AMD_DRIVER = Path("/sys/module/amdgpu")
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")

# mallopt(3): what is freed stays with the process; large blocks come from there, too.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def check_gpus() -> None:
    """Refuse a GPU that this PyTorch cannot use: without a word, a job would train on the CPU.

    Raises TrainingError. An empty CUDA_VISIBLE_DEVICES asks for the CPU and is taken at its word.
    """
    build, driver = f"PyTorch {torch.__version__}", read_driver()
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if not has_code(torch.cuda.get_arch_list(), major, minor):
            archs = ", ".join(torch.cuda.get_arch_list())
            raise TrainingError(
                f"{build} has no code for this {torch.cuda.get_device_name()} (sm_{major}{minor}), "
                f"only for {archs}; {name_line(10 * major + minor, driver)}"
            )
        check_slices()
        return
    if any(os.environ.get(name) == "" for name in VISIBLE):
        return
    cpu = "or set CUDA_VISIBLE_DEVICES= to train on the CPU"
    if DRIVER.exists():
        raise TrainingError(
            f"this node has an NVIDIA driver, but {build} (CUDA {torch.version.cuda}) cannot use "
            f"it ({driver or 'version unknown'}); {name_line(None, driver)}, {cpu}"
        )
    if torch.version.hip or (AMD_DRIVER.exists() and "SLURM_JOB_ID" in os.environ):
        raise TrainingError(
            f"{build} (ROCm {torch.version.hip}) finds no AMD GPU here; load the site's PyTorch "
            f"for ROCm and ask for GPUs, {cpu}"
        )


def has_code(archs: list[str], major: int, minor: int) -> bool:
    """Whether a build for `archs` (sm_90, compute_90, …) runs on a GPU: code of its generation, or
    PTX of an older one. ROCm's lists name other things and are not judged."""
    code = [divmod(int(each), 10) for each in re.findall(r"\bsm_(\d+)", " ".join(archs))]
    ptx = [divmod(int(each), 10) for each in re.findall(r"\bcompute_(\d+)", " ".join(archs))]
    fits = any(at[0] == major and at[1] <= minor for at in code)
    return not code or fits or any(at <= (major, minor) for at in ptx)


def check_slices() -> None:
    """Name slices of a GPU (MIG): one process sees one, however many the job was given."""
    is_slice = "MIG" in os.environ.get("CUDA_VISIBLE_DEVICES", "") + torch.cuda.get_device_name()
    if is_slice and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > torch.cuda.device_count():
        raise TrainingError(
            "the GPUs are slices (MIG), and one process sees one slice: ask for whole GPUs, or "
            'set launcher = "srun" in the profile with one slice per task'
        )


def choose_precision(asked: str | None) -> str:
    """Default to fp16 on a GPU (every GPU since Volta has units for it) and fp32 on a CPU.

    Raises TrainingError for what this device cannot do.
    """
    if asked == "fp16" and not torch.cuda.is_available():
        raise TrainingError("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return asked or ("fp16" if torch.cuda.is_available() else "fp32")


def keep_freed_memory() -> None:
    """On a CPU, let the C library keep freed memory for the next step instead of giving it back.

    Each step needs the same large tensors again, and memory that comes fresh from the system is
    cleared page by page first: 10 % of a ResNet-50 step on one core. Without glibc, or with
    another allocator in its place, nothing changes.
    """
    if torch.cuda.is_available():  # there the tensors are on the GPU, and PyTorch keeps them
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)
