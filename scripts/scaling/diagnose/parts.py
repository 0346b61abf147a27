"""Where the seconds of a training step go: the ranks' clocks, read against each other.

In a step all ranks wait for the slowest. They wait inside of the all-reduce, so the waiting
stands in `compute_s` of the ranks that are fast, never in that of the slow one. What is told
apart here, and how:

- communication: the least exposed_comm_s of all ranks. The probe's figure has the waiting in
  it; the rank that waits least is the slow one, and its figure is communication alone.
- a rank's own work: its data wait, copy, optimizer, the rest, and its forward and backward pass
  as the probe timed it without communication.
- imbalance: own work of the busiest rank less that of the typical one (the lower median).
- all other parts are the typical rank's; compute is what is left of the step, so they add up.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from scaling.read.rank_json import RankEpoch
from scaling.runs.run_epochs import find_warmup_epochs, read_ranks
from scaling.runs.run_record import Run

LEAST_STEP_S = 1e-9
ROUNDED = 1.01  # parts may come to so much of the time that they are of


@dataclass(frozen=True)
class Late:
    """The busiest rank of an epoch: in which part it takes longer than the typical one does."""

    rank: int
    host: str | None
    part: str
    its_s: float
    typical_s: float


@dataclass(frozen=True)
class StepParts:
    """One optimizer step, the mean of an epoch or of several: the parts add up to step_s.

    samples: of one GPU. data_s: waiting and copying. between_s: Python between the parts.
    probed_s is no part: compute_s where there was no probe.
    """

    step_s: float
    samples: float
    data_s: float
    copy_s: float  # of data_s
    communication_s: float
    imbalance_s: float
    optimizer_s: float
    between_s: float
    compute_s: float
    probed_s: float  # forward and backward as the probe timed them, all by themselves

    def cost(self, name: str) -> float:
        """Return seconds a sample of one GPU of a part, `step` for all of them."""
        return getattr(self, f"{name}_s") / self.samples


@dataclass(frozen=True)
class RunParts:
    """The steady epochs of a run, or of several. gaps: what was not recorded, and how to get it."""

    epochs: tuple[StepParts, ...]
    late: tuple[Late | None, ...]  # an entry an epoch
    passes: int  # forward and backward passes a step
    is_probed: bool  # communication is known, of one GPU too
    is_steady: bool
    gaps: tuple[str, ...]

    @property
    def mean(self) -> StepParts:
        names = [field.name for field in fields(StepParts)]
        return StepParts(*(fmean(getattr(e, name) for e in self.epochs) for name in names))


def pool(runs: Sequence[RunParts]) -> RunParts:
    """Return repeats as one run of all their epochs."""
    known = [run for run in runs if run.epochs]
    gaps = tuple(dict.fromkeys(gap for run in runs for gap in run.gaps))
    return RunParts(
        tuple(epoch for run in known for epoch in run.epochs),
        tuple(late for run in known for late in run.late),
        known[-1].passes if known else 1,
        all(run.is_probed for run in known),
        all(run.is_steady for run in known),
        gaps,
    )


def read_parts(run: Run) -> RunParts:
    """Return the step breakdown of a run; without epochs when its files do not hold one."""
    settings = run.settings or {}
    passes = settings.get("grad_accum_steps")
    passes = passes if isinstance(passes, int) and passes > 0 else 1
    by_epoch: dict[int, list[RankEpoch]] = defaultdict(list)
    for record in read_ranks(run):
        by_epoch[record.epoch + 1].append(record)
    world_size = settings.get("world_size") or run.gpus
    whole = {n: ranks for n, ranks in by_epoch.items() if _is_whole(ranks, world_size)}
    steady = {n: ranks for n, ranks in whole.items() if n > find_warmup_epochs(run)}
    gaps = _list_gaps(run, by_epoch, whole, steady)
    hosts, per_node = settings.get("hosts"), run.gpus_per_node
    hosts = hosts if isinstance(hosts, list) and per_node else []
    epochs, late = [], []
    for _, ranks in sorted((steady or whole).items()):
        parts, slow = break_down(ranks, passes)
        epochs.append(parts)
        node = slow.rank // per_node if slow and hosts else len(hosts)
        host = str(hosts[node]) if node < len(hosts) else None
        late.append(slow and Late(slow.rank, host, slow.part, slow.its_s, slow.typical_s))
    used = [rank for ranks in (steady or whole).values() for rank in ranks]
    is_probed = world_size == 1 or all(r.exposed_comm_s is not None for r in used)
    return RunParts(tuple(epochs), tuple(late), passes, is_probed, bool(steady), gaps)


def _is_whole(ranks: list[RankEpoch], world_size: int | None) -> bool:
    """Whether every rank's file of an epoch is there, with a breakdown that can be one."""
    return world_size in (None, len(ranks)) and all(map(_is_breakdown, ranks))


def _is_breakdown(rank: RankEpoch) -> bool:
    parts = (rank.data_wait_s, rank.compute_s, rank.copy_s or 0.0, rank.optimizer_s or 0.0)
    return (
        (rank.steps or 0) > 0
        and rank.training_s > LEAST_STEP_S * rank.steps
        and (rank.samples or 0) > 0
        and None not in parts
        and min(parts) >= 0
        and sum(parts) <= ROUNDED * rank.training_s
    )


