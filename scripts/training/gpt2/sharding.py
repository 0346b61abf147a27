"""What a rank holds of the training: all of it (ddp), or a share of some parts.

            parameters   gradients   optimizer's state
    ddp     all          all         all
    zero1   all          all         a share                ZeRO stage 1
    zero2   a share*     a share     a share                ZeRO stage 2
    fsdp    a share      a share     a share                ZeRO stage 3
    hsdp    a share      a share     a share                within a node; copies across nodes
    tp      a part of each block's matrices, of all three    within a node; tensor_parallel.py

* whole from the forward pass to the end of the backward pass; a share between steps.

Sources: Rajbhandari et al. 2020, "ZeRO"; PyTorch's documentation of ZeroRedundancyOptimizer and
of fully_shard (`reshard_after_forward=False`, and a mesh of two dimensions).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training import TrainingError
from training.certificate import compare_first_weights
from training.gpt2.tensor_parallel import count_node_ranks, find_tensor_group

SHARDED = ("zero2", "fsdp", "hsdp")  # what fully_shard does


def check_strategy(args) -> None:
    """Raise TrainingError when an option does not go with --strategy."""
    if args.strategy == "hsdp":
        find_shard_group(args.shard_group)
    elif args.shard_group:
        raise TrainingError(
            f"--shard-group goes with --strategy hsdp, not {args.strategy}; leave one of them out"
        )
    if args.strategy == "tp":
        args.tensor_parallel = find_tensor_group(args)
        args.no_probe = True  # no pass can leave out the sums within a block
    elif args.tensor_parallel:
        raise TrainingError(
            f"--tensor-parallel goes with --strategy tp, not {args.strategy}; leave one of them out"
        )
    else:
        args.tensor_parallel = 1
    if args.strategy in (*SHARDED, "deepspeed"):
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


def find_shard_group(asked: int | None) -> int:
    """The ranks that share one copy of the model: by default those of a node.

    TrainingError when the ranks do not divide into such groups, or into fewer than two.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    group = asked or count_node_ranks()
    if world_size % group or world_size == group:
        raise TrainingError(
            f"--strategy hsdp keeps a copy of the model in each group of {group} ranks, and here "
            f"are {world_size}; start two nodes or more, choose --shard-group, or --strategy fsdp"
        )
    return group


def shard_model(model: nn.Module, strategy: str, shard_group: int | None = None) -> nn.Module:
    """Cut every parameter among the ranks, in place; whole blocks are gathered when they compute.

    A block that is a unit of its own is gathered just before it is needed, while the one before
    it still computes, and dropped after it (zero2: after the backward pass); what is left belongs
    to the model as a whole. hsdp gathers within a group, and averages gradients across groups.
    """
    compare_first_weights(model)
    from torch.distributed.device_mesh import init_device_mesh

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # PyTorch 2.5, where it needs a GPU
        from torch.distributed._composable.fsdp import fully_shard

        if not torch.cuda.is_available():
            raise TrainingError(
                f"--strategy {strategy} on CPUs needs PyTorch >= 2.6, this is {torch.__version__}; "
                "choose --strategy ddp or zero1"
            ) from None

    options = {"reshard_after_forward": strategy != "zero2"}
    if strategy == "hsdp":
        group = find_shard_group(shard_group)
        shape = (dist.get_world_size() // group, group)
        device = next(model.parameters()).device.type
        options["mesh"] = init_device_mesh(device, shape, mesh_dim_names=("copies", "shares"))
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


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
    state = list_state(optimizer)
    return {
        "parameter_bytes": count_bytes(parameters),
        "gradient_bytes": count_bytes(gradients),
        "optimizer_bytes": count_bytes(state),
    }


def list_state(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    own = getattr(optimizer, "optim", optimizer)  # ZeRO's optimizer of this rank's share
    return [value for each in own.state.values() for value in each.values()
            if torch.is_tensor(value)]  # fmt: skip


def name_dtypes(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Name the numbers that parameters and the optimizer's moments are kept in.

    Strategies that differ in them differ in bytes and in what they learn: no comparison.
    """
    moments = [each for each in list_state(optimizer) if each.numel() > 1]  # not the step counts
    found = [sorted({str(each.dtype).removeprefix("torch.") for each in tensors})
             for tensors in (model.parameters(), moments)]  # fmt: skip
    return f"parameters {'/'.join(found[0])}, optimizer {'/'.join(found[1])}"


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
