"""The report page: its verdict, its tables and pages, and that no text of a log becomes markup."""

import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_plots import make_source, make_study

from common.errors import UserError
from run_folders import gpu_csv, gpu_row, out_text, put, write_run
from scaling.plots.timelines import Timeline
from scaling.report.differences import find_differences
from scaling.report.page import make_page
from scaling.report.runs import flatten, read_tail
from scaling.report.svg import choose_ticks, draw_path, draw_svg
from scaling.report.verdict import state_verdict
from scaling.runs.find import find_runs
from study_folders import write_study, write_study_run

REPO = Path(__file__).resolve().parents[3]
TEMPLATES = REPO / "templates"

PAYLOADS = [
    "<script>window.hacked=1</script>",
    "</pre></details><img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1>',
    "' onmouseover='window.hacked=1",
    "<a href=\"javascript:window.hacked=1\">look</a>",
    "]]><![CDATA[<script>window.hacked=1</script>",
    "--><script>window.hacked=1</script><!--",
    "{{ 7 * 7 }}{% for x in range(9) %}x{% endfor %}{# gone #}",
    "</title><style>*{display:none}</style>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'>",
    "$\\frac{1}{0}$ &lt;b&gt; &#60;b&#62;",
    "\x1b]8;;javascript:window.hacked=1\x07link\x1b]8;;\x07",
]  # fmt: skip


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


def read_html(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def write_hostile_run(root: Path) -> None:
    """A failed run whose log, records and file names are all payloads."""
    log = "\n".join([*PAYLOADS, f"RuntimeError: {PAYLOADS[0]}"]) + "\n"
    traceback = f"Traceback (most recent call last):\n  x\nRuntimeError: {PAYLOADS[1]}\n"
    write_run(
        root, 1, 2, "66", out=log + traceback, complete=False, exit_status=1,
        strategy=PAYLOADS[0], precision=PAYLOADS[2], gpu_name=PAYLOADS[3], model=PAYLOADS[4],
        argv=PAYLOADS, hosts=[PAYLOADS[5]], **{PAYLOADS[6]: PAYLOADS[7]},
    )  # fmt: skip
    write_study_run(root, 1, 1, "67", workload=PAYLOADS[2], unit=PAYLOADS[0])
    header_row = gpu_csv({0: [1000, 2000]}).splitlines()
    folder = root / "multi_gpu/2_gpus/gpu_memory/66"
    put(
        folder / "gpu_memory_log.csv", "\n".join([header_row[0], *PAYLOADS, *header_row[1:]]) + "\n"
    )


def test_verdict_comes_first_and_says_how_far_to_go(tmp_path):
    write_study(tmp_path)
    page = make_page(tmp_path, TEMPLATES)
    first = re.search(r'<ul class="verdict">\s*<li class="(\w+)">(.*?)</li>', page, re.DOTALL)
    assert first[1] == "good"
    assert (
        "ask for up to 16 GPUs, 8 nodes, 13.51 times as fast as 1 GPU (84.4 % efficient)"
        in first[2]
    )
    assert page.index('id="verdict"') < page.index("<table")
    assert "7 runs: 7 complete." in page


@pytest.mark.parametrize(
    ("rates", "kind", "words"),
    [
        # GPUs -> throughput; above 75 % is what is asked for, as in the tables' advice.
        ({1: 100, 2: 190, 4: 301, 8: 400}, "fair", "ask for up to 4 GPUs, 3.01 times"),
        ({1: 100, 2: 190, 4: 300, 8: 400}, "good", "ask for up to 2 GPUs, 1.90 times"),
        ({1: 100, 2: 140, 4: 160}, "poor", "no scale beyond 1 GPU is above 75 % efficiency"),
        ({1: 100, 2: 200, 4: 400}, "good", "That is the largest scale measured"),
        ({2: 200, 4: 380}, "good", "1.90 times as fast as 2 GPUs (95.0 % efficient)"),
        ({4: 380}, "note", "nothing to compare yet"),
    ],
)
def test_verdict_on_a_series(rates, kind, words):
    study = make_study([make_source(n, [rate / 2, rate, rate]) for n, rate in rates.items()])
    (first, *_) = state_verdict([study], [])
    assert (first.kind, words in first.text) == (kind, True), first.text


def test_beyond_the_advised_scale_the_next_one_is_named():
    rates = {1: 100, 2: 190, 4: 301, 8: 400}
    study = make_study([make_source(n, [rate, rate]) for n, rate in rates.items()])
    text = state_verdict([study], [])[0].text
    assert text.endswith(
        "Beyond, 8 GPUs is 4.00 times as fast as 1 GPU (50.0 % efficient), not above 75 %."
    )


def test_failed_run_has_its_cause_hint_and_excerpt(tmp_path):
    write_study_run(tmp_path, 1, 1, "11")
    lines = [f"line {n}" for n in range(1, 60)]
    log = "\n".join([*lines, "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"]) + "\n"
    write_run(tmp_path, 1, 2, "12", out=log, complete=False, exit_status=1)
    page = make_page(tmp_path, TEMPLATES)
    assert "2 runs: 1 complete, 1 out of memory." in page
    assert "Line 60 of its log, where the cause was read" in page
    assert re.search(r"<b> +60</b> +RuntimeError: CUDA out of memory", page)
    assert "To do: " in page


def test_page_is_whole_and_names_nothing_outside_of_itself(tmp_path):
    write_study(tmp_path, scales=((1, 1), (1, 2)))
    page = make_page(tmp_path, TEMPLATES)
    reader = read_html(page)
    assert {"link", "img", "iframe", "object", "embed", "form"} & set(reader.tags) == {"link"}
    links = [value for name, value in reader.attributes if name in ("href", "src", "xlink:href")]
    assert links and all(value == "data:," or value.startswith("#") for value in links)
    targets = {value[1:] for value in links if value.startswith("#")}
    assert targets <= set(reader.ids), targets - set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids)), "an id stands there twice"
    assert not re.search(r"(?:src|href|url\()\W{0,2}https?:", page)


