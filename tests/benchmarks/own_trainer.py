"""train.py's own loop, a few steps at a time, in the process of a benchmark."""

import sys
from pathlib import Path

from measure import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import torch

import train
from training.batches import plan_batch
from training.device import keep_freed_memory
from training.run import TrainingRun


class OwnTrainer:
    """What train.py's main() makes, ready to train `steps` steps at each call of train().

    folder: an empty one, for the run's files; options: those of train.py besides.
    """

    def __init__(self, folder: Path, data_dir: Path, steps: int, *options: str):
        keep_freed_memory()  # as launch() does
        sys.argv = [
            "train.py", f"--data-dir={data_dir}", f"--workdir={folder}/results", "--no-probe",
            "--num-workers=0", f"--limit-batches={steps}", "--epochs=1000000", *options,
        ]  # fmt: skip
        self.args = train.parse_args()
        self.args.precision = train.choose_precision(self.args.precision)
        self.args.workdir.mkdir()
        self.sets = train_set, val_set = train.load_data(self.args)
        self.plan = plan_batch(self.args, len(train_set))
        self.device = train.init_distributed(60)
        parts = train.build_loaders(self.args, self.plan, train_set, val_set, self.device)
        self.loader, self.steps_per_epoch = parts[0], len(parts[0])
        self.learner = train.build_model(self.args, self.plan, train_set, self.device)
        settings = train.describe_run(self.args, self.plan, train_set, val_set)
        path = Path(train.__file__)
        self.run = TrainingRun(self.args, settings, self.device, path, *self.learner)

    def train(self) -> None:
        """Train so many steps, by train.py's own loop."""
        self.sums = train.train_one_epoch(self.args, self.run, self.loader, *self.learner)

    def close(self) -> None:
        torch.distributed.destroy_process_group()
