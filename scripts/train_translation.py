"""Train an encoder-decoder transformer to translate, on one device or on several (DDP).

    python scripts/train_translation.py --data-dir DIR --world_size 1 --batch_size 64
    python scripts/train_translation.py --data-dir DIR --world_size 2 --batch_size 128
    torchrun --standalone --nproc-per-node=2 scripts/train_translation.py --data-dir DIR
    cd experiments/translation/multi_gpu/2_gpus && sbatch multi_gpu.slurm

The first two start their own processes; under torchrun and Slurm the ranks are there already.
Unlike in train.py, --batch-size is *global*: the pairs of sentences of all ranks in a step.
Pairs have different lengths, so what is counted is tokens: a step's loss is the mean over the
target tokens of all ranks, and throughput is target tokens per second, padding left out of both.
"""

import os
from contextlib import nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path

from training.translation.arguments import parse_args

if __name__ == "__main__":  # before PyTorch, which takes seconds to import: --help answers at once
    ARGS = parse_args(__doc__)

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from training import TrainingError
from training.batches import ResumableBatches, plan_batch, warm_up
from training.device import choose_precision
from training.epoch import EpochResult
from training.flops import flops_per_target_token
from training.launch import launch, leave_group
from training.ranks import start_ranks
from training.record import check_workdir
from training.run import TrainingRun
from training.translation.batches import SimilarLengths, share_batch
from training.translation.data import load_pairs
from training.translation.model import Translator
from training.translation.score import compute_bleu, count_bleu


def main(args) -> None:
    if args.world_size > 1 and "WORLD_SIZE" not in os.environ:
        start_ranks(main, args.world_size, args)  # each comes by here again; does not return
    # What can be wrong is looked at before the ranks meet, so that nobody waits for anybody.
    train_set, val_set = load_pairs(Path(args.data_dir), args.max_tokens)
    share_batch(args)
    plan = plan_batch(args, samples=len(train_set))
    args.precision = choose_precision(args.precision)
    check_workdir(args.workdir)

    device = init_distributed(args.timeout_s)
    train_loader, sampler, val_loader = build_loaders(args, plan, train_set, val_set, device)
    model, optimizer, scheduler, scaler = build_model(args, plan, train_set, device)
    untrained = reduce_sums(validate(args, device, val_loader, model))
    settings = describe_run(args, plan, train_set, val_set, model, untrained)
    run = TrainingRun(args, settings, device, Path(__file__), model, optimizer, scheduler, scaler)

    for epoch in run.epochs():  # after a restart: those that are left
        sampler.set_epoch(epoch)  # a new shuffle, the same one on every rank
        train_sums = train_one_epoch(args, run, train_loader, model, optimizer, scheduler, scaler)
        run.measure_exposed_comm(  # outside the timed part, and nothing of it is kept
            lambda batch: forward_backward(
                args, run, model, scaler, *to_device(batch, device), plan.global_size
            ),
            model.no_sync,
        )
        val_sums = validate(args, device, val_loader, model)
        run.end_epoch(reduce_metrics(run, train_sums, val_sums), samples=int(train_sums[1]))

    run.finish()
    leave_group()


# ---- 1. Distributed Initialization ---------------------------------------------------------


