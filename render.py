#!/usr/bin/env python3
"""Render the job scripts: one cluster's profile x the matrix of jobs -> experiments/**/*.slurm.

Jobs that are too large for the cluster are left out, with the reason.

    python render.py                                every job, for the matrix's cluster
    python render.py --cluster raven                the same for templates/clusters/raven.toml
    python render.py --cluster virtual --to DIR     into DIR instead of experiments/
    python render.py --check                        do the files still say what they should?
"""

import argparse
import json
import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent
sys.path.insert(0, str(REPO / "scripts"))

from common.arguments import CommandParser  # noqa: E402 - scripts/ must be on the path first
from common.console import run_command  # noqa: E402


def main() -> int:
    args = parse_args()
    # Loading the profiles' schema takes a moment, which --help does without.
    from profiles import (
        Cluster,
        Repository,
        check_files,
        plan_jobs,
        print_jobs,
        remove_script,
        write_jobs,
    )

    if args.schema:
        print(json.dumps(Cluster.model_json_schema(), indent=2))
        return 0
    repository = Repository(REPO)
    names = repository.select(args.only, workload=args.workload)
    if args.check or args.diff:
        check_files(names, repository, args.to, args.cluster, must_hold=args.check)
        return 0
    profile = args.cluster or repository.matrix.cluster
    jobs, misfits = plan_jobs(names, repository, profile)
    if misfits and not args.list and (not jobs or set(args.only).isdisjoint("*?[")):
        raise next(iter(misfits.values()))  # asked for by its name
    if args.list:
        print_jobs(jobs, repository.load_profile(profile), args.to)
    else:
        write_jobs(jobs, repository, profile, args.to)
    for name, misfit in misfits.items():
        print(f'left out: job "{name}": {misfit.reason}')
        if not args.list:
            remove_script(repository.script_of(name, args.to))
    return 0


def parse_args() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "--cluster",
        metavar="NAME|FILE",
        help="profile: a name in templates/clusters, or a .toml file (default: matrix.toml's)",
    )
    parser.add_argument(
        "--only",
        default="*",
        metavar="GLOB",
        help="only jobs of such a name or folder (default: *)",
    )
    parser.add_argument("--workload", metavar="NAME", help="only jobs of this workload")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        default=Path(os.path.relpath(REPO / "experiments")),
        help="folder to write into (default: experiments)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="write nothing; fail when a file is stale, with a diff"
    )
    what.add_argument("--diff", action="store_true", help="write nothing; show what would change")
    what.add_argument("--list", action="store_true", help="write nothing; list the jobs")
    what.add_argument("--schema", action="store_true", help="print the profiles' JSON Schema")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
