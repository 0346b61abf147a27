"""The kernels of `nsys stats --report cuda_gpu_kern_sum --format csv`."""

import re

import pytest

from common.errors import UserError
from scaling.read.nsys import Kernel, read_kernels

HEADER = "Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name\n"
GEMM = '25.0,250000,8,31250.0,31250.0,30000,32000,10.5,"void gemm<(int)2, (bool)1>(float *, int)"\n'
ALL_REDUCE = (
    "75.0,750000000,11,68181818.2,68181818.0,1,2,0.0,"
    "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)\n"
)
MESSAGES = "Generating SQLite file /tmp/a.sqlite\nProcessing [/tmp/a.sqlite]...\n\n"


@pytest.mark.parametrize("before", ["", MESSAGES])
def test_kernels_the_longest_first(before, tmp_path):
    path = tmp_path / "nsys_node0_cuda_gpu_kern_sum.csv"
    path.write_text(before + HEADER + GEMM + ALL_REDUCE + "\n")
    longest, other = read_kernels(path)
    assert (longest.total_s, longest.runs, longest.is_communication) == (0.75, 11, True)
    assert other == Kernel("void gemm<(int)2, (bool)1>(float *, int)", 0.00025, 8)
    assert not other.is_communication


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no line with 'Total Time (ns)' and 'Name'; make it with: nsys stats --report"),
        ("SKIPPED: a.sqlite does not contain CUDA kernel data.\n", "has no line with"),
        (HEADER + "75.0,many,11,1,1,1,1,0,sgemm\n", "no numbers in the row of sgemm"),
        (HEADER + "75.0\n", "no numbers in the row of None"),
        (None, "cannot read"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path):
    path = tmp_path / "a.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_kernels(path)
