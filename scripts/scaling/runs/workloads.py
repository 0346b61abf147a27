"""Which tables there are: their rows, their columns, and what each workload calls its figures."""

from dataclasses import dataclass, replace

from scaling.runs.choosing import Scale
from scaling.runs.find import Run

DEFAULT_WORKLOAD = "tinyimagenet"
# Column of the score -> header; {epochs} is filled in. The names are those of slurm_out.Epoch.
SCORES = {
    "train_accuracy_pct": "Train Acc (Epoch {epochs})",
    "train_perplexity": "Train Perplexity (Epoch {epochs})",
    "val_bleu": "Val BLEU (Epoch {epochs})",
}
WORDS = {"img/s": "samples", "samples/s": "samples", "tokens/s": "tokens"}


@dataclass(frozen=True)
class Subject:
    """What a workload's tables show: the unit of throughput, and the score beside the loss."""

    workload: str = DEFAULT_WORKLOAD
    unit: str = "img/s"
    score: str = "train_accuracy_pct"

    @property
    def throughput_definition(self) -> str:
        return (
            f"Throughput: {WORDS.get(self.unit, 'samples')} of all ranks / seconds of the slowest "
            "rank, training part of the epoch only, last epoch."
        )

    def list_columns(self, epochs: int, base: str) -> dict[str, str]:
        """Return column name -> header, in order."""
        headers = {
            "train_loss": "Train Loss (Epoch {epochs})",
            self.score: SCORES[self.score],
            "throughput_per_s": f"Throughput ({self.unit})",
            "gpu0_peak_mib": "GPU 0 Peak (MiB)",
            "gpu0_avg_mib": "GPU 0 Avg (MiB)",
            "gpu0_mode_mib": "GPU 0 Mode (MiB)",
            "throughput_scaling": "Throughput Scaling vs {base}",
            "memory_avg_scaling": "Memory Avg Scaling vs {base}",
            "efficiency_pct": "Parallel Efficiency (%)",
            "cpu_peak_mib": "CPU Peak (MiB)",
        }
        return {name: text.format(epochs=epochs, base=base) for name, text in headers.items()}


SUBJECTS = {
    "tinyimagenet": Subject(),
    "gpt2": Subject("gpt2", "tokens/s", "train_perplexity"),
    "translation": Subject("translation", "tokens/s", "val_bleu"),
    "spiral": Subject("spiral", "samples/s"),
}


def describe_workload(workload: str, runs: list[Run]) -> Subject:
    """Return what a workload's tables show; one of your own is judged by its runs' epoch lines."""
    if workload in SUBJECTS:
        return SUBJECTS[workload]
    lasts = [run.attempt.last for run in runs if run.id and run.attempt and run.attempt.last]
    if not lasts:
        return Subject(workload, "samples/s")
    score = next((name for name in SCORES if getattr(lasts[-1], name) is not None), None)
    return Subject(workload, lasts[-1].unit, score or Subject.score)


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


def list_tables(subject: Subject, scales: set[Scale], folders: set[str], usual_gpus: int):
    """List the tables of a workload: the README's, in its own folders.

    TinyImageNet has all of their rows. Another workload has the baseline's and those of `scales`
    (its jobs and runs) and `folders` (its jobs that the cluster cannot run), since it need not be
    run at each.
    """
    if subject.workload == DEFAULT_WORKLOAD:
        return TABLES
    tables = []
    for table in TABLES:
        rows = (replace(row, folder=f"{subject.workload}/{row.folder}") for row in table.rows)
        kept = tuple(
            row
            for row in rows
            if row.scale(usual_gpus) in {(1, 1), *scales} or row.folder in folders
        )
        if len(kept) > 1 or table is TABLES[0]:
            tables.append(replace(table, rows=kept))
    return tuple(tables)
