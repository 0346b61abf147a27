"""Where the seconds of a training step go: the ranks' clocks, read against each other.

In each step all ranks wait for the slowest one. They wait inside the all-reduce, so the waiting is
in `compute_s` of the fast ranks and never in that of the slow one. How the parts are told apart:

- communication: the smallest exposed_comm_s of all ranks. The probe's figure includes waiting;
  the rank that waits least is the slow one, and its figure is communication alone.
- a rank's own work: its data wait, copy, optimizer, host overhead, and its forward and backward
  pass as the probe timed it without communication.
- imbalance: own work of the busiest rank minus that of the typical one (the lower median).
- the other parts are the typical rank's; compute is the remainder, so the parts add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pandas as pd

from scaling.runs import Run, Study

LEAST_STEP_S = 1e-9
ROUNDED = 1.01  # the clocks of a rank may add up to this much of its training time
# What a rank's own work consists of, as a straggler's sentence names it.
OWN_WORK = {
    "data_s": "waiting for data",
    "optimizer_s": "on the optimizer",
    "host_overhead_s": "between the steps",
    "own_compute_s": "on forward and backward",
}
_EPOCH = ["run", "epoch"]


@dataclass(frozen=True)
class StepBreakdown:
    """One optimizer step, the mean of several epochs: the parts add up to step_s.

    samples: per GPU. data_s: waiting and copying. host_overhead_s: Python between the parts.
    copy_s is part of data_s; probed_s is no part: forward and backward as the probe timed them
    without communication, compute_s where there was no probe.
    """

    step_s: float
    samples: float
    data_s: float
    copy_s: float
    communication_s: float
    imbalance_s: float
    optimizer_s: float
    host_overhead_s: float
    compute_s: float
    probed_s: float

    def cost(self, part: str) -> float:
        """Return the seconds of a part (or of the whole `step`) per sample of one GPU."""
        return getattr(self, f"{part}_s") / self.samples


@dataclass(frozen=True)
class ScaleSteps:
    """The steady epochs of a scale's runs.

    epochs: one row per run and epoch, columns as in `break_down`; empty when no run has a step
    breakdown. passes: forward and backward passes per step. is_probed: communication is known.
    gaps: what was not recorded, and how to get it.
    """

    epochs: pd.DataFrame
    passes: int
    is_probed: bool
    gaps: tuple[str, ...] = ()

    @cached_property
    def mean(self) -> StepBreakdown:
        names = [field.name for field in fields(StepBreakdown)]
        return StepBreakdown(**self.epochs[names].mean().to_dict())

    def find_straggler(self) -> pd.Series | None:
        """Return the rank that is the busiest in most epochs, and in which part; None of one rank.

        rank, host, part (a key of OWN_WORK), n_epochs; straggler_s and typical_s: seconds per step
        of that part on this rank and on the typical one, mean over those epochs.
        """
        by_rank = self.epochs.groupby(["rank", "part"])
        found = by_rank.agg(
            n_epochs=("epoch", "size"),
            host=("host", "first"),
            straggler_s=("straggler_s", "mean"),
            typical_s=("typical_s", "mean"),
        )
        return None if found.empty else found.reset_index().loc[found["n_epochs"].argmax()]


class StudySteps:
    """The step breakdown of every run of a study, made at once."""

    def __init__(self, study: Study):
        self._study = study
        ranks = study.rank_epochs
        ranks = ranks.assign(
            is_breakdown=_is_breakdown(ranks), is_probed=ranks["exposed_comm_s"].notna()
        )
        epochs = ranks.groupby(_EPOCH, as_index=False).agg(
            n=("rank", "size"),
            is_whole=("is_breakdown", "all"),
            is_probed=("is_probed", "all"),
            is_warmup=("is_warmup", "first"),
        )
        epochs["is_whole"] &= epochs["n"] == epochs["run"].map(study.runs["gpus"])
        is_steady = epochs["is_whole"] & ~epochs["is_warmup"]
        epochs["has_steady"] = is_steady.groupby(epochs["run"]).transform("any")
        epochs["is_used"] = is_steady.where(epochs["has_steady"], epochs["is_whole"])
        epochs["is_probed"] |= epochs["n"] == 1  # nothing to communicate
        used = ranks.merge(epochs.loc[epochs["is_used"], _EPOCH], on=_EPOCH)
        passes = {run: self._count_passes(run) for run in study.runs["run"]}
        self._passes, self._epochs = passes, dict(tuple(epochs.groupby("run")))
        self._steps = break_down(used.assign(passes=used["run"].map(passes)))

    def _count_passes(self, run: int) -> int:
        passes = self._study.settings(run).get("grad_accum_steps")
        return max(passes, 1) if isinstance(passes, int) else 1

    def select(self, runs: Sequence[int]) -> ScaleSteps:
        """Return the steps of some runs together; epochs is empty when none has a breakdown."""
        steps = self._steps[self._steps["run"].isin(runs)]
        epochs = [self._epochs[run] for run in steps["run"].unique()]
        gaps = []
        for run in runs:
            if isinstance(self._study.sources[run], Run):
                gaps += _list_gaps(self._study.sources[run], self._epochs.get(run))
        return ScaleSteps(
            steps,
            self._passes[steps["run"].max() if len(steps) else runs[-1]],
            all(own.loc[own["is_used"], "is_probed"].all() for own in epochs),
            tuple(dict.fromkeys(gaps)),
        )


def _is_breakdown(ranks: pd.DataFrame) -> pd.Series:
    """Whether the clocks of each rank's epoch can be those of its steps."""
    clocks = ranks[["data_wait_s", "compute_s", "copy_s", "optimizer_s"]]
    clocks = clocks.fillna({"copy_s": 0.0, "optimizer_s": 0.0})
    return (
        (ranks["steps"] > 0)
        & (ranks["training_s"] > LEAST_STEP_S * ranks["steps"])
        & (ranks["samples"] > 0)
        & (clocks >= 0).all(axis=1)
        & (clocks.sum(axis=1) <= ROUNDED * ranks["training_s"])
    )


