"""Run in test_train_gpt2.py: train_gpt2.py's main() again and again in one group.

gpt2_probe.py DATA_DIR OUT_DIR: each run leaves its files in OUT_DIR/<world size>_<name>, with
the last step's checkpoint, which holds whole states whatever the strategy. The strategies on two
ranks and tp on four measure their steps besides; the others leave that out, to be done sooner. Each
rank saves OUT_DIR/<world size>_<rank>.pt: the float64 gradients of the first step by each strategy,
and the sequences that the rank had in each step.
"""

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

import train_gpt2
from training.batches import plan_batch
from training.gpt2.model import GPT2
from training.gpt2.sharding import check_strategy, no_sync
from training.gpt2.tensor_parallel import clip_gradients, cut_blocks, join, make_scaler
from training.gpt2.work import plan_work

CPU = torch.device("cpu")
SIZES = ["--layers=2", "--heads=4", "--width=64", "--seq-length=32", "--lr=0.01"]
WORK = ["--steps=6", "--epochs=2", "--grad-clip=0.5", "--warmup-steps=1"]  # clipping is at work
STRATEGIES = {
    1: ("ddp", "zero1", "fsdp"),
    2: ("ddp", "zero1", "zero2", "fsdp"),
    4: ("ddp", "zero1", "zero2", "fsdp", "hsdp", "tp"),  # the last two: two groups of two ranks
}
PROBED = {*(f"2_{name}" for name in STRATEGIES[2]), "4_tp"}


def set_arguments(out: Path, name: str, *options: str) -> Path:
    workdir = out / f"{dist.get_world_size()}_{name}"
    sys.argv[1:] = [*SIZES, *WORK, f"--workdir={workdir}", *options]
    return workdir


def train(out: Path, name: str, *options: str, every: int = 6) -> None:
    if f"{dist.get_world_size()}_{name}" not in PROBED:
        options += ("--no-probe",)
    set_arguments(out, name, *options, f"--checkpoint-every={every}")
    train_gpt2.main(train_gpt2.parse_args())
    dist.barrier()


def train_cut(out: Path, strategy: str) -> None:
    """Train with dropout; then once more from the checkpoint after step 4, in the second part."""
    options = [f"--strategy={strategy}", "--dropout=0.1"]
    train(out, f"{strategy}_uncut", *options, every=2)
    kept = out / f"{dist.get_world_size()}_{strategy}_uncut/checkpoints"
    resumed = out / f"{dist.get_world_size()}_{strategy}_resumed"
    if dist.get_rank() == 0:
        resumed.mkdir()
        shutil.copy(kept / "step_00000004.pt", resumed)
    dist.barrier()
    train(out, f"{strategy}_cut", *options, f"--checkpoint-dir={resumed}")


def find_gradients(out: Path, strategy: str) -> tuple[dict, list]:
    """This rank's whole gradients of the first step in float64, and its sequences of each step."""
    set_arguments(out, "gradients", f"--strategy={strategy}")
    args = train_gpt2.parse_args()
    check_strategy(args)
    args.precision, args.vocab_size = "fp32", 2048  # no autocast
    train_set, val_set = train_gpt2.load_data(args)
    plan = plan_batch(args, len(train_set))
    work = plan_work(args, plan, len(train_set))
    torch.set_default_dtype(torch.float64)
    loader, sampler, _ = train_gpt2.build_loaders(args, plan, work, train_set, val_set, CPU)
    model, _, _, scaler = train_gpt2.build_model(args, plan, work, CPU)
    run = SimpleNamespace(device=CPU, grad_accum_steps=plan.grad_accum_steps)
    batches = iter(loader)
    for number in range(1, plan.grad_accum_steps + 1):
        with nullcontext() if number == plan.grad_accum_steps else no_sync(model):
            train_gpt2.forward_backward(args, run, model, scaler, *next(batches))
    torch.set_default_dtype(torch.float32)
    gradients = {
        name.removeprefix("module."): join(each.grad, each.part) if hasattr(each, "part")
        else getattr(each.grad, "full_tensor", lambda g=each.grad: g)()
        for name, each in model.named_parameters()
    }  # fmt: skip
    assert {each.dtype for each in gradients.values()} == {torch.float64}
    parts = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        rows, size = list(sampler), plan.per_gpu * plan.grad_accum_steps
        parts += [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    return gradients, parts


def leave_a_step_out_together(out: Path) -> None:
    """With fp16, what overflows in one rank's part alone: no rank may make the step."""
    set_arguments(out, "overflow", "--strategy=tp")
    args = train_gpt2.parse_args()
    check_strategy(args)
    model = GPT2(1, 4, 64, 50)
    cut_blocks(model, args.tensor_parallel)
    optimizer, scaler = torch.optim.AdamW(model.parameters()), make_scaler(model, CPU, True)
    scaler.scale(model(torch.arange(8)[None], torch.arange(8)[None])).backward()
    if dist.get_rank() == 1:
        model.blocks[0].mlp.inner.weight.grad[0, 0] = torch.inf
    before = [each.clone() for each in model.parameters()]
    scaler.unscale_(optimizer)
    clip_gradients(model, 1.0)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15  # half of the first
    for one, other in zip(before, model.parameters(), strict=True):
        assert torch.equal(one, other)


def main() -> None:
    data_dir, out = sys.argv[1], Path(sys.argv[2])
    os.environ["DATA_DIR"] = data_dir
    os.environ["LOCAL_WORLD_SIZE"] = "2"  # as if every two ranks were a node
    device = train_gpt2.init_distributed(timeout_s=120)
    train_gpt2.init_distributed = lambda timeout_s: device
    destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None
    world_size = dist.get_world_size()
    strategies = STRATEGIES[world_size]
    result = {name: find_gradients(out, name) for name in strategies}
    torch.save(result, out / f"{world_size}_{dist.get_rank()}.pt")
    for strategy in strategies:
        train(out, strategy, f"--strategy={strategy}")
    train(out, "fixed_work", "--steps=30", "--epochs=1")
    if world_size == 4:
        train_cut(out, "hsdp")
        train_cut(out, "tp")
        os.environ["LOCAL_WORLD_SIZE"] = "4"
        train(out, "tp_of_4", "--strategy=tp", "--activation-checkpointing")
        train(out, "recomputed", "--activation-checkpointing")
        train(out, "recomputed_fsdp", "--activation-checkpointing", "--strategy=fsdp")
    if world_size == 1:
        options = ("--layers=1", "--steps=2", "--epochs=1", "--grad-clip=1", "--warmup-steps=0")
        train(out, "one_layer", *options, "--limit-batches=4")
    if world_size == 2:
        for strategy in strategies:
            train_cut(out, strategy)
            train(out, f"{strategy}_no_probe", f"--strategy={strategy}")
        train(out, "tp_bf16", "--strategy=tp", "--precision=bf16")
        leave_a_step_out_together(out)
        for precision in ("fp16", "bf16"):
            train(out, f"sent_as_{precision}", f"--grad-compression={precision}")
        train(out, "small_buckets", "--bucket-cap-mb=0.1")
        train(out, "bf16", "--precision=bf16")
    destroy()


if __name__ == "__main__":
    main()
