"""What train.py is asked for besides the options of every workload, and which of it fits."""

import os
from pathlib import Path

from training.arguments import not_negative, positive
from training.cuda_graph import check_cuda_graph


def add_tinyimagenet_arguments(parser) -> None:
    """Add the options on data, model and schedule, and on how fast a step is made."""
    add = parser.add_argument
    data_dir = os.environ.get("DATA_DIR")
    add("--data-dir", default=data_dir, help="TinyImageNet folder (default: $DATA_DIR)")
    add("--model", default="resnet50", help="a torchvision model (default: resnet50)")
    add("--image-size", type=positive(int), default=64, help="pixels a side (default: 64)")
    add("--no-flip", action="store_false", dest="flip", help="never mirror images (for digits)")
    add("--momentum", type=not_negative(float), default=0.9, help="of SGD (default: 0.9)")
    add("--weight-decay", type=not_negative(float), default=1e-4, help="of SGD (default: 0.0001)")
    add("--step-size", type=positive(int), default=30, help="epochs per LR step (default: 30)")
    add("--gamma", type=positive(float), default=0.1, help="LR factor of a step (default: 0.1)")
    add_speed_arguments(add)


def add_speed_arguments(add) -> None:
    add(
        "--input",
        choices=["cache", "jpeg", "device"],
        help="images decoded once per node, or in every epoch, or once and kept on the GPU; the "
        "batches are the same (default: cache)",
    )
    add(
        "--cache-dir",
        type=Path,
        default=os.environ.get("CACHE_DIR") or None,
        help="folder of the decoded images (default: $CACHE_DIR, else .decoded/ in the data "
        "folder, else one in $TMPDIR)",
    )
    add(
        "--cuda-graph",
        action="store_true",
        help="launch a pass as one graph: for a GPU that waits for Python (default: do not)",
    )
    add(
        "--naive",
        action="store_true",
        help="train as a first tutorial does, to measure what the rest gives: JPEG input, fp32, "
        "channels first, no fused optimizer, .item() in every step (default: do not)",
    )


def check_options(args, parser, models: list[str]) -> None:
    """Fill in the defaults that depend on others, and refuse what does not go together.

    Ends the program by parser.error, or raises TrainingError.
    """
    if not args.data_dir:
        parser.error("no data: pass --data-dir DIR or set DATA_DIR")
    if args.model not in models:
        parser.error(f"torchvision has no classification model {args.model!r}")
    args.input = args.input or ("jpeg" if args.naive else "cache")
    if args.naive:
        args.precision = args.precision or "fp32"
    check_cuda_graph(args)
