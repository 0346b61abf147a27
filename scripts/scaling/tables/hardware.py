"""How well each GPU is used: its throughput, TFLOP/s, MFU, HFU, and the log's utilisation."""

import math
from collections.abc import Iterable
from dataclasses import replace

from common.gpus import GPUS, find_gpu
from scaling.runs.run import Run
from scaling.runs.study import Study
from scaling.tables.table import Cell, Table, is_missing, make_table, missing, say, show

MAX_WIDTH = 100  # characters of a line
RECOMPUTED = "recomputed_flops_per_sample"
UNEVEN_POINTS = 10  # GPUs whose utilisation differs by more have no common mean


def add_hardware(study: Study, table: Table, rows: Iterable) -> Table:
    """Return a table with the columns of its GPUs' use; rows: of study.scales or configs, as its.

    A column without a value in any row is left out, and one line says why. A table of somebody's
    numbers, or of metrics files that count no operations, stays as it is.
    """
    rows = list(rows)
    settings = [study.settings(row.latest) for row in rows]
    is_run = any(isinstance(source, Run) for source in study.sources)
    if not rows or not (is_run or any("flops_per_sample" in each for each in settings)):
        return table
    headers = {
        "throughput_per_gpu": f"{study.noun.capitalize()}/sec per GPU",
        "tflops_per_gpu": "TFLOP/s per GPU",
        "mfu_pct": "MFU (%)",
        "hfu_pct": "HFU (%)",
        "utilization_pct": "GPU utilisation (%)",
    }
    if not any(each.get("activation_checkpointing") for each in settings):
        del headers["hfu_pct"]
    found, by_reason = [make_hardware_cells(study, row) for row in rows], {}
    for name in [*headers]:
        if all(cells[name].value is None for cells in found):
            by_reason.setdefault(found[0][name].note, []).append(headers.pop(name))
    told = "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())
    return replace(
        table,
        headers=table.headers | headers,
        rows=[{**row, **cells} for row, cells in zip(table.rows, found, strict=True)],
        definitions=[*table.definitions, *_define(settings, headers)],
        remarks=[*table.remarks, *([f"not shown: {told}"] if told else [])],
        max_width=MAX_WIDTH,
    )


def make_hardware_table(study: Study) -> Table:
    """Return the use of the GPUs at each scale as a table of its own."""
    scales = list(study.scales.itertuples())
    columns = {"config": ("Configuration", lambda row: say(row.label)), "gpus": "GPUs"}
    return add_hardware(study, make_table("gpu_use", "Use of the GPUs", columns, scales), scales)


def make_hardware_cells(study: Study, row) -> dict[str, Cell]:
    """Return the cells of a row of study.scales or configs."""
    settings = study.settings(row.latest)
    per_gpu = row.throughput_per_s / row.gpus
    flops, again = (_read_count(settings, name) for name in ("flops_per_sample", RECOMPUTED))
    again = again if settings.get("activation_checkpointing") else 0.0
    peak, no_peak = find_peak(settings)
    no_rate = "no throughput is recorded"
    why = no_rate if is_missing(per_gpu) else "its run did not record flops_per_sample"
    why_again = why if flops != flops else f"its run did not record {RECOMPUTED}"

    def share(flops: float, why: str) -> Cell:
        return show(per_gpu * flops / 1e12 / peak * 100, why=why) if peak else missing(no_peak)

    return {
        "throughput_per_gpu": show(per_gpu, why=no_rate),
        "tflops_per_gpu": show(per_gpu * flops / 1e12, why=why),
        "mfu_pct": share(flops, why),
        "hfu_pct": share(flops + again, why_again),
        "utilization_pct": _show_utilization(study, row),
    }


def _read_count(settings: dict, name: str) -> float:
    """Return a count that a run recorded, nan for whatever is no number above 0."""
    value = settings.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e30 else math.nan


def _show_utilization(study: Study, row) -> Cell:
    """Return the mean of the log over the GPUs; where these differ, from the least to the most."""
    run, samples = study.find_run(row), study.samples
    samples = samples[(samples["run"] == row.latest) & samples["gpu"].notna()]
    used_pct = samples.groupby(["node", "gpu"])["utilization_pct"].mean()
    per_node = run.gpus_per_node if run else None
    if per_node and (used_pct.groupby("node").size() > per_node).any():
        return missing("its GPU log shows more GPUs than the job had: which are its own is unknown")
    used_pct = used_pct.dropna()
    why = "no GPU log" if samples.empty else "its GPU log has no utilisation"
    note = f"of {len(used_pct)} of {row.gpus} GPUs" if len(used_pct) != row.gpus else None
    cell = show(used_pct.mean(), 1, note, why=why)
    if len(used_pct) and used_pct.max() - used_pct.min() > UNEVEN_POINTS:
        low, high = (show(each, 1).text for each in (used_pct.min(), used_pct.max()))
        return replace(cell, text=f"{low} to {high}")
    return cell


def _define(settings: Iterable[dict], columns: Iterable[str]) -> list[str]:
    """Say what the columns are, and each peak that MFU is a share of."""
    peaks = dict.fromkeys(told for peak, told in map(find_peak, settings) if peak is not None)
    low = "Small images keep it low: ResNet at 64 x 64 is bound by memory."
    definitions = {
        "tflops_per_gpu": [
            "TFLOP/s: operations of the model's forward and backward passes per sample, without "
            "what is computed again, x throughput."
        ],
        "mfu_pct": [f"MFU: that / {told}. {low}" for told in peaks],
        "hfu_pct": ["HFU: as MFU, with what activation checkpointing computes again."],
        "utilization_pct": [
            "GPU utilisation: nvidia-smi's, mean of the latest run's whole log over its GPUs; from "
            f"the least to the most of a GPU where they are more than {UNEVEN_POINTS} points apart."
        ],
    }
    return [text for name in columns for text in definitions.get(name, ())]


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
