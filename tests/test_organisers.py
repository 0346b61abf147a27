"""experiments/ORGANISERS.md: each of its commands is run here, or is named with where it is run."""

import shlex
import shutil
from pathlib import Path

import pytest

from in_process import run_script
from readme_commands import ORGANISERS, REPO, list_commands
from workshop_clones import write_workshop

RUN = (
    "python scripts/submit.py --estimate --participants 60",
    "python scripts/submit.py --estimate --participants 60 --study /shared/workshop",
    "python scripts/fill_tables.py --participants /shared/workshop --format text",
    "python scripts/fill_tables.py --participants /shared/workshop -o tables.md",
    "python scripts/report.py --participants /shared/workshop -o workshop.html",
    "python scripts/export_runs.py /shared/workshop -o tidy",
)
NOT_RUN = {
    "python scripts/doctor.py --write NAME": "slurm/test_walks.py, with --from",
    "python render.py --cluster NAME": "slurm/test_walks.py, with --to",
    "python scripts/doctor.py --probe NAME": "slurm/test_walks.py",
    "python scripts/doctor.py --submit NAME": "slurm/test_preflight_slurm.py",
    "python scripts/prepare_data.py tinyimagenet --download": "a download: preparation/",
    "bash scripts/setup_env.sh": "3 GB; test_house_rules.py compares the lists of packages",
    "python scripts/submit.py --all --after --watch --yes": "slurm/test_submit_slurm.py",
    "python scripts/report.py --participants /shared/workshop --watch 60": "it never ends; "
    "scaling/report/ runs one round, test_report.py --watch",
    "python scripts/submit.py --cancel": "slurm/test_submit_slurm.py",
}


def test_every_command_is_run_or_says_why_not():
    commands = list_commands(ORGANISERS)
    assert [c for c in commands if c not in RUN and not c.startswith(tuple(NOT_RUN))] == []
    assert set(RUN) <= set(commands)
    assert [why for why in NOT_RUN if not any(c.startswith(why) for c in commands)] == []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout, and beside it a workshop of four people."""
    folder = tmp_path_factory.mktemp("organiser")
    for name in ("scripts", "templates", "render.py"):
        (folder / name).symlink_to(REPO / name)
    shutil.copytree(REPO / "experiments", folder / "experiments",
                    ignore=shutil.ignore_patterns("results", "*_memory", "*.out"))  # fmt: skip
    write_workshop(folder / "shared/workshop", 4, ((1, 1), (1, 2)))
    return folder


@pytest.mark.parametrize("command", RUN)
def test_command_works_as_it_is_typed(checkout, command):
    words = command.replace("/shared/", f"{checkout}/shared/")
    _, script, *words = shlex.split(words)
    done = run_script(script, *words, repo=checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 20 or (checkout / words[-1]).is_file()
