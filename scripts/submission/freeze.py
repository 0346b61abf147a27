"""A job's sources as they are when it is submitted: what is edited while it waits changes nothing.

A job runs what lies in $REPO_DIR. submit.py therefore hands it a folder of its own below
<experiments>/.frozen, named after the hash of what it holds: copies of scripts/ and of the folder
of a trainer elsewhere in the repository, and links to the rest. They are copies and not hard links,
for an editor that writes a file in place would change a linked one too. Equal sources of one
commit have one folder, which goes when nothing was submitted from it for KEEP_DAYS days.

With --no-freeze a job runs the checkout as it then is; it is handed the list of hashes of its
sources at submission, against which scripts/job.sh compares them.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.console import warn
from common.errors import UserError
from common.files import hash_file, write_whole
from common.sources import COMMIT_FILE, read_git_commit
from profiles import Job
from submission.ledger import Entry
from submission.options import parse_options, read_directives

FOLDER = ".frozen"  # below the experiments, beside the ledger
LIST = "sources.sha256"  # as `sha256sum` writes it, and `sha256sum --check` reads it
LIST_VARIABLE = "SUBMITTED_SOURCES"  # where scripts/job.sh finds the list
MOST_MIB = 64
KEEP_DAYS = 30
NOT_SOURCES = {"__pycache__", ".git", FOLDER}
OF_RUNS = {"log", "results", "gpu_memory", "cpu_memory", "checkpoints"}  # beside a job script


@dataclass(frozen=True)
class Sources:
    """What jobs run: `id` names it in the ledger, `variables` tell the job of it."""

    id: str
    variables: dict[str, str]


def prepare_sources(
    root: Path, jobs: list[Job], experiments: Path, options: list[str], freeze: bool
) -> Sources:
    """Freeze the sources of `jobs`, or only record their hashes; say what cannot be frozen.

    root: the repository, where neither $REPO_DIR nor the jobs' own folder leads to one.
    options: those for sbatch, which may drop the variables. Raises UserError.
    """
    root = find_root(root, jobs, experiments)
    check_export(jobs, experiments, options)
    folders, outside = list_folders(jobs)
    listed = list_hashes(root, folders, outside)
    commit = read_git_commit(root / "scripts")
    identity = hashlib.sha256(f"{listed}{commit}".encode()).hexdigest()[:16]
    store = experiments.resolve() / FOLDER
    try:
        store.mkdir(exist_ok=True)
        if not freeze:
            path = store / f"{identity}.sha256"
            write_whole(path, listed)
            return Sources(identity, {LIST_VARIABLE: str(path)})
        for trainer in outside:
            warn(
                f"{trainer} is outside of {root}, so it is not frozen: leave it as it "
                "is until its jobs have begun"
            )
        frozen = store / identity
        if frozen.is_dir():
            check_frozen(frozen, folders, outside)
            os.utime(frozen)
        else:
            copy_sources(root, folders, frozen, {LIST: listed, COMMIT_FILE: commit + "\n"})
    except (OSError, shutil.Error) as error:
        raise UserError(
            f"{store}: the sources cannot be copied: {getattr(error, 'strerror', None) or error}; "
            "see its space and rights, or say --no-freeze"
        ) from None
    return Sources(identity, {"REPO_DIR": str(frozen), LIST_VARIABLE: str(frozen / LIST)})


def find_root(root: Path, jobs: list[Job], experiments: Path) -> Path:
    """Return the repository that the jobs would run: $REPO_DIR, else the one around them."""
    if told := os.environ.get("REPO_DIR"):
        if not Path(told).is_absolute():
            raise UserError(f"REPO_DIR={told} in this shell: export it as a path from / on")
        root = Path(told)
    else:
        depth = len(Path(jobs[0].folder).parts)
        around = (experiments / jobs[0].folder).resolve().parents[depth]
        root = around if (around / jobs[0].needs).is_file() else root
    for job in jobs:
        if not (root / job.needs).is_file():
            raise UserError(f"no {job.needs} in {root}, which {job.name} needs; export REPO_DIR")
    return root.resolve()


def check_export(jobs: list[Job], experiments: Path, options: list[str]) -> None:
    """Refuse an --export that would drop the variables which tell a job of its sources."""
    told = dict(parse_options(options)).get("export")
    script = (experiments / jobs[0].script).read_text(encoding="utf-8", errors="replace")
    told = told if told is not None else read_directives(script).get("export")
    if told not in (None, "NONE") and "ALL" not in told.split(","):
        raise UserError(
            f"--export={told} for sbatch would not tell the job of its sources; write "
            f"--export=ALL,{told}"
        )


def list_folders(jobs: list[Job]) -> tuple[list[str], list[Path]]:
    """List what holds the jobs' sources below the repository, and the trainers outside of it."""
    folders, outside = {"scripts": None}, {}
    for job in jobs:
        if job.trainer.startswith("/"):
            outside[Path(job.trainer)] = None
        elif not job.needs.startswith("scripts/"):
            parent = Path(job.needs).parent
            folders[str(parent if parent.parts else Path(job.needs))] = None
    return list(folders), list(outside)


