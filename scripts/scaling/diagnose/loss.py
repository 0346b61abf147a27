"""Why a scale loses efficiency: the points that each factor costs, from the step breakdown.

Efficiency lost = 1 - (GPU-seconds per sample at the baseline) / (GPU-seconds per sample here). A
step is the sum of its parts, so the loss is the sum of what each part grew by, and the points add
up; what no factor takes is "not explained". With a smaller batch per GPU than the baseline's, the
costs are first scaled to the baseline's batch: every other factor has the points that it would
cost even then, and the small batch has the rest.
"""

from dataclasses import dataclass
from math import hypot

import pandas as pd

from scaling.diagnose.steps import PARTS

NAMED_POINTS = 5.0  # a factor that costs fewer points is not named
NOISE_ERRORS = 2.0  # standard errors over the epochs
SMALLER = 0.95  # a batch below this share of the baseline's is a smaller one
RULE = (
    "Causes are ranked by the points of efficiency that they cost. None is named under "
    f"{NAMED_POINTS:g} points, within twice the standard error of its mean over the epochs, or "
    f"where less than {NAMED_POINTS:g} points are lost in all."
)
LABELS = {
    "data": "Data wait",
    "communication": "Exposed communication",
    "imbalance": "Imbalance between ranks",
    "batch": "Small per-GPU batch",
    "host_overhead": "Monitoring and bookkeeping",
    "unexplained": "Not explained",
    "rest": "The rest",  # of a step without a baseline
}
_FACTORS = ("data", "communication", "imbalance", "host_overhead")  # that are parts of a step
# They cost the same whatever the batch.
_PER_STEP = ["communication_s", "optimizer_s", "host_overhead_s"]


@dataclass(frozen=True)
class LossFactor:
    """points: of efficiency, None where the records do not tell. noise: what may be chance.

    here_s, base_s: seconds of it per step here, and at the baseline for as many samples.
    """

    key: str
    points: float | None
    noise: float | None = None
    here_s: float | None = None
    base_s: float | None = None

    @property
    def label(self) -> str:
        return LABELS[self.key]

    @property
    def name(self) -> str:
        """The label inside a sentence."""
        return self.label[0].lower() + self.label[1:]

    @property
    def is_noise(self) -> bool:
        """Whether it costs enough to be named, but may be chance."""
        return NAMED_POINTS <= (self.points or 0.0) <= (self.noise or 0.0)

    @property
    def stands_out(self) -> bool:
        return (self.points or 0.0) >= NAMED_POINTS and not self.is_noise


@dataclass(frozen=True)
class Loss:
    """What a scale loses, and to what: against a baseline, or (base None) by itself.

    steps: rows of break_down(); here, base: the mean of such rows. lost_points: of 100 %
    efficiency; by itself: the share of a step that is neither forward and backward nor optimizer.
    factors: the costliest first. without_small_batch: the points that would be lost with the
    baseline's batch, None when the batch is not smaller.
    """

    steps: pd.DataFrame
    here: pd.Series
    base: pd.Series | None
    lost_points: float
    factors: tuple[LossFactor, ...]
    unexplained: LossFactor
    without_small_batch: float | None = None

    @property
    def named(self) -> tuple[LossFactor, ...]:
        """The factors that stand out, the costliest first."""
        if self.lost_points < NAMED_POINTS:
            return ()
        return tuple(factor for factor in self.factors if factor.stands_out)


def find_mean(steps: pd.DataFrame) -> pd.Series:
    """Return the mean of the rows of break_down(): seconds per step."""
    names = ["step_s", *PARTS, "copy_s", "probed_s", "samples", "passes"]
    return steps[names].mean().astype(float)


def compare(here: pd.DataFrame, base: pd.DataFrame, lost_points: float | None = None) -> Loss:
    """Share the efficiency that `here` loses against `base` out among the factors.

    here, base: rows of break_down(), one or more each. lost_points: as the tables have it, from
    the mean throughput of the epochs; its difference from the loss by seconds is not explained.
    """
    seen, then = find_mean(here), find_mean(base)
    pass_size = seen.samples / seen.passes / (then.samples / then.passes)
    now = _bound_probe(seen, then) if SMALLER <= pass_size <= 1 / SMALLER else seen
    costs, before = now / now.samples, then / then.samples  # per sample of one GPU
    scaled = costs.copy()  # to the baseline's batch, where that is larger
    if now.samples < SMALLER * then.samples:
        scaled[_PER_STEP] = now[_PER_STEP] / then.samples
    if pass_size < SMALLER:  # not only a step has fewer samples
        scaled["compute_s"] = before["compute_s"]
    saved = (costs - scaled)[PARTS].sum()
    if saved >= costs.step_s:  # the baseline computes nothing: there is no batch to scale to
        scaled, saved = costs, 0.0
    scaled["step_s"] = costs.step_s - saved
    batch = 100 * before.step_s * (1 / scaled.step_s - 1 / costs.step_s) if saved else 0.0
    factors = [*_list_factors([here, base], costs, scaled, before), LossFactor("batch", batch)]
    if lost_points is None:
        lost_points = 100 * (1 - before.step_s / costs.step_s)
    rest = lost_points - sum(factor.points or 0.0 for factor in factors)
    compute_s = costs.compute_s * now.samples, before.compute_s * now.samples
    unexplained = LossFactor("unexplained", rest, None, *compute_s)
    without = lost_points - batch if saved else None
    return Loss(here, seen, then, lost_points, _rank(factors), unexplained, without)


def look_at(here: pd.DataFrame) -> Loss:
    """Share a step of one scale out, with nothing to compare it with."""
    now = find_mean(here)
    costs = now / now.samples
    factors = _list_factors([here], costs, costs, 0 * costs)
    rest = LossFactor("rest", None, None, now.compute_s + now.optimizer_s)
    return Loss(here, now, None, sum(each.points or 0.0 for each in factors), _rank(factors), rest)


def _list_factors(
    steps: list[pd.DataFrame], costs: pd.Series, scaled: pd.Series, before: pd.Series
) -> list[LossFactor]:
    """steps: here, and at the baseline. costs: per sample here, scaled to its batch, and there."""
    found, is_probed = [], all(each["is_probed"].all() for each in steps)
    for key in _FACTORS:
        part, points, noise = f"{key}_s", None, None
        if is_probed or key != "communication":
            points = 100 * (scaled[part] - before[part]) / scaled.step_s
        if len(steps[0]) > 1:
            shares = (100 * each[part] / each["samples"] / costs.step_s for each in steps)
            noise = NOISE_ERRORS * hypot(*(each.sem() for each in shares if len(each) > 1))
        samples = steps[0]["samples"].mean()
        found.append(LossFactor(key, points, noise, costs[part] * samples, before[part] * samples))
    return found


def _rank(factors: list[LossFactor]) -> tuple[LossFactor, ...]:
    return tuple(sorted(factors, key=lambda factor: -round(factor.points or 0.0, 9)))


def _bound_probe(now: pd.Series, then: pd.Series) -> pd.Series:
    """Take back what the probe gives to imbalance and communication beyond what is possible.

    With the batch of the baseline, forward and backward are not faster than there. Where the
    probe leaves less for them, it was disturbed, and the rank that it finds slow is not.
    """
    bounded = now.copy()
    for part in ("imbalance_s", "communication_s"):
        excess_s = max(then.compute_s / then.samples * now.samples - bounded.compute_s, 0.0)
        taken_s = min(excess_s, now[part])
        bounded[part] -= taken_s
        bounded["compute_s"] += taken_s
    return bounded
