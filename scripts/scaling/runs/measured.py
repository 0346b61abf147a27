"""A run's figures for comparing scales: steady throughput, wall time, final losses."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from common.errors import UserError
from scaling.read.json_fields import number, section, text
from scaling.read.metrics_json import TrainingMetrics, read_training_metrics
from scaling.read.numbers import round_half_even, to_fraction
from scaling.runs.run_epochs import list_epochs
from scaling.runs.run_record import Run
from scaling.runs.spread import Spread, over_epochs

DEFAULT_WARMUP_EPOCHS = 1


@dataclass(frozen=True, eq=False)
class Measured:
    """What a table of scales takes from a run. Fields that no file gives are None.

    name: job id, or the file's path. throughput: global, in `unit`, over the epochs after
    warm-up. wall_s: all epochs with validation. epoch_s: of one epoch with validation, after
    warm-up. val_loss, val_accuracy (0 to 1): of the last epoch. notes: on throughput.
    """

    name: str
    nodes: int | None
    gpus: int
    unit: str | None = None
    throughput: Spread | None = None
    wall_s: Fraction | None = None
    epoch_s: Spread | None = None
    epochs: int | None = None
    samples: float | None = None  # trained on, all epochs
    val_loss: float | None = None
    val_accuracy: float | None = None
    settings: dict | None = None
    notes: tuple[str, ...] = ()
    run: Run | None = None
    step_s: float | None = None  # mean seconds of an optimizer step, after warm-up
    first_epochs_s: tuple[float, ...] = field(default=())  # wall seconds of the warm-up


def measure_run(run: Run) -> Measured | None:
    """Return a run's figures; None when how many GPUs it had is not known."""
    gpus = run.gpus or (run.settings or {}).get("world_size")
    if not isinstance(gpus, int):
        return None
    metrics = _read_metrics(run)
    records = [record for record in list_epochs(run) if not record["is_superseded"]]
    wall_s = metrics.total_wall_s if metrics else None
    if wall_s is None and run.attempt and run.attempt.total_training_s is not None:
        wall_s = run.attempt.total_training_s
    return _measure(
        records,
        wall_s,
        name=run.id,
        nodes=run.nodes,
        gpus=gpus,
        settings=run.settings,
        run=run,
        step_s=_mean_step_s(metrics, records),
        planned_samples=_plan_samples(run.settings or {}),
    )


def _plan_samples(settings: dict) -> int | None:
    """Return data set x epochs of a run whose epochs do not say what they trained on."""
    data, epochs = settings.get("dataset"), settings.get("epochs")
    size = data.get("train") if isinstance(data, dict) else None
    if settings.get("limit_batches") or settings.get("unit") not in ("img/s", "samples/s"):
        return None
    return size * epochs if isinstance(size, int) and isinstance(epochs, int) else None


def _read_metrics(run: Run) -> TrainingMetrics | None:
    path = run.results_dir / "training_metrics.json"
    try:
        return read_training_metrics(path) if path.is_file() else None
    except UserError:
        return None  # list_epochs puts it into run.problems


def measure_metrics_file(path: Path, gpus: int | None = None) -> Measured:
    """Return the figures of a training_metrics.json, of schema 1 or 2, ours or another's.

    gpus: what the user says it ran on; the file's own world_size must not differ. Raises
    UserError when it does, when neither says, and when the file cannot be read.
    """
    metrics = read_training_metrics(path)
    notes = [*metrics.notes, *metrics.dropped]
    if gpus is None and metrics.world_size is None:
        raise UserError(f"{path}: it does not say its world_size; name its number of GPUs")
    if gpus is not None and metrics.world_size not in (None, gpus):
        raise UserError(
            f"{path}: its world_size is {metrics.world_size}, and it is given as that of {gpus} "
            f"GPU{'s' if gpus > 1 else ''}; give it as --gpu{metrics.world_size}"
        )
    if metrics.world_size is None:
        notes.append(f"{path}: world_size is not recorded, {gpus} GPUs as given")
    if metrics.completed is False:
        notes.append(f"{path}: the run is not complete: its wall time is that of its first epochs")
    records = list_metrics_epochs(metrics)
    return _measure(
        records,
        metrics.total_wall_s,
        mean_throughput=metrics.mean_throughput_per_s,
        notes=notes,
        name=str(path),
        nodes=count_nodes(metrics.record),
        gpus=gpus or metrics.world_size,
        settings=describe_settings(metrics),
        step_s=_mean_step_s(metrics, records),
    )


def list_metrics_epochs(metrics: TrainingMetrics) -> list[dict]:
    """Return a metrics file's epochs as records, with `is_warmup` by the file's own rule."""
    warmup = number(section(metrics.record, "summary"), "warmup_epochs_excluded")
    warmup = DEFAULT_WARMUP_EPOCHS if warmup is None else int(warmup)
    return [{**vars(epoch), "is_warmup": epoch.epoch <= warmup} for epoch in metrics.epochs]


