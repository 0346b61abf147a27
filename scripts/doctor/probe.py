"""Ask Slurm whether it would take each rendered job, without submitting any.

Of what it refuses, find the directives without which it would not: sbatch names none of them.
Of what it takes, check what `sbatch --test-only` does not report (measured on 22.05, see DESIGN):
a time over the partition's, GPU requests that contradict each other, directives that sbatch reads
as comments, variables of the shell that override directives.
"""

import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment

from common.slurm_time import format_time, parse_time
from doctor.cluster import Partition
from doctor.slurm_text import Gpus, parse_gpus, parse_number
from profiles import Cluster, DoesNotFit, Job, Matrix, plan_job, render_job

GPU_OPTIONS = ("gres", "gpus-per-node", "gpus", "gpus-per-task")
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
class ProbeResult:
    """What became of one job: `refused`: sbatch's message; the rest are remarks."""

    job: str
    refused: str | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.refused is None and not self.remarks


def probe(
    cluster: Cluster, matrix: Matrix, templates: Environment, partitions: list[Partition]
) -> list[ProbeResult]:
    """Try every job of the matrix that the cluster can run; explain each refusal once."""
    results: list[ProbeResult] = []
    explained: dict[tuple[str, Causes], list[str]] = {}
    for name in matrix.jobs:
        try:
            job = plan_job(name, matrix, cluster)
        except DoesNotFit as misfit:
            results.append(ProbeResult(name, None, [f"left out: {misfit}"]))
            continue
        text = render_job(job, cluster, templates, "doctor.py")
        result = ProbeResult(name, ask_sbatch(text), check_script(text, partitions))
        if result.refused:
            causes = find_causes(text, [known for said, known in explained])
            key = (result.refused, causes)
            if key not in explained:
                explained[key] = explain_refusal(causes, text, partitions)
                explained[key] += try_dialects(causes, job, cluster, templates)
            result.remarks += explained[key]
        results.append(result)
    return results


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
    return remarks or ["no directive is the reason; ask the site, and quote sbatch"]


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


def format_results(results: list[ProbeResult]) -> str:
    """Write one line per job; jobs with the same refusal and remarks share one."""
    groups: dict[tuple, list[str]] = {}
    for result in results:
        word = "refused" if result.refused else "ok" if result.ok else "look"
        alone = result.job if word == "ok" else ""
        key = (word, result.refused or "", tuple(result.remarks), alone)
        groups.setdefault(key, []).append(result.job)
    lines = []
    for (word, refused, remarks, _), jobs in groups.items():
        lines.append(f"{word:<8}{', '.join(jobs)}{': ' if refused else ''}{refused}")
        lines += [f"          {remark}" for remark in remarks]
    return "".join(f"{line}\n" for line in lines)


# ---- What sbatch reads in a job script -------------------------------------------------


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
    """Check what `sbatch --test-only` says nothing of; returns remarks."""
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
    if not places or not options.get("time"):
        return []
    asked_s = parse_time(options["time"])
    place = max(places, key=lambda place: place.time_limit_s)
    if asked_s <= place.time_limit_s:
        return []
    limit = f"{place.time_limit}, MaxTime of {place.name}"
    return [f"--time={format_time(asked_s)} is over {limit}: set time"]


def check_gpus(options: dict[str, str]) -> list[str]:
    """GPU requests that do not agree on how many a node has, or on their type."""
    given = {name: options[name] for name in GPU_OPTIONS if name in options}
    gpus = {name: read_request(name, value) for name, value in given.items()}
    counts = {
        name: count
        for name, found in gpus.items()
        if (count := count_per_node(name, sum(found.values()), options)) is not None and found
    }
    types = {kind for found in gpus.values() for kind in found if kind}
    if len(set(counts.values())) < 2 and (len(types) < 2 or len(gpus) < 2):
        return []
    requests = " and ".join(f"--{name}={value}" for name, value in given.items() if gpus[name])
    return [f"{requests} contradict each other: keep one, see gpu_request and extra_sbatch"]


def read_request(name: str, value: str) -> Gpus:
    """`gpu:a100:4,lscratch:9` of --gres, or `a100:4` of the others -> {"a100": 4}."""
    return parse_gpus(value if name == "gres" else f"gpu:{value}")


def count_per_node(name: str, count: int, options: dict[str, str]) -> float | None:
    """How many GPUs per node a request makes; None when the script does not say of how many."""
    tasks, total, nodes = (
        parse_number(options.get(option, "")) for option in ("ntasks-per-node", "ntasks", "nodes")
    )
    nodes = nodes or (total and tasks and total / tasks)
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
