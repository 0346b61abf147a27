"""What a run's logs and settings show besides: throttled or idle GPUs, sockets, busy CPUs."""

import numpy as np
import pandas as pd

from scaling.diagnose.loss import LABELS
from scaling.runs import Run
from scaling.runs.frames import GPU_LOG

# Bits of clocks_throttle_reasons.active (clocks_event_reasons.active from driver 535 on) that mean
# a slower clock than was asked for. Idle (0x1) and settings (0x2, 0x10, 0x100) do not.
# Source: NVML API Reference Guide, NvmlClocksEventReasons.
SLOWING = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
IDLE = 0x1
GPU, UNKNOWN_GPU = ["node", "gpu"], -1
MEDIAN = (0.5, "lower")  # arguments of quantile: a value that was logged
LEAST_SHARE = 0.1  # of the samples under load; fewer are a short moment
SLOW_CLOCK = 0.9  # of the median clock of all GPUs
SHORT_COMPUTE_S = 0.010  # a step that computes less is dominated by its overheads
HIGH_OVERHEAD = 0.25  # of a step
LOW_LOAD_PCT, LITTLE_WAITING = 50.0, 0.25
LEAST_INTERVAL_S = 1.0  # loggers that sample more often cost something
UNEVEN = 1.5  # times the median step: one step in 20 takes as long, or longer
MONITORS = {"--profile": "the profiler", "--checkpoint-every": "checkpoints"}
INPUT_ADVICE = {
    "jpeg": "decode the images once (--input cache)",
    "cache": "keep the decoded cache on a local disk or in memory, or the images on the GPU "
    "(--input device)",
}


def list_evidence(
    run: Run, samples: pd.DataFrame, ranks: pd.DataFrame, step: pd.Series | None
) -> tuple[list[str], list[str]]:
    """Return what the run's logs show, and what is not in them with how to get it.

    samples, ranks: of the run, as in the samples and rank_epochs frames. step: its mean, None
    when it is not known.
    """
    samples, gaps = find_load(samples), []
    busy = samples[samples["is_busy"]]
    seen = [describe_throttling(busy, samples.groupby(GPU).ngroups), describe_clocks(busy)]
    if (run.settings or {}).get("device") != "cpu":
        gaps.append(_find_gpu_gap(run, samples))
        if (run.nodes or 1) > 1:
            is_socket = run.log is not None and run.log.transport.is_socket
            (seen if is_socket else gaps).append(_judge_transport(run))
    seen.append(describe_small_batch(step, samples) if step is not None else None)
    seen += [describe_uneven_steps(run), describe_profiled(ranks)]
    seen += [
        f"Monitoring: psrecord sampled node{node} every {float(log.interval_s):g} s, and each "
        "sample reads every process of the node; the job files sample every 5 s"
        for node, log in run.cpu_logs.items()
        if log.interval_s is not None and log.interval_s < LEAST_INTERVAL_S
    ]
    return list(filter(None, seen)), [f"job {run.id}: {gap}" for gap in gaps if gap]


# ---- GPUs ---------------------------------------------------------------------------------------


def find_load(samples: pd.DataFrame) -> pd.DataFrame:
    """Return nvidia-smi's samples with what each says of its GPU.

    is_busy: under load, which is every sample that is not 0 % busy. is_slowed: busy, at a
    throttled clock. load_pct: 0 when idle; NaN before the first busy sample and after the last.
    """
    samples = samples[samples["source"] == GPU_LOG]
    used_pct, mask = samples["utilization_pct"], samples["throttle_mask"].fillna(0).astype(int)
    is_busy = (used_pct > 0) | (used_pct.isna() & (mask != IDLE))
    samples = samples.assign(
        gpu=samples["gpu"].fillna(UNKNOWN_GPU).astype(int),
        is_busy=is_busy,
        is_slowed=is_busy & (mask & sum(SLOWING) > 0),
        load_pct=used_pct.where(is_busy, 0.0),
    )
    gpus = samples.groupby(GPU)["is_busy"]
    n_busy, is_last = gpus.cumsum(), gpus.cumsum() == gpus.transform("sum")
    is_between = is_busy | ((n_busy > 0) & ~is_last)
    return samples.assign(load_pct=samples["load_pct"].where(is_between))


