"""Reads filled tables and calls the commands that print them, for the tests of both."""

import re
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from in_process import run_script
from run_folders import write_run
from scaling.runs import Run, find_runs
from scaling.tables import Cell, make_readme_tables


@dataclass(frozen=True)
class Row:
    """A row of one of the README's tables; `note`: on the row as a whole."""

    cells: dict[str, Cell]
    run: Run | None
    source: str

    @property
    def note(self) -> str | None:
        return self.cells["config"].note


def fill(root: Path, workload: str = "tinyimagenet", **options: object) -> list:
    """The README's tables of the runs below a folder."""
    return make_readme_tables(find_runs(root), workload, **options)


def rows(root: Path, **options: object) -> dict[str, Row]:
    return {
        shown.config: Row(cells, shown.run, source)
        for table in fill(root, **options)
        for cells, shown, source in zip(table.rows, table.shown, table.sources, strict=True)
    }


def cell(row: Row, name: str) -> tuple[str, str | None]:
    return row.cells[name].text, row.cells[name].note


def notes(row: Row) -> set[str]:
    return {cell.note for name, cell in row.cells.items() if cell.note and name != "config"}


def parse_markdown(text: str) -> list[list[str]]:
    """The cells of each table line (the two headers first in theirs), rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def call(command: str, *arguments: object) -> CompletedProcess:
    """Call a command in this process; returncode, stdout and stderr as of a process."""
    return run_script(f"scripts/{command}.py", *arguments)


def write_seven_scales(root: Path) -> Path:
    """Write a run of each of the seven scales: 704.9 img/s on one GPU. Returns `root`."""
    write_run(root, 1, 1, "11", throughput=704.9, used_mib=[22000] * 10 + [26532] * 10)
    for i, (nodes, gpus, throughput) in enumerate(
        [
            (1, 2, 1388.6),
            (1, 4, 2750.0),
            (1, 8, 5399.5),
            (2, 2, 2700.0),
            (4, 2, 5000.1),
            (8, 2, 9e3),
        ]
    ):
        write_run(root, nodes, gpus, str(12 + i), throughput=throughput, used_mib=[24508] * 20)
    return root
