"""The two tables of the README, filled from the runs: values, ratios, reasons and sources."""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from scaling.cells import Cell, compare_settings, measure, missing, ratio_cell
from scaling.choosing import (
    Choice,
    Scale,
    choose,
    has_scale,
    is_of_workload,
    resolve_jobs,
    usual_gpus_per_node,
)
from scaling.errors import ScalingError
from scaling.runs import Run, check_rank_records, describe_no_run, find_runs

WORKLOAD, UNIT = "tinyimagenet", "img/s"
DEFAULT_EPOCHS = 3
BASELINE: Scale = (1, 1)
THROUGHPUT_DEFINITION = (
    "Throughput: samples of all ranks / seconds of the slowest rank, "
    "training part of the epoch only, last epoch."
)
MEMORY_DEFINITION = (
    "GPU 0: the lowest index in node0's log. CPU Peak: resident memory, summed over node0's "
    "processes (a page that they share counts once for each)."
)
# Column name -> header; {epochs} and {base} are filled in.
COLUMNS = {
    "train_loss": "Train Loss (Epoch {epochs})",
    "train_accuracy_pct": "Train Acc (Epoch {epochs})",
    "throughput_per_s": "Throughput (img/s)",
    "gpu0_peak_mib": "GPU 0 Peak (MiB)",
    "gpu0_avg_mib": "GPU 0 Avg (MiB)",
    "gpu0_mode_mib": "GPU 0 Mode (MiB)",
    "throughput_scaling": "Throughput Scaling vs {base}",
    "memory_avg_scaling": "Memory Avg Scaling vs {base}",
    "efficiency_pct": "Parallel Efficiency (%)",
    "cpu_peak_mib": "CPU Peak (MiB)",
}


@dataclass(frozen=True)
class RowSpec:
    config: str
    nodes: int
    gpus_per_node: int | None  # None: the multi-node jobs' own number
    folder: str  # where the committed job file stands below experiments/
    script: str

    def scale(self, usual_gpus: int) -> Scale:
        return self.nodes, self.gpus_per_node or usual_gpus


@dataclass(frozen=True)
class TableSpec:
    name: str
    title: str
    base: str
    rows: tuple[RowSpec, ...]


TABLES = (
    TableSpec(
        "multi_gpu",
        "Multi-GPU Scaling (1 Node)",
        "1G",
        (
            RowSpec("1 GPU, 1 Node (baseline)", 1, 1, "baseline", "baseline.slurm"),
            RowSpec("2 GPUs, 1 Node", 1, 2, "multi_gpu/2_gpus", "multi_gpu.slurm"),
            RowSpec("4 GPUs, 1 Node", 1, 4, "multi_gpu/4_gpus", "multi_gpu.slurm"),
            RowSpec("8 GPUs, 1 Node", 1, 8, "multi_gpu/8_gpus", "multi_gpu.slurm"),
        ),
    ),
    TableSpec(
        "multi_node",
        "Multi-Node Scaling (Fixed GPUs per Node)",
        "1N",
        (
            RowSpec("1 Node (baseline)", 1, 1, "baseline", "baseline.slurm"),
            RowSpec("2 Nodes", 2, None, "multi_node/2_nodes", "multi_node.slurm"),
            RowSpec("4 Nodes", 4, None, "multi_node/4_nodes", "multi_node.slurm"),
            RowSpec("8 Nodes", 8, None, "multi_node/8_nodes", "multi_node.slurm"),
        ),
    ),
)


@dataclass(frozen=True)
class Row:
    """One scale: its cells by column name, the run that fills it (None: see `reason`)."""

    config: str
    nodes: int
    gpus_per_node: int | None
    run: Run | None
    cells: dict[str, Cell]
    reason: str | None = None  # why no run fills it
    notes: tuple[str, ...] = ()  # on the row as a whole
    later: str | None = None  # a younger run that is not shown, in words
    latest_log: Path | None = None  # of the run that `reason` is about


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    headers: dict[str, str]
    rows: list[Row]


@dataclass(frozen=True)
class Report:
    """Both tables; `epochs` stands in their headers, `left_out` names runs without a row."""

    epochs: int
    tables: list[Table]
    left_out: list[str]


