"""How well each GPU is used: its throughput, TFLOP/s, MFU, HFU, and the log's utilisation."""

from collections.abc import Iterable
from dataclasses import replace

from common.gpus import GPUS, find_gpu
from scaling.runs.run import Run
from scaling.runs.study import Study
from scaling.tables.table import Cell, Table, is_missing, missing, show

MAX_WIDTH = 100  # characters of a line
UNEVEN_POINTS = 10  # GPUs whose utilisation differs by more have no common mean


def add_hardware(study: Study, table: Table, rows: Iterable) -> Table:
    """Return a table with the columns of its GPUs' use; rows: of study.scales or configs, as its.

    A column without a value in any row is left out, and one line says why. A table of somebody's
    numbers, or of metrics files that count no operations, stays as it is, unless it names one of
    these columns: then they stand where it has them.
    """
    rows = list(rows)
    headers = {
        "throughput_per_gpu": f"{study.noun.capitalize()}/sec per GPU",
        "tflops_per_gpu": "TFLOP/s per GPU",
        "mfu_pct": "MFU (%)",
        "hfu_pct": "HFU (%)",
        "utilization_pct": "GPU utilisation (%)",
    }
    is_known = any(isinstance(source, Run) for source in study.sources) or any(
        "flops_per_sample" in study.settings(row.latest) for row in rows
    )
    if not rows or (not is_known and not headers.keys() & table.headers.keys()):
        return table
    found = [make_hardware_cells(study, row) for row in rows]
    if not any(study.settings(row.latest).get("activation_checkpointing") for row in rows):
        del headers["hfu_pct"]
    empty, by_reason = set(), {}
    for name, header in headers.items():
        if all(cells[name].value is None for cells in found):
            empty.add(name)
            by_reason.setdefault(found[0][name].note, []).append(header)
    told = "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())
    kept = {name: header for name, header in headers.items() if name not in empty}
    return replace(
        table,
        headers={n: h for n, h in (table.headers | kept).items() if n not in empty},
        rows=[{**row, **cells} for row, cells in zip(table.rows, found, strict=True)],
        definitions=[*table.definitions, *_define(study, rows, kept)],
        remarks=[*table.remarks, *([f"not shown: {told}"] if told else [])],
        max_width=MAX_WIDTH,
        second=next((name for name in kept if name not in table.headers), ""),
    )


def make_hardware_table(study: Study) -> Table:
    """Return the use of the GPUs at each scale as a table of its own."""
    headers = {"config": "Configuration", "gpus": "GPUs"}
    scales = list(study.scales.itertuples())
    rows = [{"config": Cell(None, row.label), "gpus": show(row.gpus, 0)} for row in scales]
    return add_hardware(study, Table("gpu_use", "Use of the GPUs", headers, rows), scales)


def make_hardware_cells(study: Study, row) -> dict[str, Cell]:
    """Return the cells of a row of study.scales or configs."""
    settings = study.settings(row.latest)
    per_gpu = row.throughput_per_s / row.gpus
    flops, again = (
        _read_count(settings, f"{name}flops_per_sample") for name in ("", "recomputed_")
    )
    if not settings.get("activation_checkpointing"):
        again = 0
    tflops, hardware_tflops = (
        None if None in (flops, more) or is_missing(per_gpu) else per_gpu * (flops + more) / 1e12
        for more in (0, again)
    )
    peak, no_peak = find_peak(settings)
    lost = "no throughput is recorded"
    lost = lost if is_missing(per_gpu) else "its run did not record flops_per_sample"
    not_counted = lost if flops is None else "its run did not record recomputed_flops_per_sample"

    def share(tflops: float | None, why: str) -> Cell:
        if peak is None:
            return missing(no_peak)
        return show(None if tflops is None else tflops / peak * 100, 2, why=why)

    return {
        "throughput_per_gpu": show(per_gpu, why="no throughput is recorded"),
        "tflops_per_gpu": show(tflops, why=lost),
        "mfu_pct": share(tflops, lost),
        "hfu_pct": share(hardware_tflops, not_counted),
        "utilization_pct": _show_utilization(study, row),
    }


def _read_count(settings: dict, name: str) -> float | None:
    """Return a count that a run recorded, None for whatever is no number above 0."""
    value = settings.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e30 else None


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


def _define(study: Study, rows: list, columns: dict[str, str]) -> list[str]:
    """Say what the columns are, and each peak that MFU is a share of."""
    peaks = [find_peak(study.settings(row.latest)) for row in rows]
    shares = dict.fromkeys(told for peak, told in peaks if peak is not None)
    definitions = []
    if "tflops_per_gpu" in columns:
        definitions.append(
            "TFLOP/s: operations of the model's forward and backward passes per sample, without "
            "what is computed again, x throughput."
        )
    if "mfu_pct" in columns:
        low = "Small images keep it low: ResNet at 64 x 64 is bound by memory."
        definitions += [f"MFU: that / {told}. {low}" for told in shares]
    if "hfu_pct" in columns:
        definitions.append("HFU: as MFU, with what activation checkpointing computes again.")
    if "utilization_pct" in columns:
        definitions.append(
            "GPU utilisation: nvidia-smi's, mean of the latest run's whole log over its GPUs; from "
            f"the least to the most of a GPU where they are more than {UNEVEN_POINTS} points apart."
        )
    return definitions


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
