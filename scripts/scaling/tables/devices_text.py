"""The comparison of one device with several, in words."""

from scaling.read.numbers import round_half_even
from scaling.runs.spread import Spread
from scaling.tables.cells import MISSING
from scaling.tables.devices import Comparison, DeviceSet, compare_work

_WORDS = {"tokens/s": "Tokens", "img/s": "Images", "samples/s": "Samples"}


def format_comparison(comparison: Comparison, allow_unlike: bool = False) -> str:
    """Return the comparison as text, and what its figures are.

    Runs whose settings differ have no speedup, and what differs is named; allow_unlike divides
    them all the same.
    """
    single, multi = comparison.single, comparison.multi
    unlike = "; ".join(comparison.differences)
    ratios = [MISSING if unlike and not allow_unlike else f"{round_half_even(ratio, 2)}x"
              for ratio in (comparison.time_speedup, comparison.throughput_speedup)]  # fmt: skip
    lines = [
        *_format_devices("Single Device", single),
        *_format_devices("Multi-Device", multi),
        "Speedup:",
        f"  Training Time Speedup: {ratios[0]}",
        f"  Throughput Speedup: {ratios[1]}",
        "",
        "Training time: mean over ranks; throughput: sum over ranks. Mean ± sample standard",
        "deviation (ddof 1) over the epochs after the first: "
        f"{single.training_s.n} and {multi.training_s.n}.",
        *_compare_batches(single, multi),
        *_compare_work(comparison),
        *([f"Note: the runs are not alike: {unlike}"] if unlike else []),
        *(f"Note: {note}" for note in (*single.notes, *multi.notes)),
    ]
    return "\n".join(lines) + "\n"


def _format_devices(name: str, devices: DeviceSet) -> list[str]:
    batch = "unknown" if devices.batch_size is None else devices.batch_size
    word = _WORDS.get(devices.unit, "Samples")
    return [
        f"{name} (world_size={devices.world_size}, batch_size={batch}):",
        f"  Training Time: {_format_spread(devices.training_s)} seconds",
        f"  {word}/Second: {_format_spread(devices.throughput)}",
    ]


def _format_spread(spread: Spread) -> str:
    if spread.half_width is None:
        return f"{round_half_even(spread.mean, 2)} (one epoch: no deviation)"
    return f"{round_half_even(spread.mean, 2)} ± {round_half_even(spread.half_width, 2)}"


def _compare_work(comparison: Comparison) -> list[str]:
    """Say so when an epoch was not the same work: its times are then no speedup."""
    work = compare_work(comparison)
    if work is None or abs(work) <= 0.01:
        return []
    pct = round_half_even(work * 100, 1)
    return [
        f"Note: an epoch of the several had {pct} % more samples (or tokens) than the single's: "
        "the training times are no measure of the same work."
    ]


def _compare_batches(single: DeviceSet, multi: DeviceSet) -> list[str]:
    """Say what the batch means for the speedup; nothing when it is not known."""
    if single.batch_size is None or multi.batch_size is None:
        return []
    if multi.batch_size == single.batch_size * multi.world_size:
        return []
    if multi.batch_size == single.batch_size:
        return ["Note: the global batch is the same (strong scaling): each device has less to do."]
    return ["Note: neither the batch of a device nor that of all is the same in the two runs."]
