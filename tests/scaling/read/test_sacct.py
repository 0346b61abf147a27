"""scaling.read.sacct: how Slurm's accounting says that each job ended."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from scaling.read.causes import State
from scaling.read.sacct import (
    SacctLog,
    parse_duration,
    parse_job_id,
    parse_memory,
    parse_state,
    read_sacct,
)

quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(tmp_path: Path, text: str) -> SacctLog:
    log = read_sacct(write(tmp_path / "sacct.txt", text))
    assert log.counts.is_whole
    return log


DEFAULT = """\
JobID           JobName  Partition    Account  AllocCPUS      State ExitCode
------------ ---------- ---------- ---------- ---------- ---------- --------
3764934        mem_test       test   rc_admin          1 OUT_OF_ME+    0:125
3764934.bat+      batch              rc_admin          1 OUT_OF_ME+    0:125
3764934.ext+     extern              rc_admin          1  COMPLETED      0:0
12             ddp_1g1n        gpu        lab          4    TIMEOUT      0:0
12.batch          batch                   lab          4  CANCELLED     0:15
12.0             python                   lab          4 CANCELLED+     0:15
13             ddp_2g1n        gpu        lab          8 CANCELLED+      0:0
17775914_[0+   ddp_4g1n        gpu        lab          1    PENDING      0:0
14             ddp_8g1n        gpu        lab          8   NODE_FAIL      1:0
"""
PARSABLE = """\
JobID|JobName|State|ExitCode|Elapsed|MaxRSS|
12|ddp_1g1n|CANCELLED by 1000|0:0|1-02:03:04||
12.batch|batch|CANCELLED|0:15|00:30:01|1196K|
13|a|COMPLETED|0:0|12:03.5||
13.0|train|OUT_OF_MEMORY|0:125|12:03|4.5G|
14|b|COMPLETED|0:0|00:01:33||
"""


def test_the_parsable_form(tmp_path):
    log = read(tmp_path, PARSABLE)
    assert [(job.id, job.state) for job in log.jobs] == [
        ("12", State.CANCELLED),
        ("13", State.OUT_OF_MEMORY),  # a step was killed, though the job says COMPLETED
        ("14", State.COMPLETE),
    ]
    assert log.newest["12"].measures == {
        "Elapsed": (93784.0, "s"),
        "MaxRSS": (1.16796875, "MiB"),  # its step's
    }
    found = {name: (column.n, column.max, column.unit) for name, column in log.columns.items()}
    assert found["MaxRSS"] == (2, 4608.0, "MiB")


def test_memory_and_gpu_use_come_from_the_steps(tmp_path):
    log = read(
        tmp_path,
        "JobID|State|MaxRSS|TRESUsageInMax\n12|COMPLETED||\n"
        "12.batch|COMPLETED|1024K|cpu=00:00:01,mem=1024K\n"
        "12.0|COMPLETED|2G|cpu=00:30:00,gres/gpumem=26532M,gres/gpuutil=97,mem=2G\n",
    )
    assert log.newest["12"].measures == {
        "MaxRSS": (2048.0, "MiB"),
        "TRESUsageInMax gpumem": (26532.0, "MiB"),
        "TRESUsageInMax gpuutil": (97, "%"),
    }


def test_the_steps_of_json_say_the_same(tmp_path):
    most = [
        {"type": "mem", "name": "", "count": 2 << 30},
        {"type": "gres", "name": "gpuutil", "count": 97},
        {"type": "gres", "name": "gpumem", "count": {"set": True, "number": 26532 << 20}},
        {"type": "cpu", "name": "", "count": 5}, "rubbish",
    ]  # fmt: skip
    step = {"step": {"id": "12.0"}, "state": ["COMPLETED"], "tres": {"requested": {"max": most}}}
    job = {"job_id": 12, "state": {"current": ["COMPLETED"]}, "steps": [step]}
    log = read(tmp_path, json.dumps({"jobs": [job]}))
    assert log.newest["12"].measures == {
        "MaxRSS": (2048.0, "MiB"),
        "TRESUsageInMax gpumem": (26532.0, "MiB"),
        "TRESUsageInMax gpuutil": (97, "%"),
    }


def test_fields_that_its_command_does_not_ask_for_are_no_measures(tmp_path):
    log = read(tmp_path, "JobID|State|CPUTime|AveRSS|ReqMem\n12|COMPLETED|00:01:00|5M|4Gn\n")
    assert (log.newest["12"].measures, log.columns) == ({}, {})


FORMS = {
    "--parsable2": PARSABLE.replace("|\n", "\n"),
    "a prompt above": "$ sacct -j 12,13,14 -p\n" + PARSABLE,
    "called twice": PARSABLE + PARSABLE.split("\n", 1)[0] + "\n",
    "CRLF": PARSABLE.replace("\n", "\r\n"),
    "other order": "State|JobID|\nCANCELLED|12|\nCOMPLETED|13|\nOUT_OF_MEMORY|13.0|\n"
    "COMPLETED|14|\n",
    "JobIDRaw": "JobIDRaw|State\n12|CANCELLED\n13|COMPLETED\n13.0|OUT_OF_MEMORY\n14|COMPLETED\n",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_one_output_in_many_forms(tmp_path, text):
    assert [(job.id, job.state) for job in read(tmp_path, text).jobs] == [
        ("12", State.CANCELLED),
        ("13", State.OUT_OF_MEMORY),
        ("14", State.COMPLETE),
    ]


def test_each_attempt_of_a_requeued_job_is_one(tmp_path):
    log = read(
        tmp_path, "JobID|State\n12|NODE_FAIL\n12.0|CANCELLED\n12|COMPLETED\n12.0|COMPLETED\n"
    )
    assert [job.state for job in log.jobs] == [State.FAILED, State.COMPLETE]
    assert log.newest["12"].state is State.COMPLETE


DAMAGED = [
    ("12|COMPLETED|x", "another number of fields"),
    ("x12|COMPLETED", "no job id"),
    ("12345+|COMPLETED", "no job id"),
    ("12|EXPLODED", "state not known"),
    ("12|CANCELLED+", "state not known"),
    ("|", "no job id"),
]


@pytest.mark.parametrize(("row", "reason"), DAMAGED)
def test_a_damaged_row_is_dropped_and_named(tmp_path, row, reason):
    log = read(tmp_path, f"JobID|State\n11|COMPLETED\n{row}\n")
    assert ([job.id for job in log.jobs], log.counts.dropped) == (["11"], {reason: 1})


def test_cut_at_any_byte_it_gives_the_jobs_of_the_whole_lines(tmp_path):
    text = PARSABLE
    for size in range(text.index("\n") + 1, len(text) + 1):
        whole = read(tmp_path, text[: text.rfind("\n", 0, size) + 1])
        log = read(tmp_path, text[:size])
        assert [(j.id, j.slurm_state, j.steps) for j in log.jobs] == [
            (j.id, j.slurm_state, j.steps) for j in whole.jobs
        ]


REFUSED = {
    "empty": "",
    "text": "hello\n",
    "squeue": "JOBID STATE\n1 R\n",
    "the default table": DEFAULT,
    "another delimiter": PARSABLE.replace("|", ";"),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_another_form_is_refused_with_the_command_to_use(tmp_path, text):
    with pytest.raises(
        UserError, match=r"sacct\.txt: not the output of sacct --parsable2"
    ) as caught:
        read(tmp_path, text)
    assert "`sacct --parsable2 --jobs=JOBID --format=JobID,JobName,State" in str(caught.value)


JSON_JOB = {
    "job_id": 12,
    "name": "ddp_1g1n",
    "state": {"current": ["FAILED"]},
    "exit_code": {"return_code": {"set": True, "number": 1}, "signal": {"id": {"set": False}}},
    "time": {"elapsed": 93},
    "steps": [{"step": {"id": "12.batch"}, "state": ["OUT_OF_MEMORY"]}],
}


def test_the_json_form(tmp_path):
    log = read(tmp_path, json.dumps({"jobs": [JSON_JOB]}, indent=1))
    (job,) = log.jobs
    assert (job.id, job.name, job.slurm_state, job.state) == (
        "12", "ddp_1g1n", "FAILED", State.OUT_OF_MEMORY,
    )  # fmt: skip
    assert (job.exit_status, job.signal, job.steps) == (1, 0, {"batch": "OUT_OF_MEMORY"})
    assert log.columns["Elapsed"].max == 93
    older = JSON_JOB | {"state": {"current": "COMPLETED"}, "exit_code": {"return_code": 0}}
    older["steps"] = [{"step": {"id": {"job_id": 12, "step_id": "0"}}, "state": "COMPLETED"}]
    (job,) = read(tmp_path, json.dumps({"jobs": [older]})).jobs
    assert (job.state, job.exit_status, job.steps) == (State.COMPLETE, 0, {"0": "COMPLETED"})
    with pytest.raises(UserError, match="it has no list of jobs"):
        read(tmp_path, "{}")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path, '{"jobs": [')


IDS = [
    ("12", ("12", "")), ("12.batch", ("12", "batch")), ("12.bat+", None), ("12.0", ("12", "0")),
    ("12_3", ("12_3", "")),
    ("12_[1-10%2]", ("12_[1-10%2]", "")), ("12_3.extern", ("12_3", "extern")),
    ("12+1.0", ("12+1", "0")), ("12.x+", None), ("12+", None), ("12_[0+", None),
    ("", None), ("job", None), ("12.", None),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "expected"), IDS)
def test_job_ids(cell, expected):
    assert parse_job_id(cell) == expected


FIELDS = [
    (parse_duration, "00:01:33", 93.0), (parse_duration, "12:03.5", 723.5),
    (parse_duration, "2-00:00:01", 172801.0), (parse_duration, "5", None),
    (parse_duration, "UNLIMITED", None), (parse_duration, "", None),
    (parse_memory, "1196K", 1.16796875), (parse_memory, "1048576", 1.0),
    (parse_memory, "0", 0.0), (parse_memory, "4Gn", None), (parse_memory, "", None),
    (parse_state, "CANCELLED by 1000", "CANCELLED"), (parse_state, "OUT_OF_ME+", None),
    (parse_state, "completed", "COMPLETED"), (parse_state, "", None), (parse_state, "+", None),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "cell", "expected"), FIELDS)
def test_fields(parse, cell, expected):
    assert parse(cell) == expected


@quick
@given(
    st.lists(
        st.sampled_from([*DEFAULT.splitlines(), *PARSABLE.splitlines(), "|", "x", ""]), max_size=9
    )
)
def test_any_lines_are_jobs_or_our_own_error(tmp_path, lines):
    try:
        read(tmp_path, "\n".join(lines))
    except UserError as error:
        assert "sacct.txt" in str(error)
