"""Read a table that somebody typed or pasted: its rows, its numbers, and what its header says."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from common.console import shorten
from common.counts import LineCounts
from common.errors import UserError
from scaling.read.text import read_lines

LARGEST_BYTES = 1 << 24
_RULER = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?\s*")  # of Markdown
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
    """Return the only table in a file: CSV with any of `,;` and tabs, or Markdown.

    Lines that are no row are counted by what they are: comments, text around a table of Markdown.
    Raises UserError for another form, for rows of other lengths than the header, and for columns
    without a name or with the same one.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"{path}: larger than {LARGEST_BYTES >> 20} MiB: no table by hand")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = [line.strip(" ") for line, _ in read_lines(path)]
    for pattern, words in _OTHER_FORMS:
        if pattern.match("\n".join(lines[:40])):
            raise UserError(f"{path}: no CSV but {words}")
    rulers = [at for at, line in enumerate(lines) if _RULER.fullmatch(line)]
    if len(rulers) > 1:
        raise UserError(f"{path}: {len(rulers)} tables in one file; give each a file of its own")
    begin, end = max(rulers[0] - 1, 0) if rulers else 0, len(lines)
    if rulers:
        end = next((at for at in range(begin, end) if "|" not in lines[at]), end)
    marks = "|" if rulers else ",;\t|"
    is_comment = [line.startswith("#") and not any(m in line for m in marks) for line in lines]
    rows = [at for at in range(begin, end) if lines[at] and not is_comment[at]]
    delimiter = max(marks, key=lines[rows[0]].count) if rows else ","
    counts = LineCounts(len(lines))
    found: list[tuple[int, list[str]]] = []
    for at, line in enumerate(lines):
        rule = (
            "blank" if not line.strip(f" {delimiter}") else "ruler" if at in rulers
            else "text around the table" if not begin <= at < end
            else "comment" if is_comment[at] else ""
        )  # fmt: skip
        counts.ignored[rule or "header"] += bool(rule) or not found
        if not rule:
            text = line.removeprefix("|").removesuffix("|") if delimiter == "|" else line
            try:
                (cells,) = csv.reader([text], delimiter=delimiter, skipinitialspace=True)
            except csv.Error as error:
                raise UserError(f"{path}, line {at + 1}: no CSV: {error}") from error
            found.append((at + 1, [cell.strip() for cell in cells]))
    if len(found) < 2:
        raise UserError(f"{path}: a line of column names and one row per scale are needed")
    counts.kept = len(found) - 1
    return TypedTable(*_name_columns(path, found), counts, delimiter)


def _name_columns(path: Path, found: list) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    line, headers = found[0]
    for number, cells in found[1:]:
        if len(cells) != len(headers):
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells under {len(headers)} column names"
            )
    if len(headers) > 2 and all(map(_SCALE.fullmatch, headers[1:])):
        raise UserError(
            f"{path}, line {line}: its columns are numbers of GPUs: write one row per scale, "
            "with a column of GPUs and one of throughput or time"
        )
    numbers = list(map(str, range(len(found) - 1)))  # pandas' own, of the rows
    named = [at for at, name in enumerate(headers) if name]
    for at in range(len(headers)):
        column = [cells[at] for _, cells in found[1:]]
        if at not in named and any(column) and column != numbers:
            raise UserError(f"{path}, line {line}: column {at + 1} has no name; give each its own")
    names = [headers[at] for at in named]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: two columns are called {shorten(twice, 40)!r}; rename one")
    return names, [(n, {headers[at]: cells[at] for at in named}) for n, cells in found[1:]]


# ---- Numbers as people type them: 29,600.05 or 29600,05, 1.94x, 97 %, 00:16:57 ---------------

