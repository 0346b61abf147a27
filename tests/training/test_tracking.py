"""Trackers: what reaches each, read from its own files; and that none ever ends a training."""

import importlib.util
import json
import struct
import sys
import time
import types
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from spiral_runs import load, run_spiral
from training import tracking
from training.arguments import TRACKERS, TrainerParser, add_output_arguments
from training.epoch import EpochResult
from training.tracking import Tracking, can_reach, choose_tags, comet, start_tracking, wandb

KEY, WANDB_KEY = "a-secret-key-of-a-person", "0123456789abcdef0123456789abcdef01234567"
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
    for name in ("COMET_API_KEY", "COMET_OFFLINE_DIRECTORY", "COMET_URL_OVERRIDE", *comet.QUIET):
        monkeypatch.setenv(name, "")  # so that monkeypatch puts back what the code sets
        monkeypatch.delenv(name)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# ---- What an archive holds ----------------------------------------------------------------


INSTALLED = [name for name, each in TRACKERS.items() if importlib.util.find_spec(each.module)]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A training on two processes with every tracker, without a network: (output, folder)."""
    folder = tmp_path_factory.mktemp("tracked")
    done = run_spiral(
        folder / "results", "--epochs=2", "--limit-batches=40", "--comet_project=a-workshop",
        f"--tracker={','.join(INSTALLED) or 'none'}", processes=2,
        COMET_API_KEY=KEY, COMET_OFFLINE_DIRECTORY=f"{folder}/kept", COMET_URL_OVERRIDE=NOWHERE,
        WANDB_API_KEY=WANDB_KEY, WANDB_BASE_URL=NOWHERE,
        SLURM_JOB_ID="77", SLURM_JOB_NAME="spiral_mlp_2gpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr, folder


@pytest.fixture(scope="module")
def archive(tracked):
    """What Comet's archive holds: (output, workdir, experiment, messages)."""
    pytest.importorskip("comet_ml")
    output, folder = tracked
    (path,) = (folder / "kept").glob("*.zip")
    assert f"Comet: kept for later: comet upload {path}\n" in output
    with zipfile.ZipFile(path) as file:
        everything = {name: file.read(name).decode() for name in file.namelist()}
    assert not any(key in text for text in everything.values() for key in (KEY, WANDB_KEY))
    messages = [json.loads(line) for line in everything["messages.json"].splitlines()]
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
    for name, field in BY_EPOCH.items():
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


# Of the metrics file, by the names that every tracker shows.
BY_EPOCH = {
    "train_loss_epoch": "train_loss_avg_global",
    "val_loss": "val_loss_avg_global",
    "val_acc": "val_accuracy_global",
    "throughput_per_s": "samples_per_sec_global",
}


@pytest.mark.parametrize("read", [lambda f: read_tensorboard(f), lambda f: read_wandb(f)],
                         ids=["tensorboard", "wandb"])  # fmt: skip
def test_tensorboard_and_wandb_have_the_same_figures(tracked, read):
    series, settings = read(tracked[1] / "results")
    epochs = load(tracked[1] / "results/training_metrics.json")["epochs"]
    for name, field in BY_EPOCH.items():
        expected = [(40 * (i + 1), pytest.approx(each[field])) for i, each in enumerate(epochs)]
        assert series[name] == expected, name
    assert series["train_loss"][0] == (1, pytest.approx(1.1, abs=0.15))
    assert [step for step, _ in series["train_loss"]][-1] == 80
    assert series["epoch"][-1] == (80, 2)
    run = load(tracked[1] / "results/run.json")
    for name in ("lr", "global_batch_size", "precision", "optimizer", "seed", "world_size"):
        assert settings[name] == run[name], name


