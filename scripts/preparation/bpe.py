"""Byte-level BPE tokenizers: trained on the texts at hand, or read, checked and kept as a file."""

import json
from collections.abc import Iterable
from pathlib import Path

from preparation.errors import DataError

# Any byte can be written, so that every text can be given back as it was.
PROBE = "def f(x):\n\treturn  'é' + \"中🙂\"  # \x00 ﬁ\r\n"


def train_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str] = ()):
    """Return a tokenizers.Tokenizer with vocab_size tokens, fewer when the texts give no more.

    The special tokens have the first ids, in their order. Equal texts give equal tokenizers.
    Source: Sennrich et al. 2016 (BPE); Radford et al. 2019 (over bytes, as GPT-2 splits words).
    """
    from tokenizers.trainers import BpeTrainer

    tokenizer, alphabet = make_byte_level()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_byte_level(vocab: dict[str, int] | None = None, merges: list | None = None) -> tuple:
    """Return a byte-level BPE tokenizer, empty unless vocab and merges are given, and its bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, sorted(pre_tokenizers.ByteLevel.alphabet())


def read_tokenizer(content: str, name: str | Path):
    """Return the tokenizer of a tokenizer.json; DataError when it cannot give every text back."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises no other class
        raise DataError(f"{name} is no tokenizer.json ({str(error)[:200]})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokens = tokenizer.encode(PROBE, add_special_tokens=False)
    if tokenizer.decode(tokens.ids, skip_special_tokens=False) != PROBE:
        raise DataError(f"{name} loses characters; take the tokenizer.json of a byte-level BPE")
    return tokenizer


def measure_vocabulary(tokenizer) -> int:
    """Return the size of the embedding that the tokens need: the largest id, and one."""
    return max(tokenizer.get_vocab().values()) + 1


def write_tokenizer(path: Path, tokenizer) -> None:
    path.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")


def count_vocabulary(root: Path) -> int:
    """Return the size of the vocabulary that meta.json in root states; -1 where a file is gone."""
    try:
        meta = json.loads((root / "meta.json").read_text(encoding="utf-8"))
        return meta["vocab_size"] if (root / "tokenizer.json").is_file() else -1
    except (OSError, ValueError, TypeError, KeyError):
        return -1
