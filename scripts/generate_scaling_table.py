#!/usr/bin/env python
"""Make the fixed-work scaling table from named metrics files, one per number of GPUs.

    python scripts/generate_scaling_table.py --gpu1 a.json --gpu2 b.json --gpu4 c.json

Another name of scaling_tables.py, with its options, for those who know this one.
"""

import sys

import scaling_tables
from common.console import run_command


def main() -> int:
    options = {argument.partition("=")[0] for argument in sys.argv[1:]}
    if not options & {"-h", "--help", *(f"--gpu{gpus}" for gpus in scaling_tables.COUNTS)}:
        example = "--gpu1 results/12/training_metrics.json"
        print(f"error: no file: name at least one, as in {example}", file=sys.stderr)
        return 2
    return scaling_tables.main()


if __name__ == "__main__":
    run_command(main)
