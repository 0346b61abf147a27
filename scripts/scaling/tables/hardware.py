"""How well a scale uses its GPUs: throughput and TFLOP/s of one GPU, and model-FLOP utilisation."""

from common.gpus import GPUS, find_gpu
from scaling.runs.study import Study
from scaling.tables.table import Cell, is_missing, missing, show


def list_hardware_headers(study: Study) -> dict[str, str]:
    """Return the columns' headers; none when no run says how many operations a sample takes."""
    if not any(_settings(study, row).get("flops_per_sample") for row in study.scales.itertuples()):
        return {}
    return {
        "throughput_per_gpu": f"{study.noun.capitalize()}/sec per GPU",
        "tflops_per_gpu": "TFLOP/s per GPU",
        "mfu_pct": "MFU (%)",
    }


def make_hardware_cells(study: Study, row) -> dict[str, Cell]:
    """Return the cells of a row of study.scales."""
    per_gpu = row.throughput_per_s / row.gpus
    settings = _settings(study, row)
    flops = settings.get("flops_per_sample")
    tflops = per_gpu * flops / 1e12 if flops else None
    peak, why = find_peak(settings)
    lost = "its run did not record flops_per_sample" if flops is None else "no throughput"
    return {
        "throughput_per_gpu": show(per_gpu, why="no throughput is recorded"),
        "tflops_per_gpu": show(tflops, why=lost),
        "mfu_pct": missing(why) if peak is None else show(
            None if is_missing(tflops) else tflops / peak * 100, 2, why=lost
        ),
    }  # fmt: skip


def define_hardware(study: Study) -> list[str]:
    """Say what the columns are, and each peak that MFU is a share of."""
    if not list_hardware_headers(study):
        return []
    peaks = [find_peak(_settings(study, row)) for row in study.scales.itertuples()]
    shares = dict.fromkeys(told for peak, told in peaks if peak is not None)
    return [
        "TFLOP/s: operations of the model's forward and backward passes per sample, without what "
        "is computed again, x throughput.",
        *(f"MFU: that / {told}. Small images keep it low: ResNet at 64 x 64 is bound by memory."
          for told in shares),
    ]  # fmt: skip


def find_peak(settings: dict) -> tuple[float | None, str]:
    """Return a GPU's dense peak (TFLOP/s) at a run's precision and what it is; or None and why.

    Source: the vendors' data sheets, as common/gpus.csv names them.
    """
    name, precision = settings.get("gpu_name"), settings.get("precision")
    if not isinstance(name, str) or not isinstance(precision, str):
        return None, "no GPU is recorded" if name is None else "no known GPU or precision"
    gpu = find_gpu(name)
    peak = gpu[precision] if gpu and precision in ("fp32", "fp16", "bf16") else None
    if peak is None:
        return None, f"the peak of {name} at {precision} is unknown: add it to common/{GPUS.name}"
    return peak, f"the dense peak of {name} at {precision}, {peak:g} TFLOP/s ({gpu['source']})"


def _settings(study: Study, row) -> dict:
    return study.settings(row.latest)
