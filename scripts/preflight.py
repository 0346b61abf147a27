#!/usr/bin/env python
"""Look at a Slurm job from inside, for doctor.py --submit, which renders the job and reads this.

    preflight.py --node     once a task, before the launcher: this node, and its PyTorch
    preflight.py            in every rank: do they meet, is a sum right, how fast, over what

Each writes what it saw to $RESULTS_DIR, after every step, so that a step that hangs or dies
leaves the ones before it. Nothing is judged here: doctor/preflight_verdict.py does that.
"""

import argparse
import json
import os
import socket
import sys
from pathlib import Path

from common.arguments import CommandParser
from training.preflight import look_at_group, look_at_node


def main() -> int:
    args = parse_args()
    results = Path(os.environ.get("RESULTS_DIR", "."))
    who = {"host": os.environ.get("SLURMD_NODENAME") or socket.gethostname()}
    if args.node:
        task = int(os.environ.get("SLURM_PROCID", 0))
        look_at_node(who | {"task": task}, results / f"preflight_task{task}.json", args)
        return 0
    rank = int(os.environ.get("RANK", 0))
    facts = who | {"rank": rank, "world_size": int(os.environ.get("WORLD_SIZE", 1))}
    look_at_group(facts, results / f"preflight_rank{rank}.json", args.timeout_s)
    return 0


def parse_args() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--node", action="store_true", help="look at this node instead of the group of ranks")
    add("--data-dirs", metavar="JSON", type=json.loads, default={}, help="workload: folder")
    add("--timeout-s", type=int, default=60, help="seconds to wait for others (default: 60)")
    args, _ = parser.parse_known_args()  # the job script also passes a trainer's options
    return args


if __name__ == "__main__":
    sys.exit(main())
