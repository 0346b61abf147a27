"""scaling.read.gpu_log: the forms that GPU monitors' CSV comes in, long logs, samples."""

import math
import random
import subprocess
import sys
from array import array
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from run_folders import GPU_HEADER, gpu_csv, gpu_row
from scaling.read.columns import parse_mib
from scaling.read.gpu_log import NOT_OWN, GpuLog, list_labels, read_gpu_log

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: str | bytes, gpus: tuple[str, ...] = ()) -> GpuLog:
    path = tmp_path / "gpu.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    log = read_gpu_log(path, gpus)
    assert log.counts.is_whole
    return log


def table(log: GpuLog) -> dict[int, tuple]:
    return {
        gpu.index: (gpu.n, gpu.peak_mib, float(gpu.average_mib), gpu.mode_mib) for gpu in log.gpus
    }


# Each is one GPU: no column parts GPUs, and there is one row per time.
ONE_GPU = {
    "a name and an ambiguous date": "timestamp, name, memory.used [MiB]\n"
    "03-11-2026 15:00:16, Orin, 10\n03-11-2026 15:01:16, Orin, 30\n",
    "a day's end": "timestamp, memory.used\n2026/11/21 23:59:58, 10\n2026/11/22 00:00:03, 30\n",
    "own words": "elapsed_sec,gpu_util_pct,mem_used_mb,temp_c\n0.0,0,10,29\n0.25,1,30,29\n",
    "words in one": "time,gpuUtil%,memUsedMB\n0.0,0,10\n0.25,1,30\n",
    "no unit": "timestamp,gpu_utilization,memory_used,memory_total\n1700000000.25,0, 10, 15360\n"
    "1700000001.25,0, 30, 15360\n",
    "a gpu that is a name": "Time,GPU,Util (%),Memory Used (MB)\n10:00:00,NVIDIA A100,3,10\n"
    "10:00:05,NVIDIA A100,39,30\n",
    "date and time": "Date,Time,Temperature,Power Used,Utilization,Memory Used\n"
    "04-03-2021,13:32:39,58,1,0,10\n04-03-2021,13:32:40,58,1,5,30\n",
    "a header above each row": "memory.used [MiB]\n10 MiB\nmemory.used [MiB]\n30 MiB\n",
    "semicolons and decimal commas": "time;gpu_id;mem_used_mb;power_w\n1,0;0;10,0;26,5\n"
    "2,0;0;30,0;26,5\n",
    "a name that is an error once": "index, name, memory.used [MiB]\n0, A100, 10\n"
    "0, [Unknown Error], 30\n",
    "vram": "ts,vram_used_mb,vram_total_mb\n1,10,100\n2,30,100\n",
    "thousands beside decimal commas": "gpu_id;power_w;gpu_mem_used (KiB)\n0;251,3;10.240\n"
    "0;251,3;30.720\n",
    "tabs": "gpu_id\tmem_used (KiB)\n0\t10240\n0\t30720\n",
    "bytes": "gpu,memory used [bytes]\n0,10485760\n0,31457280\n",
}


@pytest.mark.parametrize("content", ONE_GPU.values(), ids=ONE_GPU)
def test_one_gpu_of_a_users_own_logger(tmp_path, content):
    assert table(read(tmp_path, content)) == {0: (2, 30, 20.0, 10)}


def test_rows_in_rounds_are_of_several_gpus(tmp_path):
    rows = [f"2026/11/21 10:{at // 12:02d}:{at % 12 * 5:02d}.{gpu:03d}, 5"
            for at in range(40) for gpu in range(4)]  # fmt: skip
    with pytest.raises(UserError, match="several rows of one time"):
        read(tmp_path, "\n".join(["timestamp, memory.used [MiB]", *rows, ""]))
    late = [row for row in rows[::4] if not row.startswith("2026/11/21 10:01")]  # it stalled once
    log = read(tmp_path, "\n".join(["timestamp, memory.used [MiB]", *late, ""]))
    assert table(log) == {0: (28, 5, 5.0, 5)}


