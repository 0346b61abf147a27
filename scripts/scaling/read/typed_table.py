"""Read a table that somebody typed or pasted: CSV, Markdown, a grid, columns of wide spaces."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from common.console import shorten
from common.counts import LineCounts
from common.errors import UserError
from scaling.read.text import read_lines

LARGEST_BYTES = 1 << 24
_MARKDOWN_RULER = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?\s*")
_RULER = re.compile(r"[\s|:+=-]*(?:--|==)[\s|:+=-]*")
_SEPARATOR = re.compile(r"[\t;,|]")
_SCALE = re.compile(r"\d+(?:\s*[x×*]\s*\d+)?\s*x?\s*(?:gpu|gcd|node|device)?s?", re.IGNORECASE)
_OTHER_FORMS = (
    (re.compile(r"PK\x03\x04"), "an .xlsx or another zip file: save the sheet as CSV"),
    (re.compile(r"\s*<(?:!doctype|html|table)", re.I), "HTML: copy the table's cells into a CSV"),
    (re.compile(r"(?s).*\\(?:begin\{tabu|hline|toprule)"), "LaTeX: write its cells as CSV"),
    (re.compile(r"\s*[{\[]"), "JSON: metrics files are given with --gpu1 FILE --gpu4 FILE"),
)


@dataclass(frozen=True)
class TypedTable:
    """The header, (line number, header -> cell) of each row, and where the file's lines went."""

    headers: list[str]
    rows: list[tuple[int, dict[str, str]]]
    counts: LineCounts
    delimiter: str


def read_typed_table(path: Path) -> TypedTable:
    """Return the only table in a file; a table that has `GPUs` in its first column is turned.

    Lines that are no row are counted by what they are: comments, rulers, a title, text around a
    table of Markdown. Raises UserError for another form, for rows of other lengths than the header,
    and for columns without a name or with the same one.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"{path}: larger than {LARGEST_BYTES >> 20} MiB: no table by hand")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = [line for line, _ in read_lines(path)]
    for pattern, words in _OTHER_FORMS:
        if pattern.match("\n".join(lines[:40])):
            raise UserError(f"{path}: no CSV but {words}")
    counts = LineCounts(len(lines))
    lines = _blank_other_lines(path, lines, counts)
    first = next(filter(_SEPARATOR.search, lines), "")
    delimiter = max("\t;,|", key=first.count)
    if not first:
        lines = [re.sub(r"\s{2,}", "\t", line.strip()) for line in lines]
    found: list[tuple[int, list[str]]] = []
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, skipinitialspace=True)
    before = 0
    try:
        for cells in reader:
            is_row = any(cell.strip() for cell in cells)
            if is_row:
                found.append((reader.line_num, [cell.strip() for cell in cells]))
            elif lines[before]:
                counts.ignored["blank"] += 1
            counts.kept += (reader.line_num - before) * is_row
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: no CSV: {error}") from error
    while len(found) > 2 and len(found[0][1]) == 1 < len(found[1][1]):
        found.pop(0)
        counts.ignored["text above the header"] += 1
        counts.kept -= 1
    if len(found) < 2:
        raise UserError(f"{path}: a line of column names and one row per scale are needed")
    counts.ignored["header"] += 1
    counts.kept -= 1
    return TypedTable(*_name_columns(path, found), counts, delimiter)


def _blank_other_lines(path: Path, lines: list[str], counts: LineCounts) -> list[str]:
    """Return the lines with an empty one for each that is no row, counted by what it is."""
    rulers = [at for at, line in enumerate(lines) if _MARKDOWN_RULER.fullmatch(line)]
    if len(rulers) > 1:
        raise UserError(f"{path}: {len(rulers)} tables in one file; give each a file of its own")
    keep = range(len(lines))
    if rulers and rulers[0]:
        end = next((at for at in range(rulers[0], len(lines)) if "|" not in lines[at]), len(lines))
        keep = range(rulers[0] - 1, end)
    is_comment = [line.lstrip().startswith("#") for line in lines]
    first = next((at for at in keep if lines[at].strip() and not is_comment[at]), 0)
    above = max((at for at in keep if at < first and is_comment[at]), default=first)
    marks = [len(_SEPARATOR.findall(lines[at])) for at in (above, first)] if lines else [0]
    if marks[0] and len(set(marks)) == 1 and not re.search(r"[A-Za-z#]", lines[first][:1]):
        is_comment[above] = False  # `# gpus,img/s` above figures is their header
    kept = []
    for at, line in enumerate(lines):
        text = line.strip()
        rule = (
            "blank" if not text else "text around the table" if at not in keep
            else "ruler" if at in rulers or _RULER.fullmatch(line)
            else "comment" if is_comment[at] else ""
        )  # fmt: skip
        if rule:
            counts.ignored[rule] += 1
        is_barred = bool(rulers) or text.startswith("|")
        kept.append("" if rule else text.removeprefix("|").removesuffix("|") if is_barred else line)
    return kept


def _name_columns(path: Path, found: list) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    line, headers = found[0]
    for number, cells in found[1:]:
        if len(cells) != len(headers):
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells under {len(headers)} column names"
            )
    if len(headers) > 2 and all(map(_SCALE.fullmatch, headers[1:])):
        if not re.fullmatch(r"[#\w .]*(?:gpu|gcd|device|world size)s?\b.*", headers[0], re.I):
            raise UserError(
                f"{path}, line {line}: its columns are numbers of GPUs: write one row per scale, "
                "with a column of GPUs and one of throughput or time"
            )
        turned = zip(*(cells for _, cells in found), strict=True)
        found = [(line, list(cells)) for cells in turned]
        headers = found[0][1]
    columns = list(zip(*(cells for _, cells in found[1:]), strict=True))
    numbers = tuple(map(str, range(len(found) - 1)))  # pandas' own, of the rows
    kept = [at for at, name in enumerate(headers) if name]
    for at, column in enumerate(columns):
        if at not in kept and any(column) and column != numbers:
            raise UserError(f"{path}, line {line}: column {at + 1} has no name; give each its own")
    names = [headers[at] for at in kept]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: two columns are called {shorten(twice, 40)!r}; rename one")
    return names, [(n, {headers[at]: cells[at] for at in kept}) for n, cells in found[1:]]
