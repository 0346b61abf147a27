"""One device against several, from the rank files of two runs.

Training time is the mean over ranks, throughput the sum over ranks; both are then mean ±
standard deviation over epochs, the first epoch left out.
"""

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.rounding import round_half_even
from scaling.read import contract
from scaling.runs.compare import WORK_TOLERANCE, Spread, divide, list_differences, over_epochs
from scaling.runs.frames import make_rank_epochs_frame
from scaling.runs.records import describe_settings
from scaling.runs.run import Run
from scaling.runs.workloads import NOUNS
from scaling.tables.table import MISSING, is_missing


@dataclass(frozen=True)
class DeviceSet:
    """One run: seconds of an epoch and global throughput, over the epochs after the first.

    batch_size: of all devices together, None when no file says it. per_rank_s: each rank's own
    seconds. samples: of an epoch, all ranks; None when a file does not say.
    notes: what to know of it.
    """

    world_size: int
    batch_size: int | None
    unit: str
    training_s: Spread
    throughput: Spread
    per_rank_s: tuple[Spread, ...]
    samples: float | None
    settings: dict
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """differences: settings that must agree and do not; ratios mean nothing then."""

    single: DeviceSet
    multi: DeviceSet
    differences: tuple[str, ...] = ()


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
    # A metrics file knows too little to be set against the settings of a run.json.
    known = None not in (single.settings.get("unit"), multi.settings.get("unit"))
    differences = list_differences(multi.settings, single.settings) if known else ()
    return Comparison(single, multi, tuple(differences))


def read_devices(folder: Path) -> DeviceSet:
    """Return the figures of one run's rank files; see compare_devices."""
    home = _find_results(folder)
    run, notes = Run(folder, home.name, results_dir=home), []
    ranks = make_rank_epochs_frame([run])
    settings = contract.read_json(home / "run.json") if (home / "run.json").is_file() else {}
    if not settings and run.metrics:
        settings = describe_settings(run.metrics) | {"world_size": run.metrics.world_size}
    if run.lost_records:
        raise UserError(run.lost_records[0])
    if not settings:
        notes.append(f"{home}: no run.json, so its batch size is not known")
    told, found = settings.get("world_size"), int(ranks["rank"].max()) + 1
    world_size = max(found, told) if isinstance(told, int) else found
    there = set(zip(ranks["rank"], ranks["epoch"], strict=True))
    for epoch in range(1, ranks["epoch"].max() + 1):
        for rank in range(world_size):
            if (rank, epoch) not in there:
                path = home / f"rank{rank}_results_epoch{epoch - 1}.json"
                raise UserError(f"{home}: missing: {path}")
    is_good = ranks["throughput_per_s"].notna() & (ranks["training_s"] > 0)
    for name in ranks["source"][~is_good]:
        raise UserError(f"{home / name} cannot be used: no throughput, or no time")
    unit, *others = sorted(set(ranks["unit"]))
    if others:
        listed = ", ".join([unit, *others])
        raise UserError(f"{home}: its rank files count different things: {listed}")
    if (settings.get("unit"), unit) == ("img/s", "samples/s"):
        unit = "img/s"  # images are samples
    steady = ranks[ranks["epoch"] > 1]
    if steady.empty:
        steady = ranks
        notes.append(f"{home}: no steady state: its one epoch stands here, and is warm-up")
    batch, micro = settings.get("global_batch_size"), settings.get("batch_size_per_gpu")
    if not isinstance(batch, int):
        batch = micro * world_size if isinstance(micro, int) else None
    by_epoch = steady.groupby("epoch")
    samples = by_epoch["samples"].sum(min_count=world_size).iloc[0]
    return DeviceSet(
        world_size, batch, unit,
        training_s=over_epochs(by_epoch["training_s"].mean().tolist()),
        throughput=over_epochs(by_epoch["throughput_per_s"].sum().tolist()),
        per_rank_s=tuple(over_epochs(times.tolist())
                         for _, times in steady.groupby("rank")["training_s"]),
        samples=None if is_missing(samples) else float(samples),
        settings=settings, notes=notes,
    )  # fmt: skip


def _find_results(folder: Path) -> Path:
    """Return the folder that holds the rank files: itself, or its latest run's."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; name it with --single DIR --multi DIR, or make it with "
            f"--workdir {folder.name}"
        )
    runs = [path for path in (folder / "results").glob("*") if contract.RUN_ID.fullmatch(path.name)]
    runs.sort(key=lambda path: contract.split_id(path.name))
    for home in (folder, *reversed(runs)):
        if any(home.glob("rank*_results_epoch*.json")):
            return home
    raise UserError(f"{folder}: missing: {folder / 'rank0_results_epoch0.json'}")


# ---- As text ---------------------------------------------------------------------------------


def format_comparison(comparison: Comparison, allow_unlike: bool = False) -> str:
    """Return the comparison as text, and what its figures are.

    Runs whose settings differ have no speedup, and what differs is named; allow_unlike divides
    them all the same.
    """
    single, multi = comparison.single, comparison.multi
    unlike = "; ".join(comparison.differences)
    faster, more = (
        MISSING if unlike and not allow_unlike else f"{round_half_even(divide(value, base), 2)}x"
        for value, base in (
            (single.training_s.mean, multi.training_s.mean),
            (multi.throughput.mean, single.throughput.mean),
        )
    )
    notes = [f"the runs are not alike: {unlike}"] if unlike else []
    if multi.batch_size is not None and multi.batch_size == single.batch_size:
        notes.append("the global batch is the same (strong scaling): each device has less to do.")
    ratio = divide(multi.samples, single.samples)
    if ratio and abs(ratio - 1) > WORK_TOLERANCE:
        pct = round_half_even((ratio - 1) * 100, 1)
        notes.append(
            f"an epoch of the several had {pct} % more samples (or tokens) than the single's: "
            "the training times are no measure of the same work."
        )
    lines = [
        *_format_devices("Single Device", single),
        *_format_devices("Multi-Device", multi),
        "Speedup:",
        f"  Training Time Speedup: {faster}",
        f"  Throughput Speedup: {more}",
        "",
        "Training time: mean over ranks; throughput: sum over ranks. Mean ± sample standard",
        "deviation (ddof 1) over the epochs after the first: "
        f"{single.training_s.n} and {multi.training_s.n}.",
        *(f"Note: {note}" for note in (*notes, *single.notes, *multi.notes)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _format_devices(name: str, devices: DeviceSet) -> list[str]:
    shown = []
    for spread in (devices.training_s, devices.throughput):
        half = spread.half_width
        end = "(one epoch: no deviation)" if half is None else f"± {round_half_even(half, 2)}"
        shown.append(f"{round_half_even(spread.mean, 2)} {end}")
    batch = "unknown" if devices.batch_size is None else devices.batch_size
    counted = "Images" if devices.unit == "img/s" else NOUNS.get(devices.unit, "samples")
    return [
        f"{name} (world_size={devices.world_size}, batch_size={batch}):",
        f"  Training Time: {shown[0]} seconds",
        f"  {counted.capitalize()}/Second: {shown[1]}",
    ]
