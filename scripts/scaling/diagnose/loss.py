"""Where a step's seconds go, and the points of efficiency that each cause takes.

In each step all ranks wait for the slowest one. They wait inside the all-reduce, so the waiting is
in `compute_s` of the fast ranks and never in that of the slow one. How the parts are told apart:

- communication: the smallest exposed_comm_s of all ranks. The probe's figure includes waiting;
  the rank that waits least is the slow one, and its figure is communication alone.
- a rank's own work: its data wait, copy, optimizer, host overhead, and its forward and backward
  pass as the probe timed it without communication.
- imbalance: own work of the busiest rank minus that of the typical one (the lower median).
- the other parts are the typical rank's; compute is the remainder, so the parts add up.

Efficiency lost = 1 - (GPU-seconds per sample at the baseline) / (GPU-seconds per sample here). A
step is the sum of its parts, so the loss is the sum of what each part grew by, and the points add
up; what no cause takes is "not explained". With a smaller batch per GPU than the baseline's, the
costs are first scaled to the baseline's batch: every other cause has the points that it would
cost even then, and the small batch has the rest. A scale that has nothing to be compared with is
set against a step of its own forward, backward and optimizer alone.
"""

from dataclasses import dataclass
from math import hypot

import numpy as np
import pandas as pd

from scaling.runs import Run, Study

NAMED_POINTS = 5.0  # a factor that costs fewer points is not named
NOISE_ERRORS = 2.0  # standard errors over the epochs
SMALLER = 0.95  # a batch below this share of the baseline's is a smaller one
LEAST_STEP_S = 1e-9
ROUNDED = 1.01  # the clocks of a rank may add up to this much of its training time
RULE = (
    "Causes are ranked by the points of efficiency that they cost. None is named under "
    f"{NAMED_POINTS:g} points, within twice the standard error of its mean over the epochs, or "
    f"where less than {NAMED_POINTS:g} points are lost in all."
)
LABELS = {
    "data": "Data wait",
    "communication": "Exposed communication",
    "imbalance": "Imbalance between ranks",
    "host_overhead": "Monitoring and bookkeeping",
    "batch": "Small per-GPU batch",
    "unexplained": "Not explained",
    "total": "Lost in all",
}
CAUSES = ("data", "communication", "imbalance", "host_overhead")  # that are parts of a step
PARTS = [*(f"{cause}_s" for cause in CAUSES), "optimizer_s", "compute_s"]
# They cost the same whatever the batch.
PER_STEP = ["communication_s", "optimizer_s", "host_overhead_s"]
# What a rank's own work consists of, as a straggler's sentence names it.
OWN_WORK = {
    "data_s": "waiting for data",
    "optimizer_s": "on the optimizer",
    "host_overhead_s": "between the steps",
    "own_compute_s": "on forward and backward",
}
_EPOCH = ["run", "epoch"]


# ---- Seconds ------------------------------------------------------------------------------------


def make_steps(study: Study) -> tuple[pd.DataFrame, dict[int, list[str]]]:
    """Return break_down() of the steady epochs of every run, and by run what its records lack.

    Runs without a step breakdown have no row; those without a steady epoch have their others.
    """
    ranks = study.rank_epochs
    clocks = ranks[["data_wait_s", "compute_s", "copy_s", "optimizer_s"]]
    clocks = clocks.fillna({"copy_s": 0.0, "optimizer_s": 0.0})
    is_breakdown = (  # the clocks can be those of its steps
        (ranks["steps"] > 0)
        & (ranks["training_s"] > LEAST_STEP_S * ranks["steps"])
        & (ranks["samples"] > 0)
        & (clocks >= 0).all(axis=1)
        & (clocks.sum(axis=1) <= ROUNDED * ranks["training_s"])
    )
    epochs = is_breakdown.groupby([ranks[key] for key in _EPOCH])
    is_all = epochs.transform("size") == ranks["run"].map(study.runs["gpus"])
    is_whole = epochs.transform("all").astype(bool) & is_all
    is_steady = is_whole & ~ranks["is_warmup"].astype(bool)
    has_steady = is_steady.groupby(ranks["run"]).transform("any").astype(bool)
    passes = {run: study.settings(run).get("grad_accum_steps") for run in study.runs["run"]}
    passes = {run: max(n, 1) if isinstance(n, int) else 1 for run, n in passes.items()}
    ranks = ranks.assign(is_whole=is_whole, has_steady=has_steady, passes=ranks["run"].map(passes))
    by_run = dict(tuple(ranks.groupby("run")))
    gaps = {
        at: [f"job {run.id}: {text}" for text in _list_gaps(run, by_run.get(at))]
        for at, run in enumerate(study.sources)
        if isinstance(run, Run)
    }
    return break_down(ranks[is_steady.where(has_steady, is_whole)]), gaps