def _measure(
    records: list[dict],
    wall_s: float | None,
    mean_throughput: float | None = None,
    notes: list[str] | None = None,
    planned_samples: int | None = None,
    **known: object,
) -> Measured:
    notes = list(notes or [])
    last = records[-1] if records else {}
    walls = [record.get("epoch_s") for record in records]
    if wall_s is None and walls and None not in walls:
        wall_s = sum(map(to_fraction, walls))
    counts = [record.get("samples") for record in records]
    steady = [record for record in records if not record["is_warmup"]]
    units = {record["unit"] for record in records if record.get("unit")}
    return Measured(
        unit=units.pop() if len(units) == 1 else None,
        throughput=_average_throughput(records, steady, mean_throughput, notes),
        wall_s=to_fraction(wall_s) if wall_s else None,
        epoch_s=_spread(steady or records, "epoch_s"),
        epochs=len(records) or None,
        samples=sum(counts) if counts and None not in counts else planned_samples,
        val_loss=last.get("val_loss"),
        val_accuracy=last.get("val_accuracy"),
        notes=tuple(notes),
        first_epochs_s=tuple(r.get("epoch_s") or 0.0 for r in records if r["is_warmup"]),
        **known,
    )


def _average_throughput(
    records: list[dict], steady: list[dict], mean: float | None, notes: list[str]
) -> Spread | None:
    """Return the mean over the steady epochs; of a run without any, over what there is."""
    found = _spread(steady, "throughput_per_s")
    if found is None and (found := _spread(records, "throughput_per_s")) is not None:
        n = len(records)
        only = "its only epoch is warm-up" if n == 1 else f"all of its {n} epochs are warm-up"
        notes.append(f"no steady state: {only}, and stands here for want of others")
    elif found is None and mean is not None:
        notes.append("the mean of its summary: no epoch has a throughput")
        return Spread(to_fraction(mean), 1, None, "single")
    elif found is not None and mean is not None and abs(float(found.mean) / mean - 1) > 1e-6:
        summary = round_half_even(mean, 2)
        notes.append(f"its summary says {summary}, a mean of other epochs than those after warm-up")
    return found


def _spread(records: list[dict], name: str) -> Spread | None:
    values = [record.get(name) for record in records]
    if not values or any(value is None or not value > 0 for value in values):
        return None
    return over_epochs(values)


def _mean_step_s(metrics: TrainingMetrics | None, records: list[dict]) -> float | None:
    """Return the mean seconds of an optimizer step after warm-up, as the metrics file has it."""
    if metrics is None:
        return None
    later = {record["epoch"] for record in records if not record["is_warmup"]}
    times = []
    for epoch in metrics.epochs:
        step_s = number(epoch.record, "step_time_mean_sec")
        micro, whole = (number(epoch.record, key) for key in ("micro_steps", "optimizer_steps"))
        steps = number(epoch.record, "steps")
        if step_s is not None and (epoch.epoch in later or not later):
            # Some count passes as steps: an optimizer step is as many of them as accumulate.
            times.append(step_s * (micro / whole if micro and whole and steps == micro else 1))
    return sum(times) / len(times) if times else None


def count_nodes(record: dict) -> int | None:
    """Return the nodes of a metrics file's run, None when it does not say."""
    nodes = section(record, "host").get("nodes")
    if isinstance(nodes, list) and nodes:
        return len(set(map(str, nodes)))
    told = section(record, "scheduler").get("nnodes")
    text = str(told)
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 10**6 else None


def describe_settings(metrics: TrainingMetrics) -> dict:
    """Return what run.json would hold of a metrics file, as far as it can be told.

    The number format alone is the precision: `fp16_torch_amp` and `fp16_deepspeed` are both
    fp16, and differ in the strategy (`zero_stage`, the rest of the word).
    """
    config, env = section(metrics.record, "training_config"), section(metrics.record, "env")
    hardware = section(metrics.record, "hardware")
    sizes = section(config, "dataset_subset_sizes")
    precision, _, by = (text(config, "precision") or "").partition("_")
    micro, accumulated = config.get("micro_batch_size_per_gpu"), config.get("grad_accum_steps")
    how = {"zero_stage": config.get("zero_stage"), "mixed precision by": by or None}
    known = {name: value for name, value in how.items() if value is not None}
    found = {
        "scaling": config.get("scaling"),
        "model": config.get("model_name"),
        "model_size": config.get("model_size"),
        "seq_len": config.get("seq_len"),
        "precision": precision or None,
        "strategy": config.get("strategy"),
        "implementation": ", ".join(f"{name} {value}" for name, value in known.items()) or None,
        "batch_size_per_gpu": micro,
        "grad_accum_steps": accumulated,
        "global_batch_size": config.get("global_batch_size"),
        "optimizer": config.get("optimizer"),
        "epochs": config.get("epochs"),
        "gpu_name": hardware.get("gpu_name"),
        "git_commit": metrics.record.get("git_commit"),
        "versions": {"torch": env["torch_version"]} if "torch_version" in env else {},
        "dataset": {
            key: value
            for key, value in {"name": config.get("dataset_name"), **sizes}.items()
            if value is not None
        },
    }
    return {name: value for name, value in found.items() if value is not None}
