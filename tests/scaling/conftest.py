"""What tests of plots and report share: a study of seven scales, and a report with everything."""

from pathlib import Path

import pytest

from hostile_runs import write_hostile_runs
from run_folders import write_run
from study_folders import write_study, write_study_run


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with one run at each of the seven scales; nobody changes it."""
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on seven scales, other settings, a failure, hostile texts: DIR/report.html."""
    from scaling.report import make_page
    from scaling.runs import find_runs

    root = write_study(tmp_path_factory.mktemp("report"))
    write_study_run(root, 1, 2, "201", precision="bf16", model="a_model_with_a_long_name" * 4)
    write_study_run(root, 1, 8, "202", precision="bf16", rounds=300)
    long = "word" * 200 + "\nRuntimeError: CUDA out of memory. Tried to allocate 2 GiB\n"
    write_run(root, 1, 4, "203", out=long, complete=False, exit_status=1)
    write_hostile_runs(root)
    path = root / "report.html"
    path.write_text(make_page(find_runs(root), str(root)), encoding="utf-8")
    return path


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """The report's charts are listed and not drawn, which takes most of its time."""
    monkeypatch.setattr("scaling.report.page.draw_picture", lambda chart, key: "<svg></svg>")
