"""What DDP costs on gloo: ResNet-50, two processes of one thread, each on a core of its own.

    python tests/benchmarks/ddp.py     # bars: 0.77 at batch 32, 0.87 at 128, 0.95 for DDP alone

The step is train.py's: bf16, channels last, fused SGD, gradients in the buckets. Efficiency is
the step's time in one process without DDP over its time in two with it; the other figure is the
same with DDP around one process. Steps of all kinds take turns, the two processes beginning
together, and the slower counts. By the wall: it needs two cores that nobody else
uses. The ratio by CPU time beside it leaves out waiting, for whatever reason.
"""

import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from measure import SCRIPTS, describe_machine, parse_options, report, summarise

sys.path.insert(0, str(SCRIPTS))

import torch
import torch.distributed as dist
import torchvision
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from training.device import keep_freed_memory

KINDS = ("alone", "DDP of 1", "DDP of 2")
STEPS = {32: 2, 128: 1}  # a turn
ROWS = (  # bar, batch, kind, name
    (">= 0.77", 32, "DDP of 2", "efficiency of 2 processes, batch 32"),
    (">= 0.87", 128, "DDP of 2", "efficiency of 2 processes, batch 128"),
    (">= 0.95", 32, "DDP of 1", "DDP around 1 process against none, batch 32"),
)


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("error: two processes need two CPUs, and here is one")
    sizes = {2: 1, 4: 1} if options.quick else STEPS
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        arguments = (port, sizes, options.rounds, options.quick, Path(folder) / "found.json")
        torch.multiprocessing.spawn(run_rank, arguments, nprocs=2)
        found = json.loads(arguments[-1].read_text())
    rows = []
    for (bar, batch, kind, name), size in zip(ROWS, (*sizes, min(sizes)), strict=True):
        assert batch == size or options.quick
        walls, cpus = (
            {label: [taken[clock] for taken in found[f"{label} {size}"]] for label in KINDS}
            for clock in (0, 1)
        )
        pair = {label: walls[label] for label in ("alone", kind)}
        row = summarise(name, bar, pair, *pair, row="6")
        row["ratio_cpu"] = median(a / b for a, b in zip(cpus["alone"], cpus[kind], strict=True))
        rows.append(row)
    report("ddp", rows, describe_machine("torch", "torchvision"), options.out)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_rank(
    rank: int, port: int, sizes: dict[int, int], rounds: int, quick: bool, out: Path
) -> None:
    """One of the two processes; rank 0 writes kind and batch -> seconds per step, one per round."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    keep_freed_memory()
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    name = "resnet18" if quick else "resnet50"
    steps = {kind: make_step(kind, rank, name) for kind in KINDS}
    found = {f"{kind} {size}": [] for kind in KINDS for size in sizes}
    for number in range(rounds + 1):  # the first warms up
        for size, count in sizes.items():
            for kind in KINDS[:: -1 if number % 2 else 1]:
                taken = time_steps(steps[kind], size, count)
                if number:
                    found[f"{kind} {size}"].append(taken)
    if rank == 0:
        out.write_text(json.dumps(found))
    dist.destroy_process_group()


def make_step(kind: str, rank: int, name: str):
    """Return a function of the batch size that trains a step, None where this rank rests."""
    group = dist.new_group([0]) if kind == "DDP of 1" else None  # every rank has to call it
    if rank == 1 and kind != "DDP of 2":
        return None
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=200).to(
        memory_format=torch.channels_last
    )
    if kind != "alone":
        model = DistributedDataParallel(model, process_group=group, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, 0.9, weight_decay=1e-4, fused=True)

    def step(size: int) -> None:
        images = torch.ones(size, 3, 64, 64).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(images), torch.zeros(size, dtype=torch.int64))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def time_steps(step, size: int, count: int) -> tuple[float, float]:
    """Return the seconds per step of the slower process, by the wall and of CPU time."""
    dist.barrier()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for _ in range(count if step else 0):
        step(size)
    cpu_s = time.process_time() - began_cpu_s
    taken = torch.tensor([time.perf_counter() - began_s, cpu_s]) / count
    dist.all_reduce(taken, op=dist.ReduceOp.MAX)
    return tuple(taken.tolist())


if __name__ == "__main__":
    main()
