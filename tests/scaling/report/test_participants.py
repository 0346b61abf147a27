"""A workshop's tables and page: who has run what, the slow node, and what cannot be read."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from in_process import run_script
from run_folders import write_run
from scaling.runs import find_participants
from scaling.tables import make_participants_tables, make_workshop
from scaling.tables.participants import find_slow_hosts
from workshop_clones import SLOW, write_workshop

SCALES = ((1, 1), (1, 4), (2, 2))


@pytest.fixture(scope="module")
def clones(tmp_path_factory) -> Path:
    """Twelve people on six nodes; three folders beside theirs that are no clone."""
    root = write_workshop(tmp_path_factory.mktemp("ws"), 12, SCALES, nodes=6)
    (root / "empty").mkdir()
    (root / "link").symlink_to("/nowhere")
    (root / "notes.txt").write_text("no folder")
    shutil.rmtree(root / "person01/experiments/multi_gpu/4_gpus/results")  # ended, nobody knows how
    failed = root / "person02/experiments"
    shutil.rmtree(failed / "baseline")
    write_run(failed, 1, 1, "2000", out="RuntimeError: CUDA out of memory\n", complete=False,
              exit_status=1)  # fmt: skip
    return root


def read(root: Path) -> list:
    return make_participants_tables(make_workshop(find_participants(root), "tinyimagenet", "x"))


def test_who_has_run_which_scale(clones):
    progress = read(clones)[0]
    assert list(progress.headers.values())[2:] == ["1 GPU", "4 GPUs", "2 x 2 GPUs"]
    rows = {row["participant"].text: row for row in progress.rows}
    assert len(rows) == 14
    assert rows["person00"]["done"].text == "3 of 3"
    out = rows["person02"]["g1n1"]
    assert (out.text, out.value) == ("failed", None)
    assert out.note.startswith("out of memory: ") and "CUDA out of memory" in out.note
    assert rows["empty"]["g1n1"].note == "not submitted yet"
    assert progress.remarks == [
        f"{clones}/empty cannot be read: no experiments/ in it",
        f"{clones}/link cannot be read: it is not there, or closed to you",
    ]


def test_the_slow_node_shows_itself_and_no_other_is_blamed(clones):
    _, spread, hosts = read(clones)
    verdicts = {row["host"].text: row["verdict"].text for row in hosts.rows}
    assert verdicts == {SLOW: "slow"} | {
        f"node{n:02d}": "as the others" for n in range(6) if f"node{n:02d}" != SLOW
    }
    assert hosts.rows[0]["host"].text == SLOW
    assert 79 < hosts.rows[0]["median"].value < 81
    named = " ".join(row["outliers"].text for row in spread.rows)
    assert re.findall(r"on (\S+): 80 %", named).count(SLOW) >= 2
    assert all(SLOW in text for text in re.findall(r"job \d+ on ([^:]*):", named))


@pytest.mark.parametrize(
    ("rows", "slow"),
    [
        ([(["a"], 80), (["a", "b"], 81), (["b"], 100), (["c"], 100)], {"a": 80.5}),
        ([(["a", "b"], 80), (["b"], 100), (["a"], 79), (["c"], 70)], {"c": 70, "a": 79.5}),
        ([(["a"], 97), (["b"], 100)], {}),  # within 5 %
        ([([], 50)], {}),  # nobody knows where
        ([], {}),
    ],
)
def test_a_slow_nodes_peers_are_not_blamed(rows, slow):
    ratios = pd.DataFrame(rows, columns=["hosts", "pct"])
    assert find_slow_hosts(ratios, 95.0) == slow


def test_a_workshop_that_has_just_begun_has_a_page(tmp_path):
    write_run(tmp_path / "anna/experiments", 1, 1, "1", complete=False, exit_status=None)
    (tmp_path / "<script>x").mkdir()
    out = tmp_path / "page.html"
    done = run_script("scripts/report.py", "--participants", tmp_path, "-o", out)
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    assert "0 of 2 participants have completed all 1 scales" in page
    assert "No run is complete yet." in page
    assert "<script>x" not in page and "&lt;script&gt;x" in page


def test_the_commands_read_and_write_nothing_in_the_clones(clones, tmp_path):
    before = {path: path.lstat().st_mtime_ns for path in clones.rglob("*")}
    page = tmp_path / "page.html"
    done = run_script("scripts/report.py", "--participants", clones, "-o", page)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{SLOW} is slow: the median of the " in page.read_text()
    done = run_script("scripts/fill_tables.py", "--participants", clones, "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    tables = {table["table"]: table for table in json.loads(done.stdout)["tables"]}
    assert list(tables) == ["participants", "spread", "hosts"]
    assert tables["participants"]["rows"][2]["folder"] == f"{clones}/person00/experiments"
    assert {path: path.lstat().st_mtime_ns for path in clones.rglob("*")} == before


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda root: None, "no such folder"), (Path.mkdir, "no folder in it; there is one per par")],
)
def test_a_root_without_clones_is_one_line(tmp_path, make, words):
    make(tmp_path / "root")
    done = run_script("scripts/fill_tables.py", "--participants", tmp_path / "root")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert words in done.stderr
