"""Write a draft profile from what was detected: each value with the output it came from."""

import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.slurm_time import parse_time
from common.toml import tomllib
from doctor.cluster import FROM_NODE, FROM_PARTITION, FROM_SINFO, Facts, Node, name_default
from doctor.partitions import GpuKind, Selection, find_limits, select_partitions
from doctor.slurm_text import is_slice, is_usable
from profiles import Cluster
from profiles.toml_model import parse_model

AMD = re.compile(r"(amd[-_]?)?(instinct[-_]?)?mi\d{2,3}", re.IGNORECASE)
WIDTH = 96
Line = tuple[str, str, str]  # key, TOML value, where it came from; a key "" is only a comment


@dataclass
class Share:
    """`of_node` and `per_gpu`, and what each was read from."""

    of_node: int
    node_source: str
    per_gpu: int
    source: str


def write_draft(facts: Facts, name: str, longest_job: str) -> str:
    """Write the text of NAME.toml; `longest_job` is the matrix's longest time limit.

    Raises UserError when there are no GPUs, or when the draft does not load.
    """
    selection = select_partitions(facts.partitions)
    version = f"Slurm {facts.config.version}" if facts.config.version else "a Slurm"
    lines: list[Line] = [
        ("", f"Draft from doctor.py, for {version}, from {facts.origin}.", ""),
        ("", "Each value names the output it came from. Read it; fill in what stands last.", ""),
        ("", f"Not read: {'; '.join(facts.problems) or 'nothing, all was there'}.", ""),
        ("name", quote(name), "the file's name"),
        *state_nodes(selection),
        *state_request(selection.main, facts),
        *state_queue(selection, facts, longest_job),
        *state_shares(selection.used, facts),
        *state_accelerator(selection.main),
        *state_notices(selection, facts),
    ]
    text = "".join(format_line(*line) for line in lines)
    kinds = [*selection.used, *selection.others]
    for kind in selection.others:
        text += format_other(kind, kinds, facts)
    text += format_unknown(facts)
    parse_model(tomllib.loads(text), Cluster, f"the draft of {name}.toml")
    return text


def state_nodes(selection: Selection) -> list[Line]:
    """GPUs per node, nodes, and the scales in between that cannot run."""
    main = selection.main
    largest = max(main.nodes, key=main.count_gpus)
    nodes = {node.name: node for kind in selection.used for node in kind.nodes}
    out = sum(not is_usable(node.state) for node in nodes.values())
    source = f"nodes of partition {', '.join(kind.partition.name for kind in selection.used)}"
    source += "".join(
        f"; MaxNodes={kind.partition.max_nodes} of {kind.partition.name}"
        for kind in selection.used if kind.partition.max_nodes
    )  # fmt: skip
    counted = largest.gpus_from
    if not main.counted:
        counted = "TO BE COUNTED: Slurm knows of no GPUs on these nodes (Gres); see srun "
        counted += f"--partition={main.partition.name} --nodes=1 --time=2 nvidia-smi -L"
    lines: list[Line] = [
        ("gpus_per_node", str(selection.gpus_per_node), counted),
        ("nodes", str(selection.nodes), f"{source}; {out} down or drained now" if out else source),
    ]
    if selection.gpus_per_node == 1:
        lines.append(("", "Jobs of several nodes that ask for more GPUs per node are left out; "
                      'with multi_node_gpus = "all" they take one per node', ""))  # fmt: skip
    if limits := find_limits(selection):
        rows = [write_table(where | {"because": because}) for where, because in limits]
        lines.append(("cannot_run", write_array(rows), f"counted in {largest.gpus_from}"))
    return lines


