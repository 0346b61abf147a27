"""scaling.read.gpu_log and analyze_memory.py: nvidia-smi's CSV, whole and damaged."""

import codecs
import gzip
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from filled_tables import call
from run_folders import GPU_HEADER, gpu_csv, gpu_row, put
from scaling.read.gpu_log import GpuLog, format_memory, read_gpu_log

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
# 62 x 26532 + 37 x 15812 + 15835 = 2245863; / 100 samples = 22458.63
KNOWN_MIB = [15812] * 37 + [15835] + [26532] * 62
KNOWN_LINE = "Peak = 26532 MiB, Avg = 22458.63 MiB, Mode = 26532 MiB"

quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: str | bytes, name: str = "gpu_memory_log.csv") -> GpuLog:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    log = read_gpu_log(path)
    assert log.counts.is_whole
    assert log.counts.kept == sum(gpu.n for gpu in log.gpus)
    return log


def table(log: GpuLog) -> dict[int, tuple]:
    return {
        gpu.index: (gpu.n, gpu.peak_mib, float(gpu.average_mib), gpu.mode_mib) for gpu in log.gpus
    }


def test_the_known_line(tmp_path):
    log = read(tmp_path, gpu_csv({0: KNOWN_MIB}))
    assert format_memory(log) == [f"[gpu_memory_log - GPU 0] {KNOWN_LINE}"]
    assert (log.counts.kept, log.counts.dropped, log.counts.ignored) == (100, {}, {"header": 1})


def test_the_bracket_holds_the_files_stem_and_each_gpu_has_a_line(tmp_path):
    log = read(tmp_path, gpu_csv({1: [10, 30], 0: KNOWN_MIB[:2]}), "gpu_memory_log_node1.csv")
    assert format_memory(log) == [
        "[gpu_memory_log_node1 - GPU 0] Peak = 15812 MiB, Avg = 15812.00 MiB, Mode = 15812 MiB",
        "[gpu_memory_log_node1 - GPU 1] Peak = 30 MiB, Avg = 20.00 MiB, Mode = 10 MiB",
    ]


def test_times(tmp_path):
    log = read(tmp_path, gpu_csv({0: [5] * 8}))
    assert (log.gpus[0].first.second, log.gpus[0].last.second) == (0, 35)
    assert (log.gpus[0].covered_s, log.gpus[0].interval_s) == (35.0, 5.0)


def test_a_backward_clock_is_left_out_of_the_time_covered(tmp_path):
    rows = [gpu_row(second, 0, 7) for second in (3600, 3605, 5, 10)]
    assert read(tmp_path, "\n".join([GPU_HEADER, *rows, ""])).gpus[0].covered_s == 10.0


@pytest.mark.parametrize(
    ("values", "mode"), [([3, 1, 3, 1, 2], 1), ([9, 8, 7], 7), ([5], 5), ([0, 0, 4], 0)]
)
def test_of_several_modes_the_smallest_as_pandas_says(tmp_path, values, mode):
    assert read(tmp_path, gpu_csv({0: values})).gpus[0].mode_mib == mode
    assert pd.Series(values).mode()[0] == mode


def test_average_is_rounded_half_to_even(tmp_path):
    # 1 / 8 = 0.125 and 3 / 8 = 0.375: ties.
    for total, text in ((1, "0.12"), (3, "0.38")):
        log = read(tmp_path, gpu_csv({0: [total, *[0] * 7]}))
        assert f"Avg = {text} MiB" in format_memory(log)[0]


