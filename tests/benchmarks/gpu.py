"""Every figure that needs a GPU, in one call of less than eight minutes.

    python tests/benchmarks/gpu.py --out DIR     # DIR/gpu.json grows part by part
    python tests/benchmarks/gpu.py --smoke       # what can run without a GPU, small

Each part is a process of its own with its own time limit: one that is late is ended, named in the
table, and takes nothing from the others. bf16, ResNet-50, one GPU; made-up JPEGs of 2 KB.

trainer  train.py (--input device) against its step on a resident batch: >= 0.95 of it
minimal  against the tutorial loop, train_minimal.py with 4 JPEG workers: >= 5 times
graph    --cuda-graph against eager steps at batch 256: >= 1.3 times
px64     images/s at 64 x 64, the best of some batches with a CUDA graph: >= 40,000 on an H200
px224    images/s at 224 x 224, the best of some batches with a CUDA graph: >= 4,600 on an H200
start    a whole run of one step, process start to end: <= 25 s
logger   nvidia-smi every 5 s, on against off: >= 0.995
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import chain, islice, repeat
from pathlib import Path

import torch
import torch.distributed as dist
import torchvision
from measure import SCRIPTS, describe_machine, judge, parse_options, report, run_interleaved
from own_trainer import OwnTrainer
from sample_images import sample_images
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

LIMITS_S = {  # with the images, 470 s in all
    "trainer": 60, "minimal": 70, "graph": 60, "px64": 80, "px224": 70, "start": 40, "logger": 60,
}  # fmt: skip
ON_A_CPU = ("trainer", "minimal", "start")
LOGGER_FIELDS = (
    "timestamp,index,name,memory.used,memory.total,utilization.gpu,power.draw,temperature.gpu,"
    "clocks.sm,clocks_throttle_reasons.active,uuid"
)


def main() -> int:
    part = {"choices": sorted(LIMITS_S), "action": "append", "help": "only this (default: all)"}
    options = parse_options(
        __doc__.splitlines()[0],
        part=part,
        smoke={"action": "store_true", "help": "on the CPU, small: checks, no figures"},
        data={"type": Path, "help": "images (for itself: does one part in this process)"},
    )
    options.smoke |= options.quick
    if not (options.smoke or torch.cuda.is_available()):
        print("error: no GPU here; --smoke tries what can run without one", file=sys.stderr)
        return 1
    if options.data:
        print(json.dumps(PARTS[options.part[0]](options, options.data)))
        return 0
    names = options.part or [name for name in LIMITS_S if not options.smoke or name in ON_A_CPU]
    machine = describe_gpu() | describe_machine("torch", "torchvision")
    rows: list[dict] = []
    with sample_images(1 if options.smoke else 80, classes=10 if options.smoke else 200) as data:
        for name in names:
            rows += run_part(name, data, options)
            if options.out:  # what is measured stays, whatever happens next
                with redirect_stdout(sys.stderr):
                    report("gpu", [level(row) for row in rows], machine, options.out)
    report("gpu", [level(row) for row in rows], machine, options.out)
    return 0 if all(row["holds"] for row in rows) or options.smoke else 1


def level(row: dict) -> dict:
    """The columns that every row has, the rest as one."""
    columns = ("row", "benchmark", "bar", "ratio", "holds", "ratio_min", "ratio_max", "n")
    return {name: row.get(name, "") for name in columns} | {
        "more": {name: value for name, value in row.items() if name not in columns}
    }


def run_part(name: str, data: Path, options) -> list[dict]:
    """Run one part as a process; a late or failed one is a row that says so."""
    command = [sys.executable, __file__, "--part", name, "--data", data]
    command += ["--smoke"] * options.smoke + ["--rounds", options.rounds]
    command += ["--out", options.out] if options.out else []
    began_s = time.monotonic()
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        text, _ = process.communicate(timeout=LIMITS_S[name])
        why = f"ended with {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its loaders and loggers, too
        text, _ = process.communicate()
        why = f"not done in {LIMITS_S[name]} s"
    lines = [line for line in text.splitlines() if line.startswith("[")]
    rows = json.loads(lines[-1]) if lines else [{"row": "G", "benchmark": name, "holds": False}]
    more = {"part_s": round(time.monotonic() - began_s)}
    more |= {"cut": why} if process.returncode else {}
    return [row | more for row in rows]


# ---- The parts -----------------------------------------------------------------------------


def compare_with_resident(options, data: Path) -> list[dict]:
    batch, steps = (4, 2) if options.smoke else (512, 30)
    source = "cache" if options.smoke else "device"
    with own_trainer(options, data, batch, steps, f"--input={source}") as ours:
        step = resident_step(ours, batch, steps)
        found = run_interleaved({"ours": timed(ours.train), "step": timed(step)}, options.rounds)
    name = f"train.py --input {source} against its resident step, batch {batch}"
    return [compare(name, ">= 0.95", found, "step", "ours", batch * steps)]


def compare_with_minimal(options, data: Path) -> list[dict]:
    """Apart, not in turn: two trainers in one process would share what only one should have."""
    batch, steps = (4, 2) if options.smoke else (512, 12)
    rounds = min(options.rounds, 3)
    with own_trainer(options, data, batch, steps) as trainer:
        rates = run_interleaved({"ours": timed(trainer.train)}, rounds)
    train = minimal_loop(options, data, batch, steps)
    rates |= run_interleaved({"minimal": timed(lambda: next(train))}, rounds)
    train.close()
    name = f"train.py against train_minimal.py with 4 JPEG workers, batch {batch}"
    return [compare(name, ">= 5", rates, "minimal", "ours", batch * steps)]


def compare_graph(options, data: Path) -> list[dict]:
    batch, steps, found = 256, 60, {}
    for name, words in {"eager": (), "graph": ("--cuda-graph",)}.items():
        with own_trainer(options, data, batch, steps, "--input=device", *words) as trainer:
            found[name] = run_interleaved({name: timed(trainer.train)}, options.rounds)[name]
    name = f"--cuda-graph against eager, batch {batch}"
    return [compare(name, ">= 1.3", found, "eager", "graph", batch * steps)]


def find_best_64(options, data: Path) -> list[dict]:
    return find_best(options, data, 64, (256, 512, 1024, 2048), ">= 40000")


def find_best_224(options, data: Path) -> list[dict]:
    with sample_images(6) as fewer:  # 1,200 images: 1.6 GB at this size
        return find_best(options, fewer, 224, (128, 256, 512), ">= 4600")


def find_best(options, data: Path, side: int, batches: tuple[int, ...], bar: str) -> list[dict]:
    """Images/s of each batch with a CUDA graph, and of the best without."""
    rates: dict[str, list[float]] = {}
    plans = [(batch, "graph") for batch in batches]
    for batch, how in plans:
        steps = max(2, min(16_000 // batch, 40))
        words = (f"--image-size={side}", "--input=device", *["--cuda-graph"] * (how == "graph"))
        try:
            with own_trainer(options, data, batch, steps, *words) as trainer:
                taken = run_interleaved({"it": timed(trainer.train)}, min(options.rounds, 3))
                done = trainer.sums[2].item()  # of one segment
        except torch.cuda.OutOfMemoryError:
            continue
        rates[f"{how} {batch}"] = [done / each for each in taken["it"]]
        middle = {name: sorted(each)[len(each) // 2] for name, each in rates.items()}
        best = max(middle, key=middle.get)
        row = judge("G", f"images/s at {side} x {side}, {best}", bar, rates[best])
        print(json.dumps([row | {"images_per_s": middle}]), flush=True)  # should time run out
        if len(plans) == len(batches) == len(rates):  # the best once more without a graph
            plans.append((int(best.split()[1]), "eager"))
    return [row | {"images_per_s": middle}]


def time_start(options, data: Path) -> list[dict]:
    """Process start to end of a run of one step: more than the first step takes."""
    small = ("--model=resnet18", "--batch-size=4", "--precision=bf16") if options.smoke else ()
    words = [sys.executable, SCRIPTS / "train.py", f"--data-dir={data}", "--epochs=1", *small]
    taken = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            began_s = time.perf_counter()
            command = [*map(str, words), "--limit-batches=1", "--workdir", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - began_s)
    return [judge("G", "start-up and one step, s", "<= 25", taken)]


def compare_logger(options, data: Path) -> list[dict]:
    """Segments of some seconds with the job's logger running, and with it stopped."""
    batch, steps = 512, 100
    out = (options.out or data) / "gpu_memory_log.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    command = ["nvidia-smi", f"--query-gpu={LOGGER_FIELDS}", "--format=csv,nounits", "-l", "5"]
    with own_trainer(options, data, batch, steps, "--input=device") as ours, out.open("w") as file:
        segments = max(1, round(3 / timed(ours.train)()))  # about three seconds each

        def train_with(number: int) -> float:
            logger.send_signal(number)
            return sum(timed(ours.train)() for _ in range(segments))

        logger = subprocess.Popen(command, stdout=file)
        try:
            cases = {
                "on": lambda: train_with(signal.SIGCONT),
                "off": lambda: train_with(signal.SIGSTOP),
            }
            found = run_interleaved(cases, options.rounds)
        finally:
            logger.send_signal(signal.SIGCONT)
            logger.terminate()
            logger.wait()
    name = "nvidia-smi every 5 s, on against off"
    return [compare(name, ">= 0.995", found, "off", "on", batch * ours.steps * segments)]


