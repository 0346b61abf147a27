"""What the files of an epoch cost when 1,024 ranks write theirs at once.

    python tests/benchmarks/rank_files.py     # 16 to 1,024 writers; there is no bar

Every rank writes a JSON of its own after each epoch, by the trainers' own function (temporary
file, fsync, rename), and all do so in the same moment. Simulated by threads of 16 processes that
wait for each other and then write: one file per rank into one folder, the same without fsync, into
a folder per node, and one file per node that holds its 8 ranks. A local file system has no servers
to overload; what carries over to a shared one is the number of requests, three per file.
"""

import json
import multiprocessing
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from measure import SCRIPTS, describe_machine, parse_options, report, run_interleaved

sys.path.insert(0, str(SCRIPTS))
from common.files import write_json

PROCESSES, PER_NODE, REQUESTS = 16, 8, 3  # create, fsync and rename
CONTEXT = multiprocessing.get_context("fork")


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    rows = []
    for ranks in (16, 32) if options.quick else (16, 64, 256, 1024):
        with tempfile.TemporaryDirectory() as name:
            cases = make_cases(Path(name), ranks)
            for label, found in run_interleaved(cases, options.rounds).items():
                files = ranks // PER_NODE if label == "one file per node" else ranks
                rows.append(
                    {
                        "ranks": ranks,
                        "written": label,
                        "files": files,
                        "requests": files * (2 if label == "without fsync" else REQUESTS),
                        "epoch_ms": 1000 * median(last for last, _ in found),
                        "writer_ms": 1000 * median(middle for _, middle in found),
                        "n": options.rounds,
                    }
                )
    report("rank_files", rows, describe_machine(), options.out)


def make_cases(folder: Path, ranks: int) -> dict:
    """What is compared; each returns the seconds until the last file stands, and a writer's."""
    nodes = [folder / f"node{number}" for number in range(ranks // PER_NODE)]
    for node in nodes:
        node.mkdir()
    records = {rank: describe_rank(rank) for rank in range(ranks)}
    alone = {folder / f"rank{rank}_results_epoch0.json": each for rank, each in records.items()}
    apart = {nodes[rank // PER_NODE] / path.name: alone[path] for rank, path in enumerate(alone)}
    gathered = {
        folder / f"node{number}_results_epoch0.json": {
            "ranks": [records[number * PER_NODE + rank] for rank in range(PER_NODE)]
        }
        for number in range(len(nodes))
    }
    return {
        "one file per rank": lambda: write_at_once(alone, write_json),
        "without fsync": lambda: write_at_once(alone, write_unsynced),
        "a folder a node": lambda: write_at_once(apart, write_json),
        "one file per node": lambda: write_at_once(gathered, write_json),
    }


def describe_rank(rank: int) -> dict:
    """A rank's file of an epoch, as large as the trainers'."""
    times = {f"{part}_s": 12.345678901234 + rank for part in ("data_wait", "copy", "compute",
             "optimizer", "other", "exposed_comm")}  # fmt: skip
    names = ("training_time", "samples_per_sec", "train_loss", "validation_loss", "train_accuracy",
             "validation_accuracy", "peak_memory_mib")  # fmt: skip
    numbers = dict.fromkeys(names, 0.1234567890123 * (rank + 1))
    probe = dict.fromkeys(("sync_pass_s", "no_sync_pass_s", "exposed_comm_per_step_s"), 0.123456789)
    return {"schema_version": "1.1", "rank": rank, "epoch": 0, **numbers, **times, "probe": probe}


def write_unsynced(path: Path, data: dict) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=2))
    temporary.replace(path)


def write_at_once(content: dict[Path, dict], write) -> tuple[float, float]:
    """Write every file by a thread of its own; returns the last one's and the median seconds."""
    processes = min(PROCESSES, len(content))
    ready, taken = CONTEXT.Barrier(len(content)), CONTEXT.SimpleQueue()
    parts = [list(content.items())[number::processes] for number in range(processes)]

    def write_one(path: Path, data: dict, results: list) -> None:
        ready.wait()
        began_s = time.monotonic()
        write(path, data)
        results.append((began_s, time.monotonic()))

    def run(part: list) -> None:
        results: list[tuple[float, float]] = []
        threads = [threading.Thread(target=write_one, args=(*item, results)) for item in part]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken.put(results)

    started = [CONTEXT.Process(target=run, args=(part,)) for part in parts]
    for process in started:
        process.start()
    spans = [span for _ in started for span in taken.get()]
    for process in started:
        process.join()
    if len(spans) != len(content) or not all(path.exists() for path in content):
        raise SystemExit("error: not every writer has written")
    first_s = min(began_s for began_s, _ in spans)
    return max(end_s for _, end_s in spans) - first_s, median(end - began for began, end in spans)


if __name__ == "__main__":
    main()
