"""scaling.read.gpu_log: the forms that GPU monitors' CSV comes in, and its two ways of reading."""

import random
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from run_folders import GPU_HEADER, gpu_csv, gpu_row
from scaling.read import gpu_fast, gpu_log
from scaling.read.gpu_columns import parse_mib
from scaling.read.gpu_log import read_gpu_columns, read_gpu_log
from scaling.read.gpu_reader import GpuReader
from scaling.read.gpu_series import GpuLog
from scaling.read.text import read_lines

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: str | bytes, gpus: tuple[str, ...] = ()) -> GpuLog:
    path = tmp_path / "gpu.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    log = read_gpu_log(path, gpus)
    assert log.lines == log.kept + sum(log.dropped.values()) + sum(log.ignored.values())
    return log


def table(log: GpuLog) -> dict[int, tuple]:
    return {gpu.index: (gpu.n, gpu.peak_mib, gpu.avg_mib, gpu.mode_mib) for gpu in log.gpus}


DAY = "2026/11/21 10:00:"
# Each is two GPUs, 0 with 10 and 30 MiB, 1 with 200 and 400 MiB.
SAME_TWO_GPUS = {
    "no header, the contract's order": f"{DAY}00.000, 0, V100, 10, 32510\n"
    f"{DAY}00.002, 1, V100, 200, 32510\n{DAY}05.000, 0, V100, 30, 32510\n"
    f"{DAY}05.002, 1, V100, 400, 32510\n",
    "no header, units, total first": "0, 32510 MiB, 10 MiB\n1, 32510 MiB, 200 MiB\n"
    "0, 32510 MiB, 30 MiB\n1, 32510 MiB, 400 MiB\n",
    "no header, one amount": "0, 10 MiB\n1, 200 MiB\n0, 30 MiB\n1, 400 MiB\n",
    "no header, a damaged first row": "0, 10 M\n0, 10 MiB\n1, 200 MiB\n0, 30 MiB\n1, 400 MiB\n",
    "seconds since 1970": "timestamp, index, memory.used [MiB]\n1790000000, 0, 10\n"
    "1790000000, 1, 200\n1790000005.5, 0, 30\n1790000005.5, 1, 400\n",
    "a zone": "timestamp, index, memory.used [MiB]\n2026-11-21T10:00:00+03:00, 0, 10\n"
    "2026-11-21T10:00:00Z, 1, 200\n2026-11-21T10:00:05+0300, 0, 30\n"
    "2026-11-21 10:00:05 UTC, 1, 400\n",
    "line ends in quotes": 'index, name, memory.used [MiB]\n0, "V100\nof 32 GB", 10\n'
    '1, "V100\nof ""32"" GB", 200\n0, "V100, new", 30\n1, V100, 400\n',
    "rounds without an index, a second each": f"timestamp, memory.used [MiB]\n{DAY}00, 10 MiB\n"
    f"{DAY}00, 200 MiB\n{DAY}01, 30 MiB\n{DAY}01, 400 MiB\n",
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
    assert log.dropped in ({}, {"memory.used is no number": 1}, {"error text": 1})


@pytest.mark.parametrize("content", SAME_TWO_GPUS.values(), ids=SAME_TWO_GPUS)
def test_cut_at_any_byte_it_gives_the_values_of_the_whole_lines(tmp_path, content):
    def try_to_read(text: str) -> tuple | None:
        try:
            log = read(tmp_path, text)
        except UserError:
            return None
        return [(gpu.index, gpu.n, gpu.peak_mib, gpu.avg_mib) for gpu in log.gpus]

    whole = {}
    for size in range(len(content) + 1):
        end = max(content.rfind("\n", 0, size), content.rfind("\r", 0, size)) + 1
        if end not in whole:
            whole[end] = try_to_read(content[:end])
        found = try_to_read(content[:size])
        assert found == whole[end] or (not found and not whole[end]), content[:size]


NOT_KNOWN = {
    "three amounts, one is free memory": "0, 10 MiB, 90 MiB, 100 MiB\n0, 20 MiB, 80 MiB, 100 MiB\n",
    "figures alone": "0, 10, 32510\n0, 30, 32510\n",
    "no total beside": f"{DAY}00.000, 0, 10\n{DAY}05.000, 0, 30\n",
    "index, a constant amount, load": f"{DAY}00.000, 0, 26532, 98\n{DAY}05.000, 0, 26532, 97\n",
    "a load, a constant amount": f"{DAY}00.000, 0, 98, 26532\n{DAY}05.000, 0, 100, 26532\n",
    "a clock, a constant amount": f"{DAY}00.000, 0, 1410, 26532\n{DAY}05.000, 0, 1380, 26532\n",
    "a header of names that are not known": "timestamp,gpu_id,memory_used_mb,memory_total_mb\n"
    f"{DAY}00.000,0,26532,81920\n{DAY}05.000,0,26530,81920\n",
}


@pytest.mark.parametrize("content", NOT_KNOWN.values(), ids=NOT_KNOWN)
def test_without_a_header_a_doubtful_column_is_not_guessed(tmp_path, content):
    with pytest.raises(UserError, match="not an nvidia-smi CSV"):
        read(tmp_path, content)


UNITS = [
    ("gpu,hotspot,mem,used_vram\n0,62,55,9\n", {"mem": "C", "used_vram": "MB"}),
    ("gpu,gfx,mem,gfx_clk,mem_clock,vram_used\n0,98,41,2100,1300,9\n",
     {"mem": "%", "gfx_clk": "MHz", "mem_clock": "MHz"}),
    ("gpu,max_power,gfx_voltage,used_vram\n0,750,801,9\n", {"max_power": "W", "gfx_voltage": "mV"}),
]  # fmt: skip


@pytest.mark.parametrize(("content", "units"), UNITS)
def test_the_units_of_amds_columns(tmp_path, content, units):
    path = tmp_path / "gpu.csv"
    path.write_text(content)
    measures = read_gpu_columns(path).all_measures
    assert {name: measures[name].unit for name in units} == units


def test_a_field_that_was_asked_for_twice_counts_once(tmp_path):
    path = tmp_path / "gpu.csv"
    path.write_text("index, memory.used [MiB], memory.used [MiB]\n0, 5 MiB, 6 MiB\n")
    column = read_gpu_columns(path).all_measures["memory.used"]
    assert (column.n, column.mean) == (1, 5)
    assert table(read_gpu_log(path)) == {0: (1, 5, 5.0, 5)}


def test_vram_percent_alone_has_no_mib(tmp_path):
    with pytest.raises(UserError, match="vram_percent alone gives no MiB"):
        read(tmp_path, "gpu,vram_percent\n0,30.5\n")


AMOUNTS = [
    ("26532", "", 26532), ("26532 MiB", "MiB", 26532), ("26532MiB", "", 26532),
    ("65520 MB", "MB", 65520), ("1.5", "GiB", 1536), ("1048576", "B", 1), ("524288", "B", 0.5),
    ("1024", "KiB", 1), ("7", "furlong", "memory.used is in an unknown unit"),
    ("[N/A]", "", "no data"), ("[Not Supported]", "MiB", "no data"), ("N/A", "MB", "no data"),
    ("", "", "memory.used is no number"), ("1e3", "", "memory.used is no number"),
    ("26,5", "", "memory.used is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "unit", "expected"), AMOUNTS)
def test_amounts(cell, unit, expected):
    assert parse_mib(cell, unit) == expected


def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path):
    rows = [gpu_row(5 * i, 0, 10 * i) for i in range(6)]
    rows[2] = rows[2].replace("Tesla", '"Tesla')
    log = read(tmp_path, "\n".join([GPU_HEADER, *rows, ""]))
    assert (table(log)[0][:2], log.dropped) == ((5, 50), {"a quote is not closed": 1})
    rows[3] = rows[3].replace("Tesla", '"Tesla')  # the two do not close each other's
    log = read(tmp_path, "\n".join([GPU_HEADER, *rows, ""]))
    assert (table(log)[0][:2], log.dropped) == ((4, 50), {"a quote is not closed": 2})


def test_rounds_faster_than_usual_are_parted_by_the_gaps(tmp_path):
    rows = [
        f"{DAY}{i // 10:02d}.{i % 10 * 100 + 3 * gpu:03d}, {100 * gpu + i}"
        for i in range(20)
        for gpu in range(3)
    ]
    log = read(tmp_path, "\n".join(["timestamp, memory.used [MiB]", *rows, ""]))
    assert {gpu: row[:2] for gpu, row in table(log).items()} == {
        0: (20, 19), 1: (20, 119), 2: (20, 219),
    }  # fmt: skip


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
    assert log.ignored == {"header": 1, "a GPU that was not asked for": 4}


def test_a_gpu_that_is_not_there_is_named(tmp_path):
    log = read(tmp_path, gpu_csv({0: [5], 1: [7]}), ("3",))
    assert log.problem == "it has no GPU 3; there are 0, 1"


# ---- The fast way and the careful way ------------------------------------------------------


def read_carefully(path: Path) -> GpuLog:
    reader = GpuReader(path)
    for line, has_end in read_lines(path):
        reader.add(line, has_end)
    reader.close()
    return gpu_log.make_log(reader)


LINES = st.one_of(
    st.builds(gpu_row, st.integers(0, 100_000), st.integers(0, 3), st.integers(0, 33000)),
    st.builds(gpu_row, st.integers(0, 60), st.integers(0, 1), st.sampled_from(["5 MiB", "[N/A]"])),
    st.builds(gpu_row, st.just(86_399), st.just(0), st.integers(0, 9)),
    st.sampled_from(
        [GPU_HEADER, "", '"', "index, memory.used [MiB]", gpu_row(5, 0, 7)[:40],
         gpu_row(5, 0, 7).replace("2026/11/21", "2026/02/31"), gpu_row(5, 0, "0007"),
         gpu_row(5, 0, 7).replace(", ", ","), gpu_row(5, 0, 7) + "\0", "No devices were found"]
    ),
)  # fmt: skip


NO_SUCH_DAY = gpu_row(5, 0, 7).replace("2026/11/21", "2026/02/31")


@quick
@given(st.lists(LINES, max_size=40), st.booleans(), st.booleans())
@example([gpu_row(0, 1, 0), NO_SUCH_DAY, gpu_row(5, 0, 7)], False, True)
def test_the_fast_way_gives_what_the_careful_way_gives(tmp_path, lines, in_order, ends):
    lines = sorted(lines) if in_order else lines
    path = tmp_path / "gpu.csv"
    path.write_text("\n".join([GPU_HEADER, *lines]) + "\n" * ends)
    was, gpu_fast.LEAST_CHARS = gpu_fast.LEAST_CHARS, 200  # so that blocks as short go that way
    try:
        assert read_gpu_log(path) == read_carefully(path)
    finally:
        gpu_fast.LEAST_CHARS = was


MEASURES = {
    "timestamp": None,
    "index": None,
    "memory.used [MiB]": "MiB",
    "memory.total [MiB]": "MiB",
    "uuid": None,
    "name": None,
    "power.draw [W]": "W",
    "utilization.gpu [%]": "%",
}


def make_log(chance: random.Random, rounds: int) -> str:
    """A log of two GPUs with some columns in some order, a few cells damaged, over midnight."""
    names = list(MEASURES)[:3] + chance.sample(list(MEASURES)[3:], chance.randrange(6))
    chance.shuffle(names)
    has_units, when = chance.random() < 0.5, datetime(2026, 11, 21, 23, 58)
    lines = [", ".join(names)]
    for _ in range(rounds):
        when += timedelta(seconds=chance.choice([5, 5, 5, 5, 0, -3]))
        for gpu in range(2):
            row = {name: str(chance.randrange(30_000)) for name in names}
            row |= {"timestamp": f"{when:%Y/%m/%d %H:%M:%S}.{chance.randrange(1000):03d}"}
            row |= {"index": str(gpu), "memory.total [MiB]": "32510", "uuid": f"GPU-{gpu}"}
            cells = [
                f"{row[name]} {MEASURES[name]}" if has_units and MEASURES[name] else row[name]
                for name in names
            ]
            if chance.random() < 0.02:
                cells[chance.randrange(len(cells))] = chance.choice(["[N/A]", "x", "", "5"])
            lines.append(chance.choice([", ", ", ", ","]).join(cells))
    return "\n".join([*lines, ""])


@pytest.mark.parametrize("seed", range(60))
def test_columns_in_any_order_are_the_same_by_both_ways(tmp_path, seed, monkeypatch):
    chance = random.Random(seed)
    path = tmp_path / "gpu.csv"
    path.write_text(make_log(chance, chance.randrange(5, 100)))
    monkeypatch.setattr(gpu_fast, "LEAST_CHARS", 300)
    assert read_gpu_log(path) == read_carefully(path)
    fast, careful = read_gpu_columns(path), GpuReader(path, is_strict=False)
    careful.counts_columns = True
    for line, has_end in read_lines(path):
        careful.add(line, has_end)
    careful.close()
    assert (fast.lines, fast.kept, fast.dropped) == (careful.lines, careful.kept, careful.dropped)
    assert fast.all_measures.keys() == careful.all_measures.keys()
    for name, column in fast.all_measures.items():
        other = careful.all_measures[name]
        assert (column.n, column.max, column.no_data) == (other.n, other.max, other.no_data)
        assert column.mean == pytest.approx(other.mean, rel=1e-12)


def test_an_ordinary_log_goes_the_fast_way(tmp_path, monkeypatch):
    path = tmp_path / "gpu.csv"
    path.write_text(gpu_csv({gpu: [gpu, 5, 9] * 400 for gpu in range(4)}))
    careful = []
    add = GpuReader.add
    monkeypatch.setattr(GpuReader, "add", lambda self, *line: (careful.append(1), add(self, *line)))
    log = read_gpu_log(path)
    assert log.kept == 4800
    assert len(careful) < 100
    assert log == read_carefully(path)


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
    """60 MB of rows and a line of 100 MB; 1 GB needs as much (see tests/benchmarks)."""
    path = tmp_path / "gpu_memory_log.csv"
    rows = gpu_csv({gpu: [gpu, 26532] * 500 for gpu in range(4)}).split("\n", 1)[1].encode()
    count = (60 if command.startswith("analyze") else 6) * (1 << 20) // len(rows)
    with path.open("wb") as file:
        file.write(GPU_HEADER.encode() + b"\n")
        for _ in range(count):
            file.write(rows)
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + gpu_row(0, 0, 30000).encode() + b"\n")
    code = ["-c", MEASURE, SCRIPTS / command, path]
    environment = {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Peak = 30000 MiB" in done.stdout or "max 30000 MiB" in done.stdout
    assert int(done.stderr.split()[-1]) < 100 << 10  # KiB
