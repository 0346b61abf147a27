"""The JSON that a run writes, as models: rank files and training_metrics.json.

Schema 2.0 of training_metrics.json is the public one of a GPT-2 scaling benchmark
(kadamrahul18/GPT2-Optimization on GitHub); what came before it there, here "1", holds a list per
quantity with one number per epoch. Other trainers name the same figures differently: each field
lists the names that it is known by, the most exact first.
"""

import math
import re
import sys
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from common.errors import UserError
from scaling.read.contract import read_json, whole_number
from scaling.read.kinds import is_rank_record, is_training_metrics
from scaling.runs.compare import ABSENT, look_up
from scaling.runs.workloads import SCORES

_LARGEST = sys.float_info.max
_RANK_NAME = re.compile(r"rank(\d{1,6})_results_epoch(\d{1,6})\.json")
# What a rate counts -> its unit. The suffixes are those of rank files and of metrics files.
_UNITS = {"tokens": "tokens/s", "samples": "samples/s", "images": "img/s"}
_RATE_SUFFIXES = ("_per_sec_global", "_per_sec", "_per_second_global", "_per_second")
_RATES = {name + suffix: name for name in _UNITS for suffix in _RATE_SUFFIXES}
_MEAN_RATES = (*(f"mean_{name}_per_sec_global" for name in _UNITS), *_RATES)
_GLOBAL_MEANS = tuple(name for name in _MEAN_RATES if "_global" in name)
_TOTALS = ("total_wall_time_sec", "total_time_sec", "total_training_time", "wall_time_sec")
_LISTS = ("train_time_per_epoch", "train_loss_per_epoch", "val_loss_per_epoch", "train_throughput")
# run.json's name of a setting -> its place in a metrics file.
_SETTINGS = {
    **{name: f"training_config.{name}" for name in (
        "scaling", "model_size", "seq_len", "strategy", "grad_accum_steps", "global_batch_size",
        "optimizer", "epochs")},
    "model": "training_config.model_name",
    "batch_size_per_gpu": "training_config.micro_batch_size_per_gpu",
    "gpu_name": "hardware.gpu_name",
    "git_commit": "git_commit",
}  # fmt: skip


def to_number(value: object) -> float | None:
    """Return a finite number, None for null, text, true, NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond any float
        return None


def pick(record: dict, *names: str) -> float | None:
    """Return the first of these fields that holds a number; `a.b` is the field b of a."""
    found = (to_number(look_up(record, name)) for name in names)
    return next((number for number in found if number is not None), None)


def pick_text(record: dict, name: str) -> str | None:
    """Return a field, named as for pick(), when it is text that is not empty."""
    value = look_up(record, name)
    return value if isinstance(value, str) and value not in ("", ABSENT) else None


Number = float | None


def _known_as(*names: str):
    return Field(default=None, validation_alias=AliasChoices(*names))


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    @classmethod
    def parse(cls, record: dict, /, **known: object):
        """Return the model of a record; a field without a usable value is None."""
        usable = {key: value for key, value in record.items()
                  if type(value) in (int, float) and abs(value) <= _LARGEST}  # fmt: skip
        made = cls.model_validate({**usable, **known})
        # Beside a training loss above 0 a loss of exactly 0 was never measured.
        was_measured = made.val_loss != 0 or not made.train_loss
        return made if was_measured else made.model_copy(update={"val_loss": None})


# A field for each score's validation figure, so that a new score needs none here.
_ScoredEpoch = create_model(
    "_ScoredEpoch",
    __base__=_Record,
    **{score.column: (Number, _known_as(*score.record_keys)) for score in SCORES},
)


# ---- Rank files --------------------------------------------------------------------------------


class RankEpoch(_ScoredEpoch):
    """What one rank wrote of one epoch; times in s, throughput of this rank alone.

    `epoch` counts from 0, as the files do. Accuracies from 0 to 1.
    """

    path: Path
    rank: int
    epoch: int
    training_s: float = Field(validation_alias="training_time")
    throughput_per_s: Number = None
    unit: str
    samples: Number = _known_as("samples", "tokens", "images")
    steps: Number = None  # optimizer steps
    data_wait_s: Number = None
    copy_s: Number = None
    compute_s: Number = None
    optimizer_s: Number = None
    other_s: Number = None
    exposed_comm_s: Number = None
    no_sync_pass_s: Number = None  # the probe's pass without communication
    peak_mib: Number = _known_as("peak_memory_mib")
    parameter_bytes: Number = None  # that this rank holds, as the next two
    gradient_bytes: Number = None
    optimizer_bytes: Number = None
    profiled_comm_per_step_s: Number = None  # of the steps that --profile looked at
    profiled_exposed_per_step_s: Number = None
    train_loss: Number = None
    val_loss: Number = _known_as("validation_loss", "val_loss")
    train_accuracy: Number = None
    host: str | None = None


def read_rank_epoch(path: Path) -> RankEpoch:
    """Return one rank's record of one epoch; raises UserError when the file is none."""
    return parse_rank_epoch(read_json(path), path)


