"""Weights & Biases (https://wandb.ai): a run there, or files in the results folder for later.

Online when there is a key (WANDB_API_KEY, or `wandb login` once) and a way to it from the node;
WANDB_MODE=offline or =online decides otherwise, and WANDB_DIR is another place for the files.
"""

import netrc
import os
from argparse import Namespace
from contextlib import suppress
from urllib.parse import urlsplit

from training.tracking import can_reach, choose_tags, list_settings, name_experiment, say


class Tracker:
    """One run."""

    def __init__(self, args: Namespace, run: dict):
        import wandb

        self.run = wandb.init(
            project=args.tracker_project,
            name=name_experiment(run),
            tags=choose_tags(run),
            config={**list_settings(run), "hosts": run["hosts"], "dataset": run["dataset"]},
            dir=os.environ.get("WANDB_DIR", args.workdir),
            mode=choose_mode(),
            # Only what is logged here: no code, no repository, no copy of the output.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True
            ),
        )
        if self.run.url:
            say("wandb", f"{self.run.name} at {self.run.url}")

    def log(self, figures: dict[str, float], step: int, epoch: int) -> None:
        self.run.log({**figures, "epoch": epoch}, step=step)

    def end(self) -> str:
        self.run.finish()
        if self.run.settings.mode != "offline":
            return ""
        return f"kept for later: wandb sync {self.run.settings.sync_dir}"


def choose_mode() -> str:
    """WANDB_MODE's, else online with a key and a way there, else offline: it never asks."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return "online" if has_key(urlsplit(url).hostname) and can_reach(url) else "offline"


def has_key(host: str) -> bool:
    """Whether the environment has a key, or the file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc().authenticators(host) is not None
    return False