def state_request(kind: GpuKind, facts: Facts) -> list[Line]:
    """How GPUs are asked for: by type where Slurm has types, in the form every Slurm knows."""
    source = next(node.gpus_from for node in kind.nodes)
    if not kind.counted:
        return [("gpu_request", "[]", "Slurm counts no GPUs here (Gres): a job has a node's")]
    if kind.gpu_type:
        return [
            ("gpu_request", '["gres"]', "with the type: Slurm names one, and any select plugin"
             " takes this form"),
            ("gpu_type", quote(kind.gpu_type), source),
        ]  # fmt: skip
    if facts.config.cons_tres:
        return [("gpu_request", '["gpus-per-node"]', "scontrol show config: SelectType has "
                 "cons_tres; no GPU types")]  # fmt: skip
    why = "is unknown" if facts.config.cons_tres is None else "has no cons_tres"
    return [("gpu_request", '["gres"]', f"scontrol show config: SelectType {why}; no GPU types")]


def state_queue(selection: Selection, facts: Facts, longest_job: str) -> list[Line]:
    """Partition, constraint and time limit; QOS and account as remarks."""
    place = selection.main.partition
    value = quote(place.name)
    if len(selection.rules) > 1:
        rows = [write_table(where | {"use": k.partition.name}) for where, k in selection.rules]
        value = write_array(rows)
    lines: list[Line] = [("partition", value, describe_partitions(selection))]
    if facts.clusters:
        lines.insert(0, ("clusters", quote(facts.clusters), f"{FROM_SINFO}: CLUSTER"))
    constraint = selection.constraint
    if constraint:
        source = f"{FROM_NODE}: AvailableFeatures; {place.name} has other GPUs besides"
        lines.append(("constraint", quote(constraint), source))
    elif constraint == "":
        lines.append(("", f"{place.name} has other GPUs besides, and no features that only these "
                      "nodes have: a job may get either; ask the site", ""))  # fmt: skip
    elif selection.main.models:
        lines.append(
            ("", f"The nodes' features name the GPU: {', '.join(selection.main.models)}", "")
        )
    lines += state_time(selection, longest_job)
    for kind in selection.used:
        if kind.partition.qos:
            lines.append(("", f"{kind.partition.name} has the QOS {kind.partition.qos}, whose "
                          "limits apply: sacctmgr show qos", ""))  # fmt: skip
        if kind.partition.allow_qos:
            lines.append(("", f"{kind.partition.name} takes these QOS only, one of which must be "
                          f"named: {kind.partition.allow_qos}", ""))  # fmt: skip
    if facts.config.job_submit_plugins:
        lines.append(("", f"JobSubmitPlugins = {facts.config.job_submit_plugins}: the site may "
                      "change or refuse what a job asks for", ""))  # fmt: skip
    return lines


def describe_partitions(selection: Selection) -> str:
    """Say where the partitions stand, and what distinguishes them."""
    shown = []
    for kind in selection.used:
        place = kind.partition
        traits = ["the default"] if place.default else []
        traits += ["OverSubscribe=EXCLUSIVE: whole nodes"] if place.exclusive else []
        shown.append(f"{place.name} ({', '.join(traits)})" if traits else place.name)
    return f"{selection.main.partition.limits_from or FROM_NODE}: {', '.join(shown)}"


def state_time(selection: Selection, longest_job: str) -> list[Line]:
    """The partitions' time limits: remarks, and a value where the jobs ask for more."""
    lines: list[Line] = []
    rows, short = [], False
    for where, kind in selection.rules:
        place, limit = kind.partition, kind.partition.time_limit
        too_short = place.time_limit_s < parse_time(longest_job)
        short |= too_short
        rows.append(write_table(where | {"use": limit if too_short else longest_job}))
        source = f"{place.limits_from}: MaxTime of {place.name}"
        remark = f"At most time = {quote(limit)} ({source})." if limit else ""
        remark = f"No time limit ({source})." if limit == "unlimited" else remark
        lines.append(("", remark or f"The time limit of {place.name} is unknown.", ""))
    if not short:
        lines.append(("", f"The jobs ask for what matrix.toml says: {longest_job} at most.", ""))
    elif len(rows) > 1:
        lines.append(("time", write_array(rows), "less than the jobs of matrix.toml ask for"))
    else:
        limit = selection.main.partition.time_limit
        lines.append(("time", quote(limit), f"matrix.toml asks for {longest_job}"))
    return lines


