"""What every command has: help with an example and defaults, --version, --quiet, exit statuses.

The trainers have a parser of their own and no --quiet: their log is what the tables are made of.
"""

import argparse
import re
from pathlib import Path
from unittest.mock import patch

import pytest

from common.arguments import CommandParser
from in_process import run_script
from run_folders import write_run

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = [path.name for path in sorted(REPO.glob("scripts/*.py"))]
COMMANDS = ["render.py", *(f"scripts/{name}" for name in SCRIPTS if not name.startswith("train"))]
OF_A_JOB = {"scripts/job_summary.py", "scripts/preflight.py"}  # no person types them
ANOTHER_NAME = "scripts/generate_scaling_table.py"  # of scaling_tables.py, with its help


class Parsed(Exception):
    """Ends a command where it would have parsed its words; carries its parser."""


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    def stop(self, args=None, namespace=None):
        raise Parsed(self)

    found = {}
    with (
        patch.object(argparse.ArgumentParser, "parse_known_args", stop),
        patch.object(CommandParser, "parse_known_args", stop),
    ):
        for command in COMMANDS:
            with pytest.raises(Parsed) as parsed:
                run_script(command, *(["--gpu1", "x"] if command == ANOTHER_NAME else []))
            found[command] = parsed.value.args[0]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_each_option_its_default(parsers, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    parser = parsers[command]
    assert isinstance(parser, CommandParser)
    shown = parser.format_help()
    assert max(map(len, shown.splitlines())) <= 100
    if command not in OF_A_JOB:
        name = "scripts/scaling_tables.py" if command == ANOTHER_NAME else command
        assert re.search(rf"^ *python {name}\b", shown, re.MULTILINE)
    for option in parser._actions:
        told = option.help or ""
        if told == argparse.SUPPRESS or isinstance(option, argparse._SubParsersAction):
            continue
        assert told, option
        if option.nargs != 0 and option.default not in (None, [], {}, ""):
            assert "default" in told, f"{option.option_strings} does not say its default"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_version_is_a_commit_and_a_wrong_option_one_line(command):
    words = ["--gpu1", "x"] if command == ANOTHER_NAME else []
    done = run_script(command, *words, "--version")
    assert done.returncode == 0
    assert re.fullmatch(r"\w+\.py of commit \S+, Python 3\.\d+\.\S+\n", done.stdout)
    if command == "scripts/preflight.py":  # it is given a trainer's options, too
        return
    done = run_script(command, *words, "--no-such-option")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: .*; see {Path(command).name} .*--help\n", done.stderr)


@pytest.mark.parametrize(
    "command",
    [
        "render.py --cluster nowhere", "scripts/advise.py nowhere",
        "scripts/analyze_memory.py nowhere", "scripts/check_tables.py nowhere.md",
        "scripts/diagnose.py nowhere",
        "scripts/doctor.py --from nowhere", "scripts/export_runs.py nowhere -o nowhere/out",
        "scripts/fill_tables.py nowhere", "scripts/inspect_log.py nowhere",
        "scripts/plot_scaling.py nowhere", "scripts/report.py nowhere -o nowhere/report.html",
        "scripts/scaling_tables.py nowhere", "scripts/submit.py nowhere",
        "scripts/generate_scaling_table.py --gpu1 nowhere.json",
    ],
)  # fmt: skip
def test_work_that_failed_is_status_1_and_one_line(command):
    done = run_script(*command.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("command", "said", "where"),
    [
        ("scripts/export_runs.py {runs} -o {out}/frames", "1 row", "stdout"),
        ("render.py --cluster raven --only ddp_1g1n --to {out}", "job scripts for", "stdout"),
        ("render.py --cluster perlmutter --only ddp_1g1n --to {out}", "warning: ", "stderr"),
        ("scripts/prepare_data.py gpt2 {runs} --max-bytes 1", "error: ", "stderr"),
    ],
)
def test_quiet_leaves_results_and_errors(tmp_path, command, said, where):
    write_run(tmp_path / "runs", 1, 1, "11")
    words = command.format(runs=tmp_path / "runs", out=tmp_path / "out").split()
    (tmp_path / "out").mkdir()
    assert said in getattr(run_script(*words), where)
    quiet = run_script(*words, "--quiet")
    assert (said in getattr(quiet, where)) == (said == "error: ")


def test_nothing_is_coloured():
    """Rich alone draws, on terminals only; it obeys NO_COLOR by itself, and no style is asked."""
    for path in (REPO / "scripts").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\\x1b\[[\d;]*m|\\033\[|from (termcolor|colorama)", text), path
        if "rich" in text:
            assert not re.search(r"style=|\[(bold|red|green|yellow|/)", text), path
