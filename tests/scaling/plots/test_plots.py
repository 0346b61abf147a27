"""Charts: which are drawn from what, their numbers, and that no text lies on another."""

import json
import struct
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from common.errors import UserError
from run_folders import cpu_log, gpu_csv, gpu_row, put, write_run
from scaling.plots.charts import draw, list_charts, list_run_charts, save_charts
from scaling.plots.data import Source, Study
from scaling.plots.devices import list_rate_bars, list_time_bars
from scaling.plots.load import load_metrics, load_studies
from scaling.plots.scaling_charts import list_compared, shorten_label
from scaling.plots.series import part_series
from scaling.plots.steps import break_down
from scaling.plots.style import HEIGHT_IN, LEAST_PT, WIDTH_IN, show_rate
from scaling.plots.timelines import list_gpu_timelines
from scaling.plots.training_charts import list_minutes, thin
from scaling.read.gpu_log import read_gpu_log
from scaling.report.figures import SIZE_IN
from scaling.runs.find import find_runs
from scaling.runs.ordinary_logs import read_ordinary_cpu_log, read_ordinary_gpu_log
from scaling.runs.samples import read_samples
from scaling.tables.devices import compare_devices
from study_folders import gpu_rounds, make_metrics, write_study, write_study_run

REPO = Path(__file__).resolve().parents[3]


# ---- Configurations made by hand -------------------------------------------------------------


def make_source(gpus: int, rates: list[float], nodes: int = 1, run_id: str = "1", **settings):
    count = len(rates)
    epochs = pd.DataFrame({
        "epoch": range(1, count + 1), "throughput_per_s": rates, "unit": "img/s",
        "epoch_s": [60.0] * count, "train_s": [55.0] * count,
        "train_loss": [5.0 - 0.1 * n for n in range(count)],
        "val_loss": [5.2 - 0.1 * n for n in range(count)],
        "val_accuracy": [0.01 * n for n in range(count)],
        "is_warmup": [n == 0 for n in range(count)],
    })  # fmt: skip
    ranks = pd.DataFrame({
        "rank": [0], "training_s": [55.0], "data_wait_s": [5.0], "copy_s": [1.0],
        "compute_s": [40.0], "optimizer_s": [4.0], "exposed_comm_s": [8.0], "is_warmup": [False],
    })  # fmt: skip
    known = {"batch_size_per_gpu": 512, "global_batch_size": 512 * gpus, "scaling": "weak"}
    return Source(
        "home", run_id, "tinyimagenet", nodes, gpus // nodes, gpus, {**known, **settings},
        epochs, ranks,
    )  # fmt: skip


def make_study(sources: list[Source]) -> Study:
    return Study("tinyimagenet", "img/s", tuple(part_series(sources)))