PARTS: dict[str, Callable] = {
    "trainer": compare_with_resident,
    "minimal": compare_with_minimal,
    "graph": compare_graph,
    "px64": find_best_64,
    "px224": find_best_224,
    "start": time_start,
    "logger": compare_logger,
}


# ---- What they share -----------------------------------------------------------------------


class own_trainer:
    """OwnTrainer in a folder of its own, its lines on stderr, its process group ended after."""

    def __init__(self, options, data: Path, batch: int, steps: int, *words: str):
        small = ("--model=resnet18", "--image-size=32") if options.smoke else ()
        self.words = (f"--batch-size={batch}", "--precision=bf16", *small, *words)
        self.data, self.steps = data, steps

    def __enter__(self) -> OwnTrainer:
        self.folder = tempfile.TemporaryDirectory()
        with redirect_stdout(sys.stderr):
            self.trainer = OwnTrainer(Path(self.folder.name), self.data, self.steps, *self.words)
            self.trainer.steps = min(self.steps, self.trainer.steps_per_epoch)
        return self.trainer

    def __exit__(self, *_exception) -> None:
        self.trainer.close()
        self.folder.cleanup()
        del self.trainer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def minimal_loop(options, data: Path, batch: int, steps: int):
    """train_minimal.py's own loop; so many steps for each next(), by the same loader processes."""
    import train_minimal

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    train_set, _ = train_minimal.load_images(data, 32 if options.smoke else 64, True)
    workers = 1 if options.smoke else 4
    loader = DataLoader(train_set, batch, shuffle=True, num_workers=workers, drop_last=True)
    name = "resnet18" if options.smoke else "resnet50"
    model = torchvision.models.get_model(name, num_classes=len(train_set.classes)).to(device)
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, weight_decay=1e-4)
    batches = chain.from_iterable(repeat(loader))
    try:
        while True:
            train_minimal.run_epoch(model, islice(batches, steps), device, optimizer)
            yield
    finally:
        dist.destroy_process_group()


