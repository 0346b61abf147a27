"""Files of uint16 tokens, memory-mapped: only what is read is loaded, and the ranks share it."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from training import TrainingError
from training.gpt2.arguments import SMALL

IGNORED = -100  # a target that cross_entropy leaves out
CHUNK = 2**24  # tokens looked at at once: 32 MiB


class TokenSequences(Dataset):
    """Item i: the i-th T tokens of the file, and the same moved by one, which are to be predicted.

    Both are (T,) int64. Item -1 is an empty sequence, whose targets are all IGNORED.
    """

    def __init__(self, path: Path, length: int, vocab_size: int):
        """Map the file `path`; TrainingError when it cannot be what it should."""
        self.path, self.length = path, length
        self.tokens = map_tokens(path)
        if len(self) < 1:
            raise TrainingError(
                f"{path} has {len(self.tokens)} tokens, less than one sequence of {length} and "
                "the token after it; make it from more text, or lower --seq-length"
            )
        check_vocabulary(path, self.tokens, vocab_size)

    def __len__(self) -> int:
        return max(len(self.tokens) - 1, 0) // self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index < 0:
            empty = torch.zeros(self.length, dtype=torch.int64)
            return empty, empty + IGNORED
        begin = index * self.length
        window = torch.from_numpy(self.tokens[begin : begin + self.length + 1].astype(np.int64))
        return window[:-1], window[1:]


def map_tokens(path: Path) -> np.ndarray:
    """Map a file of little-endian uint16 numbers; TrainingError when it is none."""
    try:
        size = path.stat().st_size
        if size % 2:
            raise TrainingError(
                f"{path} has {size} bytes, which are no whole number of 2-byte tokens; it was cut "
                "or is no file of uint16: make it with scripts/prepare_data.py gpt2"
            )
        return np.memmap(path, dtype="<u2", mode="r") if size else np.empty(0, dtype="<u2")
    except OSError as error:
        raise TrainingError(
            f"cannot read {path}: {error.strerror}; set $DATA_DIR to a folder made by "
            "scripts/prepare_data.py gpt2, or name the files (--train-data-path, --val-data-path)"
        ) from None


def check_vocabulary(path: Path, tokens: np.ndarray, vocab_size: int) -> None:
    """Look at every token once: on a GPU, one too large would end in an assertion of the device."""
    for begin in range(0, len(tokens), CHUNK):
        largest = int(tokens[begin : begin + CHUNK].max())
        if largest >= vocab_size:
            raise TrainingError(
                f"{path} has the token {largest}, the vocabulary ends at {vocab_size - 1}; set "
                f"--vocab-size to that of the tokenizer, at least {largest + 1}"
            )


def read_meta(train_path: Path) -> dict:
    """Read what prepare_data.py wrote beside the tokens; {} where there is nothing."""
    path = train_path.with_name("meta.json")
    if not path.exists():
        return {}
    try:
        meta = json.loads(path.read_text())
        return {"vocab_size": int(meta["vocab_size"]), "sha256": dict(meta.get("sha256", {}))}
    except (OSError, ValueError, KeyError, TypeError):
        raise TrainingError(
            f"{path} does not say the vocab_size; make the data again with "
            "scripts/prepare_data.py gpt2, or remove that file and give --vocab-size"
        ) from None


def choose_vocab_size(asked: int | None, train_path: Path) -> int:
    """The size asked for, else the one in the data's meta.json, else GPT-2's own."""
    return asked or read_meta(train_path).get("vocab_size", SMALL["vocab_size"])
