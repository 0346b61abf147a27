"""A GPU's share of its node's CPUs and memory, within the partition's limits."""

from dataclasses import dataclass

from doctor.detect_choice import Kind
from doctor.detect_records import NODE, PARTITION, SINFO, Node
from doctor.detect_text import is_slice


@dataclass
class Share:
    """`of_node` and `per_gpu`, and what each was read from."""

    of_node: int
    node_source: str
    per_gpu: int
    source: str


def count_gpus(node: Node) -> int:
    """All whole GPUs of a node, of whatever type; all of its slices when it has only these."""
    gpus = node.gpus or {}
    return sum(n for kind, n in gpus.items() if not is_slice(kind)) or sum(gpus.values())


def share_cpus(kinds: list[Kind]) -> Share | None:
    """CPUs (hardware threads, where Slurm counts these) of a node and of a GPU."""
    nodes = [node for kind in kinds for node in kind.nodes if node.cpus]
    if not nodes:
        return None
    shares = {node.cpus // count_gpus(node) for node in nodes}
    per_gpu, source = min(shares), f"{describe_source(nodes[0], 'CPUTot', 'CPUS')} / GPUs"
    source += describe_spread(shares)
    threads = {node.threads_per_core for node in nodes} - {None, 1}
    source += f"; {max(threads)} threads a core" if threads else ""
    most = max(count_gpus(node) for node in nodes)
    of_node = min(node.cpus for node in nodes if count_gpus(node) == most)
    node_source = describe_source(nodes[0], "CPUTot or CPUEfctv", "CPUS")
    for kind in kinds:
        place = kind.partition
        if place.max_cpus_per_node and place.max_cpus_per_node < of_node:
            of_node, node_source = place.max_cpus_per_node, f"{PARTITION}: MaxCPUsPerNode"
        if of_node // kind.gpus_per_node < per_gpu:
            per_gpu, source = of_node // kind.gpus_per_node, f"{node_source} / GPUs"
        if place.cpus_per_gpu and place.cpus_per_gpu < per_gpu:
            per_gpu, source = place.cpus_per_gpu, f"{PARTITION}: JobDefaults DefCpuPerGPU"
    return Share(of_node, node_source, max(1, per_gpu), source)


def share_memory(kinds: list[Kind], cpus: Share | None) -> Share | None:
    """Memory of a node and of a GPU, in MB."""
    nodes = [node for kind in kinds for node in kind.nodes if node.memory_mb]
    if not nodes:
        return None
    shares = {node.memory_mb // count_gpus(node) for node in nodes}
    node_source = describe_source(nodes[0], "RealMemory", "MEMORY")
    per_gpu, source = min(shares), f"{node_source} / GPUs{describe_spread(shares)}"
    for kind in kinds:
        place = kind.partition
        most = place.max_mem_per_node_mb
        if most and most // kind.gpus_per_node < per_gpu:
            per_gpu, source = most // kind.gpus_per_node, f"{PARTITION}: MaxMemPerNode / GPUs"
        most = place.max_mem_per_cpu_mb
        if most and cpus and most * cpus.per_gpu < per_gpu:
            per_gpu, source = most * cpus.per_gpu, f"{PARTITION}: MaxMemPerCPU x cpus_per_gpu"
    of_node = min(node.memory_mb for node in nodes)
    return Share(of_node, node_source, max(1, per_gpu), source)


def describe_source(node: Node, field: str, column: str) -> str:
    """Name the output that told of a node: scontrol's field or sinfo's column."""
    return f"{SINFO}: {column}" if node.gpus_from.startswith(SINFO) else f"{NODE}: {field}"


def describe_spread(shares: set[int]) -> str:
    """Say that the smallest was taken, where nodes differ."""
    return f"; the smallest of {min(shares)} to {max(shares)}" if len(shares) > 1 else ""
