"""What train_gpt2.py is asked for besides the options of every workload, and which of it fits."""

import os
from pathlib import Path

from training.arguments import positive
from training.gpt2.data import choose_vocab_size, find_data
from training.gpt2.model import POSITIONS, SMALL
from training.gpt2.sharding import ZERO_STAGES, check_strategy
from training.gpt2.sharding_deepspeed import check_deepspeed

GLOBAL_BATCH = 16  # sequences a step
STEPS = 3561


def add_gpt2_arguments(parser) -> None:
    """Add the options on data, model size, amount of work and strategy."""
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
    add_strategy_arguments(add)


def add_strategy_arguments(add) -> None:
    add(
        "--strategy",
        choices=[*ZERO_STAGES, "deepspeed"],
        help="what the ranks share out: nothing, the optimizer's state, everything "
        "(default: ddp, or deepspeed with --deepspeed-config)",
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


def check_options(args, parser) -> None:
    """Fill in the defaults that depend on others, and refuse what does not go together.

    Ends the program by parser.error, or raises TrainingError.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if args.scaling == "strong" and args.global_batch_size is None:
        args.global_batch_size = GLOBAL_BATCH
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
    check_strategy(args)
    check_deepspeed(args)
    args.train_data_path, args.val_data_path = find_data(args)
    args.vocab_size = choose_vocab_size(args.vocab_size, args.train_data_path)