_POINT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_GROUPED_BY_POINTS = re.compile(r"[+-]?(?:(?:\d{1,3}(?:\.\d{3})+|\d+),\d+|\d{1,3}(?:\.\d{3})+)")
_CLOCK = re.compile(r"(?:(\d{1,5})-)?(\d{1,5}):(\d{1,2})(?::(\d{1,2}(?:\.\d+)?))?")
_PARTS = re.compile(
    r"(?:(\d{1,5}) ?h(?:ours?|rs?)?)? ?(?:(\d{1,5}) ?m(?:in(?:ute)?s?)?)?"
    r" ?(?:(\d{1,5}(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?)?"
)
# The G of GPU and GCD is no giga.
_TYPED = re.compile(
    r"(?:[x×] ?)?([^A-Za-z%×]*\d(?:[eE][+-]?\d+)?\.?)\s*((?:[kKM]|G(?!PU|CD))?)"
    r"(\s*[A-Za-z%×/][^0-9]*)?"
)
_THOUSANDS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_SPREAD = re.compile(r"\s*(?:±|\+/-|\+-|\\pm)\s*[\d.,]+(?:[eE][+-]?\d+)?")
# A footnote's mark, or the spread, speedup or count in brackets behind a number: 400 (3), 380 [^1].
_BEHIND = re.compile(
    r"(?<=[\w%×.)])\s*(?:\((?:n\s*=\s*|[±~+-]\s*)?[\d.,]+\s*[%x×]?\)|\[\^?\w{1,3}\]|\^\{?\w\}?"
    r"|<sup>.*?</sup>|[*†‡§¶#¹²³⁴⁵⁶⁷⁸⁹⁰]+)$"
)
# Seconds in one of a unit that a header or a cell names.
TIME_UNITS_S = {
    word: Decimal(seconds)
    for seconds, words in {
        "1e-6": "us usec microseconds", "0.001": "ms msec milliseconds",
        "1": "s sec secs second seconds", "60": "m min mins minute minutes",
        "3600": "h hr hrs hour hours", "86400": "d day days",
    }.items()
    for word in words.split()
}  # fmt: skip


