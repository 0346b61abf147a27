"""The report page: its verdict, its tables and pages, and that no text of a log becomes markup."""

import base64
import hashlib
import re
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import report as command
from common.errors import UserError
from diagnosis_runs import rank, write_known_run
from hostile_runs import PAYLOADS
from made_studies import make_rates_study
from opened_files import count_opens
from run_folders import gpu_row, out_text, put, write_run
from scaling.diagnose import diagnose
from scaling.plots import Timeline
from scaling.plots.style import thin
from scaling.report import list_study_tables, make_page
from scaling.report.page import make_differences, state_loss, state_verdict
from scaling.report.run_page import (
    choose_ticks,
    draw_path,
    draw_timeline,
    flatten,
    list_excerpts,
    list_files,
)
from scaling.runs import find_runs, make_studies, make_study
from study_folders import SCALES, write_study_run


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)


@pytest.fixture(scope="module")
def page(report) -> str:
    return report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(page) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def make(root: Path) -> str:
    return make_page(find_runs(root), str(root))


# ---- The verdict ------------------------------------------------------------------------------


def test_verdict_comes_first_and_says_how_far_to_go(page, whole_study):
    assert page.index('id="verdict"') < page.index("<table")
    runs = find_runs(whole_study)
    first, *notes = state_verdict([(study, []) for study in make_studies(runs)], runs)
    assert first.kind == "good"
    assert (
        "16 GPUs (8 nodes) is the largest measured scale above 75 % efficiency (84.4 %)."
        in first.text
    )
    assert "7 runs: 7 complete." in [note.text for note in notes]


@pytest.mark.parametrize(
    ("rates", "kind", "words"),
    [
        # GPUs -> throughput; above 75 % is what is asked for, as in the tables' advice.
        ({1: 100, 2: 190, 4: 301, 8: 400}, "fair", "4 GPUs (1 node) is the largest measured"),
        ({1: 100, 2: 190, 4: 300, 8: 400}, "good", "2 GPUs (1 node) is the largest measured"),
        (
            {1: 100, 2: 140, 4: 160},
            "poor",
            "75 % efficiency (100.0 %). 2 GPUs (1 node) has 70",
        ),
        ({1: 100, 2: 200, 4: 400}, "good", "It is also the largest that was measured"),
        ({2: 200, 4: 380}, "good", "(95.0 %)"),
        ({4: 380}, "note", "nothing to compare yet"),
    ],
)
def test_verdict_on_a_series(rates, kind, words):
    (first, *_) = state_verdict([(make_rates_study(rates), [])], [])
    assert (first.kind, words in first.text) == (kind, True), first.text


def test_beyond_the_advised_scale_the_next_one_is_named():
    study = make_rates_study({1: 100, 2: 190, 4: 301, 8: 400})
    assert state_verdict([(study, [])], [])[0].text.endswith(" 8 GPUs (1 node) has 50.0 %.")


# ---- The page ---------------------------------------------------------------------------------


def test_page_is_whole_and_names_nothing_outside_of_itself(page, reader):
    assert {"link", "img", "iframe", "object", "embed", "form"} & set(reader.tags) == {"link"}
    links = [value for name, value in reader.attributes if name in ("href", "src", "xlink:href")]
    # The bar of a chart's many colours is a picture that stands in the page itself.
    own = ("#", "data:,", "data:image/png;base64,")
    assert links and all(value.startswith(own) for value in links)
    targets = {value[1:] for value in links if value.startswith("#")}
    assert targets <= set(reader.ids), targets - set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids)), "an id stands there twice"
    # SVG names its namespaces; nothing loads from there.
    assert not re.search(r"(?:src|href|url\()\W{0,2}https?:", page)


def test_every_section_is_there(reader):
    shown = "".join(reader.texts)
    for title in (
        "Verdict", "Multi-GPU Scaling (1 Node)", "Multi-Node Scaling (Fixed GPUs per Node)",
        "Means over the epochs after the warm-up", "Where efficiency is lost", "More tables",
        "How many GPUs", "Cost", "Charts", "What differs between the runs", "Runs", "Epochs",
        "Timelines", "The last 9 lines of its log", "What was read, and what was dropped",
        "Settings",
    ):  # fmt: skip
        assert title in shown, title


