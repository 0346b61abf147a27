"""scaling_tables.py --strategies: runs that differ in strategy alone, side by side."""

import json
import re
from pathlib import Path

import pytest

from common.errors import UserError
from run_folders import put, write_run
from scaling.runs import find_runs, make_study
from scaling.runs.find import is_growing
from scaling.tables import make_readme_tables, make_strategies
from study_folders import write_ranks

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


def make_tables(root: Path):
    return make_strategies(make_study(find_runs(root), "gpt2"))


def test_bytes_by_part_and_activations_as_the_rest(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2")
    (table,) = make_tables(tmp_path)
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
    (table,) = make_tables(tmp_path)
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
        make_tables(tmp_path)


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
    study, grown = (make_study(runs, "gpt2", growing=growing) for growing in (False, True))
    assert [run.id for run in study.sources] == ["12"]
    assert told in study.left_out
    assert sorted(run.id for run in grown.sources) == ["13", "14"]


def test_one_strategy_is_no_comparison(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2", nodes=2)
    with pytest.raises(UserError, match="no two strategies ran at one scale"):
        make_tables(tmp_path)


def test_other_differences_are_named(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2", num_workers=9)
    (table,) = make_tables(tmp_path)
    assert "num_workers 9, baseline 4" in table.rows[1]["strategy"].note


def test_kernels_that_nsys_recorded(tmp_path):
    write_strategy(tmp_path, "12", "ddp")
    write_strategy(tmp_path, "13", "zero2", nodes=1, nsys_steps=11)
    (results,) = tmp_path.glob("zero2/**/results/13")
    rows = ["Total Time (ns),Instances,Name", "22000000,11,ncclDevKernel_AllGather_RING_LL(x)",
            "330000000,99,sgemm", "110000000,11,relu"]  # fmt: skip
    put(results / "nsys_node0_cuda_gpu_kern_sum.csv", "\n".join(rows))
    (table,) = make_tables(tmp_path)
    names = ("strategy", "nccl_ms", "kernels_ms")
    assert [[row[name].text for name in names] for row in table.rows] == [
        ["ddp", "—", "—"], ["zero2, nsys", "2.0", "40.0"],
    ]  # fmt: skip
    assert 'profiler = "nsys"' in table.rows[0]["nccl_ms"].note
    assert table.headers["nccl_ms"] == "NCCL kernels (ms/step)"
