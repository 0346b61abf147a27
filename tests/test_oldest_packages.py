"""The analysis with the lowest versions that environment.yml allows says what it says here."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from filled_tables import call
from study_folders import SCALES, write_study
from torch_server import SCRIPTS, TESTS

OLDEST = TESTS.parent / ".venv-oldest/bin/python"
COMMANDS = (
    ("fill_tables",),
    ("scaling_tables",),
    ("scaling_tables", "--fixed-work", "--cost"),
    ("diagnose",),
    ("advise",),
    ("export_runs", "--format", "json"),
    ("plot_scaling", "--format", "svg"),
    ("report",),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), (*SCALES[:2], (2, 1)))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_lowest_versions_give_the_same(
    study: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    if not OLDEST.exists():
        pytest.skip("no .venv-oldest; make it with: bash scripts/setup_env.sh --oldest")
    name, *options = command
    out = {"export_runs": ["-o"], "plot_scaling": ["--out"], "report": ["-o"]}.get(name, [])
    arguments = [str(study), *options, *out, *[str(tmp_path / "out")] * bool(out)]
    here = call(name, *arguments)
    assert here.returncode == 0, here.stderr
    made = read_tables(tmp_path / "out")
    oldest = subprocess.run(
        [OLDEST, SCRIPTS / f"{name}.py", *arguments],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    assert (oldest.returncode, oldest.stderr) == (0, here.stderr)
    assert without_seconds(oldest.stdout) == without_seconds(here.stdout)
    assert read_tables(tmp_path / "out") == made


def without_seconds(text: str) -> str:
    """The text without how long a page took."""
    return re.sub(r"[\d.]+ s$", "", text, flags=re.MULTILINE)


def read_tables(folder: Path) -> dict[str, str]:
    """The tables that a command wrote; charts and pages differ with matplotlib."""
    return {path.name: path.read_text() for path in folder.glob("*.json")}
