"""Save the training so that it can be cut off anywhere and go on as if it had not been."""

import os
import re
from pathlib import Path

import torch
import torch.distributed as dist

from training.errors import TrainingError
from training.files import say_why

KEPT = 2  # the newest ones; the older of them is there in case the newer one is damaged
# Runs that differ in one of these cannot be the same run.
SAME = (
    "workload", "model", "world_size", "batch_size_per_gpu", "grad_accum_steps", "seed", "epochs",
    "precision", "strategy", "dataset",
)  # fmt: skip


class Checkpoints:
    """The checkpoint files of one job, `step_<optimizer steps>.pt`, shared by its attempts.

    A file holds dictionaries, lists, numbers and tensors only, so that torch.load can refuse
    anything else (weights_only=True): loading a checkpoint runs no code.
    """

    def __init__(self, folder: Path, settings: dict):
        self.folder = folder
        self.settings = {name: settings.get(name) for name in SAME}

    def load_newest(self) -> dict | None:
        """Return what the newest whole checkpoint holds; None when there is none.

        Raises TrainingError when it was made by a run with other settings.
        """
        for path in reversed(self.list_files()):
            try:
                saved = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # cut short, or not a checkpoint: PyTorch has many errors
                reason = str(error).splitlines()[0][:100]
                print(f"Left out {path}: it cannot be read ({reason})", flush=True)
                continue
            self._check(path, saved["settings"])
            return saved
        return None

    def _check(self, path: Path, saved: dict) -> None:
        different = [name for name in SAME if saved.get(name) != self.settings[name]]
        if different:
            name = different[0]
            raise TrainingError(
                f"{path} is of a run with {name} {saved.get(name)}, not {self.settings[name]}; "
                "choose another --checkpoint-dir, or the same settings"
            )

    def save(self, step: int, content: dict) -> Path:
        """Write the checkpoint of optimizer step `step`, atomically; rank 0 alone calls this."""
        path = self.folder / f"step_{step:08}.pt"
        temporary = path.with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save({"settings": self.settings, **content}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            for old in self.list_files()[:-KEPT]:
                old.unlink()
        except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of torch.save
            temporary.unlink(missing_ok=True)
            raise TrainingError(say_why(path, error, "choose another --checkpoint-dir")) from None
        return path

    def list_files(self) -> list[Path]:
        """The whole checkpoints, oldest first; what a killed run left half-written is not one."""
        found = self.folder.glob("step_*.pt")
        return sorted(path for path in found if re.fullmatch(r"step_\d{8,}\.pt", path.name))


def check_incomplete(saved: dict, folder: Path, epochs: int) -> None:
    """Raise TrainingError when the checkpoint is a training's last: there is nothing to go on."""
    if saved["epoch"] >= epochs:
        raise TrainingError(
            f"{folder} holds a training that is complete; choose another --checkpoint-dir"
        )


def capture_rng(device: torch.device) -> dict:
    """The states of this rank's random number generators."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_rng(states: dict, device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def gather_on_main(value) -> list | None:
    """Return every rank's `value` on rank 0, None elsewhere. All ranks must call this."""
    gathered = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, gathered)
    return gathered
