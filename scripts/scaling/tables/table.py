"""A table to be printed in any format: headers, rows of cells, notes, what its figures mean."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from numbers import Integral
from pathlib import Path

from common.console import printable
from common.rounding import round_half_even

MISSING = "—"
ROUNDING = (
    "Rounded half to even from the exact decimal digits (2.675 becomes 2.68, 2.665 becomes 2.66), "
    "never truncated."
)
TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
# In GitHub's Markdown: code, emphasis, strike-through, HTML, table cells; links and images
# need `](`, or a bare address. An underscore inside a word is only an underscore.
_ENTITY = re.compile(r"&(?=#?\w+;)")
_MARKDOWN = re.compile(r"[\\`*~|]|(?<![^\W_])_|_(?![^\W_])")


@dataclass(frozen=True)
class Cell:
    """value: exact or as logged, None when missing. note: why it is, or what to know of it.

    source: the file, and where it is known the line, that the value is read from.
    """

    value: Decimal | float | int | None
    text: str
    note: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Table:
    """Headers by column name, and rows of a cell for each.

    definitions: what the figures are, one sentence each. remarks: what else to know. sources:
    where each row comes from. keys: what CSV and JSON say of each row besides, by name (a job
    id, a path). facts: what JSON says of the whole table besides. max_width: Markdown and text
    draw more columns than fit into so many characters below, the first column again before them.
    """

    name: str
    title: str
    headers: dict[str, str]
    rows: Sequence[dict[str, Cell]]
    definitions: Sequence[str] = ()
    remarks: Sequence[str] = ()
    sources: Sequence[str] = ()
    keys: Sequence[dict[str, object]] = ()
    facts: dict[str, object] = field(default_factory=dict)
    max_width: int | None = None

    def number_notes(self, numbers: dict[str, int] | None = None) -> dict[str, int]:
        """Return the table's notes, each once, with its number; `numbers` are taken already."""
        numbers = {} if numbers is None else numbers
        notes = (row[name].note for row in self.rows for name in self.headers)
        return {note: numbers.setdefault(note, len(numbers) + 1) for note in notes if note}


def make_table(
    name: str, title: str, columns: dict[str, str | tuple], rows: Iterable, **about: object
) -> Table:
    """Return the table of a row for each of `rows`: records, or any objects.

    columns: by name the header alone, of the row's own value of that name; (header, places) to
    show it with other than two decimals; or (header, make), what makes the cell of a row. A value
    may be a Cell already. about: Table's other fields.
    """
    declared = {key: (each, 2) if isinstance(each, str) else each for key, each in columns.items()}

    def make_cell(row: object, key: str) -> Cell:
        how = declared[key][1]
        if callable(how):
            return how(row)
        value = row[key] if isinstance(row, dict) else getattr(row, key)
        if isinstance(value, Cell):
            return value
        return say(value) if isinstance(value, str | Integral) else show(value, how)

    headers = {key: header for key, (header, _) in declared.items()}
    cells = [{key: make_cell(row, key) for key in declared} for row in rows]
    return Table(name, title, headers, cells, **about)


def missing(reason: str) -> Cell:
    """Return the cell of a value that is missing, with the reason as its note."""
    return Cell(None, MISSING, reason)


def say(text: object, note: str | None = None) -> Cell:
    """Return a cell of text or of a whole number."""
    value = int(text) if isinstance(text, Integral) else None
    return Cell(value, str(text), note)


def show(
    value: Decimal | float | None, places: int = 2, note: str | None = None, sign: str = "",
    why: str = "",
) -> Cell:  # fmt: skip
    """Return a rounded cell; — with the reason `why` for None, nan, infinity and pandas' <NA>."""
    if is_missing(value):
        return missing(why or "not recorded")
    return Cell(value, round_half_even(value, places) + sign, note)


def is_missing(value: object) -> bool:
    """Whether a record or a frame has no number: None, nan, infinity, pandas' <NA>."""
    try:
        return value is None or not math.isfinite(value)
    except TypeError:  # pandas' <NA> is no float
        return True
    except OverflowError:  # a whole number that is too large for a float is one all the same
        return False


def add_note(cell: Cell, note: str | None) -> Cell:
    """Return the cell with a further note."""
    return replace(cell, note=join_notes(cell.note, note))


def join_notes(*notes: str | None) -> str | None:
    """Return notes as one, None when there is none."""
    return "; ".join(filter(None, notes)) or None


# ---- Text that no reader's program obeys -----------------------------------------------------


def escape_markdown(text: object) -> str:
    """Return text from a log or path as one line that Markdown shows and does not obey."""
    line = _ENTITY.sub("&amp;", printable(text))  # `&&` stays as it is typed
    line = line.replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKDOWN.sub(r"\\\g<0>", line)
    line = line.replace("](", "]\\(").replace("][", "]\\[").replace("]:", "]\\:")
    return line.replace("://", ":\\//").replace("www.", "www\\.")


def escape_csv(text: object) -> str:
    """Return text that no spreadsheet takes for a formula (OWASP: CSV injection)."""
    line = printable(text)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


# ---- To read: Markdown, text, HTML -----------------------------------------------------------


def to_markdown(tables: Sequence[Table]) -> str:
    """Return the tables with their notes, which are numbered through."""
    numbers: dict[str, int] = {}
    documents = []
    for table in tables:
        parts, notes = _draw(table, numbers, escape_markdown, _draw_markdown, gap=3)
        blocks = [f"## {escape_markdown(table.title)}", *parts]
        blocks.append("\n".join(map(escape_markdown, table.definitions)))
        sources, remarks = (map(escape_markdown, texts) for texts in (table.sources, table.remarks))
        for title, texts in (("Notes:\n\n", notes), ("Sources:\n\n", sources), ("", remarks)):
            lines = "\n".join(f"- {text}" for text in texts)
            blocks.append(lines and title + lines)
        documents.append("\n\n".join(filter(None, blocks)) + "\n")
    return "\n".join(documents)


