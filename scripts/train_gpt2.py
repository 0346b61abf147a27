"""Train GPT-2 on text with DistributedDataParallel (DDP), a fixed amount of work at every scale.

    python scripts/train_gpt2.py --train-data-path F --val-data-path F          one process
    torchrun --standalone --nproc-per-node=2 scripts/train_gpt2.py …            two, on this machine
    deepspeed scripts/train_gpt2.py … --deepspeed_config FILE                   by DeepSpeed
    cd experiments/gpt2/multi_gpu/4_gpus && sbatch multi_gpu.slurm              four, under Slurm

Strong scaling: a step has 16 sequences and there are 3,561 steps, whatever the number of ranks.
Fewer ranks do more passes before each step and accumulate their gradients: 4 passes of 4
sequences on one rank, 2 on each of two, 1 on each of four; of 2 sequences on each of eight.
--strategy also cuts the optimizer's state (zero1), gradients (zero2), everything (fsdp, hsdp) or
each block's matrices (tp) among the ranks.

Read it beside train.py: sections and names are the same; model, data, unit and step differ.
"""

import os
from contextlib import nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path

from training.gpt2.arguments import parse_args

if __name__ == "__main__":  # before PyTorch, which takes seconds to import: --help answers at once
    ARGS = parse_args(__doc__)

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset

from training import TrainingError
from training.batches import ResumableBatches, plan_batch, warm_up
from training.device import choose_precision
from training.epoch import EpochResult
from training.flops import flops_per_gpt2_token, recomputed_flops_per_gpt2_token
from training.gpt2.arguments import ZERO_STAGES
from training.gpt2.data import TokenSequences, choose_vocab_size
from training.gpt2.model import GPT2, check_size, count_parameters, split_decayed
from training.gpt2.sharding import (
    SHARDED,
    check_strategy,
    compress_gradients,
    measure_state,
    name_dtypes,
    no_sync,
    shard_model,
    shard_optimizer,
)
from training.gpt2.sharding_deepspeed import check_deepspeed, describe_deepspeed, start_deepspeed
from training.gpt2.tensor_parallel import clip_gradients, cut_blocks, make_scaler
from training.gpt2.work import PassSampler, check_tokens, cosine_decay, plan_work
from training.launch import launch, leave_group
from training.record import check_workdir
from training.run import TrainingRun


def main(args) -> None:
    # What can be wrong is looked at before the ranks meet, so that nobody waits for anybody.
    check_strategy(args)
    check_deepspeed(args)
    args.vocab_size = choose_vocab_size(args.vocab_size, args.train_data_path)
    train_set, val_set = load_data(args)
    plan = plan_batch(args, samples=len(train_set))
    work = plan_work(args, plan, sequences=len(train_set))
    args.precision = choose_precision(args.precision)
    check_workdir(args.workdir)

    device = init_distributed(args.timeout_s)
    train_loader, sampler, val_loader = build_loaders(args, plan, work, train_set, val_set, device)
    model, optimizer, scheduler, scaler = build_model(args, plan, work, device)
    settings = describe_run(args, plan, work, train_set, val_set)
    run = TrainingRun(args, settings, device, Path(__file__), model, optimizer, scheduler, scaler)
    if run.is_main:
        print(work.describe(), flush=True)

    for epoch in run.epochs():  # after a restart: those that are left
        sampler.set_epoch(epoch)  # the next part of the steps, the same one on every rank
        train_sums = train_one_epoch(args, run, train_loader, model, optimizer, scheduler, scaler)
        run.measure_exposed_comm(  # outside the timed part, and nothing of it is kept
            lambda batch: forward_backward(args, run, model, scaler, *to_device(batch, device)),
            lambda: no_sync(model),
        )
        val_sums = validate(args, run, val_loader, model)
        mine = int(train_sums[1]) // args.tensor_parallel  # the ranks of a group share a batch
        run.end_epoch(reduce_metrics(run, train_sums, val_sums), samples=mine)

    done = check_tokens(run.record.results, work)
    if run.is_main:
        print(done, flush=True)
    run.finish()
    leave_group()


# ---- 1. Distributed Initialization ---------------------------------------------------------


def init_distributed(timeout_s: int) -> torch.device:
    """Join the process group and return this rank's device.

    torchrun tells each process who it is, RANK of WORLD_SIZE and LOCAL_RANK on its node, and where
    to meet, MASTER_ADDR and MASTER_PORT; plain `python` starts rank 0 of 1.
    """
    device, backend = torch.device("cpu"), "gloo"
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > gpus:
            raise TrainingError(f"more processes on this node than its {gpus} GPUs; ask for more")
        # A Slurm task may see its own GPU only, which is then number 0.
        local_rank = int(os.environ.get("LOCAL_RANK", 0)) if gpus > 1 else 0
        # NCCL links the GPUs; a few numbers, such as who got a signal, go between the CPUs.
        device, backend = torch.device("cuda", local_rank), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    where = {} if "WORLD_SIZE" in os.environ else alone
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **where)
    return device