def describe_throttling(busy: pd.DataFrame, n_gpus: int) -> str | None:
    """Return a sentence on the GPUs that were slowed down; busy: samples of `find_load`."""
    gpus = busy.groupby(GPU)["is_slowed"].agg(["sum", "size", "mean"])
    gpus = gpus[(gpus["sum"] > 1) & (gpus["mean"] >= LEAST_SHARE)]
    if gpus.empty:
        return None
    name = gpus["mean"].idxmax()
    worst = busy.groupby(GPU).get_group(name)
    slowed = worst[worst["is_slowed"]]
    bits = np.bitwise_or.reduce(slowed["throttle_mask"].astype(int))
    reasons = ", ".join(reason for bit, reason in SLOWING.items() if bits & bit)
    text = (
        f"Throttling: {_name_gpu(name)} was slowed down in {len(slowed)} of {len(worst)} samples "
        f"under load ({reasons})"
    )
    clocks_mhz = worst.groupby("is_slowed")["sm_clock_mhz"].quantile(*MEDIAN)
    then_mhz, usual_mhz = clocks_mhz.reindex([True, False])
    if then_mhz > 0:
        text += f"; SM clock {then_mhz:.0f} MHz then"
        text += f", {usual_mhz:.0f} MHz otherwise" if usual_mhz > 0 else ""
    return text + (f"; {len(gpus)} of {n_gpus} GPUs were" if len(gpus) > 1 else "")


def describe_clocks(busy: pd.DataFrame) -> str | None:
    """Return a sentence on a GPU whose clock is lower than the other GPUs'."""
    clocks_mhz = busy.groupby(GPU)["sm_clock_mhz"].quantile(*MEDIAN).dropna()
    if not clocks_mhz.min() < SLOW_CLOCK * clocks_mhz.median():
        return None
    return (
        f"Clocks: {_name_gpu(clocks_mhz.idxmin())} runs at {clocks_mhz.min():.0f} MHz under load, "
        f"the median of {len(clocks_mhz)} GPUs is {clocks_mhz.median():.0f} MHz"
    )


def _name_gpu(node_and_gpu: tuple[int, int]) -> str:
    node, gpu = node_and_gpu
    return f"GPU {'?' if gpu == UNKNOWN_GPU else gpu} of node{node}"


def _find_gpu_gap(run: Run, samples: pd.DataFrame) -> str | None:
    problem = next((log.problem for log in run.gpu_logs.values() if log.problem), None)
    if problem is None and samples.empty:
        return (
            "no GPU log, so neither throttling nor idle GPUs can be seen: start nvidia-smi beside "
            "the training, as the job files do"
        )
    if problem is None and samples["throttle_mask"].isna().all():
        return (
            "its GPU log does not show throttling: add clocks_throttle_reasons.active to "
            "--query-gpu (amd-smi has no such column)"
        )
    return problem


def _judge_transport(run: Run) -> str | None:
    """Say that NCCL talks through sockets and what to look at, or why its transport is unknown."""
    if run.log is None:
        why = "its Slurm log cannot be read" if run.log_path else "no Slurm log"
        return f"{why}, so NCCL's transport is not known"
    found = run.log.transport
    if not found.is_socket:
        if found.channels or found.networks:
            return None
        if found.says_anything:
            return "NCCL_DEBUG is on, but names no network: add NCCL_DEBUG_SUBSYS=ALL"
        how = "export NCCL_DEBUG=INFO in the job file"
        return f"how NCCL talks between the nodes is not in its log: {how}"
    if found.ib_disabled:
        why = "NCCL_IB_DISABLE=1 is set; without it NCCL would try InfiniBand"
    elif any(name.startswith("ib") for name in found.interfaces) or found.ib_devices:
        why = "there is InfiniBand, so look for libibverbs and /dev/infiniband in the job"
    elif found.no_ib:
        why = "it found no InfiniBand device; ask the site whether the nodes have one"
    else:
        why = "InfiniBand, or the site's NCCL plugin, would be faster"
    over = f" over {', '.join(sorted(found.interfaces))}" if found.interfaces else ""
    many = f" ({found.channels['Socket']} channels)" if found.channels else ""
    return f"Socket transport: NCCL talks through TCP sockets between the nodes{over}{many}: {why}"


