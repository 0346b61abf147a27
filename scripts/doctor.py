#!/usr/bin/env python
"""Describe a Slurm cluster, draft its profile, ask it whether it takes the jobs, try two.

Run it on a login node. Away from the cluster, save there what these commands print:
scontrol show config, scontrol show partition, scontrol show node, sinfo (any format with a
header), and, if you like, sacctmgr show associations, ip -brief address and env, as
scontrol_show_config.txt, …, sinfo.txt, sacctmgr.txt, ip_address.txt and environment.txt.
"""

import argparse
import json
import os
import re
import signal
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def main() -> int:
    arguments = parse_arguments()
    # Loading the profiles' schema takes a moment, which --help does without.
    from doctor.detect_cluster import describe, detect
    from doctor.detect_report import report
    from doctor.detect_sources import DetectError, read_folder, run_commands
    from profiles.toml_model import ProfileError
    from submission.slurm import SlurmError

    try:
        if arguments.submit is not None:
            return fly_preflight(arguments)
        folder = arguments.folder
        facts = detect(read_folder(folder) if folder else run_commands())
        if arguments.probe is not None:
            return probe_profile(facts, arguments.probe)
        if arguments.write is not None:
            write_profile(facts, arguments.write)
        elif arguments.json:
            print(json.dumps(describe(facts), indent=2))
        else:
            print(report(facts), end="")
            again = f" --from {folder}" if folder else ""
            print(f"\nNext: python scripts/doctor.py{again} --write NAME, for a draft profile")
    except (DetectError, ProfileError, SlurmError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def write_profile(facts, name: str) -> None:
    """Write the draft profile NAME.toml and say what to do with it."""
    from doctor.detect_draft import write_draft
    from doctor.detect_text import count_seconds, parse_time
    from doctor.detect_toml import save_draft
    from profiles.matrix import load_matrix

    path = Path(name) if name.endswith(".toml") else REPO / f"templates/clusters/{name}.toml"
    matrix = load_matrix(REPO / "experiments/matrix.toml")
    times = [job.time for job in matrix.jobs.values()]
    longest = max(times, key=lambda time: count_seconds(parse_time(time)))
    save_draft(write_draft(facts, path.stem, longest), path)
    print(f"{path}: a draft; read it and fill in what stands last")
    print(f"Next: python scripts/doctor.py --probe {name}, on the login node")


def probe_profile(facts, name: str) -> int:
    """Ask sbatch about every job of the profile; returns 1 when it refuses one."""
    from doctor.detect_probe import format_verdicts, probe
    from doctor.detect_script import list_overrides
    from profiles.cluster import load_cluster
    from profiles.matrix import load_matrix
    from profiles.render_job import make_environment

    cluster = load_cluster(name, REPO / "templates/clusters")
    matrix = load_matrix(REPO / "experiments/matrix.toml")
    templates = make_environment(REPO / "templates")
    verdicts = probe(cluster, matrix, templates, facts.partitions)
    for line in list_overrides():
        print(f"look    {line}")
    print(format_verdicts(verdicts), end="")
    refused = sum(verdict.refused is not None for verdict in verdicts)
    if refused:
        print(f"Next: change {name} as the remarks say, then probe again")
        return 1
    print(f"Next: python render.py --cluster {name}")
    return 0


def fly_preflight(arguments: argparse.Namespace) -> int:
    """Run the preflight jobs of a profile and print what they found; returns 1 on any FAIL."""
    from doctor.detect_script import list_overrides
    from doctor.preflight_flight import fly, settle
    from doctor.preflight_report import describe, find_status, format_table, judge

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: its jobs are cancelled
    out = sys.stderr if arguments.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    cluster, flights = prepare_flights(arguments, say)
    for line in list_overrides():
        say(f"look    {line}")
    fly(flights, REPO, arguments.timeout * 60, say)
    shown, status = [], 0
    for flight in flights:
        files, (log, cause) = settle(flight), read_log(flight.log)
        verdicts = judge(flight, cluster, files, log, cause)
        status |= find_status(verdicts)
        shown.append(describe(flight, verdicts))
        say(f"\n{format_table(flight, verdicts)}".rstrip("\n"))
    if arguments.json:
        print(json.dumps({"profile": cluster.name, "status": status, "jobs": shown}, indent=2))
    again = "mend what is not ok, then run this again"
    say(f"\nNext: {again if status else 'python scripts/submit.py baseline --watch'}")
    return status


def prepare_flights(arguments: argparse.Namespace, say) -> tuple:
    """Load the profile and write its preflight jobs; returns (cluster, jobs)."""
    from doctor.preflight_job import prepare
    from profiles.matrix import DoesNotFit
    from profiles.repository import Repository

    repository = Repository(REPO)
    cluster = repository.load_profile(arguments.submit or repository.matrix.cluster)
    flights, misfit = [], None
    for nodes in (1, 2):
        try:
            flights.append(
                prepare(nodes, repository.matrix, cluster, repository.templates,
                        arguments.to, arguments.gpus)
            )  # fmt: skip
        except DoesNotFit as error:
            say(f"left out: {str(error).removesuffix('; edit experiments/matrix.toml')}")
            misfit = error
    if not flights:
        raise misfit
    return cluster, flights


def read_log(path: Path) -> tuple:
    """Read a job's log: its end as text, and why the job failed; (None, None) where none is."""
    from common.errors import UserError
    from doctor.preflight_report import Cause
    from scaling.read.slurm_log import read_log_evidence

    try:
        cause, _ = read_log_evidence(path)
        text = path.read_text(encoding="utf-8", errors="replace")[-(1 << 20) :]
    except (OSError, UserError):
        return None, None
    return text, Cause(cause.text, cause.hint) if cause else None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    text = "with --submit: cancel what has not ended after so many minutes (default: 30)"
    add("--timeout", type=float, default=30, metavar="MIN", help=text)
    text = "with --submit: GPUs a node (default: the most that a job of the matrix takes)"
    add("--gpus", type=int, metavar="N", help=text)
    text = "with --submit: write the jobs to DIR, which all nodes must see (default: preflight)"
    add("--to", type=Path, metavar="DIR", default=Path(os.path.relpath(REPO / "preflight")),
        help=text)  # fmt: skip
    arguments = parser.parse_args()
    asks = "--probe" if arguments.probe is not None else "--submit"
    asked = arguments.probe is not None or arguments.submit is not None
    if asked and arguments.folder is not None:
        parser.error(f"{asks} asks the Slurm of this login node: leave out --from")
    if arguments.json and (arguments.probe is not None or arguments.write is not None):
        other = "--probe" if arguments.probe is not None else "--write"
        parser.error(f"--json: not allowed with argument {other}")
    if not 0 < arguments.timeout < 1e6 or (arguments.gpus is not None and arguments.gpus < 1):
        parser.error("--timeout and --gpus must be above 0")
    name = arguments.write
    if name is not None and not NAME.fullmatch(Path(name).stem if name.endswith(".toml") else name):
        parser.error(f"--write {name!r}: use letters, digits, '.', '_' and '-'")
    return arguments


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    sys.exit(main())
