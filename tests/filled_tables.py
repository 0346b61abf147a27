"""Reads filled tables, for the tests of them."""

import re
from pathlib import Path

from run_folders import write_run
from scaling.tables.readme import Row, build_report


def parse_markdown(text: str) -> list[list[str]]:
    """The cells of each table line (the two headers first in theirs), rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def rows(root: Path, **options: object) -> dict[str, Row]:
    return {r.config: r for t in build_report(root, **options).tables for r in t.rows}


def cell(row: Row, name: str) -> tuple[str, str | None]:
    return row.cells[name].text, row.cells[name].note


def notes(row: Row) -> set[str]:
    return {cell.note for cell in row.cells.values() if cell.note}


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
