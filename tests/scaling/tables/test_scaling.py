"""scaling_tables.py --growing, --compare, --target-loss and --strategies, beside known figures."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UserError
from filled_tables import call
from made_studies import make_run, make_study
from run_folders import put, write_run
from scaling.runs import find_runs
from scaling.runs import make_study as make_study_of_runs
from scaling.runs.find import is_growing
from scaling.tables import (
    make_growing,
    make_option_tables,
    make_readme_tables,
    make_strategies,
    make_target_table,
)
from study_folders import write_ranks, write_study

# ---- A model that grows with the GPUs ----------------------------------------------------------

# GPUs -> layers, parameters, operations per token, tokens/s
GROWN = {
    2: (3, 60_000_000, 400_000_000, 50_000.0),
    4: (6, 80_000_000, 550_000_000, 70_000.0),
    8: (12, 124_000_000, 850_000_000, 80_000.0),
}


def make_grown(**of_last):
    runs = [
        make_run(
            gpus, [rate / 2, rate, rate], name=f"job{gpus}", unit="tokens/s", parameters=parameters,
            flops_per_sample=flops, model_size=f"n_layer={layers}, n_head=12, n_embd=768",
            scaling_mode="growing",
        )
        for gpus, (layers, parameters, flops, rate) in GROWN.items()
    ]  # fmt: skip
    runs[-1].settings |= of_last
    return make_growing(make_study(runs))


def test_the_growing_models_columns_by_hand():
    """2 GPUs: 25,000 x 0.4 GFLOP = 10 TFLOP/s each; 4: 17,500 x 0.55 = 9.625; 8: 8.5."""
    names = ("gpus", "parameters_m", "throughput_per_gpu", "tflops_per_gpu",
             "efficiency_pct")  # fmt: skip
    table = make_grown()
    assert [[row[name].text for name in names] for row in table.rows] == [
        ["2", "60.0", "25000.00", "10.00", "100.0"],
        ["4", "80.0", "17500.00", "9.62", "96.2"],
        ["8", "124.0", "10000.00", "8.50", "85.0"],
    ]
    assert "over those of the smallest scale (2 GPUs" in table.definitions[0]


def test_what_differs_besides_the_model_is_not_compared():
    table = make_grown(precision="bf16")
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
    done = call("scaling_tables", tmp_path, "--growing", "--workload=gpt2")
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:3] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in row] for row in rows][2:4] == [
        ["2", "20.0"], ["4", "40.0"],
    ]  # fmt: skip


# ---- One setting as an experiment --------------------------------------------------------------


def compare_values(rates: dict, values=("25", "200"), **of_last):
    """rates: value of bucket_cap_mb -> one throughput per run, on 4 GPUs."""
    runs = [
        make_run(4, [rate, rate, rate], name=f"{value}-{n}", bucket_cap_mb=value)
        for value, each in rates.items()
        for n, rate in enumerate(each)
    ]
    runs[-1].settings |= of_last
    return make_option_tables(make_study(runs), "bucket_cap_mb", list(values))


def test_repeats_give_the_difference_an_interval():
    """By hand: means 100 and 110, deviations 1 and 1: 10 +- 2.7764 (t, 4 degrees) x sqrt(2/3)."""
    (table,) = compare_values({25.0: [99.0, 100.0, 101.0], 200.0: [109.0, 110.0, 111.0]})
    base, other = table.rows
    assert (base["value"].text, base["runs"].text, base["difference_pct"].text) == ("25", "3", "—")
    assert other["difference_pct"].text == "10.0"
    assert other["difference_pct"].note == "95 % interval 7.7 to 12.3 %"
    assert table.title == "bucket_cap_mb on 4 GPUs"


def test_an_interval_that_holds_0_says_so():
    (table,) = compare_values({25.0: [90.0, 110.0], 200.0: [95.0, 111.0]})
    assert table.rows[1]["difference_pct"].note.endswith("which holds 0: no difference shown")


def test_one_run_has_no_interval():
    (table,) = compare_values({25.0: [100.0, 101.0], 200.0: [120.0]})
    assert "one run" in table.rows[1]["difference_pct"].note


def test_null_is_called_none():
    (table,) = compare_values({None: [100.0], 200.0: [120.0]}, ("none", "200"))
    assert [row["value"].text for row in table.rows] == ["none", "200"]


def test_runs_that_differ_in_more_are_refused():
    with pytest.raises(UserError, match=r"bucket_cap_mb 200. differs in more than .*: model"):
        compare_values({25.0: [100.0], 200.0: [120.0]}, model="vit")


def test_values_that_nobody_ran_are_named():
    with pytest.raises(UserError, match="no scale has runs with two of bucket_cap_mb = 25, 50; the "
                                        "runs recorded: 200, 25"):  # fmt: skip
        compare_values({25.0: [100.0], 200.0: [120.0]}, ("25", "50"))


# ---- Time to a target --------------------------------------------------------------------------


def column(table, name: str) -> list[str]:
    return [row[name].text for row in table.rows]


def make_epochs(name: str, gpus: int = 1, epoch_s: float = 60.0, losses=(5.3, 5.2, 5.1, 5.0)):
    """A run with these validation losses, of epochs that took equally long."""
    run = make_run(gpus, [100.0] * len(losses), name=name)
    run.metrics.epochs[:] = [
        epoch.model_copy(update={"epoch_s": epoch_s, "val_loss": loss})
        for epoch, loss in zip(run.metrics.epochs, losses, strict=True)
    ]
    return run


def test_seconds_and_epochs_until_the_loss_first_fell_to_it():
    runs = [make_epochs("a"), make_epochs("b", 4, 20.0, (5.3, 5.1, 5.4, 5.0))]
    table = make_target_table(make_study(runs), "val_loss", 5.1)
    assert column(table, "epochs") == ["3.0", "2.0"]
    assert column(table, "elapsed_s") == ["180.00", "40.00"]
    assert column(table, "speedup") == ["1.00", "4.50"]
    assert column(table, "best") == ["5.0000", "5.0000"]


def test_repeats_have_an_interval_and_those_that_did_not_reach_it_are_named():
    runs = [make_epochs("a"), make_epochs("b", 1, 64.0), make_epochs("c", losses=[5.3, 5.2] * 2)]
    (row,) = make_target_table(make_study(runs), "val_loss", 5.1).rows
    # 180 and 192 s: mean 186, t of one degree of freedom 12.706 x 8.485 / sqrt(2) = 76.24
    assert row["elapsed_s"].text == "186.00" and row["elapsed_s"].note.startswith("± 76.24: 95 %")
    assert row["reached"].text == "2 of 3 runs"


def test_what_was_not_reached_says_the_best():
    runs = [make_epochs("a"), make_epochs("b", 4)]
    table = make_target_table(make_study(runs), "val_accuracy", 0.9)
    assert column(table, "elapsed_s") == column(table, "speedup") == ["—", "—"]
    # 1 - 0.9 x 0.8^3
    assert table.rows[0]["elapsed_s"].note == "not reached: the best is 0.5392"


@pytest.mark.parametrize("lost", ["epoch_s", "epoch"])
def test_a_time_that_is_not_whole_is_missing(lost):
    run = make_epochs("a")
    first, *others = run.metrics.epochs
    epochs = others if lost == "epoch" else [first.model_copy(update={"epoch_s": None}), *others]
    run.metrics = replace(run.metrics, epochs=epochs)
    (row,) = make_target_table(make_study([run]), "val_loss", 5.1).rows
    assert row["epochs"].text == "3.0"
    assert (row["elapsed_s"].text, row["elapsed_s"].note) == (
        "—", "the time of an epoch up to it is not recorded",
    )  # fmt: skip


def test_the_command_prints_the_time_to_a_target(tmp_path):
    root = write_study(tmp_path, ((1, 1), (1, 2)))
    done = call("scaling_tables", root, "--target-accuracy", "40%", "--target-loss", "3.9")
    assert (done.returncode, done.stderr) == (0, "")
    assert "## Time to a validation loss of 3.9" in done.stdout
    assert "## Time to a validation accuracy of 0.4" in done.stdout
    for value in ("40", "1", "x", "40%%", "-1"):
        done = call("scaling_tables", root, f"--target-accuracy={value}")
        assert done.returncode == 2 and "write 75% or 0.75" in done.stderr
    assert "a number above 0" in call("scaling_tables", root, "--target-loss", "nan").stderr


# ---- Strategies --------------------------------------------------------------------------------

MIB = 2**20
HELD = {  # MiB of parameters, gradients and optimizer that a rank holds
    "ddp": (400, 400, 800),
    "zero2": (100, 100, 200),
}


def write_strategy(root: Path, job: str, strategy: str, nodes: int = 1, **changed) -> None:
    """A run of two ranks on two GPUs, each of which peaks at 3,000 MiB."""
    folder = write_run(
        root / strategy, nodes, 2, job, workload="gpt2", unit="tokens/s", strategy=strategy,
        state_dtypes="parameters float32, optimizer float32", throughput=1000.0, **changed,
    )  # fmt: skip
    for epoch in range(3):
        write_ranks(folder / f"results/{job}", epoch, 2 * nodes, 10.0, 3.0)
    for path in folder.glob(f"results/{job}/rank*.json"):
        record = json.loads(path.read_text())
        names = ("parameter_bytes", "gradient_bytes", "optimizer_bytes")
        held = dict(zip(names, (each * MIB for each in HELD[strategy]), strict=True))
        path.write_text(json.dumps(record | held | {"peak_memory_mib": 3000.0}))


def compare_strategies(root: Path):
    return make_strategies(make_study_of_runs(find_runs(root), "gpt2"))


def test_bytes_by_part_and_activations_as_the_rest(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2")
    (table,) = compare_strategies(tmp_path)
    names = ("strategy", "peak_mib", "parameter_mib", "gradient_mib", "optimizer_mib",
             "activation_mib")  # fmt: skip
    assert [[row[name].text for name in names] for row in table.rows] == [
        ["ddp", "3000.0", "400.0", "400.0", "800.0", "1400.0"],
        ["zero2", "3000.0", "100.0", "100.0", "200.0", "2600.0"],
    ]
    assert table.title == "Strategies on 2 GPUs (1 node)"
    assert table.sources == ["ddp: job 12", "zero2: job 13"]


def test_the_process_of_a_cpu_has_more_than_activations(tmp_path):
    for job, strategy in (("12", "ddp"), ("13", "zero2")):
        write_strategy(tmp_path, job, strategy, device="cpu", gpu_name=None)
    (table,) = compare_strategies(tmp_path)
    assert table.rows[0]["activation_mib"].text == "—"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"precision": "bf16"}, "job 13 has precision bf16, job 12 fp16"),
        ({"state_dtypes": "parameters bfloat16, optimizer bfloat16"}, "job 13 has state_dtypes"),
    ],
)
def test_other_numbers_are_refused(tmp_path, changed, why):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2")
    path = next((tmp_path / "zero2").rglob("run.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError, match=why):
        compare_strategies(tmp_path)


def test_a_growing_model_is_in_no_table_of_one_model(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    growing = {"strategy": "fsdp", "scaling": "weak", "scaling_mode": "growing"}
    for job, nodes in (("13", 1), ("14", 2)):  # later than the run of one model
        write_run(tmp_path / "growing", nodes, 2, job, workload="gpt2", unit="tokens/s", **growing)
    never = put(tmp_path / "growing/multi_node/4_nodes/multi_node.slurm", "train_gpt2.py --growing")
    runs = find_runs(tmp_path)
    tables = make_readme_tables(runs, "gpt2")
    assert "2 GPUs, 1 Node: job 12, " in str(tables[0].sources)
    assert not re.search("job 1[34]|4 GPUs|16 GPUs", str([table.sources for table in tables]))
    told = (
        "the model grew with the GPUs, not in these tables: job 13, job 14; see python "
        "scripts/scaling_tables.py --growing"
    )
    assert tables[-1].remarks == [told]
    assert [is_growing(run) for run in runs if run.script == never] == [True]
    study, grown = (make_study_of_runs(runs, "gpt2", growing=growing) for growing in (False, True))
    assert [run.id for run in study.sources] == ["12"]
    assert told in study.left_out
    assert sorted(run.id for run in grown.sources) == ["13", "14"]


def test_one_strategy_is_no_comparison(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2", nodes=2)
    with pytest.raises(UserError, match="no two strategies ran at one scale"):
        compare_strategies(tmp_path)


def test_other_differences_are_named(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2", num_workers=9)
    (table,) = compare_strategies(tmp_path)
    assert "num_workers 9, baseline 4" in table.rows[1]["strategy"].note


def test_kernels_that_nsys_recorded(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2", nodes=1, nsys_steps=11)
    (results,) = tmp_path.glob("zero2/**/results/13")
    rows = ["Total Time (ns),Instances,Name", "22000000,11,ncclDevKernel_AllGather_RING_LL(x)",
            "330000000,99,sgemm", "110000000,11,relu"]  # fmt: skip
    put(results / "nsys_node0_cuda_gpu_kern_sum.csv", "\n".join(rows))
    (table,) = compare_strategies(tmp_path)
    names = ("strategy", "nccl_ms", "kernels_ms")
    assert [[row[name].text for name in names] for row in table.rows] == [
        ["ddp", "—", "—"], ["zero2, nsys", "2.0", "40.0"],
    ]  # fmt: skip
    assert 'profiler = "nsys"' in table.rows[0]["nccl_ms"].note
    assert table.headers["nccl_ms"] == "NCCL kernels (ms/step)"
