"""Print the scaling tables: Markdown to read, JSON and CSV to compute with."""

import csv
import io
import json
import re

from common.console import printable
from scaling.read.numbers import plain_number
from scaling.tables.readme import MEMORY_DEFINITION, Report, Row, Table

# In GitHub's Markdown: code, emphasis, strike-through, HTML, table cells; links and images
# need `](`, or a bare address. An underscore inside a word is only an underscore.
_ENTITY = re.compile(r"&(?=#?\w+;)")
_MARKDOWN = re.compile(r"[\\`*~|]|(?<![^\W_])_|_(?![^\W_])")


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


def to_markdown(report: Report) -> str:
    """Return the tables with their notes, numbered through, and their sources."""
    numbers: dict[str, int] = {}  # note -> its number, the same in both tables
    definition = f"{report.subject.throughput_definition}\n{MEMORY_DEFINITION}"
    parts = [_table_to_markdown(table, definition, numbers) for table in report.tables]
    if report.left_out:
        names = "\n".join(f"- {escape_markdown(text)}" for text in report.left_out)
        parts.append(f"Not in these tables:\n\n{names}\n")
    return "\n".join(parts)


def _table_to_markdown(table: Table, definition: str, numbers: dict[str, int]) -> str:
    used: dict[int, str] = {}

    def mark(text: str, *notes: str | None) -> str:
        marks = []
        for note in filter(None, notes):
            number = numbers.setdefault(note, len(numbers) + 1)
            used[number] = note
            marks.append(f"[{number}]")
        return " ".join([text, *marks])

    grid = [["Config", *table.headers.values()]]
    for row in table.rows:
        cells = [mark(escape_markdown(cell.text), cell.note) for cell in row.cells.values()]
        grid.append([mark(row.config, *row.notes), *cells])
    notes = [f"- [{number}] {escape_markdown(used[number])}" for number in sorted(used)]
    sources = [f"- {row.config}: {escape_markdown(describe_source(row))}" for row in table.rows]
    blocks = [f"## {table.title}", draw_grid(grid), definition]
    if notes:
        blocks.append("Notes:\n\n" + "\n".join(notes))
    blocks.append("Sources:\n\n" + "\n".join(sources))
    return "\n\n".join(blocks) + "\n"


def draw_grid(grid: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(grid[0]), line(rule), *map(line, grid[1:])])


def describe_source(row: Row) -> str:
    """Return which job and log a row was read from, and a later run that it does not show."""
    if row.cannot_run:
        return "no run: this cluster cannot run it"
    if row.run is None:
        return f"no complete run{f'; the latest log is {row.latest_log}' if row.latest_log else ''}"
    log = row.run.log_path or f"{row.run.results_dir} (no Slurm log)"
    later = f"; later and not shown: {row.later}" if row.later else ""
    return f"job {row.run.id}, {log}{later}"


def to_records(report: Report) -> list[dict]:
    """Return one flat record a row: numbers as numbers (None: missing), reasons by column."""
    return [_to_record(report, table, row) for table in report.tables for row in table.rows]


def _to_record(report: Report, table: Table, row: Row) -> dict:
    run, last = row.run, row.run.attempt.last if row.run and row.run.attempt else None
    reasons = {name: printable(cell.note) for name, cell in row.cells.items() if cell.note}
    if row.notes:
        reasons["config"] = printable("; ".join(row.notes))
    return {
        "table": table.name,
        "config": row.config,
        "nodes": row.nodes,
        "gpus_per_node": row.gpus_per_node,
        "job_id": run.id if run else None,
        "epoch": last.epoch if last else None,
        **{
            name: None if cell.value is None else plain_number(cell.value)
            for name, cell in row.cells.items()
        },
        "log": printable(run.log_path) if run and run.log_path else None,
        "reason": printable(row.reason) if row.reason else _join_reasons(reasons) or None,
        "reasons": reasons,
    }


def to_json(report: Report) -> str:
    """Return the rows as JSON; `reasons` has them by column, `reason` all in one text."""
    document = {
        "schema_version": "1.0",
        "epochs": report.epochs,
        "workload": report.subject.workload,
        "throughput_unit": report.subject.unit,
        "throughput_definition": report.subject.throughput_definition,
        "rows": to_records(report),
        "left_out": [printable(text) for text in report.left_out],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(report: Report) -> str:
    """Return both tables as one tidy CSV; the column `table` says which a row is of."""
    records = [
        {key: value for key, value in record.items() if key != "reasons"}
        for record in to_records(report)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow(
            {key: escape_csv(v) if isinstance(v, str) else v for key, v in record.items()}
        )
    return text.getvalue()


def _join_reasons(reasons: dict[str, str]) -> str:
    columns: dict[str, list[str]] = {}
    for column, reason in reasons.items():
        columns.setdefault(reason, []).append(column)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in columns.items())


FORMATS = {"md": to_markdown, "json": to_json, "csv": to_csv}
