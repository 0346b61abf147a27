"""Ask Slurm whether it would take each rendered job, without submitting any.

`sbatch --test-only` finds most mistakes; what it misses is checked here (DESIGN, measured on
22.05): a time over the partition's, GPU requests that contradict each other, directives that
sbatch reads as comments, variables of the shell that override directives.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment

from profiles.cluster import Cluster
from profiles.detect_records import Partition
from profiles.detect_text import count_seconds, parse_time
from profiles.matrix import DoesNotFit, Job, Matrix, plan_job
from profiles.render_job import render_job

DIALECTS = [["gpus-per-node"], ["gres"], ["gpus"], ["gpus", "gpus-per-node"], ["gpus-per-task"]]
# What to do about each directive that a refusal may be about: sbatch names none of them.
ADVICE = {
    "partition": "partition: write one of {partitions}",
    "time": "time: write at most the partition's MaxTime",
    "constraint": "constraint: write a feature that scontrol show node lists",
    "account": "account: write one that sacctmgr show associations lists, in .local.toml",
    "qos": "qos: write one that sacctmgr show associations lists for you",
    "reservation": "reservation: see scontrol show reservation",
    "mem": "mem: write less, or leave it out",
    "mem-per-gpu": "mem_per_gpu: write less, or leave it out",
    "cpus-per-task": "cpus_per_gpu: write less; see scontrol show node, CPUTot",
    "gres": "gpu_request or gpu_type: see scontrol show node, Gres",
    "gpus": "gpu_request or gpu_type: see scontrol show node, Gres",
    "gpus-per-node": "gpu_request or gpu_type: see scontrol show node, Gres",
    "gpus-per-task": "gpu_request or gpu_type: see scontrol show node, Gres",
    "hint": "hint: leave it out",
    "threads-per-core": "threads_per_core: leave it out",
    "exclusive": "exclusive: leave it out",
    "open-mode": 'omit: write ["open-mode"]',
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
    """Try every job of the matrix that the cluster can run."""
    verdicts: list[Verdict] = []
    for name in matrix.jobs:
        try:
            job = plan_job(name, matrix, cluster)
        except DoesNotFit as misfit:
            verdicts.append(Verdict(name, None, [f"left out: {misfit}"]))
            continue
        text = render_job(job, cluster, templates, "doctor.py")
        verdict = Verdict(name, ask_sbatch(text), check_script(text, partitions))
        if verdict.refused and all(verdict.refused != other.refused for other in verdicts):
            verdict.remarks += explain_refusal(text, partitions)
            verdict.remarks += try_dialects(job, cluster, templates)
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


def read_directives(text: str) -> dict[str, str]:
    """The directives that sbatch sees: option -> value ("" without one)."""
    head = re.split(r"^(?!#|\s*$)", text, maxsplit=1, flags=re.MULTILINE)[0]
    lines = re.findall(r"^#SBATCH\s+--([\w-]+)(?:=(\S+))?", head, re.MULTILINE)
    return dict(lines)


def check_script(text: str, partitions: list[Partition]) -> list[str]:
    """Check what `sbatch --test-only` says nothing of."""
    options = read_directives(text)
    head = re.split(r"^(?!#|\s*$)", text, maxsplit=1, flags=re.MULTILINE)[0]
    remarks = []
    for line in re.findall(r"^(?:\s*#+\s*SBATCH\b.*|#SBATCH\S.*)$", text[len(head) :], re.M):
        remarks.append(f"{line.strip()!r} stands after the first command: sbatch ignores it")
    for line in re.findall(r"^(?:\s+#SBATCH|#+\s+SBATCH|##+SBATCH|#SBATCH[^\s]).*$", head, re.M):
        remarks.append(f"{line.strip()!r} is a comment to sbatch: write '#SBATCH --option'")
    name = options.get("partition")
    place = next((p for p in partitions if p.name == name or (not name and p.default)), None)
    limit, asked = place.time_limit if place else None, parse_time(options.get("time"))
    if asked and count_seconds(asked) > count_seconds(limit):
        remarks.append(f"--time={asked} is over {limit}, MaxTime of {place.name}: set time")
    counts = {
        option: int(found[1])
        for option in ("gres", "gpus-per-node")
        if (found := re.search(r"(?:^|:)(\d+)$", options.get(option, "")))
    }
    if len(set(counts.values())) > 1:
        told = " and ".join(f"--{option}={options[option]}" for option in counts)
        remarks.append(f"{told} contradict each other: keep one in gpu_request")
    return remarks


def explain_refusal(text: str, partitions: list[Partition]) -> list[str]:
    """Find the directives without which sbatch would take the job: field, and what to write."""
    known = ", ".join(place.name for place in partitions) or "what sinfo lists"
    remarks = []
    for option, value in read_directives(text).items():
        line = f"--{option}={value}" if value else f"--{option}"
        without = re.sub(rf"^#SBATCH\s+{re.escape(line)}(\s.*)?$", "#", text, flags=re.MULTILINE)
        if option in ADVICE and ask_sbatch(without) is None:
            remarks.append(f"accepted without {line}; {ADVICE[option].format(partitions=known)}")
    return remarks or ["no single directive is the reason; ask the site, with sbatch's words"]


def try_dialects(job: Job, cluster: Cluster, templates: Environment) -> list[str]:
    """Try the other ways of asking for GPUs; say which is accepted, if one is."""
    for dialect in DIALECTS if cluster.gpu_request else []:
        other = cluster.model_copy(update={"gpu_request": dialect})
        script = render_job(job, other, templates, "doctor.py")
        if dialect != cluster.gpu_request and ask_sbatch(script) is None:
            words = ", ".join(f'"{word}"' for word in dialect)
            return [f"gpu_request = [{words}] is accepted"]
    return []


def list_overrides() -> list[str]:
    """Say which variables of this shell override directives of every job."""
    harmless = {"SBATCH_EXPORT"}
    return [
        f"{name}={value!r} in this shell overrides the job scripts: unset {name}"
        for name, value in sorted(os.environ.items())
        if name.startswith("SBATCH_") and name not in harmless
    ]


def format_verdicts(verdicts: list[Verdict]) -> str:
    """Write a line for each job, and its remarks below."""
    lines = []
    for verdict in verdicts:
        word = "refused" if verdict.refused else "ok" if verdict.ok else "look"
        lines.append(f"{word:<8}{verdict.job:<14}{verdict.refused or ''}".rstrip())
        lines += [f"          {remark}" for remark in verdict.remarks]
    return "".join(f"{line}\n" for line in lines)
