"""scaling.runs.records: what other people's trainers write: metrics, rank files."""

import json
from pathlib import Path

import pytest

from common.errors import UserError
from scaling.runs.records import (
    TrainingMetrics,
    read_rank_epoch,
    read_rank_epochs,
    read_training_metrics,
)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


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
    assert (found.schema_version, found.world_size, found.unit) == ("2.0", 8, "tokens/s")
    assert (found.total_wall_s, found.mean_throughput_per_s) == (296.10, 100791.44)
    assert (found.completed, found.notes) == (True, [])
    assert [epoch.epoch for epoch in found.epochs] == [1, 2]
    epoch = found.epochs[0]
    assert (epoch.epoch_s, epoch.samples, epoch.throughput_per_s) == (289.426, 29171712, 100791.44)
    assert (epoch.train_loss, epoch.val_loss, epoch.val_accuracy) == (6.29, 5.64, None)


def test_schema_1_is_lists(tmp_path):
    found = metrics(tmp_path, V1)
    assert (found.schema_version, found.world_size, found.unit) == ("1", 4, "tokens/s")
    assert [(e.epoch, e.epoch_s, e.throughput_per_s, e.val_loss) for e in found.epochs] == [
        (1, 22.1, 14494.2, 6.5),
        (2, 16.7, 19205.3, 6.0),
    ]
    assert found.completed is None


def changed(**sections: object) -> dict:
    return {**V2, **sections}


WORLD_SIZES = [
    (V2, 8),
    (changed(hardware={"gpu_count_visible": 4}), None),  # nor is it made of the batch sizes
    (changed(hardware={"gpu_count_visible": 4}, training_config={}), None),
    (changed(hardware=None, training_config=None, world_size=2, summary={}), 2),
    (changed(hardware={"world_size": 0}, training_config={}), None),
    (changed(hardware={"world_size": "8"}, training_config={}), None),
    (changed(hardware={"world_size": True}, training_config={}), None),
]


@pytest.mark.parametrize(("record", "expected"), WORLD_SIZES)
def test_world_size_is_never_the_number_of_visible_gpus(tmp_path, record, expected):
    assert metrics(tmp_path, record).world_size == expected


@pytest.mark.parametrize(
    ("summary", "mean"), [({"tokens_per_sec": 10.0}, 40.0), ({"tokens_per_sec_global": 10.0}, 10.0)]
)
def test_a_mean_of_one_gpu_is_multiplied_as_its_epochs_are(tmp_path, summary, mean):
    found = metrics(tmp_path, {**V1, "summary": summary}).of_job(4)
    assert found.mean_throughput_per_s == mean
    assert [epoch.throughput_per_s for epoch in found.epochs] == [4 * 14494.2, 4 * 19205.3]


def test_epochs_by_other_names_and_a_summary_alone(tmp_path):
    entries = [{"epoch": 0, "epoch_time": 20.5, "tokens_per_sec": 900.0, "val_loss": 5.5}]
    found = metrics(tmp_path, {"schema_version": "1.0", "world_size": 2, "epochs": entries})
    (epoch,) = found.epochs
    assert (found.schema_version, found.world_size) == ("1.0", 2)
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
    assert epoch.val_loss is None


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
    records, problems = read_rank_epochs(tmp_path)
    assert [(record.epoch, record.rank) for record in records] == [(0, 2), (0, 10), (1, 0)]
    assert problems == []
    first = records[0]
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
        read_rank_epoch(write(tmp_path / name, record))
    assert why in str(caught.value)
