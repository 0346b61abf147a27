"""What a rank holds of the training: all of it (ddp), or a share of some parts.

            parameters   gradients   optimizer's state
    ddp     all          all         all
    zero1   all          all         a share                ZeRO stage 1
    fsdp    a share      a share     a share                ZeRO stage 3

Sources: Rajbhandari et al. 2020, "ZeRO"; PyTorch's documentation of ZeroRedundancyOptimizer and
of fully_shard.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training import TrainingError


def check_strategy(args) -> None:
    """Raise TrainingError when an option does not go with --strategy."""
    if args.strategy in ("fsdp", "deepspeed"):
        if args.grad_compression != "none":
            raise TrainingError(
                f"--grad-compression is a hook of DDP, which --strategy {args.strategy} does not "
                "use; leave it out, or choose --strategy ddp or zero1"
            )
        if args.bucket_cap_mb is not None:
            raise TrainingError(
                f"--bucket-cap-mb is DDP's, which --strategy {args.strategy} does not use; "
                "leave it out"
            )


def compress_gradients(model: DistributedDataParallel, precision: str) -> None:
    """Let DDP's all-reduce send 16 bits a number; "none" leaves it as it is."""
    if precision != "none":
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks as hooks

        hook = {"fp16": hooks.fp16_compress_hook, "bf16": hooks.bf16_compress_hook}[precision]
        model.register_comm_hook(None, hook)


def shard_model(model: nn.Module) -> nn.Module:
    """Cut every parameter among the ranks, in place; whole blocks are gathered when they compute.

    A block that is a unit of its own is gathered just before it is needed, while the one before
    it still computes, and dropped after it; what is left belongs to the model as a whole.
    """
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def shard_optimizer(groups: list[dict], **options) -> torch.optim.Optimizer:
    """AdamW whose state is cut among the ranks: each updates its share and sends it to all."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(groups, optimizer_class=torch.optim.AdamW, **options)


def is_sharded(model: nn.Module) -> bool:
    """Whether fully_shard has cut the model."""
    return hasattr(model, "set_requires_gradient_sync")


@contextmanager
def no_sync(model: nn.Module) -> Iterator[None]:
    """Within: backward passes add to this rank's own gradients and send nothing of them.

    FSDP still gathers the parameters, and keeps whole gradients until the pass that sends them.
    """
    if is_sharded(model):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    elif isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:  # one process alone; and DeepSpeed knows from its own count which pass is the last one
        yield


def measure_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Count the bytes that this rank holds; right after a step, while gradients are there.

    parameter_bytes, gradient_bytes, optimizer_bytes (AdamW's two moments and its step counts).
    """
    parameters = list(model.parameters())
    gradients = [each.grad for each in parameters if each.grad is not None]
    own = getattr(optimizer, "optim", optimizer)  # ZeRO's optimizer of this rank's share
    state = [value for each in own.state.values() for value in each.values()]
    return {
        "parameter_bytes": count_bytes(parameters),
        "gradient_bytes": count_bytes(gradients),
        "optimizer_bytes": count_bytes(filter(torch.is_tensor, state)),
    }


def count_bytes(tensors) -> int:
    """Add up the bytes of this rank's parts."""
    local = (each.to_local() if hasattr(each, "to_local") else each for each in tensors)
    return sum(each.numel() * each.element_size() for each in local)


# ---- For checkpoints: the same files whatever the strategy ----


def capture_sharded(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict, dict]:
    """Gather a sharded model's and its optimizer's states on rank 0; empty on the others."""
    from torch.distributed.checkpoint import state_dict as dcp

    options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return (
        dcp.get_model_state_dict(model, options=options),
        dcp.get_optimizer_state_dict(model, optimizer, options=options),
    )


def restore_sharded(model: nn.Module, optimizer, saved_model: dict, saved_optimizer: dict) -> None:
    """Cut whole states, which every rank has read, into this rank's shares."""
    from torch.distributed.checkpoint import state_dict as dcp

    options = dcp.StateDictOptions(full_state_dict=True)
    dcp.set_model_state_dict(model, saved_model, options=options)
    dcp.set_optimizer_state_dict(model, optimizer, saved_optimizer, options=options)


def capture_optimizer(optimizer: torch.optim.Optimizer) -> dict:
    """The optimizer's whole state, on rank 0; {} elsewhere when the ranks hold shares of it."""
    if not hasattr(optimizer, "consolidate_state_dict"):
        return optimizer.state_dict()
    optimizer.consolidate_state_dict(to=0)  # all ranks send their shares
    return optimizer.state_dict() if dist.get_rank() == 0 else {}
