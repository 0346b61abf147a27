"""Run in test_train_translation.py: what train_translation.py's own functions compute on 1, 2 and
4 processes, and how its main() goes on after a cut.

translation_probe.py DATA_DIR OUT_DIR: each rank writes OUT_DIR/<world size>_<rank>.pt, in float64
and without dropout:
  gradients, accumulated    after one step's passes over the same 32 pairs; in 1 and in 2 passes
  parameters                after an epoch of 4 steps
  train, val                this rank's sums of that epoch: loss, tokens; and those of BLEU
translation_probe.py DATA_DIR OUT_DIR STEP…: the ranks, with dropout, train undisturbed
into OUT_DIR/uncut and without the probe of communication into OUT_DIR/unprobed; then for each STEP
they are cut right after it (OUT_DIR/STEP/1) and go on (OUT_DIR/STEP/2), without it, too.
"""

import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist

import train_translation as trainer
from training.batches import plan_batch
from training.run import TrainingRun
from training.translation.batches import share_batch

SMALL = ["--layers=1", "--width=32", "--heads=2", "--batch-size=32", "--warmup-steps=2"]


load_pairs = trainer.load_pairs = cache(trainer.load_pairs)  # read once


class Cut(Exception):
    pass


def flatten(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def find_gradients(args, run, loader, sampler, learner) -> torch.Tensor:
    """Gradients of one step as train_one_epoch makes them, without its optimizer step."""
    model, _, _, scaler = learner
    batches = iter(loader)
    for number in range(1, run.grad_accum_steps + 1):
        model.require_backward_grad_sync = number == run.grad_accum_steps
        sources, targets = next(batches)
        trainer.forward_backward(args, run, model, scaler, sources, targets, sampler.step_tokens[0])
    gradients = flatten(parameter.grad for parameter in model.parameters())
    model.zero_grad()
    return gradients


def prepare(data_dir: str, workdir: Path, *options: str):
    """Everything that main() makes before its first epoch."""
    sys.argv[1:] = [*SMALL, *options, f"--data-dir={data_dir}", f"--workdir={workdir}"]
    args = trainer.parse_args()
    workdir.mkdir(parents=True, exist_ok=True)
    train_set, val_set = load_pairs(Path(data_dir), 256)
    share_batch(args)
    plan = plan_batch(args, len(train_set))
    args.precision = "fp32"  # no autocast; the default dtype is float64
    device = torch.device("cpu")
    loaders = trainer.build_loaders(args, plan, train_set, val_set, device)
    learner = trainer.build_model(args, plan, train_set, device)
    settings = trainer.describe_run(args, plan, train_set, val_set, learner[0], [1.0] * 12)
    run = TrainingRun(args, settings, device, Path(trainer.__file__), *learner)
    return args, run, loaders, learner


def compute(data_dir: str, out_dir: str) -> None:
    trainer.init_distributed(timeout_s=120)
    torch.set_default_dtype(torch.float64)
    name = f"{dist.get_world_size()}_{dist.get_rank()}"
    options = ["--dropout=0", "--limit-batches=4", "--lr=0.01"]
    folder = Path(out_dir, str(dist.get_world_size()))
    accumulated = find_gradients(
        *with_sampler(prepare(data_dir, folder / "2", *options, "--grad-accum-steps=2"))
    )
    everything = prepare(data_dir, folder / "1", *options)
    gradients = find_gradients(*with_sampler(everything))
    args, run, (loader, _, val_loader), learner = everything
    train = trainer.train_one_epoch(args, run, loader, *learner)
    args.limit_batches = None
    result = {
        "gradients": gradients,
        "accumulated": accumulated,
        "train": train,
        "parameters": flatten(learner[0].parameters()),
    }
    torch.manual_seed(1)  # other weights: with these no translation ends by itself
    torch.nn.init.normal_(learner[0].module.embedding.weight[3:])
    torch.nn.init.zeros_(learner[0].module.embedding.weight[:3])
    result["val"] = trainer.validate(args, run.device, val_loader, learner[0])
    torch.save(result, Path(out_dir) / f"{name}.pt")
    dist.destroy_process_group()


def with_sampler(prepared: tuple):
    args, run, (loader, sampler, _), learner = prepared
    return args, run, loader, sampler, learner


def call_main(data_dir: str, workdir: Path, checkpoints: Path, every: int, *options: str) -> None:
    sys.argv[1:] = [
        *SMALL, "--n_epochs=2", "--limit-batches=4", "--dropout=0.3", "--grad-accum-steps=2",
        f"--data-dir={data_dir}", f"--workdir={workdir}", *options,
        f"--checkpoint-dir={checkpoints}", f"--checkpoint-every={every}",
    ]  # fmt: skip
    trainer.main(trainer.parse_args())
    dist.barrier()


def cut_after(step: int):
    """Make end_step raise once `step` steps are done and saved."""
    end_step = TrainingRun.end_step

    def end_step_and_cut(run: TrainingRun) -> None:
        end_step(run)
        if run.total_steps == step:
            raise Cut

    return end_step, end_step_and_cut


def resume(data_dir: str, out_dir: str, steps: list[str]) -> None:
    device = trainer.init_distributed(timeout_s=120)
    trainer.init_distributed = lambda timeout_s: device
    destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None
    folder = Path(out_dir)
    call_main(data_dir, folder / "uncut", folder / "uncut/checkpoints", 8)
    call_main(data_dir, folder / "unprobed", folder / "unprobed/checkpoints", 8, "--no-probe")
    for step in map(int, steps):
        folder = Path(out_dir, str(step))
        end_step, TrainingRun.end_step = cut_after(step)
        with suppress(Cut):
            call_main(data_dir, folder / "1", folder / "checkpoints", step, "--no-probe")
        dist.barrier()
        TrainingRun.end_step = end_step
        call_main(data_dir, folder / "2", folder / "checkpoints", 8, "--no-probe")
    destroy()


if __name__ == "__main__":
    data, out, *cuts = sys.argv[1:]
    if cuts:
        resume(data, out, cuts)
    else:
        compute(data, out)
