"""Ask Slurm whether it would take each rendered job, without submitting any.

Of what it refuses, find the directives without which it would not: sbatch names none of them.
Of what it takes, check what `sbatch --test-only` does not report (measured on 22.05, see DESIGN):
a time over the partition's, GPU requests that contradict each other, directives that sbatch reads
as comments.
"""

import itertools
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

from common.console import printable
from common.errors import UserError
from common.slurm_time import format_time, parse_time
from doctor.cluster import Partition, name_default
from doctor.slurm_text import Gpus, parse_gpus, parse_number
from profiles import Cluster, DoesNotFit, Job, Matrix, plan_job, render_job
from profiles.cluster import choose_words
from submission import (
    call,
    list_overrides,
    parse_options,
    read_directives,
    split_head,
)

GPU_OPTIONS = ("gres", "gpus-per-node", "gpus", "gpus-per-task")
Causes = tuple[tuple[str, ...], ...]  # alternatives, each a set of options that must change
DIALECTS = [["gpus-per-node"], ["gres"], ["gpus"], ["gpus", "gpus-per-node"], ["gpus-per-task"]]
# Without any request: sbatch cannot tell these two apart.
NO_REQUEST = '[] is accepted, where nodes are given whole, or ["srun"], where srun asks for GPUs'
# What to do about each directive that a refusal may be about: sbatch names none of them.
GPU_ADVICE = "gpu_request or gpu_type: see scontrol show node, Gres"
ADVICE = {
    "partition": "partition: write one of {partitions}",
    "constraint": "constraint: write a feature that scontrol show node lists",
    "account": "account: write one that sacctmgr show associations lists, in .local.toml",
    "qos": "qos: write one that sacctmgr show associations lists for you",
    "reservation": "reservation: see scontrol show reservation",
    "hint": "hint: leave it out",
    "threads-per-core": "threads_per_core: leave it out",
    "exclusive": "exclusive: leave it out",
    "signal": 'omit: write ["signal"]; jobs then end at their time limit',
} | dict.fromkeys(GPU_OPTIONS, GPU_ADVICE)
# Of these a site may want less, or none at all: the least, what to write then, what otherwise.
AMOUNTS = {
    "nodes": ("1", "nodes: write how many a job may have at most", 'omit: write ["nodes"]'),
    "ntasks": ("1", "nodes: write how many a job may have at most", 'omit: write ["ntasks"]'),
    "time": ("1", "time: write at most the partition's MaxTime", 'omit: write ["time"]'),
    "mem": ("1M", "mem: write less", "mem: leave it out"),
    "mem-per-gpu": (
        "1M", "mem_per_gpu: write less",
        "mem_per_gpu: leave it out, or write mem instead: it needs GPUs in a directive",
    ),
    "cpus-per-task": (
        "1", "cpus_per_gpu: write less; see scontrol show node, CPUTot",
        'cpus_per_gpu: leave it out, or tell srun alone with omit = ["cpus-per-task"]',
    ),
}  # fmt: skip


class Answer(NamedTuple):
    """Whether sbatch would take a script, and all that it said."""

    taken: bool
    words: tuple[str, ...]


@dataclass
class ProbeResult:
    """What became of one job: `refused`: sbatch's words; the rest are remarks."""

    job: str
    refused: tuple[str, ...] = ()
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.refused and not self.remarks


def probe(
    cluster: Cluster, matrix: Matrix, templates: Environment, partitions: list[Partition]
) -> list[ProbeResult]:
    """Try every job of the matrix that the cluster can run; explain each refusal once."""
    results: list[ProbeResult] = []
    explained: dict[tuple[str, Causes], list[str]] = {}
    shell: dict[str, None] = {}
    for name in matrix.jobs:
        try:
            job = plan_job(name, matrix, cluster)
        except DoesNotFit as misfit:
            results.append(ProbeResult(name, remarks=[f"left out: {misfit}"]))
            continue
        text = render_job(job, cluster, templates, "doctor.py")
        shell |= dict.fromkeys(list_overrides(text))
        answer = ask_sbatch(text, cluster.submit_command)
        result = ProbeResult(name, remarks=check_script(text, partitions))
        if answer.taken:
            result.remarks += [word for word in answer.words if "warning" in word.lower()]
        else:
            result.refused = answer.words
            causes = find_causes(text, cluster.submit_command, [known for said, known in explained])
            key = (answer.words[-1], causes)
            if key not in explained:
                found = explain_refusal(causes, text, job, cluster, partitions)
                found += try_others(causes, job, cluster, templates)
                if not found:  # a site may want what two directives stand in the way of
                    pair = find_pair(text, cluster.submit_command)
                    found = explain_refusal(pair, text, job, cluster, partitions)
                explained[key] = found or ["no directive is the reason; ask the site, and quote it"]
            result.remarks += explained[key]
        results.append(result)
    return [*([ProbeResult("this shell", remarks=list(shell))] if shell else []), *results]


