"""What became of the preflight jobs: verdicts on each, as a table for people or as plain data."""

import re
from typing import NamedTuple

from profiles.cluster import Cluster
from profiles.preflight_group import judge_group
from profiles.preflight_job import TIME_LIMIT, Preflight
from profiles.preflight_node import judge_nodes
from profiles.preflight_verdict import FAIL, NOT_RUN, OK, Verdict, ask

# bash names the line of the script at which it gave up; Slurm calls the script so.
SCRIPT_LINE = re.compile(r"slurm_script: line (\d+): ", re.MULTILINE)
BANNER = re.compile(r"# ---- (.+?) -+$")
PENDING_TODO = {
    "Account": "account: write one that sacctmgr show associations lists, in .local.toml",
    "QOS": "qos: write one that sacctmgr show associations lists for you",
    "Partition": "partition, nodes or time: the partition does not allow so much",
    "Held": "scontrol show job says who holds it; ask the site",
    "Constraints": "constraint: no node has all of these features",
}


class Cause(NamedTuple):
    """What a log says of why its job ended, and what to do."""

    text: str
    todo: str


def judge(
    flight: Preflight,
    cluster: Cluster,
    files: tuple[list, list],
    log: str | None,
    cause: Cause | None,
) -> list[Verdict]:
    """Judge one preflight job from what it wrote; `log` is None where there is none."""
    if flight.problem and not files[0]:
        return [Verdict("job", FAIL, flight.problem, advise(flight))]
    tasks, ranks = files
    asked = ask(flight.job, cluster)
    verdicts = [*judge_nodes(tasks, asked), *judge_group(tasks, ranks, asked)]
    return [judge_job(flight, tasks, ranks, log, cause), *verdicts]


def judge_job(
    flight: Preflight, tasks: list, ranks: list, log: str | None, cause: Cause | None
) -> Verdict:
    """The job as a whole: did it end well, and if not, where did it stop and why."""
    if flight.problem:
        return Verdict("job", FAIL, flight.problem, advise(flight))
    state = flight.state.state
    done = len(ranks) >= flight.job.world_size and not any("in" in rank for rank in ranks)
    if state == "COMPLETED" or (state == "UNKNOWN" and done):
        return Verdict("job", OK, f"ran to its end ({flight.job.name}, {flight.job_id})")
    stage = find_stage(flight.text, log, tasks, ranks)
    found = f"{state}, {stage}"
    if state == "TIMEOUT":
        found += f" (its limit is {TIME_LIMIT})"
    if cause:
        return Verdict("job", FAIL, f"{found}: {cause.text}", cause.todo)
    if log is None:
        todo = "can the nodes see this folder? scontrol show job tells what Slurm says"
        return Verdict("job", FAIL, found, f"{todo}: {flight.folder}")
    return Verdict("job", FAIL, found, f"read the end of {flight.log}")


def find_stage(text: str, log: str | None, tasks: list[dict], ranks: list[dict]) -> str:
    """Say where the job stopped, in the words of its script's sections."""
    if ranks:
        failed = [rank for rank in ranks if rank.get("error")] or ranks
        steps = sorted({rank["in"] for rank in failed if "in" in rank})
        return f"in the ranks ({', '.join(steps)})" if steps else "after the checks"
    if tasks:
        stuck = sorted({task["in"] for task in tasks if "in" in task})
        if stuck:
            return f"while looking at the nodes ({', '.join(stuck)})"
        return "when the launcher started the ranks"
    if log is None:
        return "before its script began: there is no log"
    sections = ["Directives"]
    for line in text.splitlines():
        banner = BANNER.match(line)
        sections.append(banner[1] if banner else sections[-1])
    sections.append("")
    told = [sections[min(int(n), len(sections) - 1)] for n in SCRIPT_LINE.findall(log)]
    told = [name for name in told if name and not name.startswith("At the end")]  # its trap
    if told:
        return f'in the section "{told[-1]}"'
    if "\nResults: " not in f"\n{log}":
        return 'in the section "Paths"'
    late = "\nNodes: " in f"\n{log}"
    return "at the launch" if late else "in the setup lines, or at the launch"


def advise(flight: Preflight) -> str:
    """What to do about a job that never ran."""
    if not flight.job_id:
        return "ask doctor.py --probe which line is refused, and why"
    reason = flight.state.reason
    for word, todo in PENDING_TODO.items():
        if word in reason:
            return todo
    return "a longer --timeout, fewer --gpus, or another partition"


def find_status(verdicts: list[Verdict]) -> int:
    """Exit status: 0 when every check is ok or a warning, else 1."""
    return int(any(verdict.status in (FAIL, NOT_RUN) for verdict in verdicts))


def format_table(flight: Preflight, verdicts: list[Verdict]) -> str:
    """A line a check, and below it what to do."""
    job = f"job {flight.job_id}" if flight.job_id else "no job"
    lines = [f"{flight.size} ({job})"]
    before = ""
    for verdict in verdicts:
        lines.append(f"{verdict.status:<8}{verdict.check:<15} {printable(verdict.found)}".rstrip())
        if verdict.status != OK and verdict.todo not in ("", before):  # once for what follows
            lines.append(f"{'':<24}-> {printable(verdict.todo)}")
        before = verdict.todo
    return "".join(f"{line}\n" for line in lines)


def printable(text: str) -> str:
    """Text of a log or a node, fit for one line of a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)[:400]


def describe(flight: Preflight, verdicts: list[Verdict]) -> dict:
    """The same as plain data."""
    return {
        "nodes": flight.job.nodes,
        "gpus_per_node": flight.job.gpus_per_node,
        "job_id": flight.job_id or None,
        "state": flight.state.state or None,
        "folder": str(flight.folder),
        "checks": [vars(verdict) for verdict in verdicts],
    }
