"""A workshop's page on 60 participants with 7 scales each: 20 s is the bar.

python tests/benchmarks/workshop.py     # 420 runs in 60 clones
"""

import sys
import tempfile
from pathlib import Path

from measure import REPO, SCRIPTS, describe_machine, parse_options, python, report, run_process

sys.path[:0] = [str(SCRIPTS), str(REPO / "tests")]

from workshop_clones import write_workshop  # noqa: E402


def main() -> None:
    options = parse_options(__doc__.splitlines()[0], rounds=3)
    people = 3 if options.quick else 60
    with tempfile.TemporaryDirectory() as name:
        root = write_workshop(Path(name, "clones"), people)
        page, rows = Path(name, "page.html"), []
        for script, out in (("fill_tables.py", "tables.md"), ("report.py", page.name)):
            for _ in range(options.rounds):
                command = python(SCRIPTS / script, "--participants", root, "-o", Path(name, out))
                used = run_process(command)
                row = {
                    "people": people,
                    "command": script,
                    "bar": "20 s",
                    "holds": used.wall_s < 20,
                }
                rows.append(row | used._asdict())
    report("workshop", rows, describe_machine("matplotlib", "pandas"), options.out)


if __name__ == "__main__":
    main()