# What stands between two good rows (10 and 30 MiB), and the reason it is dropped for.
DAMAGED_ROWS = [
    (gpu_row(5, 0, "[N/A]"), "no data"),
    (gpu_row(5, 0, "N/A"), "no data"),
    (gpu_row(5, 0, "[Not Supported]"), "no data"),
    (gpu_row(5, 0, "[Unknown Error]"), "no data"),
    (gpu_row(5, 0, ""), "memory.used is no number"),
    (gpu_row(5, 0, "-5"), "memory.used is no number"),
    (gpu_row(5, 0, "2e4"), "memory.used is no number"),
    (gpu_row(5, 0, "26532 M"), "memory.used is no number"),
    (gpu_row(5, 0, "40000"), "memory.used above memory.total"),
    (gpu_row(5, "[N/A]", 20), "no GPU index"),
    (gpu_row(5, 0, 20)[:60], "another number of fields"),
    (gpu_row(5, 0, 20)[:57] + gpu_row(10, 0, 20), "another number of fields"),
    (gpu_row(5, 0, 20)[:57] + GPU_HEADER, "another number of fields"),
    (gpu_row(5, 0, 20)[:15] + gpu_row(10, 0, 20), "timestamp not readable"),
    ("\0\0\0\0" + gpu_row(5, 0, 20), "NUL bytes"),
    ("Unable to determine the device handle for GPU 0000:3D:00.0: Unknown Error", "error text"),
    ("Failed to initialize NVML: Driver/library version mismatch", "error text"),
    ("nvidia-smi: Killed, or so, it, says", "another number of fields"),
]


@pytest.mark.parametrize(("line", "reason"), DAMAGED_ROWS, ids=[r for _, r in DAMAGED_ROWS])
def test_a_damaged_row_is_dropped_and_named(tmp_path, line, reason):
    content = "\n".join([GPU_HEADER, gpu_row(0, 0, 10), line, gpu_row(15, 0, 30), ""])
    log = read(tmp_path, content)
    assert log.counts.dropped == {reason: 1}
    assert table(log) == {0: (2, 30, 20.0, 10)}


TORN = {
    "timestamp not readable": "2026/11/21 10:03:20.2026/11/21 10:03:20.123, 0, V100, 5000, 32510",
    "memory.used is no number": "2026/11/21 10:03:20.123, 0, V100, -0, 32510",
}


@pytest.mark.parametrize("at", [3, 35])
@pytest.mark.parametrize("reason", TORN)
def test_a_torn_row_is_dropped_wherever_it_stands(tmp_path, reason, at):
    header, *rows = gpu_csv({0: [100] * 40}).splitlines()
    rest = rows[at].split(", ")[5:]
    rows[at] = ", ".join([TORN[reason], *rest])
    log = read(tmp_path, "\n".join([header, *rows]) + "\n")
    assert (log.counts.kept, dict(log.counts.dropped)) == (39, {reason: 1})
    assert (log.gpus[0].peak_mib, log.gpus[0].mode_mib, log.gpus[0].average_mib) == (100, 100, 100)


def test_a_cut_number_is_never_a_shorter_number(tmp_path):
    header, rows = "index, memory.used [MiB]", "0, 26532\n0, 26532\n0, 265"
    log = read(tmp_path, f"{header}\n{rows}")
    assert table(log) == {0: (2, 26532, 26532.0, 26532)}
    assert log.counts.dropped == {"cut: the last line has no end": 1}


def test_a_number_that_lost_its_unit_may_be_cut(tmp_path):
    log = read(tmp_path, "index, memory.used [MiB]\n0, 26532 MiB\n0, 265\n0, 26530 MiB\n")
    assert table(log) == {0: (2, 26532, 26531.0, 26530)}
    assert log.counts.dropped == {"unit missing where other rows have one": 1}


