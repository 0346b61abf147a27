"""Saved outputs of clusters that were never there, and what the doctor finds in them."""

import subprocess
from pathlib import Path

from common.toml import tomllib
from doctor import describe_cluster, detect, read_folder, write_draft
from in_process import run_script

REPO = Path(__file__).resolve().parent.parent
DUMPS = REPO / "tests/slurm_dumps"
SHAPES = sorted(path.name for path in DUMPS.iterdir())
SINFO_HEADER = (
    "PARTITION|AVAIL|TIMELIMIT|DEFAULTTIME|JOB_SIZE|OVERSUBSCRIBE|NODES|STATE|CPUS|S:C:T|MEMORY"
    "|GRES|AVAIL_FEATURES|NODELIST"
)


def doctor(*args, **variables: str) -> subprocess.CompletedProcess:
    return run_script("scripts/doctor.py", *args, **variables)


def read_shape(shape: str) -> dict:
    """What is found in a saved shape: its partitions by name, and the rest."""
    found = describe_cluster(detect(read_folder(DUMPS / shape)))
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
