"""Memory analysis of a GPU log, whole process, against pandas.read_csv of it, whole process.

python tests/benchmarks/read_gpu_log.py        # 1,000,000 rows of eight GPUs; the bar is 1.0

The log is the one that our jobs write: its eleven columns, without units, each figure drawn anew
in each row, rows of a round a few milliseconds apart. Memory is measured at a tenth of the rows
too: it does not grow with them.
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

HEADER = (
    "timestamp, index, name, memory.used [MiB], memory.total [MiB], utilization.gpu [%], "
    "power.draw [W], temperature.gpu, clocks.current.sm [MHz], clocks_throttle_reasons.active, "
    "uuid\n"
)
GPUS = 8
MOST_MIB = 60  # of the process


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    rows = 20_000 if options.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = write_log(Path(folder) / "gpu_memory_log.csv", rows)
        tenth = write_log(Path(folder) / "gpu_memory_log_node1.csv", rows // 10)
        analyse = python(SCRIPTS / "analyze_memory.py", path)
        read = python("-c", f"import pandas; pandas.read_csv({str(path)!r})")
        cases = {
            "analyze_memory": lambda: run_process(analyse).cpu_s,
            "pandas.read_csv": lambda: run_process(read).cpu_s,
        }
        found = run_interleaved(cases, options.rounds)
        row = summarise(f"{rows:,} rows, CPU s", "<= 1.0", found, *cases)
        row[f"peak_mib_of_{rows // 10}_rows"] = run_process([*analyse[:-1], tenth]).peak_mib
        row["peak_mib"] = run_process(analyse).peak_mib
        row["file_mb"] = path.stat().st_size / 1e6
    machine = describe_machine("pandas", "numpy") | {"flags": list_vector_flags()}
    report("read_gpu_log", [row], machine, options.out)
    if row["peak_mib"] > MOST_MIB:
        raise SystemExit(f"error: more than {MOST_MIB} MiB")


def list_vector_flags() -> str:
    """What of vector instructions the processor has: pandas' parser and ours depend on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return " ".join(flag for flag in flags if flag.startswith(("avx", "amx"))) or "none known"


def write_log(path: Path, rows: int) -> Path:
    """Write what our jobs log of eight GPUs every 5 s, as many rows as asked for."""
    chance, when = random.Random(0), datetime(2026, 11, 21, 10)
    uuids = [f"GPU-{gpu}f2b6c1e-0c4e-9d51-77aa-5b1e2c3d4e5f" for gpu in range(GPUS)]
    with path.open("w") as file:
        file.write(HEADER)
        for at in range(rows // GPUS):
            moment = when + timedelta(seconds=5 * at, milliseconds=chance.randrange(500))
            for gpu in range(GPUS):
                moment += timedelta(milliseconds=chance.randrange(1, 4))
                stamp = f"{moment:%Y/%m/%d %H:%M:%S}.{moment.microsecond // 1000:03d}"
                file.write(
                    f"{stamp}, {gpu}, Tesla V100-SXM2-32GB, {chance.randrange(15_000, 32_000)}, "
                    f"32510, {chance.randrange(101)}, {chance.uniform(40, 300):.2f}, "
                    f"{chance.randrange(30, 90)}, {chance.randrange(135, 1531)}, "
                    f"0x{chance.choice((0, 1, 4, 32)):016x}, {uuids[gpu]}\n"
                )
    return path


if __name__ == "__main__":
    main()
