"""Write a draft profile from what was detected: each value with the output it came from."""

import re
import tomllib
from typing import get_args

from doctor.detect_choice import Choice, Kind, choose, find_limits
from doctor.detect_cluster import Facts
from doctor.detect_records import NODE
from doctor.detect_shares import Share, share_cpus, share_memory
from doctor.detect_text import count_seconds, is_slice, is_usable, parse_time
from doctor.detect_toml import (
    Line,
    format_line,
    quote,
    write_array,
    write_comment,
    write_table,
)
from profiles.cluster import Cluster
from profiles.toml_model import parse_model

AMD = re.compile(r"(amd[-_]?)?(instinct[-_]?)?mi\d{2,3}", re.IGNORECASE)


def write_draft(facts: Facts, name: str, longest_job: str) -> str:
    """Write the text of NAME.toml; `longest_job` is the matrix's longest time limit.

    Raises DetectError when there are no GPUs, ProfileError when the draft does not load.
    """
    choice = choose(facts.partitions)
    version = f"Slurm {facts.config.version}" if facts.config.version else "a Slurm"
    lines: list[Line] = [
        ("", f"Draft from doctor.py, for {version}, from {facts.origin}.", ""),
        ("", "Each value names the output it came from. Read it; fill in what stands last.", ""),
        ("", f"Not read: {'; '.join(facts.problems) or 'nothing, all was there'}.", ""),
        ("name", quote(name), "the file's name"),
        *state_nodes(choice),
        *state_request(choice.main, facts),
        *state_queue(choice, facts, longest_job),
        *state_shares(choice.used, facts),
        *state_accelerator(choice.main),
    ]
    text = "".join(format_line(*line) for line in lines)
    for kind in choice.others:
        text += format_other(kind, choice.main, facts)
    text += format_unknown(facts)
    parse_model(tomllib.loads(text), Cluster, f"the draft of {name}.toml")
    return text


def state_nodes(choice: Choice) -> list[Line]:
    """GPUs a node, nodes, and the scales between that are not there."""
    main = choice.main
    largest = max(main.nodes, key=main.count_gpus)
    nodes = {node.name: node for kind in choice.used for node in kind.nodes}
    out = sum(not is_usable(node.state) for node in nodes.values())
    told = f"nodes of partition {', '.join(kind.partition.name for kind in choice.used)}"
    told += "".join(
        f"; MaxNodes={kind.partition.max_nodes} of {kind.partition.name}"
        for kind in choice.used if kind.partition.max_nodes
    )  # fmt: skip
    lines: list[Line] = [
        ("gpus_per_node", str(choice.gpus_per_node), largest.gpus_from),
        ("nodes", str(choice.nodes), f"{told}; {out} down or drained now" if out else told),
    ]
    if limits := find_limits(choice):
        rows = [write_table(where | {"because": because}) for where, because in limits]
        lines.append(("cannot_run", write_array(rows), f"counted in {largest.gpus_from}"))
    return lines


def state_request(kind: Kind, facts: Facts) -> list[Line]:
    """How GPUs are asked for: by type where Slurm has types, in the form every Slurm knows."""
    source = next(node.gpus_from for node in kind.nodes)
    if kind.gpu_type:
        return [
            ("gpu_request", '["gres"]', "with the type: Slurm names one, and any select plugin"
             " takes this form"),
            ("gpu_type", quote(kind.gpu_type), source),
        ]  # fmt: skip
    if facts.config.cons_tres:
        return [("gpu_request", '["gpus-per-node"]', "scontrol show config: SelectType has "
                 "cons_tres; no GPU types")]  # fmt: skip
    why = "is not known" if facts.config.cons_tres is None else "has no cons_tres"
    return [("gpu_request", '["gres"]', f"scontrol show config: SelectType {why}; no GPU types")]


def state_queue(choice: Choice, facts: Facts, longest_job: str) -> list[Line]:
    """Partition, constraint and time limit; QOS and account as remarks."""
    place = choice.main.partition
    value = quote(place.name)
    if len(choice.rules) > 1:
        rows = [write_table(where | {"use": k.partition.name}) for where, k in choice.rules]
        value = write_array(rows)
    lines: list[Line] = [("partition", value, describe_partitions(choice))]
    if choice.constraint:
        told = f"{NODE}: AvailableFeatures; {place.name} has other GPUs besides"
        lines.append(("constraint", quote(choice.constraint), told))
    elif choice.main.models:
        lines.append(("", f"The nodes' features name the GPU: {', '.join(choice.main.models)}", ""))
    lines += state_time(choice, longest_job)
    for kind in choice.used:
        if kind.partition.qos:
            lines.append(("", f"{kind.partition.name} has the QOS {kind.partition.qos}, whose "
                          "limits apply: sacctmgr show qos", ""))  # fmt: skip
    if facts.config.job_submit_plugins:
        lines.append(("", f"JobSubmitPlugins = {facts.config.job_submit_plugins}: the site may "
                      "change or refuse what a job asks for", ""))  # fmt: skip
    return lines


