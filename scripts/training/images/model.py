"""What train.py does to its model besides building it: CUDA graphs, BatchNorm's statistics."""

from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import nn

from training import TrainingError

WARM_UP_PASSES = 11  # what PyTorch's notes on CUDA graphs ask for beside DDP


def check_cuda_graph(args) -> None:
    """Raise TrainingError when --cuda-graph is asked for and cannot be."""
    if args.cuda_graph and not torch.cuda.is_available():
        raise TrainingError("--cuda-graph needs a GPU; leave it out")
    if args.cuda_graph and args.compile:
        raise TrainingError("--cuda-graph does not go with --compile; leave one out")


def graph_passes(
    model: nn.Module, batch_size: int, image_size: int, autocast: AbstractContextManager
) -> nn.Module:
    """Return `model` with both passes of training graphed; DDP must not have wrapped it yet.

    A small batch leaves a GPU waiting for Python, which launches hundreds of kernels one by one.
    A CUDA graph records them once. It pays while the GPU is not saturated, and no longer.
    Every batch of the training must have this size; validation runs as before. What the passes of
    the recording leave is undone: gradients and BatchNorm's statistics.

    Source: torch.cuda.make_graphed_callables. The weights that autocast keeps in 16 bits must not
    be in a graph: it would read them again where they no longer are.
    """
    device = next(model.parameters()).device
    example = torch.zeros(batch_size, 3, image_size, image_size, device=device)
    example = example.contiguous(memory_format=torch.channels_last)
    buffers = [buffer.clone() for buffer in model.buffers()]
    with autocast:
        torch.set_autocast_cache_enabled(False)  # until the context ends
        model = torch.cuda.make_graphed_callables(
            model, (example,), num_warmup_iters=WARM_UP_PASSES
        )
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    return model


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
