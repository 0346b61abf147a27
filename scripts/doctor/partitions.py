"""Which partitions and which kind of GPU a profile states; rules where partitions share.

A profile speaks of one kind of GPU. Other kinds of the cluster become `others`: a person
chooses between them, and nothing is averaged.
"""

import re
from dataclasses import dataclass, field

from common.errors import UserError
from doctor.cluster import Node, Partition
from doctor.slurm_text import is_slice, name_models

# Partitions that are not for measuring, by what sites call them.
SPECIAL = re.compile(
    r"debug|test|devel|dev$|interact|preempt|scaveng|requeue|jupyter|(^|[-_])(low|mig|vis|admin)",
    re.IGNORECASE,
)


@dataclass
class GpuKind:
    """The GPUs of one sort that one partition has: by Slurm's type, else by the features."""

    partition: Partition
    gpu_type: str | None
    models: tuple[str, ...]  # features that name a GPU, when Slurm gives no type
    nodes: list[Node] = field(default_factory=list)

    @property
    def gpu_key(self) -> tuple:
        """What makes two kinds of different partitions the same GPUs."""
        return (self.gpu_type, self.models)

    def count_gpus(self, node: Node) -> int:
        """GPUs of this kind on one of its nodes."""
        return (node.gpus or {}).get(self.gpu_type, 0)

    @property
    def gpus_per_node(self) -> int:
        """GPUs of this kind on the largest node."""
        return max(map(self.count_gpus, self.nodes))

    @property
    def total(self) -> int:
        """GPUs of this kind in the partition."""
        return sum(map(self.count_gpus, self.nodes))

    def most_nodes(self, gpus_per_node: int = 1) -> int:
        """The most nodes that a job of so many GPUs per node can have here."""
        fit = sum(self.count_gpus(node) >= gpus_per_node for node in self.nodes)
        limit = self.partition.max_nodes
        return fit if limit is None else min(fit, limit)


Rule = tuple[dict[str, str], GpuKind]


@dataclass
class Selection:
    """What the draft speaks of. `rules`: (conditions, kind) in order, the last without any."""

    main: GpuKind
    rules: list[Rule]
    others: list[GpuKind]

    @property
    def used(self) -> list[GpuKind]:
        """The kinds whose partitions the rules name."""
        return [kind for _, kind in self.rules]

    @property
    def gpus_per_node(self) -> int:
        return max(kind.gpus_per_node for kind in self.used)

    @property
    def nodes(self) -> int:
        return max(kind.most_nodes() for kind in self.used)

    @property
    def constraint(self) -> str | None:
        """A feature that only this kind's nodes have, where the partition has another kind."""
        beside = [
            kind for kind in self.others if kind.partition in [k.partition for k in self.used]
        ]
        if self.main.gpu_type or not beside:
            return None
        foreign = {model for kind in beside for model in kind.models}
        return next((model for model in self.main.models if model not in foreign), None)


def list_kinds(partition: Partition) -> list[GpuKind]:
    """List the kinds of GPUs in a partition."""
    kinds: dict[tuple, GpuKind] = {}
    for node in partition.nodes:
        models = name_models(node.features or ())
        for gpu_type in node.gpus or {}:
            kind = GpuKind(partition, gpu_type, () if gpu_type else models)
            kinds.setdefault(kind.gpu_key, kind).nodes.append(node)
    return list(kinds.values())


def select_partitions(partitions: list[Partition]) -> Selection:
    """Select partitions; UserError when no partition that is up has a GPU."""
    kinds = [kind for partition in partitions if partition.up for kind in list_kinds(partition)]
    if not kinds:
        raise UserError(
            "found no partition with GPUs, so there is nothing to draft; "
            "their numbers stand in scontrol show node (Gres) or sinfo (GRES)"
        )
    main = max(kinds, key=rank)  # slices of GPUs only where there is nothing else
    same = [
        kind for kind in kinds
        if kind.gpu_key == main.gpu_key and kind is not main and is_for_jobs(kind.partition)
    ]  # fmt: skip
    rules = make_rules(main, sorted(same, key=rank, reverse=True))
    used = [kind for _, kind in rules]
    return Selection(main, rules, [k for k in kinds if all(k is not other for other in used)])


