"""Every trainer on a real GPU: its precisions and strategies, what it records, and resuming."""

import shutil
import sysconfig
import time
from pathlib import Path

import pytest

from gpu_runs import Training, check_training

pytestmark = pytest.mark.gpu
OPTIONS = {
    "train.py": ("--model=resnet18", "--batch-size=32", "--lr=0.01", "--epochs=2",
                 "--num-workers=2"),
    "train_minimal.py": ("--model=resnet18", "--batch-size=32", "--lr=0.01", "--epochs=2",
                         "--num-workers=2"),
    "train_gpt2.py": ("--layers=4", "--width=256", "--heads=4", "--seq-length=128", "--steps=40",
                      "--epochs=2", "--lr=0.001"),
    "train_translation.py": ("--layers=2", "--width=128", "--heads=4", "--epochs=2",
                             "--batch-size=64", "--lr=0.002", "--warmup-steps=10"),
    "train_spiral.py": ("--epochs=2", "--samples=4000"),
}  # fmt: skip
DATA = {
    "train.py": "images", "train_minimal.py": "images", "train_gpt2.py": "tokens",
    "train_translation.py": "numbers", "train_spiral.py": None,
}  # fmt: skip
PRECISIONS = ("fp32", "bf16", "fp16")
STRATEGIES = ("ddp", "zero1", "zero2", "fsdp")
CASES = [
    *(("train.py", f"--precision={each}") for each in PRECISIONS),
    *(("train_gpt2.py", f"--precision={each}") for each in PRECISIONS),
    *(("train_translation.py", f"--precision={each}") for each in PRECISIONS),
    *(("train_spiral.py", f"--precision={each}") for each in PRECISIONS),
    ("train.py", "--cuda-graph"),
    ("train.py", "--cuda-graph", "--input=device", "--precision=bf16", "--grad-accum-steps=2"),
    ("train.py", "--input=jpeg", "--nvtx"),
    *(("train_gpt2.py", "--run-type=optimized", f"--strategy={each}", f"--precision={precision}")
      for each in STRATEGIES for precision in ("fp16", "bf16")),
    ("train_gpt2.py", "--run-type=optimized", "--grad-compression=fp16"),
    ("train_gpt2.py", "--activation-checkpointing", "--dropout=0.1", "--nvtx"),
    ("train_gpt2.py", "--compile"),
    ("train_translation.py", "--compile"),
    ("train_spiral.py", "--compile"),
]  # fmt: skip


def can_compile() -> bool:
    """Whether Triton can build its launchers here."""
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return header.exists() and any(map(shutil.which, ("gcc", "clang", "cc")))


@pytest.fixture
def start(gpu, request, tmp_path):
    """Returns start(script, *words, name="", **variables) -> a Training of small data."""

    def run(script: str, *words: str, name: str = "run", **variables) -> Training:
        if "--compile" in words and not can_compile():
            pytest.skip("--compile needs a C compiler and Python's headers")
        data = {"DATA_DIR": request.getfixturevalue(DATA[script])} if DATA[script] else {}
        words = (*OPTIONS[script], *words)
        if script == "train_minimal.py":
            words += (f"--data-dir={data['DATA_DIR']}",)
        return Training(tmp_path / name, script, *words, gpu=gpu, **data, **variables)

    return run


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case))
def test_a_training_learns_and_records_where_it_ran(start, gpu, case):
    training = start(*case).finish()
    check_training(training, gpu)
    asked = [word.partition("=")[2] for word in case if word.startswith("--precision=")]
    assert training.run["precision"] == (asked[0] if asked else "fp16")
    assert training.run.get("nsys_steps") == (11 if "--nvtx" in case else None)


def test_the_tutorial_loop_learns(start):
    losses = [float(line.train_loss) for line in start("train_minimal.py").finish().lines]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_ways_to_run_the_same_steps_learn_the_same(start):
    """From one seed: what differs is the order of sums, and the bits of 16-bit numbers."""
    ways = {
        "eager": (), "graph": ("--cuda-graph",), "device": ("--input=device",),
        "jpeg": ("--input=jpeg",), "bf16": ("--precision=bf16",), "fp16": ("--precision=fp16",),
    }  # fmt: skip
    if can_compile():
        ways["compiled"] = ("--compile",)
    # GPUs round while they add in any order, and large steps would make much of it.
    small = ("--lr=0.001", "--precision=fp32")
    trainings = {name: start("train.py", *small, *words, name=name) for name, words in ways.items()}
    losses = {name: training.finish().losses for name, training in trainings.items()}
    for name, found in losses.items():
        tolerance = 0.03 if name.endswith("16") else 0.01
        assert found == pytest.approx(losses["eager"], rel=tolerance), (name, losses)


CUT = {
    "eager": ("train.py",),
    "graph": ("train.py", "--cuda-graph", "--input=device"),
    **{each: ("train_gpt2.py", "--run-type=optimized", f"--strategy={each}")
       for each in STRATEGIES},
    "translation": ("train_translation.py",),
}  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_a_cut_training_goes_on_as_if_it_had_not_been(start, gpu, tmp_path, name):
    script, *words = CUT[name]
    (tmp_path / "cut/results").mkdir(parents=True)
    (tmp_path / "cut/results/STOP_USR1").touch()  # as node.sh leaves it: the time is nearly up
    whole = start(script, *words, name="whole")
    cut = start(script, *words, name="cut", CHECKPOINT_DIR=tmp_path / "saved").finish()
    assert "Stopped by SIGUSR1, all is saved\n" in cut.stdout
    assert (cut.workdir / "REQUEUE").exists()
    rest = start(script, *words, name="rest", CHECKPOINT_DIR=tmp_path / "saved").finish()
    assert "Going on after step 1, in epoch 1\n" in rest.stdout
    check_training(rest, gpu)
    assert rest.losses == pytest.approx(whole.finish().losses, rel=0.02)


# ---- The profiler ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        ("train.py", "--cuda-graph"),
        ("train_gpt2.py", "--run-type=optimized"),
        ("train_gpt2.py", "--run-type=optimized", "--strategy=fsdp"),
    ],
    ids=" ".join,
)
def test_a_profile_has_the_gpus_kernels(start, case):
    training = start(*case, "--profile=4").finish()
    trace = training.read("trace_rank0.json")["traceEvents"]
    assert sum(event.get("cat") == "kernel" for event in trace) > 4 * 10
    assert "Profile of rank 0, its trace is trace_rank0.json:\n" in training.stdout
    assert "Self CUDA time total: " in training.stdout
    rank = training.read("rank0_results_epoch0.json")
    sent, exposed = (rank[f"profiled_{name}_per_step_s"] for name in ("comm", "exposed"))
    assert 0 <= exposed <= sent < 0.1


def test_a_named_range_on_the_gpus_timeline_is_no_kernel(gpu):
    """torch.profiler draws record_function's ranges there, over the gaps between the kernels."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    from training.profiling import is_kernel, measure_union

    block = torch.ones(1 << 20, device="cuda")
    block.sum().item()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        with record_function("a range of ours"):
            block.sum().item()
            time.sleep(0.3)
            block.sum().item()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    on_gpu = {event.name for event in profiler.events() if event.device_type == cuda}
    assert "a range of ours" in on_gpu, on_gpu
    kernels = [(e.time_range.start, e.time_range.end) for e in profiler.events() if is_kernel(e)]
    assert 0 < measure_union(kernels) < 100_000  # µs; the range takes 300,000
