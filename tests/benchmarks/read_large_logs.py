"""The memory that a log of 1 GB needs, and one with a line of 100 MB: 300 MB is the bar.

python tests/benchmarks/read_large_logs.py     # writes 2 GB to the temporary folder, for a while
"""

import itertools
import tempfile
from pathlib import Path

from measure import SCRIPTS, describe_machine, parse_options, python, report, run_process
from read_gpu_log import HEADER, write_log
from read_slurm_logs import write_log as write_out


def main() -> None:
    options = parse_options(__doc__.splitlines()[0], rounds=1)
    size = 4_000_000 if options.quick else 1_000_000_000
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        gpu = repeat(
            write_log(root / "part.csv", 40_000), root / "gpu_memory_log.csv", size, HEADER
        )
        out = repeat(write_out(root / "part.txt", 0), root / "ddp_1g1n_12.out", size, "")
        for command, path in itertools.product(("analyze_memory", "inspect_log"), (gpu, out)):
            if command == "analyze_memory" and path is out:
                continue
            for _ in range(options.rounds):
                used = run_process(python(SCRIPTS / f"{command}.py", path))
                rows.append(
                    {
                        "command": command,
                        "file": path.name,
                        "file_mb": path.stat().st_size / 1e6,
                        "peak_mib": used.peak_mib,
                        "cpu_s": used.cpu_s,
                        "wall_s": used.wall_s,
                    }
                )
    report("read_large_logs", rows, describe_machine(), options.out)
    if max(row["peak_mib"] for row in rows) > 300:
        raise SystemExit("error: more than 300 MiB")


def repeat(part: Path, path: Path, size: int, header: str) -> Path:
    """Write `part` again and again up to a size, and in its middle a line of a tenth of that."""
    text = part.read_text(encoding="utf-8").removeprefix(header).encode()
    with path.open("wb") as file:
        file.write(header.encode())
        for at in range(size // len(text) + 1):
            file.write(text)
            if at == size // len(text) // 2:
                for _ in range(size // 10 // 1000):
                    file.write(b"x" * 1000)
                file.write(b"\n")
    part.unlink()
    return path


if __name__ == "__main__":
    main()
