"""Pairs of sentences in two languages, read and turned into tokens.

The folder is what `prepare_data.py translation` makes: train.src, train.tgt, val.src, val.tgt (a
sentence a line) and tokenizer.json, the vocabulary of both sides.
"""

import os
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from training import TrainingError

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")


class Vocabulary:
    """The tokenizer of a data set's folder, and the numbers of the tokens with a meaning."""

    def __init__(self, path: Path):
        tokenizers = import_package("tokenizers")
        # Set, or the library warns of every loader process that is forked after its first use.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        try:
            self.tokenizer = tokenizers.Tokenizer.from_str(read_text(path))
        except TrainingError:
            raise
        except Exception as error:  # the library raises no other class
            reason = str(error).splitlines()[0][:100]
            raise TrainingError(f"{path} is no tokenizer.json ({reason}); make it again") from None
        ids = [self.tokenizer.token_to_id(name) for name in SPECIAL_TOKENS]
        if None in ids:
            raise TrainingError(f"{path} has no token {SPECIAL_TOKENS[ids.index(None)]}")
        self.pad_id, self.bos_id, self.eos_id = ids
        self.size = max(self.tokenizer.get_vocab().values()) + 1
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.tokenizer.encode_special_tokens = True  # a "<pad>" in a sentence is text

    def encode(self, sentences: list[str]) -> list[torch.Tensor]:
        """The tokens of each sentence, and the end."""
        encodings = self.tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
        return [torch.tensor([*each.ids, self.eos_id]) for each in encodings]

    def decode(self, rows: list[list[int]]) -> list[str]:
        return self.tokenizer.decode_batch(rows)


class SentencePairs(Dataset):
    """One split in memory. Item i: tokens of the source and of its translation, int64.

    Sources end with <eos>; targets begin with <bos> and end with <eos>.
    """

    def __init__(
        self,
        sources: list[str],
        targets: list[str],
        vocabulary: Vocabulary,
        max_tokens: int | None = None,
    ):
        """Leave out pairs that have more than max_tokens on a side, if it is given."""
        bos = torch.tensor([vocabulary.bos_id])
        pairs = [
            (source, torch.cat([bos, target]), text)
            for source, target, text in zip(
                vocabulary.encode(sources), vocabulary.encode(targets), targets, strict=True
            )
            if not max_tokens or max(len(source), len(target)) <= max_tokens
        ]
        self.sources = [source for source, _, _ in pairs]
        self.targets = [target for _, target, _ in pairs]
        self.references = [text for _, _, text in pairs]
        # What is learnt of a target is every token but the first, which nobody has to guess.
        self.target_tokens = torch.tensor([len(target) - 1 for target in self.targets])
        source_tokens = torch.tensor([len(source) for source in self.sources])
        self.lengths = torch.maximum(source_tokens, self.target_tokens)
        self.left_out = len(sources) - len(pairs)
        self.vocabulary = vocabulary
        self.collate = partial(pad_batch, pad_id=vocabulary.pad_id)

    def __len__(self) -> int:
        return len(self.sources)

    def mean_lengths(self) -> tuple[float, float]:
        """Mean tokens of a source and of a target, as they are learnt from."""
        sources = sum(len(source) for source in self.sources)
        return sources / len(self), int(self.target_tokens.sum()) / len(self)

    def by_length(self) -> list[int]:
        """The indices of all pairs, the longest first."""
        return self.lengths.argsort(stable=True, descending=True).tolist()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.sources[index], self.targets[index]


def pad_batch(pairs: list, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make sources (B, S) and targets (B, T) of pairs, filled up with padding at their ends."""
    sources, targets = zip(*pairs, strict=True)
    options = {"batch_first": True, "padding_value": pad_id}
    return pad_sequence(sources, **options), pad_sequence(targets, **options)


def load_pairs(folder: Path, max_tokens: int) -> tuple[SentencePairs, SentencePairs]:
    """Return the training and the validation pairs.

    Training pairs with more than max_tokens on a side are left out: memory follows the longest.
    Raises TrainingError for a folder that is not whole.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder; set --data-dir or $DATA_DIR")
    vocabulary = Vocabulary(folder / "tokenizer.json")
    import_package("sacrebleu")  # needed after the first epoch: better to miss it now
    splits = {split: read_split(folder, split) for split in ("train", "val")}
    train = SentencePairs(*splits["train"], vocabulary, max_tokens)
    if train.left_out and os.environ.get("RANK", "0") == "0":
        print(f"Left out {train.left_out} training pairs of more than {max_tokens} tokens")
    return train, SentencePairs(*splits["val"], vocabulary)


def read_split(folder: Path, split: str) -> list[list[str]]:
    """Return the sources and the targets of a split, line by line."""
    texts = [read_text(folder / f"{split}.{side}") for side in ("src", "tgt")]
    # Only \n ends a line; a sentence may hold what str.splitlines() takes for another end.
    sides = [text.removesuffix("\n").split("\n") if text else [] for text in texts]
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise TrainingError(
            f"{folder}/{split}.src has {len(sides[0])} lines and {split}.tgt {len(sides[1])}; line "
            "n of one must be the translation of line n of the other"
        )
    return sides


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise TrainingError(
            f"cannot read {path}: {error.strerror}; prepare_data.py translation makes it"
        ) from None
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8 (byte {error.start})") from None


def import_package(name: str):
    """Import a package that this workload alone needs; TrainingError when it is not there."""
    try:
        return import_module(name)
    except ImportError:
        raise TrainingError(
            f"translation needs the package {name}: pip install tokenizers sacrebleu"
        ) from None
