"""Read training_metrics.json: one run's epochs, of schema 2.0 or of the lists before it.

Schema 2.0 is the public one of a GPT-2 scaling benchmark (kadamrahul18/GPT2-Optimization on
GitHub); what came before it there, here "1", holds a list a quantity with a number an epoch.
"""

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from scaling.read.contract import read_json
from scaling.read.json_fields import number, pick, section, text

_LISTS = ("train_time_per_epoch", "train_loss_per_epoch", "val_loss_per_epoch", "train_throughput")
# Ours -> the names that the figure has in files of others, the most exact first.
_FIELDS = {
    "epoch_s": ("epoch_wall_time_sec", "epoch_time_sec", "epoch_time", "wall_time_sec"),
    "train_s": ("train_time_slowest_rank_sec", "train_time_sec", "training_time"),
    "train_loss": ("train_loss_avg_global", "train_loss"),
    "val_loss": ("val_loss_avg_global", "val_loss", "validation_loss"),
    "train_accuracy": ("train_accuracy_global", "train_accuracy"),
    "val_accuracy": ("val_accuracy_global", "val_accuracy", "validation_accuracy"),
    "perplexity": ("val_perplexity_global", "val_perplexity", "perplexity"),
    "bleu": ("val_bleu_global", "val_bleu", "bleu"),
}
_QUANTITIES = {"tokens": "tokens/s", "samples": "samples/s", "images": "img/s"}
_PER_S = ("_per_sec_global", "_per_sec", "_per_second_global", "_per_second")
_RATES = tuple(
    form.format(name)
    for form in ("mean_{}_per_sec_global", *(f"{{}}{ending}" for ending in _PER_S))
    for name in _QUANTITIES
)
_TOTALS = ("total_wall_time_sec", "total_time_sec", "total_training_time", "wall_time_sec")


@dataclass(frozen=True)
class MetricsEpoch:
    """One epoch; `epoch` counts from 1. Throughput is global. Accuracies from 0 to 1."""

    epoch: int
    unit: str | None
    throughput_per_s: float | None
    samples: float | None
    epoch_s: float | None = None
    train_s: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    perplexity: float | None = None
    bleu: float | None = None
    record: dict = field(default_factory=dict)


@dataclass
class TrainingMetrics:
    """A run's metrics. `world_size` is the number of processes, never that of visible GPUs.

    `completed` is None when the file does not say. `dropped` has a reason for each entry of
    `epochs` that cannot be used; `notes` what to know of the others.
    """

    path: Path
    schema: str
    record: dict
    epochs: list[MetricsEpoch]
    dropped: list[str]
    notes: list[str]
    world_size: int | None
    unit: str | None
    total_wall_s: float | None
    mean_throughput_per_s: float | None
    best_val_loss: float | None
    completed: bool | None
    run_id: str | None = None
    gpu_name: str | None = None


def is_training_metrics(record: dict) -> bool:
    """Whether a JSON object is such a file, of either schema."""
    if any(isinstance(record.get(key), list) for key in _LISTS):
        return True
    entries = record.get("epochs")
    if isinstance(entries, list):
        is_run = bool({"training_config", "summary", "hardware", "schema_version"} & set(record))
        return is_run or any(isinstance(entry, dict) and _has_figure(entry) for entry in entries)
    return "world_size" in record and pick(record, *_RATES) is not None  # a summary alone


def _has_figure(entry: dict) -> bool:
    names = (name for names in _FIELDS.values() for name in names)
    return pick(entry, *_RATES, *names) is not None


def read_training_metrics(path: Path) -> TrainingMetrics:
    """Return a run's metrics; UserError when the file is none or cannot be read."""
    path = Path(path)
    return parse_training_metrics(read_json(path), path)