def _list_gaps(run: Run, epochs: pd.DataFrame | None) -> list[str]:
    """Say what a run's records lack for a diagnosis, and what to switch on."""
    name = f"job {run.id}"
    if epochs is None:
        return [
            f"{name}: no rank<r>_results_epoch<e>.json in {run.results_dir}: run it with this "
            "repository's trainers, which write where each step's time goes"
        ]
    whole = epochs[epochs["is_whole"]]
    if whole.empty:
        return [
            f"{name}: the ranks' files hold no step breakdown (steps, data_wait_s, compute_s), or "
            "not every rank has one: run it with this repository's trainers, and keep all files"
        ]
    gaps = []
    if len(whole) < len(epochs):
        which = ", ".join(map(str, epochs.loc[~epochs["is_whole"], "epoch"].iloc[:5]))
        gaps.append(f"{name}: epoch {which} is left out: not every rank has a breakdown of it")
    if not whole["has_steady"].any():
        gaps.append(f"{name}: only warm-up epochs: train 2 epochs or more (--epochs 3)")
    if not whole["is_probed"].iloc[0]:
        how = "train without --no-probe"
        if (run.settings or {}).get("strategy") in ("deepspeed", "tp"):
            how = "train with --strategy ddp or zero1, which can measure it"
        gaps.append(
            f"{name}: communication was not measured (exposed_comm_s is null), nor which rank "
            f"computes slowly: {how}"
        )
    return gaps