def resident_step(ours: OwnTrainer, batch: int, steps: int) -> Callable[[], None]:
    """Our step on a batch that is on the device already."""
    import train

    model, optimizer, _, scaler = ours.learner
    side = ours.args.image_size
    images = torch.randn(batch, 3, side, side, device=ours.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64, device=ours.device)

    def run() -> None:
        for _ in range(min(steps, ours.steps)):
            train.forward_backward(ours.args, ours.run, model, scaler, images, labels)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def timed(work: Callable[[], None]) -> Callable[[], float]:
    """Make a case of it: seconds by the wall, the GPU done before and after."""

    def run() -> float:
        synchronize()
        began_s = time.perf_counter()
        work()
        synchronize()
        return time.perf_counter() - began_s

    return run


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(name: str, bar: str, found: dict, slow: str, fast: str, images: int) -> dict:
    """A row: seconds of `slow` over those of `fast`, and both in images/s."""
    ratios = [a / b for a, b in zip(found[slow], found[fast], strict=True)]
    rates = {each: images / sorted(found[each])[len(ratios) // 2] for each in (slow, fast)}
    return judge("G", name, bar, ratios) | {"images_per_s": rates}


def describe_gpu() -> dict[str, str]:
    """The GPU and its driver, or that there is none."""
    if not torch.cuda.is_available():
        return {"gpu": "none"}
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return {"gpu": done.stdout.strip() or torch.cuda.get_device_name()}


if __name__ == "__main__":
    sys.exit(main())
