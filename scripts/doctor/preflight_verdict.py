"""What a check of a preflight job says, and how the findings of several nodes become one.

A fact that is missing makes a verdict `not run`: it is never taken for ok.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from profiles.cluster import Cluster
from profiles.matrix import Job

OK, WARN, FAIL, NOT_RUN = "ok", "warn", "FAIL", "not run"
SEE_JOB = "see the job's own line"


@dataclass(frozen=True)
class Asked:
    """What the job asked for."""

    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    cpus_per_task: int | None
    accelerator: str

    @property
    def world_size(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Verdict:
    """One check: its status, what was found, and what to do unless it is ok."""

    check: str
    status: str
    found: str
    todo: str = ""


Finding = tuple[str, str, str]  # status, found, what to do: of one node


def ask(job: Job, cluster: Cluster) -> Asked:
    """What `job` asks for on `cluster`."""
    return Asked(
        job.nodes, job.gpus_per_node, job.tasks_per_node, job.cpus_per_task, cluster.accelerator
    )


def merge(check: str, findings: Iterable[tuple[str, Finding]], total: int) -> Verdict:
    """Make one verdict of the nodes' findings: the worst counts, equal ones are told once."""
    findings = list(findings)
    nodes = {host for host, _ in findings}
    if len(nodes) < total:
        lacking = f"{total - len(nodes)} of {total} nodes" if nodes else "no node"
        told = "told nothing" if nodes else "told anything"
        note = f"{lacking} {told}"
        findings.append(("", (NOT_RUN, note, SEE_JOB)))
    order = [OK, WARN, NOT_RUN, FAIL]
    worst = max((status for _, (status, *_) in findings), key=order.index)
    shown: dict[Finding, dict[str, None]] = {}
    for host, finding in findings:
        if finding[0] == worst:
            shown.setdefault(finding, {})[host] = None
    parts = []
    for (_, found, _), hosts in shown.items():
        everywhere = len(hosts) == total or not any(hosts)
        parts.append(found if everywhere else f"{', '.join(hosts)}: {found}")
    todo = dict.fromkeys(todo for _, _, todo in shown if todo)
    return Verdict(check, worst, "; ".join(parts), "; ".join(todo))


def judge_fact(
    task: dict, fact: str, judge: Callable[[dict, Asked], Finding], asked: Asked
) -> Finding:
    """Judge one fact of one task; what is missing or broke off is `not run`."""
    found = task.get(fact)
    if not isinstance(found, dict):
        return lack_fact(task, fact)
    if "error" in found and fact in ("log", "cpus", "shm"):
        return NOT_RUN, found["error"], "look at the job's log"
    return judge(found, asked)


def lack_fact(task: dict, fact: str) -> Finding:
    """What to say of a fact that a task has not written."""
    stuck = task.get("in")
    if stuck == fact:
        todo = "this step hung or was killed: try it by hand on that node"
        return FAIL, f"looking at {fact} did not end", todo
    where = f" (stopped in: {stuck})" if stuck else ""
    return NOT_RUN, f"was not looked at{where}", SEE_JOB
