"""Slurm logs read for all that they say (epochs, cause, transport), against their bytes.

python tests/benchmarks/read_slurm_logs.py     # 10,000 logs of 7.7 KB; the bar is 12
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import SCRIPTS, describe_machine, parse_options, report, run_interleaved, summarise

sys.path.insert(0, str(SCRIPTS))
from scaling.read.job_log import read_job_log

NOISE = "node1:12:12 [0] NCCL INFO Channel {:02d}/24 :    0   1   2   3   4   5   6   7\n"
EPOCHS = 11


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    count = 200 if options.quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_log(Path(folder) / f"ddp_1g1n_{at}.out", at) for at in range(count)]
        cases = {
            "epoch lines": lambda: timed(lambda: read_epochs(paths)),
            "bytes": lambda: timed(lambda: read_bytes(paths)),
        }
        found = run_interleaved(cases, options.rounds)
        row = summarise(f"{count:,} logs, CPU s", "<= 12", found, *cases)
        row["kb_a_log"] = paths[0].stat().st_size / 1e3
    report("read_slurm_logs", [row], describe_machine(), options.out)


def timed(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def read_epochs(paths: list[Path]) -> None:
    for path in paths:
        epochs = read_job_log(path).last_attempt.epochs
        if len(epochs) != EPOCHS:
            raise SystemExit(f"error: {path}: {len(epochs)} epoch lines")


def read_bytes(paths: list[Path]) -> None:
    for path in paths:
        with open(path, "rb") as file:  # noqa: PTH123 - the fastest way there is
            file.read()


def write_log(path: Path, seed: int) -> Path:
    """Write a log as NCCL_DEBUG=INFO makes it: 84 lines of noise, 11 epochs, the totals."""
    chance = random.Random(seed)
    lines = [NOISE.format(at % 24) for at in range(84)]
    for epoch in range(1, EPOCHS + 1):
        lines.append(
            f"Epoch [{epoch}/{EPOCHS}] LR: 0.001000 | Loss (train, val): "
            f"{5 * chance.random():.3f}, 5.664 | Accuracy (train, val): 2.16%, 0.98% | "
            f"Throughput: {900 * chance.random():.1f} img/s\n"
        )
    lines += ["Total training time: 93.1 s\n", "Best validation loss: 5.664\n"]
    path.write_text("".join(lines), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