def build_report(folder: Path, jobs: list[str] | None = None, now_s: float | None = None) -> Report:
    """Return the two tables filled from the runs below a folder.

    Each row shows the last epoch's line of the latest complete run at its scale, or of the
    job named in `jobs`. Raises ScalingError when the folder does not exist or holds neither
    job file nor run, and for a job that no row can show.
    """
    folder = Path(folder)
    runs = find_runs(folder, now_s)
    if not runs:
        raise ScalingError(
            f"{folder}: no job file (*.slurm) and no run in it; name the folder that holds "
            "them, or write the job files with: python render.py"
        )
    ours = [run for run in runs if is_of_workload(run, WORKLOAD, UNIT)]
    usual_gpus = usual_gpus_per_node(ours)
    scales = {row.scale(usual_gpus) for table in TABLES for row in table.rows}
    at_scale = {scale: [run for run in ours if has_scale(run, scale)] for scale in scales}
    named = resolve_jobs(ours, jobs or [], scales)
    choices = {scale: choose(candidates, named) for scale, candidates in at_scale.items()}
    epochs = _find_epochs(choices)
    filler = _Filler(folder, choices, epochs, usual_gpus)
    placed = {run for candidates in at_scale.values() for run in candidates}
    return Report(
        epochs,
        [filler.fill(table) for table in TABLES],
        [_name_left_out(run) for run in ours if run.id and run not in placed],
    )


def _find_epochs(choices: dict[Scale, Choice]) -> int:
    """Return the epochs of the baseline, else of most runs, else those of the job files."""

    def count(choice: Choice) -> int | None:
        attempt = choice.run.attempt if choice.run else None
        return attempt.last.epochs if attempt and attempt.last else None

    counts = Counter(count(choice) for choice in choices.values())
    counts.pop(None, None)
    usual = max(counts, key=lambda n: (counts[n], n), default=DEFAULT_EPOCHS)
    return count(choices[BASELINE]) or usual


def _name_left_out(run: Run) -> str:
    nodes, gpus = run.nodes or "unknown", run.gpus_per_node or "unknown"
    return f"job {run.id} ({nodes} nodes × {gpus} GPUs has no row): {run.reason}"


class _Filler:
    def __init__(self, folder: Path, choices: dict[Scale, Choice], epochs: int, usual_gpus: int):
        self.folder = folder
        self.choices = choices
        self.epochs = epochs
        self.usual_gpus = usual_gpus
        self.baseline = choices[BASELINE].run
        self.measured = {
            choice.run: measure(choice.run) for choice in choices.values() if choice.run
        }

    def fill(self, spec: TableSpec) -> Table:
        headers = {
            name: header.format(epochs=self.epochs, base=spec.base)
            for name, header in COLUMNS.items()
        }
        return Table(spec.name, spec.title, headers, [self._fill_row(row) for row in spec.rows])

    def _fill_row(self, spec: RowSpec) -> Row:
        scale = spec.scale(self.usual_gpus)
        choice = self.choices[scale]
        if choice.run is None:
            reason = self._explain_no_run(spec)
            cells = dict.fromkeys(COLUMNS, missing(reason))
            return Row(
                spec.config, *scale, None, cells, reason=reason, latest_log=choice.latest_log
            )
        run = choice.run
        cells = {**self.measured[run], **self._compare(run)}
        notes = tuple(check_rank_records(run))
        last = run.attempt.last if run.attempt else None
        if last is not None and last.epochs != self.epochs:
            notes += (f"this run has {last.epochs} epochs: its values are of epoch {last.epoch}",)
        cells = {name: cells[name] for name in COLUMNS}
        return Row(spec.config, *scale, run, cells, notes=notes, later=choice.later)

    def _divide(self, run: Run, base: Run) -> dict[str, Cell]:
        here, there = self.measured[run], self.measured[base]
        throughputs = here["throughput_per_s"], there["throughput_per_s"]
        places = 1 if run is base else 2
        return {
            "throughput_scaling": ratio_cell(*throughputs, places),
            "memory_avg_scaling": ratio_cell(here["gpu0_avg_mib"], there["gpu0_avg_mib"], places),
            "efficiency_pct": missing("the number of GPUs is not known: no run.json")
            if run.gpus is None
            else ratio_cell(*throughputs, places=1, factor=Fraction(100, run.gpus), sign=""),
        }

    def _explain_no_run(self, spec: RowSpec) -> str:
        reason = self.choices[spec.scale(self.usual_gpus)].reason
        return reason or describe_no_run(self.folder / spec.folder, spec.script)

    def _compare(self, run: Run) -> dict[str, Cell]:
        """Return the three cells that set a run against the 1-GPU run."""
        names = ("throughput_scaling", "memory_avg_scaling", "efficiency_pct")
        base = self.baseline
        if base is None:
            why = self._explain_no_run(TABLES[0].rows[0])
            return dict.fromkeys(names, missing(f"no complete 1-GPU run to compare with: {why}"))
        comparable, note = (True, None) if run is base else compare_settings(run, base)
        if not comparable:
            return dict.fromkeys(names, missing(note))
        cells = self._divide(run, base)
        return {
            name: cell if cell.value is None else replace(cell, note=note)
            for name, cell in cells.items()
        }
