"""scaling_tables.py --growing: a model that has twice the layers on twice the GPUs."""

import pytest

from common.errors import UserError
from in_process import run_script
from made_studies import make_run, make_study
from run_folders import write_run
from scaling.tables import make_growing

# GPUs -> layers, parameters, operations per token, tokens/s
SCALES = {
    2: (3, 60_000_000, 400_000_000, 50_000.0),
    4: (6, 80_000_000, 550_000_000, 70_000.0),
    8: (12, 124_000_000, 850_000_000, 80_000.0),
}


def make_table(**of_last):
    runs = [
        make_run(
            gpus, [rate / 2, rate, rate], name=f"job{gpus}", unit="tokens/s", parameters=parameters,
            flops_per_sample=flops, model_size=f"n_layer={layers}, n_head=12, n_embd=768",
            scaling_mode="growing",
        )
        for gpus, (layers, parameters, flops, rate) in SCALES.items()
    ]  # fmt: skip
    runs[-1].settings |= of_last
    return make_growing(make_study(runs))


def test_each_column_by_hand():
    """2 GPUs: 25,000 x 0.4 GFLOP = 10 TFLOP/s each; 4: 17,500 x 0.55 = 9.625; 8: 8.5."""
    names = ("gpus", "layers", "parameters_m", "throughput_per_gpu", "tflops_per_gpu",
             "efficiency_pct")  # fmt: skip
    table = make_table()
    assert [[row[name].text for name in names] for row in table.rows] == [
        ["2", "3", "60.0", "25000.00", "10.00", "100.0"],
        ["4", "6", "80.0", "17500.00", "9.62", "96.2"],
        ["8", "12", "124.0", "10000.00", "8.50", "85.0"],
    ]
    assert "over those of the smallest scale (2 GPUs" in table.definitions[0]


def test_what_differs_besides_the_model_is_not_compared():
    table = make_table(precision="bf16")
    cell = table.rows[-1]["efficiency_pct"]
    assert cell.text == "—" and "precision bf16, baseline" in cell.note


def test_one_model_does_not_grow():
    with pytest.raises(UserError, match="no two models ran on different numbers of GPUs"):
        make_growing(make_study([make_run(gpus, [1.0, 2.0], parameters=7) for gpus in (2, 4)]))


def test_the_command_takes_the_growing_runs_alone(tmp_path):
    one = {"workload": "gpt2", "unit": "tokens/s", "parameters": 60_000_000, "flops_per_sample": 9}
    write_run(tmp_path, 1, 1, "11", model_size="n_layer=12, n_head=12, n_embd=768", **one)
    for number, gpus in enumerate((2, 4)):
        size = {"model_size": f"n_layer={3 * gpus // 2}", "parameters": 10**7 * gpus}
        grown = one | size | {"scaling_mode": "growing"}
        write_run(tmp_path, 1, gpus, str(12 + number), throughput=1e6, **grown)
    done = run_script("scripts/scaling_tables.py", tmp_path, "--growing", "--workload=gpt2")
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:4] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in row] for row in rows][2:4] == [
        ["2", "3", "20.0"], ["4", "6", "40.0"],
    ]  # fmt: skip
