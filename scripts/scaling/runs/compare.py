"""What runs are compared by: ratios, spreads, settings that must agree."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.rounding import round_half_even
from scaling.runs.workloads import NOUNS, SCORES

# ---- Ratios: the one place where two throughputs, or two times, are divided ------------------
# Values may be Decimal (printed digits, exact to 28), float, or pandas Series of floats.

SUPERLINEAR_PCT = 105  # up to here it is noise
GOOD_ONE_NODE_PCT, GOOD_NODES_PCT, POOR_PCT = 85, 75, 70


def divide(value, base):
    """Return value / base; for scalars None when either is missing or the base is 0."""
    if hasattr(base, "iloc"):  # a Series; pandas is not imported for this
        return value / base.where(base > 0)
    if hasattr(value, "iloc"):
        return value / (base if base > 0 else float("nan"))
    return None if value is None or not base else value / base


def compute_efficiency_pct(speedup, gpus, base_gpus=1):
    """Return parallel efficiency in %: speedup over what so many more GPUs would ideally give."""
    return None if speedup is None else speedup * 100 * base_gpus / gpus


def name_band(efficiency_pct: float | None, nodes: int | None) -> str | None:
    """Return good, fair or poor: good is above 85 % on one node, above 75 % across nodes."""
    if efficiency_pct is None or efficiency_pct != efficiency_pct:
        return None
    good = GOOD_NODES_PCT if (nodes or 1) > 1 else GOOD_ONE_NODE_PCT
    return "good" if efficiency_pct > good else "poor" if efficiency_pct < POOR_PCT else "fair"


# ---- Spread: how far a mean can be trusted ---------------------------------------------------

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A mean and what is around it.

    half_width: of the 95 % interval (kind "repeats"), or the sample standard deviation
    (kind "epochs"); None where n is 1 (kind "single"): nothing to judge a spread from.
    """

    mean: float
    n: int
    half_width: float | None
    kind: str

    def describe(self, places: int = 2, unit: str = "") -> str | None:
        """Say what the ± is, None where there is none."""
        if self.half_width is None:
            return None
        width = round_half_even(self.half_width, places) + unit
        if self.kind == "repeats":
            return f"± {width}: 95 % interval of the mean, Student t, n = {self.n} runs"
        return (
            f"one run, so no interval; its {self.n} epochs or windows after warm-up spread by "
            f"± {width} (sample standard deviation, ddof 1)"
        )


def over_repeats(values: Sequence[float]) -> Spread:
    """Return mean and 95 % interval of independent runs (Student t with n - 1 degrees)."""
    found, n = over_epochs(values), len(values)
    if n < 2:
        return found
    half_width = quantile_t(n - 1) * found.half_width / math.sqrt(n)
    return Spread(found.mean, n, half_width, "repeats")


def over_epochs(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation of one run's epochs.

    Epochs of one run share its node and its luck: their spread is no interval of the mean.
    """
    mean, n = math.fsum(values) / len(values), len(values)
    return Spread(mean, n, deviate(values), "epochs") if n > 1 else Spread(mean, n, None, "single")


def deviate(values: Sequence[float]) -> float:
    """Return the sample standard deviation of two values or more."""
    from statistics import stdev  # not for --help, as scipy below

    try:
        return stdev(values)
    except OverflowError:  # Python 3.10, of values near the largest float
        most = max(map(abs, values))
        return stdev([value / most for value in values]) * most


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the pooled sample standard deviation of groups, None when none has two values."""
    repeated = [values for values in groups if len(values) > 1]
    if not repeated:
        return None
    squares = sum((len(values) - 1) * deviate(values) ** 2 for values in repeated)
    return math.sqrt(squares / sum(len(values) - 1 for values in repeated))


def quantile_t(degrees: int) -> float:
    """Return the factor of a two-sided 95 % interval: 12.71 for 1 degree, 4.30 for 2."""
    from scipy.special import stdtrit  # slow to import, and only repeats need it

    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))


# ---- Settings that must agree ----------------------------------------------------------------

# Of run.json, before two runs are compared; the batch, too (see there). dataset.train: the
# rehearsal's digits are not TinyImageNet.
COMPARED_SETTINGS = (
    "workload", "scaling", "strategy", "model", "model_size", "seq_len", "image_size", "input",
    "cuda_graph", "trainer_sha256", "precision", "device", "optimizer", "num_workers", "epochs",
    "gpu_name", "versions.torch", "dataset.train", "dataset.classes", "limit_batches", "compile",
    "activation_checkpointing", "grad_compression", "bucket_cap_mb", "tensor_parallel",
)  # fmt: skip
WORK_TOLERANCE = 0.01  # each rank drops its last, incomplete batch
ABSENT = "not recorded"  # as it is shown; a setting that is there and null is "none"
_NOTHING = (None, ABSENT)  # an older record and a null one do not differ
_PROFILER = re.compile(r"(?<!\S)--(?:profile(?:r|[-_]mode)?|nvtx)(?![^\s=])[\s=]*(\S*)")


