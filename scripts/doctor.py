#!/usr/bin/env python
"""Describe a Slurm cluster, draft its profile, and ask it whether it takes the jobs.

Run it on a login node. Away from the cluster, save there what these commands print:
scontrol show config, scontrol show partition, scontrol show node, sinfo (any format with a
header), and, if you like, sacctmgr show associations, ip -brief address and env, as
scontrol_show_config.txt, …, sinfo.txt, sacctmgr.txt, ip_address.txt and environment.txt.
"""

import argparse
import json
import re
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def main() -> int:
    arguments = parse_arguments()
    # Loading the profiles' schema takes a moment, which --help does without.
    from profiles.detect_cluster import describe, detect
    from profiles.detect_report import report
    from profiles.detect_sources import DetectError, read_folder, run_commands
    from profiles.toml_model import ProfileError

    try:
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
    except (DetectError, ProfileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write_profile(facts, name: str) -> None:
    """Write the draft profile NAME.toml and say what to do with it."""
    from profiles.detect_draft import write_draft
    from profiles.detect_text import count_seconds, parse_time
    from profiles.detect_toml import save_draft
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
    from profiles.cluster import load_cluster
    from profiles.detect_probe import format_verdicts, list_overrides, probe
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "read saved outputs from DIR; any may be missing"
    add("--from", dest="folder", metavar="DIR", type=Path, help=text)
    what = parser.add_mutually_exclusive_group()
    text = "print all that was found as JSON"
    what.add_argument("--json", action="store_true", help=text)
    text = "write a draft profile: templates/clusters/NAME.toml, or a file that ends in .toml"
    what.add_argument("--write", metavar="NAME", help=text)
    text = "ask sbatch (--test-only: nothing is submitted) about every job of this profile"
    what.add_argument("--probe", metavar="NAME|FILE", help=text)
    arguments = parser.parse_args()
    if arguments.probe is not None and arguments.folder is not None:
        parser.error("--probe asks the Slurm of this login node: leave out --from")
    name = arguments.write
    if name is not None and not NAME.fullmatch(Path(name).stem if name.endswith(".toml") else name):
        parser.error(f"--write {name!r}: use letters, digits, '.', '_' and '-'")
    return arguments


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    sys.exit(main())
