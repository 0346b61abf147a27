"""The options of train_translation.py. Nothing here imports PyTorch: --help answers at once."""

import os
from argparse import Namespace

from training.arguments import (
    TrainerParser,
    add_run_arguments,
    not_negative,
    number_type,
    positive,
)

EPOCHS, BATCH_SIZE, WARMUP_STEPS = 5, 64, 200
fraction = number_type(float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def parse_args(doc: str = "") -> Namespace:
    """Read the command line; ends the program where an argument is wrong, and after --help."""
    parser = TrainerParser(doc)
    add_run_arguments(parser, epochs=EPOCHS, batch_size=BATCH_SIZE, lr=0.001, scaling="weak")
    add_translation_arguments(parser)
    args = parser.parse_args()
    check_options(args, parser)
    return args


def add_translation_arguments(parser: TrainerParser) -> None:
    """Add the workload's options; some that every trainer has mean something else here."""
    add = parser.add_argument
    add(
        "--epochs",
        "--n-epochs",
        type=positive(int),
        default=EPOCHS,
        help=f"passes over the pairs (default: {EPOCHS})",
    )
    add(
        "--batch-size",
        type=positive(int),
        default=BATCH_SIZE,
        help="pairs of all GPUs together in a step; with --global-batch-size in a pass "
        f"(default: {BATCH_SIZE})",
    )
    add(
        "--warmup-steps",
        type=not_negative(int),
        default=WARMUP_STEPS,
        help="steps in which the learning rate grows from 0; then it falls to 0 until the last "
        f"one (default: {WARMUP_STEPS})",
    )
    add(
        "--num-workers",
        type=not_negative(int),
        default=0,
        help="loaders per GPU; the pairs are in memory anyway (default: 0)",
    )
    add(
        "--world-size",
        type=positive(int),
        help="processes to start on this machine (default: 1, or those that torchrun has started)",
    )
    add(
        "--data-dir",
        default=os.environ.get("DATA_DIR"),
        help="folder that `prepare_data.py translation` has made (default: $DATA_DIR)",
    )
    add(
        "--max-tokens",
        type=positive(int),
        default=256,
        help="leave out training pairs with more tokens on a side (default: 256)",
    )
    add("--layers", type=positive(int), default=6, help="of encoder and decoder (default: 6)")
    add("--width", type=positive(int), default=512, help="numbers a token (default: 512)")
    add("--heads", type=positive(int), default=8, help="of each attention (default: 8)")
    add("--dropout", type=fraction, default=0.1, help="left out in training (default: 0.1)")
    add(
        "--label-smoothing",
        type=fraction,
        default=0.0,
        help="share of a target that all other tokens get in training (default: 0)",
    )
    add("--weight-decay", type=not_negative(float), default=0.01, help="of AdamW (default: 0.01)")


def check_options(args: Namespace, parser: TrainerParser) -> None:
    """Refuse what does not fit together; fill in args.world_size."""
    if not args.data_dir:
        parser.error("no data: pass --data-dir DIR or set DATA_DIR")
    if args.width % (2 * args.heads):
        parser.error(
            f"--width {args.width} is no multiple of 2 x --heads {args.heads}; choose another"
        )
    started = int(os.environ.get("WORLD_SIZE", 0))
    if started and args.world_size not in (None, started):
        parser.error(
            f"--world-size {args.world_size}, but {started} ranks have been started; leave it out"
        )
    args.world_size = args.world_size or started or 1
