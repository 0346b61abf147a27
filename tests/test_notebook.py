"""experiments/analysis.ipynb: it holds no output, and runs on a study, cell by cell."""

import json
import runpy
from pathlib import Path

import matplotlib as mpl

from study_folders import write_study

REPO = Path(__file__).resolve().parent.parent
CELLS = json.loads((REPO / "experiments/analysis.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_outputs_are_stripped():
    assert len(CODE) >= 8
    for cell in CODE:
        assert (cell["outputs"], cell["execution_count"], cell["metadata"]) == ([], None, {})


def test_every_cell_runs_on_a_study(tmp_path, monkeypatch, capsys):
    """In this process and in order, as a kernel would: what a cell defines the next ones have."""
    write_study(tmp_path / "study", scales=((1, 1), (1, 2), (1, 4)))
    monkeypatch.setenv("STUDY", str(tmp_path / "study"))
    monkeypatch.chdir(REPO / "experiments")
    mpl.use("agg")
    code = tmp_path / "analysis.py"
    code.write_text("\n".join("".join(cell["source"]) for cell in CODE), encoding="utf-8")
    names = runpy.run_path(str(code))
    scales = names["study"].scales.set_index("gpus")
    for gpus in (1, 2):  # by hand as by the study
        for name in ("speedup", "efficiency_pct"):
            assert abs(names["by_gpus"].loc[gpus, name] - scales.loc[gpus, name]) < 1e-9
    assert len(names["axes"].patches) == 2
    assert "2 GPUs (1 node) against Single GPU" in capsys.readouterr().out
