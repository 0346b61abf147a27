"""Which partitions and which kind of GPU a profile states; rules where partitions share.

A profile speaks of one kind of GPU. Other kinds of the cluster become `others`: a person
chooses between them, and nothing is averaged.
"""

import itertools
import re
from dataclasses import dataclass, field

from common.errors import UserError
from doctor.cluster import Node, Partition
from doctor.slurm_text import MODEL, is_slice, name_models

# Partitions that are not for measuring, by what sites call them.
SPECIAL = re.compile(
    r"debug|test|devel|dev$|interact|preempt|scaveng|requeue|jupyter|(^|[-_])(low|mig|vis|admin)",
    re.IGNORECASE,
)


# Names of partitions with GPUs, where Slurm counts none (TACC): gpu-a100-dev, gh, rtx.
GPU_WORD = re.compile(rf"gpu\w*|gh|{MODEL.pattern}", re.IGNORECASE)
COUNT = re.compile(r"(\d{1,2})x?gpus?", re.IGNORECASE)  # a feature: 4gpus


@dataclass
class GpuKind:
    """The GPUs of one sort that one partition has: by Slurm's type, else by the features."""

    partition: Partition
    gpu_type: str | None
    models: tuple[str, ...]  # features that name a GPU, where Slurm's type does not tell enough
    nodes: list[Node] = field(default_factory=list)
    named: str | None = None  # by the partition's name alone: Slurm counts no GPUs

    @property
    def gpu_key(self) -> tuple:
        """What makes two kinds of different partitions the same GPUs."""
        return (self.gpu_type, self.models, self.named)

    @property
    def counted(self) -> bool:
        """Whether Slurm says how many GPUs a node has."""
        return self.named is None

    def count_gpus(self, node: Node) -> int:
        """GPUs of this kind on one of its nodes; 1 where nothing says how many."""
        if not self.counted:
            counts = [int(found[1]) for f in node.features or () if (found := COUNT.fullmatch(f))]
            return max([1, *counts])
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
        """Features that only this kind's nodes have, where others have the same type of GPU.

        None where there are no others; "" where no one or two features tell them apart.
        """
        places = [kind.partition for kind in self.used]
        mine = {node.name for kind in self.used for node in kind.nodes}
        foreign = [
            set(node.features or ())
            for kind in self.others
            if kind.partition in places and kind.gpu_type == self.main.gpu_type
            for node in kind.nodes
            if node.name not in mine
        ]
        if not foreign:
            return None
        nodes = [set(node.features or ()) for kind in self.used for node in kind.nodes]
        shared = sorted(set.intersection(*nodes), key=lambda f: (f not in self.main.models, f))
        for size in (1, 2):
            for chosen in itertools.combinations(shared, size):
                if not any(set(chosen) <= features for features in foreign):
                    return "&".join(chosen)
        return ""


def list_kinds(partition: Partition, mixed: set[str | None]) -> list[GpuKind]:
    """List the kinds of GPUs in a partition; those of `mixed` types differ by their features."""
    kinds: dict[tuple, GpuKind] = {}
    for node in partition.nodes:
        models = name_models(node.features or ())
        for gpu_type in node.gpus or {}:
            kind = GpuKind(partition, gpu_type, models if gpu_type in mixed else ())
            kinds.setdefault(kind.gpu_key, kind).nodes.append(node)
    return list(kinds.values())


def find_mixed(partitions: list[Partition]) -> set[str | None]:
    """The types of GPUs whose nodes have models, as features, that exclude each other.

    Type a100 with a100_40 on some nodes and a100_80 on the others. GPUs without a type are told
    apart by whatever models their nodes have.
    """
    models: dict[str | None, set[frozenset[str]]] = {}
    for node in (node for partition in partitions for node in partition.nodes):
        for gpu_type in node.gpus or {}:
            found = models.setdefault(gpu_type, set())
            found.add(frozenset(name_models(node.features or ())))
    apart = {
        gpu_type
        for gpu_type, sets in models.items()
        if len(sets) > 1 and all(a - b and b - a for a, b in itertools.combinations(sets, 2))
    }
    return apart | {None}


def list_named(partition: Partition) -> list[GpuKind]:
    """List what may be GPUs where Slurm counts none: by features, or by the partition's name."""
    words = [w.lower() for w in re.split(r"[-_.]", partition.name) if GPU_WORD.fullmatch(w)]
    name = next((word for word in words if not word.startswith("gpu")), "")
    kinds: dict[tuple, GpuKind] = {}
    for node in partition.nodes:
        models = name_models(node.features or ())
        if models or words:
            kind = GpuKind(partition, None, models, named=name)
            kinds.setdefault(kind.gpu_key, kind).nodes.append(node)
    return list(kinds.values())


def select_partitions(partitions: list[Partition]) -> Selection:
    """Select partitions; UserError when no partition that is up has a GPU."""
    mixed, up = find_mixed(partitions), [partition for partition in partitions if partition.up]
    kinds = [kind for partition in up for kind in list_kinds(partition, mixed)]
    kinds = kinds or [kind for partition in up for kind in list_named(partition)]
    if not kinds:
        raise UserError(
            "found no partition with GPUs, so there is nothing to draft; their numbers stand in "
            "scontrol show node (Gres) or sinfo (GRES). Where Slurm counts none, copy a profile "
            "and write gpu_request = []"
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
