"""scaling.read: what Slurm and other people's trainers write: sacct, metrics, rank files."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from scaling.read.json_prefix import read_prefix
from scaling.read.metrics_json import TrainingMetrics, read_training_metrics
from scaling.read.rank_json import read_rank_files, read_rank_record
from scaling.read.sacct import SacctLog, read_sacct
from scaling.read.sacct_fields import parse_duration, parse_job_id, parse_memory, parse_state
from scaling.read.state import State
from scaling.read.times import parse_timestamp

quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# ---- sacct ---------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> SacctLog:
    log = read_sacct(write(tmp_path / "sacct.txt", text))
    assert log.lines == log.kept + sum(log.dropped.values()) + sum(log.ignored.values())
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
JobID|JobName|State|ExitCode|Elapsed|MaxRSS|ReqMem|
12|ddp_1g1n|CANCELLED by 1000|0:0|1-02:03:04||100Mc|
12.batch|batch|CANCELLED|0:15|00:30:01|1196K||
13|a|COMPLETED|0:0|12:03.5||64G|
13.0|train|OUT_OF_MEMORY|0:125|12:03|4.5G||
14|b|COMPLETED|0:0|00:01:33||4Gn|
"""


def test_the_default_table(tmp_path):
    log = read(tmp_path, DEFAULT)
    found = {job.id: (job.state, job.slurm_state) for job in log.jobs}
    assert found == {
        "3764934": (State.OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        "12": (State.TIMED_OUT, "TIMEOUT"),  # though its steps were cancelled
        "13": (State.CANCELLED, "CANCELLED"),
        "14": (State.FAILED, "NODE_FAIL"),
    }
    assert log.find("12").steps == {"batch": "CANCELLED", "0": "CANCELLED"}
    assert log.find("3764934").steps == {"batch": "OUT_OF_MEMORY", "extern": "COMPLETED"}
    assert (log.find("14").exit_status, log.find("14").signal) == (1, 0)
    assert (log.kept, log.dropped) == (8, {"job id cut": 1})
    assert log.ignored == {"header": 1, "ruler": 1}


def test_the_parsable_form(tmp_path):
    log = read(tmp_path, PARSABLE)
    assert [(job.id, job.state) for job in log.jobs] == [
        ("12", State.CANCELLED),
        ("13", State.OUT_OF_MEMORY),  # a step was killed, though the job says COMPLETED
        ("14", State.COMPLETE),
    ]
    assert log.find("12").measures == {
        "Elapsed": (93784.0, "s"),
        "ReqMem": (100.0, "MiB per CPU"),
    }
    found = {column.name: (column.n, column.max, column.unit) for column in log.columns}
    assert found["MaxRSS"] == (2, 4608.0, "MiB")
    assert found["ReqMem"] == (1, 65536.0, "MiB")
    assert found["ReqMem (MiB per node)"] == (1, 4096.0, "MiB per node")


FORMS = {
    "--parsable2": PARSABLE.replace("|\n", "\n"),
    "--delimiter=;": PARSABLE.replace("|", ";"),
    "tabs": PARSABLE.replace("|", "\t"),
    "a prompt above": "$ sacct -j 12,13,14 -p\n" + PARSABLE,
    "called twice": PARSABLE + PARSABLE.split("\n", 1)[0] + "\n",
    "CRLF": PARSABLE.replace("\n", "\r\n"),
    "other order": "State|JobID|\nCANCELLED+|12|\nCOMPLETED|13|\nOUT_OF_ME+|13.0|\nCOMPLETED|14|\n",
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
    assert log.find("12").state is State.COMPLETE


DAMAGED = [
    ("12|COMPLETED|x", "another number of fields"),
    ("x12|COMPLETED", "no job id"),
    ("12345+|COMPLETED", "job id cut"),
    ("12|EXPLODED", "state not known"),
    ("12|RE+", "state not known"),  # REVOKED, REQUEUED, RESIZING
    ("|", "no job id"),
]


@pytest.mark.parametrize(("row", "reason"), DAMAGED)
def test_a_damaged_row_is_dropped_and_named(tmp_path, row, reason):
    log = read(tmp_path, f"JobID|State\n11|COMPLETED\n{row}\n")
    assert ([job.id for job in log.jobs], log.dropped) == (["11"], {reason: 1})


@pytest.mark.parametrize("text", [DEFAULT, PARSABLE], ids=["default", "parsable"])
def test_cut_at_any_byte_it_gives_the_jobs_of_the_whole_lines(tmp_path, text):
    for size in range(text.index("\n") + 1, len(text) + 1):
        whole = read(tmp_path, text[: text.rfind("\n", 0, size) + 1])
        log = read(tmp_path, text[:size])
        assert [(j.id, j.slurm_state, j.steps) for j in log.jobs] == [
            (j.id, j.slurm_state, j.steps) for j in whole.jobs
        ]


@pytest.mark.parametrize("text", ["", "hello\n", "JobID Name\n12 x\n", "JOBID STATE\n1 R\n"])
def test_text_that_is_no_sacct_output_is_refused_by_name(tmp_path, text):
    with pytest.raises(UserError, match=r"sacct\.txt: not sacct's output"):
        read(tmp_path, text)


IDS = [
    ("12", ("12", "")), ("12.batch", ("12", "batch")), ("12.bat+", ("12", "batch")),
    ("1234567.ex+", ("1234567", "extern")), ("12.0", ("12", "0")), ("12_3", ("12_3", "")),
    ("12_[1-10%2]", ("12_[1-10%2]", "")), ("12_3.extern", ("12_3", "extern")),
    ("12+1.0", ("12+1", "0")), ("12.x+", ("12", "x+")), ("12+", None), ("12_[0+", None),
    ("", None), ("job", None), ("12.", None),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "expected"), IDS)
def test_job_ids(cell, expected):
    assert parse_job_id(cell) == expected


FIELDS = [
    (parse_duration, "00:01:33", 93.0), (parse_duration, "12:03.5", 723.5),
    (parse_duration, "2-00:00:01", 172801.0), (parse_duration, "5", None),
    (parse_duration, "UNLIMITED", None), (parse_duration, "", None),
    (parse_memory, "100Mc", (100.0, "MiB per CPU")),
    (parse_memory, "4Gn", (4096.0, "MiB per node")),
    (parse_memory, "1196K", (1.16796875, "MiB")), (parse_memory, "1048576", (1.0, "MiB")),
    (parse_memory, "0", (0.0, "MiB")), (parse_memory, "16?", None), (parse_memory, "", None),
    (parse_state, "CANCELLED by 1000", "CANCELLED"), (parse_state, "OUT_OF_ME+", "OUT_OF_MEMORY"),
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


# ---- training_metrics.json -----------------------------------------------------------------

# The fields and figures of a public benchmark's 4-GPU run, its epoch written twice.
V2 = {
    "schema_version": "2.0",
    "run_id": "20260108T195947Z-ab71a36d",
    "hardware": {"gpu_name": "Tesla V100-SXM2-16GB", "gpu_count_visible": 4, "world_size": 8},
    "training_config": {
        "epochs": 2, "micro_batch_size_per_gpu": 2, "grad_accum_steps": 1, "global_batch_size": 16,
    },
    "epochs": [
        {"epoch_idx": i, "epoch_wall_time_sec": 289.426, "tokens_processed_global": 29171712,
         "tokens_per_sec_global": 100791.44, "train_loss_avg_global": 6.29,
         "val_loss_avg_global": 5.64}
        for i in (1, 2)
    ],
    "summary": {
        "total_wall_time_sec": 296.10, "best_val_loss": 5.64,
        "mean_tokens_per_sec_global": 100791.44,
    },
    "completion": {"timestamp_utc": "2026-01-08T20:04:43Z"},
}  # fmt: skip
V1 = {
    "train_time_per_epoch": [22.1, 16.7], "train_loss_per_epoch": [7.8, 6.1],
    "val_loss_per_epoch": [6.5, 6.0], "train_throughput": [14494.2, 19205.3], "gpus_tested": [4],
    "inference_latency": [3.99],
}  # fmt: skip


def metrics(tmp_path: Path, record: object) -> TrainingMetrics:
    return read_training_metrics(write(tmp_path / "training_metrics.json", record))


def test_schema_2(tmp_path):
    found = metrics(tmp_path, V2)
    assert (found.schema, found.world_size, found.unit) == ("2.0", 8, "tokens/s")
    assert (found.total_wall_s, found.mean_throughput_per_s) == (296.10, 100791.44)
    assert (found.best_val_loss, found.completed, found.notes) == (5.64, True, [])
    assert [epoch.epoch for epoch in found.epochs] == [1, 2]
    epoch = found.epochs[0]
    assert (epoch.epoch_s, epoch.samples, epoch.throughput_per_s) == (289.426, 29171712, 100791.44)
    assert (epoch.train_loss, epoch.val_loss, epoch.val_accuracy) == (6.29, 5.64, None)


def test_schema_1_is_lists(tmp_path):
    found = metrics(tmp_path, V1)
    assert (found.schema, found.world_size, found.unit) == ("1", 4, "tokens/s")
    assert [(e.epoch, e.epoch_s, e.throughput_per_s, e.val_loss) for e in found.epochs] == [
        (1, 22.1, 14494.2, 6.5),
        (2, 16.7, 19205.3, 6.0),
    ]
    assert found.completed is None


def changed(**sections: object) -> dict:
    return {**V2, **sections}


WORLD_SIZES = [
    (V2, 8),
    (changed(hardware={"gpu_count_visible": 4}), 8),  # from the batch: 16 / (2 x 1)
    (changed(hardware={"gpu_count_visible": 4}, training_config={}), None),
    (changed(hardware=None, training_config=None, world_size=2, summary={}), 2),
    (changed(hardware={"world_size": 0}, training_config={}), None),
    (changed(hardware={"world_size": "8"}, training_config={}), None),
    (changed(hardware={"world_size": True}, training_config={}), None),
]


@pytest.mark.parametrize(("record", "expected"), WORLD_SIZES)
def test_world_size_is_never_the_number_of_visible_gpus(tmp_path, record, expected):
    assert metrics(tmp_path, record).world_size == expected


def test_a_world_size_that_its_batch_contradicts_is_noted(tmp_path):
    found = metrics(tmp_path, changed(hardware={"world_size": 4}))
    assert (found.world_size, found.notes) == (4, ["world_size is 4, but its batch sizes give 8"])


def test_epochs_by_other_names_and_a_summary_alone(tmp_path):
    entries = [{"epoch": 0, "epoch_time": 20.5, "tokens_per_sec": 900.0, "val_loss": 5.5}]
    found = metrics(tmp_path, {"schema_version": "1.0", "world_size": 2, "epochs": entries})
    (epoch,) = found.epochs
    assert (found.schema, found.world_size) == ("1.0", 2)
    assert (epoch.epoch, epoch.epoch_s, epoch.throughput_per_s, epoch.unit) == (
        1, 20.5, 900.0, "tokens/s",
    )  # fmt: skip
    alone = {"world_size": 2, "tokens_per_sec": 57289.31, "total_wall_time_sec": 522.01}
    found = metrics(tmp_path, alone)
    assert (found.epochs, found.world_size) == ([], 2)
    assert (found.mean_throughput_per_s, found.total_wall_s) == (57289.31, 522.01)


@pytest.mark.parametrize("name", ["tokens_per_second", "tokens_per_second_global"])
def test_a_rate_per_second_is_one_too(tmp_path, name):
    record = {"world_size": 2, "epochs": [{"epoch": 1, name: 200.0}], "summary": {name: 190.0}}
    found = metrics(tmp_path, record)
    assert (found.epochs[0].throughput_per_s, found.epochs[0].unit) == (200.0, "tokens/s")
    assert found.mean_throughput_per_s == 190.0


def test_entries_that_are_none_are_dropped_and_named(tmp_path):
    entries = [V2["epochs"][0], None, {"epoch_idx": 1}, {"epoch_idx": 2.5}, V2["epochs"][1]]
    found = metrics(tmp_path, changed(epochs=entries))
    assert [epoch.epoch for epoch in found.epochs] == [1, 2]
    assert found.dropped == [
        "entry 2 of epochs is no object",
        "epoch 1 stands there twice: the first counts",
        "entry 4 of epochs has the number 2.5",
    ]


def test_figures_that_are_no_numbers_are_none(tmp_path):
    entry = '{"epoch": 0, "tokens_per_sec_global": NaN, "train_loss": "5", "val_loss": true}'
    found = metrics(
        tmp_path, f'{{"epochs": [{entry}' + '], "summary": {"best_val_loss": Infinity}}'
    )
    (epoch,) = found.epochs
    assert (epoch.epoch, epoch.throughput_per_s, epoch.train_loss) == (1, None, None)
    assert (epoch.val_loss, found.best_val_loss) == (None, None)


def test_samples_per_second_are_another_unit(tmp_path):
    entry = {"epoch_idx": 1, "samples_per_sec_global": 704.9, "samples_processed_global": 100}
    found = metrics(tmp_path, changed(epochs=[entry]))
    assert (found.unit, found.epochs[0].samples) == ("samples/s", 100)


@pytest.mark.parametrize(
    "record", [{}, {"epochs": 3}, {"epochs": []}, [1], "nonsense", '{"epochs": [']
)
def test_json_that_is_no_metrics_file_is_refused_by_name(tmp_path, record):
    with pytest.raises(UserError, match=r"training_metrics\.json"):
        metrics(tmp_path, record)


# ---- Rank files ----------------------------------------------------------------------------

RANK = {"training_time": 45.5, "tokens_per_sec": 2800.0, "validation_loss": 5.1, "bleu": 3.2}


def test_rank_files_among_decoys(tmp_path):
    for name in (
        "rank0_results_epoch1.json",
        "rank10_results_epoch0.json",
        "rank2_results_epoch0.json",
    ):
        write(tmp_path / name, RANK)
    decoys = [
        "rank0_results_epoch1.json.tmp", "rank0_results_epoch1 (copy).json",
        "xrank0_results_epoch0.json",
        "rank_results_epoch0.json", "rank0_results.json", ".rank0_results_epoch2.json",
        "rank0_results_epoch-1.json", "training_metrics.json",
    ]  # fmt: skip
    for name in decoys:
        write(tmp_path / name, RANK)
    (tmp_path / "rank7_results_epoch0.json").mkdir()
    files = read_rank_files(tmp_path)
    assert [(record.epoch, record.rank) for record in files.records] == [(0, 2), (0, 10), (1, 0)]
    assert (files.problems, files.other_files) == ([], len(decoys) + 1)
    first = files.records[0]
    assert (first.training_s, first.throughput_per_s, first.unit) == (45.5, 2800.0, "tokens/s")
    assert (first.val_loss, first.bleu, first.data_wait_s) == (5.1, 3.2, None)


REFUSED = [
    ("rank0_results_epoch1.json", RANK | {"rank": 1}, "its name says rank 0, it says 1"),
    ("rank0_results_epoch1.json", RANK | {"epoch": 2}, "its name says epoch 1, it says 2"),
    ("rank0_results_epoch1.json", {"tokens_per_sec": 1.0}, "not a rank's record"),
    ("rank0_results_epoch1.json", RANK | {"training_time": None}, "training_time is no number"),
    ("rank0_results_epoch1.json", RANK | {"training_time": -1}, "training_time is no number"),
    ("rank0_results_epoch1.json", RANK | {"rank": "0"}, "rank is '0', not a whole number"),
    ("results.json", RANK, "neither it nor its name says the rank"),
    ("rank0_results_epoch1.json", '{"training_time": 45.', "cannot be read"),
]


@pytest.mark.parametrize(("name", "record", "why"), REFUSED)
def test_a_rank_file_that_cannot_be_used_says_why(tmp_path, name, record, why):
    with pytest.raises(UserError, match=name) as caught:
        read_rank_record(write(tmp_path / name, record))
    assert why in str(caught.value)


# ---- JSON that breaks off ------------------------------------------------------------------

PREFIXES = [
    ("", None), ("{", {}), ('{"a"', {}), ('{"a": 12', {}), ('{"a": 12,', {"a": 12}),
    ('{"a": 12}', {"a": 12}), ('{"a": "x"', {"a": "x"}), ('{"a": "x', {}), ('{"a": tru', {}),
    ('{"a": true, "b', {"a": True}), ('{"a": [1, 2', {"a": [1]}), ('{"a": [1, 2]', {"a": [1, 2]}),
    ('{"a": {"b": 1, "c": 2', {"a": {"b": 1}}), ('{"a": 1 "b": 2}', {}), ("[1, 2", [1]),
    ('{"a": 1, oops', {"a": 1}), ("[" * 9999, [[]]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PREFIXES, ids=[t[:20] for t, _ in PREFIXES])
def test_what_is_whole_of_cut_json(text, expected):
    found = read_prefix(text)
    assert found == expected or (text.startswith("[[") and isinstance(found, list))


@quick
@given(
    st.recursive(
        st.integers() | st.text(max_size=5) | st.booleans(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
    ),
    st.data(),
)
def test_a_prefix_of_json_holds_nothing_that_the_whole_does_not(record, data):
    text = json.dumps({"top": record})
    found = read_prefix(text[: data.draw(st.integers(0, len(text)))])
    assert found is None or is_part(found, {"top": record})
    assert read_prefix(text) == {"top": record}


def is_part(part: object, whole: object) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_part(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(is_part, part, whole))
    return part == whole


# ---- Times ---------------------------------------------------------------------------------

NOON = datetime(2026, 11, 21, 12, 0, 5)
NOON_UTC = NOON.replace(tzinfo=UTC)
TIMES = [
    ("2026/11/21 12:00:05.000", NOON), ("2026-11-21 12:00:05", NOON), ("2026-11-21T12:00:05", NOON),
    ("2026-11-21T12:00:05Z", NOON_UTC),
    ("2026/11/21 12:00:05 UTC", NOON_UTC),
    ("2026-11-21T15:00:05+03:00", NOON_UTC),
    ("2026-11-21 15:00:05 +0300", NOON_UTC),
    ("1795262405", NOON_UTC), ("1795262405000", NOON_UTC),
    ("Sat Nov 21 12:00:05 2026", NOON), ("Sat Nov 21 12:00:05 UTC 2026", NOON_UTC),
    ("21/11/2026 12:00:05", None), ("11/21/2026 12:00:05", None), ("12:00:05", None), ("", None),
    ("2026", None), ("99999999999999999999", None), ("x" * 50, None),
    ("Sat Nov 31 12:00:05 2026", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), TIMES)
def test_times(text, expected):
    assert parse_timestamp(text) == expected


@quick
@given(st.text(max_size=30))
def test_any_text_is_a_time_or_none(text):
    assert parse_timestamp(text) is None or isinstance(parse_timestamp(text), datetime)
