"""Byte-level BPE tokenizers: trained on the texts at hand, or read, checked and kept as a file."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import UserError
from preparation.processes import run_in_process

# What tokenizers that are not byte-level lose: case, spaces, rare and composed characters.
PROBE = "def F(x):\n\treturn  'é' + \"中🙂\"  # \x00 ﬁ e\u0301\r\n"


def train_bpe(
    read_texts: Callable[[], Iterable[str]], vocab_size: int, special_tokens: Iterable[str] = ()
):
    """Return a tokenizers.Tokenizer with vocab_size tokens, fewer when the texts give no more.

    read_texts: picklable, since it is called in another process. The special tokens have the
    first ids, in their order. Equal texts give equal tokenizers. Source: Sennrich et al. 2016
    (BPE); Radford et al. 2019 (over bytes, between the words that GPT-2 tells apart).
    """
    from tokenizers import Tokenizer

    learnt = run_in_process(learn_merges, read_texts, vocab_size, list(special_tokens))
    return Tokenizer.from_str(learnt)


def learn_merges(read_texts: Callable, vocab_size: int, special_tokens: list[str]) -> str:
    """Return the tokenizer.json of a byte-level BPE trained on the texts."""
    from tokenizers.trainers import BpeTrainer

    tokenizer, alphabet = make_byte_level()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(read_texts(), trainer)
    return tokenizer.to_str()


def make_byte_level(vocab: dict[str, int] | None = None, merges: list | None = None) -> tuple:
    """Return a byte-level BPE tokenizer, empty unless vocab and merges are given, and its bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, sorted(pre_tokenizers.ByteLevel.alphabet())


def read_tokenizer(content: str, name: str | Path):
    """Return the tokenizer of a tokenizer.json; UserError when it cannot give every text back."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises no other class
        raise UserError(f"{name} is no tokenizer.json ({str(error)[:200]})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokens = tokenizer.encode(PROBE, add_special_tokens=False)
    if tokenizer.decode(tokens.ids, skip_special_tokens=False) != PROBE:
        raise UserError(f"{name} loses characters; take the tokenizer.json of a byte-level BPE")
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
