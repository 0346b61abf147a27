"""The report on 200 runs: 30 s and 15 MB are the bar.

python tests/benchmarks/write_report.py     # 200 runs of 8 GPUs and an hour of samples each
"""

import sys
import tempfile
from pathlib import Path

from measure import REPO, SCRIPTS, describe_machine, parse_options, python, report, run_process

sys.path[:0] = [str(SCRIPTS), str(REPO / "tests")]

from study_folders import write_study_run  # noqa: E402

ROUNDS_AN_HOUR = 720  # of the GPU logger: one every 5 s
SCALES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 4), (4, 2), (2, 8), (8, 2))


def main() -> None:
    options = parse_options(__doc__.splitlines()[0], rounds=3)
    runs, rounds = (8, 20) if options.quick else (200, ROUNDS_AN_HOUR)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number in range(runs):
            factor = 1 + 0.01 * (number % 5)  # repeats that vary
            scale = SCALES[number % len(SCALES)]
            write_study_run(root / "experiments", *scale, str(1000 + number), rounds=rounds,
                            factor=factor)  # fmt: skip
        page, rows = root / "report.html", []
        command = python(SCRIPTS / "report.py", root / "experiments", "--output", page)
        for _ in range(options.rounds):
            used = run_process(command)
            size_mb = page.stat().st_size / 1e6
            kept = used.wall_s <= 30 and size_mb <= 15
            row = {"runs": runs, "bar": "30 s, 15 MB", "holds": kept, "size_mb": size_mb}
            rows.append(row | used._asdict())
    report("write_report", rows, describe_machine("matplotlib", "pandas"), options.out)


if __name__ == "__main__":
    main()
