"""GPT-2's own vocabulary, as its makers publish it: two files, checked before they are used."""

import json
from pathlib import Path

from common.errors import UserError
from preparation.bpe import make_byte_level
from preparation.download import downloaded

GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
# The checksums that tiktoken publishes with this address.
GPT2_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


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
    """Return the tokenizer of encoder.json, token to id, and vocab.bpe, a merge a line."""
    lines = merges.splitlines()[1:]  # the first line is the format's version
    try:
        pairs = [tuple(line.split(" ")) for line in lines if line]
        tokenizer, _ = make_byte_level(json.loads(encoder), pairs)
    except Exception as error:
        raise UserError(f"encoder.json and vocab.bpe do not fit together ({error})") from None
    # Its id is in encoder.json already; this only says that it is no ordinary text.
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer
