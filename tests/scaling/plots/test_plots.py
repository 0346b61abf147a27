"""Charts: which are drawn from what, their numbers, and that no text lies on another."""

import json
import struct
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

import plot_scaling
from common.errors import UserError
from diagnosis_runs import rank, write_known_run
from made_studies import make_rates_study, make_run, make_study
from opened_files import count_opens
from run_folders import gpu_csv, put, write_run
from scaling.plots import (
    Chart,
    draw,
    list_charts,
    list_device_charts,
    list_left_out,
    list_run_charts,
    save_charts,
)
from scaling.plots.charts import (
    PAGE_SIZE_IN,
    break_down,
    list_compared,
    list_configs,
    list_latest_epochs,
    list_timelines,
)
from scaling.plots.style import HEIGHT_IN, LEAST_PT, WIDTH_IN, shorten_label, show_rate, thin
from scaling.runs import find_runs, make_metrics_studies, make_samples, make_studies
from scaling.tables import compare_devices
from study_folders import SCALES, make_metrics, write_study, write_study_run

REPO = Path(__file__).resolve().parents[3]
PAPER_IN = (WIDTH_IN, HEIGHT_IN)
STUDIES = {
    "one configuration": lambda: [make_run(1, [700.0, 704.9, 705.0])],
    "one epoch": lambda: [make_run(1, [700.0]), make_run(2, [1300.0])],
    "seven scales": lambda: [
        make_run(gpus, [600.0 * gpus, 690.0 * gpus, 700.0 * gpus], nodes)
        for gpus, nodes in ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (8, 4), (16, 8))
    ],
    "64 scales": lambda: [make_run(n, [600.0 * n, 700.0 * n**0.95]) for n in range(1, 65)],
    "8 scales of 8 batches": lambda: [
        make_run(2**k, [600.0, 700.0 * 2**k * 0.97**k * b], batch_size_per_gpu=32 * b)
        for k in range(8)
        for b in range(1, 9)
    ],
    "64 settings": lambda: [
        make_run(4, [600.0, 700.0 + b], batch_size_per_gpu=b, model=f"a_model_named_{b}")
        for b in range(64)
    ],
    "32 settings of long names": lambda: [
        make_run(n, [600.0, 700.0 + b], strategy=f"fully sharded with offload {b}" * 2)
        for b in range(32)
        for n in (1, 8)
    ],
}


def list_texts(figure: Figure) -> list[tuple[str, object]]:
    """Every text that is drawn, with its box; the label of a tick outside of its axis is not."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    texts = [text for legend in figure.legends for text in legend.get_texts()] + figure.texts
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, axes._left_title, *axes.texts]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    texts += [tick.label1, tick.label2]
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


@pytest.mark.parametrize(
    ("name", "size_in"),
    [
        *((name, PAPER_IN) for name in STUDIES if name != "64 settings"),
        *((name, PAGE_SIZE_IN) for name in ("seven scales", "64 settings")),
    ],
)
def test_no_text_lies_on_another_or_is_cut(name, size_in):
    study = make_study(STUDIES[name]())
    drawn = 0
    for chart in list_charts(study):
        # Against time is drawn as against epochs; score by time is shown once.
        if chart.reason or ("by_time" in chart.name and name != "seven scales"):
            continue
        figure = draw(chart, size_in)
        texts, page = list_texts(figure), figure.bbox
        for text, box in texts:
            inside = page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1
            inside = inside and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
            assert inside, f"{chart.name}: {text!r} is cut"
        texts = [(text, box.shrunk(0.98, 0.9), box) for text, box in texts]
        for (one, a, _), (other, _, b) in combinations(texts, 2):
            assert not a.overlaps(b), f"{chart.name}: {one!r} on {other!r}"
        sizes = [t.get_fontsize() for t in figure.findobj(Text) if t.get_text()]
        assert min(sizes) >= LEAST_PT, chart.name
        if name == "one epoch" and chart.name == "loss_by_epoch":
            lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
            assert len(lines) == 4 and all(line.get_marker() != "None" for line in lines)
        drawn += 1
    assert drawn >= 4


@pytest.mark.parametrize(
    "form", [(100, 157, 171, 155, 149, 147, 119), (10, 19, 36, 69, 35, 64, 131)]
)
def test_values_beside_points_are_apart(form):
    scales = ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (8, 4), (16, 8))
    runs = [make_run(n, [rate] * 3, nodes) for (n, nodes), rate in zip(scales, form, strict=True)]
    figure = draw(list_charts(make_study(runs))[0])
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 6
    for one, other in combinations(boxes, 2):
        assert not one.expanded(1.1, 1).overlaps(other)


# ---- What a chart shows of a study -------------------------------------------------------------


def test_series_that_cannot_be_compared_have_a_throughput_and_no_speedup():
    study = make_study([make_run(1, [1.0, 1.0]), make_run(2, [2.0, 2.0], precision="bf16")])
    assert list_configs(study)["title"].to_list() == ["2 GPUs (bf16)", "1 GPU (fp16)"]
    assert list_compared(study).empty
    by_name = {chart.name: chart for chart in list_charts(study)}
    assert "equal settings" in by_name["speedup_chart"].reason
    assert by_name["throughput_chart"].reason is None


def test_strong_scaling_is_a_line_of_its_own():
    def strong(gpus: int):
        batch = {"global_batch_size": 512, "batch_size_per_gpu": 512 // gpus}
        return make_run(gpus, [100.0 * gpus, 100.0 * gpus], scaling="strong", **batch)

    configs = list_compared(make_study([strong(1), strong(4), make_run(1, [1.0, 1.0])]))
    assert configs["mode"].to_list() == ["strong", "strong"]
    assert configs["gpus"].to_list() == [1, 4]


def test_larger_series_come_first_and_batches_in_the_order_of_numbers():
    batches = (64, 512, 128, 1024)
    runs = [make_run(1, [1.0], batch_size_per_gpu=b) for b in batches]
    study = make_study([*runs, make_run(2, [2.0], batch_size_per_gpu=512)])
    names = list_configs(study)["series_name"].unique()
    assert [name.split()[-1] for name in names] == ["512", "64", "128", "1024"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(57289.31, "57,290"), (704.9, "704.9"), (100791.44, "100,800"), (0.5, "0.5"),
     (1e6, "1,000,000"), (999.96, "1,000"), (9999.6, "10,000")],
)  # fmt: skip
def test_rates_have_no_exponent(value, text):
    assert show_rate(value) == text


def test_axis_of_rates_has_no_exponent():
    study = make_rates_study({1: 1e6, 4: 4e6})
    figure = draw(next(c for c in list_charts(study) if c.name == "throughput_chart"))
    assert not [shown for shown, _ in list_texts(figure) if "e+" in shown]


def test_minutes_are_sums_of_whole_epochs():
    study = make_study([make_run(1, [1.0] * 3), make_run(2, [2.0] * 3)])
    assert list_latest_epochs(study)["minutes"].to_list() == [1.0, 2.0, 3.0] * 2
    study.epochs.loc[1, "epoch_s"] = float("nan")  # what follows is not known either
    assert list_latest_epochs(study)["minutes"].isna().to_list() == [False, True, True] + 3 * [
        False
    ]


def test_breakdown_takes_exposed_communication_out_of_compute(tmp_path):
    # 40 steps: 5 s of data, 1 copying, 40 computing of which 8 communicate, 4 optimizing, 5 other.
    parts = {"data": 0.125, "copy": 0.025, "own": 0.8, "comm": 0.2, "optimizer": 0.1}
    write_known_run(tmp_path, 1, 2, "7", [rank(**parts, other=0.125)] * 2)
    (study,) = make_studies(find_runs(tmp_path))
    (found,) = break_down(study).to_dict("records")
    assert found["title"] == "2 GPUs" and found["total_s"] == pytest.approx(55.0)
    shares = {"waiting for data": 5.0, "copy": 1.0, "compute": 32.0, "exposed communication": 8.0,
              "optimizer": 4.0, "rest": 5.0}  # fmt: skip
    assert {name: found[name] * 55 / 100 for name in shares} == pytest.approx(shares)


# ---- From files --------------------------------------------------------------------------------


def test_all_charts_from_run_folders(tmp_path):
    (study,) = make_studies(find_runs(write_study(tmp_path, scales=((1, 1), (1, 2), (2, 2)))))
    assert [c.reason for c in list_charts(study)] == [None] * 9
    configs = list_compared(study)
    assert configs["title"].to_list() == ["1 GPU", "2 GPUs", "4 GPUs, 2 nodes"]
    # 700 x 2 / 1.035 / 700 / 2
    assert configs["efficiency_pct"].iloc[1] == pytest.approx(100 / 1.035)


def write_metrics(folder: Path, gpus: int, rates: list[float], **config: object) -> Path:
    record = make_metrics(str(gpus), 1, gpus, rates, [5.0] * len(rates))
    record["training_config"] |= config
    return put(folder / f"{gpus}/training_metrics.json", json.dumps(record))


def test_charts_from_metrics_files_alone(tmp_path):
    files = [write_metrics(tmp_path, n, [300.0 * n, 630.0 * n, 630.0 * n]) for n in (1, 2, 4)]
    (study,) = make_metrics_studies(files)
    assert list_configs(study)["gpus"].to_list() == [1, 2, 4]  # not gpu_count_visible, 8
    assert [c.reason for c in list_charts(study)] == [None] * 9
    steps = break_down(study).iloc[0]
    assert steps["waiting for data"] == pytest.approx(100 * 0.03 / 0.4)
    assert list(list_run_charts(study)) == []


def test_metrics_of_others_with_one_global_batch_are_strong_scaling(tmp_path):
    files = [
        write_metrics(
            tmp_path, n, [600.0 * n] * 3, global_batch_size=512, micro_batch_size_per_gpu=512 // n
        )
        for n in (1, 2, 4)
    ]
    (study,) = make_metrics_studies(files)
    assert list_compared(study)["mode"].to_list() == ["strong"] * 3


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"epochs": [{"epoch": 1}], "summary": {}}, "name its number of GPUs"),
        ({"hello": 1}, "not a training_metrics.json"),
        ({"epochs": [{"epoch": 1}], "hardware": {"world_size": 2}}, "no epoch in it has a thr"),
    ],
)
def test_metrics_file_that_cannot_be_used_is_named(tmp_path, record, words):
    path = put(tmp_path / "training_metrics.json", json.dumps(record))
    with pytest.raises(UserError, match=words) as raised:
        make_metrics_studies([path])
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("rate", [0, -5.0, 1e300])
def test_run_with_an_epoch_without_a_throughput_is_named_and_not_drawn(tmp_path, rate):
    good = write_metrics(tmp_path, 1, [100.0, 200.0, 200.0])
    bad = write_metrics(tmp_path, 2, [100.0, 200.0, 200.0])
    record = json.loads(bad.read_text())
    record["epochs"][2]["samples_per_sec_global"] = rate
    put(bad, json.dumps(record))
    (study,) = make_metrics_studies([good, bad])
    assert list_configs(study)["gpus"].to_list() == [1]
    assert list_left_out(study) == [f"job {bad}: not every epoch has a throughput"]


def test_incomplete_and_failed_runs_are_not_drawn(tmp_path):
    write_study_run(tmp_path, 1, 1, "1")
    write_run(tmp_path, 1, 2, "2", complete=False, exit_status=1, out="RuntimeError: no\n")
    (study,) = make_studies(find_runs(tmp_path))
    assert list_configs(study)["gpus"].to_list() == [1]


def test_run_with_logs_alone_is_drawn_with_settings_unknown(tmp_path):
    for gpus, rate in ((1, 700.0), (2, 1300.0)):
        write_run(tmp_path, 1, gpus, str(gpus), record={}, exit_status=None, throughput=rate)
    (study,) = make_studies(find_runs(tmp_path))
    assert list_compared(study)["speedup"].iloc[1] == pytest.approx(1300 / 700)
    reasons = {c.name: c.reason for c in list_charts(study) if c.reason}
    assert set(reasons) == {"loss_by_time", "score_by_time", "step_breakdown"}


# ---- Samples and thinning ----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=900), st.integers(10, 200))
def test_thinning_loses_no_peak_and_no_end(values, most):
    xs, ys = thin([float(n) for n in range(len(values))], values, most)
    assert xs == sorted(xs) and all(values[int(x)] == y for x, y in zip(xs, ys, strict=True))
    assert (max(ys), min(ys)) == (max(values), min(values))
    assert (xs[0], xs[-1]) == (0, len(values) - 1)
    assert len(xs) <= max(most, 10) + 6


def test_missing_samples_are_gaps_and_not_zeros():
    assert thin([0.0, 1.0, 2.0], [5.0, float("nan"), 7.0]) == ([0.0, 2.0], [5.0, 7.0])
    assert thin([], []) == ([], [])


def test_many_gpus_are_drawn_as_range_and_median(tmp_path):
    write_study_run(tmp_path, 8, 2, "7", rounds=6)
    (run,) = find_runs(tmp_path)
    memory, _ = list_timelines(make_samples(run), "nvidia-smi")
    assert list(memory.lines) == ["Greatest", "Median", "Least"]
    assert memory.lines["Greatest"][1][-1] == pytest.approx((26000 + 60 + 0) / 1024)
    assert memory.lines["Least"][1][-1] == pytest.approx(26000 / 1024)
    assert "16 GPUs" in memory.note


def test_one_gpu_log_gives_its_lines(tmp_path):
    folder = write_run(tmp_path, 1, 1, "7")
    put(folder / "gpu_memory/7/gpu_memory_log.csv", gpu_csv({0: [1024, 2048], 3: [512, 512]}))
    (run,) = find_runs(tmp_path)
    memory, use = list_timelines(make_samples(run), "nvidia-smi")
    assert memory.lines["GPU 0"] == ([0.0, 5 / 60], [1.0, 2.0])
    assert memory.lines["GPU 3"][1] == [0.5, 0.5] and use.lines["GPU 0"][1] == [97.0, 97.0]


def test_one_cpu_log_gives_its_lines(tmp_path):
    write_run(tmp_path, 2, 1, "7", rss_mib=[1024.0, 2048.0, 512.0])
    (run,) = find_runs(tmp_path)
    cpu, memory = list_timelines(make_samples(run), "psrecord")
    # The first CPU sample of psrecord is always 0 and says nothing.
    assert cpu.lines["Node 1"] == ([5 / 60, 10 / 60], [190.0, 190.0])
    assert memory.lines["Node 0"] == ([0.0, 5 / 60, 10 / 60], [1.0, 2.0, 0.5])


# ---- One device against several ----------------------------------------------------------------


def write_workdir(folder: Path, ranks: int, times: list[float], rate: float) -> Path:
    for number in range(ranks):
        for epoch, seconds in enumerate(times):
            record = {"training_time": seconds + number, "tokens_per_sec": rate + epoch}
            put(folder / f"rank{number}_results_epoch{epoch}.json", json.dumps(record))
    return folder


def test_device_bars_leave_the_first_epoch_out(tmp_path):
    single = write_workdir(tmp_path / "workdir_single", 1, [99.0, 44.0, 46.0], 1000.0)
    multi = write_workdir(tmp_path / "workdir_2gpu", 2, [99.0, 23.0, 25.0], 900.0)
    devices = compare_devices(single, multi)
    times, rates = (draw(chart).axes[0] for chart in list_device_charts(devices))
    assert [text.get_text() for text in times.get_yticklabels()] == ["GPU 0", "GPU 1", "Single GPU"]
    assert [bar.get_width() for bar in times.patches] == [24.0, 25.0, 45.0]
    (_, _, (lines,)) = times.containers[0]
    assert [(high - low) / 2 for (low, _), (high, _) in lines.get_segments()] == pytest.approx(
        [2**0.5] * 3
    )
    assert [text.get_text() for text in rates.get_yticklabels()] == ["2 GPUs (sum)", "Single GPU"]
    assert [bar.get_width() for bar in rates.patches] == [1803.0, 1001.5]


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("workdir_2gpu/rank1_results_epoch1.json", "missing: workdir_2gpu/rank1_"),
        ("workdir_2gpu/rank0_results_epoch0.json", "missing: workdir_2gpu/rank0_"),
        ("workdir_single", "workdir_single: no such folder"),
    ],
)
def test_missing_device_file_is_named(command, missing, named):
    write_workdir(Path("workdir_single"), 1, [9.0, 9.0], 1.0)
    write_workdir(Path("workdir_2gpu"), 2, [9.0, 9.0], 1.0)
    if Path(missing).is_dir():
        Path(missing).rename("elsewhere")
    else:
        Path(missing).unlink()
    status, _, errors = command()
    assert status == 1 and named in errors and errors.count("\n") == 1
    assert not Path("submit_figures").exists()


# ---- The command -------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs plot_scaling.py in an empty folder and this process: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*options: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plot_scaling.py", *map(str, options)])
        try:
            status = plot_scaling.main()
        except SystemExit as error:  # argparse
            status = error.code
        return status, *capsys.readouterr()

    return run


def test_without_options_the_two_workdirs_are_drawn(command):
    write_workdir(Path("workdir_single"), 1, [9.0, 8.0, 8.5], 1000.0)
    write_workdir(Path("workdir_2gpu"), 2, [9.0, 4.0, 4.5], 1000.0)
    status, text, errors = command()
    assert status == 0, errors
    names = ["training_time_comparison.png", "tokens_per_second_comparison.png"]
    assert text.split()[-2:] == [f"submit_figures/{name}" for name in names]
    assert "  Training Time Speedup: 1.74x" in text  # 8.25 s / (4.25 s + 5.25 s) x 2
    for name in names:
        assert read_dpi(Path("submit_figures") / name) == pytest.approx(300, abs=0.1)


def read_dpi(path: Path) -> float:
    """A PNG's pixels per metre from its pHYs chunk, as dots per inch."""
    data = path.read_bytes()
    at = data.index(b"pHYs") + 4
    return struct.unpack(">I", data[at : at + 4])[0] * 0.0254


def test_all_figures_from_the_command_line(tmp_path):
    write_study(tmp_path / "experiments", scales=((1, 1), (1, 2)))
    script = [sys.executable, str(REPO / "scripts/plot_scaling.py")]
    done = subprocess.run(
        [*script, "--all-figures", "figures", "--format", "svg"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {
        "speedup_chart", "efficiency_chart", "throughput_chart", "strong_weak_efficiency",
        "loss_by_epoch", "loss_by_time", "score_by_epoch", "score_by_time", "step_breakdown",
        "gpu_timeline_101", "cpu_timeline_101", "gpu_timeline_102", "cpu_timeline_102",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{n}.svg" for n in names}
    assert set(done.stdout.split()) == {f"figures/{name}.svg" for name in names}


def test_a_chart_in_three_formats(tmp_path):
    charts = [c for c in list_charts(make_rates_study({1: 1.0})) if c.name == "throughput_chart"]
    png, svg, pdf = save_charts(charts, tmp_path, ("png", "svg", "pdf", "svg"))[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"throughput_chart.{suffix}" for suffix in ("png", "svg", "pdf")
    )
    assert png.read_bytes().startswith(b"\x89PNG") and pdf.read_bytes().startswith(b"%PDF")
    assert "<svg" in svg.read_text()


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Charts are empty files: what is read and where it is written does not need the drawing."""

    def save(figure: None, chart: Chart, path: Path) -> Path:
        path.touch()
        return path

    monkeypatch.setattr("scaling.plots.charts.draw", lambda chart: None)
    monkeypatch.setattr("scaling.plots.charts._save", save)


def test_all_figures_open_each_file_of_the_study_once(command, whole_study, undrawn):
    with count_opens(whole_study) as opened:
        status, _, errors = command(whole_study, "--all-figures", "figures")
    assert status == 0, errors
    assert {name: count for name, count in opened.items() if count > 1} == {}
    assert len([name for name in opened if "gpu_memory" in name]) == sum(n for n, _ in SCALES)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("nowhere",), 1, "nowhere: no such folder"),
        (("experiments", "--workload", "gpt2"), 1, "no complete run of workload gpt2"),
        (("experiments", "other"), 1, "name one folder"),
        (("--single", "a", "--all-figures", "b"), 2, "go with --out and --format alone"),
        (("experiments", "--format", "gif"), 2, "invalid choice"),
    ],
)
def test_bad_input_is_one_line(command, options, status, words):
    write_run(Path("experiments"), 1, 1, "11")
    found, _, errors = command(*options)
    assert found == status and words in errors.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["experiments"]


def test_hostile_names_are_drawn_as_they_are(tmp_path):
    names = ["$\\frac{1}{0}$", "<script>x</script>", "\u202e%d {0}", "_hidden"]
    study = make_study([
        make_run(n, [1.0 * n, 2.0 * n], strategy=name) for name in names for n in (1, 2)
    ])  # fmt: skip
    charts = [c for c in list_charts(study) if c.name in ("throughput_chart", "step_breakdown")]
    paths, left_out = save_charts(charts, tmp_path, ("svg",))
    assert len(paths) == 2 and left_out == []
    for path in paths:
        assert "<script" not in path.read_text()
    assert "&lt;script&gt;" in (tmp_path / "throughput_chart.svg").read_text()


def test_workload_of_any_name_is_one_folder_below_the_one_asked_for(command, undrawn):
    write_study_run(Path("experiments"), 1, 1, "1", workload="../../../x/y")
    write_study_run(Path("experiments"), 1, 2, "2")
    status, _, errors = command("--out", "a/b/c/d")
    assert status == 0, errors
    assert sorted(path.name for path in Path().iterdir()) == ["a", "experiments"]
    folders = sorted(path.name for path in Path("a/b/c/d").iterdir())
    assert folders == ["_________x_y", "tinyimagenet"]


@pytest.mark.parametrize(
    ("name", "most", "short"),
    [("abcdef", 6, "abcdef"), ("abcdefghijkl", 9, "abcdef…kl"), ("abcdefghi", 6, "abcd…i")],
)
def test_long_label_keeps_both_ends(name, most, short):
    assert shorten_label(name, most) == short
