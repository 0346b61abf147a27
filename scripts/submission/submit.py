"""Submit planned jobs in order: look at them first, say what they may cost, ask, keep a ledger."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from common.console import notice, warn
from common.errors import UserError
from common.files import write_whole
from common.signals import hold_signals
from common.slurm_time import parse_time
from profiles import Job, Repository, plan_scales
from submission.freeze import FOLDER as FROZEN
from submission.freeze import KEEP_DAYS, Sources, list_old, remove_old
from submission.ledger import (
    Entry,
    append_entry,
    check_ledger,
    now_utc,
    read_ledger,
    read_our_states,
)
from submission.options import check_options, keep_queue_options, list_overrides, parse_options
from submission.slurm import (
    Refusal,
    SlurmError,
    cancel_jobs,
    cluster_of,
    number_of,
    read_states,
    submit_script,
    write_cancel,
)
from submission.tables_job import FOLDER, NAME, SCRIPT, TIME, TablesJob

# What prepare_data.py makes in each workload's folder; a workload that is not here needs no check.
CONTENTS = {
    "tinyimagenet": ("train", "val"),
    "gpt2": ("train_small.bin", "val_small.bin"),
    "translation": ("train.src", "train.tgt", "val.src", "val.tgt"),
}
WITHOUT_DATA = {"spiral"}  # it makes its own


def plan(repository: Repository, args: argparse.Namespace) -> list[Job]:
    """Plan the jobs that are asked for, smallest first as the matrix has them, --repeat times."""
    jobs, left_out = plan_scales(
        repository, args.scales, args.experiments, args.workload, every=args.all
    )
    for why in left_out:
        notice(f"left out: {why}")
    jobs = [job for job in jobs if args.max_gpus is None or job.world_size <= args.max_gpus]
    if not jobs:
        raise UserError("no scale is left; see --workload and --max-gpus")
    return jobs * args.repeat


def check_jobs(
    repository: Repository, jobs: list[Job], experiments: Path, options: list[str]
) -> dict[str, str]:
    """Refuse stale scripts and options that spoil a job; make log/, without which it has no log.

    What may be wrong with the shell and the data is a warning. Returns each job's profile.
    """
    given = parse_options(options)
    check_options(given, jobs)
    profiles, warnings = [], {}
    for job in jobs:
        script = experiments / job.script
        text = script.read_text(encoding="utf-8", errors="replace")
        profiles.append(repository.profile_of(text))
        if text != repository.render(job, profiles[-1]):
            raise UserError(
                f"{script} is not what its template and profile make; see: python render.py "
                f"--diff --only {job.name}, or submit it yourself with sbatch"
            )
        warnings |= dict.fromkeys(list_overrides(text, given))
    for job in jobs:
        make_log_folder(experiments / job.folder)
    check_ledger(experiments)
    for warning in [*warnings, *check_data(repository, zip(jobs, profiles, strict=True))]:
        warn(warning)
    return {job.name: profile for job, profile in zip(jobs, profiles, strict=True)}


def make_log_folder(folder: Path) -> None:
    """Make log/ in a job's folder; UserError when it cannot be made or written to."""
    log = folder / "log"
    try:
        log.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{log} cannot be made: {error.strerror}; a job without it leaves no log: see "
            f"ls -ld {log} {folder}"
        ) from None
    if not os.access(log, os.W_OK | os.X_OK):
        raise UserError(f"{log} is closed to you: its job could write no log; see ls -ld {log}")


def announce(jobs: list[Job], tables: TablesJob | None, tell: Callable = notice) -> None:
    """Print what is asked for: one line per job, and the GPU-hours if each runs to its limit.

    tell: print where this is the result (--dry-run), and not said by the way.
    """
    for job in jobs:
        hours = job.world_size * parse_time(job.time) / 3600
        size = f"{count(job.nodes, 'node')} x {count(job.gpus_per_node, 'GPU')}"
        tell(f"{job.name:<18} {size:<18} {job.time}  {hours:>6.1f} GPU-hours")
    if tables:
        tell(f"{NAME:<18} {'1 node x 1 CPU':<18} {TIME}  {tables.remark}")
    what = count(len(jobs), "job") + (" and the tables" if tables else "")
    tell(f"{what}, at most {count_gpu_hours(jobs, tables):.1f} GPU-hours")


def count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def count_gpu_hours(jobs: list[Job], tables: TablesJob | None) -> float:
    """GPU-hours of all jobs if each runs to its time limit."""
    seconds = sum(job.world_size * parse_time(job.time) for job in jobs)
    return (seconds + (tables.gpus * parse_time(TIME) if tables else 0)) / 3600


def ask(gpu_hours: float, args: argparse.Namespace) -> None:
    """Ask before submitting more than --ask-above GPU-hours, unless --yes."""
    if args.yes or gpu_hours <= args.ask_above:
        return
    question = f"More than {args.ask_above:g} GPU-hours: submit? [y/N] "
    try:
        answer = input(question) if sys.stdin and sys.stdin.isatty() else ""
    except EOFError:  # Ctrl-D
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("not submitted; say --yes, or fewer scales, or a higher --ask-above")


