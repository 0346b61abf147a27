"""--strategy tp: each block is cut among the ranks of a tensor group, which share one batch.

The first matrix of attention and of the MLP is cut by columns, so that a rank has whole heads, or
whole neurons, to itself; the second by rows, and the ranks add up what each makes of its part.
That is an all-reduce per half block, forward and backward, which hides behind nothing: a tensor
group stays within a node. Embeddings and norms are whole on every rank.

Ranks 0 to N-1 are a group, N to 2N-1 the next: a mesh of data x tensor. Ranks at the same place
in their groups hold the same part, and DDP averages their gradients.

Sources: Shoeybi et al. 2019, "Megatron-LM"; PyTorch's documentation of
torch.distributed.tensor.parallel.
"""

import os
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import linear as linear_product

from training import TrainingError
from training.certificate import compare_first_weights


class Part(NamedTuple):
    """What a parameter that is cut, its attribute `part`, says of itself."""

    dim: int  # which is cut
    stacked: int  # matrices in one along that dim, each cut by itself: 3 in qkv
    group: dist.ProcessGroup


def count_node_ranks() -> int:
    """The ranks of a node: torchrun's word, else the job script's, which has one per GPU."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    told = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("GPUS_PER_NODE") or world_size
    return min(int(told), world_size)


def find_tensor_group(args) -> int:
    """How many ranks share a block: --tensor-parallel, by default the ranks of a node.

    TrainingError when the node's ranks or the heads do not divide by it.
    """
    node = count_node_ranks()
    group = args.tensor_parallel or node
    if node % group or group == 1:
        raise TrainingError(
            f"--strategy tp cuts each block among {group} ranks of a node, and here are {node} on "
            "one; choose --tensor-parallel 2 or more, of which they are a multiple"
        )
    if args.heads % group:
        raise TrainingError(
            f"--strategy tp gives whole heads to each of {group} ranks, and --heads {args.heads} "
            "is no multiple of that; choose another --tensor-parallel"
        )
    return group


def cut_blocks(model: nn.Module, size: int) -> dist.ProcessGroup:
    """Cut the blocks among `size` ranks, in place; returns the ranks that hold the same part."""
    compare_first_weights(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    device = next(model.parameters()).device.type
    shape = (dist.get_world_size() // size, size)
    mesh = init_device_mesh(device, shape, mesh_dim_names=("data", "tensor"))
    plan = {
        "attention.qkv": ColwiseParallel(),
        "attention.out": RowwiseParallel(),
        "mlp.inner": ColwiseParallel(),
        "mlp.out": RowwiseParallel(),
    }
    for block in model.blocks:
        regroup_heads(block.attention.qkv, size)
        parallelize_module(block, mesh["tensor"], plan)
        for name in plan:
            keep_plain(block.get_submodule(name), stacked=3 if name == "attention.qkv" else 1)
    return mesh["data"].get_group()


@torch.no_grad()
def regroup_heads(qkv: nn.Linear, size: int) -> None:
    """Put the rows in the order that the cut wants: queries, keys and values of each rank's heads.

    By itself qkv has all queries first, and half of it would have no values.
    """
    for parameter in qkv.parameters():
        parameter.copy_(reorder(parameter, 3, size))


def reorder(rows: torch.Tensor, outer: int, inner: int) -> torch.Tensor:
    """Rows of `outer` x `inner` parts, in the order of `inner` x `outer`."""
    return rows.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


def keep_plain(linear: nn.Linear, stacked: int) -> None:
    """Keep this rank's parts as plain parameters, which forward shows as DTensors.

    So DDP, the optimizer and the gradient scaler need not know of them.
    """
    from torch.distributed.tensor import DTensor

    layouts = {}
    for name, whole in dict(linear.named_parameters()).items():
        mine = nn.Parameter(whole.to_local().clone())
        layouts[name] = whole.device_mesh, whole.placements
        if whole.placements[0].is_shard():  # not a bias that is added to the sum
            mine.part = Part(whole.placements[0].dim, stacked, whole.device_mesh.get_group())
        setattr(linear, name, mine)

    def forward(inputs):
        weight, bias = (
            DTensor.from_local(getattr(linear, name), *layouts[name], run_check=False)
            for name in ("weight", "bias")
        )
        return linear_product(inputs, weight, bias)

    linear.forward = forward


# ---- Around a step ----


def is_cut(model: nn.Module) -> bool:
    """Whether cut_blocks has cut the model."""
    return any(hasattr(each, "part") for each in model.parameters())


def clip_gradients(model: nn.Module, most: float) -> None:
    """Scale the gradients down to the norm `most`: that of the whole model, on every rank."""
    if not is_cut(model):
        torch.nn.utils.clip_grad_norm_(model.parameters(), most)
        return
    parameters = list(model.parameters())
    cut = [each for each in parameters if hasattr(each, "part")]
    squares = sum(each.grad.square().sum() for each in cut)
    dist.all_reduce(squares, group=cut[0].part.group)
    squares += sum(each.grad.square().sum() for each in parameters if not hasattr(each, "part"))
    factor = (most / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_
    for each in parameters:
        each.grad.mul_(factor)


def make_scaler(model: nn.Module, device: torch.device, enabled: bool) -> torch.amp.GradScaler:
    """A gradient scaler; one whose ranks leave out a step together where each has a part."""
    cut = next((each for each in model.parameters() if hasattr(each, "part")), None)
    if cut is None or not enabled:
        return torch.amp.GradScaler(device.type, enabled=enabled)
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    return ShardedGradScaler(device.type, process_group=cut.part.group)


# ---- For checkpoints: the same files whatever the strategy ----


def join(mine: torch.Tensor, part: Part) -> torch.Tensor:
    """The whole of a tensor that is cut. All ranks must call this."""
    size = dist.get_world_size(part.group)
    parts = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(parts, mine.contiguous(), group=part.group)
    whole = torch.cat(parts, part.dim)
    return whole if part.stacked == 1 else reorder(whole, size, part.stacked)


def cut(whole: torch.Tensor, part: Part) -> torch.Tensor:
    """This rank's part of the whole."""
    size = dist.get_world_size(part.group)
    if part.stacked > 1:
        whole = reorder(whole, part.stacked, size)
    return whole.chunk(size, part.dim)[dist.get_rank(part.group)].contiguous()


def capture_cut(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict, dict]:
    """The states of the whole model and its optimizer."""
    return change_states(join, model, optimizer, model.state_dict(), optimizer.state_dict())


def restore_cut(model: nn.Module, optimizer, saved_model: dict, saved_optimizer: dict) -> None:
    """Cut whole states, which every rank has read, into this rank's parts."""
    mine, state = change_states(cut, model, optimizer, saved_model, saved_optimizer)
    model.load_state_dict(mine)
    optimizer.load_state_dict(state)


def change_states(change, model: nn.Module, optimizer, of_model: dict, of_optimizer: dict):
    """Both states with change(tensor, part) of each tensor that is, or is to be, cut."""
    parts = {name: each.part for name, each in model.named_parameters() if hasattr(each, "part")}
    of_model = {name: change(value, parts[name]) if name in parts else value
                for name, value in of_model.items()}  # fmt: skip
    # The optimizer counts its parameters, group by group.
    counted = [each for group in optimizer.param_groups for each in group["params"]]
    state = {}
    for number, values in of_optimizer["state"].items():
        part = getattr(counted[number], "part", None)
        state[number] = {
            name: change(value, part) if part and value.dim() else value  # not the step counts
            for name, value in values.items()
        }
    return of_model, {**of_optimizer, "state": state}
