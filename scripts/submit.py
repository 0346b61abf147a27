#!/usr/bin/env python3
"""Submit scales of the study, follow them, cancel them.

    python scripts/submit.py baseline 4_gpus         these two
    python scripts/submit.py --all --after --watch   every scale, one at a time, with progress
    python scripts/submit.py --all --dry-run         what would be submitted, and what it may cost
    python scripts/submit.py --all --workload gpt2   every scale of another workload
    python scripts/submit.py --watch                 the jobs submitted so far
    python scripts/submit.py --cancel                end those of them that have not ended

A scale is a job's name (ddp_4g1n), its folder (multi_gpu/4_gpus) or the folder's last part; `*`
works too. Options for sbatch follow `--`, as in: submit.py baseline -- --reservation=workshop

With --after a last job writes the tables of what then has run into experiments/tables, however
the others ended. It is small and asks for no GPU where the cluster takes such a job.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from profiles.data_check import check_data
from profiles.ledger import Entry, append_entry, now_utc, read_ledger
from profiles.matrix import Job
from profiles.repository import Repository
from profiles.scales import plan_scales
from profiles.slurm import SlurmError, cancel_jobs, limit_to_hours, read_states, submit_script
from profiles.tables_job import (
    FOLDER,
    NAME,
    SCRIPT,
    TIME,
    TablesJob,
    keep_queue_options,
    plan_tables,
)
from profiles.toml_model import ProfileError
from profiles.watching import read_our_states, watch
from scaling.errors import ScalingError
from scaling.files import write_whole
from scaling.progress import read_progress

REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    args = parse_args()
    if args.cancel:
        return cancel(args.experiments)
    if args.scales:
        repository = Repository(REPO)
        jobs = plan(repository, args)
        profile = check_jobs(repository, jobs, args.experiments)
        tables = None
        if args.after and not args.no_tables:
            options = keep_queue_options(args.sbatch)
            tables = plan_tables(repository, jobs, profile, args.experiments, options)
        announce(jobs, tables)
        if args.dry_run:
            return 0
        ask(count_gpu_hours(jobs, tables), args)
        entries = submit(jobs, tables, args)
    else:
        entries = read_ledger(args.experiments)
        if not entries:
            raise ProfileError("nothing submitted yet; name scales, or --all")
    if not args.watch:
        return 0
    read = partial(read_our_states, args.experiments, read_states)
    states = watch(entries, args.experiments, read, read_progress, args.interval)
    return 0 if all(state.state == "COMPLETED" for state in states) else 1


def plan(repository: Repository, args: argparse.Namespace) -> list[Job]:
    """Plan the jobs that are asked for, smallest first as the matrix has them, --repeat times."""
    jobs, left_out = plan_scales(
        repository, args.scales, args.experiments, args.workload, every=args.all
    )
    for why in left_out:
        print(f"left out: {why}")
    jobs = [job for job in jobs if args.max_gpus is None or job.world_size <= args.max_gpus]
    if not jobs:
        raise ProfileError("no scale is left; see --workload and --max-gpus")
    return jobs * args.repeat


def check_jobs(repository: Repository, jobs: list[Job], experiments: Path) -> str:
    """Refuse stale scripts; make log/, without which a job dies with no log; look for the data.

    Returns the profile of the first job.
    """
    profiles = []
    for job in jobs:
        script = experiments / job.script
        text = script.read_text(encoding="utf-8")
        profiles.append(repository.profile_of(text))
        if text != repository.render(job, profiles[-1]):
            raise ProfileError(
                f"{script} is not what its template and profile make; see: python render.py "
                f"--diff --only {job.name}, or submit it yourself with sbatch"
            )
    for job in jobs:
        make_log_folder(experiments / job.folder)
    for warning in check_data(repository, zip(jobs, profiles, strict=True)):
        print(f"warning: {warning}")
    return profiles[0]


def make_log_folder(folder: Path) -> None:
    """Make log/ in a job's folder; ProfileError when that cannot be, or cannot be written to."""
    log = folder / "log"
    try:
        log.mkdir(exist_ok=True)
    except OSError as error:
        raise ProfileError(
            f"{log} cannot be made: {error.strerror}; a job without it dies without a word"
        ) from None
    if not os.access(log, os.W_OK | os.X_OK):
        raise ProfileError(f"{log} is closed to you: its job could write no log; see ls -ld {log}")