def parse_rank_epoch(record: dict, path: Path) -> RankEpoch:
    """Return the record of a file that was read already.

    Rank and epoch are the file's own, else its name's; raises UserError when the two differ,
    when neither says, or when the file is no such record.
    """
    if not is_rank_record(record):
        raise UserError(f"{path}: not a rank's record: no training_time with a rate beside it")
    training_s = to_number(record.get("training_time"))
    if training_s is None or training_s < 0:
        raise UserError(f"{path} cannot be used: training_time is no number of seconds")
    match = _RANK_NAME.fullmatch(path.name)
    named = dict(zip(("rank", "epoch"), map(int, match.groups()), strict=True)) if match else {}
    place = {key: whole_number(record, key, path) for key in ("rank", "epoch")}
    for key, own in place.items():
        place[key] = named.get(key, own) if own is None else own
        if place[key] is None:
            raise UserError(f"{path} cannot be used: neither it nor its name says the {key}; "
                            "name it rank<r>_results_epoch<e>.json")  # fmt: skip
        if place[key] != named.get(key, own):
            raise UserError(
                f"{path} cannot be used: its name says {key} {named[key]}, it says {own}"
            )
    counted = next(name for name in _UNITS if f"{name}_per_sec" in record)
    return RankEpoch.parse(
        record,
        **place,
        path=path,
        throughput_per_s=to_number(record[f"{counted}_per_sec"]),
        unit=_UNITS[counted],
        no_sync_pass_s=pick(record, "probe.no_sync_pass_s"),
        host=pick_text(record, "host") or pick_text(record, "hostname"),
    )


