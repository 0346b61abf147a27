"""Byte-level BPE tokenizers: trained on the texts at hand, GPT-2's own, or read from a file."""

import json
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.signals import STOP_SIGNALS
from preparation.download import downloaded

MAX_VOCAB_SIZE = 65_535  # ids are uint16
# What tokenizers that are not byte-level lose: case, spaces, rare and composed characters.
PROBE = "def F(x):\n\treturn  'é' + \"中🙂\"  # \x00 ﬁ e\u0301\r\n"
GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
# The checksums that tiktoken publishes with this address.
GPT2_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


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
        raise UserError(f"{name} is not a tokenizer.json ({str(error)[:200]})") from None
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


# ---- GPT-2's own vocabulary: two files, checked before they are used -------------------


def fetch_gpt2_tokenizer(url: str, target: Path, folder: Path):
    """Return GPT-2's tokenizer, 50,257 tokens, downloaded from below url to folder for a moment.

    Raises UserError when the network fails, or when the files are not GPT-2's.
    """
    by_hand = f"python scripts/prepare_data.py gpt2 {target} --tokenizer tokenizer.json"
    contents = {}
    for name, sha256 in GPT2_SHA256.items():
        with downloaded(f"{url.rstrip('/')}/{name}", sha256, folder / name, by_hand) as file:
            contents[name] = file.read_text(encoding="utf-8")
    return assemble_tokenizer(contents["encoder.json"], contents["vocab.bpe"])


def assemble_tokenizer(encoder: str, merges: str):
    """Return the tokenizer of encoder.json, token to id, and vocab.bpe, one merge per line."""
    lines = merges.splitlines()[1:]  # the first line is the format's version
    try:
        pairs = [tuple(line.split(" ")) for line in lines if line]
        tokenizer, _ = make_byte_level(json.loads(encoder), pairs)
    except Exception as error:
        raise UserError(f"encoder.json and vocab.bpe do not fit together ({error})") from None
    # Its id is in encoder.json already; this only says that it is not ordinary text.
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


# ---- Training in another process -------------------------------------------------------


def run_in_process(work: Callable, *arguments: Any) -> Any:
    """Return work(*arguments), computed in another process; all of it must be picklable.

    A library that computes for half a minute lets no Python code see a signal meanwhile: here the
    signal ends this function, and this function the work. Raises what work raises, and UserError
    when the process was killed.
    """
    from multiprocessing import get_context, resource_tracker

    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_outcome, args=(sender, work, arguments), daemon=True)
    resource_tracker.ensure_running()  # would otherwise be started by start(), and lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process.start()  # it inherits the block: Ctrl-C in a terminal is for the parent alone
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        raise UserError("a worker was killed (out of memory?); give less text") from None
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def send_outcome(sender, work: Callable, arguments: tuple) -> None:
    try:
        outcome = work(*arguments)
    except Exception as error:
        outcome = error
    sender.send(outcome)
