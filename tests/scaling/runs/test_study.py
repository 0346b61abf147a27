"""scaling.runs.study: repeats, the baseline, what may be compared, and the ratios."""

import json
from decimal import Decimal

import pytest

from common.errors import UserError
from common.rounding import round_half_even
from metrics_files import GPT2, metrics, put_json, write_gpt2_files, write_timed_run
from run_folders import write_run
from scaling.runs import Study, find_runs, make_metrics_study, make_studies, make_study
from scaling.runs.compare import (
    compute_efficiency_pct,
    divide,
    name_band,
    over_epochs,
    over_repeats,
    pooled_deviation,
)
from scaling.runs.study import TableRow, build_study, compare_quality
from study_folders import write_study


def read(folder, workload: str = "tinyimagenet", **options: bool) -> Study:
    return make_study(find_runs(folder), workload, **options)


def row(gpus: int, throughput: float | None = None, wall_s: float | None = None) -> TableRow:
    return TableRow(str(gpus), 1, gpus, "tokens/s", throughput, wall_s)


def shown(study: Study, column: str, places: int = 2) -> list[str]:
    return shown_of(study.scales[column], places)


def shown_of(values, places: int = 2) -> list[str]:
    return [round_half_even(value, places) for value in values]


# ---- Spread and ratios ----------------------------------------------------------------------


def test_repeats_give_a_student_interval():
    spread = over_repeats([10.0, 12.0, 14.0])  # deviation 2, t(2) = 4.3027
    assert (spread.mean, spread.n, spread.kind) == (12, 3, "repeats")
    assert spread.half_width == pytest.approx(4.302653 * 2 / 3**0.5)
    assert over_repeats([1.0, 3.0]).half_width == pytest.approx(12.7062, rel=1e-5)


def test_epochs_give_a_sample_deviation():
    spread = over_epochs([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert spread.mean == 5
    assert spread.half_width == pytest.approx((32 / 7) ** 0.5)  # ddof 1, not 2.0
    assert "ddof 1" in spread.describe() and "one run, so no interval" in spread.describe()


def test_one_value_has_no_spread():
    assert over_repeats([5.0]).half_width is None
    assert over_epochs([5.0]).describe() is None
    assert pooled_deviation([[1.0], [2.0]]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.675, "2.68"), (2.665, "2.66"), (0.125, "0.12"), (1.005, "1.00"), (-0.001, "0.00")],
)
def test_rounding_is_of_decimal_digits_and_half_to_even(value, text):
    assert round_half_even(value, 2) == text
    assert round_half_even(Decimal(str(value)), 2) == text


def test_sums_of_floats_leave_no_trace_in_the_rounding():
    assert round_half_even(0.1 + 0.2, 16) == "0.3000000000000000"
    with pytest.raises(ValueError, match="cannot be rounded"):
        round_half_even(float("nan"), 2)


def test_printed_digits_are_divided_exactly():
    assert round_half_even(divide(Decimal("1388.6"), Decimal("704.9")), 2) == "1.97"
    assert compute_efficiency_pct(Decimal("1.94"), 2) == Decimal("97.00")
    assert divide(None, 1.0) is divide(1.0, None) is divide(1.0, 0) is None


@pytest.mark.parametrize(
    ("pct", "nodes", "band"),
    [
        (85.1, 1, "good"), (85, 1, "fair"), (75.1, 1, "fair"), (75.1, 2, "good"), (75, 2, "fair"),
        (70, 1, "fair"), (69.9, 1, "poor"), (69.9, 4, "poor"), (None, 1, None),
        (float("nan"), 1, None),
    ],
)  # fmt: skip
def test_bands(pct, nodes, band):
    assert name_band(pct, nodes) == band


# ---- Known numbers --------------------------------------------------------------------------


def test_published_numbers_give_the_known_ratios():
    study = build_study([row(gpus, *figures) for gpus, figures in GPT2.items()])
    assert shown(study, "throughput_per_s") == ["29600.05", "57289.31", "100791.44"]
    assert shown(study, "speedup") == ["1.00", "1.94", "3.41"]
    assert shown(study, "efficiency_pct", 1) == ["100.0", "96.8", "85.1"]
    assert shown(study, "wall_speedup") == ["1.00", "1.95", "3.44"]
    assert (study.base_name, study.noun) == ("1 GPU", "tokens")


def test_a_metrics_file_says_how_many_gpus_it_is_of(tmp_path):
    files = write_gpt2_files(tmp_path)
    with pytest.raises(UserError, match="its world_size is 2, and it is given as that of 4 GPUs"):
        make_metrics_study([(4, files[2])])
    nameless = put_json(tmp_path / "x.json", metrics(None, [1.0], global_batch_size=None))
    with pytest.raises(UserError, match="does not say its world_size"):
        make_metrics_study([(None, nameless)])


