"""The workload gpt2: text files as tokens, for scripts/train_gpt2.py."""

import argparse
import json
import re
import sys
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from common.console import Progress
from common.errors import UserError
from preparation.bpe import (
    GPT2_SHA256,
    GPT2_URL,
    MAX_VOCAB_SIZE,
    count_vocabulary,
    fetch_gpt2_tokenizer,
    measure_vocabulary,
    read_tokenizer,
    train_bpe,
    write_tokenizer,
)
from preparation.options import Option, add_options, http_url, read_settings, whole_number
from preparation.publish import (
    Contents,
    describe_left_out,
    hash_files,
    hash_texts,
    publish,
)
from preparation.texts import (
    Document,
    Survey,
    find_standard_library,
    limit_bytes,
    read_bytes,
    read_text,
    split_documents,
    survey_files,
    survey_texts,
)

END_OF_TEXT = "<|endoftext|>"
GPT2_VOCAB_SIZE = 50_257  # GPT-2's own; the 124,439,808 parameters of GPT-2 small count on it
SPLIT_FILES = {"train": "train_small.bin", "val": "val_small.bin"}
PIECE_CHARACTERS, BATCH_CHARACTERS = 2**18, 2**22  # encoded on all cores, a batch at a time
# Between a line's end and a character that is not a space no token ever spans: cutting there, and
# only there, leaves the tokens as they were.
LINE_START = re.compile(r"(?<=\n)(?=\S)")

OPTIONS = (
    Option("url", ("gpt2-tokenizer",), http_url, "URL", GPT2_URL, "folder of GPT-2's two files"),
)


def add_command(workloads: argparse._SubParsersAction) -> None:
    about = "text as uint16 tokens, to train GPT-2 on"
    parser = workloads.add_parser("gpt2", help=about, description=about)
    parser.set_defaults(prepare=prepare, parser=parser)
    parser.add_argument("folder", metavar="DIR", type=Path, help="dataset folder to make")
    text = "UTF-8 text files, or folders of them (default: this Python's standard library)"
    parser.add_argument("--text", metavar="PATH", type=Path, nargs="+", action="extend", help=text)
    number, text = whole_number(1, 10**12), "use so much of the text (default: all of it)"
    parser.add_argument("--max-bytes", metavar="N", type=number, help=text)
    ways = parser.add_mutually_exclusive_group()
    number = whole_number(257, MAX_VOCAB_SIZE)
    text = f"tokens of a byte-level BPE trained on the text (default: {GPT2_VOCAB_SIZE})"
    ways.add_argument("--vocab-size", metavar="N", type=number, help=text)
    text = "GPT-2's own vocabulary instead (1.5 MB to fetch)"
    ways.add_argument("--gpt2-tokenizer", action="store_true", help=text)
    text = f"a tokenizer.json with the token {END_OF_TEXT} instead"
    ways.add_argument("--tokenizer", metavar="FILE", type=Path, help=text)
    add_options(parser, OPTIONS)


def prepare(args: argparse.Namespace) -> str:
    """Make args.folder from the text; return the line to print."""
    for place in args.text or []:
        if args.folder.is_relative_to(place.expanduser().resolve()):
            args.parser.error(f"DIR lies in {place}, which is read; choose one elsewhere")
    vocabulary, choose = choose_vocabulary(args)
    documents, left_out = survey_corpus(args.text, args.max_bytes)
    spans = (f"{each.sha256} {each.start} {each.stop}\n" for each in documents)
    identity = {
        "workload": "gpt2",
        "source": "text" if args.text else "stdlib",
        "parameters": vocabulary | {"text_sha256": hash_texts(spans)},
        "documents": len(documents),
        "left_out_files": left_out,
    }
    build = partial(write_dataset, documents=documents, choose=choose, identity=identity)
    return publish(args.folder, identity, build, Contents("tokens", count_tokens, describe_tokens))


def choose_vocabulary(args: argparse.Namespace) -> tuple[dict, Callable]:
    """Return what dataset.json says of the tokenizer, and what makes it.

    The latter is called with the training documents and an empty folder to work in.
    """
    given = {"gpt2-tokenizer": args.gpt2_tokenizer, "tokenizer": args.tokenizer}
    args.source = next((option for option, value in given.items() if value), "vocab-size")
    settings = read_settings(args, OPTIONS)
    if args.gpt2_tokenizer:
        fetch = partial(fetch_gpt2_tokenizer, settings["url"], args.folder)
        return {"tokenizer": "gpt2"} | GPT2_SHA256, lambda documents, folder: fetch(folder)
    if args.tokenizer:
        content = read_bytes(args.tokenizer.expanduser()).decode(errors="replace")
        tokenizer = read_tokenizer(content, args.tokenizer)
        check_vocabulary(tokenizer, args.tokenizer)
        return {"tokenizer": "file", "sha256": hash_texts([content])}, lambda *_: tokenizer
    size = args.vocab_size or GPT2_VOCAB_SIZE
    train = partial(train_tokenizer, vocab_size=size)
    return {"tokenizer": "trained", "vocab_size": size}, lambda documents, _: train(documents)


