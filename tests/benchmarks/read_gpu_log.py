"""Memory analysis of a GPU log, whole process, against pandas.read_csv of it, whole process.

python tests/benchmarks/read_gpu_log.py        # 1,000,000 rows of four GPUs; the bar is 1.5
"""

import random
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from measure import (
    SCRIPTS,
    describe_machine,
    parse_options,
    python,
    report,
    run_interleaved,
    run_process,
    summarise,
)

HEADER = "timestamp, index, name, memory.used [MiB], memory.total [MiB]\n"


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    rows = 20_000 if options.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = write_log(Path(folder) / "gpu_memory_log.csv", rows)
        analyse = python(SCRIPTS / "analyze_memory.py", path)
        read = python("-c", f"import pandas; pandas.read_csv({str(path)!r})")
        cases = {
            "analyze_memory": lambda: run_process(analyse).cpu_s,
            "pandas.read_csv": lambda: run_process(read).cpu_s,
        }
        found = run_interleaved(cases, options.rounds)
        row = summarise(f"{rows:,} rows, CPU s", "<= 1.5", found, *cases)
        row["peak_mib"] = run_process(analyse).peak_mib
        row["file_mb"] = path.stat().st_size / 1e6
    report("read_gpu_log", [row], describe_machine("pandas", "numpy"), options.out)


def write_log(path: Path, rows: int) -> Path:
    """Write what nvidia-smi logs of four GPUs every 5 s, as many rows as asked for."""
    chance, when = random.Random(0), datetime(2026, 11, 21, 10)
    with path.open("w") as file:
        file.write(HEADER)
        for at in range(rows // 4):
            moment = when + timedelta(seconds=5 * at, milliseconds=chance.randrange(500))
            stamp = f"{moment:%Y/%m/%d %H:%M:%S}.{moment.microsecond // 1000:03d}"
            for gpu in range(4):
                used = chance.choice((15812, 26532, 26532, 22000 + chance.randrange(50)))
                file.write(f"{stamp}, {gpu}, Tesla V100-SXM2-32GB, {used}, 32510\n")
    return path


if __name__ == "__main__":
    main()