def look_up(settings: dict | None, dotted_name: str) -> object:
    """Return a setting by its dotted name, ABSENT when it is not there."""
    value: object = settings
    for key in dotted_name.split("."):
        value = value.get(key, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def is_same_unit(unit: str | None, other: str | None) -> bool:
    """Whether two throughputs count the same: images are samples."""
    return NOUNS.get(unit, unit) == NOUNS.get(other, other)


def is_profiled(source) -> bool:
    """Whether a profiler ran, by the command line of a run or a metrics file."""
    argv = (source.settings or {}).get("argv") or ""
    found = _PROFILER.search(" ".join(map(str, argv)) if isinstance(argv, list) else str(argv))
    return bool(found) and found[1].lower() not in ("0", "false", "no", "none")


def list_work_differences(run, base, name: str = "baseline") -> list[str]:
    """List what two runs did besides their settings: profiler, validation, the work of an epoch.

    name: what the other is called.
    What an epoch has is compared at one scale alone: strong scaling has fewer steps on more GPUs.
    """
    found, pair = [], [(each, each.metrics.epochs if each.metrics else []) for each in (run, base)]
    validated = (_has_validation(epochs) for _, epochs in pair)
    for what, (here, there) in (
        ("profiler", map(is_profiled, (run, base))), ("validation", validated),
    ):  # fmt: skip
        if None not in (here, there) and here != there:
            found.append(f"{what} {'on' if here else 'off'}, {name} {'on' if there else 'off'}")
    for field in ("samples", "steps") if (run.gpus, run.nodes) == (base.gpus, base.nodes) else ():
        here, there = (max((getattr(epoch, field) or 0 for epoch in epochs), default=0)
                       for _, epochs in pair)  # fmt: skip
        if here and there and abs(here / there - 1) > WORK_TOLERANCE:
            what = NOUNS.get(run.unit, field) if field == "samples" else field
            return [*found, f"{here:.0f} {what} per epoch, {name} {there:.0f}"]
    return found


def _has_validation(epochs: list) -> bool | None:
    """Whether any epoch was validated, None where no metrics file says."""
    names = ("val_loss", *(score.column for score in SCORES))
    return any(getattr(e, name) is not None for e in epochs for name in names) if epochs else None


def list_differences(
    settings: dict, base: dict, names: tuple[str, ...] = COMPARED_SETTINGS
) -> list[str]:
    """List the settings that must agree and do not, as `name value, baseline value`."""
    # Weak scaling fixes the batch of each GPU, strong scaling the batch of all together.
    modes = (settings.get("scaling"), base.get("scaling"))
    batches = ("global_batch_size",) if modes == ("strong", "strong") else ("batch_size_per_gpu",)
    if modes == (None, None):  # a file of others says neither: one of the two must agree
        both = ("batch_size_per_gpu", "global_batch_size")
        agree = any(look_up(settings, name) == look_up(base, name) for name in both)
        batches = () if agree else both
    pairs = ((name, look_up(settings, name), look_up(base, name)) for name in (*names, *batches))
    return [
        f"{name} {_show(here)}, baseline {_show(there)}" for name, here, there in pairs
        if here != there and not (here in _NOTHING and there in _NOTHING)
    ]  # fmt: skip


def _show(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] + "…"


def compare(run, base) -> tuple[str | None, str | None]:
    """Return (what differs, what to know): the first None when the two may be compared.

    Both have name, nodes, gpus, unit, metrics and settings (run.json's fields, None when unknown).
    """
    if run is base:
        return None, None
    if not is_same_unit(run.unit, base.unit):
        return f"counted in {run.unit}, the baseline in {base.unit}", None
    unknown = [each for each in (run, base) if each.settings is None]
    if len(unknown) == 1:
        return f"the settings of job {unknown[0].name} are unknown (no run.json)", None
    differences, note = list_work_differences(run, base), None
    if unknown:
        return "; ".join(differences) or None, "settings unknown (no run.json)"
    names = COMPARED_SETTINGS
    here, there = (each.settings.get("implementation") for each in (run, base))
    if here != there and 1 in (run.gpus, base.gpus):
        note = f"implementation {here}, baseline {there}: one GPU shares nothing, so not compared"
    else:
        names += ("implementation",)
    differences += list_differences(run.settings, base.settings, names)
    return "; ".join(differences) or None, note