def is_for_jobs(partition: Partition) -> bool:
    """Say whether a partition looks open, and not only for trying things out."""
    return partition.open_to_me and not SPECIAL.search(partition.name)


def rank(kind: GpuKind) -> tuple:
    """What is chosen first: open and ordinary partitions, then the default, then the largest."""
    place = kind.partition
    return (
        not is_slice(kind.gpu_type),
        place.open_to_me,
        not SPECIAL.search(place.name),
        place.default,
        kind.total,
        place.time_limit_s,
    )


def make_rules(main: GpuKind, same: list[GpuKind]) -> list[Rule]:
    """Make the rules of partitions: which jobs go to another one with the same GPUs."""
    rules: list[Rule] = [({}, main)]
    for other in same:
        last = rules[-1][1]
        pair = split_jobs(last, other)
        if len(pair) == 2 and pair[0][1] is other:
            rules.insert(0, pair[0])
        elif len(pair) == 2:
            rules[-1:] = pair
    return rules


def split_jobs(main: GpuKind, other: GpuKind) -> list[Rule]:
    """Parts of nodes go where nodes are shared or smaller; what is too large goes to the other."""
    whole = main.partition.exclusive
    if whole != other.partition.exclusive:
        shared, large = (other, main) if whole else (main, other)
        most = min(shared.gpus_per_node, large.gpus_per_node - 1)
        if most:
            return [(write_limits(shared, large, most), shared), ({}, large)]
    elif main.gpus_per_node < other.gpus_per_node:
        return [(write_limits(main, other, main.gpus_per_node), main), ({}, other)]
    elif whole and main.gpus_per_node > other.gpus_per_node:
        return [(write_limits(other, main, other.gpus_per_node), other), ({}, main)]
    elif main.gpus_per_node == other.gpus_per_node and main.most_nodes() < other.most_nodes():
        return [({"nodes": write_span(main.most_nodes())}, main), ({}, other)]
    elif (least := main.partition.min_nodes or 1) > 1 and (other.partition.min_nodes or 1) < least:
        return [({"nodes": write_span(least - 1)}, other), ({}, main)]
    return [({}, main)]


def write_limits(small: GpuKind, large: GpuKind, gpus_per_node: int) -> dict[str, str]:
    """The conditions of a job for `small`, where `large` is for the rest."""
    limits = {"gpus_per_node": write_span(gpus_per_node)}
    most = small.most_nodes(gpus_per_node)
    return limits | {"nodes": write_span(most)} if most < large.most_nodes() else limits


def write_span(last: int, first: int = 1) -> str:
    """`1-4`, or `1`."""
    return f"{first}-{last}" if last > first else str(last)


def find_limits(selection: Selection) -> list[tuple[dict[str, str], str]]:
    """Find the scales that no rule's partition can run: their conditions, and why."""
    found: list[tuple[int, int, int]] = []  # first GPUs per node, last, first number of nodes
    for gpus in range(1, selection.gpus_per_node + 1):
        room = [kind.most_nodes(gpus) for kind in selection.used]
        nodes = next(
            (n for n in range(1, selection.nodes + 1) if not fits(selection, room, n, gpus)), 0
        )
        if nodes and found and found[-1][1:] == (gpus - 1, nodes):
            found[-1] = (found[-1][0], gpus, nodes)
        elif nodes:
            found.append((gpus, gpus, nodes))
    limits = []
    for first, last, nodes in found:
        where = {"gpus_per_node": write_span(last, first)}
        fit = f"only {nodes - 1} nodes" if nodes > 2 else "only 1 node" if nodes == 2 else "no node"
        if nodes > 1:
            where["nodes"] = f"{nodes}+"
        gpus = f"{write_span(last, first)} GPU{'s' * (last > 1)}"
        because = f"{fit} can be had with {gpus} each"
        limits.append((where, because))
    return limits


def fits(selection: Selection, room: list[int], nodes: int, gpus_per_node: int) -> bool:
    """Say whether the partition that the rules give a job has room for its nodes."""
    scales = {"nodes": nodes, "gpus_per_node": gpus_per_node}
    for (limits, _), most in zip(selection.rules, room, strict=True):
        if all(scales[key] <= int(span.rpartition("-")[2]) for key, span in limits.items()):
            return most >= nodes
    return False