# ---- Repeats, warm-up, baseline -------------------------------------------------------------


def test_repeats_are_averaged_and_the_warm_up_is_left_out(tmp_path):
    for run_id, steady in (("11", 100.0), ("12", 102.0), ("13", 104.0)):
        write_timed_run(tmp_path, 1, 1, run_id, "90.0", rates=(1.0, steady - 1, steady + 1))
    write_timed_run(tmp_path, 1, 2, "14", "50.0", rates=(1.0, 190.0, 194.0))
    study = read(tmp_path)
    one, two = study.scales.itertuples()
    assert (one.throughput_per_s, one.n_runs) == (102.0, 3)
    assert study.spread(one, "throughput").describe().startswith("± 4.97: 95 % interval")
    assert two.throughput_per_s == 192.0
    assert "one run, so no interval; its 2 epochs" in study.spread(two, "throughput").describe()
    assert shown(study, "speedup") == ["1.00", "1.88"]
    assert study.list_runs(one)["name"].tolist() == ["11", "12", "13"]
    assert study.find_run(one).id == "13"


def test_one_epoch_is_no_steady_state_and_says_so(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(50.0,), epochs=1)
    (only,) = read(tmp_path).scales.itertuples()
    assert (only.throughput_per_s, only.is_steady) == (50.0, False)
    assert "no steady state: its only epoch is warm-up" in only.run_notes[0]


def test_baseline_is_the_smallest_and_named(tmp_path):
    write_timed_run(tmp_path, 1, 2, "12", "50.0", rates=(1.0, 200.0, 200.0))
    write_timed_run(tmp_path, 1, 8, "13", "25.0", rates=(1.0, 700.0, 700.0))
    study = read(tmp_path)
    assert study.base_name == "2 GPUs"
    assert shown(study, "efficiency_pct", 1) == ["100.0", "87.5"]
    assert "no 1-GPU run: ratios are over 2 GPUs" in study.list_remarks()


def test_seven_scales(tmp_path):
    study = read(write_study(tmp_path))
    assert study.scales["label"].tolist() == [
        "Single GPU", "2 GPUs (1 node)", "4 GPUs (1 node)", "4 GPUs (2 nodes)", "8 GPUs (1 node)",
        "8 GPUs (4 nodes)", "16 GPUs (8 nodes)",
    ]  # fmt: skip
    assert shown(study, "speedup")[-1] == "13.51"  # 16 / (1 + 0.035 x 4^1.2)
    assert len(study.rank_epochs) == 5 * (1 + 2 + 4 + 4 + 8 + 8 + 16)
    assert set(study.samples["run"]) == set(range(7))


# ---- Unlike runs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"precision": "bf16"}, "precision bf16, baseline fp16"),
        ({"batch_size_per_gpu": 256}, "batch_size_per_gpu 256, baseline 512"),
        ({"trainer_sha256": "beef"}, "trainer_sha256 beef, baseline c0ffee"),
        ({"strategy": "fsdp"}, "strategy fsdp, baseline ddp"),
        ({"gpu_name": "A100"}, "gpu_name A100, baseline Tesla V100-SXM2-32GB"),
        ({"versions": {"torch": "2.9.0"}}, "versions.torch 2.9.0, baseline 2.15.0"),
        ({"epochs": 5}, "epochs 5, baseline 3"),
    ],
)
def test_unlike_runs_have_no_ratio_unless_asked(tmp_path, changed, named):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    write_timed_run(tmp_path, 1, 2, "12", "50.0", **changed)
    study = read(tmp_path)
    _, two = study.scales.itertuples()
    assert two.speedup != two.speedup and not two.is_compared
    assert named in study.explain_no_ratio(two) and "--allow-unlike" in study.explain_no_ratio(two)
    assert len(set(study.configs["series"])) == 2  # in charts they are two lines
    _, allowed = read(tmp_path, allow_unlike=True).scales.itertuples()
    assert allowed.speedup == 1.0 and allowed.difference == two.difference


def test_ratios_are_over_the_smallest_scale_that_has_the_figure(tmp_path):
    study = build_study([row(1, None, 10.0), row(2, 200.0, 5.0), row(4, 380.0, 2.5)])
    scales, configs = study.scales, study.configs
    assert scales["speedup"].isna().tolist() == [True, False, False]
    assert shown_of(scales["efficiency_pct"][1:]) == ["100.00", "95.00"]
    assert scales["wall_speedup"].tolist() == [1.0, 2.0, 4.0]
    assert "Single GPU has no throughput: ratios of throughputs are over 2 GPUs" in (
        study.list_remarks()
    )
    assert configs["speedup"].isna().tolist() == [True, False, False]  # a chart begins at 2 GPUs
    assert shown_of(configs["efficiency_pct"][1:]) == ["100.00", "95.00"]


