"""A table to be printed in any format: headers, rows of cells, what its figures mean."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from common.console import printable
from scaling.read.numbers import plain_number, round_half_even
from scaling.tables.cells import Cell, missing
from scaling.tables.table_text import draw_grid, escape_csv, escape_markdown

ROUNDING = (
    "Rounded half to even from the exact decimal digits (2.675 becomes 2.68, 2.665 becomes 2.66), "
    "never truncated."
)


@dataclass(frozen=True)
class Grid:
    """definitions: what the figures are, one sentence each. remarks: what else to know."""

    name: str
    title: str
    headers: dict[str, str]
    rows: list[dict[str, Cell]]
    definitions: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())


def say(text: object, note: str | None = None) -> Cell:
    """Return a cell of text or of a whole number."""
    value = text if isinstance(text, int) else None
    return Cell(value, str(text), note)


def show(value, places: int = 2, note: str | None = None, sign: str = "", why: str = "") -> Cell:
    """Return a rounded cell; — with the reason `why` when there is no value."""
    if value is None:
        return missing(why or "not recorded")
    return Cell(value, round_half_even(value, places) + sign, note)


def to_markdown(grids: Sequence[Grid]) -> str:
    """Return the tables with numbered notes; text of logs never becomes Markdown."""
    return "\n".join(_grid_to_markdown(grid) for grid in grids)


def _grid_to_markdown(grid: Grid) -> str:
    numbers = _number_notes(grid)
    table = [[escape_markdown(header) for header in grid.headers.values()]]
    for row in grid.rows:
        cells = (row[name] for name in grid.headers)
        table.append([_mark(escape_markdown(c.text), numbers.get(c.note)) for c in cells])
    blocks = [f"## {escape_markdown(grid.title)}", draw_grid(table)]
    if grid.definitions:
        blocks.append("\n".join(map(escape_markdown, grid.definitions)))
    if numbers:
        notes = (f"- [{number}] {escape_markdown(note)}" for note, number in numbers.items())
        blocks.append("Notes:\n\n" + "\n".join(notes))
    if grid.remarks:
        blocks.append("\n".join(f"- {escape_markdown(remark)}" for remark in grid.remarks))
    return "\n\n".join(blocks) + "\n"


def _number_notes(grid: Grid) -> dict[str, int]:
    """Number each note once, in the order of the rows."""
    notes = (row[name].note for row in grid.rows for name in grid.headers)
    return {note: n for n, note in enumerate(dict.fromkeys(filter(None, notes)), start=1)}


def _mark(text: str, number: int | None) -> str:
    return text if number is None else f"{text} [{number}]"


def to_records(grid: Grid) -> list[dict]:
    """Return one flat record a row: numbers as numbers, None where missing, notes by column."""
    return [_to_record(grid, row) for row in grid.rows]


def _to_record(grid: Grid, row: dict[str, Cell]) -> dict:
    values = {name: _plain(row[name]) for name in grid.headers}
    notes = {name: printable(row[name].note) for name in grid.headers if row[name].note}
    return {"table": grid.name, **values, "notes": notes}


def _plain(cell: Cell) -> int | float | str | None:
    if cell.value is not None:
        return plain_number(cell.value)
    return None if cell.text == missing("").text else printable(cell.text)


def to_json(grids: Sequence[Grid]) -> str:
    """Return every table with its definitions; numbers are not rounded."""
    tables = [
        {
            "table": grid.name,
            "title": grid.title,
            "headers": grid.headers,
            "definitions": list(grid.definitions),
            "rows": to_records(grid),
            "remarks": [printable(remark) for remark in grid.remarks],
        }
        for grid in grids
    ]
    document = {"schema_version": "1.0", "tables": tables}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(grids: Sequence[Grid]) -> str:
    """Return all tables as one; the column `table` says which a row is of."""
    names = list(dict.fromkeys(name for grid in grids for name in grid.headers))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["table", *names, "notes"], lineterminator="\n")
    writer.writeheader()
    for grid in grids:
        for record in to_records(grid):
            notes = "; ".join(f"{name}: {note}" for name, note in record["notes"].items())
            record = {**record, "notes": notes or None}
            writer.writerow(
                {key: escape_csv(v) if isinstance(v, str) else v for key, v in record.items()}
            )
    return text.getvalue()


def to_html(grids: Sequence[Grid], title: str = "Scaling tables") -> str:
    """Return one page that needs nothing else; text of logs never becomes markup."""
    return wrap_page("\n".join(map(grid_to_html, grids)), title)


def grid_to_html(grid: Grid) -> str:
    """Return a table as a <section>, to stand in any page."""
    numbers = _number_notes(grid)

    def cell(tag: str, text: str, note: str | None = None) -> str:
        mark = f"<sup>[{numbers[note]}]</sup>" if note in numbers else ""
        return f"<{tag}>{_safe(text)}{mark}</{tag}>"

    head = "".join(cell('th scope="col"', text) for text in grid.headers.values())
    head = head.replace('</th scope="col">', "</th>")
    rows = (
        "".join(cell("td", row[name].text, row[name].note) for name in grid.headers)
        for row in grid.rows
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    parts = [f"<h2>{_safe(grid.title)}</h2>", "<table>", f"<thead><tr>{head}</tr></thead>"]
    parts += [f"<tbody>\n{body}\n</tbody>", "</table>"]
    parts += [f"<p>{_safe(text)}</p>" for text in grid.definitions]
    parts += _list("ol", numbers) + _list("ul", grid.remarks)
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _list(tag: str, texts: Iterable[str]) -> list[str]:
    items = [f"<li>{_safe(text)}</li>" for text in texts]
    return [f"<{tag}>", *items, f"</{tag}>"] if items else []


def _safe(text: object) -> str:
    return escape(printable(text))


def wrap_page(body: str, title: str) -> str:
    """Return a whole page around a body that is markup already."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_safe(title)}</title>\n"
        "<style>body{font-family:sans-serif;color-scheme:light dark}section{overflow-x:auto}"
        "table{border-collapse:collapse}td,th{border:1px solid #888;padding:.2em .5em;"
        "text-align:right}td:first-child,th:first-child{text-align:left}</style>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def text_to_html(text: str, title: str) -> str:
    """Return plain text as a page, its columns kept."""
    lines = "\n".join(escape("".join(c for c in s if c.isprintable())) for s in text.splitlines())
    return wrap_page(f"<pre>{lines}</pre>", title)


FORMATS = {
    "md": to_markdown, "markdown": to_markdown, "csv": to_csv, "json": to_json, "html": to_html,
}  # fmt: skip
__all__ = ["FORMATS", "ROUNDING", "Grid", "grid_to_html", "say", "show", "to_records"]