def announce(jobs: list[Job], tables: TablesJob | None) -> None:
    """Print what is asked for: a line a job, and the GPU-hours if each runs to its limit."""
    for job in jobs:
        hours = job.world_size * limit_to_hours(job.time)
        size = f"{job.nodes} nodes x {job.gpus_per_node} GPUs"
        print(f"{job.name:<18} {size:<18} {job.time}  {hours:>6.1f} GPU-hours")
    if tables:
        print(f"{NAME:<18} {'1 node x 1 CPU':<18} {TIME}  {tables.remark}")
    and_tables = " and the tables" if tables else ""
    print(f"{count_jobs(jobs)}{and_tables}, at most {count_gpu_hours(jobs, tables):.1f} GPU-hours")


def count_jobs(jobs: list) -> str:
    return f"{len(jobs)} job" if len(jobs) == 1 else f"{len(jobs)} jobs"


def count_gpu_hours(jobs: list[Job], tables: TablesJob | None) -> float:
    """GPU-hours of all jobs if each runs to its time limit."""
    hours = sum(job.world_size * limit_to_hours(job.time) for job in jobs)
    return hours + (tables.gpus * limit_to_hours(TIME) if tables else 0)


def ask(gpu_hours: float, args: argparse.Namespace) -> None:
    """Ask before submitting more than --ask-above GPU-hours, unless --yes."""
    if args.yes or gpu_hours <= args.ask_above:
        return
    question = f"More than {args.ask_above:g} GPU-hours: submit? [y/N] "
    try:
        answer = input(question) if sys.stdin.isatty() else ""
    except EOFError:  # Ctrl-D
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise ProfileError("not submitted; say --yes, or fewer scales, or a higher --ask-above")


def submit(jobs: list[Job], tables: TablesJob | None, args: argparse.Namespace) -> list[Entry]:
    """Submit `jobs` in order, with --after each behind the one before it, the tables behind all.

    Returns their entries in the ledger. A refusal in the middle says what was submitted before.
    """
    entries: list[Entry] = []
    try:
        for job in jobs:
            options = list(args.sbatch)
            if args.after and entries:
                options.append(f"--dependency=afterany:{entries[-1].job_id}")
            job_id = submit_script(args.experiments / job.script, options)
            entries.append(Entry(job_id, job.name, job.folder, job.world_size, now_utc()))
            record(args.experiments, entries[-1])
        if tables:
            entries.append(submit_tables(tables, entries, args))
            record(args.experiments, entries[-1])
    except SlurmError as error:
        if not entries:
            raise
        raise SlurmError(
            f"{error}; submitted before that and not cancelled: "
            f"{', '.join(entry.job_id for entry in entries)} (scripts/submit.py --cancel ends them)"
        ) from None
    return entries


def record(experiments: Path, entry: Entry) -> None:
    """Write a submitted job into the ledger, and say so."""
    append_entry(experiments, entry)
    print(f"submitted {entry.job} as job {entry.job_id}")


def submit_tables(tables: TablesJob, entries: list[Entry], args: argparse.Namespace) -> Entry:
    """Write the tables' job script into <experiments>/tables and submit it behind `entries`."""
    script = args.experiments / FOLDER / SCRIPT
    try:
        script.parent.mkdir(exist_ok=True)
        write_whole(script, tables.text)
    except (OSError, ScalingError) as error:
        raise SlurmError(f"no job for the tables: {error}") from None
    ids = ":".join(entry.job_id for entry in entries)
    options = [*keep_queue_options(args.sbatch), f"--dependency=afterany:{ids}"]
    return Entry(submit_script(script, options), NAME, FOLDER, tables.gpus, now_utc())


def cancel(experiments: Path) -> int:
    """Cancel the jobs of the ledger that have not ended, and no others."""
    entries = read_ledger(experiments)
    states = read_our_states(experiments, read_states, entries)
    active = [entry.job_id for entry in entries if states[entry.job_id].is_active]
    cancel_jobs(active)
    print(f"cancelled {count_jobs(active)}" + "".join(f" {job_id}" for job_id in active))
    return 0


def parse_args() -> argparse.Namespace:
    argv, sbatch = split_at_dashes(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("scales", nargs="*", metavar="SCALE", help="what to submit")
    add("--all", action="store_true", help="every scale of the workload")
    add("--workload", metavar="W", help="of this workload (default: the matrix's first)")
    add("--max-gpus", type=int, metavar="N", help="only jobs of at most N GPUs in all")
    add("--repeat", type=int, default=1, metavar="N", help="submit each N times (default: 1)")
    add("--after", action="store_true",
        help="one at a time: each job waits for the one before, the tables for all")  # fmt: skip
    add("--no-tables", action="store_true", help="with --after: without the job for the tables")
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
        args.scales = ["*"]
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
