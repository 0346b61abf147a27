"""Clean lines out of any log, and the times in them: what every reader of this package shares.

Encodings, carriage returns, labels and colours are dealt with here once, so a log written by
`srun --label`, `torchrun --tee`, a progress bar or a program that dies in mid-line looks the
same to each.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path

from common.errors import UserError

CUT = "cut: the last line has no end"
CHUNK_BYTES = 1 << 16
LONGEST_LINE_CHARS = 1 << 16  # no line that is parsed comes near; bounds memory on junk

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[@-_]")
# `0: ` is srun --label's, `[default0]:` torchrun --tee's, `[rank0]: ` torch's own,
# `[1,0]<stdout>:` Open MPI's --tag-output, `[0] ` mpiexec's -prepend-rank.
_LABEL = r"\s*(?:(\d+): |\[[A-Za-z_]+(\d+)\]: ?|\[\d+,(\d+)\]<std(?:out|err)>: ?"
_LABELS = re.compile(f"(?:{_LABEL}))+")
_ONE_LABEL = re.compile(rf"{_LABEL}|\[(\d+)\] )")
MAY_BEGIN_LABEL = frozenset(" [0123456789")
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"", "utf-8"),
)


def read_lines(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each line of a text file without its end, and whether it had one.

    UTF-8 (bad bytes become U+FFFD) or UTF-16 with a byte order mark; `\\n`, `\\r\\n` and a
    lone `\\r` end a line. Only the last line can have no end: its writer died in it, or has
    not finished it. Lines are cut at LONGEST_LINE_CHARS; memory stays bounded for any file.
    Raises UserError when the file cannot be read.
    """
    for lines, has_end in read_blocks(path):
        for line in lines:
            yield line, has_end


def read_blocks(path: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the lines of a file (see read_lines) in lists, without colours, and if they had ends.

    Only the last list can be without: it then holds one line. Raises UserError when the file
    cannot be read.
    """
    for text, has_end in read_texts(path):
        text = drop_colours(text)
        yield (text[:-1].split("\n"), True) if has_end else ([text], False)


def read_texts(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield a file as texts of whole lines, each with its `\\n`, and then a last line without one.

    With each text stands whether it ends with its line. Raises UserError when the file cannot
    be read.
    """
    rest = ""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path.open costs as much as a small log
            chunk = file.read(CHUNK_BYTES)
            encoding = next(name for mark, name in _ENCODINGS if chunk.startswith(mark))
            make_decoder = codecs.getincrementaldecoder(encoding)
            decoder = io.IncrementalNewlineDecoder(make_decoder("replace"), translate=True)
            is_last = False
            while not is_last:
                is_last = len(chunk) < CHUNK_BYTES
                text = rest + decoder.decode(chunk, is_last)
                end = text.rfind("\n") + 1
                if end > LONGEST_LINE_CHARS:  # only the first line can be longer than a chunk
                    first = text.find("\n")
                    yield text[:first][:LONGEST_LINE_CHARS] + text[first:end], True
                elif end:
                    yield text[:end], True
                rest = text[end:][:LONGEST_LINE_CHARS]
                chunk = b"" if is_last else file.read(CHUNK_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if rest:
        yield rest, False


def drop_colours(text: str) -> str:
    """Return lines without terminal escapes; a launcher's labels stay."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def parse_label(line: str) -> tuple[int, ...]:
    """Return the ranks that a line's launcher labels name, () when it has no label."""
    found: list[int] = []
    end = 0
    if line[:1] not in MAY_BEGIN_LABEL:
        return ()
    while match := _ONE_LABEL.match(line, end):
        found.append(int(match[match.lastindex]))
        end = match.end()
    return tuple(found)


def clean_line(line: str) -> str:
    """Return the line without colours, control characters and launcher labels."""
    line = drop_colours(line)
    if not line.isprintable():
        line = "".join(c if c.isprintable() or c == "\t" else "" for c in line)
    labels = _LABELS.match(line)
    return line[labels.end() :].rstrip() if labels else line.rstrip()


# Of a regular expression: an escaped sign, a class, a count, or any other character.
_PART = re.compile(r"\\(.)|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|(.)", re.DOTALL)


@lru_cache
def find_word(expression: str) -> str:
    """Return the longest text that stands in whatever a regular expression finds; '' for none."""
    words, depth = [""], 0
    for part in _PART.finditer("" if expression.startswith("(?i") else expression):
        char = part[2] or ""
        if char == "|" and not depth:
            return ""
        depth += (char == "(") - (char == ")")
        literal = part[1] if part[1] and not part[1].isalnum() else char
        if depth or not literal or (char and char in "().^$+?*|"):
            if char in ("?", "*") or part[0].startswith("{"):  # what is before it may be missing
                words[-1] = words[-1][:-1]
            words.append("")
        else:
            words[-1] += literal
    return max(words, key=len)


# ---- Times as logs print them ----

UTC = timezone.utc
_SINCE_1970 = re.compile(r"(\d{9,10}(?:\.\d{1,9})?)|(\d{13})")  # seconds, or milliseconds
_ISO = re.compile(
    r"(\d{4})[-/](\d\d?)[-/](\d\d?)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
    r"(?: ?(?:(UTC|GMT|Z)|([+-])(\d\d):?(\d\d)))?"
)
_CTIME = re.compile(
    r"(?:[A-Z][a-z]{2},? )?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d:\d\d:\d\d)"
    r"(?: (UTC|GMT|[A-Z]{3,5}))? (\d{4})"
)
_LONGEST = 40  # characters


def parse_timestamp(text: str) -> datetime | None:
    """Return the time that a log's cell holds, None when it holds none.

    Read: nvidia-smi's `2026/11/21 10:00:05.123` (local time, without a zone), ISO 8601 with
    or without a zone, seconds or milliseconds since 1970 (UTC), and date's and ctime's
    `Sat Nov 21 10:00:05 UTC 2026`. A day and month in figures without the year first are not
    read: which is which is not known.
    """
    if len(text) > _LONGEST or not text.isascii():
        return None
    try:
        if match := _ISO.fullmatch(text):
            return _make_time(match)
        if match := _SINCE_1970.fullmatch(text):
            seconds = float(match[1]) if match[1] else int(match[2]) / 1000
            return datetime.fromtimestamp(seconds, UTC)
        if match := _CTIME.fullmatch(text):
            month, day, clock, zone, year = match.groups()
            when = datetime.strptime(f"{year} {month} {day} {clock}", "%Y %b %d %H:%M:%S")
            return when.replace(tzinfo=UTC) if zone in ("UTC", "GMT") else when
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _make_time(match: re.Match) -> datetime:
    *day_and_clock, fraction, utc, sign, hours, minutes = match.groups()
    zone = UTC if utc else None
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        zone = timezone(-offset if sign == "-" else offset)
    microsecond = int((fraction or "")[:6].ljust(6, "0"))
    return datetime(*map(int, day_and_clock), microsecond, zone)


def seconds_between(earlier: datetime, later: datetime) -> float:
    """Return the seconds between two times, 0.0 when only one of them has a zone."""
    try:
        return (later - earlier).total_seconds()
    except TypeError:
        return 0.0
