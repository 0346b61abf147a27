"""Read the tables that somebody filled in by hand, in Markdown."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from common.errors import UserError
from scaling.read.text import read_lines
from scaling.tables.csv_numbers import parse_number

EMPTY = ("", "—", "–", "-", "--", "---", "n/a", "na", "none", "?", "…", "...", "tbd", "x")
_NOTE = re.compile(r"\s*\[\^?\w{1,3}\]\s*$")  # a footnote's mark
_RULE = re.compile(r"[\s|:-]+")
_EPOCH = re.compile(r"\s*\(epoch \d+\)", re.IGNORECASE)
_MIB = re.compile(r"\s*Mi?B$", re.IGNORECASE)  # nvidia-smi's MiB are often called MB
_GIB = re.compile(r"\s*(GiB|GB)$", re.IGNORECASE)


@dataclass(frozen=True)
class FilledTable:
    """A Markdown table: the heading above it, and (line number, header -> cell) of each row."""

    heading: str
    headers: list[str]
    rows: list[tuple[int, dict[str, str]]]


def read_filled_tables(path: Path) -> list[FilledTable]:
    """Return every table of a Markdown file whose first column is `Config`.

    Raises UserError when there is none, and for a row with too few or too many cells.
    """
    tables: list[FilledTable] = []
    heading, headers = "", None
    for number, (line, _) in enumerate(read_lines(Path(path)), start=1):
        if line.startswith("#"):
            heading, headers = line.lstrip("# ").strip(), None
        elif "|" not in line:
            headers = None
        elif headers is None:
            headers = _split(line)
            if simplify(headers[0]) == "config":
                tables.append(FilledTable(heading, headers, []))
        elif tables and headers is tables[-1].headers and not _RULE.fullmatch(line):
            cells = _split(line)
            if len(cells) != len(headers):
                raise UserError(
                    f"{path}, line {number}: {len(cells)} cells under {len(headers)} headers; "
                    "count its | characters"
                )
            tables[-1].rows.append((number, dict(zip(headers, cells, strict=True))))
    if not tables:
        raise UserError(
            f"{path}: no table whose first column is Config; fill in a copy of "
            "experiments/TABLES.md"
        )
    return tables


def _split(line: str) -> list[str]:
    text = line.strip().removeprefix("|")
    text = text[:-1] if text.endswith("|") and not text.endswith("\\|") else text
    return [_strip(cell) for cell in re.split(r"(?<!\\)\|", text)]


def _strip(cell: str) -> str:
    return _NOTE.sub("", cell.strip().strip("*`_ ")).strip("*`_ ")


def simplify(header: str) -> str:
    """Return a header or a row's name without case, spaces and the number of the epoch."""
    return " ".join(_EPOCH.sub("", header).lower().replace("x", "×").split())


def is_empty(cell: str) -> bool:
    return cell.lower() in EMPTY


def parse_cell(cell: str) -> list[Fraction]:
    """Return the numbers that somebody may have meant, GiB as MiB; none when it is none.

    A comma may part thousands or be the decimal one: `5,149` is both.
    """
    text = _MIB.sub("", _GIB.sub("", cell))
    values = [parse_number(text), parse_number(text, decimal_comma=True) if "," in text else None]
    factor = 1024 if _GIB.search(cell) else 1
    return list(dict.fromkeys(value * factor for value in values if value is not None))
