"""The arguments that every trainer has, and a parser that refuses a wrong one once, in one line."""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from common.arguments import PrintVersion

# What the same option is called in benchmarks that people come from.
ALIASES = {
    "--micro-batch-size-per-gpu": "--batch-size",
    "--checkpoint-path": "--checkpoint-dir",
    "--comet-project": "--tracker-project",
}


class TrackerName(NamedTuple):
    title: str
    module: str
    package: str  # of pip


TRACKERS = {
    "comet": TrackerName("Comet", "comet_ml", "comet_ml"),
    "wandb": TrackerName("W&B", "wandb", "wandb"),
    "tensorboard": TrackerName("TensorBoard", "tensorboard", "tensorboard"),
}


class TrainerParser(argparse.ArgumentParser):
    """argparse with `--batch_size` read as `--batch-size`, and errors printed by rank 0 alone."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            conflict_handler="resolve",  # a workload may give an option another meaning
        )
        text = "print the commit of these sources, and Python's version"
        self.add_argument(
            "--version", action=PrintVersion, nargs=0, default=argparse.SUPPRESS, help=text
        )

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        read = super().parse_args([dash_option(word) for word in words], namespace)
        if getattr(read, "checkpoint_dir", "") is None:
            read.checkpoint_dir = Path(
                os.environ.get("CHECKPOINT_DIR", read.workdir / "checkpoints")
            )
        # A trainer that starts its own processes has --world-size.
        ranks = getattr(read, "world_size", None) or int(os.environ.get("WORLD_SIZE", 1))
        if max(getattr(read, "profile_ranks", [0])) >= ranks:
            self.error(f"argument --profile-ranks: the last of {ranks} ranks is {ranks - 1}")
        self.choose_trackers(read)
        return read

    def choose_trackers(self, read: argparse.Namespace) -> None:
        """A tracker that is asked for and not installed is refused; one by default is not."""
        if getattr(read, "tracker", []) is None:
            read.tracker = ["comet"] if os.environ.get("COMET_API_KEY") else []
            return
        for tracker in (TRACKERS[name] for name in getattr(read, "tracker", [])):
            if not find_spec(tracker.module):
                self.error(
                    f"--tracker: {tracker.title} is not installed: pip install {tracker.package}, "
                    "or leave it out"
                )

    def error(self, message: str):
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {message}; see --help", file=sys.stderr, flush=True)
        else:
            time.sleep(10)  # torchrun ends all ranks with the first that exits: let rank 0 speak
        sys.exit(2)


def dash_option(word: str) -> str:
    """Rewrite an option's underscores (`--batch_size=8`) as dashes; leave values alone."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    return ALIASES.get(name, name) + equals + value


def add_run_arguments(
    parser,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    scaling: str,
    global_batch: str = "--batch-size",
    num_workers: int = 4,
) -> None:
    """Add the options that every workload has, with the workload's own defaults.

    global_batch: what the help says of --global-batch-size, whose default is the trainer's to set.
    """
    add = parser.add_argument
    add("--epochs", type=positive(int), default=epochs, help=f"passes (default: {epochs})")
    add("--lr", type=positive(float), default=lr, help=f"learning rate (default: {lr})")
    add(
        "--lr-scaling",
        choices=["none", "linear", "sqrt"],
        default="none",
        help="learning rate x what the global batch grows by with the ranks (default: none)",
    )
    add(
        "--warmup-steps",
        type=not_negative(int),
        default=0,
        help="steps in which the learning rate grows from 0 (default: 0)",
    )
    add_batch_arguments(parser, batch_size, scaling, global_batch)
    add(
        "--num-workers",
        type=not_negative(int),
        default=num_workers,
        help=f"loaders per GPU (default: {num_workers})",
    )
    add(
        "--precision",
        choices=["fp32", "fp16", "bf16"],
        help="arithmetic of forward and backward (default: fp16 on a GPU, fp32 on a CPU)",
    )
    add("--compile", action="store_true", help="compile the model first (default: do not)")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add(
        "--limit-batches",
        type=positive(int),
        help="end each epoch after so many steps, validation after so many batches (default: all)",
    )
    add(
        "--timeout-s",
        type=positive(int),
        default=300,
        help="seconds a rank waits for the others before it gives up (default: 300)",
    )
    add_output_arguments(parser)