# ---- 2. Model + AMP + DDP Wrapper ----------------------------------------------------------


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision: inside, matrix products and attention run in 16 bits."""
    dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def build_model(args, plan, work, device: torch.device):
    """Build the model in its DDP wrapper, the optimizer, the schedule and the gradient scaler."""
    torch.manual_seed(args.seed)  # the same initial weights on every rank
    model = GPT2(args.layers, args.heads, args.width, args.vocab_size, args.dropout).to(device)
    model.checkpoint_activations(args.activation_checkpointing)
    args.parameters = check_size(args, count_parameters(model))
    if args.compile:
        model.compile()
    same = cut_blocks(model, args.tensor_parallel) if args.strategy == "tp" else None
    if args.strategy in SHARDED:  # a share per rank instead of a full copy
        model = shard_model(model, args.strategy, args.shard_group)
    elif args.run_type == "optimized" and args.strategy != "deepspeed":
        # (A baseline has nobody to average with, and goes without.)
        # DDP copies rank 0's weights to all ranks now, and averages the gradients of all ranks
        # during every backward pass, in buckets, while the rest of the pass still runs.
        model = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,  # gradients live in the buckets: one copy less
            bucket_cap_mb=args.bucket_cap_mb,
            process_group=same,  # ranks that hold the same part of the model; None: all
        )
        compress_gradients(model, args.grad_compression)
    # fused: one pass over the weights instead of one for each operation of the step
    options = {"lr": plan.lr, "betas": (0.9, args.beta2), "fused": True}
    groups = split_decayed(model, args.weight_decay)  # only matrices decay, as in GPT-2
    make = shard_optimizer if args.strategy == "zero1" else torch.optim.AdamW
    optimizer = make(groups, **options)

    def lr_factor(step: int) -> float:
        decay = cosine_decay(step, work.steps) if args.lr_schedule == "cosine" else 1.0
        return warm_up(step, args.warmup_steps) * decay

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    if args.strategy == "deepspeed":
        return start_deepspeed(args, plan, model, optimizer, scheduler)
    # fp16 has so few exponent bits that small gradients become 0: scale the loss up, and the
    # gradients down again before the step. bf16 and fp32 need no such help.
    scaler = make_scaler(model, device, enabled=args.precision == "fp16")
    return model, optimizer, scheduler, scaler


# ---- 3. Data Pipeline & DistributedSampler -------------------------------------------------


def load_data(args) -> tuple[TokenSequences, TokenSequences]:
    """Both files of tokens, cut into sequences of --seq-length."""
    train_set, val_set = (
        TokenSequences(path, args.seq_length, args.vocab_size)
        for path in (args.train_data_path, args.val_data_path)
    )
    return train_set, val_set


def build_loaders(args, plan, work, train_set, val_set, device: torch.device):
    """Split the data among the ranks and load it; returns (train loader, its sampler, val loader).

    A batch is inputs and targets, each (B, T) int64, where B is the batch *per GPU*.
    """
    # The ranks of a tensor group read the same sequences: here they are one rank.
    rank, world_size = (n // args.tensor_parallel for n in (dist.get_rank(), dist.get_world_size()))
    # Each rank draws its own 1/world_size of one common shuffle: no sequence is trained on twice
    # in a pass through the data, and a step has the same sequences at every world size.
    sampler = DistributedSampler(
        train_set, world_size, rank, shuffle=True, seed=args.seed, drop_last=True
    )
    sampler = PassSampler(sampler, work)  # the data again, when they end before the work does
    # Every world_size-th sequence is exact. A rank that would have one less gets an empty one,
    # which counts nothing: FSDP's ranks have to do the same number of passes.
    part = range(rank, len(val_set), world_size)
    missing = -(-len(val_set) // world_size) - len(part)
    val_part = Subset(val_set, [*part, *[-1] * missing])
    options = {
        "num_workers": args.num_workers,
        "persistent_workers": args.num_workers > 0,  # do not start them again every epoch
        "pin_memory": device.type == "cuda",  # lets copies to the GPU run behind the computing
        # Each start of a loader draws a number: not from dropout's, or a restart would shift them.
        "generator": torch.Generator(),
    }
    batches = ResumableBatches(sampler, plan.per_gpu)
    train_loader = DataLoader(train_set, batch_sampler=batches, **options)
    return train_loader, sampler, DataLoader(val_part, batch_size=plan.per_gpu, **options)


def to_device(batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy a batch, inputs and targets, to the device."""
    inputs, targets = (tensor.to(device, non_blocking=True) for tensor in batch)
    return inputs, targets


# ---- 4. Training Loop ----------------------------------------------------------------------