def ask_sbatch(text: str, sbatch: str = "sbatch") -> Answer:
    """Ask sbatch, or the site's wrapper, whether it would take the script; keep all its words.

    Raises SlurmError when it cannot be asked: without an answer nothing can be tried.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.slurm"
        script.write_text(text, encoding="utf-8")
        done = call(sbatch, "--test-only", script.name, folder=script.parent, script=text)
    said = f"{done.stdout}\n{done.stderr}".splitlines()
    prefix = re.compile(r"^(sbatch: )?(error: )?(allocation failure: )?")
    words = tuple(dict.fromkeys(printable(prefix.sub("", line)) for line in said if line.strip()))
    return Answer(done.returncode == 0, words or (f"exit status {done.returncode}, no message",))


def find_causes(text: str, sbatch: str, known: Iterable[Causes] = ()) -> Causes:
    """Find the options without which sbatch would take the job, as alternatives; () if none.

    First those `known` from other scales; then each option alone; then all, less those that may
    stay, which finds any number of causes together.
    """
    options = list_options(text)

    def accepts(without: Iterable[str]) -> bool:
        return ask_sbatch(drop_directives(text, set(without)), sbatch).taken

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
    return ()


def find_pair(text: str, sbatch: str) -> Causes:
    """Find two options without which sbatch would take the job, though not without all of them."""
    for pair in itertools.combinations(list_options(text), 2):
        if ask_sbatch(drop_directives(text, set(pair)), sbatch).taken:
            return (pair,)
    return ()


def list_options(text: str) -> list[str]:
    """The options of a script's directives that a site may refuse."""
    return [option for option in read_directives(text) if option not in ("job-name", "output")]


def explain_refusal(
    causes: Causes, text: str, job: Job, cluster: Cluster, partitions: list[Partition]
) -> list[str]:
    """Say which directives, which fields, and what to write."""
    places = [place.name for place in partitions]
    known = ", ".join(places) or "what sinfo lists"
    values = read_directives(text)
    further = choose_words(cluster.extra_sbatch, job.nodes, job.gpus_per_node)
    extra = dict(parse_options(further))
    remarks = []
    for options in causes:
        lines = [f"--{name}={values[name]}" if values[name] else f"--{name}" for name in options]
        advice = {}
        for name in options:
            if extra.get(name) == values[name]:
                advice["extra_sbatch: leave it out"] = None
            elif name in AMOUNTS:
                least, less, none = AMOUNTS[name]
                others = drop_directives(text, set(options) - {name})
                small = ask_sbatch(set_directive(others, name, least), cluster.submit_command)
                advice[less if small.taken else none] = None
            else:
                said = ADVICE.get(name, f'omit: write ["{name}"]').format(partitions=known)
                there = name == "partition" and values[name] in places
                advice[said + ", or leave it out" * there] = None
        remarks.append(f"accepted without {' and '.join(lines)}; {'; '.join(advice)}")
    return remarks


