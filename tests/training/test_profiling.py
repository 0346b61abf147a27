"""--profile: a trace that a browser can read, and a table of the operators in the log."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from spiral_runs import load, run_spiral
from training.profiling import SKIPPED, NvtxRanges, StepProfiler, measure_communication

OPERATORS = {"aten::addmm", "aten::relu", "Optimizer.step#Adam.step"}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A training on two processes, both profiled for three steps: (its output, its workdir)."""
    workdir = tmp_path_factory.mktemp("profile") / "results"
    done = run_spiral(
        workdir, "--epochs=1", "--limit-batches=20", "--profile=3", "--profile-ranks=0,1",
        "--nvtx", "--no-probe", processes=2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, workdir


def read_operators(path) -> list[str]:
    return [event["name"] for event in load(path)["traceEvents"] if "name" in event]


@pytest.mark.parametrize("rank", [0, 1])
def test_communication_of_the_profiled_steps_is_in_the_ranks_file(profiled, rank):
    record = load(profiled[1] / f"rank{rank}_results_epoch0.json")
    sent, exposed = (record[f"profiled_{name}_per_step_s"] for name in ("comm", "exposed"))
    assert 0 <= exposed <= sent
    assert 0 < sent < 5


CPU, CUDA = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA


@pytest.mark.parametrize(
    ("events", "sent_us", "exposed_us"),
    [
        # two collectives at once count once; half of what is left runs behind an operator
        ([("gloo:all_reduce", CPU, 0, 40), ("gloo:all_reduce", CPU, 20, 60),
          ("aten::mm", CPU, 30, 100)], 60, 30),
        # on a GPU only kernels count: NCCL's wait on the CPU and operators there are neither
        ([("ncclDevKernel_AllReduce_Sum_f32_RING_LL", CUDA, 0, 50), ("sgemm", CUDA, 10, 30),
          ("aten::mm", CPU, 0, 50), ("nccl:all_reduce", CPU, 0, 90)], 50, 30),
        # named ranges are drawn over the GPU's kernels, too: they hide nothing and send nothing
        ([("ncclDevKernel_AllReduce_Sum_f32_RING_LL", CUDA, 0, 50), ("sgemm", CUDA, 10, 30),
          ("ProfilerStep#7", CUDA, 0, 60), ("nccl:all_reduce", CUDA, 0, 55)], 50, 30),
        ([("aten::mm", CPU, 0, 10)], 0, 0),
    ],
)  # fmt: skip
def test_communication_by_hand(events, sent_us, exposed_us):
    made = [
        SimpleNamespace(name=name, device_type=device,
                        is_user_annotation=name.startswith(("ProfilerStep", "nccl:")),
                        time_range=SimpleNamespace(start=start, end=end))
        for name, device, start, end in events
    ]  # fmt: skip
    assert measure_communication(made, steps=2) == pytest.approx(
        {
            "profiled_comm_per_step_s": sent_us / 2e6,
            "profiled_exposed_per_step_s": exposed_us / 2e6,
        }
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_the_trace_has_the_steps_operators(profiled, rank):
    names = read_operators(profiled[1] / f"trace_rank{rank}.json")
    assert set(names) >= OPERATORS
    assert any("all_reduce" in name or "allreduce" in name for name in names)
    # Three steps of four linear layers, and no more.
    assert names.count("aten::addmm") == 3 * 4
    assert len({name for name in names if name.startswith("ProfilerStep#")}) == 3


def test_the_log_has_a_table_for_each_rank(profiled):
    output, workdir = profiled
    for rank in (0, 1):
        assert f"Profile of rank {rank}, its trace is trace_rank{rank}.json:\n" in output
    assert output.count("Self CPU time total") == 2
    assert output.count("--nvtx has no effect: it needs CUDA\n") == 1
    assert "aten::addmm" in output
    assert "\r" not in output
    assert not list(workdir.glob("*.tmp*"))
    assert (workdir / "RUN_COMPLETE.txt").exists()


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def profile(folder, *, asked: int, steps: int, ranks: list[int]) -> None:
    profiler = StepProfiler(folder, asked, ranks, torch.device("cpu"))
    for _ in range(steps):
        torch.ones(3) + 1
        profiler.end_step()
    profiler.stop()
    profiler.stop()  # a training that is cut off may call it again


@pytest.mark.parametrize(
    ("asked", "steps", "recorded"),
    [(4, 100, 4), (50, SKIPPED + 1 + 7, 7), (1, SKIPPED + 2, 1)],
    ids=["as asked", "fewer than asked", "one"],
)
def test_as_many_steps_as_there_are(alone, tmp_path, capsys, asked, steps, recorded):
    profile(tmp_path, asked=asked, steps=steps, ranks=[0])
    names = read_operators(tmp_path / "trace_rank0.json")
    assert names.count("aten::add") == recorded
    assert capsys.readouterr().out.count("Profile of rank 0") == 1


def test_a_training_too_short_to_profile_says_so(alone, tmp_path, capsys):
    profile(tmp_path, asked=5, steps=SKIPPED, ranks=[0])
    assert list(tmp_path.iterdir()) == []
    line = capsys.readouterr().out
    assert line.startswith("Profile of rank 0: nothing to show")
    assert line.count("\n") == 1


@pytest.mark.parametrize(("asked", "ranks"), [(0, [0]), (5, [1, 2])])
def test_nobody_else_is_profiled(alone, tmp_path, capsys, asked, ranks):
    profile(tmp_path, asked=asked, steps=20, ranks=ranks)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_a_trace_is_plain_json(alone, tmp_path):
    profile(tmp_path, asked=1, steps=20, ranks=[0])
    assert json.loads((tmp_path / "trace_rank0.json").read_text())["traceEvents"]


# ---- --nvtx ---------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What would reach Nsight Systems, where there is CUDA."""
    made = []
    for module, names in (
        (torch.cuda.nvtx, ("range_push", "range_pop")),
        (torch.cuda.profiler, ("start", "stop")),
        (torch.cuda, ("synchronize",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *args, name=name: made.append(
                " ".join([name, *args])))  # fmt: skip
    return made


def live(ranges: NvtxRanges, passes: int) -> bool:
    """One step as TrainingRun sees it."""
    ranges.begin_step()
    for left in reversed(range(passes)):
        ranges.begin("data_wait")
        ranges.begin("copy")
        for part in ("copy", "compute"):
            ranges.begin_after(part, is_last_pass=left == 0)
    ranges.begin_after("optimizer", is_last_pass=True)
    return ranges.end_step()


def test_ranges_are_the_steps_parts(calls):
    assert live(NvtxRanges(True, torch.device("cuda")), passes=2) is False
    names, depth = [], 0
    for call in calls:
        depth += 1 if call.startswith("range_push") else -1
        assert depth >= 0
        names += [f"{depth} {call.removeprefix('range_push ')}"] * call.startswith("range_push")
    assert depth == 0
    once = ["2 data_wait", "2 copy", "2 compute"]
    assert names == ["1 step 1", *once, *once, "2 optimizer"]


def test_steps_10_to_20_are_recorded(calls):
    ranges = NvtxRanges(True, torch.device("cuda"))
    ended = [step for step in range(1, 31) if live(ranges, passes=1)]
    begin, end = calls.index("start"), calls.index("stop")
    assert (calls[begin + 1], calls[end - 1]) == ("range_push step 10", "synchronize")
    assert calls[end + 1] == "range_push step 21"
    assert ended == [20]
    assert not ranges.stop()  # at the end of the training: done already
    assert (calls.count("start"), calls.count("stop")) == (1, 1)


def test_a_recording_ends_with_a_short_training(calls):
    ranges = NvtxRanges(True, torch.device("cuda"))
    for _ in range(12):
        live(ranges, passes=1)
    assert "stop" not in calls
    assert ranges.stop()
    assert calls[-1] == "stop"


def test_without_cuda_it_says_so(alone, calls, capsys):
    live(NvtxRanges(True, torch.device("cpu")), passes=1)
    live(NvtxRanges(False, torch.device("cuda")), passes=1)
    assert calls == []
    assert capsys.readouterr().out == "--nvtx has no effect: it needs CUDA\n"
