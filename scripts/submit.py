#!/usr/bin/env python3
"""Submit scales of the study, follow them, cancel them.

    python scripts/submit.py baseline 4_gpus         these two
    python scripts/submit.py --all --after --watch   every scale, one at a time, with progress
    python scripts/submit.py --all --dry-run         what would be submitted, and what it may cost
    python scripts/submit.py --estimate --participants 60       time and GPU-hours, as measured
    python scripts/submit.py --all --workload gpt2   every scale of another workload
    python scripts/submit.py --watch                 the jobs submitted so far
    python scripts/submit.py --cancel                end those of them that have not ended

A scale is a job's name (ddp_4g1n), its folder (multi_gpu/4_gpus) or the folder's last part; `*`
works too. Options for sbatch follow `--`, as in: submit.py baseline -- --reservation=workshop

A job runs the sources as they are now, whatever is edited while it waits: they are copied to
experiments/.frozen. With --no-freeze it runs them as they are when it begins, and its log names
those that have changed by then.

With --after a last job writes the tables of what then has run into experiments/tables, however
the others ended. It is small and asks for no GPU where the cluster takes such a job.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from common.arguments import CommandParser
from common.console import notice, run_command
from common.errors import UserError

REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    args = parse_args()
    # Loading the profiles' schema takes a moment, which --help does without.
    from submission import cancel

    try:
        if args.cancel:
            cancel(args.experiments)
            return 0
        return submit_and_watch(args)
    except KeyboardInterrupt:
        print("\nstopped; what was submitted goes on; to end it: scripts/submit.py --cancel",
              file=sys.stderr)  # fmt: skip
        raise


def submit_and_watch(args: argparse.Namespace) -> int:
    """Submit the scales that are asked for, and follow the ledger's jobs with --watch."""
    from profiles import Repository
    from submission import (
        announce,
        ask,
        check_jobs,
        check_memory,
        clean_sources,
        count_gpu_hours,
        keep_queue_options,
        parse_options,
        plan,
        plan_tables,
        prepare_sources,
        read_ledger,
        submit,
    )

    if args.estimate:
        print(estimate(args), end="")
        return 0
    if args.scales and not args.experiments.is_dir():
        raise UserError(f"--experiments {args.experiments}: no such folder; see render.py --to")
    if args.scales:
        repository = Repository(REPO)
        jobs = plan(repository, args)
        profiles = check_jobs(repository, jobs, args.experiments, args.sbatch)
        tables = None
        if args.after and not args.no_tables:
            options = keep_queue_options(parse_options(args.sbatch))
            tables = plan_tables(
                repository, jobs, profiles[jobs[0].name], args.experiments, options
            )
        announce(jobs, tables, print if args.dry_run else notice)
        if args.dry_run:
            lines, notes = check_memory(repository, jobs, profiles)
            print("".join(f"{line}\n" for line in lines), end="")
            print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
            return 0
        ask(count_gpu_hours(jobs, tables), args)
        commands = {
            job: repository.load_profile(profile).submit_command
            for job, profile in profiles.items()
        }
        sources = prepare_sources(
            REPO, jobs, args.experiments, args.sbatch, freeze=not args.no_freeze
        )
        entries = submit(jobs, tables, commands, sources, args)
        clean_sources(args.experiments)
    else:
        entries = read_ledger(args.experiments)
        if not entries:
            raise UserError("nothing submitted yet; name scales, or --all")
    return follow(entries, args) if args.watch else 0


def estimate(args: argparse.Namespace) -> str:
    """Return what the scales take for --participants, from the runs below --study."""
    from common.slurm_time import parse_time
    from profiles import Repository
    from scaling.runs import find_runs
    from scaling.tables import FORMATS, PlannedJob, make_estimate
    from submission import plan

    jobs = plan(Repository(REPO), args)
    planned = [
        PlannedJob(
            job.name, job.workload, job.nodes, job.gpus_per_node, parse_time(job.time),
            job.args.get("epochs"), args.repeat,
        )
        for job in {job.name: job for job in jobs}.values()
    ]  # fmt: skip
    study = args.study or args.experiments
    if not study.is_dir():
        raise UserError(f"--study {study}: no such folder; name that of the runs")
    return FORMATS["text"]([make_estimate(planned, find_runs(study), args.participants)])


def follow(entries: list, args: argparse.Namespace) -> int:
    """Show the jobs' states and progress until all have ended; returns 1 when any has failed."""
    from scaling.read.job_log import read_progress
    from submission import read_our_states, read_states, watch

    read = partial(read_our_states, args.experiments, read_states)
    states = watch(entries, args.experiments, read, read_progress, args.interval)
    return 0 if all(state.state == "COMPLETED" for state in states) else 1


def parse_args() -> argparse.Namespace:
    argv, sbatch = split_at_dashes(sys.argv[1:])
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("scales", nargs="*", metavar="SCALE", help="what to submit")
    add("--all", action="store_true", help="every scale of the workload")
    add("--workload", metavar="W", help="of this workload (default: the matrix's first)")
    add("--max-gpus", type=int, metavar="N", help="only jobs of at most N GPUs in all")
    add("--repeat", type=int, default=1, metavar="N", help="submit each N times (default: 1)")
    add("--after", action="store_true",
        help="one at a time: each job waits for the one before, the tables for all")  # fmt: skip
    add("--no-tables", action="store_true", help="with --after: without the job for the tables")
    add("--no-freeze", action="store_true",
        help="run scripts/ as it is when a job begins, not as it is now")  # fmt: skip
    add("--dry-run", action="store_true", help="submit nothing; show what would be")
    add("--estimate", action="store_true",
        help="submit nothing; show times and GPU-hours, and what they rest on")  # fmt: skip
    add("--participants", type=int, default=1, metavar="N",
        help="with --estimate: for so many people (default: 1)")  # fmt: skip
    add("--study", type=Path, metavar="DIR",
        help="with --estimate: measured runs (default: those beside the job scripts)")  # fmt: skip
    add("--watch", action="store_true", help="follow the jobs to their end")
    add("--interval", type=float, default=10, metavar="S",
        help="seconds between looks (default: 10)")  # fmt: skip
    add("--ask-above", type=float, default=10, metavar="H",
        help="ask before more than H GPU-hours (default: 10)")  # fmt: skip
    add("--yes", action="store_true", help="do not ask")
    add("--cancel", action="store_true", help="cancel the jobs that this command submitted")
    experiments = Path(os.path.relpath(REPO / "experiments"))
    add("--experiments", type=Path, metavar="DIR", default=experiments,
        help="where the job scripts are (default: experiments)")  # fmt: skip
    args = parser.parse_args(argv)
    args.sbatch = sbatch
    if args.cancel and (args.scales or args.all or args.watch or sbatch):
        parser.error("--cancel ends all jobs submitted so far; leave out the rest")
    if sbatch and not (args.scales or args.all):
        parser.error("options for sbatch follow scales, or --all")
    if args.participants < 1:
        parser.error("--participants must be 1 or more")
    if (args.participants > 1 or args.study) and not args.estimate:
        parser.error("--participants and --study are for --estimate")
    args.all = args.all or (args.estimate and not args.scales)
    if args.all:
        args.scales = ["*"]
    if not 0 < args.interval < 1e6:
        parser.error("--interval must be above 0")
    if args.repeat < 1:
        parser.error("--repeat must be 1 or more")
    if not (args.scales or args.watch or args.cancel):
        parser.error("name scales, or --all; --watch and --cancel need none")
    return args


def split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """Split `words` at the first `--`: our own, and sbatch's."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


if __name__ == "__main__":
    run_command(main)
