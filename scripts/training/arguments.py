"""The arguments that every trainer has, and a parser that refuses a wrong one once, in one line."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path


class TrainerParser(argparse.ArgumentParser):
    """argparse with `--batch_size` read as `--batch-size`, and errors printed by rank 0 alone."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        return super().parse_args([dash_option(word) for word in words], namespace)

    def error(self, message: str):
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {message}; see --help", file=sys.stderr)
        sys.exit(2)


def dash_option(word: str) -> str:
    """Rewrite an option's underscores (`--batch_size=8`) as dashes; leave values alone."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def add_run_arguments(parser, *, epochs: int, batch_size: int, lr: float) -> None:
    """Add the options that every workload has, with the workload's own defaults."""
    add = parser.add_argument
    add("--epochs", type=positive(int), default=epochs, help=f"passes (default: {epochs})")
    add(
        "--batch-size",
        type=positive(int),
        default=batch_size,
        help=f"samples per GPU and step (default: {batch_size})",
    )
    add("--lr", type=positive(float), default=lr, help=f"learning rate (default: {lr})")
    add("--num-workers", type=not_negative(int), default=4, help="loaders per GPU (default: 4)")
    add(
        "--precision",
        choices=["fp32", "fp16", "bf16"],
        help="arithmetic of forward and backward (default: fp16 on a GPU, fp32 on a CPU)",
    )
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add(
        "--limit-batches",
        type=positive(int),
        help="end each training and validation part after so many batches (default: all)",
    )
    add(
        "--timeout-s",
        type=positive(int),
        default=300,
        help="seconds a rank waits for the others before it gives up (default: 300)",
    )
    add(
        "--workdir",
        type=Path,
        default=Path(os.environ.get("RESULTS_DIR", "workdir")),
        help="folder for the results files (default: $RESULTS_DIR, else ./workdir)",
    )


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
