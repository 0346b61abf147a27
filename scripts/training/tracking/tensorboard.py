"""TensorBoard: event files in tensorboard/ of the results folder; no account, no network.

`tensorboard --logdir FOLDER` shows all runs below FOLDER.
"""

import json
from argparse import Namespace

from training.tracking import list_settings


class Tracker:
    """One writer of event files."""

    def __init__(self, args: Namespace, run: dict):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = args.workdir / "tensorboard"
        self.writer = SummaryWriter(self.folder)
        # Four spaces: Markdown then shows it as it is.
        text = json.dumps(list_settings(run), indent=1).replace("\n", "\n    ")
        self.writer.add_text("settings", "    " + text)

    def log(self, figures: dict[str, float], step: int, epoch: int) -> None:
        for name, value in {**figures, "epoch": epoch}.items():
            self.writer.add_scalar(name, value, step)

    def end(self) -> str:
        self.writer.close()
        return f"tensorboard --logdir {self.folder}"
