"""What a heartbeat costs a training: on, against off.

    python tests/benchmarks/heartbeat.py     # 60 rounds of 300 steps each; the bar is 0.99

Two processes take turns. Each trains a small MLP, whose steps are mostly Python and so the worst
case for a thread beside them, with one all-reduce per step. In the first a heartbeat is written
every second, as in a job, with the last collectives that PyTorch has recorded; in the second
nothing is, and PyTorch records as it does by itself. CPU seconds of the process count, the thread's
among them. beat_ms is what one beat takes; a busy machine shows it better than the ratio.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from measure import SCRIPTS, Worker, describe_machine, judge, parse_options, report, serve

sys.path.insert(0, str(SCRIPTS))
STEPS, BEATS = 300, 50


def main() -> None:
    worker = {"choices": ["on", "off"], "help": "be the process of this case"}
    options = parse_options(__doc__.splitlines()[0], rounds=60, worker=worker)
    steps = 20 if options.quick else STEPS
    if options.worker:
        return train(options.worker == "on", steps)
    quick = ["--quick"] * options.quick
    workers = {name: Worker(__file__, name, *quick) for name in ("on", "off")}
    pairs = []
    for number in range(options.rounds + 1):  # the first is a warm-up
        names = list(workers)[:: -1 if number % 2 else 1]
        found = {name: workers[name].run() for name in names}
        pairs += [found] if number else []
    for each in workers.values():
        each.close()
    ratios = sorted(pair["off"].cpu_s / pair["on"].cpu_s for pair in pairs)
    row = judge("heartbeat", "heartbeat on / off, steps per CPU s", ">= 0.99", ratios)
    row |= {
        "ratio_quarter": ratios[len(ratios) // 4],
        "ratio_three_quarters": ratios[len(ratios) * 3 // 4],
        "step_ms": 1000 * median(pair["off"].cpu_s for pair in pairs) / steps,
        "beat_ms": 1000 * time_a_beat(),
        "wall_s": median(pair["on"].wall_s for pair in pairs),
    }
    report("heartbeat", [row], describe_machine("torch"), options.out)
    return None


def meet() -> None:
    """A process group of this process alone."""
    import torch.distributed as dist

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def train(is_on: bool, steps: int) -> None:
    """Serve rounds of `steps` steps."""
    import torch
    import torch.distributed as dist

    from common.heartbeat import Heartbeat
    from training.flight_recorder import switch_on

    recorder = switch_on() if is_on else dict
    meet()
    model = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    points, classes = torch.randn(32, 2), torch.randint(0, 3, (32,))
    sums = torch.zeros(1000)

    def work() -> None:
        for _ in range(steps):
            torch.nn.functional.cross_entropy(model(points), classes).backward()
            optimizer.step()
            optimizer.zero_grad()
            dist.all_reduce(sums)

    with tempfile.TemporaryDirectory() as folder:
        if is_on:
            heartbeat = Heartbeat(Path(folder))
            heartbeat.recorder = recorder
        serve(work)
        if is_on:
            heartbeat.end()
    dist.destroy_process_group()


def time_a_beat() -> float:
    """CPU seconds to find out where this process is, read the record and write the file."""
    import torch
    import torch.distributed as dist

    from common.heartbeat import Heartbeat
    from training.flight_recorder import switch_on

    recorder = switch_on()
    meet()
    for _ in range(20):
        dist.all_reduce(torch.zeros(1000))
    with tempfile.TemporaryDirectory() as folder:
        heartbeat = Heartbeat(Path(folder))
        heartbeat.recorder = recorder
        time.sleep(0.1)
        began_s = time.process_time()
        for _ in range(BEATS):
            heartbeat.write_now()
        beat_s = (time.process_time() - began_s) / BEATS
        heartbeat.end()
    dist.destroy_process_group()
    return beat_s


if __name__ == "__main__":
    main()