def break_down(ranks: pd.DataFrame) -> pd.DataFrame:
    """Return the mean step of each run and epoch: one row each, seconds per step.

    ranks: rows of the rank_epochs frame, of all ranks of an epoch, and `passes` per step.
    Columns: those of StepBreakdown, run, epoch; of several ranks also the busiest one:
    rank, host, part, straggler_s and typical_s (of that part).
    """
    per_step = pd.DataFrame({
        **ranks[["run", "epoch", "rank", "host"]],
        "step_s": ranks["training_s"] / ranks["steps"],
        "samples": ranks["samples"] / ranks["steps"],
        "copy_s": ranks["copy_s"].fillna(0.0) / ranks["steps"],
        "optimizer_s": ranks["optimizer_s"].fillna(0.0) / ranks["steps"],
        "pass_s": ranks["compute_s"] / ranks["steps"],  # forward and backward, waiting included
        "exposed_s": ranks["exposed_comm_s"] / ranks["steps"],
        "probe_s": ranks["passes"] * ranks["no_sync_pass_s"],
    })  # fmt: skip
    per_step["data_s"] = ranks["data_wait_s"] / ranks["steps"] + per_step["copy_s"]
    clocked = per_step[["data_s", "optimizer_s", "pass_s"]].sum(axis=1)
    per_step["host_overhead_s"] = (per_step["step_s"] - clocked).clip(lower=0.0)
    per_step = _estimate_own_compute(per_step)
    per_step["busy_s"] = per_step[list(OWN_WORK)].sum(axis=1)

    per_step = per_step.sort_values([*_EPOCH, "busy_s", "rank"])
    epochs = per_step.groupby(_EPOCH)
    place, size = epochs.cumcount(), epochs["rank"].transform("size")
    typical = per_step[place == (size - 1) // 2].set_index(_EPOCH)  # the lower median
    slowest = per_step[place == size - 1].set_index(_EPOCH)
    found = typical[["data_s", "copy_s", "optimizer_s", "host_overhead_s", "communication_s"]]
    found = found.assign(step_s=epochs["step_s"].max(), samples=epochs["samples"].mean())
    left_s = found["step_s"] - found["communication_s"]
    left_s -= found[["data_s", "optimizer_s", "host_overhead_s"]].sum(axis=1)
    # The clocks of two ranks cannot differ by more than the step has room for.
    imbalance_s = slowest["busy_s"] - typical["busy_s"]
    found["imbalance_s"] = imbalance_s.clip(upper=left_s.clip(lower=0.0))
    found["compute_s"] = left_s - found["imbalance_s"]
    is_probed = epochs["is_probed"].all() & (epochs.size() > 1)
    found["probed_s"] = typical["own_compute_s"].where(is_probed, found["compute_s"])
    return _add_straggler(found, slowest, typical, epochs.size()).reset_index()


def _estimate_own_compute(per_step: pd.DataFrame) -> pd.DataFrame:
    """Add communication_s, and own_compute_s: each rank's forward and backward without waiting.

    The training bounds what the probe measured: own work and communication fit into pass_s.
    """
    epochs = per_step.groupby(_EPOCH)
    size, shortest_s = epochs["rank"].transform("size"), epochs["pass_s"].transform("min")
    is_probed = epochs["exposed_s"].transform("count") == size
    has_passes = epochs["probe_s"].transform("count") == size
    communication_s = epochs["exposed_s"].transform("min").clip(lower=0.0, upper=shortest_s)
    communication_s = communication_s.where(is_probed & (size > 1), 0.0)
    most_s = per_step["pass_s"] - communication_s
    # Without the probe's own pass: a pass with communication takes all ranks equally long.
    waits_s = per_step["exposed_s"] - communication_s
    longest_s = (most_s + waits_s).groupby([per_step[key] for key in _EPOCH]).transform("min")
    own_s = per_step["probe_s"].where(has_passes, longest_s - waits_s)
    own_s = own_s.clip(lower=0.0, upper=most_s)
    # Without any probe all are taken as equal: who waits least tells the rest.
    own_s = own_s.where(has_passes | is_probed, shortest_s)
    return per_step.assign(
        is_probed=is_probed, communication_s=communication_s, own_compute_s=own_s
    )


def _add_straggler(
    found: pd.DataFrame, slowest: pd.DataFrame, typical: pd.DataFrame, size: pd.Series
) -> pd.DataFrame:
    """Add the busiest rank, and the part in which it takes longest against the typical one."""
    own, usual = (ranks[list(OWN_WORK)].to_numpy(dtype=float) for ranks in (slowest, typical))
    part = (own - usual).argmax(axis=1)
    place = np.arange(len(own)), part
    straggler = pd.DataFrame({
        "rank": slowest["rank"],
        "host": slowest["host"],
        "part": [list(OWN_WORK)[number] for number in part],
        "straggler_s": own[place],
        "typical_s": usual[place],
    })  # fmt: skip
    return found.join(straggler[size > 1])
