"""scaling.read.cpu_log: psrecord's log."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from run_folders import CPU_HEADER, cpu_log
from scaling.read.cpu_log import CpuLog, format_cpu, read_cpu_log

ROWS = """\
       0.000        0.000      309.125     1200.000
       5.011      180.500     4312.375     9000.000
      10.020      200.100     4100.000     9000.000
"""
quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: str | bytes) -> CpuLog:
    path = tmp_path / "cpu_memory_log.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    log = read_cpu_log(path)
    assert log.counts.is_whole
    return log


def test_peak_samples_and_mean_without_the_first_sample(tmp_path):
    log = read(tmp_path, f"{CPU_HEADER}\n{ROWS}")
    assert (float(log.peak_mib), log.counts.kept) == (4312.375, 3)
    assert log.mean_cpu_pct == pytest.approx((180.5 + 200.1) / 2)  # 0.000 is not a measurement
    assert (log.covered_s, log.interval_s) == (pytest.approx(10.02), 5.0)
    assert format_cpu(log) == "[cpu_memory_log] Peak = 4312.4 MiB, CPU mean = 190.3 %"


def test_one_sample_has_a_peak_and_no_mean(tmp_path):
    log = read(tmp_path, cpu_log([309.125]))
    assert (float(log.peak_mib), log.mean_cpu_pct) == (309.125, None)
    assert format_cpu(log) == "[cpu_memory_log] Peak = 309.1 MiB, CPU mean = —"


SAME_LOG = {
    "plain": f"{CPU_HEADER}\n{ROWS}",
    "CRLF": f"{CPU_HEADER}\n{ROWS}".replace("\n", "\r\n"),
    "blank lines": f"\n{CPU_HEADER}\n\n{ROWS}\n",
    "--log-format csv": "elapsed_time,nproc,cpu,mem_real,mem_virtual\n0.0,1,0.0,309.125,1200.0\n"
    "5.0,3,180.5,4312.375,9000.0\n10.0,3,200.1,4100.0,9000.0\n",
    "--include-io": f"{CPU_HEADER}  Read count   Write count   Read bytes   Write bytes \n"
    + ROWS.replace("\n", "            1            2            3            4\n"),
    "--log-format csv --include-io": "elapsed_time,nproc,cpu,mem_real,mem_virtual,read_count,"
    "write_count,read_bytes,write_bytes\n0.0,1,0.0,309.125,1200.0,1,2,3,4\n"
    "5.0,3,180.5,4312.375,9000.0,1,2,3,4\n10.0,3,200.1,4100.0,9000.0,1,2,3,4\n",
    "srun --label": f"0: {CPU_HEADER}\n" + "".join(f"0: {row}\n" for row in ROWS.splitlines()),
    "stray rows": f"{CPU_HEADER}\n{ROWS}   nan   nan   nan   nan\n1 2\n-5 -5 -5 -5\nhello\n",
    "NUL bytes": f"{CPU_HEADER}\n{ROWS}\0\0\0\0    15.0    1.0    9999.0    9.0\n",
    "UTF-16": f"{CPU_HEADER}\n{ROWS}".encode("utf-16"),
    "one row cut by a full disk": f"{CPU_HEADER}\n{ROWS}      15.000      190.000     9\n",
    "the last row cut": f"{CPU_HEADER}\n{ROWS}      15.000      190.300     9999.000     9000.0",
    "a row that is none": f"{CPU_HEADER}\nTraceback: a, b\n{ROWS}nan nan nan nan\n",
}


@pytest.mark.parametrize("content", SAME_LOG.values(), ids=SAME_LOG)
def test_one_log_in_many_forms(tmp_path, content):
    log = read(tmp_path, content)
    assert (float(log.peak_mib), log.counts.kept) == (4312.375, 3)
    assert log.mean_cpu_pct == pytest.approx(190.3)


def test_a_clock_that_stands_still_or_goes_back_covers_no_time(tmp_path):
    rows = [(0, 0.0), (5, 1.0), (5, 2.0), (5, 3.0), (2, 4.0), (7, 5.0)]
    text = "".join(f"{elapsed_s} {cpu} 10.0 20.0\n" for elapsed_s, cpu in rows)
    log = read(tmp_path, f"{CPU_HEADER}\n{text}")
    assert (log.counts.kept, log.covered_s, log.interval_s) == (6, 10.0, 5.0)
    assert log.mean_cpu_pct == 3.0


def test_cpu_over_100_percent_is_several_cores(tmp_path):
    log = read(tmp_path, f"{CPU_HEADER}\n0 0 10 20\n5 1600.5 10 20\n10 3200.5 10 20\n")
    assert log.mean_cpu_pct == 2400.5


def test_the_first_sample_of_each_log_in_a_file_is_no_cpu_figure(tmp_path):
    once = f"{CPU_HEADER}\n0 0 10 20\n5 100 10 20\n"
    log = read(tmp_path, once + once)
    assert (log.counts.kept, log.mean_cpu_pct) == (4, 100.0)
    assert log.counts.ignored == {"header": 1, "repeated header": 1}


def test_columns_hold_what_was_logged(tmp_path):
    log = read(tmp_path, SAME_LOG["--include-io"])
    found = {name: (c.n, float(c.max), c.unit) for name, c in log.columns.items()}
    assert found["rss_mib"] == (3, 4312.375, "MiB")
    assert found["cpu_pct"] == (2, 200.1, "%")
    assert found["read_bytes"] == (3, 3.0, "B")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it is empty"),
        (CPU_HEADER + "\n", "it is empty"),
        (CPU_HEADER, "no sample in it (1 cut: the last line has no end)"),
    ],
)
def test_a_log_without_a_sample_says_why(tmp_path, content, problem):
    log = read(tmp_path, content)
    assert (log.peak_mib, log.problem, format_cpu(log)) == (None, problem, "")


REFUSED = {
    "another program's": "timestamp, index\n1, 2\n",
    "figures alone": "1.0 2.0 3.0 4.0\n",
    "binary": b"\xff\0\n",
    "no header": ROWS,
    "three columns": "# Elapsed time   CPU (%)     Real (MB)\n0.000 0.0 309.125\n",
    "a time before the header": f"Nov 21 10:00:00 {CPU_HEADER}\nNov 21 10:00:00 {ROWS}",
    "csv with a time": "timestamp,elapsed_time,nproc,cpu,mem_real,mem_virtual\n",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_text_that_is_no_psrecord_log_is_refused_by_name(tmp_path, content):
    with pytest.raises(UserError, match=r"cpu_memory_log\.txt: not a psrecord log") as caught:
        read(tmp_path, content)
    assert "log with `psrecord PID --include-children --interval 5" in str(caught.value)


def test_rows_with_a_time_before_them_have_another_number_of_columns(tmp_path):
    log = read(tmp_path, f"{CPU_HEADER}\n2026-11-21T10:00:00Z {ROWS}")
    assert log.counts.dropped == {"another number of columns": 1}


def test_samples(tmp_path):
    path = tmp_path / "cpu_memory_log.txt"
    path.write_text(f"{CPU_HEADER}\n{ROWS}")
    found = read_cpu_log(path, samples=True).samples
    assert math.isnan(found["cpu_pct"].pop(0))
    assert {name: list(values) for name, values in found.items()} == {
        "elapsed_s": [0.0, 5.011, 10.02],
        "cpu_pct": [180.5, 200.1],
        "rss_mib": [309.125, 4312.375, 4100.0],
        "virtual_mib": [1200.0, 9000.0, 9000.0],
    }
    assert read_cpu_log(path).samples is None


@pytest.mark.parametrize("name", ["CRLF", "--log-format csv", "srun --label", "UTF-16"])
def test_each_form_cut_at_any_byte_gives_the_values_of_the_whole_rows(tmp_path, name):
    content = SAME_LOG[name]

    def try_to_read(data: bytes) -> tuple | None:
        try:
            log = read(tmp_path, data)
        except UserError:
            return None
        return (log.counts.kept, log.peak_mib, log.mean_cpu_pct) if log.counts.kept else None

    data = content if isinstance(content, bytes) else content.encode()
    for size in range(len(data) + 1):
        cut = data[:size]
        end = max(cut.rfind(b"\n"), cut.rfind(b"\r")) + 1
        end += end and data.startswith(b"\xff\xfe")  # an end of line is two bytes there
        assert try_to_read(cut) == try_to_read(data[: min(end, size)]), cut


@quick
@given(st.lists(st.one_of(st.sampled_from([CPU_HEADER, "1 2 3 4", "1,2"]), st.text()), max_size=8))
def test_any_text_gives_values_or_our_own_error(tmp_path, lines):
    try:
        log = read(tmp_path, "\n".join(lines).encode("utf-8", "surrogatepass"))
    except UserError as error:
        assert "cpu_memory_log.txt" in str(error)
    else:
        assert bool(log.counts.kept) == (log.problem is None)


def test_the_real_psrecord_is_read(tmp_path):
    path = tmp_path / "cpu_memory_log.txt"
    options = ["--include-children", "--interval", "0.1", "--duration", "0.35", "--log", str(path)]
    psrecord = Path(sys.executable).parent / "psrecord"
    subprocess.run([psrecord, str(os.getpid()), *options], check=True, capture_output=True)
    log = read_cpu_log(path)
    assert 2 <= log.counts.kept <= 5
    assert 10 < log.peak_mib < 10_000  # this test's own process
    assert log.counts.dropped == {}