STUDIES = {
    "one configuration": lambda: [make_source(1, [700.0, 704.9, 705.0])],
    "one epoch": lambda: [make_source(1, [700.0]), make_source(2, [1300.0])],
    "seven scales": lambda: [
        make_source(gpus, [600.0 * gpus, 690.0 * gpus, 700.0 * gpus], nodes)
        for gpus, nodes in ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (8, 4), (16, 8))
    ],
    "64 scales": lambda: [make_source(n, [600.0 * n, 700.0 * n**0.95]) for n in range(1, 65)],
    "8 scales of 8 batches": lambda: [
        make_source(2**k, [600.0, 700.0 * 2**k * 0.97**k * b], batch_size_per_gpu=32 * b)
        for k in range(8)
        for b in range(1, 9)
    ],
    "64 settings": lambda: [
        make_source(4, [600.0, 700.0 + b], batch_size_per_gpu=b, model=f"a_model_named_{b}")
        for b in range(64)
    ],
    "32 settings of long names": lambda: [
        make_source(n, [600.0, 700.0 + b], strategy=f"fully sharded with offload {b}" * 2)
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


PAPER_IN = (WIDTH_IN, HEIGHT_IN)


@pytest.mark.parametrize(
    ("name", "size_in"),
    [
        *((name, PAPER_IN) for name in STUDIES),
        *((name, SIZE_IN) for name in ("seven scales", "8 scales of 8 batches", "64 settings")),
    ],
)
def test_no_text_lies_on_another_or_is_cut(name, size_in):
    study = make_study(STUDIES[name]())
    drawn = 0
    for chart in list_charts(study):
        if chart.reason:
            continue
        figure = draw(chart, size_in)
        texts, page = list_texts(figure), figure.bbox
        for text, box in texts:
            inside = page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1
            inside = inside and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
            assert inside, f"{chart.name}: {text!r} is cut"
        for (one, a), (other, b) in combinations(texts, 2):
            assert not a.shrunk(0.98, 0.9).overlaps(b), f"{chart.name}: {one!r} on {other!r}"
        sizes = [t.get_fontsize() for t in figure.findobj(Text) if t.get_text()]
        assert min(sizes) >= LEAST_PT, chart.name
        drawn += 1
    assert drawn >= 5


# ---- Which runs are compared, and their numbers ------------------------------------------------


def test_repeats_give_their_mean_and_students_interval():
    # Means 100, 104, 108: s = 4, t(0.975, 2) = 4.302653, so 4.302653 x 4 / sqrt(3) = 9.936551.
    sources = [make_source(1, [50.0, rate], run_id=str(rate)) for rate in (100.0, 104.0, 108.0)]
    (config,) = make_study(sources).configs
    assert config.throughput_per_s == 104.0
    assert config.spread_per_s == pytest.approx(9.936551, abs=1e-5)


@pytest.mark.parametrize(
    ("rates", "mean", "spread", "is_steady"),
    [
        ([50.0, 100.0, 104.0], 102.0, 2.828427, True),  # the warm-up is left out
        ([50.0, 100.0], 100.0, None, True),
        ([50.0], 50.0, None, False),  # one epoch: no steady state
    ],
)
def test_one_run_shows_its_epochs_spread(rates, mean, spread, is_steady):
    (config,) = make_study([make_source(1, rates)]).configs
    assert (config.throughput_per_s, config.is_steady) == (mean, is_steady)
    assert config.spread_per_s == (None if spread is None else pytest.approx(spread, abs=1e-6))


def test_known_speedups_and_efficiencies():
    rates = {1: 29600.05, 2: 57289.31, 4: 100791.44}
    study = make_study([make_source(n, [rate, rate]) for n, rate in rates.items()])
    (series,) = study.series
    assert [f"{series.speedup(c):.2f}" for c in series.configs] == ["1.00", "1.94", "3.41"]
    found = [f"{series.efficiency_pct(c) / 100:.2f}" for c in series.configs]
    assert found == ["1.00", "0.97", "0.85"]


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": "bf16"}, {"strategy": "fsdp"}, {"batch_size_per_gpu": 256}, {"epochs": 9},
        {"gpu_name": "H200"}, {"trainer_sha256": "beef"}, {"versions": {"torch": "2.14"}},
        {"model": "resnet18"}, {"seq_len": 1024}, {"model_size": "n_layer=12"},
    ],
)  # fmt: skip
def test_unlike_runs_are_never_on_one_line(changed):
    study = make_study([make_source(1, [1.0, 1.0]), make_source(2, [2.0, 2.0], **changed)])
    assert len(study.series) == 2 and list_compared(study) == []
    by_name = {chart.name: chart for chart in list_charts(study)}
    assert "equal settings" in by_name["speedup_chart"].reason
    assert by_name["throughput_chart"].reason is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(57289.31, "57,290"), (704.9, "704.9"), (100791.44, "100,800"), (0.5, "0.5"),
     (1e6, "1,000,000"), (999.96, "1,000"), (9999.6, "10,000")],
)  # fmt: skip
def test_rates_have_no_exponent(value, text):
    assert show_rate(value) == text
    study = make_study([make_source(n, [value * n] * 2) for n in (1, 4)])
    figure = draw(next(c for c in list_charts(study) if c.name == "throughput_chart"))
    assert not [shown for shown, _ in list_texts(figure) if "e+" in shown]


def test_both_losses_of_a_run_of_one_epoch_are_seen():
    study = make_study([make_source(1, [700.0]), make_source(2, [1300.0])])
    figure = draw(next(c for c in list_charts(study) if c.name == "loss_by_epoch"))
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert len(lines) == 4 and all(line.get_marker() != "None" for line in lines)


