"""The model, its optimizer and what belongs to them, as a checkpoint keeps them."""

import torch
import torch.distributed as dist
from torch import nn

from training.errors import TrainingError
from training.gpt2.sharding import capture_optimizer, capture_sharded, is_sharded, restore_sharded


class ModelState:
    """Everything of a training that learns; each part has a state_dict of its own.

    A checkpoint holds whole states, whatever each rank has of them while it trains.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        scaler: torch.amp.GradScaler,
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
        else:
            model, optimizer = self.bare_model.state_dict(), capture_optimizer(self.optimizer)
        return {
            "model": model,
            "optimizer": optimizer,
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, saved: dict) -> None:
        """Take over what capture() returned on rank 0, on every rank.

        Raises TrainingError when it is of a model of another size.
        """
        try:
            if is_sharded(self.model):
                restore_sharded(self.model, self.optimizer, saved["model"], saved["optimizer"])
            else:
                self.bare_model.load_state_dict(saved["model"])
                self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"the checkpoint does not fit this model ({reason}); choose another "
                "--checkpoint-dir, or the same sizes"
            ) from None
        self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])


def share_buffers(model: nn.Module) -> None:
    """Give every rank rank 0's buffers. All ranks must call this.

    DistributedDataParallel does so before a forward pass in training. After the last one of an
    epoch the ranks' BatchNorm statistics differ again, and each would validate another model.
    """
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if dist.get_world_size() == 1 or not buffers:
        return
    with torch.no_grad():
        together = torch.cat([buffer.flatten() for buffer in buffers])
        dist.broadcast(together, src=0)
        for buffer, values in zip(
            buffers, together.split([buffer.numel() for buffer in buffers]), strict=True
        ):
            buffer.copy_(values.view_as(buffer))
