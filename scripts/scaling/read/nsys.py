"""The kernels that Nsight Systems recorded: the CSV of `nsys stats --report cuda_gpu_kern_sum`.

One row per kernel, by its name: `Total Time (ns)`, `Instances`, `Name`, and figures of one run of
it, which are not read. Lines before the header are messages of nsys.
Source: NVIDIA, Nsight Systems User Guide, "Report Scripts".
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

PATTERN = "nsys_node*_cuda_gpu_kern_sum.csv"  # beside a run's results, one per node
_TIME, _COUNT, _NAME = "Total Time (ns)", "Instances", "Name"


@dataclass(frozen=True)
class Kernel:
    """One kernel of the recording: all its runs on this GPU together."""

    name: str
    total_s: float
    runs: int

    @property
    def is_communication(self) -> bool:
        """Whether it is one of NCCL's, or of RCCL's, which have the same names."""
        return self.name.startswith("nccl")


def read_kernels(path: Path) -> list[Kernel]:
    """Return the kernels of a file, the longest first; UserError when it is no such report."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    begin = next((at for at, line in enumerate(lines) if _TIME in line and _NAME in line), None)
    if begin is None:
        raise UserError(
            f"{path} has no line with {_TIME!r} and {_NAME!r}; make it with: "
            "nsys stats --report cuda_gpu_kern_sum --format csv REPORT.nsys-rep"
        )
    kernels = []
    for row in csv.DictReader(line for line in lines[begin:] if line.strip()):
        try:
            total_s = float(row[_TIME]) / 1e9
            kernels.append(Kernel(row[_NAME], total_s, int(row[_COUNT])))
        except (TypeError, ValueError):
            raise UserError(f"{path}: no numbers in the row of {row.get(_NAME)}") from None
    return sorted(kernels, key=lambda kernel: -kernel.total_s)