@pytest.mark.parametrize("changed", [{"git_commit": "abc"}, {"seed": 7}, {"argv": ["x"]}])
def test_what_need_not_agree_keeps_runs_together(changed):
    study = make_study([make_source(1, [1.0, 1.0]), make_source(2, [2.0, 2.0], **changed)])
    assert len(study.series) == 1


def test_strong_scaling_compares_the_global_batch():
    def strong(gpus: int) -> Source:
        batch = {"scaling": "strong", "global_batch_size": 512, "batch_size_per_gpu": 512 // gpus}
        return make_source(gpus, [100.0 * gpus, 100.0 * gpus], **batch)

    study = make_study([strong(1), strong(4), make_source(1, [1.0, 1.0])])
    assert sorted((s.mode, len(s.configs)) for s in study.series) == [("strong", 2), ("weak", 1)]


def test_names_that_were_cut_to_the_same_stay_apart():
    long = "a strategy with a very long name, number "
    study = make_study([make_source(1, [1.0], strategy=f"{long}{n}") for n in range(3)])
    assert len({series.name for series in study.series}) == 3


def test_series_of_batches_are_in_the_order_of_numbers():
    batches = (64, 512, 128, 1024)
    study = make_study([make_source(1, [1.0], batch_size_per_gpu=b) for b in batches])
    assert [s.name.split()[-1] for s in study.series] == ["64", "128", "512", "1024"]


# ---- From files --------------------------------------------------------------------------------


def test_all_charts_from_run_folders(tmp_path):
    (study,) = load_studies(write_study(tmp_path, scales=((1, 1), (1, 2), (2, 2))))
    assert [c.reason for c in list_charts(study)] == [None] * 9
    (series,) = study.series
    assert [config.label for config in series.configs] == ["1 GPU", "2 GPUs", "4 GPUs, 2 nodes"]
    # 700 x 2 / 1.035 / 700 / 2
    assert series.efficiency_pct(series.configs[1]) == pytest.approx(100 / 1.035)


def test_charts_from_metrics_files_alone(tmp_path):
    files = []
    for gpus in (1, 2, 4):
        rates = [300.0 * gpus, 700.0 * gpus * 0.9, 700.0 * gpus * 0.9]
        record = make_metrics(str(gpus), 1, gpus, rates, [5.0, 4.0, 3.0])
        files.append(put(tmp_path / f"{gpus}/training_metrics.json", json.dumps(record)))
    (study,) = load_metrics(files)
    assert [c.gpus for c in study.series[0].configs] == [1, 2, 4]  # not gpu_count_visible, 8
    assert [c.reason for c in list_charts(study)] == [None] * 9
    breakdown = break_down(study.configs[0].latest)
    assert breakdown.scope == "rank 0"
    assert breakdown.parts_s["waiting for data"] / breakdown.total_s == pytest.approx(0.03 / 0.4)


def test_metrics_of_others_with_one_global_batch_are_strong_scaling(tmp_path):
    files = []
    for gpus in (1, 2, 4):
        record = make_metrics(str(gpus), 1, gpus, [600.0 * gpus] * 3, [5.0, 4.0, 3.0])
        record["training_config"] |= {
            "global_batch_size": 512, "micro_batch_size_per_gpu": 512 // gpus,
        }  # fmt: skip
        files.append(put(tmp_path / f"{gpus}.json", json.dumps(record)))
    (study,) = load_metrics(files)
    (series,) = study.series
    assert len(series.configs) == 3


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"epochs": [{"epoch": 1}], "summary": {}}, "on how many GPUs"),
        ({"hello": 1}, "not a training_metrics.json"),
        ({"epochs": [{"epoch": 1}], "hardware": {"world_size": 2}}, "no epoch in it has a thr"),
    ],
)
def test_metrics_file_that_cannot_be_used_is_named(tmp_path, record, words):
    path = put(tmp_path / "training_metrics.json", json.dumps(record))
    with pytest.raises(UserError, match=words) as raised:
        load_metrics([path])
    assert str(path) in str(raised.value)


