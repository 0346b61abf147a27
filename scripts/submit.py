#!/usr/bin/env python3
"""Submit scales of the study, follow them, cancel them.

    python scripts/submit.py baseline 4_gpus         these two
    python scripts/submit.py --all --after --watch   every scale, one at a time, with progress
    python scripts/submit.py --all --dry-run         what would be submitted, and what it may cost
    python scripts/submit.py --watch                 the jobs submitted so far
    python scripts/submit.py --cancel                end those of them that have not ended

A scale is a job's name (ddp_4g1n), its folder (multi_gpu/4_gpus) or the folder's last part; `*`
works too. Options for sbatch follow `--`, as in: submit.py baseline -- --reservation=workshop
"""

import argparse
import os
import sys
from pathlib import Path

from profiles.ledger import Entry, append_entry, now_utc, read_ledger
from profiles.matrix import Job
from profiles.repository import Repository
from profiles.slurm import SlurmError, cancel_jobs, limit_to_hours, read_state, submit_script
from profiles.toml_model import ProfileError
from profiles.watching import watch
from scaling.errors import ScalingError
from scaling.progress import read_progress

REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    args = parse_args()
    if args.cancel:
        return cancel(args.experiments)
    if args.scales:
        repository = Repository(REPO)
        jobs = plan(repository, args) * args.repeat
        check_jobs(repository, jobs, args.experiments)
        announce(jobs)
        if args.dry_run:
            return 0
        ask(jobs, args)
        entries = submit(repository, jobs, args)
    else:
        entries = read_ledger(args.experiments)
        if not entries:
            raise ProfileError("nothing submitted yet; name scales, or --all")
    if not args.watch:
        return 0
    states = watch(entries, args.experiments, read_state, read_progress, args.interval)
    return 0 if all(state.state == "COMPLETED" for state in states) else 1


def plan(repository: Repository, args: argparse.Namespace) -> list[Job]:
    """Plan the jobs that are asked for, each once, smallest first as the matrix has them."""
    rows = repository.matrix.jobs
    if args.all:
        args.workload = args.workload or next(iter(repository.matrix.workloads))
    wanted = {
        name
        for scale in args.scales
        for name in repository.select(scale, "the scale", args.workload)
    }
    jobs = []
    for name in (name for name in rows if name in wanted):
        script = repository.script_of(name, args.experiments)
        if not script.is_file() and args.all:  # as render.py --skip leaves it
            print(f"left out: {name}, which has no {script}")
            continue
        if not script.is_file():
            raise ProfileError(f"{script} is missing; run: python render.py --only {name}")
        profile = repository.profile_of(script.read_text(encoding="utf-8"))
        jobs.append(repository.plan(name, profile))
    jobs = [job for job in jobs if args.max_gpus is None or job.world_size <= args.max_gpus]
    if not jobs:
        raise ProfileError("no scale is left; see --workload and --max-gpus")
    return jobs


def check_jobs(repository: Repository, jobs: list[Job], experiments: Path) -> None:
    """Refuse stale scripts; make log/, without which a job dies with no log; look for the data."""
    for job in jobs:
        script = experiments / job.script
        text = script.read_text(encoding="utf-8")
        profile = repository.profile_of(text)
        if text != repository.render(job, profile):
            raise ProfileError(
                f"{script} is not what its template and profile make; see: python render.py "
                f"--diff --only {job.name}, or submit it yourself with sbatch"
            )
        (script.parent / "log").mkdir(exist_ok=True)
        data = os.environ.get("DATA_DIR") or repository.load_profile(profile).data_dir.get(
            job.workload
        )
        if data and not Path(data).is_dir():
            print(f"warning: {data} is not visible from this machine; is it from the nodes?")
            return


def announce(jobs: list[Job]) -> None:
    """Print what is asked for: a line a job, and the GPU-hours if each runs to its limit."""
    for job in jobs:
        hours = job.world_size * limit_to_hours(job.time)
        size = f"{job.nodes} nodes x {job.gpus_per_node} GPUs"
        print(f"{job.name:<12} {size:<18} {job.time}  {hours:>6.1f} GPU-hours")
    print(f"{len(jobs)} jobs, at most {count_gpu_hours(jobs):.1f} GPU-hours")


def count_gpu_hours(jobs: list[Job]) -> float:
    """GPU-hours of all jobs if each runs to its time limit."""
    return sum(job.world_size * limit_to_hours(job.time) for job in jobs)


def ask(jobs: list[Job], args: argparse.Namespace) -> None:
    """Ask before submitting more than --ask-above GPU-hours, unless --yes."""
    if args.yes or count_gpu_hours(jobs) <= args.ask_above:
        return
    question = f"More than {args.ask_above:g} GPU-hours: submit? [y/N] "
    if not sys.stdin.isatty() or input(question).strip().lower() not in ("y", "yes"):
        raise ProfileError("not submitted; say --yes, or fewer scales, or a higher --ask-above")


def submit(repository: Repository, jobs: list[Job], args: argparse.Namespace) -> list[Entry]:
    """Submit `jobs` in order, with --after each behind the one before it; returns the entries."""
    entries: list[Entry] = []
    for job in jobs:
        options = list(args.sbatch)
        if args.after and entries:
            options.append(f"--dependency=afterany:{entries[-1].job_id}")
        job_id = submit_script(args.experiments / job.script, options)
        entries.append(Entry(job_id, job.name, job.folder, job.world_size, now_utc()))
        append_entry(args.experiments, entries[-1])
        print(f"submitted {job.name} as job {job_id}")
    return entries


def cancel(experiments: Path) -> int:
    """Cancel the jobs of the ledger that have not ended, and no others."""
    active = [e for e in read_ledger(experiments) if read_state(e.job_id).is_active]
    cancel_jobs([entry.job_id for entry in active])
    print(f"cancelled {len(active)} jobs" + "".join(f" {entry.job_id}" for entry in active))
    return 0


def parse_args() -> argparse.Namespace:
    argv, sbatch = split_at_dashes(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("scales", nargs="*", metavar="SCALE", help="what to submit")
    add("--all", action="store_true", help="every scale of the workload")
    add("--workload", metavar="W", help="the jobs of this workload (--all: tinyimagenet)")
    add("--max-gpus", type=int, metavar="N", help="only jobs of at most N GPUs in all")
    add("--repeat", type=int, default=1, metavar="N", help="submit each N times (default: 1)")
    add("--after", action="store_true", help="one at a time: each job waits for the one before")
    add("--dry-run", action="store_true", help="submit nothing; show what would be")
    add("--watch", action="store_true", help="follow the jobs to their end")
    add(
        "--interval",
        type=float,
        default=10,
        metavar="S",
        help="seconds between looks (default: 10)",
    )
    add("--ask-above", type=float, default=10, metavar="H",
        help="ask before more than H GPU-hours (default: 10)")  # fmt: skip
    add("--yes", action="store_true", help="do not ask")
    add("--cancel", action="store_true", help="cancel the jobs that this command submitted")
    experiments = Path(os.path.relpath(REPO / "experiments"))
    add("--experiments", type=Path, metavar="DIR", default=experiments,
        help="where the job scripts are (default: experiments)")  # fmt: skip
    args = parser.parse_args(argv)
    args.sbatch = sbatch
    if args.all:
        args.scales.append("*")
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
    try:
        sys.exit(main())
    except (ProfileError, ScalingError, SlurmError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit("\nstopped watching; to end jobs that still run: scripts/submit.py --cancel")