def state_shares(kinds: list[GpuKind], facts: Facts) -> list[Line]:
    """CPUs and memory: a GPU's share of its node, the smallest where nodes differ."""
    most = max(kind.gpus_per_node for kind in kinds)
    lines: list[Line] = []
    cpus = share_cpus(kinds)
    if cpus is None:
        lines.append(("", "cpus_per_gpu: no output names the CPUs of these nodes", ""))
    else:
        lines.append(("cpus_per_node", str(cpus.of_node), cpus.node_source))
        lines.append(("cpus_per_gpu", str(cpus.per_gpu), cpus.source))
    memory = share_memory(kinds, cpus)
    if not kinds[0].counted:
        lines.append(("", "No mem: a job has whole nodes here, with all of their memory", ""))
    elif memory is None:
        lines.append(("", "mem: no output names the memory of these nodes", ""))
    elif all(kind.partition.exclusive for kind in kinds):
        lines.append(
            ("mem", '"0"', f"all of a node's: {memory.of_node} MB or more ({memory.node_source})")
        )
    elif facts.config.memory_is_counted is False:
        lines.append(("", f"No mem: SelectTypeParameters count no memory; a node has "
                      f"{memory.of_node} MB ({memory.node_source})", ""))  # fmt: skip
    elif facts.config.cons_tres:
        lines.append(("mem_per_gpu", quote(f"{memory.per_gpu}M"), memory.source))
    else:
        lines.append(("mem", write_memory_rules(memory, most), memory.source))
    return lines


def write_memory_rules(memory: Share, most: int) -> str:
    """Memory by GPUs of a node, for a Slurm without --mem-per-gpu."""
    rows = [
        write_table({"gpus_per_node": str(gpus), "use": f"{memory.per_gpu * gpus}M"})
        for gpus in range(1, most + 1)
    ]
    return write_array(rows)


def state_notices(selection: Selection, facts: Facts) -> list[Line]:
    """What a person must know of these partitions and nodes before the first job."""
    said = []
    for place in dict.fromkeys(kind.partition.name for kind in selection.used):
        (partition,) = (kind.partition for kind in selection.used if kind.partition.name == place)
        if partition.closed_by:
            said.append(f"{place} is closed to you: {partition.closed_by}; ask the site")
        if partition.job_defaults:
            said.append(f"{place} gives a job that does not ask: {partition.job_defaults}")
    foreign = {node.arch for kind in selection.used for node in kind.nodes} - {None, "x86_64"}
    for arch in sorted(foreign):
        said.append(f"The nodes are {arch}, not x86_64: install the software on one of them")
    if (default := name_default(facts.partitions)) is not None:
        said.append(f"The default partition, {default}, has no GPUs: a job must name another")
    return [("", line, "") for line in said]


def state_accelerator(kind: GpuKind) -> list[Line]:
    """What logs the devices' memory: nvidia-smi, unless the GPUs are AMD's."""
    if not any(AMD.match(word) for word in (kind.gpu_type or "", *kind.models)):
        return []
    return [("accelerator", quote("amd"), "the GPU's name is one of AMD's: no nvidia-smi")]


