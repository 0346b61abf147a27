"""fill_tables.py over 1,000 runs of 64 ranks: 60 s is the bar, and 11 times what 100 runs take.

python tests/benchmarks/fill_many_runs.py     # 640,000 JSON files, 10 million GPU samples

Each run has 8 nodes x 8 GPUs, 10 epochs of one file per rank, a log, a psrecord log per node and
10,000 rows of GPU samples; every one has figures of its own. A run on one GPU is the baseline.
`tables` and --memory are fill_tables.py's; the others are scaling_tables.py's and read every run's
records, --cost every GPU log as well.
"""

import json
import random
import statistics
import sys
import tempfile
from functools import cache
from pathlib import Path

from measure import REPO, SCRIPTS, describe_machine, parse_options, python, report, run_process

sys.path[:0] = [str(SCRIPTS), str(REPO / "tests")]

from run_folders import GPU_HEADER, cpu_log, epoch_line, gpu_row, settings  # noqa: E402
from study_folders import make_metrics  # noqa: E402

NODES, GPUS, EPOCHS, ROWS = 8, 8, 10, 10_000
COMMANDS = {
    "tables": ["fill_tables.py"],
    "--memory": ["fill_tables.py", "--memory"],
    "--summary": ["scaling_tables.py", "--summary"],
    "--fixed-work": ["scaling_tables.py", "--fixed-work"],
    "--fixed-work --cost": ["scaling_tables.py", "--fixed-work", "--cost"],
}
RANK_FILE = json.dumps(
    {
        "schema_version": "1.1", "rank": "@rank", "epoch": "@epoch", "training_time": "@seconds",
        "samples": 1562, "samples_per_sec": "@rate", "steps": 4, "data_wait_s": 0.21,
        "copy_s": 0.05, "compute_s": 2.9, "optimizer_s": 0.1, "other_s": 0.02,
        "exposed_comm_s": 0.31, "probe": None, "train_loss": "@loss", "train_accuracy": 0.1,
        "validation_loss": 5.664, "validation_accuracy": 0.0098, "peak_memory_mib": 20000.0,
    }
).replace("%", "%%")  # fmt: skip
for name, form in (("rank", "d"), ("epoch", "d"), ("seconds", ".6f"), ("rate", ".3f"),
                   ("loss", ".6f")):  # fmt: skip
    RANK_FILE = RANK_FILE.replace(f'"@{name}"', f"%({name}){form}")


def main() -> None:
    options = parse_options(__doc__.splitlines()[0], rounds=3)
    few, many = (4, 8) if options.quick else (100, 1000)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for count in (few, many):
            write_runs(root / str(count), count, rows=160 if options.quick else ROWS)
        commands = list(COMMANDS)[:: len(COMMANDS) - 1] if options.quick else COMMANDS
        rows = [measure(root, what, few, many, options.rounds) for what in commands]
        # Before the files are removed, which takes longer.
        report("fill_many_runs", rows, describe_machine("pandas"), options.out)


def measure(root: Path, what: str, few: int, many: int, rounds: int) -> dict:
    """Return a row: the medians of interleaved rounds, after one that is not counted."""
    used = {few: [], many: []}
    for at in range(rounds + 1):
        for count, found in used.items():
            command, *options = COMMANDS[what]
            usage = run_process(python(SCRIPTS / command, root / str(count), *options))
            found += [usage] if at else []
    wall_s = {count: statistics.median(u.wall_s for u in found) for count, found in used.items()}
    return {
        "command": what,
        "bar": "60 s, growth 11" if what == "tables" else "",
        f"{few} runs, s": wall_s[few],
        f"{many} runs, s": wall_s[many],
        "growth": wall_s[many] / wall_s[few],
        "holds": wall_s[many] <= 60 and wall_s[many] <= 11 * wall_s[few],
        "cpu_s": statistics.median(usage.cpu_s for usage in used[many]),
        "peak_mib": max(usage.peak_mib for usage in used[many]),
        "n": rounds,
    }


def write_runs(root: Path, count: int, rows: int) -> None:
    """Write one run on one GPU, and `count` of 64 ranks."""
    write_run(root / "baseline", 999, 1, 1, rows)
    for number in range(count):
        write_run(root / "multi_node/8_nodes", 1000 + number, NODES, GPUS, rows)


def write_run(folder: Path, number: int, nodes: int, gpus: int, rows: int) -> None:
    chance, run_id, ranks = random.Random(number), str(number), nodes * gpus
    results = make_folder(folder / "results" / run_id)
    # A minute apart, in order.
    start = f"2026-11-{1 + number // 1440:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00Z"
    record = settings(nodes, gpus, run_id, epochs=EPOCHS, start_utc=start)
    (results / "run.json").write_text(json.dumps(record))
    rates = [700 * ranks * chance.uniform(0.8, 0.9) for _ in range(EPOCHS)]
    losses = [5.2 * 0.9**n + chance.random() / 50 for n in range(EPOCHS)]
    for epoch in range(EPOCHS):
        for rank in range(ranks):
            seconds = 100_000 / rates[epoch] * chance.uniform(0.97, 1)
            text = RANK_FILE % {"rank": rank, "epoch": epoch, "seconds": seconds,
                                "rate": 1562 / seconds, "loss": losses[epoch]}  # fmt: skip
            (results / f"rank{rank}_results_epoch{epoch}.json").write_text(text)
    metrics = make_metrics(run_id, nodes, ranks, rates, losses)
    (results / "training_metrics.json").write_text(json.dumps(metrics))
    (results / "RUN_COMPLETE.txt").write_text("2026-11-21T10:02:00Z\n")
    (results / "job_end.json").write_text('{"exit_status": 0, "elapsed_s": 900}\n')
    lines = [epoch_line(n + 1, EPOCHS, rates[n], losses[n]) for n in range(EPOCHS)]
    lines += ["Total training time: 93.1 s", "Best validation loss: 5.664"]
    log = make_folder(folder / "log") / f"ddp_{gpus}g{nodes}n_{run_id}.out"
    log.write_text("\n".join(lines) + "\n")
    rounds = rows // (NODES * GPUS)
    for node in range(nodes):
        suffix = f"_node{node}" if nodes > 1 else ""
        samples = [before + str(chance.randrange(20000, 26532)) + after
                   for before, after in frame_rows(rounds, gpus)]  # fmt: skip
        place = make_folder(folder / "gpu_memory" / run_id) / f"gpu_memory_log{suffix}.csv"
        place.write_text("\n".join([GPU_HEADER, *samples]) + "\n")
        place = make_folder(folder / "cpu_memory" / run_id) / f"cpu_memory_log{suffix}.txt"
        place.write_text(cpu_log([chance.uniform(4000, 9000) for _ in range(rounds)]))


@cache
def frame_rows(rounds: int, gpus: int) -> list[list[str]]:
    """Return what stands before and after the used memory of each row of a GPU log."""
    return [gpu_row(5 * at, gpu, "@").split("@") for at in range(rounds) for gpu in range(gpus)]


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    main()
