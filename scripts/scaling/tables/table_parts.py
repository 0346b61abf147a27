"""What a table is made of: rows of cells, and what the cluster's profile says of them."""

from dataclasses import dataclass, field
from pathlib import Path

from scaling.runs.find import Run
from scaling.runs.workloads import Subject
from scaling.tables.cells import Cell

MEMORY_DEFINITION = (
    "GPU 0: the lowest index in node0's log. CPU Peak: resident memory, summed over node0's "
    "processes (a page that they share counts once for each)."
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
    cannot_run: bool = False  # the cluster cannot run it


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    headers: dict[str, str]
    rows: list[Row]


@dataclass(frozen=True)
class Report:
    """The tables; `epochs` stands in their headers, `left_out` names runs without a row."""

    epochs: int
    tables: list[Table]
    left_out: list[str]
    subject: Subject


@dataclass(frozen=True)
class Site:
    """What the cluster's profile says, by the job's folder below experiments/.

    cannot_run: why the cluster cannot run a job. expected: `throughput`, `tolerance_pct` and
    perhaps `source` of one.
    """

    cannot_run: dict[str, str] = field(default_factory=dict)
    expected: dict[str, dict] = field(default_factory=dict)
