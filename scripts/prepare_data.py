#!/usr/bin/env python3
"""Download, convert or synthesise the data of a workload; one subcommand per workload.

    python scripts/prepare_data.py tinyimagenet --digits DIR       rehearsal: real, small, offline
    python scripts/prepare_data.py tinyimagenet --download DIR     the 200 classes of the workshop
    python scripts/prepare_data.py tinyimagenet --synthetic DIR    timing at full size, offline
    python scripts/prepare_data.py gpt2 DIR                        this Python's library as tokens
    python scripts/prepare_data.py translation DIR --gettext PATH --language de    real sentences

DIR appears only when it is complete: everything is made in a hidden folder beside it and renamed
at the end. DIR/dataset.json then says where the data came from, so that the same command run
again finds it and stops, and no command ever writes over what is there. Only a download that was
stopped leaves something, DIR.zip.part, from which the next run goes on.
"""

import argparse
import os
import sys

from common.arguments import CommandParser
from common.console import notice, run_command
from common.errors import UserError
from common.signals import catch_signals
from preparation import WORKLOADS, explain_os_error


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; return 0, 1 after a failure, 128 + the signal that stopped it."""
    args = build_parser().parse_args(argv)
    args.folder = args.folder.expanduser().resolve()
    # Data are shared: whatever the user's umask, their group may read what is made here.
    os.umask(os.umask(0o022) & ~0o050)
    catch_signals()
    try:
        notice(args.prepare(args))
        return 0
    except UserError as error:
        status, message = 1, str(error)
    except OSError as error:
        status, message = 1, explain_os_error(error, args.folder)
    except ImportError as error:
        status, message = 1, f"the Python package {error.name} is missing; run: {fix_import(error)}"
    except KeyboardInterrupt as error:
        status = 128 + error.args[0]
        message = f"stopped before {args.folder} was complete; run the same command again"
    print(f"error: {message}", file=sys.stderr)
    return status


def fix_import(error: ImportError) -> str:
    """Return the command that brings a missing package; a workload's own are in no basic list."""
    workloads = " --workloads" if error.name in ("tokenizers", "polib") else ""
    return f"bash scripts/setup_env.sh{workloads}"


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(__doc__)
    workloads = parser.add_subparsers(title="workloads", metavar="WORKLOAD", required=True)
    for workload in WORKLOADS:  # each module adds its own arguments and sets args.prepare
        workload.add_command(workloads)
    return parser


if __name__ == "__main__":
    run_command(main)
