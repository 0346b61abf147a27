"""inspect_log.py: what any file is, by its content, and what was read from it."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import inspect_log as command
from common.errors import UserError
from run_folders import CPU_HEADER, EPOCH_LINE, GPU_HEADER, epoch_line, gpu_csv, gpu_row, out_text
from scaling.runs.inspection import Inspection, format_inspection, inspect_log

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def look(tmp_path: Path, content: str | bytes, name: str = "some.file") -> Inspection:
    found = inspect_log(write(tmp_path / name, content))
    assert found.counts.is_whole, found
    json.dumps(found.to_record(), allow_nan=False)
    return found


def column(found: Inspection, name: str) -> tuple:
    described = found.columns[name]
    return described["n"], described["mean"], described["max"], described["unit"]


PSRECORD = f"{CPU_HEADER}\n0.000 0.0 300.5 900.0\n5.0 180.0 400.5 900.0\n10.0 220.0 350.5 900.0\n"
SACCT = "JobID|JobName|State|ExitCode|Elapsed\n12|ddp_1g1n|COMPLETED|0:0|00:01:33\n"
RANK = {"training_time": 45.5, "tokens_per_sec": 2800.0, "validation_loss": 5.1, "bleu": 3.2}
METRICS = {
    "schema_version": "2.0",
    "hardware": {"gpu_count_visible": 4, "world_size": 8},
    "training_config": {"epochs": 2},
    "epochs": [
        {"epoch_idx": 1, "epoch_wall_time_sec": 80.0, "tokens_per_sec_global": 29000.0},
        {"epoch_idx": 2, "epoch_wall_time_sec": 70.0, "tokens_per_sec_global": 31000.0},
    ],
    "summary": {"total_wall_time_sec": 155.0, "mean_tokens_per_sec_global": 30000.0},
}
KINDS = {
    "slurm-out": out_text(),
    "gpu-csv": gpu_csv({0: [1, 2], 1: [3, 4]}),
    "psrecord": PSRECORD,
    "rank-json": json.dumps(RANK | {"rank": 1, "epoch": 0}),
    "training-metrics": json.dumps(METRICS),
    "sacct": SACCT,
    "sacct --json": json.dumps({"jobs": [{"job_id": 12, "state": "TIMEOUT", "steps": []}]}),
    "run-json": json.dumps({"run_id": "12", "workload": "gpt2", "nodes": 1, "world_size": 2}),
    "job-end": '{"exit_status": 0, "elapsed_s": 93}',
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["some.file", "data.csv", "README"])
def test_the_kind_is_told_from_the_content(tmp_path, kind, name):
    if kind == "rank-json":
        assert look(tmp_path, KINDS[kind], name).ranks == [1]
    found = look(tmp_path, KINDS[kind], name)
    assert (found.kind, found.reason) == (kind.split()[0], "")
    assert found.counts.kept > 0


NOT_RECOGNISED = [
    ("", "it is empty"),
    ("\n \n", "it has blank lines only"),
    ("hello\n", 'text without a line of a kind known here; it begins "hello"'),
    ("a,b\n1,2\n", 'a CSV of another kind: "a,b"'),
    (b"\x1f\x8b\x08\x00", "gzip data: unpack it first"),
    (b"PK\x03\x04" + bytes(30), "of an .xlsx workbook save the sheet as CSV"),
    (bytes(range(128, 256)) * 9 + b"\n", "binary data"),
    ("[1, 2]", "JSON, but no object"),
    ('{"colour": "red"}', "JSON with the fields colour"),
    ('{"colo', "JSON that breaks off before its first whole field"),
    ('{"colour": "red", "x', "JSON that breaks off, with the fields colour"),
    ('{"colour": 12', "JSON that breaks off before its first whole field"),
    ("# gpu   pwr gtemp mtemp    sm\n# Idx     W     C     C     %\n    0    43    35\n", "dmon"),
    ("# gpu        pid  type    sm   mem\n# Idx          #   C/G     %     %\n", "pmon"),
    ("| NVIDIA-SMI 550.54.15     Driver Version: 550.54.15 |\n", "nvidia-smi's screen"),
    ("===== ROCm System Management Interface =====\nGPU[0] : VRAM Total (B): 5\n", "rocm-smi"),
    ("#Time        gpu   pwr\n#HH:MM:SS    Idx     W\n", "dmon's or pmon's table: log with"),
    ("# gpu, pwr, gtemp\n0, 43, 35\n", "dmon's or pmon's table: log with `nvidia-smi --query"),
    ("#Entity   GPUTL  FBUSD\nID\nGPU 0     97     26532\n", "dcgmi dmon's table: log with"),
    (
        "n1  Sat Nov 21 10:00:05 2026  550.54\n"
        "[0] NVIDIA A100 | 45'C,  97 % | 26532 / 81559 MB |\n",
        "gpustat's screen: log with",
    ),
    ("GPU  POWER   GPU_T   MEM_T   GFX_CLK   GFX%\n  0  251 W   61 C\n", "amd-smi's screen: use"),
    (
        "Job ID: 12\nCluster: a\nState: COMPLETED (exit code 0)\n",
        "seff's report: give the output of `sacct --parsable2",
    ),
    ("No devices were found\n", 'only what a GPU tool said: "No devices were found"'),
    (f"#!/bin/bash\necho '{EPOCH_LINE}'\n", "a script"),
    (f"# Title\n```\n{EPOCH_LINE}\n```\n", "text without a line of a kind known here"),
]


@pytest.mark.parametrize(("content", "reason"), NOT_RECOGNISED, ids=[r for _, r in NOT_RECOGNISED])
def test_what_is_no_log_is_not_recognised_and_says_why(tmp_path, content, reason):
    found = look(tmp_path, content)
    assert found.kind == "not recognised"
    assert reason in found.reason
    assert (found.counts.kept, found.columns, found.gpus) == (0, {}, [])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("RUN_COMPLETE.txt", "2026-11-21T10:00:00Z\n", "the run is complete, 2026-11-21T10:00:00Z"),
        ("REQUEUE", "", "the run goes on later"),
        ("job_end.json", '{"exit_status": 0, "elapsed_s": 93}\n', "elapsed_s: n 1, mean 93 s"),
    ],
)
def test_the_projects_own_small_files_are_recognised(tmp_path, name, content, words):
    found = look(tmp_path, content, name)
    assert found.counts.is_whole and not found.reason
    assert words in "\n".join(format_inspection(found))


MISNAMED = [
    ("gpu_memory_log.csv", "psrecord"),
    ("gpu_memory_log_node1.csv", "sacct"),
    ("cpu_memory_log.txt", "gpu-csv"),
    ("rank0_results_epoch1.json", "training-metrics"),
    ("training_metrics.json", "rank-json"),
    ("ddp_1g1n_12.out", "gpu-csv"),
    ("slurm-12.out", "psrecord"),
    ("run.json", "job-end"),
]


@pytest.mark.parametrize(("name", "kind"), MISNAMED)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, kind):
    found = look(tmp_path, KINDS[kind], name)
    assert found.kind == kind
    assert found.reason.startswith("its name says ")
    assert found.reason.endswith(f"but it holds {kind}")
    assert (found.counts.kept, found.columns, found.gpus, found.ranks) == (0, {}, [], [])


def test_a_log_of_a_job_that_printed_nothing_of_ours_is_known_by_its_name(tmp_path):
    found = look(tmp_path, "Loading modules\nhello\n", "ddp_1g1n_12.out")
    assert (found.kind, found.counts.kept, found.counts.ignored) == (
        "slurm-out",
        0,
        {"other output": 2},
    )
    assert look(tmp_path, "Loading modules\nhello\n").kind == "not recognised"


# ---- What each kind gives ------------------------------------------------------------------


def test_gpu_csv(tmp_path):
    rows = [gpu_row(0, 0, 100), gpu_row(0, 1, 200), gpu_row(5, 0, 300), gpu_row(5, 1, "[N/A]")]
    found = look(tmp_path, "\n".join([GPU_HEADER, *rows, GPU_HEADER, "", ""]))
    assert (found.counts.lines, found.counts.kept, found.counts.dropped) == (7, 4, {})
    assert found.counts.ignored == {"header": 1, "repeated header": 1, "blank": 1}
    assert found.gpus == [0, 1]
    assert column(found, "memory.used") == (3, 200.0, 300, "MiB")
    assert column(found, "utilization.gpu") == (4, 97.0, 97, "%")  # the row without memory too
    assert column(found, "power.draw") == (4, 251.3, 251.3, "W")
    assert column(found, "temperature.gpu") == (4, 61.0, 61, "C")
    assert column(found, "clocks.current.sm") == (4, 1530.0, 1530, "MHz")
    assert "index" not in found.columns
    assert "clocks_throttle_reasons.active" not in found.columns
    assert found.details["memory"][0] == {
        "label": "GPU 0", "index": 0, "uuid": "GPU-0", "n": 2, "peak_mib": 300, "avg_mib": 200.0,
        "mode_mib": 100,
        "columns": found.details["memory"][0]["columns"],
    }  # fmt: skip
    (first, second) = found.details["memory"]
    assert first["columns"]["memory.used"]["mean"] == 200.0
    assert second["columns"]["memory.used"]["n"] == 1


def test_no_data_in_one_column_is_missing_there_alone(tmp_path):
    header = "index, memory.used [MiB], utilization.gpu [%], power.draw [W]"
    rows = "0, 10, 50 %, [N/A]\n0, 20, [Not Supported], [Unknown Error]\n0, 30, 70, 5.5 W\n"
    found = look(tmp_path, f"{header}\n{rows}")
    assert found.counts.kept == 3
    assert column(found, "memory.used") == (3, 20.0, 30, "MiB")
    assert column(found, "utilization.gpu") == (2, 60.0, 70, "%")
    assert column(found, "power.draw") == (1, 5.5, 5.5, "W")
    assert found.columns["power.draw"]["no_data"] == 2


def test_a_row_without_any_figure_is_dropped(tmp_path):
    header = "index, memory.used [MiB], memory.total [MiB], power.draw [W]"
    found = look(tmp_path, f"{header}\n0, 10, 99, 5\n0, [N/A], 99, [N/A]\n0, [N/A], 99, 7\n")
    assert (found.counts.kept, found.counts.dropped) == (2, {"no data": 1})
    assert column(found, "power.draw") == (2, 6.0, 7, "W")
    assert found.details["memory"][0]["n"] == 1


def test_a_gpu_log_without_memory_has_its_other_columns(tmp_path):
    found = look(
        tmp_path, "index, temperature.gpu, utilization.gpu [%]\n0, 61, 97 %\n0, [N/A], [N/A]\n"
    )
    assert (found.kind, found.counts.kept, found.counts.dropped) == ("gpu-csv", 1, {"no data": 1})
    assert column(found, "utilization.gpu") == (1, 97.0, 97, "%")
    assert (found.gpus, found.details["memory"][0]["n"]) == ([0], 0)


def test_gpus_that_cannot_be_told_apart_are_said_to_be(tmp_path):
    found = look(tmp_path, "memory.used [MiB]\n10 MiB\n100 MiB\n")
    assert (found.kind, found.gpus, found.columns) == ("gpu-csv", [], {})
    assert found.reason.startswith("its GPUs cannot be told apart: it has no column index or uuid")


def test_an_idle_gpu_does_not_hide_in_a_mean_of_all(tmp_path):
    rows = "0, 91 %, 25000 MiB\n1, 0 %, 15 MiB\n" * 3
    found = look(tmp_path, f"index, utilization.gpu [%], memory.used [MiB]\n{rows}")
    assert [line for line in format_inspection(found) if "GPU " in line] == [
        "  GPU 0: mean utilization.gpu 91 %, memory.used 25000 MiB",
        "  GPU 1: mean utilization.gpu 0 %, memory.used 15 MiB",
    ]


def test_psrecord(tmp_path):
    found = look(tmp_path, PSRECORD)
    assert (found.counts.lines, found.counts.kept, found.counts.ignored) == (4, 3, {"header": 1})
    assert column(found, "cpu_pct") == (2, 200.0, 220.0, "%")  # the first sample is none
    assert column(found, "rss_mib") == (3, 350.5, 400.5, "MiB")
    assert column(found, "elapsed_s") == (3, 5.0, 10.0, "s")


def test_slurm_out(tmp_path):
    lines = [
        "node1:12:12 [0] NCCL INFO Bootstrap : Using ib0:10.0.0.1<0>",
        "srun: job 12 queued and waiting for resources",
        "",
        epoch_line(1, throughput=700.0),
        "Epoch [2/3] LR: 0.0010node2: hello",
        epoch_line(3, throughput=800.0),
        " 50%|#####     | 1/2",
        "Total training time: 93.1 s",
        "Traceback (most recent call last):",
        '  File "train.py", line 1',
        "KeyError: 'x'",
    ]
    found = look(tmp_path, "\n".join(lines) + "\n")
    assert (found.counts.lines, found.counts.kept) == (11, 3)
    assert found.counts.dropped == {"an epoch line that is cut or has other output in it": 1}
    assert found.counts.ignored == {"NCCL": 1, "blank": 1, "other output": 5}
    assert column(found, "throughput_per_s") == (2, 750.0, 800.0, "img/s")
    (attempt,) = found.details["attempts"]
    assert (attempt["epochs"], attempt["of_epochs"], attempt["total_training_s"]) == (
        [1, 3],
        3,
        93.1,
    )
    assert found.details["cause"]["text"] == "KeyError: 'x'"
    assert found.details["cause"]["line"] == 11


def test_a_whole_log_has_no_cause_in_what_processes_say_as_they_part(tmp_path):
    last_words = "[c10d] recvValueWithTimeout failed: Failed to recv, got 0 bytes\n"
    assert look(tmp_path, out_text() + last_words).details["cause"] is None
    assert look(tmp_path, out_text(2) + last_words).details["cause"]["line"] == 4
    assert look(tmp_path, out_text() + "error: cannot write\n").details["cause"]["line"] == 8


def test_a_line_that_was_written_into_another_is_counted(tmp_path):
    inner, outer = epoch_line(1), epoch_line(2)
    found = look(tmp_path, f"{outer[:2]}{inner}\n{outer[2:]}\n{outer[:50]}\n{outer[50:]}\n")
    assert (found.counts.kept, sum(found.counts.dropped.values()), found.counts.ignored) == (
        1,
        3,
        {},
    )


def test_of_labelled_ranks_the_lowest_counts(tmp_path):
    lines = [
        f"{rank}: {epoch_line(e, throughput=100.0 * (rank + 1))}"
        for e in (1, 2, 3)
        for rank in (2, 1)
    ]
    found = look(tmp_path, "\n".join(lines) + "\n")
    assert found.ranks == [1, 2]
    assert (found.counts.kept, found.counts.ignored) == (3, {"line of another rank": 3})
    assert column(found, "throughput_per_s") == (3, 200.0, 200.0, "img/s")


def test_unlabelled_processes_with_other_figures_are_not_averaged_in_silence(tmp_path):
    lines = [epoch_line(e, throughput=100.0 * r) for e in (1, 2, 3) for r in (1, 2)]
    found = look(tmp_path, "\n".join(lines) + "\n")
    assert "which is the job's is not known" in found.reason


def test_rank_json_takes_rank_and_epoch_from_its_name(tmp_path):
    found = look(tmp_path, json.dumps(RANK), "rank3_results_epoch2.json")
    assert (found.ranks, found.details["epoch"], found.reason) == ([3], 2, "")
    assert column(found, "training_time") == (1, 45.5, 45.5, "s")
    assert column(found, "tokens_per_sec") == (1, 2800.0, 2800.0, "tokens/s")
    assert column(found, "bleu") == (1, 3.2, 3.2, "")


def test_rank_json_that_contradicts_its_name_is_refused(tmp_path):
    found = look(tmp_path, json.dumps(RANK | {"rank": 1, "epoch": 2}), "rank3_results_epoch2.json")
    assert found.reason == "cannot be used: its name says rank 3, it says 1"
    assert found.columns == {}


def test_training_metrics(tmp_path):
    found = look(tmp_path, json.dumps(METRICS, indent=1))
    assert found.details["world_size"] == 8  # not the 4 visible GPUs
    assert column(found, "tokens_per_sec_global") == (2, 30000.0, 31000.0, "tokens/s")
    assert column(found, "epoch_wall_time_sec") == (2, 75.0, 80.0, "s")


NOT_FINITE = {
    "run-json": '{"run_id": "12", "world_size": NaN, "nodes": Infinity, "workload": [NaN]}',
    "training-metrics": '{"epochs": [], "summary": {"best_val_loss": NaN}, "run_id": NaN}',
    "rank-json": '{"rank": 0, "epoch": 0, "training_time": 1.0, "tokens_per_sec": Infinity}',
    "psrecord": f"{CPU_HEADER}\n0 0 1e308 1\n1e308 1e308 1e308 1\n0 1e308 1 1\n1e308 1 1 1\n",
}


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_figures_that_are_not_finite_are_null(tmp_path, kind):
    assert look(tmp_path, NOT_FINITE[kind]).kind == kind


def test_json_that_breaks_off_gives_its_whole_fields(tmp_path):
    text = json.dumps(METRICS, indent=1)
    for size in range(len(text)):
        found = look(tmp_path, text[:size])
        if found.kind == "training-metrics":
            assert found.reason
            figures = found.columns.get("tokens_per_sec_global", {"max": None})["max"]
            assert figures in (None, 29000.0, 31000.0)  # never 2900
            assert found.details["world_size"] in (None, 8)


# ---- Any file ------------------------------------------------------------------------------

PIECES = [
    *KINDS.values(), GPU_HEADER, CPU_HEADER, EPOCH_LINE, "{", "[", '"', "\r", "\0", "\x1b[1m",
    "0: ",
    "JobID State", "----- -----", "\ufeff", "NCCL INFO", "5, 5, 5", "1.0 2.0 3.0 4.0",
]  # fmt: skip


@quick
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=30)), max_size=8),
    st.sampled_from(["\n", "", ","]),
    st.sampled_from(["x", "gpu_memory_log.csv", "rank0_results_epoch0.json", "a_1.out"]),
)
def test_any_file_is_of_a_kind_or_none_and_its_lines_add_up(tmp_path, pieces, between, name):
    text = between.join(pieces).encode("utf-8", "surrogatepass")
    try:
        look(tmp_path, text, name)
    except UserError as error:
        assert name in str(error)


@quick
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_cut_file_never_has_a_larger_or_another_figure(tmp_path, kind, data):
    whole = KINDS[kind]
    size = data.draw(st.integers(0, len(whole)))
    full, cut = look(tmp_path, whole), look(tmp_path, whole[:size])
    for name, described in cut.columns.items():
        assert described["n"] <= full.columns[name]["n"]
        assert described["max"] <= full.columns[name]["max"]


@quick
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_damaged_file_is_read_or_refused_and_its_lines_add_up(tmp_path, kind, data):
    content = bytearray(KINDS[kind].encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content)))
        lost = data.draw(st.integers(0, 20))
        content[at : at + lost] = data.draw(st.binary(max_size=8))
    try:
        look(tmp_path, bytes(content), data.draw(st.sampled_from(["x", "gpu_memory_log.csv"])))
    except UserError as error:
        assert str(tmp_path) in str(error)


# ---- The command ---------------------------------------------------------------------------


def run(*arguments: object) -> SimpleNamespace:
    out, errors = io.StringIO(), io.StringIO()
    argv = ["inspect_log.py", *map(str, arguments)]
    with mock.patch("sys.argv", argv), redirect_stdout(out), redirect_stderr(errors):
        status = command.main()
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=errors.getvalue())


def test_command_prints_what_was_read(tmp_path):
    done = run(write(tmp_path / "log.txt", PSRECORD))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:3] == [
        f"{tmp_path / 'log.txt'}: psrecord",
        "  4 lines: 3 kept; ignored: 1 header",
        "  elapsed_s: n 3, mean 5 s, max 10 s",
    ]


def test_command_prints_json_of_each_file_and_fails_for_the_bad_one(tmp_path):
    good, bad = write(tmp_path / "a", SACCT), write(tmp_path / "b", "hello\n")
    done = run("--json", good, bad, tmp_path / "gone", tmp_path)
    assert done.returncode == 1
    records = json.loads(done.stdout)
    assert [record["kind"] for record in records] == ["sacct", "not recognised", None, None]
    assert records[0]["jobs"][0]["state"] == "complete"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error"] * 3


def test_command_imports_no_pandas():
    code = "import sys, inspect_log; sys.exit('pandas' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS).returncode == 0


def test_a_reader_that_goes_away_and_ctrl_c_end_it_without_a_traceback(tmp_path):
    log = tmp_path / "gpu.csv"
    log.write_text("index, memory.used [MiB]\n0, 5\n")
    many = "$(printf 'gpu.csv %.0s' {1..300})"  # their records are more than a pipe holds
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {SCRIPTS}/inspect_log.py --json {many} | head -1"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[\n", "")
    code = (
        "import signal, sys; from common.console import run_command\n"
        "run_command(lambda: signal.raise_signal(signal.SIGINT))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_time_below_0_is_no_data(tmp_path):
    path = tmp_path / "training_metrics.json"
    epochs = [{"epoch_idx": n, "epoch_wall_time_sec": s} for n, s in ((1, 10.0), (2, -1.0))]
    path.write_text(json.dumps({"schema_version": "2.0", "epochs": epochs}))
    column = inspect_log(path).columns["epoch_wall_time_sec"]
    assert (column["n"], column["mean"], column["no_data"]) == (1, 10.0, 1)