def survey_corpus(places: list[Path] | None, max_bytes: int | None) -> Survey:
    """Look through the text that was asked for; UserError when there is none."""
    survey = survey_texts(places) if places else survey_files(find_standard_library())
    documents = survey.documents
    if not documents:
        where = ", ".join(map(str, places)) if places else "this Python's standard library"
        found = describe_left_out(survey.left_out)
        raise UserError(f"no text in {where}{found}; name files in UTF-8 with --text")
    if max_bytes is not None and not (documents := limit_bytes(documents, max_bytes)):
        raise UserError(f"--max-bytes {max_bytes} is less than one character; allow more")
    return survey._replace(documents=documents)


def write_dataset(
    scratch: Path, *, documents: list[Document], choose: Callable, identity: dict
) -> Path:
    """Write the tokens, their tokenizer and meta.json; return the folder that holds them."""
    root = scratch / "dataset"
    root.mkdir()
    splits = dict(zip(SPLIT_FILES, split_documents(documents), strict=True))
    tokenizer = choose(splits["train"], scratch)
    end_id = check_vocabulary(tokenizer, "the tokenizer")
    write_tokenizer(root / "tokenizer.json", tokenizer)
    for split, name in SPLIT_FILES.items():
        progress = Progress(f"tokens of {name}", "MB")
        write_tokens(root / name, splits[split], tokenizer, end_id, progress)
    meta = describe_dataset(root, splits, tokenizer, end_id) | {"made_from": identity}
    (root / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return root


def train_tokenizer(documents: list[Document], vocab_size: int):
    """Return a BPE trained on the training documents alone; the end of a text has the last id."""
    tokenizer = train_bpe(partial(read_texts, documents), vocab_size - 1)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def read_texts(documents: list[Document]) -> Iterator[str]:
    progress = Progress("read for the vocabulary", "texts")
    for done, document in enumerate(documents):
        yield read_text(document)
        progress.show(done, len(documents))


def check_vocabulary(tokenizer, name: str | Path) -> int:
    """Return the id of the end of a text; UserError when there is none or ids exceed uint16."""
    size, end_id = measure_vocabulary(tokenizer), tokenizer.token_to_id(END_OF_TEXT)
    if size > MAX_VOCAB_SIZE:
        limit = f"more than {MAX_VOCAB_SIZE:,}, which uint16 files cannot hold"
        raise UserError(f"{name} has {size:,} tokens, {limit}; take a smaller vocabulary")
    if end_id is None:
        raise UserError(f"{name} has no token {END_OF_TEXT}; take one made for GPT-2")
    return end_id


def describe_dataset(root: Path, splits: dict, tokenizer, end_id: int) -> dict:
    """Return the facts that a reader of the files needs, for meta.json."""
    import tokenizers

    facts = {"schema_version": "1.0", "dtype": "uint16", "byte_order": "little"}
    facts["vocab_size"] = measure_vocabulary(tokenizer)
    facts |= {"end_of_text": END_OF_TEXT, "end_of_text_id": end_id}
    for split, documents in splits.items():
        facts[f"{split}_tokens"] = (root / SPLIT_FILES[split]).stat().st_size // 2
        facts[f"{split}_documents"] = len(documents)
        facts[f"{split}_bytes"] = sum(each.stop - each.start for each in documents)
    facts["sha256"] = hash_files(root, [*SPLIT_FILES.values(), "tokenizer.json"])
    return facts | {"tokenizers_version": tokenizers.__version__}


def count_tokens(root: Path) -> dict[str, int]:
    """Return the tokens of each split, from the files' sizes alone; -1 for a file that is gone."""
    counts = {"vocab_size": count_vocabulary(root)}
    for split, name in SPLIT_FILES.items():
        file = root / name
        counts[f"{split}_tokens"] = file.stat().st_size // 2 if file.is_file() else -1
    return counts


def describe_tokens(record: dict) -> str:
    source = f"{record['source']}, {record['documents']:,} documents"
    source += describe_left_out(record["left_out_files"])
    train, val = f"{record['train_tokens']:,} train", f"{record['val_tokens']:,} val tokens"
    return f"{source}, vocabulary {record['vocab_size']:,}, {train} and {val}"


# ---- Token files: no header, two bytes per token, to be memory-mapped ------------------


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
