"""Where a step's time goes: the probe that changes nothing, the parts that add up, their price."""

import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import torch
import torch.distributed as dist

import train_spiral
from spiral_runs import load, run_spiral
from torch_server import TESTS, run_python
from training import signals
from training import stopwatch as stopwatch_module
from training.batches import plan_batch
from training.breakdown import PAIRS, measure_exposed_comm
from training.run import TrainingRun
from training.stopwatch import PARTS, Stopwatch

CPU = torch.device("cpu")


# ---- The probe changes nothing ------------------------------------------------------------


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """What breakdown_probe.py saved on each of two ranks."""
    folder = tmp_path_factory.mktemp("probe")
    done = run_python(TESTS / "breakdown_probe.py", folder, ranks=2)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("model", ["batchnorm", "dropout"])
@pytest.mark.parametrize("what", ["parameters", "buffers"])
def test_a_probed_training_is_the_same_to_the_bit(probed, model, what, rank):
    without, with_probe = (probed[rank][f"{model}_{is_on}"][what] for is_on in (False, True))
    assert (
        len(without) == len(with_probe) > (0 if model == "batchnorm" or what != "buffers" else -1)
    )
    for before, after in zip(without, with_probe, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_random_numbers_go_on_as_without_it(probed, rank):
    for model in ("batchnorm", "dropout"):
        without, with_probe = (probed[rank][f"{model}_{is_on}"] for is_on in (False, True))
        assert torch.equal(without["random"], with_probe["random"])


def test_the_ranks_saw_other_images(probed):
    """Or equal weights would prove little."""
    first, second = (rank["batchnorm_True"] for rank in probed)
    assert all(map(torch.equal, first["parameters"], second["parameters"]))
    assert not all(map(torch.equal, first["buffers"], second["buffers"]))


@pytest.mark.parametrize("rank", [0, 1])
def test_large_gradients_are_exposed_and_small_ones_are_not(probed, rank):
    small, large = probed[rank]["probe_0.01"], probed[rank]["probe_64"]
    # 64 MiB take tens of milliseconds through gloo, and a pass that computes nothing hides none.
    assert large["exposed_comm_per_step_s"] > 0.01
    assert large["exposed_comm_per_step_s"] > 3 * small["exposed_comm_per_step_s"]
    assert large["exposed_comm_per_step_s"] == pytest.approx(
        large["sync_pass_s"] - large["no_sync_pass_s"]
    )
    assert large["probe_s"] > PAIRS * (large["sync_pass_s"] + large["no_sync_pass_s"]) / 3


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_passes_alternate_and_the_last_one_communicates(alone):
    """DDP copies rank 0's buffers before a pass if the one before it communicated."""
    seen, kinds = [], ["sync"]

    @contextmanager
    def no_sync():
        kinds.append("alone")
        yield
        kinds.pop()

    model = torch.nn.Linear(1, 1)
    measure_exposed_comm(model, lambda: seen.append(kinds[-1]), no_sync, CPU)
    assert seen.count("sync") == seen.count("alone") == PAIRS + 1
    assert seen[-1] == "sync"
    pairs = {tuple(seen[i : i + 2]) for i in range(0, len(seen), 2)}
    assert pairs == {("sync", "alone"), ("alone", "sync")}  # neither is always the first


# ---- In a run -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trainings on two processes, with and without the probe: {is_probed: workdir}."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--epochs=2", "--limit-batches=30", "--checkpoint-every=1000"]
    for name, more in {"True": [], "False": ["--no-probe"]}.items():
        done = run_spiral(folder / name, *options, *more, processes=2)
        assert done.returncode == 0, done.stderr
    return {is_probed: folder / str(is_probed) for is_probed in (True, False)}


def test_a_probed_run_ends_with_the_same_weights(runs):
    first, second = (
        torch.load(runs[is_probed] / "checkpoints/step_00000060.pt", weights_only=True)
        for is_probed in (True, False)
    )
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("epoch", [0, 1])
def test_the_parts_and_the_rest_add_up(runs, rank, epoch):
    result = load(runs[True] / f"rank{rank}_results_epoch{epoch}.json")
    seconds = [result[f"{part}_s"] for part in (*PARTS, "other")]
    assert sum(seconds) == pytest.approx(result["training_time"])
    assert min(seconds) >= 0
    assert result["compute_s"] > result["training_time"] / 3
    assert result["exposed_comm_s"] == pytest.approx(
        result["probe"]["exposed_comm_per_step_s"] * result["steps"]
    )


def test_the_probe_is_reported_and_not_counted(runs):
    first, second = (load(runs[True] / f"rank0_results_epoch{epoch}.json") for epoch in (0, 1))
    assert first["probe"]["probe_s"] > 0
    assert "probe_s" not in second["probe"]  # it ran once
    without = load(runs[False] / "rank0_results_epoch0.json")
    assert without["probe"] is None
    assert without["exposed_comm_s"] is None


# ---- What is always on --------------------------------------------------------------------

STEPS = 400


@pytest.fixture
def own_signals():
    """A run answers signals; this process is to answer them as before."""
    numbers = (signal.SIGUSR1, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def spiral_run(alone, own_signals, monkeypatch, tmp_path):
    """The smallest model's run in this process: (run, one epoch of training, in STEPS steps)."""
    monkeypatch.setattr(
        sys, "argv", ["train_spiral.py", f"--workdir={tmp_path}", "--batch-size=20"]
    )
    for name in ("RANK", "WORLD_SIZE", "CHECKPOINT_DIR", "COMET_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a job
    args = train_spiral.parse_args()
    args.precision = "fp32"
    train_set, val_set = train_spiral.load_data(args)
    plan = plan_batch(args, len(train_set))
    assert plan.steps_per_epoch == STEPS
    loader, _, _ = train_spiral.build_loaders(args, plan, train_set, val_set, CPU)
    learner = train_spiral.build_model(args, plan, train_set, CPU)
    settings = train_spiral.describe_run(args, plan, train_set, val_set)
    run = TrainingRun(args, settings, CPU, Path(train_spiral.__file__), *learner)
    yield run, lambda: train_spiral.train_one_epoch(args, run, loader, *learner)
    torch.set_num_threads(threads)


def test_what_is_always_on_costs_less_than_a_hundredth(spiral_run):
    """Even of this model's step, which is as short as one can be: marks, signals, counting."""
    run, train_one_epoch = spiral_run
    train_one_epoch()
    step_s = median(run.stopwatch.step_times_s)

    run.step, costs = 0, []
    batches = iter(lambda: None, 1)  # endless, and there at once
    with run.stopwatch:
        for _ in range(STEPS):
            began = time.perf_counter()
            run.stopwatch.wait_for(batches)
            run.mark("copy")
            run.mark("compute")
            run.mark("optimizer")
            run.end_step()
            costs.append(time.perf_counter() - began)
    # Medians, moments apart: what else the machine does makes single steps slow, on either side.
    assert median(costs) < step_s / 100, f"{median(costs) * 1e6:.1f} of {step_s * 1e6:.0f} µs"


def test_short_steps_are_not_asked_one_by_one(alone, own_signals, monkeypatch):
    """agree() is the one part that waits for other ranks: on short steps it has to become rare."""
    clock, asked = Namespace(s=0.0), []
    monkeypatch.setattr(signals.time, "monotonic", lambda: clock.s)
    monkeypatch.setattr(signals.dist, "all_reduce", lambda *a, **o: asked.append(clock.s))
    stop = signals.StopRequest()
    for _ in range(10_000):
        clock.s += 0.001
        stop.agree()
    assert len(asked) <= 10 + 10 / signals.CHECK_S[0]
    gaps_s = [after - before for before, after in pairwise(asked[10:])]
    assert signals.CHECK_S[0] / 2 < min(gaps_s) <= max(gaps_s) <= signals.CHECK_S[1]


@pytest.mark.benchmark
def test_the_benchmark_of_the_price_runs(tmp_path):
    """Its ratio is for a calm machine and more steps; here it has to be made of real ones."""
    script = Path(__file__).parents[1] / "benchmarks/overhead.py"
    done = subprocess.run(
        [sys.executable, script, "--rounds=2", f"--out={tmp_path}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = load(tmp_path / "overhead.json")["rows"]
    assert (row["n"], row["steps"]) == (2, 8)
    assert 0.3 < row["ratio"] < 3
    assert min(row["step_ms"], row["files_ms_per_step"], row["ratio_wall"]) > 0


# ---- The parts on a GPU, whose clock a stand-in plays --------------------------------------


class Event:
    """A CUDA event: it has the GPU's time when it is reached, in ms."""

    gpu_ms = 0.0

    def __init__(self, enable_timing: bool):
        assert enable_timing

    def record(self) -> None:
        self.ms = Event.gpu_ms

    def synchronize(self) -> None: ...

    def elapsed_time(self, later: "Event") -> float:
        return later.ms - self.ms


@pytest.mark.parametrize(
    ("host_wait_s", "gpu_idle_ms", "counted_s"),
    [
        (0.050, 50.0, 0.050),  # the GPU waits as long as the host does
        (0.050, 8.0, 0.008),  # most of the wait is behind the computing of the step before
        (0.050, 0.0, 0.0),  # all of it is
        (0.002, 10.0, 0.002),  # the GPU is idle, but and a batch is there
    ],
)
def test_waiting_counts_on_a_gpu_while_it_is_idle(monkeypatch, host_wait_s, gpu_idle_ms, counted_s):
    clock = Namespace(s=0.0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(stopwatch_module.time, "perf_counter", lambda: clock.s)
    Event.gpu_ms = 0.0

    def batches():
        while True:
            clock.s += host_wait_s
            Event.gpu_ms += gpu_idle_ms
            yield "a batch"

    stopwatch, source = Stopwatch(torch.device("cuda")), batches()
    with stopwatch:
        for _ in range(3):
            stopwatch.wait_for(source)
            for part, gpu_ms in {"copy": 1.0, "compute": 20.0, "optimizer": 4.0}.items():
                clock.s += 0.001  # the host is ahead of the GPU
                Event.gpu_ms += gpu_ms
                stopwatch.mark(part)
            stopwatch.end_step()
        clock.s = max(clock.s, Event.gpu_ms / 1000)  # the synchronisation at the end
    assert stopwatch.parts == pytest.approx(
        {"data_wait": 3 * counted_s, "copy": 0.003, "compute": 0.060, "optimizer": 0.012}
    )
    assert stopwatch.other_s == pytest.approx(stopwatch.seconds - sum(stopwatch.parts.values()))
    assert stopwatch.other_s >= -1e-12