SAME_LOG = {
    "units in the rows": "index, memory.used [MiB]\n0, 10 MiB\n0, 30 MiB\n",
    "no unit anywhere": "index, memory.used\n0, 10\n0, 30\n",
    "other columns and order": "uuid, memory.used [MiB], name, index\na, 10, T4, 0\na, 30, T4, 0\n",
    "header repeated": "index, memory.used [MiB]\n0, 10\nindex, memory.used [MiB]\n0, 30\n",
    "header repeated with other columns": "index, memory.used\n0, 10\nmemory.used, index\n30, 0\n",
    "CRLF": "index, memory.used [MiB]\r\n0, 10\r\n0, 30\r\n",
    "CR alone": "index, memory.used [MiB]\r0, 10\r0, 30\r",
    "blank lines": "\n\nindex, memory.used [MiB]\n\n0, 10\n\n0, 30\n\n",
    "quoted": '"index", "memory.used [MiB]"\n"0", "10"\n"0", "30"\n',
    "told apart by uuid": "uuid, memory.used [MiB]\nGPU-b, 10\nGPU-b, 30\n",
    "UTF-8 with BOM": codecs.BOM_UTF8 + b"index, memory.used [MiB]\n0, 10\n0, 30\n",
    "UTF-16 with BOM": "index, memory.used [MiB]\n0, 10\n0, 30\n".encode("utf-16"),
    "UTF-16 big-endian": codecs.BOM_UTF16_BE
    + "index, memory.used [MiB]\n0, 10\n0, 30\n".encode("utf-16-be"),
    "no space after the comma": "index,memory.used [MiB]\n0,10\n0,30\n",
    "an error text before the header": "NVIDIA-SMI has failed\nindex, memory.used\n0, 10\n0, 30\n",
}


@pytest.mark.parametrize("content", SAME_LOG.values(), ids=SAME_LOG)
def test_one_log_in_many_forms(tmp_path, content):
    assert table(read(tmp_path, content)) == {0: (2, 30, 20.0, 10)}


COMMAND = "`nvidia-smi --query-gpu=timestamp,index,name,memory.used,"
REFUSED = {
    "no header": ("0, V100, 10, 32510\n0, V100, 30, 32510\n", "not an nvidia-smi CSV"),
    "no index, rounds by time": (
        "timestamp, memory.used [MiB]\n2026/11/21 10:00:00.000, 1\n2026/11/21 10:00:00.002, 7\n",
        "cannot be told apart: it has no column index or uuid",
    ),
    "no index and no times": (
        "memory.used [MiB]\n5 MiB\n7 MiB\n", "it has no column index or uuid, and no times"
    ),
    "no index, and four GPUs": (
        "timestamp,num_gpus,gpu_mem_used_mb\n1,4,10\n", "and num_gpus is 4"
    ),
    "an average": ("timestamp,avg_gpu_mem_used_mb\n1,10\n", "not an nvidia-smi CSV"),
    "no index, two names": (
        "timestamp, name, memory.used [MiB]\n2026/11/21 10:00:00, Orin, 5\n"
        "2026/11/21 10:00:05, T4, 5\n", "it has no column index or uuid, and name differs"
    ),
    "no index, a column that may part GPUs": (
        "timestamp, gpu_slot, memory.used [MiB]\n2026/11/21 10:00:00, 1, 5\n"
        "2026/11/21 10:00:05, 2, 5\n", "and gpu_slot differs"
    ),
    "two columns of indices that disagree": (
        "timestamp,gpu,index,memory.used\n2026-01-02T03:04:00+01:00,0,0,100\n"
        "2026-01-02T03:04:00+01:00,1,0,200\n",
        "cannot be told apart: its columns index and gpu disagree",
    ),
    "no memory": ("utilization.gpu [%], index\n80 %, 0\n", "it has no column memory.used"),
    "a column per GPU": ("time,gpu0_mem_used_mb,gpu1_mem_used_mb\n0,4,5\n", "not an nvidia-smi"),
    "two columns of one thing": ("gpu_id,mem_used_mb,gpu_memory_used_mb\n0,4,5\n", "not an nvidia"),
    "the host's memory": ("time,cpu_util,mem_used_mb\n0.0,0,470\n", "not an nvidia-smi CSV"),
    "the memory of a process": ("gpu,pid,gpu_mem_used_mb\n0,7,470\n", "not an nvidia-smi CSV"),
    "a share of the memory": ("gpu_id,mem_usage (%)\n0,47\n", "not an nvidia-smi CSV"),
    "gigabytes without a unit": (
        "gpu_id,memory_used,memory_total\n0,12,80\n", "its memory has no unit, and 80 is no GPU's"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_declared_is_refused_with_the_command_that_logs_it(tmp_path, content, why):
    with pytest.raises(UserError, match=r"gpu_memory_log\.csv: ") as caught:
        read(tmp_path, content)
    assert why in str(caught.value)
    assert COMMAND in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gpus_of_two_hosts_are_two(tmp_path):
    log = read(
        tmp_path, "hostname, index, memory.used [MiB]\nnode0, 0, 20000 MiB\nnode1, 0, 30000 MiB\n"
    )
    assert [(gpu.host, gpu.index, gpu.peak_mib) for gpu in log.gpus] == [
        ("node0", 0, 20000),
        ("node1", 0, 30000),
    ]
    assert format_memory(log)[1].startswith("[gpu_memory_log - node1 GPU 0] Peak = 30000 MiB")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        (GPU_HEADER + "\n", "it has a header and no sample"),
        (GPU_HEADER[:40], "no sample in it (1 cut: the last line has no end)"),
        ("No devices were found\n", 'nvidia-smi said "No devices were found"'),
        (GPU_HEADER + "\n" + gpu_row(0, 0, "[N/A]") + "\n", "no sample in it (1 no data)"),
    ],
)
def test_a_log_without_a_sample_says_why(tmp_path, content, problem):
    log = read(tmp_path, content)
    assert (log.gpus, log.problem) == ((), problem)


