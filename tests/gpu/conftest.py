"""The GPU that the tests here need, and small data sets for every trainer."""

from pathlib import Path

import pytest

from gpu_runs import Gpu, list_gpus
from prepared_data import prepare_once

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
IN_GERMAN = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The first GPU of this machine; without one, or with a PyTorch that cannot use it, a skip."""
    found = list_gpus()
    if not found:
        pytest.skip("nvidia-smi shows no GPU here")
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} cannot use the {found[0].name}")
    return found[0]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 training and 80 validation JPEGs of 10 classes."""
    options = ("--classes", 10, "--train-per-class", 64, "--val-per-class", 8, "--workers", 2)
    return prepare_once(tmp_path_factory, "images", "tinyimagenet", "--synthetic", *options)


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 numbers of four digits in English and German words: pairs to translate."""
    folder = tmp_path_factory.mktemp("numbers")
    texts = {"source": WORDS, "target": IN_GERMAN}
    for name, words in texts.items():
        lines = (" ".join(words[int(digit)] for digit in f"{n:04d}") for n in range(3000))
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = [word for name in texts for word in (f"--{name}", folder / name)]
    return prepare_once(tmp_path_factory, "numbers", "translation", *files, "--vocab-size", 300)
