"""Clean lines out of any log: encodings, carriage returns, labels and escapes, once for all.

Every parser of this package reads through `read_lines`, so a log written by `srun -l`,
`torchrun --tee`, a progress bar or a program that dies in mid-line looks the same to each.
"""

import codecs
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import UserError

CHUNK_BYTES = 1 << 20
LONGEST_LINE_CHARS = 1 << 16  # no line that is parsed comes near; bounds memory on junk

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]")
# `0: ` is srun --label's, `[default0]:` torchrun --tee's, `[rank0]: ` torch's own.
_LABELS = re.compile(r"(?:\s*\d+: |\[[A-Za-z_]+\d+\]: ?|\[\d+,\d+\]<std(?:out|err)>: ?)+")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_BOM = (b"", "utf-8")


def read_lines(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each line of a text file without its end, and whether it had one.

    UTF-8 (bad bytes become U+FFFD) or UTF-16 with a byte order mark; `\\n`, `\\r\\n` and a
    lone `\\r` end a line. Only the last line can have no end: its writer died in it, or has
    not finished it. Lines are cut at LONGEST_LINE_CHARS; memory stays bounded for any file.
    Raises UserError when the file cannot be read.
    """
    for block in read_blocks(path):
        yield from split_block(block)


def read_blocks(path: Path) -> Iterator[str]:
    """Yield the text of a file (see read_lines) in blocks of whole lines, about 1 MB each.

    Only the last block can end without a `\\n`. Raises UserError when it cannot be read.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path.open costs as much as a small log
            # A buffer of the file's size: most logs are small, and 1 MB costs more to get.
            size = os.fstat(file.fileno()).st_size
            chunk = file.read(min(size + 1, CHUNK_BYTES) if size else CHUNK_BYTES)
            bom, encoding = next((known for known in _BOMS if chunk.startswith(known[0])), _NO_BOM)
            chunk = chunk[len(bom) :]
            if encoding == "utf-8" and len(chunk) < CHUNK_BYTES - len(bom):
                yield from _join_lines(iter([_tidy_ends(chunk.decode(errors="replace"))]))
            else:
                yield from _join_lines(_decode(chunk, file, encoding))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _tidy_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _decode(chunk: bytes, file: io.BufferedReader, encoding: str) -> Iterator[str]:
    decoder = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder(encoding)(errors="replace"), translate=True
    )
    while chunk:
        yield decoder.decode(chunk)
        chunk = file.read(CHUNK_BYTES)
    yield decoder.decode(b"", final=True)


def _join_lines(texts: Iterator[str]) -> Iterator[str]:
    rest = ""
    for text in texts:
        whole = text.rfind("\n") + 1
        if whole:
            yield rest + text[:whole]
            rest = ""
        # What no line of ours can need is let go of, so a line without an end costs nothing.
        rest = (rest + text[whole:])[:LONGEST_LINE_CHARS]
    if rest:
        yield rest


def split_block(block: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a block of read_blocks, each with whether it had an end."""
    *whole, rest = block.split("\n")
    for line in whole:
        yield line[:LONGEST_LINE_CHARS], True
    if rest:
        yield rest[:LONGEST_LINE_CHARS], False


def find_lines(block: str, words: Iterable[str]) -> list[int]:
    """Return where the lines of a block begin that hold any of these words, in order."""
    starts = set()
    for word in words:
        at = block.find(word)
        while at >= 0:
            starts.add(block.rfind("\n", 0, at) + 1)
            end = block.find("\n", at)
            at = block.find(word, end) if end >= 0 else -1
    return sorted(starts)


def clean_line(line: str) -> str:
    """Return the line without colours, control characters and launcher labels."""
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    if not line.isprintable():
        line = "".join(c if c.isprintable() or c == "\t" else "" for c in line)
    labels = _LABELS.match(line)
    return line[labels.end() :].rstrip() if labels else line.rstrip()
