"""Why a scale loses efficiency: the points that each cause costs, from the step breakdown.

Efficiency lost = 1 - (GPU-seconds a sample at the baseline) / (GPU-seconds a sample here). A step
is the sum of its parts, so the loss is the sum of what each part grew by, and the points add up;
what no cause takes is "not explained". With a smaller batch per GPU than the baseline's, the
costs are first reckoned at the baseline's batch: every other cause has the points that it would
cost even then, and the small batch has the rest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from scaling.diagnose.parts import Late, RunParts, StepParts

NAMED_POINTS = 5.0  # fewer points are no cause worth a name
NOISE_ERRORS = 2.0  # standard errors over the epochs
SMALLER = 0.95  # below so much of the baseline's batch, a batch is smaller
RULE = (
    "Causes are ranked by the points of efficiency that they cost. None is named under "
    f"{NAMED_POINTS:g} points, nor within twice the standard error of its mean over the epochs, "
    f"nor where less than {NAMED_POINTS:g} points are lost in all."
)
LABELS = {
    "data": "Data wait",
    "communication": "Exposed communication",
    "imbalance": "Imbalance between ranks",
    "batch": "Small per-GPU batch",
    "between": "Monitoring and bookkeeping",
    "unexplained": "Not explained",
    "rest": "The rest",  # of a step looked at by itself
}
_CAUSES = ("data", "communication", "imbalance", "between")  # that are parts of a step
_PER_STEP = ("communication", "optimizer", "between")  # cost the same whatever the batch
_PARTS = ("data", "communication", "imbalance", "optimizer", "between", "compute")


@dataclass(frozen=True)
class Cause:
    """points: of efficiency; None where the records do not tell. noise: what may be chance.

    here_s, base_s: seconds of it in a step here, and at the baseline for as many samples.
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
        """The label inside of a sentence."""
        return self.label[0].lower() + self.label[1:]

    @property
    def stands_out(self) -> bool:
        points = self.points or 0.0
        return points >= NAMED_POINTS and points > (self.noise or 0.0)


@dataclass(frozen=True)
class Loss:
    """What a configuration loses, and to what: against a baseline, or (base None) by itself.

    lost_points: of 100 % efficiency; alone: the share of a step that is neither forward and
    backward nor optimizer. causes: the costliest first. without_small_batch: the points that
    would be lost with the baseline's batch, None when the batch is not smaller.
    """

    here: RunParts
    base: RunParts | None
    lost_points: float
    causes: tuple[Cause, ...]
    unexplained: Cause
    without_small_batch: float | None = None

    @property
    def named(self) -> tuple[Cause, ...]:
        if self.lost_points < NAMED_POINTS:
            return ()
        return tuple(cause for cause in self.causes if cause.stands_out)


def compare(here: RunParts, base: RunParts, lost_points: float | None = None) -> Loss:
    """Share the efficiency that `here` loses against `base` out among the causes.

    lost_points: as the tables have it, a mean over epochs' throughput; what it differs by from
    the seconds is not explained. Both must have epochs.
    """
    then = base.mean
    size = _compare_passes(here, base)
    now = _bound_probe(here.mean, then) if SMALLER <= size <= 1 / SMALLER else here.mean
    costs = {name: now.cost(name) for name in (*_PARTS, "step")}
    before = {name: then.cost(name) for name in (*_PARTS, "step")}
    at_base = _reckon_at(now, then, size < SMALLER)
    saved = sum(costs[name] - at_base[name] for name in _PARTS)
    if saved >= costs["step"]:  # the baseline computes nothing: no batch to reckon at
        at_base, saved = costs, 0.0
    whole = costs["step"] - saved  # a sample, with the baseline's batch
    causes = []
    for name in _CAUSES:
        is_known = name != "communication" or (here.is_probed and base.is_probed)
        points = 100 * (at_base[name] - before[name]) / whole if is_known else None
        noise = _find_noise(here.epochs, base.epochs, name, costs["step"])
        causes.append(Cause(name, points, noise, costs[name] * now.samples,
                            before[name] * now.samples))  # fmt: skip
    batch = 100 * before["step"] * (1 / whole - 1 / costs["step"]) if saved else 0.0
    causes.append(Cause("batch", batch))
    lost = 100 * (1 - before["step"] / costs["step"])
    rest = lost - sum(cause.points or 0.0 for cause in causes)
    lost_points = lost if lost_points is None else lost_points
    ordered = tuple(sorted(causes, key=lambda cause: -(cause.points or 0.0)))
    return Loss(
        here,
        base,
        lost_points,
        ordered,
        Cause("unexplained", rest + lost_points - lost, None, costs["compute"] * now.samples,
              before["compute"] * now.samples),
        lost_points - batch if saved else None,
    )  # fmt: skip


