"""How soon every command answers, and how little a trainer costs before its main() begins.

    python tests/benchmarks/command_starts.py     # the bars: 0.3 CPU s, and 1.25 import torch

The first rows are the CPU seconds of each command's --help, trainers included. The last ones are
those of a process that imports a trainer, over those of one that imports PyTorch alone; the two
take turns.
"""

import os

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
from render_jobs import measure_start

TRAINERS = ("train", "train_gpt2", "train_spiral", "train_translation")


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    names = sorted(path.name for path in SCRIPTS.glob("*.py"))
    commands = ["render.py", *(f"scripts/{name}" for name in names)]
    rows = [measure_start(command, options.rounds) for command in commands]
    trainers = TRAINERS[-2:-1] if options.quick else TRAINERS
    rows += [measure_import(name, min(options.rounds, 5)) for name in trainers]
    report("command_starts", rows, describe_machine("torch"), options.out)


def measure_import(trainer: str, rounds: int) -> dict:
    """A row: importing a trainer against importing PyTorch, in CPU seconds of a process."""
    os.environ["PYTHONPATH"] = str(SCRIPTS)
    cases = {
        name: lambda name=name: run_process(python("-c", f"import {name}")).cpu_s
        for name in (trainer, "torch")
    }
    found = run_interleaved(cases, rounds)
    return summarise(f"import {trainer}.py, CPU s", "<= 1.25", found, trainer, "torch")


if __name__ == "__main__":
    main()
