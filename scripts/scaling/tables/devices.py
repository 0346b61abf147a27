"""One device against several, from the rank files of two runs.

Training time is the mean over ranks, throughput the sum over ranks; both are then mean ±
standard deviation over epochs, the first epoch left out.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from scaling.read import contract
from scaling.read.metrics_json import read_training_metrics
from scaling.read.rank_json import RankEpoch, read_rank_files
from scaling.runs.comparing import list_differences
from scaling.runs.measured import describe_settings
from scaling.runs.spread import Spread, over_epochs
from scaling.runs.study import divide


@dataclass(frozen=True)
class DeviceSet:
    """One run: seconds of an epoch and global throughput, over the epochs after the first.

    batch_size: of all devices together, None when no file says it. per_rank: each rank's own
    seconds and throughput. notes: what to know of it.
    """

    folder: Path
    world_size: int
    batch_size: int | None
    unit: str
    training_s: Spread
    throughput: Spread
    per_rank_s: tuple[Spread, ...]
    per_rank_throughput: tuple[Spread, ...]
    notes: tuple[str, ...] = ()
    settings: dict = field(default_factory=dict)
    samples: float | None = None  # of an epoch, all ranks; None when a file does not say


@dataclass(frozen=True)
class Comparison:
    """differences: settings that must agree and do not; ratios mean nothing then."""

    single: DeviceSet
    multi: DeviceSet
    differences: tuple[str, ...] = ()

    @property
    def time_speedup(self):
        """Single's training time / multi's, exact."""
        return divide(self.single.training_s.mean, self.multi.training_s.mean)

    @property
    def throughput_speedup(self):
        """Multi's throughput / single's, exact."""
        return divide(self.multi.throughput.mean, self.single.throughput.mean)


def compare_devices(single_dir: Path, multi_dir: Path) -> Comparison:
    """Return one device set against the other.

    The folders hold `rank<r>_results_epoch<e>.json`, directly or in `results/<id>/` of a run
    folder (then of its latest run). Raises UserError, naming the file, when one is missing
    or cannot be read, and when the two count different things.
    """
    single, multi = read_devices(Path(single_dir)), read_devices(Path(multi_dir))
    if single.world_size != 1:
        raise UserError(
            f"{single_dir}: it has the files of {single.world_size} ranks, and is given as the "
            "single device; give it as --multi"
        )
    if multi.world_size < 2:
        raise UserError(
            f"{multi_dir}: it has the files of one rank; missing: "
            f"{multi_dir / 'rank1_results_epoch0.json'}"
        )
    if (single.unit == "tokens/s") != (multi.unit == "tokens/s"):
        raise UserError(
            f"{single_dir} counts {single.unit} and {multi_dir} {multi.unit}: not one workload"
        )
    return Comparison(single, multi, tuple(_list_differences(single, multi)))


def compare_work(comparison: Comparison) -> float | None:
    """Return how much more samples an epoch several devices trained on, as a fraction."""
    single, multi = comparison.single.samples, comparison.multi.samples
    return multi / single - 1 if single and multi else None


def _list_differences(single: DeviceSet, multi: DeviceSet) -> list[str]:
    """Compare the settings of two run.json; a metrics file knows too little to be set against."""
    if single.settings.get("unit") is None or multi.settings.get("unit") is None:
        return []
    return list_differences(multi.settings, single.settings)


def read_devices(folder: Path) -> DeviceSet:
    """Return the figures of one run's rank files; see compare_devices."""
    home = _find_results(folder)
    files = read_rank_files(home)
    if files.problems:
        raise UserError(files.problems[0])
    settings, notes = _read_settings(home)
    world_size = _check_complete(home, files.records, settings)
    units = {record.unit for record in files.records}
    if len(units) > 1:
        raise UserError(f"{home}: its rank files count different things: {_join(units)}")
    (unit,) = units
    if (settings.get("unit"), unit) == ("img/s", "samples/s"):
        unit = "img/s"  # images are samples
    by_epoch = _group(files.records)
    steady = dict(list(by_epoch.items())[1:])
    if not steady:
        steady = by_epoch
        notes.append(f"{home}: no steady state: its one epoch stands here, and is warm-up")
    return DeviceSet(
        folder,
        world_size,
        _find_batch_size(settings, world_size),
        unit,
        over_epochs([_mean([r.training_s for r in ranks]) for ranks in steady.values()]),
        over_epochs([sum(_rate(r) for r in ranks) for ranks in steady.values()]),
        tuple(
            over_epochs([ranks[rank].training_s for ranks in steady.values()])
            for rank in range(world_size)
        ),
        tuple(
            over_epochs([_rate(ranks[rank]) for ranks in steady.values()])
            for rank in range(world_size)
        ),
        tuple(notes),
        settings,
        _count_samples(next(iter(steady.values()))),
    )