def submit(
    jobs: list[Job],
    tables: TablesJob | None,
    sbatch: dict[str, str],
    sources: Sources,
    args: argparse.Namespace,
) -> list[Entry]:
    """Submit `jobs` in order, with --after each behind the one before it, the tables behind all.

    `sbatch`: the command for each job, by its name; `sources`: what they run. Returns their
    entries in the ledger. A refusal in the middle says what was submitted before.
    """
    entries: list[Entry] = []
    try:
        for job in jobs:
            options = list(args.sbatch)
            if args.after and entries:
                options += wait_for(entries[-1:], args.sbatch)
            with hold_signals():  # no job is submitted that the ledger does not know
                job_id = submit_script(
                    args.experiments / job.script, options, sbatch[job.name], sources.variables
                )
                entries.append(
                    Entry(job_id, job.name, job.folder, job.world_size, now_utc(), sources.id)
                )
                record(args.experiments, entries[-1])
        if tables:
            with hold_signals():
                entries.append(submit_tables(tables, entries, sbatch[jobs[0].name], args))
                record(args.experiments, entries[-1])
    except UserError as error:
        fix = "; doctor.py --probe PROFILE says which line" if isinstance(error, Refusal) else ""
        if not entries:
            raise UserError(f"{error}{fix}") from None
        raise UserError(
            f"{error}{fix}; submitted before that and not cancelled: "
            f"{', '.join(entry.job_id for entry in entries)} (scripts/submit.py --cancel ends them)"
        ) from None
    return entries


def wait_for(entries: list[Entry], given: list[str]) -> list[str]:
    """Options that let a job wait for `entries`, on their cluster, and for what is `given`."""
    own = dict(parse_options(given)).get("dependency", "")
    if "?" in own:
        raise UserError(
            f"--dependency={own} for sbatch: with --after a job waits for the one before and for "
            'what you name: part them with ",", not "?"'
        )
    ids = ":".join(number_of(entry.job_id) for entry in entries)
    cluster = cluster_of(entries[-1].job_id)
    waits = f"--dependency={own and f'{own},'}afterany:{ids}"
    return [waits, f"--clusters={cluster}"] if cluster else [waits]


def record(experiments: Path, entry: Entry) -> None:
    """Write a submitted job into the ledger, and say so."""
    append_entry(experiments, entry)
    print(f"submitted {entry.job} as job {entry.job_id}")


def submit_tables(
    tables: TablesJob, entries: list[Entry], sbatch: str, args: argparse.Namespace
) -> Entry:
    """Write the tables' job script into <experiments>/tables and submit it behind `entries`."""
    script = args.experiments / FOLDER / SCRIPT
    try:
        script.parent.mkdir(exist_ok=True)
        write_whole(script, tables.text)
    except (OSError, UserError) as error:
        raise UserError(f"no job for the tables: {error}") from None
    options = [*keep_queue_options(parse_options(args.sbatch)), *wait_for(entries, [])]
    return Entry(submit_script(script, options, sbatch), NAME, FOLDER, tables.gpus, now_utc())


def clean_sources(experiments: Path) -> None:
    """Remove frozen sources that are old and that no job of the ledger still needs."""
    if not list_old(experiments):
        return
    entries = read_ledger(experiments)
    try:
        states = read_our_states(experiments, read_states, entries)
    except SlurmError:
        return  # the next submission looks again
    removed = remove_old(experiments, [e for e in entries if states[e.job_id].is_active])
    if removed:
        notice(f"removed {len(removed)} of {FROZEN}, not submitted from for {KEEP_DAYS} days")


def cancel(experiments: Path) -> None:
    """Cancel the jobs of the ledger that have not ended, and no others."""
    entries = read_ledger(experiments)
    states = read_our_states(experiments, read_states, entries)
    active = [entry.job_id for entry in entries if states[entry.job_id].is_active]
    try:
        cancel_jobs(active)
    except SlurmError as error:
        raise UserError(f"{error}; they may still run: {write_cancel(active)}") from None
    print(f"cancelled {count(len(active), 'job')}" + "".join(f" {job_id}" for job_id in active))


# ---- The data of the jobs ----------------------------------------------------------------


def check_data(repository: Repository, jobs: Iterable[tuple[Job, str]]) -> list[str]:
    """Return a warning for each workload whose data cannot be seen; `jobs`: (job, profile).

    Warnings only: the nodes may see what a login node does not, and the reverse.
    """
    warnings: dict[str, None] = {}
    for job, profile in jobs:
        if job.workload in WITHOUT_DATA or "data-dir" in job.args:
            continue
        cluster = repository.load_profile(profile)
        folder = os.environ.get("DATA_DIR") or cluster.data_dir.get(job.workload)
        if folder is None:
            if "DATA_DIR" not in cluster.env and "DATA_DIR=" not in " ".join(cluster.setup):
                warnings[
                    f'no data for workload "{job.workload}": export DATA_DIR=FOLDER, or set '
                    f'data_dir in the profile of cluster "{cluster.name}"'
                ] = None
            continue
        if "$" not in folder and (problem := look_into(Path(folder), job.workload)):
            warnings[problem] = None
    return list(warnings)


def look_into(folder: Path, workload: str) -> str | None:
    """Return what is wrong with a workload's data folder, None when it looks right."""
    if not folder.is_dir():
        return f"{folder} is not visible from this machine; is it from the nodes?"
    missing = [name for name in CONTENTS.get(workload, ()) if not (folder / name).exists()]
    if missing:
        return (
            f"{folder} has no {' and no '.join(missing)}, which {workload} needs; make them with: "
            f"python scripts/prepare_data.py {workload} --help"
        )
    return None
