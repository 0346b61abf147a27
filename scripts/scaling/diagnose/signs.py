"""What to know besides a loss' causes: signs in a run's logs, and logs that are not there."""

from statistics import fmean

from common.errors import UserError
from scaling.diagnose.logs import (
    GpuLoad,
    describe_throttling,
    describe_transport,
    read_cpu_use,
    read_gpu_loads,
    read_transport,
)
from scaling.diagnose.loss import LABELS
from scaling.diagnose.parts import StepParts
from scaling.read.json_fields import number
from scaling.read.metrics_json import read_training_metrics
from scaling.runs.run_epochs import find_warmup_epochs
from scaling.runs.run_record import Run

SHORT_COMPUTE_S = 0.010  # a step that computes less is over before its overheads are
MUCH_OVERHEAD = 0.25  # of a step
LOW_LOAD_PCT, LITTLE_WAITING = 50.0, 0.25
LEAST_INTERVAL_S = 1.0  # loggers that sample more often cost something
UNEVEN = 1.5  # times the median step: one step in 20 takes as long, or longer
MONITORS = {"--profile": "the profiler", "--checkpoint-every": "checkpoints"}


def list_signs(run: Run, step: StepParts | None) -> tuple[list[str], list[str]]:
    """Return what the run's logs show, and what is not in them with how to get it."""
    settings = run.settings or {}
    loads = read_gpu_loads(run)
    seen, gaps = describe_throttling(loads), []
    if settings.get("device") != "cpu":
        gaps += _ask_for_gpu_log(run, loads)
        if (run.nodes or 1) > 1:
            _add_transport(run, seen, gaps)
    if step is not None and (text := describe_small_batch(step, loads)):
        seen.append(text)
    if text := describe_uneven_steps(run):
        seen.append(text)
    for node, _, interval_s in read_cpu_use(run):
        if interval_s is not None and interval_s < LEAST_INTERVAL_S:
            seen.append(
                f"Monitoring: psrecord sampled node{node} every {interval_s:g} s, and each sample "
                "reads every process of the node; the job files ask for one in 5 s"
            )
    return seen, gaps


def _ask_for_gpu_log(run: Run, loads: list[GpuLoad]) -> list[str]:
    if not loads:
        return [
            f"job {run.id}: no GPU log, so neither throttling nor idle GPUs can be seen: start "
            "nvidia-smi beside the training, as the job files do"
        ]
    if not any(load.has_mask for load in loads):
        return [
            f"job {run.id}: its GPU log does not tell throttling: add "
            "clocks_throttle_reasons.active to --query-gpu (amd-smi has no such column)"
        ]
    return []


def _add_transport(run: Run, seen: list[str], gaps: list[str]) -> None:
    if run.log_path is None:
        gaps.append(f"job {run.id}: no Slurm log, so NCCL's transport is not known")
        return
    try:
        found = read_transport(run.log_path)
    except UserError as error:
        gaps.append(str(error))
        return
    if text := describe_transport(found):
        seen.append(text)
    elif not found.channels and not found.networks:
        what = "export NCCL_DEBUG=INFO in the job file"
        gaps.append(
            f"job {run.id}: how NCCL talks between the nodes is not in its log: {what}"
            if not found.says_anything
            else f"job {run.id}: NCCL_DEBUG is on, but names no network: add NCCL_DEBUG_SUBSYS=ALL"
        )


def describe_small_batch(step: StepParts, loads: list[GpuLoad]) -> str | None:
    """Return the signs that a step has too little to compute, whatever it is compared with."""
    signs = []
    if step.compute_s < SHORT_COMPUTE_S:
        signs.append(
            f"a step has {1e3 * step.compute_s:.2f} ms of forward and backward for "
            f"{step.samples:.0f} samples of a GPU"
        )
    overhead_s = step.optimizer_s + step.between_s
    if overhead_s >= MUCH_OVERHEAD * step.step_s:
        share = 100 * overhead_s / step.step_s
        signs.append(f"{share:.0f} % of a step is the optimizer and Python between the steps")
    waiting_s = step.data_s + step.communication_s + step.imbalance_s
    known = [pct for load in loads if (pct := load.mean_load_pct) is not None]
    busy_pct = sum(known) / len(known) if known else 100.0
    if busy_pct < LOW_LOAD_PCT and waiting_s < LITTLE_WAITING * step.step_s:
        signs.append(
            f"the GPUs are busy {busy_pct:.0f} % of the time, though a step waits for data and "
            f"other ranks only {100 * waiting_s / step.step_s:.0f} % of its own"
        )
    if not signs:
        return None
    return f"{LABELS['batch']}, signs of it (no proof): {'; '.join(signs)}"


def describe_cpu_use(run: Run) -> str | None:
    """Return how many of its CPUs the run used, for who wants more loaders."""
    slurm = (run.settings or {}).get("slurm")
    cpus = slurm.get("cpus_per_task") if isinstance(slurm, dict) else None
    use = read_cpu_use(run)
    if not use or not str(cpus or "").isdigit():
        return None
    node, pct, _ = max(use, key=lambda found: found[1])
    used = f"node{node} used {pct / 100:.1f} of its {cpus} CPUs"
    if pct / 100 > 0.8 * int(cpus):
        return f"{used}: more loaders will not help, ask for more --cpus-per-task"
    return f"{used}: more --num-workers may help, unless the files come slowly"


_INPUTS = {
    "jpeg": "decode the images once (--input cache)",
    "cache": "keep the decoded cache on a local disk or in memory, or the images on the GPU "
    "(--input device)",
}


def advise_on_data(run: Run) -> str:
    """Return what to do about waiting for data, by how the run read them."""
    settings = run.settings or {}
    by_input = _INPUTS.get(str(settings.get("input")))
    usual = "more --num-workers and --cpus-per-task, or data that need no decoding"
    use = None if settings.get("input") == "device" else describe_cpu_use(run)
    return "; ".join(filter(None, [by_input, use])) or usual


def describe_uneven_steps(run: Run) -> str | None:
    """Return how much longer rank 0's late steps take: lateness in turns, or a few long stalls."""
    try:
        metrics = read_training_metrics(run.results_dir / "training_metrics.json")
    except UserError:
        return None  # it names itself in the run's problems
    names = ("step_time_p50_sec", "step_time_p95_sec")
    pairs = [[number(epoch.record, name) for name in names] for epoch in metrics.epochs]
    warmup = find_warmup_epochs(run)
    steady = [pair for pair in pairs[warmup:] or pairs if None not in pair]
    if not steady:
        return None
    usual_s, late_s = (fmean(each) for each in zip(*steady, strict=True))
    if not 0 < UNEVEN * usual_s <= late_s:
        return None
    return (
        f"Uneven steps: half of rank 0's take up to {1e3 * usual_s:.1f} ms, one in 20 takes "
        f"{1e3 * late_s:.1f} ms or more"
    )


def list_monitors(run: Run) -> list[str]:
    """Return what the run was told to do between its steps."""
    argv = (run.settings or {}).get("argv")
    found = []
    for word in argv if isinstance(argv, list) else ():
        name, _, value = str(word).replace("_", "-").partition("=")
        if name in MONITORS and value != "0":
            found.append(f"{MONITORS[name]} ({name})")
    return found