def test_all_pictures_have_alternative_texts(page):
    pictures = re.findall(r"<svg [^>]*>", page)
    assert len(pictures) > 12
    for picture in pictures:
        assert 'role="img"' in picture
        assert len(re.search(r'aria-label="([^"]*)"', picture)[1]) > 20


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_stays_text(reader, payload):
    assert reader.tags.count("script") == 1 and reader.tags.count("style") == 1
    assert {"img", "iframe", "object", "embed"} & set(reader.tags) == set()
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert not [value for _, value in reader.attributes if "javascript:" in value.lower()[:40]]
    if "\x1b" not in payload:  # an escape sequence is taken out with the link in it
        shown = " ".join("".join(reader.texts).split())
        assert " ".join(payload.split()) in shown


def test_policy_allows_the_one_script_by_its_hash(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_runs_that_differ_are_told_apart_by_what_must_agree(tmp_path):
    write_study_run(tmp_path, 1, 1, "11")
    write_study_run(tmp_path, 1, 2, "12")
    assert make_differences(find_runs(tmp_path)) is None
    write_study_run(tmp_path, 1, 2, "13", precision="bf16", git_commit="abc")
    found = make_differences(find_runs(tmp_path))
    assert list(found.headers.values()) == ["Runs", "precision *", "git_commit"]
    assert [[cell.text for cell in row.values()] for row in found.rows] == [
        ["11, 12", "fp16", "not recorded"], ["13", "bf16", "abc"],
    ]  # fmt: skip


def test_nothing_to_report_is_one_line():
    with pytest.raises(UserError, match="here: no job file"):
        make_page([], "here")


def test_folder_of_jobs_without_runs_still_makes_a_page(tmp_path):
    put(tmp_path / "baseline/baseline.slurm", "#!/bin/bash\n#SBATCH --job-name=ddp_1g1n\n")
    page = make(tmp_path)
    assert "No run has been started yet." in page and "no run yet: cd" in page


def test_old_workshop_run_without_json_has_its_page(tmp_path, undrawn):
    write_run(tmp_path, 1, 1, "7", out=out_text(), record={}, exit_status=None)
    page = make(tmp_path)
    assert "1 run: 1 complete." in page and "704.9" in page


@pytest.mark.parametrize("name", ["results/7/run.json", "results/7/rank0_results_epoch0.json",
                                  "gpu_memory/7/gpu_memory_log.csv",
                                  "cpu_memory/7/cpu_memory_log.txt", "log/ddp_1g1n_7.out",
                                  "results/7/training_metrics.json"])  # fmt: skip
@pytest.mark.parametrize("data", [b"", b"\0\xff{\n" * 999], ids=["empty", "binary"])
def test_broken_files_cost_their_own_part_only(tmp_path, undrawn, name, data):
    folder = write_study_run(tmp_path, 1, 1, "7")
    write_study_run(tmp_path, 1, 2, "8")
    (folder / name).write_bytes(data)
    page = make(tmp_path)
    assert "job 7," in page and "job 8," in page


# ---- A run's page -----------------------------------------------------------------------------


def test_failed_run_has_its_cause_hint_and_excerpt(page, tmp_path):
    assert "1 out of memory" in page and ". To do: " in page
    lines = [f"line {n}" for n in range(1, 60)]
    log = "\n".join([*lines, "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"]) + "\n"
    write_run(tmp_path, 1, 2, "12", out=log, complete=False, exit_status=1)
    (run,) = find_runs(tmp_path)
    (where, around), (end, tail) = list_excerpts(run)
    assert where == "Line 60 of its log, where the cause was read"
    assert (60, log.splitlines()[-1]) in around and (59, "line 59") in around
    assert end == "The last 30 lines of its log" and tail[0] == (31, "line 31")


def test_a_long_line_of_a_log_is_cut(tmp_path):
    write_run(tmp_path, 1, 1, "12", out="word " * 100, complete=False, exit_status=1)
    (run,) = find_runs(tmp_path)
    ((_, [(number, text)]),) = [each for each in list_excerpts(run) if "last" in each[0]]
    assert number == 1 and len(text) == 240 and text.endswith("…")


def test_dropped_lines_are_counted(tmp_path):
    folder = write_study_run(tmp_path, 1, 1, "11")
    log = folder / "gpu_memory/11/gpu_memory_log.csv"
    log.write_text(log.read_text() + gpu_row(900, 0, "[N/A]") + "\n" + "cut, in the mid")
    (run,) = find_runs(tmp_path)
    files = dict(list_files(run))
    # The row without memory has its power and clocks.
    assert "43 lines: 41 kept; dropped: 1 cut: the last line has no end" in files[str(log)]
    # Five epochs, and the three lines of totals.
    assert files[str(run.log_path)].startswith("9 lines: 8 kept; ignored: 1 NCCL")


@pytest.mark.parametrize(
    ("greatest", "count", "end", "step"),
    [(100, 4, 100, 50), (26.5, 4, 30, 10), (3.25, 5, 4, 1), (0.9, 4, 1, 0.5), (0, 4, 1, 1),
     (190, 4, 200, 50), (7e-3, 5, 0.008, 0.002)],
)  # fmt: skip
def test_axis_ends_in_a_round_number(greatest, count, end, step):
    ticks = choose_ticks(greatest, count)
    assert (ticks[0], ticks[1], ticks[-1]) == pytest.approx((0, step, end))


@pytest.mark.parametrize(
    ("points", "path"),
    [
        ([(1, 1), (2, 1), (3, 1), (4, 5)], "M1 1L3 1L4 5"),
        ([(1, 1), (1.1, 1.1), (2, 2)], "M1 1L2 2"),
        ([(1, 1)], "M1 1h1"),
        ([(0, 3.26), (9, 3.24)], "M0 3.5L9 3"),
    ],
)
def test_path_leaves_out_only_what_changes_nothing(points, path):
    assert draw_path(*np.array(points, float).T) == path


def test_peak_of_one_sample_reaches_the_picture():
    values = [10.0] * 5000
    values[3210] = 99.0
    xs, ys = thin([float(n) for n in range(5000)], values, 150)
    svg = draw_timeline(Timeline("GPU utilisation", "%", {"GPU 0": (xs, ys)}))
    top = min(float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", svg.split('class="line')[1]))
    assert len(xs) < 200 and top == pytest.approx(8 + 120 * 0.01, abs=0.3)


def test_settings_are_flat_and_short():
    record = {"a": {"b": {"c": 1}, "d": []}, "e": "x" * 999, "f": None, "g": {}}
    found = dict(flatten(record))
    assert found["a.b.c"] == "1" and found["a.d"] == "[]" and found["f"] == "null"
    assert len(found["e"]) == 300 and found["g"] == "{}"


# ---- Where efficiency is lost ---------------------------------------------------------------

BASE = rank()
NCCL = (
    "n:1:1 [0] NCCL INFO NET/Socket : Using [0]ib0:10.0.0.1<0>\nn: NCCL INFO Using network Socket\n"
)


def write_lossy_study(root: Path) -> None:
    """64 % efficient on 4 GPUs of one node, 50 % on two nodes."""
    write_known_run(root, 1, 1, "10", [BASE])
    write_known_run(root, 1, 4, "11", [rank(data=0.13, comm=0.08)] * 4)
    write_known_run(root, 2, 2, "12", [rank(comm=0.32)] * 4, log=NCCL)


def read_verdict(page: str) -> list[str]:
    (verdict,) = re.findall(r'<ul class="verdict">(.*?)</ul>', page, re.DOTALL)
    return [unescape(text).strip() for text in re.findall(r"<li[^>]*>(.*?)</li>", verdict)]


def state(root: Path) -> str | None:
    return state_loss("tinyimagenet", diagnose(make_study(find_runs(root))))


def test_page_says_to_what_the_efficiency_is_lost(tmp_path, undrawn):
    write_lossy_study(tmp_path)
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
def test_verdict_says_no_more_than_it_knows(tmp_path, undrawn, ranks, options, words):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 2, "11", ranks, **options)
    text = state(tmp_path)
    assert (text is None) == (words is None), text
    assert words is None or words in text


def test_verdict_without_a_breakdown_says_what_is_missing(tmp_path, undrawn):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    folder = write_known_run(tmp_path, 1, 2, "11", [rank(data=0.21)] * 2)
    for path in folder.glob("results/11/rank*.json"):
        path.unlink()
    text = state(tmp_path)
    assert "64.0 % efficient; no step breakdown is recorded. job 11: no rank" in text


def test_hostile_hosts_and_transports_stay_text(tmp_path, undrawn):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    slow, fast = rank(own=0.45), rank(waits=0.18)
    bad = '"><img src=x onerror=alert(1)>'
    log = NCCL.replace("ib0", "ib<b>0")
    write_known_run(tmp_path, 2, 1, "11", [fast, slow], hosts=["a", bad], log=log)
    page = make_page(find_runs(tmp_path), "here")
    assert "<img" not in page and "ib<b>" not in page
    assert "rank 1 (&#34;&gt;&lt;img src=x onerror=alert(1)&gt;)" in page


def test_strategies_at_one_scale_are_side_by_side(tmp_path, undrawn):
    write_known_run(tmp_path, 1, 2, "11", [BASE] * 2)
    write_known_run(tmp_path, 1, 2, "12", [BASE] * 2, strategy="zero1")
    tables = list_study_tables(make_study(find_runs(tmp_path)))
    assert [row["strategy"].text for row in tables[-1].rows] == ["ddp", "zero1"]


# ---- The command ------------------------------------------------------------------------------


@pytest.fixture
def run_report(tmp_path, monkeypatch, capsys):
    """Runs report.py in an empty folder and this process: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*options: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, options)])
        try:
            status = command.main()
        except SystemExit as error:  # argparse
            status = error.code
        return status, *capsys.readouterr()

    return run


def test_command_opens_each_file_of_the_study_once(run_report, whole_study, undrawn):
    with count_opens(whole_study) as opened:
        status, text, errors = run_report(whole_study, "--output", "page.html")
    assert status == 0, errors
    assert re.fullmatch(r"page\.html: \d+\.\d MB, \d+\.\d s\n", text)
    assert Path("page.html").read_text().endswith("</html>\n")
    assert [path.name for path in Path().iterdir()] == ["page.html"]
    assert {name: count for name, count in opened.items() if count > 1} == {}
    assert len([name for name in opened if "gpu_memory" in name]) == sum(n for n, _ in SCALES)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("nowhere",), 1, "nowhere: no such folder"),
        (("--watch", "1"), 2, "give 5 seconds or more"),
        (("experiments", "-o", "no/such/report.html"), 1, "cannot be written"),
    ],
)
def test_bad_input_is_one_line(run_report, undrawn, options, status, words):
    write_run(Path("experiments"), 1, 1, "11")
    found, _, errors = run_report(*options)
    assert found == status and words in errors.splitlines()[-1]
    assert not Path("report.html").exists()


def test_watch_writes_again_and_the_page_reloads_itself(run_report, undrawn, monkeypatch):
    """What a reader sees after the first and after the second writing, which Ctrl-C follows."""
    write_study_run(Path("experiments"), 1, 1, "11")
    seen = []

    def sleep(seconds: float) -> None:
        seen.append((seconds, Path("report.html").read_text()))
        if len(seen) == 2:
            raise KeyboardInterrupt
        write_study_run(Path("experiments"), 1, 2, "12")

    monkeypatch.setattr(command.time, "sleep", sleep)
    status, text, errors = run_report("--watch", "5")
    assert (status, errors, text.count("report.html: ")) == (0, "", 2)
    (wait_s, first), (_, second) = seen
    assert wait_s == 5 and '<meta http-equiv="refresh" content="5">' in first
    assert "1 run: 1 complete." in first and "2 runs: 2 complete." in second
