"""A trainer for tests of the job script: it counts steps, and does what a trainer promises.

On SIGUSR1 it saves at the end of its step, rank 0 leaves REQUEUE, and all ranks exit 0; on SIGTERM
they only save. The next attempt goes on from the saved step. The file of steps is the test's.
"""

import os
import signal
import sys
import time
from pathlib import Path

STEPS = 2000  # of 50 ms: far longer than any test waits for
caught: list[int] = []


def say(line: str) -> None:
    """Print a line in one piece: print() writes its end apart, and other ranks come between."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: caught.append(number))
    rank = int(os.environ["RANK"])
    saved = Path(os.environ["CHECKPOINT_DIR"]) / f"step_of_rank{rank}"
    results = Path(os.environ["RESULTS_DIR"])
    start = int(saved.read_text()) if saved.exists() else 0
    say(f"rank {rank} begins at step {start}")
    for step in range(start, STEPS if start == 0 else start + 20):
        time.sleep(0.05)
        if caught:
            time.sleep(2)  # a save takes a while
            saved.parent.mkdir(parents=True, exist_ok=True)
            saved.write_text(str(step + 1))
            if caught[0] == signal.SIGUSR1 and rank == 0:
                (results / "REQUEUE").touch()
            say(f"rank {rank} saved step {step + 1}")
            sys.exit()
    if rank == 0:
        (results / "RUN_COMPLETE.txt").write_text("now\n")


main()