def test_all_pictures_have_alternative_texts(tmp_path):
    write_study(tmp_path, scales=((1, 1), (1, 2)))
    page = make_page(tmp_path, TEMPLATES)
    pictures = re.findall(r"<svg [^>]*>", page)
    assert len(pictures) > 12
    for picture in pictures:
        assert 'role="img"' in picture
        assert len(re.search(r'aria-label="([^"]*)"', picture)[1]) > 20


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory) -> str:
    """All payloads at once: none may help another."""
    root = tmp_path_factory.mktemp("hostile")
    write_hostile_run(root)
    return make_page(root, TEMPLATES)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_stays_text(hostile_page, payload):
    reader = read_html(hostile_page)
    assert reader.tags.count("script") == 1 and reader.tags.count("style") == 1
    assert {"img", "iframe", "object", "embed"} & set(reader.tags) == set()
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert not [value for _, value in reader.attributes if "javascript:" in value.lower()[:40]]
    if "\x1b" not in payload:  # an escape sequence is taken out with the link in it
        shown = " ".join("".join(reader.texts).split())
        assert " ".join(payload.split()) in shown


def test_policy_allows_the_one_script_by_its_hash(tmp_path):
    import base64
    import hashlib

    write_study_run(tmp_path, 1, 1, "11")
    page = make_page(tmp_path, TEMPLATES)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_differences_name_what_must_agree(tmp_path):
    write_study_run(tmp_path, 1, 1, "11")
    write_study_run(tmp_path, 1, 2, "12")
    assert find_differences(find_runs(tmp_path)) is None
    write_study_run(tmp_path, 1, 2, "13", precision="bf16", git_commit="abc")
    found = find_differences(find_runs(tmp_path))
    assert found.columns == [("precision", True), ("git_commit", False)]
    assert found.rows == [(["fp16", "not recorded"], "11, 12"), (["bf16", "abc"], "13")]


def test_dropped_lines_are_counted_on_the_page(tmp_path):
    folder = write_study_run(tmp_path, 1, 1, "11")
    log = folder / "gpu_memory/11/gpu_memory_log.csv"
    log.write_text(log.read_text() + gpu_row(900, 0, "[N/A]") + "\n" + "cut, in the mid")
    page = make_page(tmp_path, TEMPLATES)
    assert "43 lines: 40 kept; dropped: 1 no data, 1 " in page.replace("&#39;", "'")


def test_nothing_to_report_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no job file"):
        make_page(tmp_path, TEMPLATES)


def test_folder_of_jobs_without_runs_still_makes_a_page(tmp_path):
    put(tmp_path / "baseline/baseline.slurm", "#!/bin/bash\n#SBATCH --job-name=ddp_1g1n\n")
    page = make_page(tmp_path, TEMPLATES)
    assert "No run has been started yet." in page and "no run yet: cd" in page