@pytest.mark.parametrize(
    "content",
    [
        "# Elapsed time   CPU (%)     Real (MB)   Virtual (MB)\n0.0 0.0 1.0 2.0\n",
        '{"rank": 0}\n',
        "memory.used was high\n",
        b"\x89PNG\r\n\x1a\n\x00\x00" + bytes(range(256)) + b"\n",
    ],
)
def test_text_that_is_no_such_csv_is_refused_by_name(tmp_path, content):
    with pytest.raises(UserError, match=r"gpu_memory_log\.csv: not an nvidia-smi CSV"):
        read(tmp_path, content)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.csv: cannot be read: No such file"):
        read_gpu_log(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_gpu_log(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_cut_at_any_byte_it_gives_the_values_of_the_whole_records(tmp_path, encoding):
    rows = [(0, 26532), (1, 1400), (0, 15812), (1, 26530)]
    lines = [f"2026/11/21 10:00:00.1, {gpu}, V100, {mib}, 32510\n" for gpu, mib in rows]
    header = "timestamp, index, name, memory.used [MiB], memory.total [MiB]\n"
    text = header + "".join(lines)
    data = text.encode(encoding)
    ends = [len((header + "".join(lines[:n])).encode(encoding)) for n in range(len(lines) + 1)]
    for size in range(len(data) + 1):
        whole = max((n for n, end in enumerate(ends) if end <= size), default=0)
        expected = defaultdict(list)
        for gpu, mib in rows[:whole]:
            expected[gpu].append(mib)
        log = read(tmp_path, data[:size])
        assert {g: (n, peak, avg) for g, (n, peak, avg, _) in table(log).items()} == {
            gpu: (len(mib), max(mib), sum(mib) / len(mib)) for gpu, mib in expected.items()
        }


PIECES = st.sampled_from(
    [
        *(GPU_HEADER, "index, memory.used", "memory.used", "0, 5", '"', "\0", "\r", "\n", "[N/A]"),
        *(
            gpu_row(5, 1, 26532),
            gpu_row(9, 0, "7 MiB"),
            gpu_row(9, "²", "٣"),
            "No devices were found",
        ),
    ]
)


@quick
@given(st.lists(st.one_of(PIECES, st.text(max_size=20)), max_size=12).map("\n".join))
def test_any_text_gives_values_or_our_own_error(tmp_path, text):
    try:
        log = read(tmp_path, text.encode("utf-8", "surrogatepass"))
    except UserError as error:
        assert "gpu_memory_log.csv" in str(error)
    else:
        assert bool(log.gpus) == (log.problem is None)


@quick
@given(st.lists(st.integers(0, 32510), min_size=1, max_size=30))
def test_equals_pandas(tmp_path, values):
    series = pd.Series(values)
    assert table(read(tmp_path, gpu_csv({0: values}))) == {
        0: (len(values), series.max(), pytest.approx(series.mean()), series.mode()[0])
    }


# ---- The command ---------------------------------------------------------------------------


def analyze(*arguments: object):
    return call("analyze_memory", *arguments)


def test_command_prints_the_known_line(tmp_path):
    path = put(tmp_path / "gpu_memory_log.csv", gpu_csv({0: KNOWN_MIB}))
    command = [sys.executable, SCRIPTS / "analyze_memory.py", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"[gpu_memory_log - GPU 0] {KNOWN_LINE}\n"


def test_command_reads_a_folder_in_order_and_names_what_was_dropped(tmp_path):
    for run, node in ((9, 0), (12, 2), (12, 10)):
        put(tmp_path / f"gpu_memory/{run}/gpu_memory_log_node{node}.csv", gpu_csv({0: [node]}))
    cut = put(tmp_path / "gpu_memory/9/gpu_memory_log_node0.csv", gpu_csv({0: [7, 8]})[:-3])
    done = analyze(tmp_path)
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == [
        "[gpu_memory_log_node0 - GPU 0] Peak = 7 MiB, Avg = 7.00 MiB, Mode = 7 MiB",
        "[gpu_memory_log_node2 - GPU 0] Peak = 2 MiB, Avg = 2.00 MiB, Mode = 2 MiB",
        "[gpu_memory_log_node10 - GPU 0] Peak = 10 MiB, Avg = 10.00 MiB, Mode = 10 MiB",
    ]
    assert done.stderr == f"{cut}: 1 of 3 lines dropped: 1 cut: the last line has no end\n"


def test_command_names_bad_files_and_still_prints_the_good_ones(tmp_path):
    good = put(tmp_path / "a/gpu_memory_log.csv", gpu_csv({0: [7]}))
    bad = put(tmp_path / "b/gpu_memory_log.csv", "hello, world\n")
    empty = put(tmp_path / "c/gpu_memory_log.csv", "")
    done = analyze(good, bad, empty)
    assert done.returncode == 1
    assert "Peak = 7 MiB" in done.stdout
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {bad}: not an nvidia-smi CSV")
    assert second == f"error: {empty}: no GPU memory: it is empty"


def test_command_says_that_a_packed_log_is_packed(tmp_path):
    path = tmp_path / "gpu_memory_log.csv.gz"
    path.write_bytes(gzip.compress(gpu_csv({0: KNOWN_MIB}).encode()))
    done = analyze(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {path}: gzip data: unpack it first\n"


def test_command_without_any_log_names_the_folder(tmp_path):
    done = analyze(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path}: no gpu_memory_log*.csv below it")
    assert done.stderr.count("\n") == 1


def test_command_prints_json(tmp_path):
    put(tmp_path / "gpu_memory_log.csv", gpu_csv({0: KNOWN_MIB}) + "rubbish\n")
    (record,) = json.loads(analyze(tmp_path, "--json").stdout)
    memory = {"n": 100, "peak_mib": 26532, "avg_mib": 22458.63, "mode_mib": 26532}
    assert record["gpus"] == [{"index": 0, "uuid": "GPU-0", **memory}]
    assert (record["lines"], record["kept"], record["dropped"]) == (102, 100, {"error text": 1})


@pytest.mark.parametrize("command", ["analyze_memory", "job_summary"])
def test_the_commands_that_jobs_run_import_no_pandas(command):
    code = f"import sys, {command}; sys.exit(any(m in sys.modules for m in ('pandas', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS).returncode == 0
