"""Proof that the replicas are one model: what the ranks compare at the end of each epoch.

Parameters must be equal on all ranks that hold a copy; buffers (BatchNorm's statistics) may differ.
Each sample must have been drawn once, by one rank, and in another order than in the epoch before.
A rank that trains alone (its loss was computed on `model.module`), a sampler without `set_epoch`
and a shard that two ranks read leave no other trace: the losses look well.
"""

import torch
import torch.distributed as dist
from torch import nn

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per number


class Certificate:
    """Made once per run; `check` is called by every rank at the end of each epoch.

    readers: so many ranks after one another read the same samples, those of a tensor group.
    """

    def __init__(self, readers: int = 1):
        self.readers = readers
        self.faults: list[str] = []  # of all epochs so far, each once
        self.compared = 0  # ranks that hold a copy, or a share, that another one holds too
        self._last_order: int | None = None

    def check(self, model: nn.Module, drawn: list[int], passes: int = 1) -> list[str]:
        """Compare the ranks; returns the faults that are new, the same list on every rank.

        drawn: the samples that this rank trained on, in their order; passes: how often the data
        may have begun again within the epoch.
        """
        order = hash(tuple(drawn))
        repeated = order == self._last_order and len(drawn) > 1
        self._last_order = order
        for module in model.modules():
            if hasattr(module, "reshard"):  # fully_shard keeps whole what validation has gathered
                module.reshard()
        parameters = dict(model.named_parameters())
        digests = gather(torch.tensor([*digest(parameters.values()), order, repeated]))
        # Under tensor parallelism some are cut, among as many ranks as read together.
        cut = [hasattr(each, "part") for each in parameters.values()]
        shares = count_shares(model)
        found = [
            *self._compare_parameters(digests, parameters, [not each for each in cut], shares),
            *self._compare_parameters(digests, parameters, cut, self.readers),
            *compare_orders(digests[:, -2], digests[:, -1], self.readers),
            *count_samples(drawn, passes, next(model.parameters()).device, self.readers),
        ]
        new = [fault for fault in found if fault not in self.faults]
        self.faults += new
        return new

    def _compare_parameters(self, digests, parameters: dict, chosen: list[bool], shares: int):
        """Ranks r, r + shares, r + 2 x shares, … hold the same part of those chosen."""
        names = [name for name, is_chosen in zip(parameters, chosen, strict=True) if is_chosen]
        if not names:
            return
        digests, world_size = digests[:, :-2][:, torch.tensor(chosen)], len(digests)
        self.compared = world_size if shares == 1 or shares < world_size else 0
        for first in range(shares):
            rows = digests[first::shares]
            usual, _ = rows.mode(dim=0)  # of each parameter, what most ranks have
            for number, row in enumerate(rows):
                if (row != usual).any():
                    where = names[int((row != usual).nonzero()[0])].removeprefix("module.")
                    yield f"rank {first + number * shares} has other parameters, first in {where}"

    def describe(self) -> str:
        """One line for run.json and the log."""
        if self.faults:
            return "FAULT: " + "; ".join(self.faults)
        ranks = dist.get_world_size()
        equal = f"equal ({ranks} of {ranks})" if self.compared else "sharded, none to compare"
        return f"{equal}, each sample once"


def digest(tensors) -> list[int]:
    """One number per tensor, the sum of its bits as integers; this rank's part of a shared one."""
    local = [getattr(each, "to_local", lambda each=each: each)() for each in tensors]
    bits = [each.detach().view(BITS[each.element_size()]).sum(dtype=torch.int64) for each in local]
    return torch.stack(bits).tolist() if bits else []


def gather(row: torch.Tensor) -> torch.Tensor:
    """All ranks' rows, (world_size, len(row)) int64, on the CPU."""
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, row)
    return torch.stack(rows)


def count_shares(model: nn.Module) -> int:
    """How many ranks hold one copy of the model together: 1 without sharding."""
    mesh = getattr(next(model.parameters()), "device_mesh", None)
    return mesh.size(mesh.ndim - 1) if mesh else 1


def compare_orders(orders: torch.Tensor, repeated: torch.Tensor, readers: int = 1):
    """Ranks that drew the very same samples, and an order that is the last epoch's.

    Of `readers` ranks after one another all must have drawn the same.
    """
    if repeated.all():
        yield "the samples came in the order of the epoch before: call sampler.set_epoch(epoch)"
    orders = orders.tolist()
    for rank, order in enumerate(orders):
        own = rank // readers * readers  # the first of its group
        first = orders.index(order)
        if order != orders[own]:
            yield f"rank {rank} drew other samples than rank {own} of its tensor group"
        elif first != own:
            yield f"rank {rank} drew the samples of rank {first}: give the sampler its own rank"


def count_samples(drawn: list[int], passes: int, device: torch.device, readers: int = 1):
    """Samples that were drawn more often than the data began."""
    indices = torch.tensor(drawn, dtype=torch.int64, device=device)
    size = torch.tensor([int(indices.max()) + 1 if drawn else 0], device=device)
    dist.all_reduce(size, op=dist.ReduceOp.MAX)
    counts = torch.bincount(indices, minlength=int(size))
    dist.all_reduce(counts)
    if (again := int((counts > passes * readers).sum())) > 0:
        yield f"{again} samples were drawn more than {passes} time{'s' if passes > 1 else ''}"


def compare_first_weights(model: nn.Module) -> None:
    """Before the model is cut into shares: RuntimeError when the ranks began with other weights.

    DDP copies rank 0's weights to all ranks; fully_shard copies nothing.
    """
    rows = gather(torch.tensor(digest(model.parameters())))
    other = [rank for rank, row in enumerate(rows) if (row != rows[0]).any()]
    if other:
        raise RuntimeError(f"ranks {other} began with other weights than rank 0: use one --seed")
