"""The options of train_gpt2.py. Nothing here imports PyTorch: --help answers at once."""

import os
from argparse import Namespace
from pathlib import Path

from training.arguments import TrainerParser, add_run_arguments, not_negative, positive

GLOBAL_BATCH = 16  # sequences per step
STEPS = 3561
POSITIONS = 1024  # the longest sequence that GPT-2 has learnt positions for
SMALL = {"layers": 12, "heads": 12, "width": 768, "vocab_size": 50_257}
# By --strategy; see sharding.py.
ZERO_STAGES = {"ddp": 0, "zero1": 1, "zero2": 2, "fsdp": 3, "hsdp": 3, "tp": 0}


def parse_args(doc: str = "") -> Namespace:
    """Read the command line; ends the program where an argument is wrong, and after --help."""
    parser = TrainerParser(doc)
    add_run_arguments(
        parser, epochs=1, batch_size=4, lr=1e-4, scaling="strong", global_batch=str(GLOBAL_BATCH),
        num_workers=0,
    )  # fmt: skip
    add_gpt2_arguments(parser)
    args = parser.parse_args()
    check_options(args, parser)
    return args


def add_gpt2_arguments(parser: TrainerParser) -> None:
    """Add the options on data, model, amount of work and strategy."""
    add = parser.add_argument
    data = "file of uint16 tokens (default: $DATA_DIR/"
    add("--train-data-path", type=Path, help=f"{data}train_small.bin)")
    add("--val-data-path", type=Path, help=f"{data}val_small.bin)")
    for name, what in (("layers", "blocks"), ("heads", "of attention"), ("width", "of a token")):
        size = SMALL[name]
        add(f"--{name}", type=positive(int), default=size, help=f"{what} (default: {size})")
    add(
        "--vocab-size",
        type=positive(int),
        help=f"tokens known (default: meta.json's beside the data, else {SMALL['vocab_size']})",
    )
    add("--seq-length", type=positive(int), default=512, help="tokens (default: 512)")
    add(
        "--steps",
        type=positive(int),
        default=STEPS,
        help=f"optimizer steps in all, in --epochs parts (default: {STEPS})",
    )
    add(
        "--run-type",
        choices=["baseline", "optimized"],
        help="baseline: one process without DDP (default: baseline on one, optimized on more)",
    )
    add(
        "--growing",
        action="store_true",
        help="one of a study whose model grows with the GPUs (--layers in proportion): run.json "
        "says so, and no table compares it with another model (default: it does not)",
    )
    add("--dropout", type=not_negative(float), default=0.0, help="share dropped (default: 0)")
    add("--weight-decay", type=not_negative(float), default=0.1, help="of AdamW (default: 0.1)")
    add("--beta2", type=positive(float), default=0.95, help="of AdamW (default: 0.95)")
    add("--grad-clip", type=not_negative(float), default=1.0, help="norm; 0: off (default: 1)")
    add(
        "--lr-schedule",
        choices=["cosine", "constant"],
        default="cosine",
        help="after the warm-up: down to a tenth at the last step, or as it is (default: cosine)",
    )
    add_strategy_arguments(parser)


def add_strategy_arguments(parser: TrainerParser) -> None:
    """Add what the ranks share out, and how they average gradients."""
    add = parser.add_argument
    add(
        "--strategy",
        choices=[*ZERO_STAGES, "deepspeed"],
        help="what the ranks share out: nothing, the optimizer's state, that and gradients, "
        "everything, everything within a node; tp: each block's matrices within a node (default: "
        "ddp, or deepspeed with --deepspeed-config)",
    )
    add("--shard-group", type=positive(int), help="ranks per copy with hsdp (default: a node's)")
    add("--tensor-parallel", type=positive(int), help="ranks per block, tp (default: a node's)")
    add(
        "--activation-checkpointing",
        action="store_true",
        help="compute each block again in the backward pass: less memory, a third more work",
    )
    add("--bucket-cap-mb", type=positive(float), help="of DDP's buckets (default: PyTorch's, 25)")
    add(
        "--grad-compression",
        choices=["none", "fp16", "bf16"],
        default="none",
        help="what DDP sends gradients as, if there is more than one (default: none, as they are)",
    )
    add("--deepspeed-config", type=Path, help="DeepSpeed's JSON file (default: ZeRO stage 1)")
    # The `deepspeed` launcher passes it to each process, beside the variable LOCAL_RANK.
    add("--local-rank", type=int, help="of the deepspeed launcher; not used (default: none)")


def check_options(args: Namespace, parser: TrainerParser) -> None:
    """Fill in the defaults that depend on others; parser.error for what does not go together."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if args.scaling == "strong" and args.global_batch_size is None:
        args.global_batch_size = GLOBAL_BATCH
    if args.growing and args.scaling != "weak":
        parser.error(
            "--growing goes with --scaling weak: the batch of a GPU stays, the model grows"
        )
    if args.run_type == "baseline" and world_size > 1:
        parser.error(
            f"--run-type baseline is one process, and here are {world_size}; "
            "start one, or choose --run-type optimized"
        )
    args.run_type = args.run_type or ("baseline" if world_size == 1 else "optimized")
    if args.width % args.heads:
        parser.error(f"--width {args.width} is no multiple of --heads {args.heads}")
    if args.seq_length > POSITIONS:
        parser.error(f"--seq-length {args.seq_length} is more than GPT-2's {POSITIONS} positions")
    if args.dropout >= 1:
        parser.error(f"--dropout {args.dropout} leaves nothing; choose less than 1")
    if args.beta2 >= 1:
        parser.error(f"--beta2 {args.beta2} must be below 1")
    args.strategy = args.strategy or ("deepspeed" if args.deepspeed_config else "ddp")
    folder = Path(os.environ.get("DATA_DIR", "."))
    args.train_data_path = args.train_data_path or folder / "train_small.bin"
    args.val_data_path = args.val_data_path or folder / "val_small.bin"