def try_others(causes: Causes, job: Job, cluster: Cluster, templates: Environment) -> list[str]:
    """Try the other ways of asking for GPUs, and whole nodes; say which is accepted.

    GPUs not where the refusal is about something else, nor where the profile asks on srun only:
    there no directive asks for GPUs because the site wants none.
    """

    def accepts(**changes) -> bool:
        other = cluster.model_copy(update=changes)
        try:
            text = render_job(job, other, templates, "doctor.py")
        except UserError:  # it does not go with another field of the profile
            return False
        return ask_sbatch(text, cluster.submit_command).taken

    remarks = []
    if not cluster.exclusive and accepts(exclusive=True):
        remarks.append("exclusive = true is accepted")
    about_gpus = not causes or any(set(each) & set(GPU_OPTIONS) for each in causes)
    in_directives = cluster.gpu_request and "srun" not in cluster.gpu_request
    if about_gpus and (in_directives or not causes):
        if found := find_dialect(cluster, accepts):
            remarks.append(found)
        elif in_directives and accepts(gpu_request=[]):
            remarks.append(f"gpu_request = {NO_REQUEST}")
    return remarks


def find_dialect(cluster: Cluster, accepts) -> str | None:
    """The first other way of asking for GPUs that is accepted, with or without the type."""
    for gpu_type in dict.fromkeys([cluster.gpu_type, None]):
        for dialect in DIALECTS:
            changed = (dialect, gpu_type) != (cluster.gpu_request, cluster.gpu_type)
            if changed and accepts(gpu_request=dialect, gpu_type=gpu_type):
                words = ", ".join(f'"{word}"' for word in dialect)
                no_type = " without gpu_type" if gpu_type != cluster.gpu_type else ""
                return f"gpu_request = [{words}]{no_type} is accepted"
    return None


def format_results(results: list[ProbeResult]) -> str:
    """Write one line per job; jobs with the same refusal and remarks share one."""
    groups: dict[tuple, list[str]] = {}
    for result in results:
        word = "refused" if result.refused else "ok" if result.ok else "look"
        alone = result.job if word == "ok" else ""
        key = (word, result.refused, tuple(result.remarks), alone)
        groups.setdefault(key, []).append(result.job)
    lines = []
    for (word, refused, remarks, _), jobs in groups.items():
        lines.append(f"{word:<8}{', '.join(jobs)}" + "".join(f": {said}" for said in refused[-1:]))
        if len(refused) > 1:  # a site's own words stand above Slurm's
            lines += [f"          sbatch: {said}" for said in refused]
        lines += [f"          {remark}" for remark in remarks]
    return "".join(f"{line}\n" for line in lines)


# ---- What sbatch reads in a job script -------------------------------------------------


def set_directive(text: str, option: str, value: str | None) -> str:
    """Give the directives that set `option` another value; None comments them out."""
    head, body = split_head(text)
    lines = head.split("\n")
    for place, line in enumerate(lines):
        if option in read_directives(f"{line}\n"):
            lines[place] = "#" if value is None else f"#SBATCH --{option}={value}"
    return "\n".join(lines) + body


def drop_directives(text: str, options: set[str]) -> str:
    """Comment out the directives that set one of `options`."""
    for option in options:
        text = set_directive(text, option, None)
    return text


def check_script(text: str, partitions: list[Partition]) -> list[str]:
    """Check what `sbatch --test-only` says nothing of; returns remarks."""
    head, body = split_head(text)
    remarks = []
    for line in re.findall(r"^(?:\s*#+\s*SBATCH\b.*|#SBATCH\S.*)$", body, re.M):
        remarks.append(f"{line.strip()!r} stands after the first command: sbatch ignores it")
    for line in re.findall(r"^(?:\s+#SBATCH|#+\s+SBATCH|##+SBATCH|#SBATCH[^\s]).*$", head, re.M):
        remarks.append(f"{line.strip()!r} is a comment to sbatch: write '#SBATCH --option'")
    options = read_directives(text)
    remarks += check_partition(options, partitions)
    return remarks + check_time(options, partitions) + check_gpus(options)


def check_partition(options: dict[str, str], partitions: list[Partition]) -> list[str]:
    """A partition that is not open to me, or none while the default one has no GPUs."""
    names = options.get("partition", "").split(",")
    closed = [place for place in partitions if place.name in names and place.closed_by]
    if closed and len(closed) == len(names):
        shut = "; ".join(f"{place.name} is closed to you ({place.closed_by})" for place in closed)
        return [f"{shut}: write another partition, or ask the site"]
    if names != [""] or (default := name_default(partitions)) is None:
        return []
    return [
        f"no --partition, and the default, {default}, has no GPUs: set partition, unless "
        "the site finds one for each job"
    ]


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