def add_batch_arguments(parser, batch_size: int, scaling: str, global_batch: str) -> None:
    """Add how large a step is."""
    add = parser.add_argument
    add(
        "--batch-size",
        type=positive(int),
        default=batch_size,
        help=f"samples per GPU and pass, with strong scaling at most (default: {batch_size})",
    )
    add(
        "--scaling",
        choices=["weak", "strong"],
        default=scaling,
        help=f"what stays the same: a GPU's batch, or the global one (default: {scaling})",
    )
    add(
        "--global-batch-size",
        type=positive(int),
        help=f"samples of all GPUs and passes of a step (strong; default: {global_batch})",
    )
    add(
        "--grad-accum-steps",
        type=positive(int),
        help="passes per step (default: 1 with weak scaling, what it takes with strong)",
    )


def add_output_arguments(parser) -> None:
    """Add where results go, and what is looked at and saved on the way."""
    add = parser.add_argument
    add(
        "--workdir",
        type=Path,
        default=Path(os.environ.get("RESULTS_DIR", "workdir")),
        help="folder for the results files (default: $RESULTS_DIR, else ./workdir)",
    )
    add(
        "--checkpoint-dir",
        type=Path,
        help="folder of the checkpoints; the newest is continued (default: $CHECKPOINT_DIR, "
        "else checkpoints/ in the workdir)",
    )
    add(
        "--checkpoint-every",
        type=not_negative(int),
        default=0,
        help="steps between checkpoints (default: 0, only when a signal asks for one)",
    )
    add(
        "--max-restarts",
        type=not_negative(int),
        default=20,
        help="how often a job may go on after its time limit (default: 20)",
    )
    add(
        "--profile",
        type=not_negative(int),
        metavar="N",
        default=0,
        help="profile N steps after the first ones, with a trace for a browser (default: 0)",
    )
    add(
        "--profile-ranks",
        type=rank_list,
        default=[0],
        help="the ranks that --profile looks at, such as 0,3 (default: 0)",
    )
    add(
        "--nvtx",
        action="store_true",
        help="name steps and their parts for Nsight Systems, which records steps 10 to 20 (nsys "
        "profile --capture-range=cudaProfilerApi; default: do not)",
    )
    add(
        "--no-certificate",
        action="store_true",
        help="do not compare the replicas after each epoch (default: do)",
    )
    add("--no-probe", action="store_true", help="do not measure communication (default: do)")
    add(
        "--tracker",
        type=tracker_list,
        metavar="NAMES",
        help="where rank 0 sends figures: comet, wandb, tensorboard, several with commas between, "
        "or none (default: comet if COMET_API_KEY is set, else none)",
    )
    add(
        "--tracker-project",
        default="distributed-scaling",
        help="project at Comet and W&B (default: distributed-scaling)",
    )


def tracker_list(text: str) -> list[str]:
    """Read `comet,tensorboard` as a list, `none` as []."""
    names = [] if text == "none" else text.split(",")
    if unknown := [name for name in names if name not in TRACKERS]:
        known = ", ".join([*TRACKERS, "none"])
        raise argparse.ArgumentTypeError(f"no tracker is called {unknown[0]!r}; choose of {known}")
    return list(dict.fromkeys(names))


def rank_list(text: str) -> list[int]:
    """Read `0,3` as [0, 3]."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"must be ranks with commas between, not {text}")
    return [int(number) for number in text.split(",")]


def positive(kind: type) -> Callable[[str], float]:
    """Make an argparse type: a finite number of `kind` (int or float) above 0."""
    return number_type(kind, lambda value: value > 0, "a number above 0")


def not_negative(kind: type) -> Callable[[str], float]:
    """Make an argparse type: a finite number of `kind` (int or float), 0 or more."""
    return number_type(kind, lambda value: value >= 0, "a number of 0 or more")


def number_type(kind: type, is_right: Callable, what: str) -> Callable[[str], float]:
    def read(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (is_right(value) and math.isfinite(value)):
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(
                f"must be {what.replace('a ', f'a {whole}', 1)}, not {text}"
            )
        return value

    return read
