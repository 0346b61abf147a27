"""Comet: what reaches it, read from a real offline archive; and that it never ends a training."""

import json
import sys
import time
import types
import zipfile
from argparse import Namespace

import pytest
import torch
import torch.distributed as dist

from spiral_runs import load, run_spiral
from training import tracking
from training.epoch import EpochResult
from training.tracking import CometTracker, NoTracker, can_reach, choose_tags, start_tracker

KEY = "a-secret-key-of-a-person"
NOWHERE = "http://127.0.0.1:9/clientlib/"  # the discard port: nothing listens there
RUN = {
    "workload": "spiral", "model": "MLP [8]", "run_id": "77", "world_size": 4, "nodes": 1,
    "hosts": ["node1"], "versions": {"torch": "2"}, "slurm": {"job_id": "77"}, "dataset": {},
}  # fmt: skip
RESULT = EpochResult(
    epoch=0, lr=0.1, train_loss=2.0, val_loss=3.0, train_accuracy=0.4, val_accuracy=0.5,
    samples=320, slowest_s=1.0,
)  # fmt: skip


@pytest.fixture
def alone(monkeypatch):
    """A process group of one, and none of the environment's Comet settings."""
    for name in ("COMET_API_KEY", "COMET_OFFLINE_DIRECTORY", "COMET_URL_OVERRIDE", *tracking.QUIET):
        monkeypatch.setenv(name, "")  # so that monkeypatch puts back what the code sets
        monkeypatch.delenv(name)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# ---- What an archive holds ----------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A training on two processes without a network: (output, workdir, experiment, messages)."""
    pytest.importorskip("comet_ml")
    folder = tmp_path_factory.mktemp("comet")
    done = run_spiral(
        folder / "results", "--epochs=2", "--limit-batches=40", "--comet_project=a-workshop",
        processes=2, COMET_API_KEY=KEY, COMET_OFFLINE_DIRECTORY=f"{folder}/kept",
        COMET_URL_OVERRIDE=NOWHERE, SLURM_JOB_ID="77", SLURM_JOB_NAME="spiral_mlp_2gpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "kept").glob("*.zip")
    assert f"Comet: kept for later: comet upload {path}\n" in done.stdout
    with zipfile.ZipFile(path) as file:
        everything = {name: file.read(name).decode() for name in file.namelist()}
    assert not any(KEY in text for text in everything.values())
    messages = [json.loads(line) for line in everything["messages.json"].splitlines()]
    output = done.stdout + done.stderr
    return output, folder / "results", json.loads(everything["experiment.json"]), messages


def list_metric(messages: list[dict], name: str) -> list[tuple]:
    """All (step, epoch, value) of a metric."""
    metrics = [m["payload"]["metric"] for m in messages if m["type"] == "metric_msg"]
    found = [m for m in metrics if m["metricName"] == name]
    return [(m["step"], m["epoch"], m["metricValue"]) for m in found]


def read_others(messages: list[dict]) -> dict:
    payloads = [m["payload"] for m in messages if m["type"] == "log_other"]
    return {payload["key"]: payload["value"] for payload in payloads}


def test_epochs_are_those_of_the_metrics_file(archive):
    _, workdir, _, messages = archive
    epochs = load(workdir / "training_metrics.json")["epochs"]
    for name, field in {
        "train_loss_epoch": "train_loss_avg_global",
        "val_loss": "val_loss_avg_global",
        "val_acc": "val_accuracy_global",
        "throughput_per_s": "samples_per_sec_global",
    }.items():
        expected = [(40 * (i + 1), i + 1, epoch[field]) for i, epoch in enumerate(epochs)]
        assert list_metric(messages, name) == [pytest.approx(e) for e in expected], name


def test_train_loss_by_step(archive):
    _, _, _, messages = archive
    losses = list_metric(messages, "train_loss")
    assert losses[0][:2] == (1, 1)
    assert [loss[:2] for loss in losses if loss[0] in (40, 80)] == [(40, 1), (80, 2)]
    assert losses[0][2] == pytest.approx(1.1, abs=0.15)  # ln 3: it knows nothing yet
    assert losses[-1][2] < losses[0][2]


def test_what_the_run_was(archive):
    _, workdir, experiment, messages = archive
    assert experiment["project_name"] == "a-workshop"
    assert sorted(experiment["tags"]) == ["2gpu", "spiral"]
    run, others = load(workdir / "run.json"), read_others(messages)
    assert others["Name"] == "spiral_mlp_2gpu"
    assert others["slurm_job_id"] == "77"
    assert others["hosts"] == " ".join(run["hosts"])
    assert others["versions_torch"] == torch.__version__
    sent = [m["payload"]["param"] for m in messages if m["type"] == "parameter_msg"]
    parameters = {p["paramName"]: p["paramValue"] for p in sent}
    for name in ("lr", "global_batch_size", "precision", "optimizer", "seed", "world_size"):
        assert parameters[name] == run[name], name


def test_system_metrics_and_packages(archive):
    messages = archive[3]
    assert list_metric(messages, "sys.cpu.percent.avg")
    assert list_metric(messages, "sys.ram.used")
    (packages,) = [m["payload"] for m in messages if m["type"] == "installed_packages"]
    assert f"torch=={torch.__version__.partition('+')[0]}" in " ".join(
        packages["installed_packages"]
    )


def test_no_key_is_printed_or_written(archive):
    output, workdir, _, _ = archive
    assert KEY not in output
    assert [path for path in workdir.iterdir() if KEY in path.read_text()] == []


# ---- A tracker that fails -----------------------------------------------------------------

BROKEN = f"""
import time
time.sleep(8)
class Experiment:
    alive, url = True, "https://example.org"
    def __getattr__(self, name):
        def fail(*args, **options):
            raise RuntimeError("{KEY} was refused\\nby " + name)
        return fail
    def __init__(self, **options): pass
    def get_name(self): return "broken"
OfflineExperiment = Experiment
"""


def test_a_slow_and_broken_comet_costs_a_line(tmp_path):
    """All ranks wait for rank 0's import, and no second of it is counted as training."""
    (tmp_path / "comet_ml.py").write_text(BROKEN)
    done = run_spiral(
        tmp_path / "results", "--epochs=2", "--limit-batches=3", "--no-probe", processes=2,
        COMET_API_KEY=KEY, COMET_OFFLINE_DIRECTORY=str(tmp_path), COMET_URL_OVERRIDE=NOWHERE,
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("Comet: ")]
    assert lines == ["Comet: it stops here (RuntimeError: *** was refused); the training goes on"]
    for rank in (0, 1):
        first = load(tmp_path / f"results/rank{rank}_results_epoch0.json")
        assert first["training_time"] < 8
    metrics = load(tmp_path / "results/training_metrics.json")
    assert metrics["epochs"][0]["epoch_wall_time_sec"] < 8
    assert metrics["summary"]["completed"] is True


class Experiment:
    """Keeps its calls; raises in the one that is named."""

    offline_directory = None

    def __init__(self, broken: str = ""):
        self.broken, self.calls = broken, []

    def __getattr__(self, name: str):
        def call(*args, **options):
            self.calls.append((name, args, options))
            if name == self.broken:
                raise OSError(f"no route, {KEY}")

        return call


def live(tracker: CometTracker) -> None:
    """A training of three steps."""
    for step in (1, 2, 3):
        tracker.add_step(step, torch.tensor([2.0 * step, 0.0, 32.0 * step]))
    tracker.add_epoch(RESULT, 3)
    tracker.end()


CALLS = [
    "log_parameters", "log_others", "log_other", "set_name", "add_tags", "log_metric",
    "log_metrics", "end",
]  # fmt: skip


@pytest.mark.parametrize("broken", CALLS)
def test_an_error_in_any_call_ends_the_logging_alone(broken, monkeypatch, capsys):
    monkeypatch.setenv("COMET_API_KEY", KEY)
    experiment = Experiment(broken)
    live(CometTracker(experiment, RUN))
    assert experiment.calls[-1][0] == broken  # and nothing after it
    assert capsys.readouterr().out == (
        "Comet: it stops here (OSError: no route, ***); the training goes on\n"
    )


def test_a_working_experiment_gets_every_call(capsys):
    experiment = Experiment()
    live(CometTracker(experiment, RUN))
    assert {name for name, _, _ in experiment.calls} >= set(CALLS)
    assert "stops" not in capsys.readouterr().out


def test_an_end_that_hangs_is_left_behind(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "END_S", 0.1)
    experiment = Experiment()
    tracker = CometTracker(experiment, RUN)
    experiment.end = lambda: time.sleep(20)
    began = time.monotonic()
    tracker.end()
    assert time.monotonic() - began < 10
    assert "it has not finished after 0.1 s and is not waited for" in capsys.readouterr().out


# ---- When train_loss is sent --------------------------------------------------------------


def sent_losses(experiment: Experiment) -> list[tuple]:
    return [
        (options["step"], options["epoch"], args[1])
        for name, args, options in experiment.calls
        if name == "log_metric"
    ]


def test_train_loss_is_the_mean_since_the_last_one(monkeypatch):
    experiment, clock = Experiment(), [100.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
    tracker = CometTracker(experiment, RUN)
    sums = torch.zeros(3, dtype=torch.float64)
    for step, loss in enumerate([3.0, 2.0, 2.0, 1.0, 1.0, 5.0], start=1):
        sums += torch.tensor([loss * 32, 0.0, 32.0])  # in place, as a trainer does
        tracker.add_step(step, sums)
        clock[0] += 0.4
    tracker.add_epoch(RESULT, 6)
    # Step 1 at once, step 4 after 1.2 s (2 + 2 + 1 of 3 steps), the rest at the epoch's end.
    assert sent_losses(experiment) == [(1, 1, 3.0), (4, 1, pytest.approx(5 / 3)), (6, 1, 3.0)]


def test_each_epoch_begins_at_zero(monkeypatch):
    experiment = Experiment()
    tracker = CometTracker(experiment, RUN)
    for epoch, loss in enumerate([3.0, 7.0]):
        tracker.add_step(epoch + 1, torch.tensor([loss * 32, 0.0, 32.0]))
        tracker.add_epoch(EpochResult(**vars(RESULT) | {"epoch": epoch}), epoch + 1)
    assert sent_losses(experiment) == [(1, 1, 3.0), (2, 2, 7.0)]


def test_after_a_restart_the_steps_before_the_cut_are_left_out():
    experiment = Experiment()
    tracker = CometTracker(experiment, RUN | {"resumed_from": {"epoch": 2, "step": 10}})
    tracker.add_step(211, torch.tensor([11 * 9.0 * 32, 0.0, 11 * 32.0]))
    tracker.add_step(212, torch.tensor([11 * 9.0 * 32 + 32, 0.0, 12 * 32.0]))
    tracker.add_epoch(EpochResult(**vars(RESULT) | {"epoch": 2}), 212)
    assert sent_losses(experiment) == [(212, 3, 1.0)]


# ---- Whether there is one -----------------------------------------------------------------


def test_nothing_without_a_key(alone, capsys):
    assert isinstance(start_tracker(Namespace(comet_project="p"), RUN), NoTracker)
    assert capsys.readouterr().out == ""


def test_without_the_package_one_line(alone, monkeypatch, capsys):
    monkeypatch.setenv("COMET_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    assert isinstance(start_tracker(Namespace(comet_project="p"), RUN), NoTracker)
    assert capsys.readouterr().out == (
        "Comet: COMET_API_KEY is set, but comet_ml is not installed: pip install comet_ml\n"
    )


@pytest.fixture
def comet(monkeypatch):
    """A comet_ml whose online experiment is dead on arrival, as the real one is when refused."""
    module = types.ModuleType("comet_ml")
    module.Experiment = lambda **what: types.SimpleNamespace(alive=False)
    module.OfflineExperiment = lambda **what: Experiment()
    monkeypatch.setitem(sys.modules, "comet_ml", module)
    monkeypatch.setenv("COMET_API_KEY", KEY)


@pytest.mark.parametrize("reachable", [True, False])
def test_out_of_reach_without_a_folder_is_one_line(alone, comet, monkeypatch, capsys, reachable):
    monkeypatch.setattr(tracking, "can_reach", lambda url: reachable)
    assert isinstance(start_tracker(Namespace(comet_project="p"), RUN), NoTracker)
    line = capsys.readouterr().out
    assert "set COMET_OFFLINE_DIRECTORY to keep it for upload" in line
    assert line.count("\n") == 1


def test_a_dead_experiment_is_kept_offline(alone, comet, monkeypatch, tmp_path):
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(tracking, "can_reach", lambda url: True)
    tracker = start_tracker(Namespace(comet_project="p"), RUN)
    assert isinstance(tracker.experiment, Experiment)


def test_reach(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = tracking.socket.create_server(("127.0.0.1", 0))
    open_port = server.getsockname()[1]
    assert can_reach(f"http://127.0.0.1:{open_port}/clientlib/")
    assert not can_reach(NOWHERE)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{open_port}")
    assert can_reach("http://192.0.2.1/")  # the proxy's business
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert not can_reach(NOWHERE)
    server.close()


@pytest.mark.parametrize(
    ("run", "tags"),
    [
        ({"workload": "spiral", "world_size": 1, "nodes": 1}, ["spiral", "1gpu"]),
        ({"workload": "spiral", "world_size": 4, "nodes": 1}, ["spiral", "4gpu"]),
        ({"workload": "gpt2", "world_size": 8, "nodes": 2}, ["gpt2", "8gpu", "2nodes"]),
    ],
)
def test_tags(run, tags):
    assert choose_tags(run) == tags


@pytest.mark.parametrize(
    ("workload", "model", "name"),
    [("spiral", "MLP [64, 32, 16]", "spiral_mlp_4gpu"), ("tiny", "resnet50", "tiny_resnet50_4gpu")],
)
def test_names_outside_slurm(workload, model, name):
    assert tracking.name_experiment(RUN | {"workload": workload, "model": model}) == name
