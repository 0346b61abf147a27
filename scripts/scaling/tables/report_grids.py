"""The README's tables in the formats that every table has.

Markdown and CSV have the two alone; HTML and JSON have the memory of every GPU as well, which
`fill_tables.py --memory` prints for itself.
"""

import json

from scaling.runs.comparing import add_note
from scaling.tables import grid, table_text
from scaling.tables.cells import Cell
from scaling.tables.grid import Grid, say
from scaling.tables.memory_table import make_memory_grid
from scaling.tables.table_parts import MEMORY_DEFINITION, Report, Row, Table
from scaling.tables.table_text import describe_source


def list_grids(report: Report) -> list[Grid]:
    """Return the README's tables as grids: the same cells, with their sources as remarks."""
    return [_make_grid(report, table) for table in report.tables]


def _make_grid(report: Report, table: Table) -> Grid:
    rows = [{"config": _name_row(row), **row.cells} for row in table.rows]
    definitions = (report.subject.throughput_definition, MEMORY_DEFINITION)
    sources = [f"{row.config}: {describe_source(row)}" for row in table.rows]
    left_out = [f"not in these tables: {text}" for text in report.left_out]
    headers = {"config": "Config", **table.headers}
    return Grid(table.name, table.title, headers, rows, definitions, (*sources, *left_out))


def _name_row(row: Row) -> Cell:
    cell = say(row.config)
    for note in row.notes:
        cell = add_note(cell, note)
    return cell


def to_html(report: Report) -> str:
    return grid.to_html([*list_grids(report), make_memory_grid(report)])


def to_json(report: Report) -> str:
    """Return the README's records; `gpu_memory` has a row a GPU."""
    document = json.loads(table_text.to_json(report))
    document["gpu_memory"] = grid.to_records(make_memory_grid(report))
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS = {
    **dict.fromkeys(("md", "markdown"), table_text.to_markdown),
    "csv": table_text.to_csv,
    "json": to_json,
    "html": to_html,
}