def test_incomplete_and_failed_runs_are_not_drawn(tmp_path):
    write_study_run(tmp_path, 1, 1, "1")
    write_run(tmp_path, 1, 2, "2", complete=False, exit_status=1, out="RuntimeError: no\n")
    (study,) = load_studies(tmp_path)
    assert [config.gpus for config in study.configs] == [1]


def test_run_with_logs_alone_is_drawn_with_settings_unknown(tmp_path):
    for gpus, rate in ((1, 700.0), (2, 1300.0)):
        write_run(tmp_path, 1, gpus, str(gpus), record={}, exit_status=None, throughput=rate)
    (study,) = load_studies(tmp_path)
    (series,) = list_compared(study)
    assert series.speedup(series.configs[1]) == pytest.approx(1300 / 700)
    reasons = {c.name: c.reason for c in list_charts(study) if c.reason}
    assert set(reasons) == {"loss_by_time", "score_by_time", "step_breakdown"}


def test_breakdown_takes_exposed_communication_out_of_compute():
    found = break_down(make_source(2, [1.0, 1.0]))
    assert found.parts_s == pytest.approx({
        "waiting for data": 5.0, "copy": 1.0, "compute": 32.0, "exposed communication": 8.0,
        "optimizer": 4.0, "rest": 5.0,
    })  # fmt: skip
    assert sum(found.parts_s.values()) == pytest.approx(found.total_s) == 55.0


def test_minutes_are_sums_of_whole_epochs():
    assert list(list_minutes(make_source(1, [1.0] * 3))) == [1.0, 2.0, 3.0]


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
    assert thin([0.0, 1.0, 2.0], [5.0, float("nan"), 7.0]) == [[0.0, 2.0], [5.0, 7.0]]
    assert thin([], []) == [[], []]


def test_fast_and_careful_reading_of_a_gpu_log_agree(tmp_path):
    folder = write_study_run(tmp_path, 1, 4, "7")
    (run,) = find_runs(tmp_path)
    fast = read_samples(run)
    log = folder / "gpu_memory/7/gpu_memory_log.csv"
    assert read_ordinary_gpu_log(log) is not None
    cpu = folder / "cpu_memory/7/cpu_memory_log.txt"
    assert read_ordinary_cpu_log(cpu) is not None
    log.write_text(log.read_text().replace("memory.used [MiB]", '"memory.used [MiB]"', 1))
    cpu.write_text(cpu.read_text().replace("\n", "\r\n"))
    assert read_ordinary_gpu_log(log) is read_ordinary_cpu_log(cpu) is None
    (run,) = find_runs(tmp_path)
    careful = read_samples(run)
    pd.testing.assert_frame_equal(fast.cpus, careful.cpus, check_dtype=False)
    assert fast.files == careful.files
    columns = list(fast.gpus)
    pd.testing.assert_frame_equal(fast.gpus, careful.gpus[columns], check_dtype=False)


ORDINARY = gpu_rounds(2, 3)


@pytest.mark.parametrize(
    "text",
    [
        ORDINARY[:-1],
        ORDINARY + gpu_row(99, 0, "[N/A]") + "\n",
        ORDINARY + ORDINARY,
        ORDINARY + gpu_row(99, 0, 7) + ", 8\n",
        ORDINARY + gpu_row(99, 0, -5) + "\n",
        ORDINARY + gpu_row(0, 0, 7) + "\n",
        ORDINARY.replace("memory.used [MiB]", "memory.used [KiB]"),
        ORDINARY.replace("\n", "\r\n"),
        ORDINARY + "\0\n",
        ORDINARY.replace(", 0, Tesla", ", , Tesla"),
        "",
        "\n",
        ORDINARY.splitlines()[0] + "\n",
    ],
)
def test_what_is_not_ordinary_goes_the_careful_way(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_bytes(text.encode())
    assert read_ordinary_gpu_log(path) is None


CPU = cpu_log([100.0, 200.0, 300.0])


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", CPU[:-1], CPU.splitlines()[0] + "\n", CPU + "1 2 3\n", CPU + "1 2 3 4\n",
        CPU + "x 2 3 4\n", CPU + "99 nan 3 4\n", CPU + "99 -1 3 4\n", CPU + "99 1 3 4 5\n",
        CPU + "# again\n", CPU.replace("Real", "Rael"), CPU + CPU, CPU + "\n",
    ],
)  # fmt: skip
def test_what_is_not_an_ordinary_cpu_log_goes_the_careful_way(tmp_path, text):
    assert read_ordinary_cpu_log(put(tmp_path / "log.txt", text)) is None


