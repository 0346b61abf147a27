"""Saved outputs of clusters that were never there, and what the doctor finds in them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from doctor.detect_cluster import describe, detect
from doctor.detect_draft import write_draft
from doctor.detect_sources import (
    read_folder,
)

REPO = Path(__file__).resolve().parent.parent
DUMPS = REPO / "tests/slurm_dumps"
SHAPES = sorted(path.name for path in DUMPS.iterdir())


def doctor(*args, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, REPO / "scripts/doctor.py", *args]
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def read_shape(shape: str) -> dict:
    """What is found in a saved shape: its partitions by name, and the rest."""
    found = describe(detect(read_folder(DUMPS / shape)))
    return found | {"partitions": {place["name"]: place for place in found["partitions"]}}


def draft_shape(shape: str) -> tuple[str, dict]:
    """The draft profile for a saved shape: its text, and its values."""
    text = write_draft(detect(read_folder(DUMPS / shape)), "there", "00:30:00")
    return text, tomllib.loads(text)


def list_groups(place: dict) -> list[tuple]:
    """(nodes, usable, GPUs, CPUs, threads, MB) of a partition's groups."""
    groups = []
    for group in place["groups"]:
        gpus = {gpu["type"]: gpu["count"] for gpu in group["gpus"]}
        told = (group["cpus"], group["threads_per_core"], group["memory_mb"])
        groups.append((group["nodes"], group["usable"], gpus, *told))
    return groups
