"""Texts as a file of token ids: no header, two bytes a token, to be memory-mapped."""

import re
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

from preparation.progress import Progress
from preparation.texts import Document, read_text

MAX_VOCAB_SIZE = 65_535  # ids are uint16
PIECE_CHARACTERS, BATCH_CHARACTERS = 2**18, 2**22  # encoded on all cores, a batch at a time
# Between a line's end and a character that is no space no token ever spans: cutting there, and
# only there, leaves the tokens as they were.
LINE_START = re.compile(r"(?<=\n)(?=\S)")


def write_tokens(
    path: Path, documents: list[Document], tokenizer, end_id: int, progress: Progress
) -> None:
    """Write the tokens of each document and end_id behind it, as little-endian uint16.

    What reads like a special token in a text is ordinary text: end_id is nowhere else.
    """
    tokenizer.encode_special_tokens = True
    done, total = 0, sum(each.stop - each.start for each in documents)
    with path.open("wb") as file:
        for batch in batch_pieces(documents):
            texts = [text for text, _ in batch]
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for (text, is_last), encoding in zip(batch, encodings, strict=True):
                file.write(pack_ids(encoding.ids + [end_id] * is_last))
                done += len(text.encode())
            progress.show(done / 1e6, total / 1e6)


def batch_pieces(documents: list[Document]) -> Iterator[list[tuple[str, bool]]]:
    """Yield batches of (piece of a document, whether it is the document's last)."""
    batch, characters = [], 0
    for document in documents:
        *pieces, last = cut_pieces(read_text(document))
        for piece, is_last in [*((each, False) for each in pieces), (last, True)]:
            batch.append((piece, is_last))
            characters += len(piece)
            if characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def cut_pieces(text: str, size: int = PIECE_CHARACTERS) -> list[str]:
    """Cut a long text where a line begins, at the first such place after size characters."""
    pieces, start = [], 0
    while found := LINE_START.search(text, start + size):
        pieces.append(text[start : found.start()])
        start = found.start()
    return [*pieces, text[start:]]


def pack_ids(ids: list[int]) -> bytes:
    packed = array("H", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