def test_ordinary_log_counts_like_the_careful_reader(tmp_path):
    path = put(tmp_path / "log.csv", ORDINARY)
    log = read_gpu_log(path)
    assert (log.kept, log.ignored) == (len(read_ordinary_gpu_log(path)), {"header": 1})


def test_many_gpus_are_drawn_as_range_and_median(tmp_path):
    folder = write_study_run(tmp_path, 8, 2, "7", rounds=6)
    (run,) = find_runs(tmp_path)
    memory, _ = list_gpu_timelines(read_samples(run))
    assert list(memory.lines) == ["Greatest", "Median", "Least"]
    assert memory.lines["Greatest"][1][-1] == pytest.approx((26000 + 60 + 0) / 1024)
    assert memory.lines["Least"][1][-1] == pytest.approx(26000 / 1024)
    assert "16 GPUs" in memory.note and folder.is_dir()


# ---- One device against several ----------------------------------------------------------------


def write_workdir(folder: Path, ranks: int, times: list[float], rate: float) -> Path:
    for rank in range(ranks):
        for epoch, seconds in enumerate(times):
            record = {"training_time": seconds + rank, "tokens_per_sec": rate + epoch}
            put(folder / f"rank{rank}_results_epoch{epoch}.json", json.dumps(record))
    return folder


def test_device_bars_leave_the_first_epoch_out(tmp_path):
    single = write_workdir(tmp_path / "workdir_single", 1, [99.0, 44.0, 46.0], 1000.0)
    multi = write_workdir(tmp_path / "workdir_2gpu", 2, [99.0, 23.0, 25.0], 900.0)
    devices = compare_devices(single, multi)
    times = [(bar.name, bar.value, bar.spread) for bar in list_time_bars(devices)]
    root2 = pytest.approx(2**0.5)
    assert times == [("GPU 0", 24.0, root2), ("GPU 1", 25.0, root2), ("Single GPU", 45.0, root2)]
    rates = [(bar.name, bar.value, bar.spread) for bar in list_rate_bars(devices)]
    half = pytest.approx(0.5**0.5)
    assert rates == [("2 GPUs (sum)", 1803.0, root2), ("Single GPU", 1001.5, half)]


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (
            "workdir_2gpu/rank1_results_epoch1.json",
            "missing: workdir_2gpu/rank1_",
        ),
        (
            "workdir_2gpu/rank0_results_epoch0.json",
            "missing: workdir_2gpu/rank0_",
        ),
        ("workdir_single", "workdir_single: no such folder"),
    ],
)
def test_missing_device_file_is_named(tmp_path, missing, named):
    write_workdir(tmp_path / "workdir_single", 1, [9.0, 9.0], 1.0)
    write_workdir(tmp_path / "workdir_2gpu", 2, [9.0, 9.0], 1.0)
    path = tmp_path / missing
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    else:
        path.unlink()
    done = run_plots(cwd=tmp_path)
    assert done.returncode == 1 and named in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "submit_figures").exists()


# ---- The command -------------------------------------------------------------------------------