OF_TWO = [
    "hostname, index, memory.used [MiB]\na, 0, 20\nb, 0, 30\n",
    "index, name, memory.used [MiB]\n0, A100, 20\n0, T4, 30\n",
    "index, uuid, memory.used [MiB]\n0, GPU-a, 20\n0, GPU-b, 30\n",
]


@pytest.mark.parametrize("content", OF_TWO)
def test_one_index_of_two_hosts_or_names_is_two_gpus(tmp_path, content):
    log = read(tmp_path, content)
    assert [(gpu.index, gpu.peak_mib) for gpu in log.gpus] == [(0, 20), (0, 30)]
    assert len(set(list_labels(log.gpus))) == 2


DAY = "2026/11/21 10:00:"
# Each is two GPUs, 0 with 10 and 30 MiB, 1 with 200 and 400 MiB.
SAME_TWO_GPUS = {
    "seconds since 1970": "timestamp, index, memory.used [MiB]\n1790000000, 0, 10\n"
    "1790000000, 1, 200\n1790000005.5, 0, 30\n1790000005.5, 1, 400\n",
    "a zone": "timestamp, index, memory.used [MiB]\n2026-11-21T10:00:00+03:00, 0, 10\n"
    "2026-11-21T10:00:00Z, 1, 200\n2026-11-21T10:00:05+0300, 0, 30\n"
    "2026-11-21 10:00:05 UTC, 1, 400\n",
    "underscores, with units": "index,memory_used [MiB],utilization_gpu [%]\n0,10,97\n1,200,0\n"
    "0,30,97\n1,400,3\n",
    "uuid and no index": "uuid, memory.used [MiB]\nGPU-b, 10\nGPU-a, 200\nGPU-b, 30\nGPU-a, 400\n",
    "PCI bus id and no index": "pci.bus_id, memory.used [MiB]\n00000000:3B:00.0, 10\n"
    "00000000:5E:00.0, 200\n00000000:3B:00.0, 30\n00000000:5E:00.0, 400\n",
    "[%] in the header, bare values": "index, utilization.gpu [%], memory.used [MiB]\n0, 97, 10\n"
    "1, 0, 200\n0, [N/A], 30\n1, 3, 400\n",
    "saved by pandas": ",index,memory.used [MiB]\n0,0,10\n1,1,200\n2,0,30\n3,1,400\n",
    "amd-smi metric --watch": "timestamp,gpu,total_vram,used_vram,free_vram\r\n"
    "1790000000,0,65520,10,1\r\n1790000000,1,65520,200,1\r\n\r\ntimestamp,gpu,total_vram,used_vram,free_vram\r\n"
    "1790000005,0,65520,30,1\r\n1790000005,1,65520,400,1\r\n\r\n",
    "amd-smi, a list in quotes": "timestamp,gpu,gfx_activity,vcn_activity,total_vram,used_vram\r\n"
    "1790000000,0,97,\"['0', 'N/A']\",65520,10\r\n1790000000,1,97,\"['0', '0']\",65520,200\r\n"
    "1790000005,0,97,N/A,65520,30\r\n1790000005,1,97,\"['0']\",65520,400\r\n",
    "rocm-smi with the job's times": "timestamp,device,GPU use (%),VRAM Total Memory (B),"
    "VRAM Total Used Memory (B)\n1790000000,card0,97,68702699520,10485760\n"
    "1790000000,card1,97,68702699520,209715200\n\nWARNING: AMD GPU device is in a low-power state\n"
    "1790000005,card0,97,68702699520,31457280\n1790000005,card1,0,68702699520,419430400\n",
    "amd-smi monitor": "timestamp,gpu,power_usage,gfx,vram_used,vram_total\n"
    "1790000000,0,251,97,10,65520\n1790000000,1,251,97,200 MB,65520 MB\n"
    "1790000005,0,N/A,97,30 MB,65520 MB\n"
    "1790000005,1,251,97,400 MB,65520 MB\n",
    "rocm-smi": "device,VRAM Total Memory (B),VRAM Total Used Memory (B)\n"
    "card0,68702699520,10485760\ncard1,68702699520,209715200\n\n"
    "device,VRAM Total Memory (B),VRAM Total Used Memory (B)\n"
    "card0,68702699520,31457280\ncard1,68702699520,419430400\n",
}


