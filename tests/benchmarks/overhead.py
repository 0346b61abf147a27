"""What a training pays for being watched: loggers, records and step times on, against off.

    python tests/benchmarks/overhead.py [--steps 320] [--json FILE]

One process trains ResNet-18 on the handwritten digits, a few steps by train.py's own loop and a
few by the same loop without a call into `training/`, in turn. While the first runs, psrecord
watches as it does in a job; while the second runs, it is stopped. The ratio of a pair of
neighbours depends little on what else the machine does, and the median of all pairs is what
counts. What an epoch's end writes is timed by itself and spread over the epoch's steps. The
communication probe lies outside the timed part of a run and is no part of this. A GPU's logger
(nvidia-smi) is measured on a GPU only.

The bar is 0.99 of the throughput.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import date
from io import StringIO
from itertools import islice
from pathlib import Path
from statistics import median

REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "scripts"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch  # noqa: E402
import train  # noqa: E402
from training.batches import plan_batch  # noqa: E402
from training.run import TrainingRun  # noqa: E402

BAR = 0.99
SEGMENT = 4  # steps
ENDS = 10  # epochs' ends that are timed


class Trainer:
    """One model, trained by either loop."""

    def __init__(self, folder: Path):
        prepare = [sys.executable, REPO / "scripts/prepare_data.py", "tinyimagenet", "--digits"]
        subprocess.run([*prepare, folder / "digits"], check=True, capture_output=True)
        sys.argv = [
            "train.py", f"--data-dir={folder}/digits", f"--workdir={folder}/results", "--no-probe",
            "--model=resnet18", "--image-size=32", "--batch-size=16", "--num-workers=0",
            f"--limit-batches={SEGMENT}", "--epochs=1000000", "--precision=fp32",
        ]  # fmt: skip
        self.args = train.parse_args()
        self.args.workdir.mkdir()
        train_set, val_set = train.load_data(self.args)
        plan = plan_batch(self.args, len(train_set))
        device = train.init_distributed(60)
        parts = train.build_loaders(self.args, plan, train_set, val_set, device)
        self.loader, self.steps_per_epoch = parts[0], len(parts[0])
        self.learner = train.build_model(self.args, plan, train_set, device)
        settings = train.describe_run(self.args, plan, train_set, val_set)
        self.run = TrainingRun(self.args, settings, device, Path(train.__file__), *self.learner)

    def train_watched(self) -> None:
        """SEGMENT steps of train.py's loop."""
        self.sums = train.train_one_epoch(self.args, self.run, self.loader, *self.learner)

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


def time_pair(trainer: Trainer, logger: subprocess.Popen, watched_first: bool) -> dict:
    """Seconds of one segment of each kind, by the wall and of this process's CPU time."""
    seconds = {}
    for is_watched in (True, False) if watched_first else (False, True):
        logger.send_signal(signal.SIGCONT if is_watched else signal.SIGSTOP)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        (trainer.train_watched if is_watched else trainer.train_bare)()
        name = "watched" if is_watched else "bare"
        seconds[f"{name}_s"] = time.perf_counter() - began_s
        seconds[f"{name}_cpu_s"] = time.process_time() - began_cpu_s
    return seconds


def measure(steps: int) -> dict:
    """Time pairs of segments of `steps` steps of each kind in all."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        trainer = Trainer(Path(folder))
        command = [Path(sys.executable).with_name("psrecord"), str(os.getpid())]
        command += ["--include-children", "--interval", "5", "--log", f"{folder}/cpu.txt"]
        logger = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            time_pair(trainer, logger, True)  # warms up
            count = -(-steps // SEGMENT)
            pairs = [time_pair(trainer, logger, number % 2 == 0) for number in range(count)]
            end_s = median(trainer.end_epoch() for _ in range(ENDS))
        finally:
            logger.send_signal(signal.SIGCONT)
            logger.terminate()
            logger.wait()
            torch.distributed.destroy_process_group()
    return summarize(pairs, end_s * SEGMENT / trainer.steps_per_epoch)


def summarize(pairs: list[dict], files_s: float) -> dict:
    """The result; `files_s` is a segment's part of the seconds in which an epoch's files appear."""
    ratios = sorted(pair["bare_s"] / (pair["watched_s"] + files_s) for pair in pairs)
    cpu = [pair["bare_cpu_s"] / (pair["watched_cpu_s"] + files_s) for pair in pairs]
    return {
        "steps_each": SEGMENT * len(pairs),
        "ratio": median(ratios),
        "ratio_quarter": ratios[len(ratios) // 4],
        "ratio_three_quarters": ratios[len(ratios) * 3 // 4],
        "ratio_cpu": median(cpu),
        "files_ms_per_step": 1000 * files_s / SEGMENT,
        "step_ms": 1000 * median(pair["bare_s"] for pair in pairs) / SEGMENT,
        "bar": BAR,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}",
        "pairs": pairs,
    }


def format_table(result: dict) -> str:
    what = "ResNet-18 32 x 32, batch 16, {step_ms:.0f} ms a step, {steps_each} steps each"
    row = f"| {what} | {{ratio:.4f}} | {{ratio_quarter:.3f}} | {{ratio_three_quarters:.3f}} "
    row += "| {ratio_cpu:.4f} | {bar} |\n\n{machine}; {versions}; {date}"
    return (
        "| watched / bare throughput | median | quarter | three quarters | by CPU time | bar |\n"
        "|---|---|---|---|---|---|\n" + row.format(**result)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=320, help="of each kind (default: 320)")
    parser.add_argument("--json", type=Path, help="also write the figures here (default: do not)")
    args = parser.parse_args()
    result = measure(args.steps)
    print(format_table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
