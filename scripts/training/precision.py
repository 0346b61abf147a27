"""The arithmetic of a run."""

import torch

from training.errors import TrainingError


def choose_precision(asked: str | None) -> str:
    """Default to fp16 on a GPU (every GPU since Volta has units for it) and fp32 on a CPU.

    Raises TrainingError for what this device cannot do.
    """
    if asked == "fp16" and not torch.cuda.is_available():
        raise TrainingError("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return asked or ("fp16" if torch.cuda.is_available() else "fp32")