def list_hashes(root: Path, folders: Iterable[str], outside: Iterable[Path] = ()) -> str:
    """Return a line `<sha256>  <path below root>` for each file, as sha256sum writes it."""
    lines, size, largest = [], 0, (0, Path())
    for path in [*(p for name in folders for p in walk_files(root / name)), *outside]:
        size += (bytes_ := path.stat().st_size)
        largest = max(largest, (bytes_, path))
        if size > MOST_MIB * 2**20:
            raise UserError(
                f"the sources are more than {MOST_MIB} MiB ({largest[1]} alone is "
                f"{largest[0] / 2**20:.0f}): move data elsewhere, or say --no-freeze"
            )
        name = path.relative_to(root) if path.is_relative_to(root) else path
        lines.append(f"{hash_file(path, hashlib.sha256())}  {name}\n")
    return "".join(lines)


def walk_files(folder: Path) -> list[Path]:
    """List the files below a folder, links followed, by name; a file is itself.

    What runs have left beside a job script is no source.
    """
    found = [folder] if folder.is_file() else []
    for path, names, files in os.walk(folder, followlinks=True):
        is_jobs = any(name.endswith(".slurm") for name in files)
        left_out = NOT_SOURCES | OF_RUNS if is_jobs else NOT_SOURCES
        names[:] = sorted(name for name in names if name not in left_out)
        found += [Path(path, name) for name in sorted(files) if not name.endswith(".pyc")]
    return [path for path in found if path.is_file() and "\n" not in path.name]


def copy_sources(root: Path, folders: list[str], frozen: Path, texts: dict[str, str]) -> None:
    """Make `frozen` whole or not at all: copies of `folders`, links to the rest, and `texts`."""
    made = frozen.with_name(f"{frozen.name}.{os.getpid()}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    try:
        for name in folders:
            for path in walk_files(root / name):
                copy = made / path.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                # Read-only: a traceback leads an editor here, and the checkout is what to edit.
                copy.chmod(path.stat().st_mode & 0o555 | 0o400)
        link_rest(root, made, [Path(name) for name in folders])
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8")
        made.rename(frozen)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        if not frozen.is_dir():  # else another submit.py was faster, with the same
            raise


def link_rest(root: Path, made: Path, copied: list[Path]) -> None:
    """Link what lies beside the copied folders and files: an environment, data, an image."""
    above = {parent for name in copied for parent in name.parents}
    for parent in above:
        for path in (root / parent).iterdir():
            name = path.relative_to(root)
            is_text = name in (Path(LIST), Path(COMMIT_FILE))
            if name not in {*copied, *above} and path.name not in NOT_SOURCES and not is_text:
                (made / name).symlink_to(path)


def check_frozen(frozen: Path, folders: list[str], outside: list[Path]) -> None:
    """Refuse frozen sources that were changed since they were copied."""
    if list_hashes(frozen, folders, outside) != (frozen / LIST).read_text(encoding="utf-8"):
        raise UserError(f"{frozen} was changed since it was made; move it away")


def remove_old(experiments: Path, active: Iterable[Entry]) -> list[Path]:
    """Remove what nothing was submitted from for KEEP_DAYS days and no active job needs."""
    needed, removed = {entry.sources for entry in active}, []
    for path in list_old(experiments):
        if path.name.partition(".")[0] not in needed:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            removed.append(path)
    return removed


def list_old(experiments: Path) -> list[Path]:
    """List the frozen sources that nothing was submitted from for KEEP_DAYS days."""
    store, limit_s = experiments / FOLDER, time.time() - KEEP_DAYS * 86400
    paths = store.iterdir() if store.is_dir() else ()
    return sorted(path for path in paths if path.stat().st_mtime < limit_s)