def format_other(kind: GpuKind, kinds: list[GpuKind], facts: Facts) -> str:
    """Format another kind of GPU as commented lines, to be used instead of the first."""
    what = ", ".join(filter(None, [kind.gpu_type, *kind.models])) or "GPUs without a type"
    nodes = len(kind.nodes)
    place = kind.partition
    head = f"Or {what}: {nodes} node{'s' * (nodes != 1)} of partition {place.name}, time limit "
    head += f"{place.time_limit or 'unknown'}"
    head += (
        "; slices of GPUs, not for DDP" if is_slice(kind.gpu_type) else ". Instead of the above:"
    )
    if place.closed_by:
        head = head.replace(f"partition {place.name}", f"partition {place.name} (closed to you: "
                            f"{place.closed_by})")  # fmt: skip
    alone = Selection(kind, [({}, kind)], [other for other in kinds if other is not kind])
    lines: list[Line] = [
        *state_nodes(alone),
        *state_request(kind, facts),
        ("partition", quote(kind.partition.name), ""),
        *([("constraint", quote(alone.constraint), "")] if alone.constraint else []),
        *state_shares([kind], facts),
    ]
    if is_slice(kind.gpu_type):
        lines = []
    elif kind.gpu_key == kinds[0].gpu_key:  # the same GPUs in another partition
        lines = [line for line in lines if line[0] in {"gpus_per_node", "nodes", "partition"}]
    body = "".join(format_line(*line) for line in lines)
    return f"\n{write_comment(head)}" + "".join(f"# {line}\n" for line in body.splitlines())


def format_unknown(facts: Facts) -> str:
    """Format what no command tells, as comments to fill in."""
    accounts = list(dict.fromkeys(row["account"] for row in facts.associations))
    need = "associations" in (facts.config.accounting_enforce or "")
    mine = f"sacctmgr: yours are {', '.join(accounts)}" if accounts else "no associations were read"
    modules = "perhaps " + ", ".join(facts.modules["candidates"])
    modules = modules if facts.modules["candidates"] else "no module is named after PyTorch"
    names = [link["name"] for link in facts.interfaces]
    up = [link["name"] for link in facts.interfaces if link["state"] == "UP"] or ["ib0"]
    fast = next((name for name in names if name.startswith(("ib", "hsn"))), up[0])
    seen = f"this login node has {', '.join(names)}" if names else "no interfaces were read"
    lines = [
        "",
        "What doctor.py could not find out:",
        f"- the account: {mine}; {'one is needed' if need else 'not enforced, as far as seen'}."
        " It goes into the .local.toml beside this file, which git ignores.",
        f"- the software; module system: {facts.modules['system']}, {modules}",
        '    setup = ["module load pytorch"]',
        "- the data's folder, which every node must see",
        "    [data_dir]",
        '    tinyimagenet = "/path/to/tiny-imagenet-200"',
        f"- the network between compute nodes; {seen}",
        "    [env]",
        f"    NCCL_SOCKET_IFNAME = {quote(fast)}",
    ]
    return "".join(write_comment(line) if line else "\n" for line in lines)


# ---- A GPU's share of its node's CPUs and memory, within the partition's limits --------


def count_whole_gpus(node: Node) -> int:
    """All whole GPUs of a node, of whatever type; all of its slices when it has only these.

    1 where Slurm counts none.
    """
    gpus = node.gpus or {}
    return sum(n for kind, n in gpus.items() if not is_slice(kind)) or sum(gpus.values()) or 1


