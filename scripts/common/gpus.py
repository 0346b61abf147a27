"""What is known of a GPU by its name: peaks and memory, from the vendors' data sheets."""

import csv
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

GPUS = Path(__file__).with_name("gpus.csv")


@cache
def read_gpus() -> list[dict]:
    """Return the table's rows: numbers as floats, None where there is none, memory as a list."""
    with GPUS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    for row in rows:
        row |= {name: float(row[name]) if row[name] else None for name in ("fp32", "fp16", "bf16")}
        row["memory_gb"] = [int(size) for size in row["memory_gb"].split("|")]
    return rows


def find_gpu(name: str) -> dict | None:
    """Return the row of a GPU by the name that PyTorch and nvidia-smi print."""
    return next((row for row in read_gpus() if fnmatchcase(name, row["gpu"])), None)


def list_memory_gb(name: str) -> list[int]:
    """List how much memory (GB) a GPU of this name may have; [] when it is unknown.

    name: PyTorch's, or a cluster's own word for it: `v100` (16 or 32), `a100_80` (80).
    """
    row = find_gpu(name)
    if row:
        sizes = set(row["memory_gb"])
    else:
        words = re.split(r"[^a-z0-9]+", name.lower())
        if told := re.findall(r"\b(\d+)gb\b", " ".join(words)):  # a model of one site's own
            return [int(told[0])]
        sizes = {size for row in read_gpus() if name_chip(row["gpu"]) in words
                 for size in row["memory_gb"]}  # fmt: skip
    told = {int(number) for number in re.findall(r"\d+", name)} & sizes
    return sorted(told or sizes)


def name_chip(gpu: str) -> str | None:
    """`a100` of `NVIDIA A100-SXM4-*`: the first word with letters and a number."""
    found = re.search(r"\b[a-z]+\d+[a-z]?\b", gpu.lower())
    return found[0] if found else None
