"""The table beside the README's two: the memory of every GPU of the runs that fill them."""

from collections.abc import Iterator
from fractions import Fraction

from common.errors import UserError
from scaling.read.gpu_series import GpuMemory
from scaling.runs.run_record import Run
from scaling.tables.cells import Cell, check_covers, missing, read_job_gpu_log
from scaling.tables.grid import Grid, say, show
from scaling.tables.table_parts import Report, Row

HEADERS = {
    "config": "Config", "node": "Node", "gpu": "GPU", "peak_mib": "Peak (MiB)",
    "avg_mib": "Avg (MiB)", "mode_mib": "Mode (MiB)", "avg_of_gpu0": "Avg vs GPU 0",
}  # fmt: skip


def make_memory_grid(report: Report) -> Grid:
    """Return a row a GPU of each run in the report's tables, the baseline once.

    A log that cannot be used, or that is not there, has one row with the reason.
    """
    rows, remarks, seen = [], [], set()
    for row in (row for table in report.tables for row in table.rows):
        if row.run is None or row.run in seen:
            continue
        seen.add(row.run)
        if row.run.gpu_log_paths:
            rows += _list_gpus(row, row.run)
        else:
            remarks.append(f"{row.config}: no GPU log of job {row.run.id}")
    definition = (
        "Memory in use on the whole GPU, sampled by nvidia-smi over the whole job. Node 0 is the "
        "head node. Avg vs GPU 0: over that of node 0's lowest GPU."
    )
    return Grid("gpu_memory", "Memory of every GPU", HEADERS, rows, (definition,), tuple(remarks))


def _list_gpus(row: Row, run: Run) -> Iterator[dict[str, Cell]]:
    first: Fraction | None = None
    for node in range(run.nodes or 1):
        path = run.gpu_log_paths.get(node)
        try:
            if path is None:
                raise UserError(f"no GPU log of node {node} of job {run.id}")
            log = read_job_gpu_log(run, path)
            for gpu in log.gpus:
                check_covers(run, "GPU", gpu.covered_s, gpu.interval_s)
        except UserError as error:
            yield _describe(row, node, missing(str(error)), None, None)
            continue
        for gpu in log.gpus:
            average = Fraction(gpu.average_mib)
            first = first or average
            yield _describe(row, node, say(gpu.index), gpu, average / first if first else None)


def _describe(
    row: Row, node: int, index: Cell, gpu: GpuMemory | None, ratio: Fraction | None
) -> dict[str, Cell]:
    peak, average, mode = (
        (gpu.peak_mib, gpu.average_mib, gpu.mode_mib) if gpu else (None, None, None)
    )
    why = index.note or ""
    return {
        "config": say(row.config),
        "node": say(node),
        "gpu": index,
        "peak_mib": missing(why) if peak is None else Cell(peak, str(peak)),
        "avg_mib": show(average, 2, why=why),
        "mode_mib": missing(why) if mode is None else Cell(mode, str(mode)),
        "avg_of_gpu0": show(ratio, 2, sign="×", why=why),
    }
