"""Whether the jobs' batches fit the GPUs that their profiles name, before anything is submitted."""

import shlex

from common.gpus import list_memory_gb
from common.memory import DEFINITION, find_largest_batch, judge_memory, predict_memory
from profiles import Cluster, Job, Repository
from profiles.cluster import choose

GB = 1024  # MiB, as drivers count what data sheets call GB


def check_memory(
    repository: Repository, jobs: list[Job], profiles: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Return a line for each kind of job, whether its batch fits; and what could not be checked.

    Both are empty where the jobs compute on CPUs. profiles: of each job, by its name.
    """
    notes, asked = [], []
    for job in {job.name: job for job in jobs}.values():
        cluster = repository.load_profile(profiles[job.name])
        if cluster.accelerator == "none":
            continue
        name, sizes = find_gpu_memory(cluster, job)
        if not sizes:
            notes.append(
                f"memory: not checked: {cluster.shown} names no GPU whose memory is known; "
                "gpu_memory_gb = 40 there would say it"
            )
            continue
        asked.append((job, name, sizes))
    answers = predict_memory([make_request(job) for job, *_ in asked]) if asked else []
    same: dict[str, list[str]] = {}
    for (job, name, sizes), answer in zip(asked, answers, strict=True):
        same.setdefault(describe_memory(answer, name, sizes), []).append(job.name)
    lines = [f"memory of {', '.join(names)}: {text}" for text, names in same.items()]
    if any("error" not in answer for answer in answers):
        lines.append(DEFINITION)
    return lines, list(dict.fromkeys(notes))


def find_gpu_memory(cluster: Cluster, job: Job) -> tuple[str, list[int]]:
    """Return the GPU's name in the profile and how much memory (GB) it may have."""
    scale = (job.nodes, job.gpus_per_node)
    if size := choose(cluster.gpu_memory_gb, *scale):
        return "", [size]
    names = filter(None, (cluster.gpu_type, choose(cluster.constraint, *scale)))
    found = [(name, sizes) for name in names if (sizes := list_memory_gb(name))]
    return min(found, key=lambda each: len(each[1]), default=("", []))  # a100_80 goes before a100


def make_request(job: Job) -> dict:
    """What memory_estimate.py is asked about a job."""
    words = [f"--{name}" if value is True else f"--{name}={value}"
             for name, value in job.args.items() if value is not False]  # fmt: skip
    return {
        "trainer": job.trainer or shlex.split(job.command)[0],
        "words": words,
        "world_size": job.world_size,
        "local_world_size": job.gpus_per_node,
    }


def describe_memory(answer: dict, name: str, sizes: list[int]) -> str:
    """Say whether an answer fits each size that the GPU may have, and what would."""
    if "error" in answer:
        return f"not estimated: {answer['error']}"
    judged = [
        f"{judge_memory(answer, size * GB)} {size} GB"
        f" (largest batch about {find_largest_batch(answer, size * GB)})"
        for size in sizes
    ]
    model = f", {name}" if name else ""
    differ = len({judge_memory(answer, size * GB) for size in sizes}) > 1
    choice = "; say which with gpu_memory_gb in the profile" if differ else ""
    return (
        f"{answer['peak_mib']:.0f} MiB predicted (batch {answer['batch']} per GPU, "
        f"{answer['precision']}{model}): {', '.join(judged)}{choice}"
    )
