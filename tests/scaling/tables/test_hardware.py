"""Throughput per GPU, TFLOP/s and MFU, beside figures worked out by hand."""

import pytest

from common.gpus import read_gpus
from made_studies import make_run, make_study
from scaling.tables.fixed_work import make_fixed_work
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


def test_runs_that_count_no_operations_have_no_such_columns():
    assert "mfu_pct" not in make_table(gpu_name="NVIDIA A100-SXM4-40GB").headers


def test_every_peak_names_its_source_and_one_gpu_matches_one_row():
    gpus = read_gpus()
    assert all(row["source"] for row in gpus) and len({row["gpu"] for row in gpus}) == len(gpus)
    assert find_peak({"gpu_name": "NVIDIA L40S", "precision": "bf16"})[0] == 362.05
    assert find_peak({"gpu_name": "NVIDIA L40", "precision": "bf16"})[0] == 181.05
    assert find_peak({"gpu_name": "Tesla V100-SXM2-16GB", "precision": "fp16"})[0] == 125