def _list_gaps(run: Run, ranks: pd.DataFrame | None) -> list[str]:
    """Say what a run's records lack for a diagnosis, and what to switch on."""
    if ranks is None:
        return [
            f"no rank<r>_results_epoch<e>.json in {run.results_dir}: run it with this repository's "
            "trainers, which write where each step's time goes"
        ]
    whole = ranks[ranks["is_whole"]]
    if whole.empty:
        return [
            "the ranks' files hold no step breakdown (steps, data_wait_s, compute_s), or not every "
            "rank has one: run it with this repository's trainers, and keep all files"
        ]
    found = []
    if cut := sorted({*ranks["epoch"]} - {*whole["epoch"]})[:5]:
        which = ", ".join(map(str, cut))
        found.append(f"epoch {which} is left out: not every rank has a breakdown of it")
    if not whole["has_steady"].any():
        found.append("only warm-up epochs: train 2 epochs or more (--epochs 3)")
    if whole["rank"].nunique() > 1 and whole["exposed_comm_s"].isna().any():
        how = "train without --no-probe"
        if (run.settings or {}).get("strategy") in ("deepspeed", "tp"):
            how = "train with --strategy ddp or zero1, which can measure it"
        found.append(
            "communication was not measured (exposed_comm_s is null), nor which rank computes "
            f"slowly: {how}"
        )
    return found


