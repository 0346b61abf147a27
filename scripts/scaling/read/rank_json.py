"""Read the JSON that each rank writes for each epoch: rank<r>_results_epoch<e>.json."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from scaling.read.contract import read_json, whole_number
from scaling.read.json_fields import number, pick, section

_NAME = re.compile(r"rank(\d{1,6})_results_epoch(\d{1,6})\.json")
_RATES = {"tokens_per_sec": "tokens/s", "samples_per_sec": "samples/s", "images_per_sec": "img/s"}
UNITS = {
    "training_time": "s", "tokens_per_sec": "tokens/s", "samples_per_sec": "samples/s",
    "images_per_sec": "img/s", "data_wait_s": "s", "copy_s": "s", "compute_s": "s",
    "optimizer_s": "s", "other_s": "s", "exposed_comm_s": "s", "peak_memory_mib": "MiB",
}  # fmt: skip


@dataclass(frozen=True)
class RankEpoch:
    """What one rank wrote of one epoch; times in s, throughput of this rank alone.

    `epoch` counts from 0, as the files do. A figure that the file does not hold is None.
    """

    path: Path
    rank: int
    epoch: int
    training_s: float
    throughput_per_s: float | None
    unit: str | None
    samples: float | None
    data_wait_s: float | None
    copy_s: float | None
    compute_s: float | None
    optimizer_s: float | None
    other_s: float | None
    exposed_comm_s: float | None
    peak_mib: float | None
    train_loss: float | None
    val_loss: float | None
    val_accuracy: float | None
    perplexity: float | None
    bleu: float | None
    host: str | None
    steps: float | None = None  # optimizer steps
    no_sync_pass_s: float | None = None  # the probe's pass without communication


@dataclass
class RankFiles:
    """The rank files of a folder: those read, and why another of that name was not."""

    records: list[RankEpoch] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    other_files: int = 0


def is_rank_record(record: dict) -> bool:
    """Whether a JSON object is what a rank writes: a training time and a rate, of no list."""
    has_rate = any(key in record for key in _RATES)
    return "training_time" in record and has_rate and "epochs" not in record


def read_rank_record(path: Path) -> RankEpoch:
    """Return one rank's record of one epoch.

    Rank and epoch are the file's own, else its name's; UserError when the two differ,
    when neither says, or when the file is no such record.
    """
    path = Path(path)
    return parse_rank_record(read_json(path), path)


def parse_rank_record(record: dict, path: Path) -> RankEpoch:
    """Return the record of a file that was read already; see read_rank_record."""
    if not is_rank_record(record):
        raise UserError(f"{path}: not a rank's record: no training_time with a rate beside it")
    training_s = number(record, "training_time")
    if training_s is None or training_s < 0:
        raise UserError(f"{path} cannot be used: training_time is no number of seconds")
    rate = next((key for key in _RATES if key in record), None)
    rank, epoch = _identify(record, path)
    seconds = ("data_wait_s", "copy_s", "compute_s", "optimizer_s", "other_s", "exposed_comm_s")
    host = record.get("host") or record.get("hostname")
    return RankEpoch(
        path=path,
        rank=rank,
        epoch=epoch,
        training_s=training_s,
        throughput_per_s=number(record, rate),
        unit=_RATES[rate],
        samples=pick(record, "samples", "tokens", "images"),
        **{name: number(record, name) for name in seconds},
        peak_mib=number(record, "peak_memory_mib"),
        train_loss=number(record, "train_loss"),
        val_loss=pick(record, "validation_loss", "val_loss"),
        val_accuracy=pick(record, "validation_accuracy", "val_accuracy"),
        perplexity=pick(record, "validation_perplexity", "val_perplexity"),
        bleu=pick(record, "bleu", "val_bleu"),
        host=host if isinstance(host, str) else None,
        steps=number(record, "steps"),
        no_sync_pass_s=number(section(record, "probe"), "no_sync_pass_s"),
    )


def _identify(record: dict, path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    by_name = (int(match[1]), int(match[2])) if match else (None, None)
    own = tuple(whole_number(record, key, path) for key in ("rank", "epoch"))
    found = []
    for key, mine, name in zip(("rank", "epoch"), own, by_name, strict=True):
        if mine is not None and name is not None and mine != name:
            raise UserError(f"{path} cannot be used: its name says {key} {name}, it says {mine}")
        if mine is None and name is None:
            raise UserError(
                f"{path} cannot be used: neither it nor its name says the {key}; "
                "name it rank<r>_results_epoch<e>.json"
            )
        found.append(name if mine is None else mine)
    return found[0], found[1]


def read_rank_files(folder: Path) -> RankFiles:
    """Return the rank records of a results folder, by rank and epoch; no other file counts."""
    files = RankFiles()
    folder = Path(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not _NAME.fullmatch(path.name) or not path.is_file():
            files.other_files += 1
            continue
        try:
            files.records.append(read_rank_record(path))
        except UserError as error:
            files.problems.append(str(error))
    files.records.sort(key=lambda record: (record.epoch, record.rank))
    return files
