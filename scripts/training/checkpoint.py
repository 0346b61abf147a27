"""Save the training so that an interrupted run resumes exactly; stop restarts that get nowhere."""

import json
import os
import re
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from common.files import explain_failed_write, write_json
from training import TrainingError
from training.gpt2.sharding import capture_optimizer, capture_sharded, is_sharded, restore_sharded
from training.gpt2.tensor_parallel import capture_cut, is_cut, restore_cut

KEPT = 2  # the newest ones; the older of them is there in case the newer one is damaged
WITHOUT_PROGRESS = 3  # attempts that began at the same step are enough
# Runs that differ in one of these cannot be the same run.
SAME = (
    "workload", "model", "world_size", "batch_size_per_gpu", "grad_accum_steps", "seed", "epochs",
    "precision", "strategy", "tensor_parallel", "dataset",
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
            why = explain_failed_write(path, error, "choose another --checkpoint-dir")
            raise TrainingError(why) from None
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


# ---- What a checkpoint holds ----


class ModelState:
    """Everything of a training that learns; each part has a state_dict of its own.

    A trainer may have no scheduler and no scaler.

    A checkpoint holds whole states, whatever each rank has of them while it trains.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ):
        self.model, self.optimizer, self.scheduler, self.scaler = (
            model, optimizer, scheduler, scaler,
        )  # fmt: skip

    @property
    def bare_model(self) -> nn.Module:
        """The model without DistributedDataParallel around it: its names are those of one GPU."""
        return getattr(self.model, "module", self.model)

    def capture(self) -> dict:
        """The states, to be written by rank 0; others may get {}. All ranks must call this."""
        if is_sharded(self.model):
            model, optimizer = capture_sharded(self.model, self.optimizer)
        elif is_cut(self.model):
            model, optimizer = capture_cut(self.bare_model, self.optimizer)
        else:
            model, optimizer = self.bare_model.state_dict(), capture_optimizer(self.optimizer)
        return {
            "model": model,
            "optimizer": optimizer,
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
        }

    def restore(self, saved: dict) -> None:
        """Take over what capture() returned on rank 0, on every rank.

        Raises TrainingError when it is of a model of another size.
        """
        try:
            if is_sharded(self.model):
                restore_sharded(self.model, self.optimizer, saved["model"], saved["optimizer"])
            elif is_cut(self.model):
                restore_cut(self.bare_model, self.optimizer, saved["model"], saved["optimizer"])
            else:
                self.bare_model.load_state_dict(saved["model"])
                self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"the checkpoint does not fit this model ({reason}); choose another "
                "--checkpoint-dir, or the same sizes"
            ) from None
        if self.scheduler:
            self.scheduler.load_state_dict(saved["scheduler"])
        if self.scaler:
            self.scaler.load_state_dict(saved["scaler"])


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


# ---- A job that is restarted again and again must get somewhere each time ----


def check_progress(folder: Path, step: int) -> None:
    """Note in attempts.json that a restarted job begins after `step` steps.

    Raises TrainingError when the last restarts all began there: whatever ended them will end the
    next one, too.
    """
    if not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return
    path = folder / "attempts.json"
    begun = json.loads(path.read_text())["begun_after_step"] if path.exists() else []
    if begun[-WITHOUT_PROGRESS:] == [step] * WITHOUT_PROGRESS:
        raise TrainingError(
            f"no progress in {WITHOUT_PROGRESS} restarts: each began after step {step} and ended "
            f"there; look at the log for what ended them, then remove {path} to try again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"begun_after_step": [*begun, step]})


def may_go_on(restarts: int, most: int) -> bool:
    """Whether one more restart is allowed; says so when it is not."""
    if restarts < most:
        return True
    print(
        f"Saved, but not asking Slurm to go on: {restarts} restarts are --max-restarts; "
        "raise it and requeue the job by hand",
        flush=True,
    )
    return False