def split_number(cell: str, decimal_comma: bool = False) -> tuple[Decimal, str] | None:
    """Return (number, unit) of a typed number, None for anything else.

    What is behind ± is left out, and so are footnotes' marks: `29.6k ± 0.3 tokens/s [1]` is
    (29600, "tokens/s"). A percent sign does not divide: `97 %` is 97.
    """
    match = _TYPED.fullmatch(strip_marks(cell))
    if match is None:
        return None
    digits, size, unit = match[1].strip(), match[2].lower(), (match[3] or "").strip()
    if size in ("m", "g") and re.match(r"i?B\b", unit):  # MiB is no number of ours
        return None
    if decimal_comma and _GROUPED_BY_POINTS.fullmatch(digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif not decimal_comma and _GROUPED.fullmatch(digits):
        digits = digits.replace(",", "")
    return (Decimal(digits) * _THOUSANDS[size], unit) if _POINT.fullmatch(digits) else None


def parse_number(cell: str, decimal_comma: bool = False) -> Decimal | None:
    """Return the exact value of a typed number without its unit, None for anything else."""
    found = split_number(cell, decimal_comma)
    return found[0] if found else None


def parse_seconds(
    cell: str, unit_s: Decimal | int = 1, decimal_comma: bool = False
) -> Decimal | None:
    """Return a time in s: a number of the column's unit, h:mm:ss, d-hh:mm:ss or 1h 2m 3s.

    `1:30` is minutes and seconds, in a column of hours hours and minutes.
    """
    cell = strip_marks(cell)
    parts = _PARTS.fullmatch(cell)
    if parts and sum(part is not None for part in parts.groups()) > 1:
        hours, minutes, seconds = (Decimal(part or 0) for part in parts.groups())
        return hours * 3600 + minutes * 60 + seconds
    if clock := _CLOCK.fullmatch(cell):
        days, first, second, third = clock.groups()
        if third is None:  # 1-02:03 is no time that can be told
            minutes = Decimal(int(first) * 60 + int(second))
            return None if days else minutes * (60 if unit_s == 3600 else 1)
        return (int(first) + 24 * int(days or 0)) * 3600 + int(second) * 60 + Decimal(third)
    if unit := re.search(r"[\d.,]\s*([A-Za-zµ]+)\.?$", cell):  # `16.9 min`: its own unit counts
        unit_s = TIME_UNITS_S.get(unit[1].lower().replace("µ", "u"))
        cell = cell[: unit.start(1)].rstrip(". ")
    found = split_number(cell, decimal_comma)
    return None if unit_s is None or found is None or found[1] else found[0] * unit_s


def count_places(cell: str) -> int:
    """Return the decimals that a number is printed with: 2 for `1.94x`."""
    match = re.search(r"\d[.,](\d+)\D*$", strip_marks(cell))
    return len(match[1]) if match else 0


def is_rounding_of(number: Decimal, exact: Decimal, places: int, slack: Decimal = 0) -> bool:
    """Whether a number is `exact` with so many decimals, ties either way.

    slack: how far off `exact` may be, as a fraction, besides a binary float's own digits.
    """
    allowed = Decimal(5).scaleb(-places - 1) + abs(exact) * max(slack, Decimal("1e-12"))
    return abs(number - exact) <= allowed


def strip_marks(cell: str) -> str:
    """Return a cell without emphasis, footnotes' marks, spread and separators of thousands."""
    text = cell.replace("\u00a0", " ").replace("\u202f", " ").replace("\u2212", "-").strip()
    text = re.sub(r"</?(?:b|i|strong|em)>|[`$]", "", text).strip("*~≈_ ")
    text = _SPREAD.sub("", text)
    while (shorter := _BEHIND.sub("", text)) != text:
        text = shorter
    text = re.sub(r"(?<=\d)[ _'’](?=\d{3}\b)", "", text)  # 29 600, 29_600, 29'600
    return text.strip("*~≈_ ")


# ---- What the words of a header say ----------------------------------------------------------


def words(text: str) -> frozenset[str]:
    """Return a set of words."""
    return frozenset(text.split())


DEVICES = words(
    "gpu gpus device devices accelerator accelerators chip chips gcd gcds tpu tpus xpu xpus rank "
    "ranks process processes procs worker workers card cards ngpu ngpus world"
)
NODES = words("node nodes nnode nnodes host hosts server servers machine machines")
NAMES = DEVICES | NODES
_FILLERS = words(
    "num number nr no n count of the in used total all a avg average mean measured train training "
    "global overall aggregate aggregated size job system end to across"
)
_NOUN_UNITS = {
    word: unit
    for unit, words in {
        "tokens/s": "tok toks token tokens t",
        "img/s": "im ims img imgs image images",
        "samples/s": "sample samples seq seqs sequence sequences example examples item items",
    }.items()
    for word in words.split()
}
_NOUNS = frozenset(_NOUN_UNITS) | words(
    "ns frames frame words word atoms cells points flop tflop req reqs request requests query "
    "queries"
)
_UNIT_RATES = words("tps ips sps fps qps rps gbps mbps gbs flops tflops tflop pflops")
_RATES = words("throughput speed performance rate") | _UNIT_RATES
_STEPS = words("step steps iteration iterations iter iters it batch batches")
_TIMES = words("time walltime wallclock elapsed runtime duration")
_TIMED = words("wall clock run epoch epochs solution execution convergence hh mm ss")
_SECONDS, _PER = frozenset(TIME_UNITS_S), words("per")
_OF_RATIO = words("scaling parallel weak strong pct percent x throughput relative factor")
# Role -> the words that its header may have beside those that say nothing, and the sets one word
# of each of which it must have. The first role that fits counts.
_ROLES = (
    ("gpus_per_node", NAMES | _PER, (DEVICES, _PER, NODES)),
    ("gpus_per_node", words("ppn gpn"), ()),
    ("gpus", NAMES | words("x per"), (NODES, words("x"))),
    ("gpus", DEVICES, ()),
    ("nodes", NODES, ()),
    ("efficiency", _OF_RATIO | words("efficiency eff"), (words("efficiency eff"),)),
    ("speedup", _OF_RATIO | words("speedup speed up acceleration"),
     (words("speedup up scaling acceleration"),)),
    ("step_time", _STEPS | _SECONDS | _TIMES | _PER, (_STEPS, _SECONDS | _TIMES)),
    ("throughput", _RATES | _NOUNS | _SECONDS | NAMES | _PER, (_RATES,)),
    ("throughput", _NOUNS | _SECONDS | NAMES | _PER, (_NOUNS, _PER, _SECONDS)),
    ("throughput", _NOUNS | _SECONDS, (_NOUNS - words("t"), _SECONDS)),  # `img_s`
    ("time", _TIMES | _TIMED | _SECONDS | _PER, (_TIMES | _SECONDS,)),
)  # fmt: skip
# `ktokens/s`, `M images/s`
_THOUSANDS_OF = re.compile(r"(?<![A-Za-z])([kKM])[ _]?(?=(?:tok|im|sample|seq|example|item))")
MEASURES = ("throughput", "time", "step_time", "step_rate", "speedup", "efficiency")
_GPU_TYPE = re.compile(
    r"\b(?:nvidia|amd|intel|tesla|[abhlpvt]\d{1,3}s?|mi\d{3}[a-z]?s?|g[bh]200s?|rtx ?\w*)\b"
)
_BRACKET = re.compile(r"[(\[{](.*?)[)\]}]")


@lru_cache(1000)
def split_words(header: str) -> tuple[str, ...]:
    """Return a header's words: `tokens/s/GPU` is tokens per s per gpu, `#GPUs` num gpus."""
    text = _THOUSANDS_OF.sub("", header)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # trainTime
    text = re.sub(r"\b[pP]\d\d\b", "percentile", text)
    for mark, word in (("#", " num "), ("%", " pct "), ("/", " per "), ("×", " x "), ("µ", "u")):
        text = text.replace(mark, word)
    found = re.findall(r"[a-z]+|\d+", _GPU_TYPE.sub(" ", text.lower()))
    for end in ("vs", "versus", "over", "relative", "wrt"):  # `Speedup vs 1 GPU`
        if end in found[1:]:
            found = found[: found.index(end)]
    return tuple(found)


@lru_cache(1000)
def find_role(header: str) -> tuple[str, str]:
    """Return (role, per): what a header says that its column is; ("", "") for anything else.

    role: gpus, nodes, gpus_per_node, throughput, time, step_time, step_rate, speedup or
    efficiency; per: gpu or node for a throughput of each, ? where `GPU throughput` may be either;
    turned for GPUs x nodes.
    """
    whole, bare = split_words(header), split_words(_BRACKET.sub(" ", header))
    if whole and set(whole) <= _FILLERS and _GPU_TYPE.search(header.lower()):
        return "gpus", ""  # `No. of A100s`
    for role, allowed, needed in _ROLES:
        # What stands in brackets may be of any kind, but for a time: `Time (GPU-hours)`.
        for said in (whole,) if role == "time" else (whole, bare):
            core = [word for word in said if word not in _FILLERS]
            if core and set(core) <= allowed and all(set(core) & each for each in needed):
                return _settle_role(role, core, whole)
    return "", ""


def _settle_role(role: str, core: list[str], whole: tuple[str, ...]) -> tuple[str, str]:
    """Return (role, per) of a header whose core of words fits a role."""
    if role == "gpus":
        return role, "turned" if "x" in core and core[0] in DEVICES else ""
    if role == "step_time" and core[0] in _STEPS and "per" in core and not set(core) & _TIMES:
        return "step_rate", ""  # `it/s`
    if role != "throughput":
        return role, ""
    behind = {word for before, word in pairwise(whole) if before == "per"}
    kinds = (("gpu", DEVICES & behind), ("node", NODES & behind), ("?", NAMES & set(whole)))
    return role, next((name for name, found in kinds if found), "")


def find_unit(header: str) -> str:
    """Return the unit of a throughput's header as it stands there: tokens/s, ns/day, or ''."""
    bracket = _BRACKET.search(header)
    for text in (bracket[1], _BRACKET.sub(" ", header)) if bracket else (header,):
        core = [word for word in split_words(text) if word not in _FILLERS | NAMES | _PER]
        nouns = [_NOUN_UNITS[word] for word in core if word in _NOUN_UNITS]
        others = {word for word in core if word not in _NOUN_UNITS} - {"throughput"}
        if nouns and others and all(TIME_UNITS_S.get(word) == 1 for word in others):
            return nouns[0]
        is_unit = bracket or "per" in split_words(text)
        if others & _UNIT_RATES or (is_unit and (nouns or others - _RATES - _SECONDS)):
            text = re.sub(r"(?i)\s*(?:/|per[ _-])\s*(?:gpu|device|gcd|node)s?\b", "", text)
            return re.sub(r"(?i)\bthroughput\b[ _]*", "", text).strip("() _:,")
    return ""


def find_factor(header: str) -> int:
    """Return what a header multiplies its figures by: 1000 under `ktokens/s`."""
    match = _THOUSANDS_OF.search(header)
    return _THOUSANDS[match[1].lower()] if match else 1