# ---- The batch, the steps and the loaders -------------------------------------------------------


def describe_profiled(ranks: pd.DataFrame) -> str | None:
    """Return the communication of the steps that --profile looked at, with what no compute hides.

    One measure for DDP's all-reduce and FSDP's gathers; scaling_tables.py --strategies has it, too.
    """
    names = ["profiled_comm_per_step_s", "profiled_exposed_per_step_s"]
    total_ms, exposed_ms = 1000 * ranks[names].mean()
    if not total_ms > 0:
        return None
    return (
        f"Profiled communication: {total_ms:.1f} ms per step in all, {exposed_ms:.1f} ms of it "
        f"exposed; {100 * (1 - exposed_ms / total_ms):.0f} % overlaps with compute"
    )


def describe_small_batch(step: pd.Series, samples: pd.DataFrame) -> str | None:
    """Return the signs that a step has too little to compute, whatever it is compared with."""
    signs = []
    if step.compute_s < SHORT_COMPUTE_S:
        signs.append(
            f"each step has {1e3 * step.compute_s:.2f} ms of forward and backward for "
            f"{step.samples:.0f} samples per GPU"
        )
    overhead = (step.optimizer_s + step.host_overhead_s) / step.step_s
    if overhead >= HIGH_OVERHEAD:
        what = "of each step is the optimizer and Python between the steps"
        signs.append(f"{100 * overhead:.0f} % {what}")
    waiting = (step.data_s + step.communication_s + step.imbalance_s) / step.step_s
    busy_pct = samples.groupby(GPU)["load_pct"].mean().mean()
    if busy_pct < LOW_LOAD_PCT and waiting < LITTLE_WAITING:
        signs.append(
            f"the GPUs are busy {busy_pct:.0f} % of the time, though only {100 * waiting:.0f} % of "
            "each step waits for data and other ranks"
        )
    text = f"{LABELS['batch']}, signs of it (no proof): {'; '.join(signs)}"
    return text if signs else None


def describe_uneven_steps(run: Run) -> str | None:
    """Return how much longer rank 0's late steps take: lateness in turns, or a few long stalls."""
    epochs = run.metrics.epochs if run.metrics else []
    steady = epochs[run.warmup_epochs :] or epochs
    pairs = [(epoch.step_p50_s, epoch.step_p95_s) for epoch in steady]
    times = pd.DataFrame(pairs, columns=["usual_s", "late_s"], dtype=float).dropna().mean()
    if not 0 < UNEVEN * times.usual_s <= times.late_s:
        return None
    return (
        f"Uneven steps: half of rank 0's take up to {1e3 * times.usual_s:.1f} ms, one in 20 takes "
        f"{1e3 * times.late_s:.1f} ms or more"
    )


def advise_on_data(run: Run) -> str:
    """Return what to do about waiting for data: by how the run read them, and by its CPUs' use."""
    settings = run.settings or {}
    source, slurm = settings.get("input"), settings.get("slurm")
    found = [INPUT_ADVICE.get(str(source))]
    cpus = slurm.get("cpus_per_task") if isinstance(slurm, dict) else None
    use = {node: log.mean_cpu_pct for node, log in run.cpu_logs.items() if log.mean_cpu_pct}
    if source != "device" and use and str(cpus or "").isdigit():
        node = max(use, key=use.get)
        used = float(use[node]) / 100
        more = "more --num-workers may help, unless the files come slowly"
        if used > 0.8 * int(cpus):
            more = "more loaders will not help, ask for more --cpus-per-task"
        found.append(f"node{node} used {used:.1f} of its {cpus} CPUs: {more}")
    usual = "more --num-workers and --cpus-per-task, or data that need no decoding"
    return "; ".join(filter(None, found)) or usual


def list_monitors(run: Run) -> list[str]:
    """Return what the run was told to do between its steps."""
    argv = (run.settings or {}).get("argv")
    found = []
    for word in argv if isinstance(argv, list) else ():
        name, _, value = str(word).replace("_", "-").partition("=")
        if name in MONITORS and value != "0":
            found.append(f"{MONITORS[name]} ({name})")
    return found
