"""The table beside the README's two: the memory of every GPU of the runs that fill them."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from common.errors import UserError
from common.rounding import to_decimal
from scaling.read.gpu_log import list_labels
from scaling.runs.compare import divide
from scaling.tables.readme import ReadmeTable, Shown, check_covers, take_gpu_log
from scaling.tables.table import Cell, Table, missing, say, show

HEADERS = {
    "config": "Config", "node": "Node", "gpu": "GPU", "peak_mib": "Peak (MiB)",
    "avg_mib": "Avg (MiB)", "mode_mib": "Mode (MiB)", "avg_of_gpu0": "Avg vs GPU 0",
}  # fmt: skip
DEFINITION = (
    "Memory in use on the whole GPU, sampled by nvidia-smi over the whole job. Node 0 is the "
    "head node. Avg vs GPU 0: over that of node 0's lowest GPU."
)


def make_memory_table(tables: Sequence[ReadmeTable]) -> Table:
    """Return one row per GPU of each run in the README's tables, the baseline once.

    A log that cannot be used, or is missing, has one row with the reason.
    """
    rows, remarks, seen = [], [], set()
    for shown in (each for table in tables for each in table.shown):
        if shown.run is None or shown.run in seen:
            continue
        seen.add(shown.run)
        if shown.run.gpu_log_paths:
            rows += _list_gpus(shown)
        else:
            remarks.append(f"{shown.config}: no GPU log of job {shown.run.id}")
    return Table("gpu_memory", "Memory of every GPU", HEADERS, rows, (DEFINITION,), remarks)


def _list_gpus(shown: Shown) -> Iterator[dict[str, Cell]]:
    first: Decimal | None = None
    for node in range(shown.run.nodes or 1):
        try:
            log = take_gpu_log(shown.run, node)
            for gpu in log.gpus:
                check_covers(shown.run, "GPU", gpu.covered_s, gpu.interval_s)
        except UserError as error:
            none = missing(str(error))
            yield dict.fromkeys(HEADERS, none) | {"config": say(shown.config), "node": say(node)}
            continue
        for label, gpu in zip(list_labels(log.gpus), log.gpus, strict=True):
            average = to_decimal(gpu.average_mib)
            if node == 0 and first is None:
                first = average
            why = "the memory of node 0's lowest GPU is unknown"
            yield {
                "config": say(shown.config),
                "node": say(node),
                "gpu": say(gpu.index if label == f"GPU {gpu.index}" else label),
                "peak_mib": Cell(gpu.peak_mib, str(gpu.peak_mib)),
                "avg_mib": show(average),
                "mode_mib": Cell(gpu.mode_mib, str(gpu.mode_mib)),
                "avg_of_gpu0": show(divide(average, first), sign="×", why=why),
            }
