"""What a training pays for being watched: loggers, records and step times on, against off.

    python tests/benchmarks/overhead.py     # 80 rounds of 4 steps each; the bar is 0.99

One process trains ResNet-18 on the handwritten digits, a few steps by train.py's own loop and a
few by the same loop without a call into `training/`, in turn. While the first runs, psrecord
watches as it does in a job; while the second runs, it is stopped. The ratio of a pair of
neighbours depends little on what else the machine does, and the median of all pairs is what
counts: by CPU seconds, the logger's among them, and by the wall beside it. What an epoch's end
writes is timed by itself, by the wall, and spread over the epoch's steps. The communication probe
lies outside the timed part of a run and is no part of this. A GPU's logger (nvidia-smi) is
measured on a GPU only, by gpu.py.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from itertools import islice
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from measure import (
    SCRIPTS,
    Spent,
    describe_machine,
    judge,
    parse_options,
    report,
    run_interleaved,
    spend,
)

sys.path.insert(0, str(SCRIPTS))

import torch
from own_trainer import OwnTrainer

import train

SEGMENT = 4  # steps
ENDS = 10  # epochs' ends that are timed


def main() -> None:
    options = parse_options(__doc__.splitlines()[0], rounds=80)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        trainer = Trainer(Path(folder))
        found, logger_s, files_s = time_segments(trainer, Path(folder), options.rounds)
        trainer.close()
    row = make_row(found, logger_s, files_s)
    report("overhead", [row], describe_machine("torch", "psrecord"), options.out)


def time_segments(
    trainer: "Trainer", folder: Path, rounds: int
) -> tuple[dict[str, list[Spent]], float, float]:
    """Return what segments of each kind took; a segment's seconds of the logger, of the files."""
    command = [Path(sys.executable).with_name("psrecord"), str(os.getpid())]
    command += ["--include-children", "--interval", "5", "--log", f"{folder}/cpu.txt"]
    logger = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def train_with(work, number: int) -> Spent:
        logger.send_signal(number)
        return spend(work)

    try:
        wait_for(folder / "cpu.txt")
        began_s = count_cpu_s(logger.pid)
        cases = {
            "watched": lambda: train_with(trainer.train, signal.SIGCONT),
            "bare": lambda: train_with(trainer.train_bare, signal.SIGSTOP),
        }
        found = run_interleaved(cases, rounds)
        logger_s = (count_cpu_s(logger.pid) - began_s) / (rounds + 1)
        files_s = median(trainer.end_epoch() for _ in range(ENDS))
    finally:
        logger.send_signal(signal.SIGCONT)
        logger.terminate()
        logger.wait()
    return found, logger_s, files_s * SEGMENT / trainer.steps_per_epoch


def wait_for(path: Path) -> None:
    """Wait until the logger has begun: its start is no part of a step."""
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise SystemExit("error: psrecord has not started within a minute")


def count_cpu_s(pid: int) -> float:
    """CPU seconds of a process so far (proc(5): fields 14 and 15 of stat, in ticks)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def make_row(found: dict[str, list[Spent]], logger_s: float, files_s: float) -> dict:
    pairs = list(zip(found["bare"], found["watched"], strict=True))
    ratios = sorted(bare.cpu_s / (seen.cpu_s + logger_s + files_s) for bare, seen in pairs)
    row = judge("7", "watched against bare, throughput per CPU s", ">= 0.99", ratios)
    bare_s = median(bare.cpu_s for bare, _ in pairs)
    return row | {
        "ratio_quarter": ratios[len(ratios) // 4],
        "ratio_three_quarters": ratios[len(ratios) * 3 // 4],
        "ratio_wall": median(bare.wall_s / (seen.wall_s + files_s) for bare, seen in pairs),
        "steps": SEGMENT * len(pairs),
        "step_ms": 1000 * bare_s / SEGMENT,
        "files_ms_per_step": 1000 * files_s / SEGMENT,
        "logger_ms_per_step": 1000 * logger_s / SEGMENT,
    }


class Trainer(OwnTrainer):
    """One model, trained by either loop."""

    def __init__(self, folder: Path):
        prepare = [sys.executable, SCRIPTS / "prepare_data.py", "tinyimagenet", "--digits"]
        subprocess.run([*prepare, folder / "digits"], check=True, capture_output=True)
        options = ("--model=resnet18", "--image-size=32", "--batch-size=16", "--precision=fp32")
        super().__init__(folder, folder / "digits", SEGMENT, *options)

    def end_epoch(self) -> float:
        """Write the files of an epoch; returns the seconds that takes."""
        result = train.reduce_metrics(self.run, self.sums, self.sums)
        began_s = time.perf_counter()
        self.run.end_epoch(result, samples=int(self.sums[2]))
        return time.perf_counter() - began_s

    def train_bare(self) -> None:
        """The same steps with nothing around them."""
        model, optimizer, scheduler, scaler = self.learner
        model.train()
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in islice(self.loader, SEGMENT):
            images, labels = train.to_device(batch, self.run.device)
            with train.autocast(self.run.device, self.args.precision):
                logits = model(images)
                loss = train.cross_entropy(logits, labels)
            scaler.scale(loss).backward()
            sums += train.count_batch(logits.detach(), labels, loss.detach() * len(labels))
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
