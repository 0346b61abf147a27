"""Clean lines out of any log: encodings, carriage returns, labels and colours, once for all.

Every reader of this package goes through `read_blocks` or `read_lines`, so a log written by
`srun --label`, `torchrun --tee`, a progress bar or a program that dies in mid-line looks the
same to each.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

CUT = "cut: the last line has no end"
CHUNK_BYTES = 1 << 16
LONGEST_LINE_CHARS = 1 << 16  # no line that is parsed comes near; bounds memory on junk

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]")
# `0: ` is srun --label's, `[default0]:` torchrun --tee's, `[rank0]: ` torch's own.
_LABELS = re.compile(r"(?:\s*\d+: |\[[A-Za-z_]+\d+\]: ?|\[\d+,\d+\]<std(?:out|err)>: ?)+")
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
    """Yield the lines of a file (see read_lines) in lists, and whether they had their ends.

    Only the last list can be without: it then holds one line. Raises UserError when the file
    cannot be read.
    """
    for text, has_end in read_texts(path):
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
            while True:
                text = rest + decoder.decode(chunk, final=not chunk)
                end = text.rfind("\n") + 1
                if end:
                    first = text.find("\n")  # only the first line can be longer than a chunk
                    yield text[:first][:LONGEST_LINE_CHARS] + text[first:end], True
                rest = text[end:][:LONGEST_LINE_CHARS]
                if not chunk:
                    break
                chunk = file.read(CHUNK_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if rest:
        yield rest, False


def drop_colours(line: str) -> str:
    """Return the line without terminal escapes; a launcher's label stays."""
    return _ANSI.sub("", line) if "\x1b" in line else line


def clean_line(line: str) -> str:
    """Return the line without colours, control characters and launcher labels."""
    line = drop_colours(line)
    if not line.isprintable():
        line = "".join(c if c.isprintable() or c == "\t" else "" for c in line)
    labels = _LABELS.match(line)
    return line[labels.end() :].rstrip() if labels else line.rstrip()


# Of a regular expression: an escaped sign, a class, a count, or any other character.
_PART = re.compile(r"\\(.)|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|(.)", re.DOTALL)


def find_words(expression: str) -> list[str]:
    """Return texts one of which stands in whatever a regular expression finds.

    They are the longest ones outside any group, one per alternative; '' where there is none.
    """
    alternatives, depth = [[""]], 0
    for part in _PART.finditer("" if expression.startswith("(?i") else expression):
        words, char = alternatives[-1], part[2] or ""
        if char == "|" and not depth:
            alternatives.append([""])
            continue
        depth += (char == "(") - (char == ")")
        literal = part[1] if part[1] and not part[1].isalnum() else char
        if depth or not literal or (char and char in "().^$+?*|"):
            if char in ("?", "*") or part[0].startswith("{"):  # what is before it may be missing
                words[-1] = words[-1][:-1]
            words.append("")
        else:
            words[-1] += literal
    return [max(words, key=len) for words in alternatives]
