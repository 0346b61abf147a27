"""What this process computes on: the GPU or CPU, its arithmetic and its memory."""

import ctypes
import os
import re

import torch

from training import TrainingError
from training.provenance import DRIVER

# mallopt(3): what is freed stays with the process; large blocks come from there, too.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def check_gpus() -> None:
    """Refuse a GPU that this PyTorch cannot use: without a word, a job would train on the CPU.

    Raises TrainingError. An empty CUDA_VISIBLE_DEVICES asks for the CPU and is taken at its word.
    """
    build = f"PyTorch {torch.__version__}"
    if torch.cuda.is_available():
        numbers = re.findall(r"sm_(\d+)", " ".join(torch.cuda.get_arch_list()))  # none with ROCm
        major, minor = torch.cuda.get_device_capability()
        if numbers and 10 * major + minor < min(map(int, numbers)):
            raise TrainingError(
                f"{build} has no code for this {torch.cuda.get_device_name()} (sm_{major}{minor}), "
                f"only for sm_{min(map(int, numbers))} and newer; load the site's PyTorch, or "
                "install an older build"
            )
    elif DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        raise TrainingError(
            f"this node has an NVIDIA driver, but {build} (CUDA {torch.version.cuda}) cannot use "
            "it; load the site's PyTorch or a build for an older CUDA, or set "
            "CUDA_VISIBLE_DEVICES= to train on the CPU"
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