def to_text(tables: Sequence[Table]) -> str:
    """Return the tables as text for a terminal, with the notes of each below it."""
    numbers: dict[str, int] = {}
    documents = []
    for table in tables:
        parts, notes = _draw(table, numbers, printable, draw_text, gap=1)
        about = [*map(printable, table.definitions), *notes]
        about += [f"- {printable(text)}" for text in (*table.sources, *table.remarks)]
        documents.append("\n".join([printable(table.title), "\n\n".join(parts), *about]) + "\n")
    return "\n".join(documents)


def _draw(
    table: Table, numbers: dict[str, int], escape: Callable, draw: Callable, gap: int
) -> tuple[list[str], list[str]]:
    """Return the table in as many parts as its width needs, and the lines of its notes.

    draw(lines): a part as text; gap: the characters between two of its columns.
    """
    notes = table.number_notes(numbers)
    lines = [list(map(escape, table.headers.values()))]
    for row in table.rows:
        cells = [row[name] for name in table.headers]
        marks = [f" [{notes[cell.note]}]" if cell.note else "" for cell in cells]
        lines.append([escape(cell.text) + mark for cell, mark in zip(cells, marks, strict=True)])
    widths = [max(map(len, column)) + gap for column in zip(*lines, strict=True)]
    parts = [[0]]
    for at, width in enumerate(widths[1:], start=1):
        used = width + sum(widths[each] for each in parts[-1])
        if table.max_width and len(parts[-1]) > 1 and used >= table.max_width:
            parts.append([0])
        parts[-1].append(at)
    drawn = [draw([[cells[at] for at in part] for cells in lines]) for part in parts]
    return drawn, [f"[{notes[note]}] {escape(note)}" for note in sorted(notes, key=notes.get)]


def _draw_markdown(lines: list[list[str]]) -> str:
    left, *right = (max(map(len, column)) for column in zip(*lines, strict=True))
    rule = [":".ljust(left, "-"), *(":".rjust(width, "-") for width in right)]
    padded = (
        [first.ljust(left), *map(str.rjust, others, right)]
        for first, *others in (lines[0], rule, *lines[1:])
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def draw_text(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of printable texts in columns that are as wide as their cells."""
    from tabulate import DataRow, TableFormat, tabulate  # not for --help

    bare = TableFormat(None, None, None, None, None, DataRow("", " ", ""), 0, None)
    text = tabulate(lines, tablefmt=bare, disable_numparse=True, preserve_whitespace=True)
    return "\n".join(line.rstrip() for line in text.splitlines())


def to_html(tables: Sequence[Table], title: str = "Scaling tables") -> str:
    """Return one page that needs nothing else; text of logs never becomes markup."""
    return _load_macros().page(title, tables, "")


def text_to_html(text: str, title: str) -> str:
    """Return plain text as a page, its columns kept."""
    lines = ("".join(c for c in line if c.isprintable()) for line in text.splitlines())
    return _load_macros().page(title, [], "\n".join(lines))


@cache
def _load_macros():
    return make_environment().get_template("table.html.j2").module


def make_environment():
    """Return the jinja2 Environment of HTML pages: autoescape, `line` for one printable line."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not for --help

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["line"] = printable
    return environment


# ---- To compute with: JSON, CSV --------------------------------------------------------------


def to_records(table: Table) -> list[dict]:
    """Return one flat record for each row: numbers as numbers, None where missing, notes.

    `notes` are by column.
    """
    first, *others = table.headers
    return [
        {
            "table": table.name,
            first: _to_plain(row[first]),
            **{name: printable(v) if isinstance(v, str | Path) else v for name, v in keys.items()},
            **{name: _to_plain(row[name]) for name in others},
            "notes": {name: printable(row[name].note) for name in table.headers if row[name].note},
        }
        for row, keys in zip(table.rows, table.keys or [{}] * len(table.rows), strict=True)
    ]


def _to_plain(cell: Cell) -> int | float | str | None:
    """Return a cell for JSON and CSV: whole numbers stay whole, all else is a float."""
    value = cell.value
    if value is None:
        return None if cell.text == MISSING else printable(cell.text)
    if is_missing(value):  # nan in the log
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def to_json(tables: Sequence[Table]) -> str:
    """Return every table with its definitions; numbers are not rounded."""
    described = [
        {
            "table": table.name,
            "title": table.title,
            **table.facts,
            "headers": table.headers,
            "definitions": list(table.definitions),
            "rows": to_records(table),
            "sources": list(map(printable, table.sources)),
            "remarks": list(map(printable, table.remarks)),
        }
        for table in tables
    ]
    document = {"schema_version": "1.0", "tables": described}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """Return all tables as one; the column `table` says which one a row belongs to."""
    records = [record for table in tables for record in to_records(table)]
    names = [name for record in records for name in record if name != "notes"]
    names += [name for table in tables for name in table.headers]  # of one without rows
    text = io.StringIO()
    columns = dict.fromkeys(["table", *names, "notes"])
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for record in records:
        by_note: dict[str, list[str]] = {}
        for name, note in record["notes"].items():
            by_note.setdefault(note, []).append(name)
        record["notes"] = "; ".join(f"{', '.join(names)}: {n}" for n, names in by_note.items())
        writer.writerow({k: escape_csv(v) if isinstance(v, str) else v for k, v in record.items()})
    return text.getvalue()


FORMATS = {
    "md": to_markdown, "markdown": to_markdown, "csv": to_csv, "json": to_json, "html": to_html,
    "text": to_text,
}  # fmt: skip
