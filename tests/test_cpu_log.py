"""scaling.cpu_log: psrecord's log."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folders import CPU_HEADER, cpu_log
from scaling.cpu_log import CpuLog, format_cpu, read_cpu_log
from scaling.errors import ScalingError

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
    assert log.lines == log.samples + sum(log.dropped.values()) + sum(log.ignored.values())
    return log


def test_peak_samples_and_mean_without_the_first_sample(tmp_path):
    log = read(tmp_path, f"{CPU_HEADER}\n{ROWS}")
    assert (log.peak_mib, log.samples) == (4312.375, 3)
    assert log.mean_cpu_pct == pytest.approx((180.5 + 200.1) / 2)  # 0.000 is not a measurement
    assert (log.covered_s, log.interval_s) == (pytest.approx(10.02), 5.0)
    assert format_cpu(log) == "[cpu_memory_log] Peak = 4312.4 MiB, CPU mean = 190.3 %"


def test_one_sample_has_a_peak_and_no_mean(tmp_path):
    log = read(tmp_path, cpu_log([309.125]))
    assert (log.peak_mib, log.mean_cpu_pct) == (309.125, None)
    assert format_cpu(log) == "[cpu_memory_log] Peak = 309.1 MiB, CPU mean = —"


SAME_LOG = {
    "plain": f"{CPU_HEADER}\n{ROWS}",
    "CRLF": f"{CPU_HEADER}\n{ROWS}".replace("\n", "\r\n"),
    "blank lines": f"\n{CPU_HEADER}\n\n{ROWS}\n",
    "--log-format csv": "elapsed_time,nproc,cpu,mem_real,mem_virtual\n0.0,1,0.0,309.125,1200.0\n"
    "5.0,3,180.5,4312.375,9000.0\n10.0,3,200.1,4100.0,9000.0\n",
    "--include-io": f"{CPU_HEADER}  Read count   Write count   Read bytes   Write bytes \n"
    + ROWS.replace("\n", "            1            2            3            4\n"),
    "one row cut by a full disk": f"{CPU_HEADER}\n{ROWS}      15.000      190.000     9\n",
    "the last row cut": f"{CPU_HEADER}\n{ROWS}      15.000      190.300     9999.000     9000.0",
    "a row that is none": f"{CPU_HEADER}\nTraceback: a, b\n{ROWS}nan nan nan nan\n",
}


@pytest.mark.parametrize("content", SAME_LOG.values(), ids=SAME_LOG)
def test_one_log_in_many_forms(tmp_path, content):
    log = read(tmp_path, content)
    assert (log.peak_mib, log.samples) == (4312.375, 3)
    assert log.mean_cpu_pct == pytest.approx(190.3)


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


@pytest.mark.parametrize("content", ["timestamp, index\n1, 2\n", "1.0 2.0 3.0 4.0\n", b"\xff\n"])
def test_text_that_is_no_psrecord_log_is_refused_by_name(tmp_path, content):
    with pytest.raises(ScalingError, match=r"cpu_memory_log\.txt: not a psrecord log"):
        read(tmp_path, content)


def test_cut_at_any_byte_it_gives_the_values_of_the_whole_rows(tmp_path):
    peaks = [None, 309.125, 4312.375, 4312.375]
    text = f"{CPU_HEADER}\n{ROWS}"
    for size in range(len(text) + 1):
        whole = max(text[:size].count("\n") - 1, 0)
        log = read(tmp_path, text[:size])
        assert (log.samples, log.peak_mib) == (whole, peaks[whole])


@quick
@given(st.lists(st.one_of(st.sampled_from([CPU_HEADER, "1 2 3 4", "1,2"]), st.text()), max_size=8))
def test_any_text_gives_values_or_our_own_error(tmp_path, lines):
    try:
        log = read(tmp_path, "\n".join(lines).encode("utf-8", "surrogatepass"))
    except ScalingError as error:
        assert "cpu_memory_log.txt" in str(error)
    else:
        assert bool(log.samples) == (log.problem is None)


def test_the_real_psrecord_is_read(tmp_path):
    path = tmp_path / "cpu_memory_log.txt"
    options = ["--include-children", "--interval", "0.1", "--duration", "0.35", "--log", str(path)]
    psrecord = Path(sys.executable).parent / "psrecord"
    subprocess.run([psrecord, str(os.getpid()), *options], check=True, capture_output=True)
    log = read_cpu_log(path)
    assert 2 <= log.samples <= 5
    assert 10 < log.peak_mib < 10_000  # this test's own process
    assert log.dropped == {}