def read_rank_epochs(folder: Path) -> tuple[list[RankEpoch], list[str]]:
    """Return a results folder's rank records by epoch and rank, and why others cannot be used."""
    records, problems = [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _RANK_NAME.fullmatch(path.name) and path.is_file():
            try:
                records.append(read_rank_epoch(path))
            except UserError as error:
                problems.append(str(error))
    return sorted(records, key=lambda record: (record.epoch, record.rank)), problems


# ---- training_metrics.json ---------------------------------------------------------------------


class MetricsEpoch(_ScoredEpoch):
    """One epoch of a metrics file; `epoch` counts from 1. Throughput is global."""

    epoch: int
    unit: str | None = None
    throughput_per_s: Number = None
    samples: Number = None
    epoch_s: Number = _known_as(
        "epoch_wall_time_sec", "epoch_time_sec", "epoch_time", "wall_time_sec",
        "train_time_per_epoch",
    )  # fmt: skip
    train_s: Number = _known_as(
        "train_time_slowest_rank_sec", "train_time_sec", "training_time", "train_time_per_epoch"
    )
    train_loss: Number = _known_as("train_loss_avg_global", "train_loss", "train_loss_per_epoch")
    val_loss: Number = _known_as(
        "val_loss_avg_global", "val_loss", "validation_loss", "val_loss_per_epoch"
    )
    train_accuracy: Number = _known_as("train_accuracy_global", "train_accuracy")
    step_s: Number = _known_as("step_time_mean_sec")  # of rank 0; a pass where steps are passes
    step_p50_s: Number = _known_as("step_time_p50_sec")
    step_p95_s: Number = _known_as("step_time_p95_sec")
    step_wait_s: Number = _known_as("dataload_time_mean_sec")
    steps: Number = None
    micro_steps: Number = None
    optimizer_steps: Number = None
    record: dict = Field(default_factory=dict, repr=False)

    @property
    def optimizer_step_s(self) -> float | None:
        """Mean seconds of an optimizer step; some files count passes as steps."""
        if self.step_s is None:
            return None
        counts_passes = self.micro_steps and self.optimizer_steps and self.steps == self.micro_steps
        return self.step_s * (self.micro_steps / self.optimizer_steps if counts_passes else 1)


@dataclass(frozen=True)
class TrainingMetrics:
    """A run's metrics file. `world_size` is the number of processes, never of visible GPUs.

    `completed` is None when the file does not say. `notes` says what to know of the epochs that
    are used, `dropped` why others are not. `nodes` is None when the file does not say.
    """

    path: Path
    schema_version: str
    record: dict = field(repr=False)
    epochs: list[MetricsEpoch]
    dropped: list[str]
    notes: list[str]
    world_size: int | None
    nodes: int | None
    unit: str | None
    total_wall_s: float | None
    mean_throughput_per_s: float | None
    completed: bool | None
    run_id: str | None
    warmup_epochs: int  # that its own means leave out; the run contract's 1 when it is silent
    is_per_gpu: bool | None  # schema 1's is; None: a rate that says neither it nor global

    def of_job(self, gpus: int) -> "TrainingMetrics":
        """Return the metrics with throughputs of all GPUs."""
        if not self.is_per_gpu:
            return self
        epochs = [
            epoch.model_copy(update={"throughput_per_s": epoch.throughput_per_s * gpus})
            if epoch.throughput_per_s else epoch for epoch in self.epochs
        ]  # fmt: skip
        mean = self.mean_throughput_per_s
        if mean and pick(self.record, *_list_places(_GLOBAL_MEANS)) != mean:
            mean *= gpus
        note = f"its throughput is tokens/s of one GPU, as schema 1 has it: multiplied by {gpus}"
        return replace(self, epochs=epochs, notes=[*self.notes, note], is_per_gpu=False,
                       mean_throughput_per_s=mean)  # fmt: skip


def read_training_metrics(path: Path) -> TrainingMetrics:
    """Return a run's metrics; raises UserError when the file is none or cannot be read."""
    return parse_training_metrics(read_json(path), path)


def parse_training_metrics(record: dict, path: Path) -> TrainingMetrics:
    """Return the metrics of a file that was read already; see read_training_metrics."""
    if not is_training_metrics(record):
        raise UserError(f"{path}: not a training_metrics.json: no list of epochs in it")
    schema, entries, rates, notes = "2.0", record.get("epochs"), _RATES, []
    if not isinstance(entries, list):
        schema, entries = "1", _turn_lists(record, notes)
        if isinstance(record.get("train_throughput"), list):
            rates = {"train_throughput": "tokens"}
    epochs, dropped = _read_entries(entries, rates)
    rated = [epoch.record for epoch in epochs if epoch.throughput_per_s]
    is_global = all(any("_global" in key for key in set(_RATES) & set(each)) for each in rated)
    is_per_gpu = True if "train_throughput" in rates else False if is_global else None
    units = sorted({epoch.unit for epoch in epochs if epoch.unit})
    if len(units) > 1:
        words = ", ".join(units)
        raise UserError(f"{path}: its epochs count different things ({words}): no mean of them")
    completed = look_up(record, "summary.completed")
    if not isinstance(completed, bool):
        has_end = isinstance(record.get("completion"), dict) and record["completion"]
        completed = bool(pick_text(record, "completion.timestamp_utc")) if has_end else None
    warmup = pick(record, "summary.warmup_epochs_excluded")
    return TrainingMetrics(
        path=path,
        schema_version=pick_text(record, "schema_version") or schema,
        record=record,
        epochs=epochs,
        dropped=dropped,
        notes=notes,
        world_size=_find_world_size(record),
        nodes=_find_nodes(record),
        unit=units[0] if units else None,
        total_wall_s=_pick_above_0(record, _TOTALS),
        mean_throughput_per_s=_pick_above_0(record, _MEAN_RATES),
        completed=completed,
        run_id=pick_text(record, "run_id"),
        warmup_epochs=1 if warmup is None else int(warmup),
        is_per_gpu=is_per_gpu,
    )


def _pick_above_0(record: dict, names: tuple[str, ...]) -> float | None:
    """Return the first number among the fields of its summary, else among its own."""
    number = pick(record, *_list_places(names))
    return number if number is not None and number > 0 else None


def _list_places(names: tuple[str, ...]) -> list[str]:
    return [*(f"summary.{name}" for name in names), *names]


def _turn_lists(record: dict, notes: list[str]) -> list[dict]:
    """Return schema 1's lists as what schema 2 has: an entry per epoch."""
    lists = {key: record[key] for key in _LISTS if isinstance(record.get(key), list)}
    if len(set(map(len, lists.values()))) > 1:
        words = ", ".join(f"{key} {len(values)}" for key, values in lists.items())
        notes.append(f"its lists differ in length: {words}")
    return [dict(zip(lists, values, strict=True)) for values in zip_longest(*lists.values())]


def _read_entries(entries: list, rates: dict[str, str]) -> tuple[list[MetricsEpoch], list[str]]:
    """Return the epochs by number, and why entries are none. rates: field -> what it counts."""
    found: dict[int, dict] = {}
    dropped = []
    for at, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            dropped.append(f"entry {at} of epochs is no object")
            continue
        epoch = pick(entry, "epoch_idx", "epoch")
        epoch = at if epoch is None else epoch
        if epoch != int(epoch) or epoch < 0:
            dropped.append(f"entry {at} of epochs has the number {epoch}")
        elif epoch in found:
            dropped.append(f"epoch {epoch} stands there twice: the first counts")
        else:
            found[int(epoch)] = entry
    shift, epochs = 1 if 0 in found else 0, []  # some count from 0
    for number, entry in sorted(found.items()):
        known = {"epoch": number + shift, "record": entry}
        key = next((key for key in rates if to_number(entry.get(key)) is not None), None)
        if key is not None:
            name = rates[key]
            samples = pick(entry, f"{name}_processed_global", f"{name}_processed")
            known |= {"throughput_per_s": entry[key], "unit": _UNITS[name], "samples": samples}
        epochs.append(MetricsEpoch.parse(entry, **known))
    return epochs, dropped


def _find_world_size(record: dict) -> int | None:
    """Return the number of processes that a file names; none is made of its batch sizes."""
    tested = record.get("gpus_tested")
    known = record | (
        {"tested": tested[0]} if isinstance(tested, list) and len(tested) == 1 else {}
    )
    names = ("hardware.world_size", "world_size", "training_config.world_size", "tested")
    numbers = (pick(known, name) for name in names)
    return next((int(n) for n in numbers if n is not None and n >= 1 and n == int(n)), None)


def _find_nodes(record: dict) -> int | None:
    names = look_up(record, "host.nodes")
    if isinstance(names, list) and names:
        return len(set(map(str, names)))
    told = str(look_up(record, "scheduler.nnodes"))
    return int(told) if told.isascii() and told.isdigit() and 0 < int(told) < 10**6 else None


def describe_settings(metrics: TrainingMetrics) -> dict:
    """Return what run.json would hold of a metrics file, as far as it can be told.

    The number format alone is the precision: `fp16_torch_amp` and `fp16_deepspeed` are both
    fp16, and differ in the implementation (`zero_stage`, the rest of the word).
    """
    record = metrics.record
    precision, _, by = (pick_text(record, "training_config.precision") or "").partition("_")
    how = {
        "zero_stage": look_up(record, "training_config.zero_stage"),
        "mixed precision by": by or None,
    }
    sizes = look_up(record, "training_config.dataset_subset_sizes")
    dataset = {"name": look_up(record, "training_config.dataset_name")}
    dataset |= sizes if isinstance(sizes, dict) else {}
    torch = look_up(record, "env.torch_version")
    known = {name: look_up(record, place) for name, place in _SETTINGS.items()} | {
        "precision": precision or None,
        "implementation": ", ".join(f"{n} {v}" for n, v in _drop_unknown(how).items()) or None,
        "argv": pick_text(record, "command_line"),
        "versions": {} if torch == ABSENT else {"torch": torch},
        "dataset": _drop_unknown(dataset),
    }
    return _drop_unknown(known)


def _drop_unknown(values: dict) -> dict:
    return {name: value for name, value in values.items() if value not in (None, ABSENT)}