def run_plots(*options: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "scripts/plot_scaling.py"), *map(str, options)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_without_options_the_two_workdirs_are_drawn(tmp_path):
    write_workdir(tmp_path / "workdir_single", 1, [9.0, 8.0, 8.5], 1000.0)
    write_workdir(tmp_path / "workdir_2gpu", 2, [9.0, 4.0, 4.5], 1000.0)
    done = run_plots(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["training_time_comparison.png", "tokens_per_second_comparison.png"]
    assert done.stdout.split()[-2:] == [f"submit_figures/{name}" for name in names]
    assert "  Training Time Speedup: 1.74x" in done.stdout  # 8.25 s / (4.25 s + 5.25 s) x 2
    for name in names:
        assert read_dpi(tmp_path / "submit_figures" / name) == pytest.approx(300, abs=0.1)


def read_dpi(path: Path) -> float:
    """A PNG's pixels per metre from its pHYs chunk, as dots an inch."""
    data = path.read_bytes()
    at = data.index(b"pHYs") + 4
    return struct.unpack(">I", data[at : at + 4])[0] * 0.0254


def test_all_figures_in_three_formats(tmp_path):
    write_study(tmp_path / "experiments", scales=((1, 1), (1, 2)))
    formats = ("--format", "png", "--format", "svg", "--format", "pdf")
    done = run_plots("--all-figures", "figures", *formats, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    names = {name.split(".")[0] for name in written}
    assert names == {
        "speedup_chart", "efficiency_chart", "throughput_chart", "strong_weak_efficiency",
        "loss_by_epoch", "loss_by_time", "score_by_epoch", "score_by_time", "step_breakdown",
        "gpu_timeline_101", "cpu_timeline_101", "gpu_timeline_102", "cpu_timeline_102",
    }  # fmt: skip
    assert len(written) == 3 * len(names)
    assert (tmp_path / "figures/speedup_chart.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "figures/speedup_chart.svg").read_text()


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
def test_bad_input_is_one_line(tmp_path, options, status, words):
    write_run(tmp_path / "experiments", 1, 1, "11")
    done = run_plots(*options, cwd=tmp_path)
    assert done.returncode == status and words in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["experiments"]


def test_hostile_names_are_drawn_as_they_are(tmp_path):
    names = ["$\\frac{1}{0}$", "<script>x</script>", "\u202e%d {0}", "_hidden"]
    study = make_study([
        make_source(n, [1.0 * n, 2.0 * n], strategy=name) for name in names for n in (1, 2)
    ])  # fmt: skip
    paths, left_out = save_charts(list_charts(study), tmp_path, ("svg",))
    assert len(paths) == 9 and left_out == []
    for path in paths:
        assert "<script" not in path.read_text()
    assert "&lt;script&gt;" in (tmp_path / "throughput_chart.svg").read_text()


def test_workload_of_any_name_is_one_folder_below_the_one_asked_for(tmp_path):
    write_study_run(tmp_path / "experiments", 1, 1, "1", workload="../../../x/y")
    write_study_run(tmp_path / "experiments", 1, 2, "2")
    done = run_plots("--out", "a/b/c/d", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "experiments"]
    folders = sorted(path.name for path in (tmp_path / "a/b/c/d").iterdir())
    assert folders == ["_________x_y", "tinyimagenet"]


@pytest.mark.parametrize("rate", [0, -5.0, 1e300])
def test_epoch_without_a_throughput_is_not_drawn(tmp_path, rate):
    record = make_metrics("1", 1, 2, [100.0, 200.0, 200.0, 200.0], [5.0] * 4)
    record["epochs"][2]["samples_per_sec_global"] = rate
    (study,) = load_metrics([put(tmp_path / "m.json", json.dumps(record))])
    assert study.configs[0].throughput_per_s == 200.0
    assert list(study.configs[0].latest.epochs["epoch"]) == [1, 2, 4]


def test_no_run_chart_of_a_run_known_by_its_metrics(tmp_path):
    record = make_metrics("1", 1, 1, [1.0, 2.0], [5.0, 4.0])
    (study,) = load_metrics([put(tmp_path / "m.json", json.dumps(record))])
    assert list(list_run_charts(study)) == []


@pytest.mark.parametrize(
    ("name", "most", "short"),
    [("abcdef", 6, "abcdef"), ("abcdefghijkl", 9, "abcdef…kl"), ("abcdefghi", 6, "abcd…i")],
)
def test_long_label_keeps_both_ends(name, most, short):
    assert shorten_label(name, most) == short


def test_one_gpu_log_gives_its_lines(tmp_path):
    folder = write_run(tmp_path, 1, 1, "7")
    put(folder / "gpu_memory/7/gpu_memory_log.csv", gpu_csv({0: [1024, 2048], 3: [512, 512]}))
    (run,) = find_runs(tmp_path)
    memory, use = list_gpu_timelines(read_samples(run))
    assert memory.lines["GPU 0"] == ([0.0, 5 / 60], [1.0, 2.0])
    assert memory.lines["GPU 3"][1] == [0.5, 0.5] and use.lines["GPU 0"][1] == [97.0, 97.0]