def break_down(ranks: pd.DataFrame) -> pd.DataFrame:
    """Return the mean optimizer step of each run and epoch: one row each, seconds per step.

    ranks: rows of the rank_epochs frame, of all ranks of an epoch, and `passes` per step.
    step_s is the sum of PARTS; data_s is waiting and copying; host_overhead_s is Python between
    the parts. samples: per GPU; passes: per step; is_probed: communication is known. Of several
    ranks also the busiest one: rank, host, part (a key of OWN_WORK), straggler_s and typical_s (of
    that part).
    """
    steps = ranks["steps"]
    per_step = pd.DataFrame({
        **ranks[["run", "epoch", "rank", "host", "passes"]],
        "step_s": ranks["training_s"] / steps,
        "samples": ranks["samples"] / steps,
        "data_s": (ranks["data_wait_s"] + ranks["copy_s"].fillna(0.0)) / steps,
        "optimizer_s": ranks["optimizer_s"].fillna(0.0) / steps,
        "pass_s": ranks["compute_s"] / steps,  # forward and backward, waiting included
        "exposed_s": ranks["exposed_comm_s"] / steps,
        "probe_s": ranks["passes"] * ranks["no_sync_pass_s"],
    })  # fmt: skip
    clocked = per_step[["data_s", "optimizer_s", "pass_s"]].sum(axis=1)
    per_step["host_overhead_s"] = (per_step["step_s"] - clocked).clip(lower=0.0)
    per_step = _estimate_own_compute(per_step)
    per_step["busy_s"] = per_step[list(OWN_WORK)].sum(axis=1)

    per_step = per_step.sort_values([*_EPOCH, "busy_s", "rank"])
    epochs = per_step.groupby(_EPOCH)
    place, size = epochs.cumcount(), epochs["rank"].transform("size")
    typical = per_step[place == (size - 1) // 2].set_index(_EPOCH)  # the lower median
    slowest = per_step[place == size - 1].set_index(_EPOCH)
    found = typical[["data_s", "communication_s", "host_overhead_s", "optimizer_s", "passes"]]
    found = found.assign(step_s=epochs["step_s"].max(), samples=epochs["samples"].mean())
    taken = ["communication_s", "data_s", "optimizer_s", "host_overhead_s"]
    left_s = found["step_s"] - found[taken].sum(axis=1)
    # The clocks of two ranks cannot differ by more than the step has room for.
    imbalance_s = slowest["busy_s"] - typical["busy_s"]
    found["imbalance_s"] = imbalance_s.clip(upper=left_s.clip(lower=0.0))
    found["compute_s"] = left_s - found["imbalance_s"]
    is_alone = epochs.size() == 1
    found["is_probed"] = typical["is_probed"] | is_alone

    own, usual = (each[list(OWN_WORK)].to_numpy(float) for each in (slowest, typical))
    part = (own - usual).argmax(axis=1)
    at = np.arange(len(own)), part
    straggler = slowest[["rank", "host"]].assign(
        part=np.array(list(OWN_WORK))[part], straggler_s=own[at], typical_s=usual[at]
    )
    return found.join(straggler[~is_alone]).reset_index()


def _estimate_own_compute(per_step: pd.DataFrame) -> pd.DataFrame:
    """Add communication_s, and own_compute_s: each rank's forward and backward without waiting.

    The training bounds what the probe measured: own work and communication fit into pass_s.
    """
    epochs = per_step.groupby(_EPOCH)
    size, shortest_s = epochs["rank"].transform("size"), epochs["pass_s"].transform("min")
    is_probed = epochs["exposed_s"].transform("count") == size
    communication_s = epochs["exposed_s"].transform("min").clip(lower=0.0, upper=shortest_s)
    communication_s = communication_s.where(is_probed & (size > 1), 0.0)
    # Without the probe's own pass: what its figure of exposed communication leaves.
    has_passes = epochs["probe_s"].transform("count") == size
    own_s = per_step["probe_s"].where(has_passes, per_step["pass_s"] - per_step["exposed_s"])
    own_s = own_s.clip(lower=0.0, upper=per_step["pass_s"] - communication_s)
    # Without any probe all are taken as equal: who waits least tells the rest.
    own_s = own_s.where(has_passes | is_probed, shortest_s)
    return per_step.assign(
        is_probed=is_probed, communication_s=communication_s, own_compute_s=own_s
    )


def find_mean(steps: pd.DataFrame) -> pd.Series:
    """Return the mean of the rows of break_down(): seconds per step."""
    return steps[["step_s", *PARTS, "samples", "passes"]].mean().astype(float)


def find_straggler(steps: pd.DataFrame) -> pd.Series | None:
    """Return the rank that is the busiest in most rows of break_down(), and in which part.

    rank, host, part, n_epochs; straggler_s and typical_s: mean over those epochs. None of one rank.
    """
    found = steps.groupby(["rank", "part"], as_index=False).agg(
        n_epochs=("epoch", "size"),
        host=("host", "first"),
        straggler_s=("straggler_s", "mean"),
        typical_s=("typical_s", "mean"),
    )
    return None if found.empty else found.loc[found["n_epochs"].argmax()]


# ---- Points -------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Loss:
    """What a scale loses, and to what.

    steps: rows of break_down(); here, base: the mean of such rows. lost_points: of 100 %
    efficiency. factors: the costliest first. without_small_batch: the points that would be lost
    with the baseline's batch, None when the batch is not smaller.
    """

    steps: pd.DataFrame
    here: pd.Series
    base: pd.Series
    lost_points: float
    factors: tuple[LossFactor, ...]
    unexplained: LossFactor
    without_small_batch: float | None = None

    @property
    def total(self) -> LossFactor:
        """The sum, with the seconds of the whole step, at the baseline for as many samples."""
        base_s = self.base.step_s / self.base.samples * self.here.samples
        return LossFactor("total", self.lost_points, None, self.here.step_s, base_s)

    @property
    def is_scaled(self) -> bool:
        """Whether the causes have the points that they would cost at the baseline's batch."""
        return self.without_small_batch is not None

    @property
    def named(self) -> tuple[LossFactor, ...]:
        """The factors that stand out, the costliest first."""
        if self.lost_points < NAMED_POINTS:
            return ()
        large = (each for each in self.factors if (each.points or 0.0) >= NAMED_POINTS)
        return tuple(each for each in large if not each.is_noise)


def share_out(
    here: pd.DataFrame, base: pd.DataFrame | None = None, lost_points: float | None = None
) -> Loss:
    """Share the efficiency that `here` loses against `base` out among the causes.

    here, base: rows of break_down(), one or more each; without a base, a step without the causes is
    one. lost_points: as the tables have it, from the mean throughput of the epochs; its difference
    from the loss by seconds is not explained.
    """
    seen = find_mean(here)
    if base is None:
        base = here.assign(**dict.fromkeys([f"{cause}_s" for cause in CAUSES], 0.0))
        base["step_s"] = base[PARTS].sum(axis=1)
    then = find_mean(base)
    pass_size = seen.samples / seen.passes / (then.samples / then.passes)
    now = _bound_probe(seen, then) if SMALLER <= pass_size <= 1 / SMALLER else seen
    costs, before = now / now.samples, then / then.samples  # per sample of one GPU
    scaled = costs.copy()  # to the baseline's batch, where that is larger
    if now.samples < SMALLER * then.samples:
        scaled[PER_STEP] = now[PER_STEP] / then.samples
    if pass_size < SMALLER:  # not only a step has fewer samples
        scaled["compute_s"] = before["compute_s"]
    saved = (costs - scaled)[PARTS].sum()
    if saved >= costs.step_s:  # the baseline computes nothing: there is no batch to scale to
        scaled, saved = costs, 0.0
    scaled["step_s"] = costs.step_s - saved
    batch = 100 * before.step_s * (1 / scaled.step_s - 1 / costs.step_s) if saved else 0.0
    factors = _list_factors([here, base], costs, scaled, before, LossFactor("batch", batch))
    if lost_points is None:
        lost_points = 100 * (1 - before.step_s / costs.step_s)
    rest = lost_points - sum(factor.points or 0.0 for factor in factors)
    compute_s = costs.compute_s * now.samples, before.compute_s * now.samples
    unexplained = LossFactor("unexplained", rest, None, *compute_s)
    without = lost_points - batch if saved else None
    return Loss(here, seen, then, lost_points, factors, unexplained, without)


def _list_factors(
    steps: list[pd.DataFrame], costs: pd.Series, scaled: pd.Series, before: pd.Series,
    *others: LossFactor,
) -> tuple[LossFactor, ...]:  # fmt: skip
    """Return the causes that are parts of a step, and others, the costliest first.

    steps: here, and at the baseline. costs: per sample here, scaled to its batch, and there.
    """
    found, is_probed = [], all(each["is_probed"].all() for each in steps)
    samples = steps[0]["samples"].mean()
    for key in CAUSES:
        part, points, noise = f"{key}_s", None, None
        if is_probed or key != "communication":
            points = 100 * (scaled[part] - before[part]) / scaled.step_s
        if len(steps[0]) > 1:
            shares = (100 * each[part] / each["samples"] / costs.step_s for each in steps)
            noise = NOISE_ERRORS * hypot(*(each.sem() for each in shares if len(each) > 1))
        found.append(LossFactor(key, points, noise, costs[part] * samples, before[part] * samples))
    return tuple(sorted([*found, *others], key=lambda factor: -round(factor.points or 0.0, 9)))


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
