"""Pairs of sentences: aligned files read, each sentence put on one line, and the split."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from preparation.texts import read_bytes

# All that any reader may take for the end of a line, with the spaces about it.
LINE_BREAK = re.compile(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")


class Pair(NamedTuple):
    """A sentence and its translation, each on one line; tag: the language wanted, or ""."""

    source: str
    target: str
    tag: str = ""


def read_aligned(source: Path, target: Path) -> list[tuple[str, str]]:
    """Return the lines of two files in pairs; UserError when their numbers differ."""
    source_lines, target_lines = read_lines(source), read_lines(target)
    if len(source_lines) != len(target_lines):
        counts = f"{source} has {len(source_lines):,} lines and {target} {len(target_lines):,}"
        raise UserError(f"{counts}; line n of one must be the translation of line n of the other")
    return list(zip(source_lines, target_lines, strict=True))


def read_lines(path: Path) -> list[str]:
    r"""Return a UTF-8 file's lines; only \n ends one, as wc and the tools of the field count."""
    content = read_bytes(path)
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        fix = f"convert it, such as: iconv -f ISO-8859-1 -t UTF-8 {path}"
        raise UserError(f"{path} is not UTF-8 in line {line}; {fix}") from None
    return lines if lines[-1] else lines[:-1]


def clean_pairs(pairs: list[tuple[str, str]], tag: str, left_out: Counter) -> list[Pair]:
    """Return the pairs, each sentence on one line; count those that are empty or come again."""
    kept = {}
    for source, target in pairs:
        pair = Pair(join_lines(source), join_lines(target), tag)
        if not (pair.source and pair.target):
            left_out["empty"] += 1
        elif pair in kept:
            left_out["repeated"] += 1
        else:
            kept[pair] = None
    return list(kept)


def join_lines(text: str) -> str:
    """Return the text on one line: a space for each line break and the spaces around it."""
    return LINE_BREAK.sub(" ", text).strip()


def order_pairs(pairs: list[Pair]) -> list[Pair]:
    """Return the pairs by the sha256 of their source, so that any part is a mixture of all."""
    return sorted(pairs, key=lambda pair: (hash_sentence(pair.tag + pair.source), pair))


def split_pairs(pairs: list[Pair], val_every: int) -> dict[str, list[Pair]]:
    """Return the training and the validation pairs; neither is empty, or UserError.

    The sha256 of the source decides alone: a sentence that is translated in two ways, or into two
    languages, is never trained on and validated on, and further pairs move no other.
    """
    sources = {pair.source for pair in pairs}
    if len(sources) < 2:
        raise UserError("a single sentence cannot be split for validation; give more text")
    val = {each for each in sources if int(hash_sentence(each)[-8:], 16) % val_every == 0}
    if not val or val == sources:  # so few sentences that chance left one side empty
        val = {max(sources, key=hash_sentence)}
    return {
        "train": [pair for pair in pairs if pair.source not in val],
        "val": [pair for pair in pairs if pair.source in val],
    }


def hash_sentence(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