def _list_gaps(run: Run, by_epoch: dict, whole: dict, steady: dict) -> tuple[str, ...]:
    """Say what the records lack for a diagnosis, and what to switch on."""
    name = f"job {run.id}"
    if not by_epoch:
        return (
            f"{name}: no rank<r>_results_epoch<e>.json in {run.results_dir}: run it with this "
            "repository's trainers, which write where each step's time goes",
        )
    if not whole:
        return (
            f"{name}: the ranks' files hold no step breakdown (steps, data_wait_s, compute_s), or "
            "not every rank has one: run it with this repository's trainers, and keep all files",
        )
    gaps = []
    if len(whole) < len(by_epoch):
        epochs = ", ".join(str(n) for n in sorted(set(by_epoch) - set(whole))[:5])
        gaps.append(f"{name}: epoch {epochs} is left out: not every rank's breakdown is there")
    if not steady:
        gaps.append(f"{name}: only warm-up epochs: train 2 epochs or more (--epochs 3)")
    ranks = next(iter(whole.values()))
    if len(ranks) > 1 and any(r.exposed_comm_s is None for r in ranks):
        how = "train without --no-probe"
        if (run.settings or {}).get("strategy") == "deepspeed":
            how = "train with --strategy ddp or zero1, which can measure it"
        gaps.append(
            f"{name}: communication was not measured (exposed_comm_s is null), nor which rank "
            f"computes slowly: {how}"
        )
    return tuple(gaps)


def break_down(ranks: Sequence[RankEpoch], passes: int = 1) -> tuple[StepParts, Late | None]:
    """Return the step of an epoch, all ranks' records given, and its busiest rank (of several)."""
    step_s = max(rank.training_s / rank.steps for rank in ranks)
    compute_s = [rank.compute_s / rank.steps for rank in ranks]
    exposed = [rank.exposed_comm_s for rank in ranks]
    is_probed = None not in exposed
    communication_s = 0.0
    if is_probed and len(ranks) > 1:
        communication_s = min(e / r.steps for e, r in zip(exposed, ranks, strict=True))
        communication_s = min(max(communication_s, 0.0), *compute_s)
    passes_s = _estimate_passes(ranks, compute_s, communication_s, passes)
    parts = [_split(rank, own) for rank, own in zip(ranks, passes_s, strict=True)]
    busy = [sum(part.values()) for part in parts]
    order = sorted(range(len(ranks)), key=busy.__getitem__)
    typical, slow = order[(len(ranks) - 1) // 2], order[-1]
    mine = parts[typical]
    copy_s = (ranks[typical].copy_s or 0.0) / ranks[typical].steps
    known_s = mine["data"] + mine["optimizer"] + mine["between"]
    # What the clocks of other ranks say cannot be more than the step has room for.
    imbalance_s = min(busy[slow] - busy[typical], max(step_s - known_s - communication_s, 0.0))
    found = StepParts(
        step_s,
        sum(rank.samples / rank.steps for rank in ranks) / len(ranks),
        mine["data"],
        copy_s,
        communication_s,
        imbalance_s,
        mine["optimizer"],
        mine["between"],
        compute := step_s - known_s - communication_s - imbalance_s,
        mine["compute"] if is_probed and len(ranks) > 1 else compute,
    )
    return found, _describe_late(ranks[slow], parts[slow], mine) if len(ranks) > 1 else None


def _estimate_passes(
    ranks: Sequence[RankEpoch], compute_s: list[float], communication_s: float, passes: int
) -> list[float]:
    """Return each rank's own seconds of forward and backward in a step: no waiting, no talking.

    The training bounds what the probe measured: own work and communication fit into compute_s.
    """
    most = [seconds - communication_s for seconds in compute_s]
    probed = [rank.no_sync_pass_s for rank in ranks]
    if None not in probed:
        own = [passes * seconds for seconds in probed]
    elif any(rank.exposed_comm_s is None for rank in ranks):
        return [min(compute_s)] * len(ranks)  # taken as equal: who waits least tells the rest
    else:  # a pass with communication takes all ranks equally long
        waits = [rank.exposed_comm_s / rank.steps - communication_s for rank in ranks]
        longest = min(m + wait for m, wait in zip(most, waits, strict=True))
        own = [longest - wait for wait in waits]
    return [max(min(o, m), 0.0) for o, m in zip(own, most, strict=True)]


def _split(rank: RankEpoch, own_s: float) -> dict[str, float]:
    steps = rank.steps
    clocked = {
        "data": (rank.data_wait_s + (rank.copy_s or 0.0)) / steps,
        "optimizer": (rank.optimizer_s or 0.0) / steps,
    }
    rest_s = rank.training_s / steps - sum(clocked.values()) - rank.compute_s / steps
    return {**clocked, "between": max(rest_s, 0.0), "compute": own_s}


_PART_NAMES = {
    "data": "waiting for data",
    "optimizer": "the optimizer",
    "between": "the time between the steps",
    "compute": "forward and backward",
}


def _describe_late(rank: RankEpoch, its: dict[str, float], typical: dict[str, float]) -> Late:
    part = max(its, key=lambda name: its[name] - typical[name])
    return Late(rank.rank, rank.host, _PART_NAMES[part], its[part], typical[part])
