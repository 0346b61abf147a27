"""Throughput per GPU, TFLOP/s and MFU, beside figures worked out by hand."""

import pytest

from common.gpus import read_gpus
from made_studies import make_run, make_study
from run_folders import write_run
from scaling.runs import find_runs
from scaling.runs import make_study as make_study_of_runs
from scaling.tables import FORMATS, make_cost, make_fixed_work, make_summary_tables
from scaling.tables.hardware import find_peak

RESNET50 = 1_985_000_000  # operations of an image of 64 x 64


def make_table(**settings):
    rates = {1: 12_000.0, 4: 45_600.0}
    runs = [make_run(n, [rate / 2, rate, rate], **settings) for n, rate in rates.items()]
    return make_fixed_work(make_study(runs))


def test_each_column_by_hand():
    table = make_table(
        flops_per_sample=RESNET50, gpu_name="NVIDIA A100-SXM4-40GB", precision="bf16"
    )
    shown = [
        [row[name].text for name in ("throughput_per_gpu", "tflops_per_gpu", "mfu_pct")]
        for row in table.rows
    ]
    # 12,000 x 1.985e9 = 23.82 TFLOP/s, 7.63 % of 312; 11,400 of each of four GPUs: 22.63, 7.25 %
    assert shown == [["12000.00", "23.82", "7.63"], ["11400.00", "22.63", "7.25"]]
    assert any(
        "the dense peak of NVIDIA A100-SXM4-40GB at bf16, 312 TFLOP/s (NVIDIA A100 data sheet)"
        in line
        for line in table.definitions
    )


@pytest.mark.parametrize(
    ("gpu", "precision", "why"),
    [
        ("NVIDIA A100-SXM-64GB", "bf16", "the peak of NVIDIA A100-SXM-64GB at bf16 is unknown"),
        ("NVIDIA A100-SXM4-80GB", "fp32", "at fp32 is unknown"),  # TF32 or not: nothing says
        ("Tesla V100-SXM2-32GB", "bf16", "at bf16 is unknown"),
        (None, "fp32", "no GPU is recorded"),
    ],
)
def test_an_unknown_peak_is_no_guess(gpu, precision, why):
    table = make_table(flops_per_sample=RESNET50, gpu_name=gpu, precision=precision)
    assert [row["mfu_pct"].text for row in table.rows] == ["—", "—"]
    assert why in table.rows[0]["mfu_pct"].note
    assert table.rows[0]["tflops_per_gpu"].text == "23.82"


def test_columns_without_a_value_are_left_out_and_one_line_says_why():
    table = make_table(gpu_name="NVIDIA A100-SXM4-40GB", flops_per_sample=None)
    assert "mfu_pct" not in table.headers and "utilization_pct" not in table.headers
    assert (
        "not shown: TFLOP/s per GPU, MFU (%): its run did not record flops_per_sample; "
        "GPU utilisation (%): no GPU log"
    ) in table.remarks


A100 = {"flops_per_sample": 6e9, "gpu_name": "NVIDIA A100-SXM4-40GB", "precision": "bf16"}


@pytest.mark.parametrize(
    ("changed", "hfu"),
    [({"recomputed_flops_per_sample": 2e9}, "30.77"), ({}, "—"), ({"flops_per_sample": "x"}, "—")],
)
def test_what_is_computed_again_counts_in_hfu_alone(changed, hfu):
    one = make_run(1, [12_000.0] * 3, activation_checkpointing=True, **(A100 | changed))
    table = make_fixed_work(make_study([one, make_run(2, [24_000.0] * 3, **A100)]))
    # 12,000 x 6e9 = 72 TFLOP/s, 23.08 % of 312; with 2e9 more 96, 30.77 %
    recomputed, other = table.rows
    assert recomputed["hfu_pct"].text == hfu
    assert recomputed["mfu_pct"].text == ("—" if "flops_per_sample" in changed else "23.08")
    assert other["hfu_pct"].text == other["mfu_pct"].text == "23.08"


def test_utilisation_is_the_logs_and_uneven_gpus_have_no_common_mean(tmp_path):
    write_run(tmp_path, 1, 1, "11")
    two = write_run(tmp_path, 1, 2, "12")
    path = two / "gpu_memory/12/gpu_memory_log.csv"
    lines = [line.replace(", 97, ", ", 7, ") if ", 1, Tesla" in line else line
             for line in path.read_text().splitlines()]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    table = make_fixed_work(make_study_of_runs(find_runs(tmp_path)))
    assert [row["utilization_pct"].text for row in table.rows] == ["97.0", "7.0 to 97.0"]
    path.unlink()
    table = make_fixed_work(make_study_of_runs(find_runs(tmp_path)))
    assert table.rows[1]["utilization_pct"].note == "no GPU log"


@pytest.mark.parametrize("form", ["md", "text"])
def test_every_table_fits_100_columns(form):
    runs = [make_run(n, [9e6 * n] * 3, activation_checkpointing=True, **A100) for n in (1, 128)]
    study = make_study(runs)
    for table in (make_fixed_work(study), make_cost(study), *make_summary_tables(study)[2:]):
        text = FORMATS[form]([table])
        rows = [
            line for line in text.splitlines() if line.startswith(("| ", "128 ", "GPUs ", "Conf"))
        ]
        assert len(rows) > 1 and max(map(len, rows)) <= 100
        assert all(header in text for header in table.headers.values())


def test_every_peak_names_its_source_and_one_gpu_matches_one_row():
    gpus = read_gpus()
    assert all(row["source"] for row in gpus) and len({row["gpu"] for row in gpus}) == len(gpus)
    assert find_peak({"gpu_name": "NVIDIA L40S", "precision": "bf16"})[0] == 362.05
    assert find_peak({"gpu_name": "NVIDIA L40", "precision": "bf16"})[0] == 181.05
    assert find_peak({"gpu_name": "Tesla V100-SXM2-16GB", "precision": "fp16"})[0] == 125
