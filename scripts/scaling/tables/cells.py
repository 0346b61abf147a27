"""The cells of a scaling table: each a value with its printed form, or the reason it has none."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from common.errors import UserError
from scaling.read.cpu_log import read_cpu_log
from scaling.read.gpu_series import GpuLog, format_dropped
from scaling.read.numbers import LoggedNumber, round_half_even, to_fraction
from scaling.runs.own_gpus import read_own_gpu_log
from scaling.runs.run_record import Run

MISSING = "—"
SLACK_S = 5.0  # besides two sampling intervals: loggers start and stop around the training
SAMPLING_INTERVAL_S = 5.0  # the run contract's, for a log with too few samples to show its own


@dataclass(frozen=True)
class Cell:
    """value: exact or as logged, None when missing. note: why it is, or what to know of it."""

    value: LoggedNumber | Fraction | int | float | None
    text: str
    note: str | None = None


def missing(reason: str) -> Cell:
    return Cell(None, MISSING, reason)


def add_note(cell: Cell, note: str | None) -> Cell:
    """Return the cell with a further note."""
    notes = [text for text in (cell.note, note) if text]
    return replace(cell, note="; ".join(notes) or None)


def measure(run: Run, score: str = "train_accuracy_pct", unit: str = "img/s") -> dict[str, Cell]:
    """Return the seven measured cells of a complete run, by column name.

    score: the column beside the loss (a name of slurm_out.Epoch). unit: of the throughput.
    """
    epoch = _measure_epoch(run, score, unit)
    return {**epoch, **_measure_gpu(run), "cpu_peak_mib": _measure_cpu(run)}


def _measure_epoch(run: Run, score: str, unit: str) -> dict[str, Cell]:
    names = ("train_loss", score, "throughput_per_s")
    last = run.attempt.last if run.attempt else None
    if last is None:
        reason = "the log has no readable epoch line" if run.log else _explain_no_log(run)
        return dict.fromkeys(names, missing(reason))
    if last.epoch != last.epochs:
        reason = f"the log has no readable line for epoch {last.epochs} of {last.epochs}"
        return dict.fromkeys(names, missing(reason))
    value = getattr(last, score)
    word = {"train_perplexity": "perplexity", "val_bleu": "BLEU"}.get(score, "accuracy")
    return {
        "train_loss": _logged(last.train_loss),
        score: missing(f"the epoch line holds no {word}")
        if value is None
        else _logged(value, "%" if score.endswith("_pct") else ""),
        "throughput_per_s": _logged(last.throughput_per_s)
        if last.unit == unit
        else missing(f"logged as {last.throughput_per_s.text} {last.unit}, not in {unit}"),
    }


def _explain_no_log(run: Run) -> str:
    if run.log_path:
        return next((p for p in run.problems if str(run.log_path) in p), "its log cannot be read")
    return f"no Slurm log: {run.folder / 'log'} has no *_{run.job}.out"


def _logged(number: LoggedNumber, unit: str = "") -> Cell:
    text = number.text + unit
    return Cell(number, text, None if to_fraction(number) is not None else f"{text} in the log")


def _measure_gpu(run: Run) -> dict[str, Cell]:
    names = ("gpu0_peak_mib", "gpu0_avg_mib", "gpu0_mode_mib")
    try:
        log = _read_node0_gpu_log(run)
        gpu = log.gpus[0]
        check_covers(run, "GPU", gpu.covered_s, gpu.interval_s)
    except UserError as error:
        return dict.fromkeys(names, missing(str(error)))
    note = _explain_dropped(log)
    return {
        "gpu0_peak_mib": Cell(gpu.peak_mib, str(gpu.peak_mib), note),
        "gpu0_avg_mib": Cell(gpu.average_mib, round_half_even(gpu.average_mib, 2), note),
        "gpu0_mode_mib": Cell(gpu.mode_mib, str(gpu.mode_mib), note),
    }


def _read_node0_gpu_log(run: Run) -> GpuLog:
    path = run.gpu_log_paths.get(0)
    if path is None:
        on_cpu = " (the run used the CPU)" if (run.settings or {}).get("device") == "cpu" else ""
        raise UserError(f"no nvidia-smi on node0{on_cpu}: there is no GPU log of job {run.id}")
    return read_job_gpu_log(run, path)


def read_job_gpu_log(run: Run, path: Path) -> GpuLog:
    """Return a node's log of the job's own GPUs; UserError when it has no such samples."""
    log = read_own_gpu_log(run, path)
    if log.problem:
        raise UserError(f"GPU log {path}: {log.problem}")
    if run.gpus_per_node and len(log.gpus) > run.gpus_per_node:
        raise UserError(
            f"GPU log {path} shows {len(log.gpus)} GPUs and the job had {run.gpus_per_node} "
            "a node: which are its own is not known"
        )
    return log


def check_covers(run: Run, what: str, covered_s: float | None, interval_s: float | None) -> None:
    """Refuse a log that ends long before the training did, where both lengths are known."""
    training_s = run.attempt.total_training_s if run.attempt else None
    if training_s is None or to_fraction(training_s) is None or covered_s is None:
        return
    if covered_s + 2 * (interval_s or SAMPLING_INTERVAL_S) + SLACK_S < training_s:
        raise UserError(
            f"{what} log stops after {covered_s:.0f} s of {float(training_s):.0f} s of training"
        )


def _explain_dropped(log: GpuLog) -> str | None:
    """Name what was dropped, but for the last line, in which the logger is stopped."""
    dropped = {reason: n for reason, n in log.dropped.items() if not reason.startswith("cut")}
    return f"GPU log {log.path}: {format_dropped(log)}" if dropped else None


def _measure_cpu(run: Run) -> Cell:
    path: Path | None = run.cpu_log_paths.get(0)
    if path is None:
        return missing(f"no psrecord log of node0 of job {run.id}")
    try:
        log = read_cpu_log(path)
        if log.problem:
            raise UserError(f"CPU log {path}: {log.problem}")
        check_covers(run, "CPU", log.covered_s, log.interval_s)
    except UserError as error:
        return missing(str(error))
    return Cell(log.peak_mib, round_half_even(log.peak_mib, 1))


def ratio_cell(
    cell: Cell, base: Cell, places: int = 2, factor: Fraction = Fraction(1), sign: str = "×"
) -> Cell:
    """Return cell / base * factor, rounded once from the exact digits; or why there is none."""
    if cell.value is None:
        return missing(cell.note or "no value")
    if base.value is None:
        return missing(f"no baseline value: {base.note}")
    value, base_value = to_fraction(cell.value), to_fraction(base.value)
    if value is None or base_value is None or base_value == 0:
        return missing(f"{cell.text} / {base.text} is no number")
    ratio = value / base_value * factor
    return Cell(ratio, round_half_even(ratio, places) + sign)
