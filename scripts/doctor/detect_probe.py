"""Ask Slurm whether it would take each rendered job, without submitting any.

Of what it refuses, find the directives without which it would not: sbatch names none of them.
"""

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment

from doctor.detect_records import Partition
from doctor.detect_script import (
    GPU_OPTIONS,
    check_script,
    drop_directives,
    read_directives,
)
from profiles.cluster import Cluster
from profiles.matrix import DoesNotFit, Job, Matrix, plan_job
from profiles.render_job import render_job

Causes = tuple[tuple[str, ...], ...]  # alternatives, each a set of options that must change
DIALECTS = [["gpus-per-node"], ["gres"], ["gpus"], ["gpus", "gpus-per-node"], ["gpus-per-task"]]
# What to do about each directive that a refusal may be about: sbatch names none of them.
ADVICE = {
    "partition": "partition: write one of {partitions}",
    "nodes": "nodes: write how many a job may have at most",
    "ntasks": "nodes: write how many a job may have at most",
    "time": "time: write at most the partition's MaxTime",
    "constraint": "constraint: write a feature that scontrol show node lists",
    "account": "account: write one that sacctmgr show associations lists, in .local.toml",
    "qos": "qos: write one that sacctmgr show associations lists for you",
    "reservation": "reservation: see scontrol show reservation",
    "mem": "mem: write less, or leave it out",
    "mem-per-gpu": "mem_per_gpu: write less, or mem instead: it needs GPUs in a directive",
    "cpus-per-task": "cpus_per_gpu: write less; see scontrol show node, CPUTot",
    "gres": "gpu_request or gpu_type: see scontrol show node, Gres",
    "gpus": "gpu_request or gpu_type: see scontrol show node, Gres",
    "gpus-per-node": "gpu_request or gpu_type: see scontrol show node, Gres",
    "gpus-per-task": "gpu_request or gpu_type: see scontrol show node, Gres",
    "hint": "hint: leave it out",
    "threads-per-core": "threads_per_core: leave it out",
    "exclusive": "exclusive: leave it out",
    "open-mode": 'omit: write ["open-mode"]',
    "signal": 'omit: write ["signal"]; jobs then end at their time limit',
    "requeue": 'omit: write ["requeue"]',
}


@dataclass
class Verdict:
    """What became of one job: `refused` is sbatch's words; the rest are remarks for people."""

    job: str
    refused: str | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.refused is None and not self.remarks


def probe(
    cluster: Cluster, matrix: Matrix, templates: Environment, partitions: list[Partition]
) -> list[Verdict]:
    """Try every job of the matrix that the cluster can run; explain each refusal once."""
    verdicts: list[Verdict] = []
    explained: dict[tuple[str, Causes], list[str]] = {}
    for name in matrix.jobs:
        try:
            job = plan_job(name, matrix, cluster)
        except DoesNotFit as misfit:
            verdicts.append(Verdict(name, None, [f"left out: {misfit}"]))
            continue
        text = render_job(job, cluster, templates, "doctor.py")
        verdict = Verdict(name, ask_sbatch(text), check_script(text, partitions))
        if verdict.refused:
            causes = find_causes(text, [known for said, known in explained])
            key = (verdict.refused, causes)
            if key not in explained:
                explained[key] = explain_refusal(causes, text, partitions)
                explained[key] += try_dialects(causes, job, cluster, templates)
            verdict.remarks += explained[key]
        verdicts.append(verdict)
    return verdicts


def ask_sbatch(text: str) -> str | None:
    """Return None when sbatch would take the script, else its last words."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SBATCH_")}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.slurm"
        script.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run(
                ["sbatch", "--test-only", script.name], cwd=folder, env=clean | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            return "sbatch is not found"
        except subprocess.TimeoutExpired:
            return "sbatch gave no answer within 60 s"
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1].removeprefix("allocation failure: ") if said else "no message"


def find_causes(text: str, known: Iterable[Causes] = ()) -> Causes:
    """Find the options without which sbatch would take the job, as alternatives; () if none.

    First those `known` from other scales; then each option alone; then all, less those that may
    stay, which finds any number of causes together; then pairs, for a site that wants the others.
    """
    options = [option for option in read_directives(text) if option in ADVICE]

    def accepts(without: Iterable[str]) -> bool:
        return ask_sbatch(drop_directives(text, set(without))) is None

    for causes in known:
        if causes and all(set(each) <= set(options) and accepts(each) for each in causes):
            return causes
    if alone := tuple((option,) for option in options if accepts([option])):
        return alone
    if options and accepts(options):
        rest = tuple(options)
        for option in options:
            fewer = tuple(other for other in rest if other != option)
            rest = fewer if accepts(fewer) else rest
        return (rest,)
    return tuple(pair for pair in itertools.combinations(options, 2) if accepts(pair))[:1]


def explain_refusal(causes: Causes, text: str, partitions: list[Partition]) -> list[str]:
    """Say which directives, which fields, and what to write."""
    known = ", ".join(place.name for place in partitions) or "what sinfo lists"
    values = read_directives(text)
    remarks = []
    for options in causes:
        lines = [f"--{name}={values[name]}" if values[name] else f"--{name}" for name in options]
        advice = dict.fromkeys(ADVICE[name].format(partitions=known) for name in options)
        remarks.append(f"accepted without {' and '.join(lines)}; {'; '.join(advice)}")
    return remarks or ["no directive is the reason; ask the site, with sbatch's words"]


def try_dialects(causes: Causes, job: Job, cluster: Cluster, templates: Environment) -> list[str]:
    """Try the other ways of asking for GPUs; say which is accepted, if one is.

    Not where the refusal is about something else, nor where the profile asks on srun only: there
    no directive asks for GPUs because the site wants none.
    """
    about_gpus = not causes or any(set(each) & set(GPU_OPTIONS) for each in causes)
    in_directives = cluster.gpu_request and "srun" not in cluster.gpu_request
    for dialect in DIALECTS if about_gpus and in_directives else []:
        other = cluster.model_copy(update={"gpu_request": dialect})
        script = render_job(job, other, templates, "doctor.py")
        if dialect != cluster.gpu_request and ask_sbatch(script) is None:
            words = ", ".join(f'"{word}"' for word in dialect)
            return [f"gpu_request = [{words}] is accepted"]
    return []


def format_verdicts(verdicts: list[Verdict]) -> str:
    """Write a line for each job; jobs with the same refusal and remarks share one."""
    groups: dict[tuple, list[str]] = {}
    for verdict in verdicts:
        word = "refused" if verdict.refused else "ok" if verdict.ok else "look"
        alone = verdict.job if word == "ok" else ""
        key = (word, verdict.refused or "", tuple(verdict.remarks), alone)
        groups.setdefault(key, []).append(verdict.job)
    lines = []
    for (word, refused, remarks, _), jobs in groups.items():
        lines.append(f"{word:<8}{', '.join(jobs)}{': ' if refused else ''}{refused}")
        lines += [f"          {remark}" for remark in remarks]
    return "".join(f"{line}\n" for line in lines)
