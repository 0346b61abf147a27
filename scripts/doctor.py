#!/usr/bin/env python
"""Describe a Slurm cluster, draft its profile, ask it whether it takes the jobs, try two.

Run it on a login node. To use it elsewhere (--from DIR), save on the login node what exactly
these commands print; other forms of them are refused, and each may be missing:

    scontrol show config > scontrol_show_config.txt
    scontrol show partition > scontrol_show_partition.txt
    scontrol show node > scontrol_show_node.txt
    sinfo --exact --format='%P|%a|%l|%L|%s|%h|%D|%T|%c|%z|%m|%G|%f|%N' > sinfo.txt
    sacctmgr --parsable2 show associations user="$USER" \\
        format=Cluster,Account,Partition,QOS > sacctmgr.txt
    ip -brief address > ip_address.txt
    env > environment.txt

    python scripts/doctor.py                     what this cluster is
    python scripts/doctor.py --write NAME        a draft of its profile
    python scripts/doctor.py --probe NAME        does sbatch take each job?
    python scripts/doctor.py --submit NAME       one job of one node and one of two
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from common.arguments import CommandParser
from common.console import notice, run_command
from common.errors import UserError
from common.signals import catch_signals
from common.slurm_time import parse_time

REPO = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def main() -> int:
    arguments = parse_arguments()
    if arguments.submit is not None:
        return run_preflight(arguments)
    # Loading the profiles' schema takes a moment, which --help does without.
    from doctor import describe_cluster, detect, read_folder, report_cluster, run_commands

    folder = arguments.folder
    if arguments.probe is not None:
        return probe_profile(arguments.probe)
    facts = detect(read_folder(folder) if folder else run_commands())
    if arguments.write is not None:
        write_profile(facts, arguments.write)
    elif arguments.json:
        print(json.dumps(describe_cluster(facts), indent=2))
    else:
        print(report_cluster(facts), end="")
        again = f" --from {folder}" if folder else ""
        notice(f"\nNext: python scripts/doctor.py{again} --write NAME, for a draft profile")
    return 0


def write_profile(facts, name: str) -> None:
    """Write the draft profile NAME.toml and say what to do with it."""
    from doctor import save_draft, write_draft
    from profiles import load_matrix

    path = Path(name) if name.endswith(".toml") else REPO / f"templates/clusters/{name}.toml"
    matrix = load_matrix(REPO / "experiments/matrix.toml")
    longest = max((job.time for job in matrix.jobs.values()), key=parse_time)
    save_draft(write_draft(facts, path.stem, longest), path)
    print(f"{path}: a draft; read it and fill in what stands last")
    notice(f"Next: python scripts/doctor.py --probe {name}, on the login node")


def probe_profile(name: str) -> int:
    """Ask sbatch about every job of the profile; returns 1 when it refuses one."""
    from doctor import detect, format_results, probe, run_commands
    from profiles import load_cluster, load_matrix, make_environment

    cluster = load_cluster(name, REPO / "templates/clusters")
    matrix = load_matrix(REPO / "experiments/matrix.toml")
    named = cluster.clusters if isinstance(cluster.clusters, str) else ""
    places = detect(run_commands(named)).partitions
    results = probe(cluster, matrix, make_environment(REPO / "templates"), places)
    print(format_results(results), end="")
    if any(result.refused for result in results):
        notice(f"Next: change {name} as the remarks say, then probe again")
        return 1
    notice(f"Next: python render.py --cluster {name}")
    return 0


def run_preflight(arguments: argparse.Namespace) -> int:
    """Run the preflight jobs of a profile and print what they found; returns 1 on any FAIL."""
    from doctor import (
        collect_files,
        describe_preflight,
        find_status,
        format_table,
        judge_preflight,
        run_preflights,
    )
    from submission import list_overrides

    catch_signals()  # whatever stops this, its jobs are cancelled
    out = sys.stderr if arguments.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    cluster, preflights = prepare_preflights(arguments, say)
    for line in list_overrides(preflights[0].text):
        say(f"look    {line}")
    run_preflights(preflights, REPO, arguments.timeout * 60, say)
    shown, status = [], 0
    for preflight in preflights:
        files, (log, cause) = collect_files(preflight), read_log(preflight.log)
        verdicts = judge_preflight(preflight, cluster, files, log, cause)
        status |= find_status(verdicts)
        shown.append(describe_preflight(preflight, verdicts, files[1]))
        say(f"\n{format_table(preflight, verdicts, files[1])}".rstrip("\n"))
    if arguments.json:
        print(json.dumps({"profile": cluster.name, "status": status, "jobs": shown}, indent=2))
    again = "fix what is not ok, then run this again"
    say(f"\nNext: {again if status else 'python scripts/submit.py baseline --watch'}")
    return status


def prepare_preflights(arguments: argparse.Namespace, say) -> tuple:
    """Load the profile and write its preflight jobs; returns (cluster, jobs)."""
    from doctor import prepare_preflight
    from profiles import DoesNotFit, Repository

    repository = Repository(REPO)
    cluster = repository.load_profile(arguments.submit or repository.matrix.cluster)
    preflights, misfit = [], None
    for nodes in (1, 2):
        try:
            preflights.append(
                prepare_preflight(nodes, repository.matrix, cluster, repository.templates,
                                  arguments.to, arguments.gpus)
            )  # fmt: skip
        except DoesNotFit as error:
            say(f"left out: {str(error).removesuffix('; edit experiments/matrix.toml')}")
            misfit = error
    if not preflights:
        raise misfit
    return cluster, preflights


def read_log(path: Path) -> tuple:
    """Read a job's log: its end as text, and why the job failed; (None, None) without a log."""
    from doctor import Cause
    from scaling.read.job_log import read_job_log

    try:
        cause = read_job_log(path).last_attempt.cause
        text = path.read_text(encoding="utf-8", errors="replace")[-(1 << 20) :]
    except (OSError, UserError):
        return None, None
    return text, Cause(cause.text, cause.hint) if cause else None


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    text = "read saved outputs from DIR; any may be missing"
    add("--from", dest="folder", metavar="DIR", type=Path, help=text)
    text = "print all that was found as JSON"
    add("--json", action="store_true", help=text)
    what = parser.add_mutually_exclusive_group()
    text = "write a draft profile: templates/clusters/NAME.toml, or a file that ends in .toml"
    what.add_argument("--write", metavar="NAME", help=text)
    text = "ask sbatch (--test-only: nothing is submitted) about every job of this profile"
    what.add_argument("--probe", metavar="NAME|FILE", help=text)
    text = "run one job of one node and one of two, about a minute each, and show what works there"
    what.add_argument(
        "--submit", nargs="?", const="", metavar="NAME|FILE",
        help=f"{text} (default: the matrix's cluster)",
    )  # fmt: skip
    text = "with --submit: cancel jobs that have not ended after MIN minutes (default: 30)"
    add("--timeout", type=float, metavar="MIN", help=text)
    text = "with --submit: GPUs per node (default: the most that a job of the matrix takes)"
    add("--gpus", type=int, metavar="N", help=text)
    text = "with --submit: write the jobs to DIR, which all nodes must see (default: preflight)"
    add("--to", type=Path, metavar="DIR", help=text)
    arguments = parser.parse_args()
    asks = "--probe" if arguments.probe is not None else "--submit"
    asked = arguments.probe is not None or arguments.submit is not None
    if asked and arguments.folder is not None:
        parser.error(f"{asks} asks the Slurm of this login node: leave out --from")
    if arguments.json and (arguments.probe is not None or arguments.write is not None):
        other = "--probe" if arguments.probe is not None else "--write"
        parser.error(f"--json: not allowed with argument {other}")
    for option in ("timeout", "gpus", "to"):
        if getattr(arguments, option) is not None and arguments.submit is None:
            parser.error(f"--{option} is for --submit")
    if arguments.timeout is None:
        arguments.timeout = 30
    if arguments.to is None:
        arguments.to = Path(os.path.relpath(REPO / "preflight"))
    if not 0 < arguments.timeout < 1e6 or (arguments.gpus is not None and arguments.gpus < 1):
        parser.error("--timeout and --gpus must be above 0")
    name = arguments.write
    if name is not None and not NAME.fullmatch(Path(name).stem if name.endswith(".toml") else name):
        parser.error(f"--write {name!r}: use letters, digits, '.', '_' and '-'")
    return arguments


if __name__ == "__main__":
    run_command(main)