def describe_partitions(choice: Choice) -> str:
    """Say where the partitions stand, and what told them apart."""
    words = []
    for kind in choice.used:
        place = kind.partition
        traits = ["the default"] if place.default else []
        traits += ["OverSubscribe=EXCLUSIVE: whole nodes"] if place.exclusive else []
        words.append(f"{place.name} ({', '.join(traits)})" if traits else place.name)
    return f"{choice.main.partition.limits_from or NODE}: {', '.join(words)}"


def state_time(choice: Choice, longest_job: str) -> list[Line]:
    """The partitions' time limits: remarks, and a value where the jobs ask for more."""
    lines: list[Line] = []
    rows, short = [], False
    for where, kind in choice.rules:
        place, limit = kind.partition, kind.partition.time_limit
        too_short = count_seconds(limit) < count_seconds(parse_time(longest_job))
        short |= too_short
        rows.append(write_table(where | {"use": limit if too_short else longest_job}))
        told = f"{place.limits_from}: MaxTime of {place.name}"
        remark = f"At most time = {quote(limit)} ({told})." if limit else ""
        remark = f"No time limit ({told})." if limit == "unlimited" else remark
        lines.append(("", remark or f"The time limit of {place.name} is not known.", ""))
    if not short:
        lines.append(("", f"The jobs ask for what matrix.toml says: {longest_job} at most.", ""))
    elif len(rows) > 1:
        lines.append(("time", write_array(rows), "less than the jobs of matrix.toml ask for"))
    else:
        limit = choice.main.partition.time_limit
        lines.append(("time", quote(limit), f"matrix.toml asks for {longest_job}"))
    return lines


def state_shares(kinds: list[Kind], facts: Facts) -> list[Line]:
    """CPUs and memory: a GPU's share of its node, the smallest where nodes differ."""
    most = max(kind.gpus_per_node for kind in kinds)
    lines: list[Line] = []
    cpus = share_cpus(kinds)
    if cpus is None:
        lines.append(("", "cpus_per_gpu: no output told the CPUs of these nodes", ""))
    else:
        lines.append(("cpus_per_node", str(cpus.of_node), cpus.node_source))
        lines.append(("cpus_per_gpu", str(cpus.per_gpu), cpus.source))
    memory = share_memory(kinds, cpus)
    if memory is None:
        lines.append(("", "mem: no output told the memory of these nodes", ""))
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


def state_accelerator(kind: Kind) -> list[Line]:
    """What logs the devices' memory: nvidia-smi, unless the GPUs are AMD's."""
    if not any(AMD.match(word) for word in (kind.gpu_type or "", *kind.models)):
        return []
    known = get_args(Cluster.model_fields["accelerator"].annotation)
    value = "amd" if "amd" in known else "none"
    return [("accelerator", quote(value), "the GPU's name is one of AMD's: no nvidia-smi")]


def format_other(kind: Kind, main: Kind, facts: Facts) -> str:
    """Format another kind of GPU as commented lines, to be used instead."""
    what = kind.gpu_type or ", ".join(kind.models) or "GPUs without a type"
    nodes = len(kind.nodes)
    place = kind.partition
    head = f"Or {what}: {nodes} node{'s' * (nodes != 1)} of partition {place.name}, time limit "
    head += f"{place.time_limit or 'not known'}"
    head += (
        "; slices of GPUs, not for DDP" if is_slice(kind.gpu_type) else ". Instead of the above:"
    )
    alone = Choice(kind, [({}, kind)], [])
    lines: list[Line] = [
        *state_nodes(alone),
        *state_request(kind, facts),
        ("partition", quote(kind.partition.name), ""),
        *([("constraint", quote(kind.models[0]), "")] if kind.models else []),
        *state_shares([kind], facts),
    ]
    if is_slice(kind.gpu_type):
        lines = []
    elif kind.sort == main.sort:  # the same GPUs in another partition
        lines = [line for line in lines if line[0] in {"gpus_per_node", "nodes", "partition"}]
    body = "".join(format_line(*line) for line in lines)
    return f"\n{write_comment(head)}" + "".join(f"# {line}\n" for line in body.splitlines())


def format_unknown(facts: Facts) -> str:
    """Format what no command tells, as comments to fill in."""
    accounts = list(dict.fromkeys(row["account"] for row in facts.associations))
    need = "associations" in (facts.config.accounting_enforce or "")
    mine = f"sacctmgr: yours are {', '.join(accounts)}" if accounts else "no associations were read"
    modules = "perhaps " + ", ".join(facts.modules["candidates"])
    modules = modules if facts.modules["candidates"] else "no module's name speaks of PyTorch"
    names = [link["name"] for link in facts.interfaces]
    fast = next((n for n in names if n.startswith(("ib", "hsn"))), names[0] if names else "ib0")
    seen = f"this login node has {', '.join(names)}" if names else "no interfaces were read"
    lines = [
        "",
        "What doctor.py could not know:",
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