def test_old_workshop_run_without_json_has_its_page(tmp_path):
    write_run(tmp_path, 1, 1, "7", out=out_text(), record={}, exit_status=None)
    page = make_page(tmp_path, TEMPLATES)
    assert "1 run: 1 complete." in page and "704.9" in page


@pytest.mark.parametrize("name", ["results/7/run.json", "results/7/rank0_results_epoch0.json",
                                  "gpu_memory/7/gpu_memory_log.csv",
                                  "cpu_memory/7/cpu_memory_log.txt", "log/ddp_1g1n_7.out",
                                  "results/7/training_metrics.json"])  # fmt: skip
@pytest.mark.parametrize("data", [b"", b"\0\xff{\n" * 999])
def test_broken_files_cost_their_own_part_only(tmp_path, name, data):
    folder = write_study_run(tmp_path, 1, 1, "7")
    write_study_run(tmp_path, 1, 2, "8")
    (folder / name).write_bytes(data)
    page = make_page(tmp_path, TEMPLATES)
    assert "job 7," in page and "job 8," in page


# ---- Parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("greatest", "count", "end", "step"),
    [(100, 4, 100, 50), (26.5, 4, 30, 10), (3.25, 5, 4, 1), (0.9, 4, 1, 0.5), (0, 4, 1, 1),
     (190, 4, 200, 50), (7e-3, 5, 0.008, 0.002)],
)  # fmt: skip
def test_axis_ends_in_a_round_number(greatest, count, end, step):
    assert choose_ticks(greatest, count) == pytest.approx((end, step))


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
    assert draw_path(points) == path


def test_peak_of_one_sample_reaches_the_picture():
    values = [10.0] * 5000
    values[3210] = 99.0
    from scaling.plots.training_charts import thin

    xs, ys = thin([float(n) for n in range(5000)], values, 150)
    svg = draw_svg(Timeline("GPU utilisation", "%", {"GPU 0": (xs, ys)}))
    top = min(float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", svg.split('class="line')[1]))
    assert len(xs) < 200 and top == pytest.approx(8 + 120 * 0.01, abs=0.3)


def test_settings_are_flat_and_short():
    record = {"a": {"b": {"c": 1}, "d": []}, "e": "x" * 999, "f": None, "g": {}}
    found = dict(flatten(record))
    assert found["a.b.c"] == "1" and found["a.d"] == "[]" and found["f"] == "null"
    assert len(found["e"]) == 300 and found["g"] == "{}"


def test_tail_reads_the_end_of_a_large_log(tmp_path):
    log = tmp_path / "big.out"
    log.write_text("".join(f"line {n}\n" for n in range(200_000)))
    assert [text for _, text in read_tail(log)] == [f"line {n}" for n in range(199_970, 200_000)]


# ---- The command ------------------------------------------------------------------------------


def run_report(*options: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "scripts/report.py"), *map(str, options)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_command_writes_the_page_whole(tmp_path):
    write_study_run(tmp_path / "experiments", 1, 1, "11")
    (tmp_path / "tables").mkdir()
    done = run_report("experiments", "--output", "tables/report.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"tables/report\.html: \d+\.\d MB, \d+\.\d s\n", done.stdout)
    assert (tmp_path / "tables/report.html").read_text().endswith("</html>\n")
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("nowhere",), 1, "nowhere: no such folder"),
        (("--watch", "1"), 2, "give 5 seconds or more"),
        (("experiments", "-o", "no/such/report.html"), 1, "cannot be written"),
    ],
)
def test_bad_input_is_one_line(tmp_path, options, status, words):
    write_run(tmp_path / "experiments", 1, 1, "11")
    done = run_report(*options, cwd=tmp_path)
    assert done.returncode == status and words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "report.html").exists()


def test_watch_writes_again_and_the_page_reloads_itself(tmp_path):
    write_study_run(tmp_path / "experiments", 1, 1, "11")
    command = [sys.executable, str(REPO / "scripts/report.py"), "experiments", "--watch", "5"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        first = (tmp_path / "report.html").read_text()
        assert '<meta http-equiv="refresh" content="5">' in first and "1 run: 1 complete." in first
        write_study_run(tmp_path / "experiments", 1, 2, "12")
        assert "report.html" in process.stdout.readline()
        assert "2 runs: 2 complete." in (tmp_path / "report.html").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert process.returncode == 0