def init_distributed(timeout_s: int) -> torch.device:
    """Join the process group and return this rank's device.

    torchrun, or training/ranks.py, tells each process who it is, RANK of WORLD_SIZE and LOCAL_RANK
    on its node, and where to meet, MASTER_ADDR and MASTER_PORT; one process alone is rank 0 of 1.
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
    """Automatic mixed precision: inside, matrix products run in 16 bits."""
    dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def build_model(args, plan, train_set, device: torch.device):
    """Build the model in its DDP wrapper, the optimizer, the schedule and the gradient scaler."""
    torch.manual_seed(args.seed)  # the same initial weights on every rank
    vocabulary = train_set.vocabulary
    model = Translator(
        vocabulary.size,
        vocabulary.pad_id,
        width=args.width,
        layers=args.layers,
        heads=args.heads,
        dropout=args.dropout,
    ).to(device)
    if args.compile:
        model.compile(dynamic=True)  # batches have different lengths
    # DDP copies rank 0's weights to all ranks now, and averages the gradients of all ranks during
    # every backward pass, in buckets, while the rest of the pass still runs.
    model = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # gradients live in the buckets: one copy less
    )
    # fused: one pass over the weights instead of one for each operation of the step
    optimizer = torch.optim.AdamW(
        model.parameters(), plan.lr, (0.9, 0.98), weight_decay=args.weight_decay, fused=True
    )
    total_steps = plan.steps_per_epoch * args.epochs

    def lr_factor(step: int) -> float:
        left = (total_steps - step) / max(1, total_steps - args.warmup_steps)
        return warm_up(step, args.warmup_steps) * min(1.0, left)  # up, then down to 0 at the end

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    # fp16 has so few exponent bits that small gradients become 0: scale the loss up, and the
    # gradients down again before the step. bf16 and fp32 need no such help.
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
    torch.manual_seed(args.seed + dist.get_rank())  # from here on: each rank its own dropout
    return model, optimizer, scheduler, scaler


# ---- 3. Data Pipeline & DistributedSampler -------------------------------------------------


def build_loaders(args, plan, train_set, val_set, device: torch.device):
    """Split the pairs among the ranks; returns (train loader, its sampler, val loader).

    A batch is sources (B, S) and targets (B, T), int64, with padding at their ends; B is the batch
    *per GPU*.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    # A DistributedSampler: each rank draws its own 1/world_size of one common shuffle, in which
    # the pairs of a step have similar lengths. All ranks take the same number of full batches.
    sampler = SimilarLengths(train_set, world_size, rank, seed=args.seed, batch=plan.global_size)
    # A DistributedSampler would pad the validation set to a multiple of world_size and so count
    # some pairs twice. Every world_size-th pair is exact; some ranks may have one pair less.
    val_part = Subset(val_set, val_set.by_length()[rank::world_size])
    options = {
        "num_workers": args.num_workers,
        "persistent_workers": args.num_workers > 0,  # do not start them again every epoch
        "pin_memory": device.type == "cuda",  # lets copies to the GPU run behind the computing
        "collate_fn": train_set.collate,
        # A loader draws a seed when it starts: not from the numbers that dropout goes on with,
        # or a run that goes on in mid-epoch, and so starts its loader again, would go another way.
        "generator": torch.Generator(),
    }
    batches = ResumableBatches(sampler, plan.per_gpu)
    train_loader = DataLoader(train_set, batch_sampler=batches, **options)
    return train_loader, sampler, DataLoader(val_part, batch_size=plan.per_gpu, **options)


