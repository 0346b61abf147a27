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
PARTS = ["data_s", "communication_s", "imbalance_s", "host_overhead_s", "optimizer_s", "compute_s"]
_EPOCH = ["run", "epoch"]


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
    passes = {run: study.settings(run).get("grad_accum_steps") for run in study.runs["run"]}
    passes = {run: max(n, 1) if isinstance(n, int) else 1 for run, n in passes.items()}
    ranks = ranks.assign(is_breakdown=is_breakdown, passes=ranks["run"].map(passes))
    epochs = ranks.groupby(_EPOCH, as_index=False).agg(
        n=("rank", "size"),
        n_probed=("exposed_comm_s", "count"),
        is_whole=("is_breakdown", "all"),
        is_warmup=("is_warmup", "first"),
    )
    epochs["is_whole"] &= epochs["n"] == epochs["run"].map(study.runs["gpus"])
    is_steady = epochs["is_whole"] & ~epochs["is_warmup"]
    epochs["has_steady"] = is_steady.groupby(epochs["run"]).transform("any")
    is_used = is_steady.where(epochs["has_steady"], epochs["is_whole"])
    by_run = dict(tuple(epochs.groupby("run")))
    gaps = {
        at: _list_gaps(run, by_run.get(at))
        for at, run in enumerate(study.sources)
        if isinstance(run, Run)
    }
    return break_down(ranks.merge(epochs.loc[is_used, _EPOCH], on=_EPOCH)), gaps


def _list_gaps(run: Run, epochs: pd.DataFrame | None) -> list[str]:
    """Say what a run's records lack for a diagnosis, and what to switch on."""
    found = []
    if epochs is None:
        found.append(
            f"no rank<r>_results_epoch<e>.json in {run.results_dir}: run it with this repository's "
            "trainers, which write where each step's time goes"
        )
    elif not epochs["is_whole"].any():
        found.append(
            "the ranks' files hold no step breakdown (steps, data_wait_s, compute_s), or not every "
            "rank has one: run it with this repository's trainers, and keep all files"
        )
    else:
        if len(cut := epochs.loc[~epochs["is_whole"], "epoch"].iloc[:5]):
            which = ", ".join(map(str, cut))
            found.append(f"epoch {which} is left out: not every rank has a breakdown of it")
        whole = epochs[epochs["is_whole"]].iloc[0]
        if not whole["has_steady"]:
            found.append("only warm-up epochs: train 2 epochs or more (--epochs 3)")
        if whole["n"] > 1 and whole["n_probed"] < whole["n"]:
            how = "train without --no-probe"
            if (run.settings or {}).get("strategy") in ("deepspeed", "tp"):
                how = "train with --strategy ddp or zero1, which can measure it"
            found.append(
                "communication was not measured (exposed_comm_s is null), nor which rank computes "
                f"slowly: {how}"
            )
    return [f"job {run.id}: {text}" for text in found]


def break_down(ranks: pd.DataFrame) -> pd.DataFrame:
    """Return the mean optimizer step of each run and epoch: one row each, seconds per step.

    ranks: rows of the rank_epochs frame, of all ranks of an epoch, and `passes` per step.
    step_s is the sum of PARTS; data_s is waiting and copying, copy_s a part of it;
    host_overhead_s is Python between the parts. samples: per GPU; passes: per step. probed_s:
    forward and backward as the probe timed them without communication, compute_s where there was
    no probe; is_probed: communication is known. Of several ranks also the busiest one: rank,
    host, part (a key of OWN_WORK), straggler_s and typical_s (of that part).
    """
    per_step = pd.DataFrame({
        **ranks[["run", "epoch", "rank", "host", "passes"]],
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
    is_alone, is_probed = epochs.size() == 1, typical["is_probed"]
    found["probed_s"] = typical["own_compute_s"].where(is_probed & ~is_alone, found["compute_s"])
    found = found.assign(passes=typical["passes"], is_probed=is_probed | is_alone)

    own, usual = (each[list(OWN_WORK)].to_numpy(float) for each in (slowest, typical))
    part = (own - usual).argmax(axis=1)
    place = np.arange(len(own)), part
    straggler = slowest[["rank", "host"]].assign(
        part=np.array(list(OWN_WORK))[part], straggler_s=own[place], typical_s=usual[place]
    )
    return found.join(straggler[~is_alone]).reset_index()


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
    # Without any probe all are taken as equal: who waits least tells the rest.
    own_s = own_s.clip(lower=0.0, upper=most_s).where(has_passes | is_probed, shortest_s)
    return per_step.assign(
        is_probed=is_probed, communication_s=communication_s, own_compute_s=own_s
    )


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