def train_one_epoch(args, run, loader, model, optimizer, scheduler, scaler) -> torch.Tensor:
    """Train on the part's batches; returns this rank's [loss, tokens]."""
    model.train()
    sums = run.new_sums(2)
    for micro_batches in run.steps(loader, args.limit_batches):
        for number, batch in enumerate(micro_batches, start=1):
            inputs, targets = to_device(batch, run.device)
            run.mark("copy")
            # The gradients of a step's passes add up; only the last pass averages over the ranks.
            with nullcontext() if number == run.grad_accum_steps else no_sync(model):
                loss = forward_backward(args, run, model, scaler, inputs, targets)
            run.mark("compute")
            # No .item() here: it would make the CPU wait for the GPU in every step.
            sums += count_batch(targets, loss * targets.numel())

        if args.grad_clip and args.strategy != "deepspeed":  # whose engine clips
            scaler.unscale_(optimizer)
            clip_gradients(model, args.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        if not run.record.rank_facts:  # once, while all of it is there
            run.record.rank_facts = measure_state(model, optimizer)
            run.record.note(state_dtypes=name_dtypes(model, optimizer))
        optimizer.zero_grad(set_to_none=True)
        run.mark("optimizer")
        run.end_step()  # here a training can be saved and cut off
    return sums


def forward_backward(args, run, model, scaler, inputs, targets) -> torch.Tensor:
    """Add one pass to the gradients; returns its mean loss a token."""
    with autocast(run.device, args.precision):
        # The cross-entropy of the logits, some rows at a time: all of them would be the largest
        # tensor by far.
        loss = model(inputs, targets)
    scaler.scale(loss / run.grad_accum_steps).backward()  # DDP's all-reduce happens in here
    return loss.detach()


def count_batch(targets: torch.Tensor, loss_sum: torch.Tensor) -> torch.Tensor:
    """Return [sum of losses, tokens] of one batch as float64; an empty sequence has no tokens."""
    return torch.stack([loss_sum.double(), (targets >= 0).sum().double()])


# ---- 5. Validation Loop --------------------------------------------------------------------


@torch.no_grad()  # not inference_mode: FSDP keeps what it has gathered, and trains on with it
def validate(args, run, loader, model) -> torch.Tensor:
    """Evaluate this rank's part of the validation set; returns its [loss, tokens]."""
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=run.device)
    for batch in islice(loader, args.limit_batches):
        inputs, targets = to_device(batch, run.device)
        with autocast(run.device, args.precision):
            logits = model(inputs)  # with its wrapper: all ranks have as many batches
            loss_sum = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        sums += count_batch(targets, loss_sum)
    return sums


# ---- 6. Metrics & Logging ------------------------------------------------------------------


def reduce_metrics(run, train_sums: torch.Tensor, val_sums: torch.Tensor) -> EpochResult:
    """Combine all ranks' sums: the log's figures are those of the whole job, not of rank 0."""
    sums = torch.cat([train_sums, val_sums])
    dist.all_reduce(sums, op=dist.ReduceOp.SUM)
    sums /= run.args.tensor_parallel  # whose ranks have counted the same
    # The job is as fast as its slowest rank.
    slowest = torch.tensor(run.stopwatch.seconds, dtype=torch.float64, device=sums.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)

    loss, tokens, val_loss, val_tokens = sums.tolist()
    return EpochResult(
        epoch=run.epoch,
        lr=run.lr,
        train_loss=loss / tokens,
        val_loss=val_loss / val_tokens,
        samples=int(tokens),
        slowest_s=slowest.item(),
    )


def describe_run(args, plan, work, train_set, val_set) -> dict:
    """What run.json says of the settings: runs that differ in these are not compared."""
    own = (
        "run_type", "strategy", "dropout", "grad_clip", "grad_compression", "bucket_cap_mb",
        "lr_schedule", "weight_decay", "beta2", "parameters", "activation_checkpointing",
    )  # fmt: skip
    sizes = {"train": len(train_set), "val": len(val_set), "vocab_size": args.vocab_size}
    return {
        "workload": "gpt2",
        "unit": "tokens/s",
        "model": "gpt2",
        "model_size": f"n_layer={args.layers}, n_head={args.heads}, n_embd={args.width}",
        "seq_len": args.seq_length,
        "steps": work.steps,
        "tokens": work.tokens,
        "flops_per_sample": flops_per_gpt2_token(
            args.parameters, args.layers, args.width, args.seq_length
        ),
        "recomputed_flops_per_sample": recomputed_flops_per_gpt2_token(
            args.layers * args.activation_checkpointing, args.width, args.seq_length
        ),
        "zero_stage": ZERO_STAGES.get(args.strategy),
        "optimizer": "AdamW",
        "tensor_parallel": args.tensor_parallel if args.strategy == "tp" else None,
        **{name: getattr(args, name) for name in own},
        **({"scaling_mode": "growing"} if args.growing else {}),
        **plan.describe(args),
        **describe_deepspeed(args),
        "dataset": {"name": train_set.path.stem, **sizes},
    }


if __name__ == "__main__":
    launch(main, ARGS)
