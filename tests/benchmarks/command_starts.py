"""How soon every command answers: CPU seconds of its --help.

python tests/benchmarks/command_starts.py     # 0.3 is the bar; the trainers import PyTorch
"""

from measure import SCRIPTS, describe_machine, parse_options, report
from render_jobs import measure_start


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    names = sorted(path.name for path in SCRIPTS.glob("*.py"))
    commands = ["render.py", *(f"scripts/{name}" for name in names if name[:5] != "train")]
    rows = [measure_start(command, options.rounds) for command in commands]
    report("command_starts", rows, describe_machine(), options.out)


if __name__ == "__main__":
    main()
