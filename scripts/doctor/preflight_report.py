"""What became of the preflight jobs: verdicts on each, as a table for people or as plain data."""

import re
from typing import NamedTuple

from doctor.preflight_group import judge_group
from doctor.preflight_job import TIME_LIMIT, Preflight
from doctor.preflight_node import judge_nodes
from doctor.preflight_verdict import FAIL, NOT_RUN, OK, Verdict, ask
from profiles.cluster import Cluster

# bash names the line of the script at which it gave up; Slurm calls the script so.
SCRIPT_LINE = re.compile(r"^\S*slurm_script: line (\d+): (.+)$", re.MULTILINE)
NODE_LINE = re.compile(r"^(?:environment|bash): line \d+: (.+)$", re.MULTILINE)
BANNER = re.compile(r"# ---- (.+?) -+$")
SECTION_TODO = {
    "Software": "mend setup, env or data_dir in the profile",
    "Master discovery": "mend master in the profile",
    "What every node runs": "mend setup, step_setup or container in the profile",
    "Launch": "see srun, srun_args, starter and gpu_request in the profile",
}
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
    stage, todo = find_stage(flight.text, log, tasks, ranks), cause.todo if cause else ""
    words = cause.text if cause else ""
    if not tasks and log is not None and (stop := find_line(flight.text, log)):
        section, words = stop
        stage, todo = f'in "{section}"', SECTION_TODO.get(section, todo)
    found = f"{state}, {stage}"
    if state == "TIMEOUT":
        found += f" (its limit is {TIME_LIMIT})"
    if log is None:
        todo = f"can the nodes see {flight.folder}? scontrol show job {flight.job_id} tells more"
    found = f"{found}: {words}" if words else found
    return Verdict("job", FAIL, found, todo or f"read the end of {flight.log}")


def find_stage(text: str, log: str | None, tasks: list[dict], ranks: list[dict]) -> str:
    """Say where the job stopped, from what it left."""
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
    if "\nResults: " not in f"\n{log}":
        return 'in "Paths"'
    late = "\nNodes: " in f"\n{log}"
    return "at the launch" if late else "in the setup lines, or at the launch"


def find_line(text: str, log: str) -> tuple[str, str] | None:
    """Find the line at which bash gave up: its section of the script, and bash's words."""
    if words := NODE_LINE.findall(log):
        return "What every node runs", words[0]
    lines, sections = text.splitlines(), [""]
    for line in lines:
        banner = BANNER.match(line)
        sections.append(banner[1] if banner else sections[-1])
    stops = [
        (sections[int(number)], f"{words} (line {number}: {lines[int(number) - 1].strip()})")
        for number, words in SCRIPT_LINE.findall(log)
        if 0 < int(number) <= len(lines)
    ]
    # The exit trap's own complaints follow the cause.
    stops = [stop for stop in stops if not stop[0].startswith("At the end")]
    return stops[-1] if stops else None


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
    for verdict in (verdict for verdict in verdicts if verdict.status != NOT_RUN):
        lines.append(f"{verdict.status:<8}{verdict.check:<15} {printable(verdict.found)}".rstrip())
        if verdict.status != OK and verdict.todo:
            lines.append(f"{'':<24}-> {printable(verdict.todo)}")
    lacking: dict[str, list[str]] = {}
    for verdict in (verdict for verdict in verdicts if verdict.status == NOT_RUN):
        lacking.setdefault(verdict.found, []).append(verdict.check)
    for found, checks in lacking.items():
        lines.append(f"{NOT_RUN:<8}{', '.join(checks)}: {printable(found)}")
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
