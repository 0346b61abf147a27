"""The options of train_spiral.py. Nothing here imports PyTorch: --help answers at once."""

import argparse
import re

from training.arguments import TrainerParser, add_run_arguments, positive


def parse_args(doc: str = "") -> argparse.Namespace:
    """Read the command line; ends the program where an argument is wrong, and after --help."""
    parser = TrainerParser(doc)
    add_run_arguments(parser, epochs=50, batch_size=32, lr=0.01, scaling="weak")
    add = parser.add_argument
    add(
        "--hidden-dims",
        type=read_widths,
        nargs="+",
        default=[[64, 32, 16]],
        metavar="N",
        help="widths of the hidden layers, 64,32,16 or 64 32 16 (default: 64,32,16)",
    )
    add("--samples", type=positive(int), default=10_000, help="points in all (default: 10000)")
    add("--arms", type=int, choices=[2, 3], default=3, help="spiral arms (default: 3)")
    args = parser.parse_args()
    args.hidden_dims = [width for widths in args.hidden_dims for width in widths]
    args.num_workers = 0  # job scripts ask for some, but there is nothing to load
    return args


def read_widths(text: str) -> list[int]:
    """Read `64,32` as [64, 32]."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"must be widths such as 64,32,16, not {text}")
    return [int(width) for width in text.split(",")]
