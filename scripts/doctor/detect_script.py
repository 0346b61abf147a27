"""Read a rendered job script as sbatch does, and check what `sbatch --test-only` says nothing of.

Measured on 22.05 (DESIGN): a time over the partition's, GPU requests that contradict each
other, directives that sbatch reads as comments, variables of the shell that override directives.
"""

import os
import re

from doctor.detect_records import Partition
from doctor.detect_text import Gpus, count_seconds, parse_gpus, parse_number, parse_time

GPU_OPTIONS = ("gres", "gpus-per-node", "gpus", "gpus-per-task")


def split_head(text: str) -> tuple[str, str]:
    """Split a script at its first command: sbatch reads directives before it only."""
    head = re.split(r"^(?![ \t]*(?:#|$))", text, maxsplit=1, flags=re.MULTILINE)[0]
    return head, text[len(head) :]


def read_directives(text: str) -> dict[str, str]:
    """The long options that sbatch sees: option -> value ("" without one), the last one counts."""
    head, _ = split_head(text)
    lines = re.findall(r"^#SBATCH\s+--([\w-]+)(?:(?:=|[ \t]+)([^\s#]\S*))?", head, re.MULTILINE)
    return dict(lines)


def drop_directives(text: str, options: set[str]) -> str:
    """Comment out the directives that set one of `options`."""
    names = "|".join(map(re.escape, sorted(options)))
    return re.sub(rf"^#SBATCH\s+--(?:{names})(?=[\s=]|$).*$", "#", text, flags=re.MULTILINE)


def check_script(text: str, partitions: list[Partition]) -> list[str]:
    """Check what `sbatch --test-only` says nothing of; returns remarks for people."""
    head, body = split_head(text)
    remarks = []
    for line in re.findall(r"^(?:\s*#+\s*SBATCH\b.*|#SBATCH\S.*)$", body, re.M):
        remarks.append(f"{line.strip()!r} stands after the first command: sbatch ignores it")
    for line in re.findall(r"^(?:\s+#SBATCH|#+\s+SBATCH|##+SBATCH|#SBATCH[^\s]).*$", head, re.M):
        remarks.append(f"{line.strip()!r} is a comment to sbatch: write '#SBATCH --option'")
    options = read_directives(text)
    return remarks + check_time(options, partitions) + check_gpus(options)


def check_time(options: dict[str, str], partitions: list[Partition]) -> list[str]:
    """A time that is over the limit of each partition that the job may go to."""
    names = options.get("partition", "").split(",")
    places = [p for p in partitions if p.name in names or (names == [""] and p.default)]
    asked = parse_time(options.get("time"))
    if not places or not asked:
        return []
    place = max(places, key=lambda place: count_seconds(place.time_limit))
    if count_seconds(asked) <= count_seconds(place.time_limit):
        return []
    return [f"--time={asked} is over {place.time_limit}, MaxTime of {place.name}: set time"]


def check_gpus(options: dict[str, str]) -> list[str]:
    """GPU requests that do not agree on how many a node has, or on their type."""
    told = {name: options[name] for name in GPU_OPTIONS if name in options}
    gpus = {name: read_request(name, value) for name, value in told.items()}
    counts = {
        name: count
        for name, found in gpus.items()
        if (count := count_per_node(name, sum(found.values()), options)) is not None and found
    }
    types = {kind for found in gpus.values() for kind in found if kind}
    if len(set(counts.values())) < 2 and (len(types) < 2 or len(gpus) < 2):
        return []
    words = " and ".join(f"--{name}={value}" for name, value in told.items() if gpus[name])
    return [f"{words} contradict each other: keep one, see gpu_request and extra_sbatch"]


def read_request(name: str, value: str) -> Gpus:
    """`gpu:a100:4,lscratch:9` of --gres, or `a100:4` of the others -> {"a100": 4}."""
    return parse_gpus(value if name == "gres" else f"gpu:{value}")


def count_per_node(name: str, count: int, options: dict[str, str]) -> float | None:
    """How many GPUs a node a request makes; None when the script does not say of how many."""
    tasks = parse_number(options.get("ntasks-per-node"))
    total = parse_number(options.get("ntasks"))
    nodes = parse_number(options.get("nodes")) or (total and tasks and total / tasks)
    if name == "gpus":
        return count / nodes if nodes else None
    if name == "gpus-per-task":
        tasks = tasks or (total and nodes and total / nodes)
        return count * tasks if tasks else None
    return count


def list_overrides() -> list[str]:
    """Say which variables of this shell override directives of every job (sbatch(1))."""
    harmless = {"SBATCH_EXPORT", "SBATCH_DEBUG"}
    others = {"SLURM_HINT", "SLURM_CLUSTERS"}
    return [
        f"{name}={value!r} in this shell overrides the job scripts: unset {name}"
        for name, value in sorted(os.environ.items())
        if (name.startswith("SBATCH_") and name not in harmless) or name in others
    ]
