"""The report's part on lost efficiency: the verdict says to what, the scales say the rest."""

import re
from html import unescape
from pathlib import Path

import pytest

from diagnosis_runs import rank, write_known_run
from scaling.diagnose import diagnose
from scaling.report import list_study_tables, make_page
from scaling.report.page import state_loss
from scaling.runs import find_runs, make_study

pytestmark = pytest.mark.usefixtures("undrawn")
BASE = rank()
NCCL = (
    "n:1:1 [0] NCCL INFO NET/Socket : Using [0]ib0:10.0.0.1<0>\nn: NCCL INFO Using network Socket\n"
)


def write_study(root: Path) -> None:
    """64 % efficient on 4 GPUs of one node, 50 % on two nodes."""
    write_known_run(root, 1, 1, "10", [BASE])
    write_known_run(root, 1, 4, "11", [rank(data=0.13, comm=0.08)] * 4)
    write_known_run(root, 2, 2, "12", [rank(comm=0.32)] * 4, log=NCCL)


def read_verdict(page: str) -> list[str]:
    (verdict,) = re.findall(r'<ul class="verdict">(.*?)</ul>', page, re.DOTALL)
    return [unescape(text).strip() for text in re.findall(r"<li[^>]*>(.*?)</li>", verdict)]


def state(root: Path) -> str | None:
    return state_loss("tinyimagenet", diagnose(make_study(find_runs(root))))


def test_page_says_to_what_the_efficiency_is_lost(tmp_path):
    write_study(tmp_path)
    page = make_page(find_runs(tmp_path), "here")
    first, second, *_ = read_verdict(page)
    assert "Single GPU is the largest measured scale above 75 % efficiency" in first
    assert second.startswith(
        "tinyimagenet: 4 GPUs (2 nodes) against Single GPU: 50.0 % efficient, 50.0 points lost: "
        "exposed communication 50.0. Exposed communication: 320.0 ms of a 640.0 ms step at 4 GPUs, "
        "0.0 ms of 320.0 ms at 1 GPU: 50.0 of the 50.0 points lost."
    )
    assert "Seen: Socket transport: NCCL talks through TCP sockets" in second
    part = page[page.index("Where efficiency is lost") : page.index("More tables")]
    summaries = [unescape(text) for text in re.findall(r"<summary>(.*?)</summary>", part)]
    assert len(summaries) == 3 and summaries[0].startswith("Single GPU, by itself")
    assert summaries[1].endswith("36.0 points lost: data wait 20.0, exposed communication 16.0")
    (is_open,) = re.findall(r"<details open>\s*<summary>(.*?)</summary>", part)
    assert is_open.startswith("4 GPUs (2 nodes)")
    assert "130.0 ms of a 500.0 ms step" in unescape(part)
    assert page.index('id="verdict"') < page.index("Where efficiency is lost")
    assert "Causes are ranked by the points of efficiency" in part


@pytest.mark.parametrize(
    ("ranks", "options", "words"),
    [
        ([rank(data=0.035)] * 2, {}, None),  # 1.5 points
        (
            [rank(own=0.45)] * 2,
            {},
            "no cause stands out, not explained 36.0. Not explained: forw",
        ),
        ([rank(comm=0.18)] * 2, {"probe": False}, "communication included"),
        ([rank(data=0.21)] * 2, {"precision": "bf16"}, None),  # not compared
    ],
)
def test_verdict_says_no_more_than_it_knows(tmp_path, ranks, options, words):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 2, "11", ranks, **options)
    text = state(tmp_path)
    assert (text is None) == (words is None), text
    assert words is None or words in text


def test_verdict_without_a_breakdown_says_what_is_missing(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    folder = write_known_run(tmp_path, 1, 2, "11", [rank(data=0.21)] * 2)
    for path in folder.glob("results/11/rank*.json"):
        path.unlink()
    text = state(tmp_path)
    assert "64.0 % efficient; no step breakdown is recorded. job 11: no rank" in text


def test_hostile_hosts_and_transports_stay_text(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    slow, fast = rank(own=0.45), rank(waits=0.18)
    bad = '"><img src=x onerror=alert(1)>'
    log = NCCL.replace("ib0", "ib<b>0")
    write_known_run(tmp_path, 2, 1, "11", [fast, slow], hosts=["a", bad], log=log)
    page = make_page(find_runs(tmp_path), "here")
    assert "<img" not in page and "ib<b>" not in page
    assert "rank 1 (&#34;&gt;&lt;img src=x onerror=alert(1)&gt;)" in page


def test_strategies_at_one_scale_are_side_by_side(tmp_path):
    write_known_run(tmp_path, 1, 2, "11", [BASE] * 2)
    write_known_run(tmp_path, 1, 2, "12", [BASE] * 2, strategy="zero1")
    tables = list_study_tables(make_study(find_runs(tmp_path)))
    assert [row["strategy"].text for row in tables[-1].rows] == ["ddp", "zero1"]