def read_tensorboard(folder: Path) -> tuple[dict, dict]:
    """Every scalar of TensorBoard's event files as (step, value), and the settings."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    (text,) = events.Tensors("settings/text_summary")
    series = {
        name: [(each.step, each.value) for each in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    return series, json.loads(text.tensor_proto.string_val[0])


def read_wandb(folder: Path) -> tuple[dict, dict]:
    """The same of W&B's offline file: a log as LevelDB writes it, of protocol buffers."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    series, settings = {}, {}
    for data in split_log(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            assert (record.run.display_name, record.run.project) == (
                "spiral_mlp_2gpu", "a-workshop"
            )  # fmt: skip
            assert sorted(record.run.tags) == ["2gpu", "spiral"]
            settings |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
        if kind == "history":
            row = {(each.key or each.nested_key[0]): json.loads(each.value_json)
                   for each in record.history.item}  # fmt: skip
            for name in row.keys() - {"_step"}:
                series.setdefault(name, []).append((row["_step"], row[name]))
    return series, settings


def split_log(data: bytes):
    """The records of a LevelDB log after W&B's 7 bytes: blocks of 32 KiB, pieces of a kind."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        record = (record if kind in (3, 4) else b"") + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield record


def test_no_key_is_printed_or_written(tracked):
    output, folder = tracked
    for key in (KEY, WANDB_KEY):
        assert key not in output
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert [path for path in files if key.encode() in path.read_bytes()] == []


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
    assert lines == [
        "Comet: it cannot start (RuntimeError: *** was refused); the training goes on without"
    ]
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


class Recorder:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.logged: list[tuple] = []

    def log(self, figures, step, epoch):
        self.logged.append((step, epoch, figures))

    def end(self):
        return "the end"

    @property
    def losses(self) -> list[tuple]:
        return [(step, epoch, row["train_loss"]) for step, epoch, row in self.logged
                if "train_loss" in row]  # fmt: skip


def track(**trackers) -> Tracking:
    return Tracking(trackers, RUN)


def live(tracking: Tracking) -> None:
    """A training of three steps."""
    for step in (1, 2, 3):
        tracking.add_step(step, torch.tensor([2.0 * step, 0.0, 32.0 * step]))
    tracking.add_epoch(RESULT, 3)
    tracking.end()


CALLS = ["log_parameters", "log_others", "log_other", "set_name", "add_tags", "log_metrics", "end"]
AT_THE_START = CALLS[:5]


@pytest.mark.parametrize("broken", ["", *CALLS])
def test_an_error_in_any_call_ends_one_tracker_alone(broken, alone, monkeypatch, capsys):
    monkeypatch.setenv("COMET_API_KEY", KEY)
    experiment, other = Experiment(broken), Recorder()
    monkeypatch.setattr(comet, "open_experiment", lambda project: experiment)
    tracking = start_tracking(ASKED, RUN)
    tracking.trackers["tensorboard"] = other
    live(tracking)
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop(-1 if broken != "end" else lines.index("TensorBoard: the end"))
    assert len(other.logged) == 3  # two train_loss, an epoch
    if not broken:
        assert {name for name, _, _ in experiment.calls} == set(CALLS)
        assert lines == []
        return
    assert experiment.calls[-1][0] == broken  # and nothing after it
    how = "cannot start" if broken in AT_THE_START else "stops here"
    without = " without" if broken in AT_THE_START else ""
    assert lines == [f"Comet: it {how} (OSError: no route, ***); the training goes on{without}"]


def test_an_end_that_hangs_is_left_behind(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "END_S", 0.1)
    hanging = Recorder()
    hanging.end = lambda: time.sleep(20)
    began = time.monotonic()
    track(comet=hanging, wandb=Recorder()).end()
    assert time.monotonic() - began < 10
    lines = capsys.readouterr().out.splitlines()
    assert "Comet: it has not finished after 0.1 s and is not waited for" in lines
    assert "W&B: the end" in lines


# ---- When train_loss is sent --------------------------------------------------------------


def test_train_loss_is_the_mean_since_the_last_one(monkeypatch):
    recorder, clock = Recorder(), [100.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
    tracker = track(comet=recorder)
    sums = torch.zeros(3, dtype=torch.float64)
    for step, loss in enumerate([3.0, 2.0, 2.0, 1.0, 1.0, 5.0], start=1):
        sums += torch.tensor([loss * 32, 0.0, 32.0])  # in place, as a trainer does
        tracker.add_step(step, sums)
        clock[0] += 0.4
    tracker.add_epoch(RESULT, 6)
    # Step 1 at once, step 4 after 1.2 s (2 + 2 + 1 of 3 steps), the rest at the epoch's end.
    assert recorder.losses == [(1, 1, 3.0), (4, 1, pytest.approx(5 / 3)), (6, 1, 3.0)]


def test_each_epoch_begins_at_zero():
    recorder = Recorder()
    tracker = track(comet=recorder)
    for epoch, loss in enumerate([3.0, 7.0]):
        tracker.add_step(epoch + 1, torch.tensor([loss * 32, 0.0, 32.0]))
        tracker.add_epoch(EpochResult(**vars(RESULT) | {"epoch": epoch}), epoch + 1)
    assert recorder.losses == [(1, 1, 3.0), (2, 2, 7.0)]


@pytest.mark.parametrize(("steps", "losses"), [(2, [(212, 3, 1.0)]), (1, [])])
def test_after_a_restart_the_steps_before_the_cut_are_left_out(steps, losses):
    recorder = Recorder()
    tracker = Tracking({"comet": recorder}, RUN | {"resumed_from": {"epoch": 2, "step": 10}})
    for step in range(steps):
        sums = torch.tensor([11 * 9.0 * 32 + step * 32, 0.0, (11 + step) * 32.0])
        tracker.add_step(211 + step, sums)
    tracker.add_epoch(EpochResult(**vars(RESULT) | {"epoch": 2}), 210 + steps)
    assert recorder.losses == losses


# ---- Whether there is one -----------------------------------------------------------------

ASKED = Namespace(tracker=["comet"], tracker_project="p")
CHOICE = "choose of comet, wandb, tensorboard, none"


def parse(*options: str) -> Namespace:
    parser = TrainerParser("")
    add_output_arguments(parser)
    return parser.parse_args(options)


@pytest.mark.parametrize(
    ("key", "options", "trackers"),
    [
        ("", [], []),
        (KEY, [], ["comet"]),
        (KEY, ["--tracker=none"], []),
        ("", ["--tracker", "tensorboard,comet,comet"], ["tensorboard", "comet"]),
    ],
)
def test_which_trackers(key, options, trackers, monkeypatch):
    monkeypatch.setattr("training.arguments.find_spec", lambda name: True)
    monkeypatch.setenv("COMET_API_KEY", key)
    assert parse(*options).tracker == trackers


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("wandb", "--tracker: W&B is not installed: pip install wandb, or leave it out"),
        ("mlflow", f"argument --tracker: no tracker is called 'mlflow'; {CHOICE}"),
        ("comet,none", f"argument --tracker: no tracker is called 'none'; {CHOICE}"),
    ],
)
def test_a_tracker_that_cannot_be_had_is_refused_at_once(names, message, monkeypatch, capsys):
    monkeypatch.setattr("training.arguments.find_spec", lambda name: None)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit):
        parse(f"--tracker={names}")
    assert capsys.readouterr().err == f"error: {message}; see --help\n"


def test_without_the_package_one_line(alone, monkeypatch, capsys):
    """Nobody asked for it by name: the key alone does not end a training."""
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    assert start_tracking(ASKED, RUN).trackers == {}
    assert capsys.readouterr().out == "Comet: comet_ml is not installed: pip install comet_ml\n"


@pytest.mark.parametrize(
    ("mode", "key", "reachable", "chosen"),
    [
        ("", WANDB_KEY, True, "online"),
        ("", WANDB_KEY, False, "offline"),
        ("", "", True, "offline"),
        ("", "netrc", True, "online"),
        ("offline", WANDB_KEY, True, "offline"),
        ("online", "", False, "online"),
    ],
)
def test_wandb_never_asks(mode, key, reachable, chosen, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "" if key == "netrc" else key)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    if key == "netrc":
        (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
        (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setattr(wandb, "can_reach", lambda url: reachable)
    assert wandb.choose_mode() == chosen


@pytest.fixture
def comet_ml(monkeypatch):
    """A comet_ml whose online experiment is dead on arrival, as the real one is when refused."""
    module = types.ModuleType("comet_ml")
    module.Experiment = lambda **what: types.SimpleNamespace(alive=False)
    module.OfflineExperiment = lambda **what: Experiment()
    monkeypatch.setitem(sys.modules, "comet_ml", module)
    monkeypatch.setenv("COMET_API_KEY", KEY)


@pytest.mark.parametrize("reachable", [True, False])
def test_out_of_reach_without_a_folder_is_one_line(alone, comet_ml, monkeypatch, capsys, reachable):
    monkeypatch.setattr(comet, "can_reach", lambda url: reachable)
    assert start_tracking(ASKED, RUN).trackers == {}
    line = capsys.readouterr().out
    assert "set COMET_OFFLINE_DIRECTORY to keep it for upload" in line
    assert line.count("\n") == 1


def test_a_dead_experiment_is_kept_offline(alone, comet_ml, monkeypatch, tmp_path):
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(comet, "can_reach", lambda url: True)
    assert isinstance(start_tracking(ASKED, RUN).trackers["comet"].experiment, Experiment)


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
    assert (
        tracking.name_experiment(RUN | {"workload": workload, "model": model, "slurm": {}}) == name
    )
