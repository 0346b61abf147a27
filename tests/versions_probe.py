"""Run by two ranks on the oldest PyTorch: every trainer, cut once.

versions_probe.py OUT DIGITS TOKENS PAIRS: each trainer is cut after a step into OUT/NAME/1 and goes
on from its checkpoint into OUT/NAME/2. PyTorch is imported and the ranks meet once for all.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import train_minimal
from training import TrainingError
from training.launch import leave_group
from training.run import TrainingRun

IMAGES = ["--model=resnet18", "--image-size=16", "--batch-size=8", "--num-workers=0"]
GPT2 = ["--layers=2", "--width=32", "--heads=2", "--seq-length=32", "--steps=4",
        "--limit-batches=4", "--batch-size=2", "--scaling=weak"]  # fmt: skip
TRAINERS = {  # name: module, data, options
    "tinyimagenet": ("train", 0, IMAGES),
    "gpt2": ("train_gpt2", 1, GPT2),
    "gpt2_zero1": ("train_gpt2", 1, [*GPT2, "--strategy=zero1"]),
    "gpt2_fsdp": ("train_gpt2", 1, [*GPT2, "--strategy=fsdp"]),
    "gpt2_tp": ("train_gpt2", 1, [*GPT2, "--strategy=tp"]),
    "translation": ("train_translation", 2, ["--layers=1", "--width=32", "--heads=2"]),
    "spiral": ("train_spiral", 0, ["--samples=1000"]),
}


class Cut(Exception):
    pass


def main() -> None:
    out, *data = map(Path, sys.argv[1:])
    dist.init_process_group("gloo")
    dist.init_process_group = lambda *_args, **_options: None
    destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None
    end_step = TrainingRun.end_step

    def end_step_and_cut(run: TrainingRun) -> None:
        end_step(run)
        raise Cut

    for name, (module, number, options) in TRAINERS.items():
        trainer = importlib.import_module(module)
        os.environ["DATA_DIR"] = str(data[number])
        for attempt, end in enumerate([end_step_and_cut, end_step], start=1):
            TrainingRun.end_step = end
            sys.argv[1:] = [
                *options, "--epochs=1", f"--workdir={out / name / str(attempt)}", "--no-probe",
                f"--checkpoint-dir={out / name / 'checkpoints'}", "--checkpoint-every=1",
            ]  # fmt: skip
            if "gpt2" not in name:
                sys.argv.append("--limit-batches=3")
            try:
                trainer.main(trainer.parse_args())
            except Cut:
                dist.barrier()
            except TrainingError as error:
                print(f"{name}: {error}", flush=True)
    load = train_minimal.load_images

    def load_few(*options):
        sets = load(*options)
        for each in sets:
            each.samples = each.samples[::12]
        return sets

    train_minimal.load_images = load_few
    minimal = {"data_dir": data[0], "model": "resnet18", "no_flip": True, "image_size": 16}
    minimal |= {"epochs": 1, "batch_size": 16, "lr": 0.01, "num_workers": 0}
    train_minimal.main(argparse.Namespace(**minimal))
    dist.destroy_process_group = destroy
    leave_group()


if __name__ == "__main__":
    main()
