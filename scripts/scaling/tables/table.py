"""A table to be printed in any format: headers, rows of cells, notes, what its figures mean."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
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
    """value: exact or as logged, None when missing. note: why it is, or what to know of it."""

    value: Decimal | float | int | None
    text: str
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """Headers by column name, and rows of a cell for each.

    definitions: what the figures are, one sentence each. remarks: what else to know. sources:
    where each row comes from. keys: what CSV and JSON say of each row besides, by name (a job
    id, a path). facts: what JSON says of the whole table besides. max_width: Markdown and text
    draw more columns than fit into so many characters below, the first column again before them;
    second: the column with which they begin if those before it fit.
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
    second: str = ""

    def number_notes(self, numbers: dict[str, int] | None = None) -> dict[str, int]:
        """Return the table's notes, each once, with its number; `numbers` are taken already."""
        numbers = {} if numbers is None else numbers
        notes = (row[name].note for row in self.rows for name in self.headers)
        return {note: numbers.setdefault(note, len(numbers) + 1) for note in notes if note}


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


def _mark(table: Table, numbers: dict[str, int], escape: Callable) -> tuple[list, list]:
    """Return the rows' texts, with the numbers of their notes, and the lines of these notes."""
    notes = table.number_notes(numbers)
    rows = [
        [
            escape(row[name].text) + (f" [{notes[row[name].note]}]" if row[name].note else "")
            for name in table.headers
        ]
        for row in table.rows
    ]
    return rows, [f"[{notes[note]}] {escape(note)}" for note in sorted(notes, key=notes.get)]


def _part(table: Table, rows: list[list[str]], gap: int, escape: Callable) -> list[list[list[str]]]:
    """Return header and rows in as few parts as the width needs, the first column in each."""
    lines = [list(map(escape, table.headers.values())), *rows]
    widths = [max(map(len, column)) + gap for column in zip(*lines, strict=True)]

    def cut(columns: list[int], most: int) -> list[list[int]]:
        parts = [[0]]
        for at in columns:
            if len(parts[-1]) > 1 and sum(map(widths.__getitem__, [*parts[-1], at])) >= most:
                parts.append([0])
            parts[-1].append(at)
        return parts

    def fit(columns: list[int]) -> list[list[int]]:
        """Return parts of about one width: the narrowest that are as few."""
        tried = (cut(columns, most) for most in range(1, table.max_width + 1))
        return next(parts for parts in tried if len(parts) == len(cut(columns, table.max_width)))

    every = list(range(1, len(widths)))
    parts = fit(every) if table.max_width else [[0, *every]]
    if len(parts) > 1 and table.second in table.headers:
        at = list(table.headers).index(table.second)
        if len(fit(every[: at - 1])) == 1:
            parts = [[0, *every[: at - 1]], *fit(every[at - 1 :])]
    return [[[cells[at] for at in part] for cells in lines] for part in parts]


def to_markdown(tables: Sequence[Table]) -> str:
    """Return the tables with their notes, which are numbered through."""
    numbers: dict[str, int] = {}
    return "\n".join(_to_markdown(table, numbers) for table in tables)


def _to_markdown(table: Table, numbers: dict[str, int]) -> str:
    rows, notes = _mark(table, numbers, escape_markdown)
    blocks = [f"## {escape_markdown(table.title)}"]
    for headers, *part in _part(table, rows, 3, escape_markdown):
        left, *right = (max(map(len, column)) for column in zip(headers, *part, strict=True))
        rule = [":".ljust(left, "-"), *(":".rjust(width, "-") for width in right)]
        drawn = (
            " | ".join([first.ljust(left), *map(str.rjust, others, right)])
            for first, *others in (headers, rule, *part)
        )
        blocks.append("\n".join(f"| {line} |" for line in drawn))
    if table.definitions:
        blocks.append("\n".join(map(escape_markdown, table.definitions)))
    sources, remarks = (map(escape_markdown, texts) for texts in (table.sources, table.remarks))
    for title, texts in (("Notes:\n\n", notes), ("Sources:\n\n", sources), ("", remarks)):
        if lines := "\n".join(f"- {text}" for text in texts):
            blocks.append(title + lines)
    return "\n\n".join(blocks) + "\n"


def to_text(tables: Sequence[Table]) -> str:
    """Return the tables as text for a terminal, with the notes of each below it."""
    numbers: dict[str, int] = {}
    return "\n".join(_to_text(table, numbers) for table in tables)


def _to_text(table: Table, numbers: dict[str, int]) -> str:
    rows, notes = _mark(table, numbers, printable)
    parts = _part(table, rows, 1, printable)
    drawn = "\n\n".join(draw_text(headers, part) for headers, *part in parts)
    listed = [f"- {printable(text)}" for text in (*table.sources, *table.remarks)]
    lines = [printable(table.title), drawn, *map(printable, table.definitions), *notes, *listed]
    return "\n".join(lines) + "\n"


def draw_text(headers: Sequence[str], rows: Sequence[Sequence[str]], widths=()) -> str:
    """Return rows in columns that are as wide as their cells, and at least as `widths` says."""
    from tabulate import DataRow, TableFormat, tabulate  # not for --help

    widths = widths or [0] * len(headers)
    padded = [printable(each).ljust(width) for each, width in zip(headers, widths, strict=True)]
    bare = TableFormat(None, None, None, None, None, DataRow("", " ", ""), 0, None)
    text = tabulate(
        [padded, *([printable(cell) for cell in row] for row in rows)],
        tablefmt=bare,
        disable_numparse=True,
        stralign="left",
        preserve_whitespace=True,
    )
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
    records, columns = [], {}
    for table in tables:
        first, *others = table.headers
        columns |= dict.fromkeys((first, *(table.keys[0] if table.keys else ()), *others))
        records += to_records(table)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["table", *columns, "notes"], lineterminator="\n")
    writer.writeheader()
    for record in records:
        by_note: dict[str, list[str]] = {}
        for name, note in record["notes"].items():
            by_note.setdefault(note, []).append(name)
        told = (f"{', '.join(names)}: {note}" for note, names in by_note.items())
        record["notes"] = "; ".join(told) or None
        writer.writerow(
            {key: escape_csv(v) if isinstance(v, str) else v for key, v in record.items()}
        )
    return text.getvalue()


FORMATS = {
    "md": to_markdown, "markdown": to_markdown, "csv": to_csv, "json": to_json, "html": to_html,
    "text": to_text,
}  # fmt: skip
