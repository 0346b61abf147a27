"""Sources frozen at submission: what is copied, when it is made again, and what is refused."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UserError
from common.sources import hash_sources, read_git_commit
from profiles import Job, Repository
from submission.freeze import KEEP_DAYS, LIST, prepare_sources, remove_old
from submission.ledger import Entry
from submit_command import REPO

NOW = Entry("7", "ddp_1g1n", "baseline", 1, "2026-11-21T10:00:00Z", "0" * 16)


@pytest.fixture
def job() -> Job:
    return Repository(REPO).plan("ddp_1g1n", "ibex")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository whose sources are few."""
    (root := tmp_path / "a root").mkdir()
    for name in ("train.py", "job.sh", "training/run.py", "common/files.py"):
        (root / "scripts" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "scripts" / name).write_text(f"# {name}\n")
    (root / "experiments/baseline").mkdir(parents=True)
    (root / "experiments/baseline/baseline.slurm").write_text("#!/bin/bash\n")
    (root / ".venv").mkdir()
    return root


def freeze(root: Path, job: Job, *options: str, **how: bool) -> Path:
    """Freeze the sources; returns where the job will find them."""
    given = {"freeze": True, **how}
    sources = prepare_sources(root, [job], root / "experiments", [*options], **given)
    return Path(sources.variables.get("REPO_DIR") or sources.variables["SUBMITTED_SOURCES"])


def test_what_is_edited_afterwards_changes_nothing_that_is_frozen(root, job):
    frozen = freeze(root, job)
    assert freeze(root, job) == frozen  # equal sources are copied once
    train = root / "scripts/train.py"
    with train.open("r+") as file:  # in place, as some editors write
        file.write("# other")
    assert (frozen / "scripts/train.py").read_text() == "# train.py\n"
    assert not (frozen / "scripts/train.py").stat().st_mode & 0o222
    assert (frozen / ".venv").resolve() == root / ".venv"
    assert (frozen / "experiments/baseline/baseline.slurm").is_file()
    assert freeze(root, job) != frozen
    assert sorted(p.name for p in frozen.parent.iterdir()) == sorted(
        {frozen.name, freeze(root, job).name}
    )
    scripts = frozen / "scripts"
    assert hash_sources(scripts / "train.py", scripts) != hash_sources(train, root / "scripts")


def test_the_commit_is_that_of_the_checkout_at_submission(root, job):
    def git(*words: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", root, *name, *words], check=True, capture_output=True)

    git("init")
    git("add", "scripts")
    git("commit", "-m", "one")
    commit = read_git_commit(root / "scripts")
    frozen = freeze(root, job)
    (root / "scripts/train.py").write_text("# two\n")
    assert read_git_commit(root / "scripts") == f"{commit}-dirty"
    assert read_git_commit(frozen / "scripts") == commit
    assert not (frozen / ".git").exists()


def test_sources_that_are_not_frozen_have_a_list_that_sha256sum_checks(root, job):
    listed = freeze(root, job, freeze=False)
    check = ["sha256sum", "--check", "--quiet", listed]
    assert subprocess.run(check, cwd=root, capture_output=True).returncode == 0
    (root / "scripts/training/run.py").write_text("# other\n")
    done = subprocess.run(check, cwd=root, capture_output=True, text=True)
    assert done.stdout == "scripts/training/run.py: FAILED\n"


def test_a_trainer_elsewhere_is_frozen_with_its_folder_when_it_is_in_the_repository(
    root, job, tmp_path, capsys
):
    own = root / "experiments/mine/train.py"
    own.parent.mkdir()
    own.write_text("# mine\n")
    for name in ("mine.slurm", "log/mine_1.out", "results/1/run.json", "models/log/a.py"):
        (own.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (own.parent / name).write_text("# beside it\n")
    frozen = freeze(root, replace(job, trainer="experiments/mine/train.py"))
    own.write_text("# edited\n")
    assert (frozen / "experiments/mine/train.py").read_text() == "# mine\n"
    copied = [
        p.relative_to(frozen / "experiments/mine") for p in frozen.glob("experiments/mine/**/*")
    ]
    assert sorted(str(p) for p in copied if p.suffix) == [
        "mine.slurm",
        "models/log/a.py",
        "train.py",
    ]
    assert (frozen / "experiments/baseline").resolve() == root / "experiments/baseline"
    (outside := tmp_path / "train.py").write_text("# mine\n")
    freeze(root, replace(job, trainer=str(outside)))
    assert (
        f"warning: {outside} is outside of {root}, so it is not frozen" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda root: (root / "scripts/train.py").unlink(), (), "no scripts/train.py in "),
        (lambda root: os.truncate(root / "scripts/job.sh", 65 << 20), (),
         r"more than 64 MiB \(.*/scripts/job.sh alone is 65\): move data elsewhere, or say --no-f"),
        (lambda root: None, ("--export=RUN_DIR",),
         "--export=RUN_DIR for sbatch would not tell .* write --export=ALL,RUN_DIR"),
    ],
)  # fmt: skip
def test_refusals_name_the_fix(root, job, spoil, options, message):
    (root / "experiments/.frozen").mkdir()
    spoil(root)
    with pytest.raises(UserError, match=message):
        freeze(root, job, *options)
    assert not list((root / "experiments/.frozen").iterdir())


def test_a_frozen_file_that_was_edited_is_refused(root, job):
    frozen = freeze(root, job)
    path = frozen / "scripts/train.py"
    path.chmod(0o644)
    path.write_text("# edited\n")
    with pytest.raises(UserError, match="was changed since it was made; move it away"):
        freeze(root, job)


def test_what_is_old_goes_unless_a_job_still_needs_it(root, job):
    frozen = freeze(root, job)
    listed = freeze(root, job, freeze=False)
    experiments, ours = root / "experiments", replace(NOW, sources=frozen.name)
    assert remove_old(experiments, []) == []  # used today
    for path in (frozen, listed):
        os.utime(path, (0, frozen.stat().st_mtime - (KEEP_DAYS + 1) * 86400))
    assert remove_old(experiments, [ours]) == []
    assert remove_old(experiments, [NOW]) == [frozen, listed]
    assert not list(frozen.parent.iterdir())


def test_all_of_this_repositorys_scripts_run_frozen(tmp_path, job):
    (tmp_path / "scripts").symlink_to(REPO / "scripts")
    shutil.copytree(REPO / "experiments/baseline", tmp_path / "experiments/baseline")
    frozen = freeze(tmp_path, job)
    done = subprocess.run(
        [sys.executable, frozen / "scripts/job_summary.py", "--help"], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert len((frozen / LIST).read_text().splitlines()) > 100