@pytest.mark.parametrize("content", SAME_TWO_GPUS.values(), ids=SAME_TWO_GPUS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_one_log_in_many_forms(tmp_path, content, encoding):
    log = read(tmp_path, content.encode(encoding))
    assert table(log) == {0: (2, 30, 20.0, 10), 1: (2, 400, 300.0, 200)}
    assert log.counts.dropped in ({}, {"memory.used is no number": 1}, {"error text": 1})


@pytest.mark.parametrize("name", ["saved by pandas", "amd-smi, a list in quotes", "rocm-smi"])
def test_cut_at_any_byte_it_gives_the_values_of_the_whole_lines(tmp_path, name):
    content = SAME_TWO_GPUS[name]

    def try_to_read(text: str) -> tuple | None:
        try:
            log = read(tmp_path, text)
        except UserError:
            return None
        return [(gpu.index, gpu.n, gpu.peak_mib, float(gpu.average_mib)) for gpu in log.gpus]

    whole = {}
    for size in range(len(content) + 1):
        end = max(content.rfind("\n", 0, size), content.rfind("\r", 0, size)) + 1
        if end not in whole:
            whole[end] = try_to_read(content[:end])
        found = try_to_read(content[:size])
        assert found == whole[end] or (not found and not whole[end]), content[:size]


def test_measures_are_the_columns_whose_names_are_known(tmp_path):
    path = tmp_path / "gpu.csv"
    path.write_text("gpu,hotspot,mem,gfx,gfx_clk,pstate,used_vram\n0,62,55,98,2100,0,9\n")
    found = {name: c.unit for name, c in read_gpu_log(path, columns=True).columns.items()}
    assert found == {"gfx": "%", "gfx_clk": "MHz", "used_vram": "MB"}


def test_a_field_that_was_asked_for_twice_counts_once(tmp_path):
    path = tmp_path / "gpu.csv"
    path.write_text("index, memory.used [MiB], memory.used [MiB]\n0, 5 MiB, 6 MiB\n")
    column = read_gpu_log(path, columns=True).columns["memory.used"]
    assert (column.n, column.mean) == (1, 5)
    assert table(read_gpu_log(path)) == {0: (1, 5, 5.0, 5)}


def test_vram_percent_alone_has_no_mib(tmp_path):
    with pytest.raises(UserError, match="vram_percent alone gives no MiB"):
        read(tmp_path, "gpu,vram_percent\n0,30.5\n")


AMOUNTS = [
    ("26532", "", 26532), ("26532 MiB", "MiB", 26532), ("26532MiB", "", 26532),
    ("65520 MB", "MB", 65520), ("1.5", "GiB", 1536), ("1048576", "B", 1), ("524288", "B", 0.5),
    ("1024", "KiB", 1),
]  # fmt: skip
NO_AMOUNTS = [
    ("7", "furlong", "memory.used is in an unknown unit"),
    ("[N/A]", "", "no data"), ("[Not Supported]", "MiB", "no data"), ("N/A", "MB", "no data"),
    ("", "", "memory.used is no number"), ("1e3", "", "memory.used is no number"),
    ("26,5", "", "memory.used is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "unit", "expected"), AMOUNTS)
def test_amounts(cell, unit, expected):
    assert parse_mib(cell, unit) == expected


@pytest.mark.parametrize(("cell", "unit", "why"), NO_AMOUNTS)
def test_what_is_no_amount_says_why(cell, unit, why):
    with pytest.raises(ValueError, match=why):
        parse_mib(cell, unit)


def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path):
    rows = [gpu_row(5 * i, 0, 10 * i) for i in range(6)]
    rows[2] = rows[2].replace("Tesla", '"Tesla')
    log = read(tmp_path, "\n".join([GPU_HEADER, *rows, ""]))
    assert (table(log)[0][:2], log.counts.dropped) == ((5, 50), {"a quote is not closed": 1})
    rows[3] = rows[3].replace("Tesla", '"Tesla')  # the two do not close each other's
    log = read(tmp_path, "\n".join([GPU_HEADER, *rows, ""]))
    assert (table(log)[0][:2], log.counts.dropped) == ((4, 50), {"a quote is not closed": 2})


def test_two_nodes_in_one_file_are_not_one_gpu(tmp_path):
    log = read(tmp_path, "index, memory.used [MiB], uuid\n0, 100, GPU-a\n0, 200, GPU-b\n")
    assert [(gpu.index, gpu.uuid, gpu.peak_mib) for gpu in log.gpus] == [
        (0, "GPU-a", 100),
        (0, "GPU-b", 200),
    ]


@pytest.mark.parametrize("wanted", [("1",), ("GPU-1",)])
def test_of_a_shared_node_only_the_jobs_gpus_count(tmp_path, wanted):
    log = read(tmp_path, gpu_csv({0: [5, 5], 1: [7, 9], 2: [1, 1]}), wanted)
    assert table(log) == {1: (2, 9, 8.0, 7)}
    assert log.counts.ignored == {"header": 1, "a GPU that was not asked for": 4}


def test_a_gpu_that_is_not_there_is_named(tmp_path):
    log = read(tmp_path, gpu_csv({0: [5], 1: [7]}), ("3",))
    assert log.problem == "it has no GPU 3; there are 0, 1"


# ---- Long logs: rows of GPUs that are known are looked at, not parsed ----------------------


def long_rows(rounds: int = 150, gpus: int = 2) -> list[str]:
    """Rows of 5 s each, a few milliseconds apart, of amounts that differ."""
    chance = random.Random(0)
    return [
        gpu_row(5 * at, gpu, chance.randrange(15_000, 32_000)).replace(".123", f".{gpu:03d}")
        for at in range(rounds)
        for gpu in range(gpus)
    ]


def expect(rows: list[str]) -> dict[int, tuple]:
    """What pandas says of good rows."""
    frame = pd.DataFrame([[int(cell) for cell in row.split(", ")[1:4:2]] for row in rows])
    return {
        gpu: (len(used), used.max(), pytest.approx(used.mean()), used.mode()[0])
        for gpu, used in frame.groupby(0)[1]
    }


def test_a_long_log_is_what_pandas_says(tmp_path):
    rows = long_rows()
    log = read(tmp_path, "\n".join([GPU_HEADER, *rows, ""]))
    assert table(log) == expect(rows)
    assert (log.counts.kept, log.counts.dropped) == (300, {})
    gpu = log.gpus[1]
    assert (gpu.covered_s, gpu.interval_s, gpu.name) == (745.0, 5.0, "Tesla V100-SXM2-32GB")
    assert (gpu.first, gpu.last) == (
        datetime(2026, 11, 21, 10, 0, 0, 1000),
        datetime(2026, 11, 21, 10, 12, 25, 1000),
    )


# A line of a long log's last rounds, and what becomes of it.
LATE = [
    (gpu_row(742, 0, "[N/A]"), "no data"),
    (gpu_row(742, 0, "1_000"), "memory.used is no number"),
    (gpu_row(742, 0, "-5"), "memory.used is no number"),
    (gpu_row(742, 0, "\u0663"), "memory.used is no number"),
    (gpu_row(742, 0, "40000"), "memory.used above memory.total"),
    (gpu_row(742, 0, 7)[:60], "another number of fields"),
    (gpu_row(742, 0, 7) + "\0", "NUL bytes"),
    (gpu_row(742, 0, 7).replace(", 97,", ', "97,'), "a quote is not closed"),
    (gpu_row(742, 0, 7).replace(".123", ".1x3"), "timestamp not readable"),
    (gpu_row(742, 0, 7).replace(".123", ".12"), None),  # a fraction all the same
    (gpu_row(742, 0, 7).replace("2026/11/21", "2026/02/31"), "timestamp not readable"),
    (gpu_row(742, 0, 7).replace("10:12:22", "10:12:2_"), "timestamp not readable"),
    (gpu_row(742, 0, 7).replace("10:12:22", "10:12:2 "), "timestamp not readable"),
    (gpu_row(742, "[N/A]", 7), "no GPU index"),
    ("GPU is lost", "error text"),
    (gpu_row(742, 0, "0007"), None),
    (gpu_row(742, 0, 7).replace(", ", ","), None),
    (gpu_row(9999, 0, 7), None),  # the clock goes forth and back
    (gpu_row(0, 0, 7), None),
]


@pytest.mark.parametrize(
    ("line", "reason"), LATE, ids=[f"{r} {n}" for n, (_, r) in enumerate(LATE)]
)
def test_late_in_a_long_log_a_damaged_row_is_still_dropped(tmp_path, line, reason):
    rows = long_rows()
    log = read(tmp_path, "\n".join([GPU_HEADER, *rows[:-4], line, *rows[-4:], ""]))
    assert log.counts.dropped == ({reason: 1} if reason else {})
    assert table(log) == expect(rows if reason else [*rows, gpu_row(0, 0, 7)])


def test_a_late_unit_or_header_changes_what_bare_numbers_mean(tmp_path):
    rows = long_rows()
    late = ["index, uuid, memory.used [GiB]", "0, GPU-0, 2"]
    late += [GPU_HEADER, gpu_row(760, 0, "9 MiB"), rows[-1]]
    log = read(tmp_path, "\n".join([GPU_HEADER, *rows, *late, ""]))
    assert log.counts.dropped == {"unit missing where other rows have one": 1}
    assert table(log) == expect([*rows, gpu_row(0, 0, 2048), gpu_row(0, 0, 9)])


def test_a_clock_that_goes_back_in_a_long_log_is_left_out_of_the_time_covered(tmp_path):
    rows = [gpu_row(5 * at, 0, 7) for at in (*range(150), *range(50, 200), *range(300, 310))]
    (gpu,) = read(tmp_path, "\n".join([GPU_HEADER, *rows, ""])).gpus
    assert gpu.covered_s == 5 * (149 + 149 + 110)
    assert gpu.last == datetime(2026, 11, 21, 10, 25, 45, 123000)


def test_two_hosts_in_one_long_log_stay_apart(tmp_path):
    rows = long_rows(gpus=1)
    other = [row.replace("GPU-0", "GPU-9").replace("32510", "81559") for row in rows]
    both = [row for pair in zip(rows, other, strict=True) for row in pair]
    log = read(tmp_path, "\n".join([GPU_HEADER, *both, ""]))
    assert [(gpu.index, gpu.uuid, gpu.n) for gpu in log.gpus] == [
        (0, "GPU-0", 150),
        (0, "GPU-9", 150),
    ]


ROWS = st.one_of(
    st.builds(gpu_row, st.integers(0, 100_000), st.integers(0, 3), st.integers(0, 33000)),
    st.sampled_from([line for line, _ in LATE]),
)


@quick
@given(st.lists(ROWS, max_size=30), st.booleans())
def test_late_lines_count_as_they_do_with_samples_that_take_every_line_with_care(
    tmp_path, lines, in_order
):
    lines = sorted(lines) if in_order else lines
    path = tmp_path / "gpu.csv"
    path.write_text("\n".join([GPU_HEADER, *long_rows(110), *lines]) + "\n")
    plain, careful = (read_gpu_log(path, columns=True, samples=kept) for kept in (False, True))
    assert plain.counts == careful.counts
    assert plain.gpus == careful.gpus
    assert plain.columns == careful.columns


# ---- Columns and samples -------------------------------------------------------------------


def test_columns_are_of_all_gpus_and_of_each(tmp_path):
    path = tmp_path / "gpu.csv"
    path.write_text("index, utilization.gpu [%], memory.used [MiB]\n" + "0, 91, 5\n1, 0, 7\n" * 3)
    log = read_gpu_log(path, columns=True)
    assert log.columns["utilization.gpu"].describe() == {
        "n": 6, "mean": 45.5, "max": 91, "min": 0, "unit": "%",
    }  # fmt: skip
    assert [gpu.columns["utilization.gpu"].mean for gpu in log.gpus] == [91.0, 0.0]


def test_samples(tmp_path):
    path = tmp_path / "gpu.csv"
    rows = [gpu_row(0, 1, 200), gpu_row(0, 0, 100), gpu_row(5, 1, "[N/A]"), gpu_row(5, 0, 300)]
    path.write_text("\n".join([GPU_HEADER, *rows, ""]))
    log = read_gpu_log(path, samples=True, columns=True)
    found = log.samples
    assert list(found["gpu"]) == [1, 0, 1, 0]  # positions in log.gpus
    assert log.start == datetime(2026, 11, 21, 10, 0, 0, 123000)
    assert list(found["elapsed_s"]) == [0.0, 0.0, 5.0, 5.0]
    assert list(found["used_mib"])[:2] == [200.0, 100.0]
    assert math.isnan(found["used_mib"][2])
    assert list(found["utilization_pct"]) == [97.0] * 4
    assert (found["power_w"][0], found["temperature_c"][0], found["sm_clock_mhz"][0]) == (
        251.3, 61.0, 1530.0,
    )  # fmt: skip
    assert (found["total_mib"][0], found["throttle_mask"]) == (32510.0, array("d", [0] * 4))
    own = log.keep_gpus(["gpu-1"])
    assert [gpu.index for gpu in own.gpus] == [1]
    assert (own.counts.kept, own.counts.ignored[NOT_OWN]) == (2, 2)
    assert (list(own.samples["gpu"]), list(own.samples["elapsed_s"])) == ([0, 0], [0.0, 5.0])
    assert own.counts.is_whole
    assert own.columns["memory.used"].n == 1


def test_all_gpus_stay_when_none_is_named_as_the_jobs(tmp_path):
    log = read(tmp_path, gpu_csv({0: [5], 1: [7]}))
    assert log.keep_gpus(["MIG-7"]) is log
    assert log.keep_gpus([]) is log


# ---- Large files ---------------------------------------------------------------------------

# The peak of this program's own memory: ru_maxrss would begin with that of the tests' process.
MEASURE = """
import pathlib, re, runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    print(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1], file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["analyze_memory.py", "inspect_log.py"])
def test_a_large_log_needs_little_memory(tmp_path, command):
    """20 MB of rows and a line of 50 MB; 1 GB needs as much (see tests/benchmarks)."""
    path = tmp_path / "gpu_memory_log.csv"
    rows = gpu_csv({gpu: [gpu, 26532] * 500 for gpu in range(4)}).split("\n", 1)[1].encode()
    count = (20 if command.startswith("analyze") else 6) * (1 << 20) // len(rows)
    with path.open("wb") as file:
        file.write(GPU_HEADER.encode() + b"\n")
        for _ in range(count):
            file.write(rows)
        for _ in range(50):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + gpu_row(0, 0, 30000).encode() + b"\n")
    code = ["-c", MEASURE, SCRIPTS / command, path]
    environment = {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Peak = 30000 MiB" in done.stdout or "max 30000 MiB" in done.stdout
    assert int(done.stderr.split()[-1]) < 60 << 10  # KiB
