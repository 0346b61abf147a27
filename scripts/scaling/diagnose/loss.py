"""Why a scale loses efficiency: the points that each factor costs, from the step breakdown.

Efficiency lost = 1 - (GPU-seconds per sample at the baseline) / (GPU-seconds per sample here). A
step is the sum of its parts, so the loss is the sum of what each part grew by, and the points add
up; what no factor takes is "not explained". With a smaller batch per GPU than the baseline's, the
costs are first scaled to the baseline's batch: every other factor has the points that it would
cost even then, and the small batch has the rest.
"""

from dataclasses import dataclass, replace

from scaling.diagnose.steps import ScaleSteps, StepBreakdown

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
_PER_STEP = ("communication", "optimizer", "host_overhead")  # cost the same whatever the batch
_PARTS = (*_FACTORS, "optimizer", "compute")


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

    lost_points: of 100 % efficiency; by itself: the share of a step that is neither forward and
    backward nor optimizer. factors: the costliest first. without_small_batch: the points that
    would be lost with the baseline's batch, None when the batch is not smaller.
    """

    here: ScaleSteps
    base: ScaleSteps | None
    lost_points: float
    factors: tuple[LossFactor, ...]
    unexplained: LossFactor
    without_small_batch: float | None = None

    @property
    def named(self) -> tuple[LossFactor, ...]:
        if self.lost_points < NAMED_POINTS:
            return ()
        return tuple(factor for factor in self.factors if factor.stands_out)


def compare(here: ScaleSteps, base: ScaleSteps, lost_points: float | None = None) -> Loss:
    """Share the efficiency that `here` loses against `base` out among the factors.

    lost_points: as the tables have it, from the mean throughput of the epochs; its difference
    from the loss by seconds is not explained. Both must have epochs.
    """
    then, now = base.mean, here.mean
    pass_size = now.samples / here.passes / (then.samples / base.passes)
    if SMALLER <= pass_size <= 1 / SMALLER:
        now = _bound_probe(now, then)
    costs, before = ({part: mean.cost(part) for part in _PARTS} for mean in (now, then))
    step_cost, base_cost = now.cost("step"), then.cost("step")
    scaled = _scale_to_batch(now, then, is_smaller=pass_size < SMALLER)
    saved = sum(costs[part] - scaled[part] for part in _PARTS)
    if saved >= step_cost:  # the baseline computes nothing: there is no batch to scale to
        scaled, saved = costs, 0.0
    scaled_cost = step_cost - saved  # per sample, with the baseline's batch
    batch = 100 * base_cost * (1 / scaled_cost - 1 / step_cost) if saved else 0.0
    factors = []
    for key in _FACTORS:
        is_known = key != "communication" or (here.is_probed and base.is_probed)
        points = 100 * (scaled[key] - before[key]) / scaled_cost if is_known else None
        noise = _estimate_noise(here, base, key, step_cost)
        seconds = costs[key] * now.samples, before[key] * now.samples
        factors.append(LossFactor(key, points, noise, *seconds))
    factors.append(LossFactor("batch", batch))
    lost = 100 * (1 - base_cost / step_cost)
    lost_points = lost if lost_points is None else lost_points
    rest = lost_points - sum(factor.points or 0.0 for factor in factors)
    seconds = costs["compute"] * now.samples, before["compute"] * now.samples
    return Loss(
        here,
        base,
        lost_points,
        _rank(factors),
        LossFactor("unexplained", rest, None, *seconds),
        lost_points - batch if saved else None,
    )


def look_at(here: ScaleSteps) -> Loss:
    """Share a step of one scale out, with nothing to compare it with."""
    mean, factors = here.mean, []
    for key in _FACTORS:
        is_known = key != "communication" or here.is_probed
        seconds = getattr(mean, f"{key}_s")
        points = 100 * seconds / mean.step_s if is_known else None
        noise = _estimate_noise(here, None, key, mean.cost("step"))
        factors.append(LossFactor(key, points, noise, seconds))
    lost = sum(factor.points or 0.0 for factor in factors)
    rest = LossFactor("rest", None, None, mean.compute_s + mean.optimizer_s)
    return Loss(here, None, lost, _rank(factors), rest)


def _rank(factors: list[LossFactor]) -> tuple[LossFactor, ...]:
    return tuple(sorted(factors, key=lambda factor: -round(factor.points or 0.0, 9)))


def _bound_probe(now: StepBreakdown, then: StepBreakdown) -> StepBreakdown:
    """Take back what the probe gives to imbalance and communication beyond what is possible.

    With the batch of the baseline, forward and backward are not faster than there. Where the
    probe leaves less for them, it was disturbed, and the rank that it finds slow is not.
    """
    excess_s = max(then.cost("compute") * now.samples - now.compute_s, 0.0)
    from_imbalance_s = min(excess_s, now.imbalance_s)
    from_communication_s = min(excess_s - from_imbalance_s, now.communication_s)
    return replace(
        now,
        imbalance_s=now.imbalance_s - from_imbalance_s,
        communication_s=now.communication_s - from_communication_s,
        compute_s=now.compute_s + from_imbalance_s + from_communication_s,
    )


def _scale_to_batch(now: StepBreakdown, then: StepBreakdown, is_smaller: bool) -> dict[str, float]:
    """Return the costs per sample with the baseline's batch; those of now if it is no larger.

    is_smaller: whether a pass has fewer samples than at the baseline, not only a step.
    """
    costs = {part: now.cost(part) for part in _PARTS}
    if now.samples < SMALLER * then.samples:
        costs |= {part: getattr(now, f"{part}_s") / then.samples for part in _PER_STEP}
    if is_smaller:
        costs["compute"] = then.cost("compute")
    return costs


def _estimate_noise(
    here: ScaleSteps, base: ScaleSteps | None, key: str, step_cost: float
) -> float | None:
    """Return the points that chance may give a factor; None with a single epoch."""
    if len(here.epochs) < 2:
        return None
    variance = 0.0
    for steps in (here, base):
        if steps is not None and len(steps.epochs) > 1:
            costs = 100 * steps.epochs[f"{key}_s"] / steps.epochs["samples"] / step_cost
            variance += float(costs.var()) / len(costs)
    return NOISE_ERRORS * variance**0.5