def to_device(batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy a batch of sources (B, S) and targets (B, T) to the device."""
    sources, targets = (tensor.to(device, non_blocking=True) for tensor in batch)
    return sources, targets


# ---- 4. Training Loop ----------------------------------------------------------------------


def train_one_epoch(args, run, loader, model, optimizer, scheduler, scaler) -> torch.Tensor:
    """Train on the epoch's batches; returns this rank's [loss, tokens]."""
    model.train()
    sums = run.new_sums(2)
    step_tokens = loader.batch_sampler.sampler.step_tokens  # of all ranks: nobody has to ask
    for micro_batches in run.steps(loader, args.limit_batches):
        for number, batch in enumerate(micro_batches, start=1):
            sources, targets = to_device(batch, run.device)
            run.mark("copy")
            # The gradients of a step's passes add up; only the last pass averages over the ranks.
            with nullcontext() if number == run.grad_accum_steps else model.no_sync():
                loss_sum = forward_backward(
                    args, run, model, scaler, sources, targets, step_tokens[run.step]
                )
            run.mark("compute")
            # No .item() here: it would make the CPU wait for the GPU in every step.
            sums += count_batch(targets, loss_sum, model.module.pad_id)

        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        run.mark("optimizer")
        run.end_step()  # here a training can be saved and cut off
    return sums


def forward_backward(args, run, model, scaler, sources, targets, step_tokens: int):
    """Add one pass to the gradients; returns its sum of losses.

    DDP divides the sum of the ranks' gradients by their number, but ranks and passes have
    different numbers of tokens: the mean of their means is not the mean over the tokens. So each
    divides its own sum by the tokens of the whole step, step_tokens, and makes up for DDP.
    """
    with autocast(run.device, args.precision):
        scores = model(sources, targets[:, :-1])  # from each token guess the next one
        loss_sum = sum_losses(scores, targets, model.module.pad_id, args.label_smoothing)
    loss = loss_sum * dist.get_world_size() / step_tokens
    scaler.scale(loss).backward()  # DDP's all-reduce happens in here
    return loss_sum.detach()


def sum_losses(scores, targets, pad_id: int, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross entropy in nats, summed over the tokens that are no padding."""
    return cross_entropy(
        scores.flatten(0, 1),
        targets[:, 1:].flatten(),
        ignore_index=pad_id,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def count_batch(targets: torch.Tensor, loss_sum: torch.Tensor, pad_id: int) -> torch.Tensor:
    """Return [sum of losses, target tokens] of one batch as float64."""
    return torch.stack([loss_sum.double(), (targets[:, 1:] != pad_id).sum().double()])


# ---- 5. Validation Loop --------------------------------------------------------------------


@torch.inference_mode()
def validate(args, device: torch.device, loader, model) -> torch.Tensor:
    """Evaluate this rank's part of the validation set; returns its [loss, tokens, BLEU's sums].

    The loss is of each token after the reference's ones; BLEU is of translations that the model
    writes on its own, word by word.
    """
    model.eval()
    val_set, indices = loader.dataset.dataset, loader.dataset.indices
    vocabulary, pad_id, translations = val_set.vocabulary, model.module.pad_id, []
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for batch in islice(loader, args.limit_batches):
        sources, targets = to_device(batch, device)
        with autocast(device, args.precision):
            # .module: without the DDP wrapper, since ranks may have different numbers of batches.
            scores = model.module(sources, targets[:, :-1])
            tokens = model.module.translate(sources, vocabulary.bos_id, vocabulary.eos_id)
        sums += count_batch(targets, sum_losses(scores, targets, pad_id), pad_id)
        translations += vocabulary.decode(tokens)
    references = [val_set.references[index] for index in indices[: len(translations)]]
    return torch.cat([sums, count_bleu(translations, references).to(device)])


# ---- 6. Metrics & Logging ------------------------------------------------------------------


def reduce_sums(sums: torch.Tensor) -> list[float]:
    """Add up all ranks' sums: the log's figures are those of the whole job, not of rank 0."""
    sums = sums.clone()
    dist.all_reduce(sums, op=dist.ReduceOp.SUM)
    return sums.tolist()


def reduce_metrics(run, train_sums: torch.Tensor, val_sums: torch.Tensor) -> EpochResult:
    """Combine what all ranks have counted. BLEU is of the whole text: no mean over ranks is."""
    loss, tokens, val_loss, val_tokens, *bleu = reduce_sums(torch.cat([train_sums, val_sums]))
    # The job is as fast as its slowest rank.
    slowest = torch.tensor(run.stopwatch.seconds, dtype=torch.float64, device=run.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return EpochResult(
        epoch=run.epoch,
        lr=run.lr,
        train_loss=loss / tokens,
        val_loss=val_loss / val_tokens,
        val_bleu=compute_bleu(bleu),
        samples=int(tokens),
        slowest_s=slowest.item(),
    )


def describe_run(args, plan, train_set, val_set, model, untrained: list[float]) -> dict:
    """What run.json says of the settings: runs that differ in these are not compared."""
    names = ("heads", "dropout", "label_smoothing", "max_tokens")
    sizes = {"train": len(train_set), "val": len(val_set), "vocab_size": train_set.vocabulary.size}
    return {
        "workload": "translation",
        "unit": "tokens/s",
        "model": f"transformer-{args.layers}x{args.width}",
        **{name: getattr(args, name) for name in names},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_sample": flops_per_target_token(
            args.layers, args.width, train_set.vocabulary.size, *train_set.mean_lengths()
        ),
        "strategy": "ddp",
        "optimizer": "AdamW",
        **plan.describe(args),
        "dataset": {"name": Path(args.data_dir).resolve().name, **sizes},
        "val_loss_before": untrained[0] / untrained[1],
        "bleu_before": compute_bleu(untrained[2:]),
    }


if __name__ == "__main__":
    launch(main, ARGS)