def _count_samples(ranks: list[RankEpoch]) -> float | None:
    counts = [rank.samples for rank in ranks]
    return None if None in counts else sum(counts)


def _find_results(folder: Path) -> Path:
    """Return the folder that holds the rank files: itself, or its latest run's."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; name it with --single DIR --multi DIR, or make it with "
            f"--workdir {folder.name}"
        )
    if any(folder.glob("rank*_results_epoch*.json")):
        return folder
    runs = [path for path in (folder / "results").glob("*") if contract.RUN_ID.fullmatch(path.name)]
    found = [path for path in runs if any(path.glob("rank*_results_epoch*.json"))]
    if not found:
        raise UserError(f"{folder}: missing: {folder / 'rank0_results_epoch0.json'}")
    return max(found, key=lambda path: contract.split_id(path.name))


def _read_settings(home: Path) -> tuple[dict, list[str]]:
    """Return run.json, else what training_metrics.json says, else {} and a note."""
    if (home / "run.json").is_file():
        return contract.read_json(home / "run.json"), []
    if (home / "training_metrics.json").is_file():
        metrics = read_training_metrics(home / "training_metrics.json")
        return {**describe_settings(metrics), "world_size": metrics.world_size}, []
    return {}, [f"{home}: no run.json, so its batch size is not known"]


def _check_complete(home: Path, records: list[RankEpoch], settings: dict) -> int:
    """Return the number of ranks; name the first file that is missing of every rank and epoch."""
    there = {(record.rank, record.epoch) for record in records}
    told = settings.get("world_size")
    ranks = max(rank for rank, _ in there) + 1
    ranks = max(ranks, told) if isinstance(told, int) else ranks
    epochs = max(epoch for _, epoch in there) + 1
    for epoch in range(epochs):
        for rank in range(ranks):
            if (rank, epoch) not in there:
                missing = home / f"rank{rank}_results_epoch{epoch}.json"
                raise UserError(f"{home}: missing: {missing}")
    for record in records:
        if record.throughput_per_s is None or record.training_s <= 0:
            raise UserError(f"{record.path} cannot be used: no throughput, or no time")
    return ranks


def _find_batch_size(settings: dict, world_size: int) -> int | None:
    whole, micro = settings.get("global_batch_size"), settings.get("batch_size_per_gpu")
    if isinstance(whole, int):
        return whole
    return micro * world_size if isinstance(micro, int) else None


def _group(records: list[RankEpoch]) -> dict[int, list[RankEpoch]]:
    """Return epoch -> its records in the order of their ranks (read_rank_files sorts them)."""
    by_epoch: dict[int, list[RankEpoch]] = defaultdict(list)
    for record in records:
        by_epoch[record.epoch].append(record)
    return by_epoch


def _mean(values: list[float]) -> float:
    return over_epochs(values).mean


def _rate(record: RankEpoch):
    return over_epochs([record.throughput_per_s]).mean  # exact, so that sums are


def _join(units: set) -> str:
    return ", ".join(sorted(str(unit) for unit in units))