def _compare_passes(here: RunParts, base: RunParts) -> float:
    """Return the samples of a pass over the baseline's."""
    return here.mean.samples / here.passes / (base.mean.samples / base.passes)


def _bound_probe(now: StepParts, then: StepParts) -> StepParts:
    """Take back what the probe gives to imbalance and communication beyond what there can be.

    With the batch of the baseline, forward and backward are not faster than there. Where the
    probe leaves less for them, it was disturbed, and a rank that it calls slow is none.
    """
    excess_s = then.cost("compute") * now.samples - now.compute_s
    if excess_s <= 0:
        return now
    imbalance_s = max(now.imbalance_s - excess_s, 0.0)
    left_s = excess_s - (now.imbalance_s - imbalance_s)
    communication_s = max(now.communication_s - left_s, 0.0)
    taken_s = now.imbalance_s - imbalance_s + now.communication_s - communication_s
    return replace(
        now,
        imbalance_s=imbalance_s,
        communication_s=communication_s,
        compute_s=now.compute_s + taken_s,
    )


def _reckon_at(now: StepParts, then: StepParts, is_smaller: bool) -> dict[str, float]:
    """Return the costs a sample with the baseline's batch: equal ones unless it is larger."""
    costs = {name: now.cost(name) for name in _PARTS}
    if now.samples < SMALLER * then.samples:
        costs |= {name: getattr(now, f"{name}_s") / then.samples for name in _PER_STEP}
    if is_smaller:
        costs["compute"] = then.cost("compute")
    return costs


def look_at(here: RunParts) -> Loss:
    """Share a step of one configuration out, with nothing to compare it with."""
    mean = here.mean
    causes = []
    for name in _CAUSES:
        is_known = name != "communication" or here.is_probed
        seconds = getattr(mean, f"{name}_s")
        noise = _find_noise(here.epochs, (), name, mean.cost("step"))
        points = 100 * seconds / mean.step_s if is_known else None
        causes.append(Cause(name, points, noise, seconds))
    ordered = tuple(sorted(causes, key=lambda cause: -(cause.points or 0.0)))
    lost = sum(cause.points or 0.0 for cause in causes)
    work_s = mean.compute_s + mean.optimizer_s
    return Loss(here, None, lost, ordered, Cause("rest", None, None, work_s))


def _find_noise(
    here: Sequence[StepParts], base: Sequence[StepParts], name: str, step_cost: float
) -> float | None:
    """Return the points that chance may give a cause; None with a single epoch."""
    if len(here) < 2:
        return None
    variance = 0.0
    for epochs in (here, base):
        if len(epochs) > 1:
            costs = [100 * epoch.cost(name) / step_cost for epoch in epochs]
            variance += stdev(costs) ** 2 / len(costs)
    return NOISE_ERRORS * variance**0.5


def find_late(here: RunParts) -> tuple[Late, int] | None:
    """Return the rank that was the busiest in most epochs, and in how many; its mean seconds."""
    found = [late for late in here.late if late is not None]
    if not found:
        return None
    (rank, part), times = Counter((late.rank, late.part) for late in found).most_common(1)[0]
    same = [late for late in found if (late.rank, late.part) == (rank, part)]
    its_s, typical_s = (fmean(getattr(e, name) for e in same) for name in ("its_s", "typical_s"))
    return Late(rank, same[0].host, part, its_s, typical_s), times
