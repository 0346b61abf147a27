"""The workload translation: pairs of sentences, for scripts/train_translation.py."""

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.console import Progress
from common.errors import UserError
from preparation.bpe import (
    MAX_VOCAB_SIZE,
    count_vocabulary,
    measure_vocabulary,
    train_bpe,
    write_tokenizer,
)
from preparation.catalogues import find_catalogues, read_catalogues
from preparation.options import whole_number
from preparation.publish import (
    Contents,
    describe_left_out,
    hash_files,
    hash_texts,
    publish,
)
from preparation.texts import read_bytes

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")  # ids 0, 1, 2, 3
VOCAB_SIZE, VAL_EVERY = 8_000, 14
SIDES = ("src", "tgt")  # what is translated, and its translation
# All that any reader may take for the end of a line, with the spaces about it.
LINE_BREAK = re.compile(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")


class Pair(NamedTuple):
    """A sentence and its translation, each on one line; tag: the language wanted, or ""."""

    source: str
    target: str
    tag: str = ""


def add_command(workloads: argparse._SubParsersAction) -> None:
    about = "pairs of sentences and a tokenizer for both sides, to train a translator on"
    parser = workloads.add_parser("translation", help=about, description=about)
    parser.set_defaults(prepare=prepare, parser=parser)
    parser.add_argument("folder", metavar="DIR", type=Path, help="dataset folder to make")
    sources = parser.add_mutually_exclusive_group(required=True)
    text = "UTF-8 text, one sentence per line (with --target)"
    sources.add_argument("--source", metavar="FILE", type=Path, help=text)
    text = "gettext catalogues (.po, .mo), or folders of them, such as an installed program's"
    sources.add_argument("--gettext", metavar="PATH", type=Path, nargs="+", help=text)
    text = "the translations of --source, line by line"
    parser.add_argument("--target", metavar="FILE", type=Path, help=text)
    text = "languages to translate into, for --gettext: de; with several, each source begins <de>"
    parser.add_argument("--language", metavar="NAME", nargs="+", help=text)
    number, text = whole_number(1, 10**9), "use so many of the pairs (default: all)"
    parser.add_argument("--max-pairs", metavar="N", type=number, help=text)
    number = whole_number(300, MAX_VOCAB_SIZE)
    text = f"tokens of the BPE that both sides share (default: {VOCAB_SIZE})"
    parser.add_argument("--vocab-size", metavar="N", type=number, default=VOCAB_SIZE, help=text)
    text = f"one source sentence of N is for validation (default: {VAL_EVERY})"
    number = whole_number(2)
    parser.add_argument("--val-every", metavar="N", type=number, default=VAL_EVERY, help=text)


def prepare(args: argparse.Namespace) -> str:
    """Make args.folder from the pairs; return the line to print."""
    if bool(args.source) != bool(args.target):
        args.parser.error("--source and --target go together")
    if args.language and not args.gettext:
        args.parser.error("--language does not apply to --source")
    left_out = Counter()
    pairs, languages = read_pairs(args, left_out)
    if not pairs:
        raise UserError(f"no pairs of sentences found{describe_left_out(left_out)}; give more text")
    pairs = order_pairs(pairs)[: args.max_pairs]
    content = hash_texts("\t".join(pair) + "\n" for pair in pairs)
    identity = {
        "workload": "translation",
        "source": "gettext" if args.gettext else "text",
        "parameters": {
            "languages": languages,
            "vocab_size": args.vocab_size,
            "val_every": args.val_every,
            "pairs_sha256": content,
        },
        "left_out_pairs": dict(left_out),
    }
    splits = split_pairs(pairs, args.val_every)
    build = partial(write_dataset, splits=splits, identity=identity)
    return publish(args.folder, identity, build, Contents("pairs", count_pairs, describe_pairs))


def read_pairs(args: argparse.Namespace, left_out: Counter) -> tuple[list[Pair], list[str]]:
    """Return the pairs that were asked for, and the languages of gettext catalogues."""
    if args.source:
        lines = read_aligned(args.source.expanduser(), args.target.expanduser())
        return clean_pairs(lines, "", left_out), []
    places = [path.expanduser() for path in args.gettext]
    catalogues = find_catalogues(places, args.language)
    pairs = []
    for language, paths in catalogues.items():
        tag = f"<{language}>" if len(catalogues) > 1 else ""
        pairs += clean_pairs(read_catalogues(paths, left_out), tag, left_out)
    return pairs, list(catalogues)


def write_dataset(scratch: Path, *, splits: dict[str, list[Pair]], identity: dict) -> Path:
    """Write both sides of both splits, the tokenizer and meta.json; return their folder."""
    root = scratch / "dataset"
    root.mkdir()
    for split, pairs in splits.items():
        write_lines(root / f"{split}.src", [f"{pair.tag} {pair.source}".strip() for pair in pairs])
        write_lines(root / f"{split}.tgt", [pair.target for pair in pairs])
    tokenizer = train_tokenizer(splits["train"], identity["parameters"]["vocab_size"])
    write_tokenizer(root / "tokenizer.json", tokenizer)
    meta = describe_dataset(root, splits, tokenizer) | {"made_from": identity}
    (root / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return root


def write_lines(path: Path, lines: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def train_tokenizer(pairs: list[Pair], vocab_size: int):
    """Return a BPE trained on both sides of the training pairs; a language's tag is one token."""
    from tokenizers import AddedToken

    tags = sorted({pair.tag for pair in pairs if pair.tag})
    tokenizer = train_bpe(partial(list_sentences, pairs), vocab_size - len(tags), SPECIAL_TOKENS)
    # Not "special": those are ordinary text where a reader has their names in sentences ignored.
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    return tokenizer


def list_sentences(pairs: list[Pair]) -> Iterator[str]:
    progress = Progress("read for the vocabulary", "pairs")
    for done, pair in enumerate(pairs):
        yield f" {pair.source}" if pair.tag else pair.source
        yield pair.target
        progress.show(done, len(pairs))


def describe_dataset(root: Path, splits: dict, tokenizer) -> dict:
    """Return the facts that a reader of the files needs, for meta.json."""
    import tokenizers

    ids = {f"{name.strip('<>')}_id": tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
    facts = {"schema_version": "1.0", "vocab_size": measure_vocabulary(tokenizer)} | ids
    facts |= {f"{split}_pairs": len(pairs) for split, pairs in splits.items()}
    names = [f"{split}.{side}" for split in ("train", "val") for side in SIDES]
    facts["longest_tokens"] = {name: measure_longest(root / name, tokenizer) for name in names}
    facts["sha256"] = hash_files(root, [*names, "tokenizer.json"])
    return facts | {"tokenizers_version": tokenizers.__version__}


def measure_longest(path: Path, tokenizer) -> int:
    """Return how many tokens the longest line has, the beginning and the end not counted."""
    tokenizer.encode_special_tokens = True
    longest, batch = 0, 4096
    lines = path.read_text(encoding="utf-8").split("\n")
    for i in range(0, len(lines), batch):
        encodings = tokenizer.encode_batch_fast(lines[i : i + batch], add_special_tokens=False)
        longest = max(longest, *(len(each.ids) for each in encodings))
    return longest


def count_pairs(root: Path) -> dict[str, int]:
    """Return the pairs of each split; -1 where a side is gone or they do not match."""
    counts = {"vocab_size": count_vocabulary(root)}
    for split in ("train", "val"):
        files = [root / f"{split}.{side}" for side in SIDES]
        lines = {file.read_bytes().count(b"\n") if file.is_file() else -1 for file in files}
        counts[f"{split}_pairs"] = lines.pop() if len(lines) == 1 else -1
    return counts


def describe_pairs(record: dict) -> str:
    languages = record["parameters"]["languages"]
    source = record["source"] + (f" into {', '.join(languages)}" if languages else "")
    source += describe_left_out(record["left_out_pairs"])
    counts = f"{record['train_pairs']:,} train and {record['val_pairs']:,} val pairs"
    return f"{source}, vocabulary {record['vocab_size']:,}, {counts}"


# ---- Pairs of sentences: read, each on one line, and split -----------------------------


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