def parse_training_metrics(record: dict, path: Path) -> TrainingMetrics:
    """Return the metrics of a file that was read already; see read_training_metrics."""
    if not is_training_metrics(record):
        raise UserError(f"{path}: not a training_metrics.json: no list of epochs in it")
    dropped, notes = [], []
    if isinstance(record.get("epochs"), list):
        schema = text(record, "schema_version") or "2.0"
        epochs = _read_entries(record["epochs"], dropped)
    else:
        schema, epochs = text(record, "schema_version") or "1", _read_lists(record, notes)
    units = {epoch.unit for epoch in epochs if epoch.unit}
    summary = section(record, "summary")
    completed = summary.get("completed")
    hardware = section(record, "hardware")
    return TrainingMetrics(
        path=path,
        schema=schema,
        record=record,
        epochs=epochs,
        dropped=dropped,
        notes=notes,
        world_size=_find_world_size(record, notes),
        unit=units.pop() if len(units) == 1 else None,
        total_wall_s=pick(summary, *_TOTALS) or pick(record, *_TOTALS),
        mean_throughput_per_s=pick(summary, *_RATES) or pick(record, *_RATES),
        best_val_loss=pick(summary, "best_val_loss") or pick(record, "best_val_loss"),
        completed=completed if isinstance(completed, bool) else _says_complete(record),
        run_id=text(record, "run_id"),
        gpu_name=text(hardware, "gpu_name"),
    )


def _says_complete(record: dict) -> bool | None:
    completion = section(record, "completion")
    return text(completion, "timestamp_utc") is not None if completion else None


def _read_entries(entries: list, dropped: list[str]) -> list[MetricsEpoch]:
    found: dict[int, MetricsEpoch] = {}
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
            found[int(epoch)] = _read_entry(int(epoch), entry)
    shift = 1 if 0 in found else 0  # some count from 0
    return [
        MetricsEpoch(**{**vars(found[number_]), "epoch": number_ + shift})
        for number_ in sorted(found)
    ]


def _read_entry(epoch: int, entry: dict) -> MetricsEpoch:
    unit = throughput = samples = None
    for name, unit_of in _QUANTITIES.items():
        rate = pick(entry, *(name + ending for ending in _PER_S))
        if rate is not None:
            unit, throughput = unit_of, rate
            samples = pick(entry, f"{name}_processed_global", f"{name}_processed")
            break
    figures = {ours: pick(entry, *names) for ours, names in _FIELDS.items()}
    return MetricsEpoch(epoch, unit, throughput, samples, **figures, record=entry)


def _read_lists(record: dict, notes: list[str]) -> list[MetricsEpoch]:
    lists = {key: record[key] for key in _LISTS if isinstance(record.get(key), list)}
    lengths = {key: len(values) for key, values in lists.items()}
    if len(set(lengths.values())) > 1:
        notes.append(
            "its lists differ in length: " + ", ".join(f"{k} {n}" for k, n in lengths.items())
        )
    if "train_throughput" in lists:
        notes.append(
            "train_throughput is taken as tokens/s of all processes: schema 1 says neither"
        )
    epochs = []
    for at in range(max(lengths.values(), default=0)):
        entry = {key: values[at] for key, values in lists.items() if at < len(values)}
        epochs.append(
            MetricsEpoch(
                epoch=at + 1,
                unit="tokens/s" if "train_throughput" in lists else None,
                throughput_per_s=number(entry, "train_throughput"),
                samples=None,
                epoch_s=number(entry, "train_time_per_epoch"),
                train_s=number(entry, "train_time_per_epoch"),
                train_loss=number(entry, "train_loss_per_epoch"),
                val_loss=number(entry, "val_loss_per_epoch"),
                record=entry,
            )
        )
    return epochs


def _find_world_size(record: dict, notes: list[str]) -> int | None:
    """Return the number of processes: as it stands there, else from the batch sizes."""
    config = section(record, "training_config")
    found = next(
        (n for place in (section(record, "hardware"), record, config) if (n := _whole(place))), None
    )
    tested = record.get("gpus_tested")
    if found is None and isinstance(tested, list) and len(tested) == 1:
        found = _whole({"world_size": tested[0]})
    micro, accum, whole = (
        number(config, key)
        for key in ("micro_batch_size_per_gpu", "grad_accum_steps", "global_batch_size")
    )
    if not (micro and accum and whole) or whole % (micro * accum):
        return found
    by_batch = int(whole // (micro * accum))
    if found is None:
        notes.append(f"world_size {by_batch} is derived from the batch sizes")
    elif found != by_batch:
        notes.append(f"world_size is {found}, but its batch sizes give {by_batch}")
    return by_batch if found is None else found


def _whole(record: dict) -> int | None:
    value = number(record, "world_size")
    return int(value) if value is not None and value >= 1 and value == int(value) else None
