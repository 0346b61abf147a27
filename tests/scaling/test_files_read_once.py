"""Each command reads each file of the runs at most once: a log may be large and far away."""

import importlib
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from study_folders import write_study

REPO = Path(__file__).resolve().parents[2]
COMMANDS = {
    "fill_tables": "fill_tables {study}",
    "memory": "fill_tables {study} --memory",
    "summary": "scaling_tables {study}",
    "fixed work": "scaling_tables {study} --fixed-work",
    "cost": "scaling_tables {study} --cost",
    "check_tables": "check_tables {out}/TABLES.md {study}",
    "diagnose": "diagnose {study}",
    "advise": "advise {study}",
    "export_runs": "export_runs {study} -o {out}",
    "plot_scaling": "plot_scaling {study} --out {out}",
    "report": "report {study} -o {out}/report.html",
}
opened: Counter[Path] = Counter()
watched: list[Path] = []


def count_open(event: str, arguments: tuple) -> None:
    if event == "open" and watched and isinstance(arguments[0], str | Path):
        path = Path(arguments[0])
        if watched[0] in path.parents:
            opened[path] += 1


sys.addaudithook(count_open)  # it sees open(), Path.open() and os.open() alike; it stays for good


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The seven scales, one of them failed."""
    root = write_study(tmp_path_factory.mktemp("study") / "experiments")
    log = next(root.glob("multi_node/8_nodes/log/*.out"))
    log.write_text(log.read_text().replace("Total training", "CUDA out of memory\nTotal training"))
    next(root.glob("multi_node/8_nodes/results/*/RUN_COMPLETE.txt")).unlink()
    return root


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_is_read_once(study, tmp_path, name, monkeypatch, capsys):
    shutil.copy(REPO / "experiments/TABLES.md", tmp_path)
    words = COMMANDS[name].format(study=study, out=tmp_path).split()
    command = importlib.import_module(words[0])
    monkeypatch.setattr(sys, "argv", words)
    opened.clear()
    watched[:] = [study]
    try:
        status = command.main()
    finally:
        watched.clear()
    assert status == 0, capsys.readouterr().err
    assert len(opened) > 7
    assert {path: times for path, times in opened.items() if times > 1} == {}