def test_series_are_named_by_what_differs(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    write_timed_run(tmp_path, 1, 2, "12", "50.0")
    write_timed_run(tmp_path, 1, 2, "13", "50.0", precision="bf16")
    configs = read(tmp_path).configs
    assert configs["series_name"].tolist() == ["fp16", "fp16", "bf16"]
    assert configs["mode"].tolist() == ["weak"] * 3


def test_the_git_commit_is_not_compared(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", git_commit="a")
    write_timed_run(tmp_path, 1, 2, "12", "50.0", git_commit="b")
    study = read(tmp_path)
    assert study.scales["is_compared"].all()
    remarks = set(study.list_remarks())
    assert {"git commit a: Single GPU", "git commit b: 2 GPUs (1 node)"} <= remarks


def test_an_unlike_repeat_is_not_averaged_in(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(1.0, 10.0, 10.0), precision="fp32")
    write_timed_run(tmp_path, 1, 1, "12", "50.0", rates=(1.0, 20.0, 20.0))
    study = read(tmp_path)
    assert study.scales["throughput_per_s"].tolist() == [20.0]
    remarks = study.list_remarks()
    assert any("job 11: not in the means: precision fp32" in text for text in remarks)


def test_runs_without_settings_compare_among_themselves(tmp_path):
    write_run(tmp_path, 1, 1, "11", throughput=100.0, record={}, exit_status=None)
    write_run(tmp_path, 1, 2, "12", throughput=190.0, record={}, exit_status=None)
    study = read(tmp_path)
    assert shown(study, "speedup") == ["1.00", "1.90"]
    assert "2 GPUs (1 node): settings unknown (no run.json)" in study.list_remarks()
    write_timed_run(tmp_path, 1, 4, "13", "10.0")
    study = read(tmp_path)
    *_, last = study.scales.itertuples()
    assert not last.is_compared and "unknown" in study.explain_no_ratio(last)


def test_incomplete_runs_are_named_and_not_averaged(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(1.0, 10.0, 10.0))
    write_run(tmp_path, 1, 1, "12", throughput=99.0, complete=False, exit_status=1)
    study = read(tmp_path)
    assert study.scales["throughput_per_s"].tolist() == [10.0]
    assert any(text.startswith("job 12: failed") for text in study.list_remarks())


@pytest.mark.parametrize("recorded", ["img/s", "tokens/s"])
def test_a_run_that_counts_something_else_is_not_divided(tmp_path, recorded):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    folder = write_timed_run(tmp_path, 1, 2, "12", "50.0", unit=recorded)
    (folder / "results/12/training_metrics.json").unlink()
    log = next(folder.glob("log/*.out"))
    log.write_text(log.read_text().replace("img/s", "tokens/s"))  # whatever run.json calls it
    study = read(tmp_path)
    _, two = study.scales.itertuples()
    assert (two.is_compared, two.difference) == (
        False, "counted in tokens/s, the baseline in img/s",
    )  # fmt: skip
    assert study.configs["gpus"].tolist() == [1]  # a chart has one axis


def test_images_are_samples(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", unit="samples/s")
    write_timed_run(tmp_path, 1, 2, "12", "50.0")
    assert read(tmp_path).scales["is_compared"].all()


def test_a_metrics_file_that_counts_two_things_is_refused(tmp_path):
    record = metrics(1, [10.0, 10.0])
    record["epochs"][1]["samples_per_sec_global"] = record["epochs"][1].pop("tokens_per_sec_global")
    with pytest.raises(UserError, match="count different things"):
        make_metrics_study([(1, put_json(tmp_path / "a.json", record))])


def test_a_metrics_file_that_cannot_be_read_is_named(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    folder = write_timed_run(tmp_path, 1, 2, "12", "50.0")
    (folder / "results/12/training_metrics.json").write_text("{")
    _, two = read(tmp_path).scales.itertuples()
    assert "training_metrics.json cannot be read" in two.run_notes[0]


def test_a_repeat_without_a_throughput_is_named_and_not_averaged(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(1.0, 10.0, 10.0))
    folder = write_timed_run(tmp_path, 1, 1, "12", "100.0")
    (folder / "results/12/training_metrics.json").unlink()
    next(folder.glob("log/*_12.out")).write_text("Total training time: 100.0 s\n")
    study = read(tmp_path)
    (one,) = study.scales.itertuples()
    spread = study.spread(one, "throughput")
    assert (spread.mean, spread.n, spread.kind) == (10.0, 2, "epochs")
    assert "job 12: not every epoch has a throughput" in one.run_notes[-1]


def test_one_gpu_is_on_one_node(tmp_path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(1.0, 10.0, 10.0))
    folder = write_timed_run(tmp_path, 1, 1, "12", "100.0", rates=(1.0, 12.0, 12.0))
    record = folder / "results/12/run.json"
    known = json.loads(record.read_text())
    del known["nodes"], known["gpus_per_node"]
    record.write_text(json.dumps(known))
    assert read(tmp_path).scales["throughput_per_s"].tolist() == [11.0]


def test_a_copy_of_a_run_is_no_repeat(tmp_path):
    for name in ("a", "b"):
        write_timed_run(tmp_path / name, 1, 1, "11", "100.0")
    study = read(tmp_path)
    assert study.scales["n_runs"].tolist() == [1]
    assert study.left_out[0].startswith("job 11 is there twice, in ")


def test_two_implementations_at_one_scale_are_no_repeats(tmp_path):
    named = []
    for n, (gpus, zero) in enumerate([(1, None), (4, 0), (4, 2)]):
        record = metrics(gpus, [10.0 * gpus, 10.0 * gpus / (1 + n)], zero_stage=zero)
        named.append((gpus, put_json(tmp_path / f"{n}.json", record)))
    study = make_metrics_study(named)
    assert study.scales["n_runs"].tolist() == [1, 1]
    assert len(set(study.configs["series"])) == 2


@pytest.mark.parametrize("samples", [500, 950, 1000])
def test_wall_times_of_other_work_are_not_divided(tmp_path, samples):
    for n, (gpus, work) in enumerate([(1, 1000), (2, samples)]):
        record = metrics(gpus, [10.0, 10.0 * gpus], 100.0 / gpus)
        for entry in record["epochs"]:
            entry["tokens_processed_global"] = work
        put_json(tmp_path / f"{n}.json", record)
    named = [(1, tmp_path / "0.json"), (2, tmp_path / "1.json")]
    study = make_metrics_study(named)
    _, two = study.scales.itertuples()
    assert two.work == pytest.approx(samples / 1000 - 1)
    assert two.speedup == 2.0  # rates have no such trouble
    assert (two.wall_speedup == 2.0) is (samples != 500)
    if samples == 500:
        words = "not the same work: trained on 50.0 % fewer tokens than the baseline"
        assert words in study.explain_no_ratio(two, "walltime")
        assert make_metrics_study(named, allow_unlike=True).scales["wall_speedup"][1] == 2.0


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no complete run of workload gpt2"):
        read(tmp_path, "gpt2")


def test_each_workload_has_a_study_of_its_own(tmp_path):
    write_timed_run(tmp_path / "a", 1, 1, "11", "100.0")
    write_timed_run(tmp_path / "b", 1, 1, "12", "50.0", workload="mine", unit="samples/s")
    studies = make_studies(find_runs(tmp_path))
    assert [(study.workload, study.unit) for study in studies] == [
        ("mine", "samples/s"), ("tinyimagenet", "img/s"),
    ]  # fmt: skip


# ---- Loss and accuracy ----------------------------------------------------------------------


def losses(folder, *groups: tuple[int, list[float]]) -> list[str]:
    flat = [(gpus, loss) for gpus, values in groups for loss in values]
    for n, (gpus, loss) in enumerate(flat):
        write_timed_run(folder, 1, gpus, str(11 + n), "9.0", val_loss=loss)
    return compare_quality(read(folder))


def test_losses_that_spread_more_than_repeats_are_flagged(tmp_path):
    (text,) = losses(tmp_path, (1, [1.0, 1.02]), (2, [1.5]))
    assert text.startswith("FLAG validation loss: from 1.0100 (Single GPU) to 1.5000")
    assert "0.35, of repeats 0.014" in text
    assert text in read(tmp_path).list_remarks()


def test_losses_within_the_repeats_are_not(tmp_path):
    (text,) = losses(tmp_path, (1, [1.0, 1.4]), (2, [1.21]))
    assert "no more than the repeats spread" in text and "FLAG" not in text


def test_without_repeats_nothing_is_judged(tmp_path):
    (text,) = losses(tmp_path, (1, [1.0]), (2, [1.5]))
    assert "no scale has repeats" in text and "FLAG" not in text


WORK = [
    (["--profile", "5"], "profiler on, job 13 off"), (["--profile=5"], "profiler on, job 13 off"),
    (["--profile", "0"], None), (["--profile-ranks", "0,3"], None),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "named"), WORK)
def test_a_profiled_run_is_no_repeat(tmp_path, argv, named):
    write_timed_run(tmp_path, 1, 1, "11", "100.0", rates=(1.0, 10.0))
    write_timed_run(tmp_path, 1, 2, "12", "50.0", rates=(1.0, 10.0), argv=argv)
    write_timed_run(tmp_path, 1, 2, "13", "50.0", rates=(1.0, 20.0))
    study = read(tmp_path)
    assert study.scales["throughput_per_s"].tolist() == [10.0, 20.0 if named else 15.0]
    told = [text for text in study.list_remarks() if "job 12: not in the means" in text]
    assert len(told) == bool(named)