def share_cpus(kinds: list[GpuKind]) -> Share | None:
    """CPUs (hardware threads, where Slurm counts these) of a node and of a GPU."""
    nodes = [node for kind in kinds for node in kind.nodes if node.cpus]
    if not nodes:
        return None
    shares = {node.cpus // count_whole_gpus(node) for node in nodes}
    per_gpu, source = min(shares), f"{describe_source(nodes[0], 'CPUTot', 'CPUS')} / GPUs"
    source += describe_spread(shares)
    threads = {node.threads_per_core for node in nodes} - {None, 1}
    source += f"; {max(threads)} threads per core" if threads else ""
    most = max(count_whole_gpus(node) for node in nodes)
    of_node = min(node.cpus for node in nodes if count_whole_gpus(node) == most)
    node_source = describe_source(nodes[0], "CPUTot or CPUEfctv", "CPUS")
    for kind in kinds:
        place = kind.partition
        if place.max_cpus_per_node and place.max_cpus_per_node < of_node:
            of_node, node_source = place.max_cpus_per_node, f"{FROM_PARTITION}: MaxCPUsPerNode"
        if of_node // kind.gpus_per_node < per_gpu:
            per_gpu, source = of_node // kind.gpus_per_node, f"{node_source} / GPUs"
        if place.cpus_per_gpu and place.cpus_per_gpu < per_gpu:
            per_gpu, source = place.cpus_per_gpu, f"{FROM_PARTITION}: JobDefaults DefCpuPerGPU"
    return Share(of_node, node_source, max(1, per_gpu), source)


def share_memory(kinds: list[GpuKind], cpus: Share | None) -> Share | None:
    """Memory of a node and of a GPU, in MB."""
    nodes = [node for kind in kinds for node in kind.nodes if node.memory_mb]
    if not nodes:
        return None
    shares = {node.memory_mb // count_whole_gpus(node) for node in nodes}
    node_source = describe_source(nodes[0], "RealMemory", "MEMORY")
    per_gpu, source = min(shares), f"{node_source} / GPUs{describe_spread(shares)}"
    for kind in kinds:
        place = kind.partition
        most = place.max_mem_per_node_mb
        if most and most // kind.gpus_per_node < per_gpu:
            per_gpu, source = most // kind.gpus_per_node, f"{FROM_PARTITION}: MaxMemPerNode / GPUs"
        most = place.max_mem_per_cpu_mb
        if most and cpus and most * cpus.per_gpu < per_gpu:
            per_gpu, source = most * cpus.per_gpu, f"{FROM_PARTITION}: MaxMemPerCPU x cpus_per_gpu"
    of_node = min(node.memory_mb for node in nodes)
    return Share(of_node, node_source, max(1, per_gpu), source)


def describe_source(node: Node, field: str, column: str) -> str:
    """Name the output that describes a node: scontrol's field or sinfo's column."""
    return (
        f"{FROM_SINFO}: {column}"
        if node.gpus_from.startswith(FROM_SINFO)
        else f"{FROM_NODE}: {field}"
    )


def describe_spread(shares: set[int]) -> str:
    """Say that the smallest was taken, where nodes differ."""
    return f"; the smallest of {min(shares)} to {max(shares)}" if len(shares) > 1 else ""


# ---- TOML as a person would write it ---------------------------------------------------


def quote(text: str) -> str:
    """Write text as a TOML string."""
    return json.dumps(text).replace("\x7f", "\\u007f")


def clean(text: str) -> str:
    """Make text fit for one line of a comment."""
    return "".join(char if char.isprintable() else "?" for char in text)[:600]


def format_line(key: str, value: str, source: str) -> str:
    """Format `key = value   # source`; a long source stands above."""
    if not key:
        return write_comment(value)
    text = f"{key} = {value}"
    if not source:
        return f"{text}\n"
    line = f"{text:<36}# {clean(source)}"
    if len(line) <= WIDTH and "\n" not in text:
        return f"{line}\n"
    return f"{write_comment(source)}{text}\n"


def write_comment(text: str) -> str:
    """Write a remark in lines of at most WIDTH columns, if its words are."""
    lines = textwrap.wrap(clean(text), WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def write_table(values: dict[str, str]) -> str:
    """Write an inline TOML table."""
    return "{ " + ", ".join(f"{key} = {quote(value)}" for key, value in values.items()) + " }"


def write_array(rows: list[str]) -> str:
    """Write a TOML array, one row per line."""
    return "[\n" + "".join(f"    {row},\n" for row in rows) + "]"


def save_draft(text: str, path: Path) -> None:
    """Write a new file, whole or not at all; UserError when it is there already."""
    try:
        with path.open("x", encoding="utf-8") as new:
            try:
                new.write(text)
                new.flush()
            except OSError:
                path.unlink()
                raise
    except FileExistsError:
        raise UserError(f"{path} is there already; delete it or choose another NAME") from None
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; name a file in a folder of yours, that ends "
            "in .toml"
        ) from None
