"""Which PyTorch of PyPI fits which GPU and driver: the table of scripts/README.md.

Sources: torch._C._cuda_getArchFlags() of the wheels (2.7.1: sm_50 to sm_90; 2.15: sm_75 to sm_120);
drivers from NVIDIA's "CUDA Compatibility" (minor version compatibility: 525 for 12, 580 for 13).
"""

from typing import NamedTuple

LEAST_DRIVER = {11: 450, 12: 525, 13: 580}  # CUDA's major version: the driver's


class TorchLine(NamedTuple):
    """What `setup_env.sh --torch VERSION` installs, and the GPUs (70: sm_70) it is for."""

    version: str
    cuda: int
    oldest_gpu: int
    newest_gpu: int
    gpus: str


LINES = (
    TorchLine("2.7.1", 12, 50, 90, "V100 to H200"),
    TorchLine("newest", 13, 75, 120, "T4 to Blackwell"),
)


def name_line(gpu: int | None, driver: str | None) -> str:
    """Say which line to install for a GPU (70: sm_70) and its driver; None where unknown."""
    major = int(driver.partition(".")[0]) if driver else None
    for line in LINES:
        if gpu is not None and not line.oldest_gpu <= gpu <= line.newest_gpu:
            continue
        if major is None or major >= LEAST_DRIVER[line.cuda]:
            return (
                f"load the site's PyTorch, or: bash scripts/setup_env.sh --torch {line.version} "
                f"(CUDA {line.cuda}, {line.gpus}, drivers from {LEAST_DRIVER[line.cuda]})"
            )
    return f"no PyTorch of PyPI fits this GPU with driver {driver}: load the site's"
