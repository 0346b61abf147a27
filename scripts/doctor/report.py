"""What the doctor found of a cluster, partition by partition: as plain data and as text."""

from collections import Counter
from dataclasses import asdict

from doctor.cluster import Facts, Node, name_default
from doctor.slurm_text import is_usable, name_models
from doctor.sources import name_source


def group_nodes(nodes: list[Node]) -> list[list[Node]]:
    """Group nodes of the same GPUs (type or model), CPUs and threads; most GPUs first."""
    groups: dict[tuple, list[Node]] = {}
    for node in nodes:
        kinds = None if node.gpus is None else tuple(sorted(node.gpus.items(), key=str))
        models = name_models(node.features or ())
        groups.setdefault((kinds, models, node.cpus, node.threads_per_core), []).append(node)
    return sorted(groups.values(), key=lambda g: (-sum((g[0].gpus or {}).values()), -len(g)))


def describe_group(group: list[Node]) -> dict:
    """Describe equal nodes as plain data; `features` are those that all of them have."""
    first = group[0]
    memory = sorted({node.memory_mb for node in group if node.memory_mb is not None})
    shared = set(first.features or ()).intersection(*(node.features or () for node in group))
    gpus = first.gpus
    return {
        "nodes": len(group),
        "usable": sum(is_usable(node.state) for node in group),
        "hosts": [node.name for node in group],
        "gpus": None if gpus is None else [{"type": k, "count": n} for k, n in gpus.items()],
        "gpus_from": first.gpus_from or None,
        "arch": "/".join(sorted({node.arch for node in group if node.arch})) or None,
        "cpus": first.cpus,
        "threads_per_core": first.threads_per_core,
        "memory_mb": memory[0] if memory else None,
        "memory_mb_most": memory[-1] if memory else None,
        "features": [name for name in dict.fromkeys(first.features or ()) if name in shared],
        "states": dict(Counter(node.state or "unknown" for node in group)),
    }


def describe_cluster(facts: Facts) -> dict:
    """Describe what was found as plain data, for --json and for the report."""
    partitions = []
    for partition in facts.partitions:
        plain = {key: value for key, value in vars(partition).items() if key != "nodes"}
        groups = [describe_group(group) for group in group_nodes(partition.nodes)]
        plain["open_to_me"] = partition.open_to_me
        partitions.append(plain | {"nodes": len(partition.nodes), "groups": groups})
    return {
        "origin": facts.origin,
        "problems": facts.problems,
        "config": asdict(facts.config),
        "partitions": partitions,
        "associations": facts.associations,
        "modules": facts.modules,
        "interfaces": facts.interfaces,
        "lines": {file: counts.to_record() for file, counts in facts.counts.items()},
    }


def report_cluster(facts: Facts) -> str:
    """Write the report: the configuration, each partition with its groups, what is missing."""
    found = describe_cluster(facts)
    lines = [f"Read from {facts.origin}.", *report_config(found["config"])]
    for partition in found["partitions"]:
        lines += ["", *report_partition(partition)]
    if (default := name_default(facts.partitions)) is not None:
        lines += ["", f"The default partition, {default}, has no GPUs: a job must name another."]
    if not found["partitions"]:
        lines += ["", "No partition was found."]
    accounts = list(dict.fromkeys(row["account"] for row in found["associations"]))
    names = [f"{link['name']} ({link['state']})" for link in found["interfaces"]]
    lines += [
        "",
        f"Your accounts: {', '.join(accounts) or 'none read'}",
        f"Modules: {found['modules']['system'] or 'no module system seen'}"
        + "".join(f", {name}" for name in found["modules"]["candidates"]),
        f"Network interfaces here: {', '.join(names) or 'none read'}",
        *(f"{name_source(file)}: {counts.describe()}" for file, counts in facts.counts.items()),
        *(f"not read: {problem}" for problem in facts.problems),
    ]
    # Without control characters: a terminal must not obey a node's name.
    return "".join(
        "".join(char if char.isprintable() else "?" for char in line) + "\n" for line in lines
    )


def report_config(config: dict) -> list[str]:
    if config["version"] is None and config["select_type"] is None:
        return ["The configuration is unknown."]
    say = {True: "yes", False: "no", None: "unknown"}
    name = config["cluster"] or "without a name"
    return [
        f"Cluster {name}, Slurm {config['version'] or 'of an unknown version'}",
        f"  select {config['select_type']} ({config['select_parameters']}), "
        f"cons_tres: {say[config['cons_tres']]}",
        f"  accounting: {say[config['accounting']]}, enforced: {config['accounting_enforce']}; "
        f"EnforcePartLimits: {config['enforce_part_limits']}; "
        f"JobSubmitPlugins: {config['job_submit_plugins']}",
    ]


def report_partition(partition: dict) -> list[str]:
    traits = ["default"] if partition["default"] else []
    traits += [] if partition["up"] else ["not up"]
    traits += [] if partition["open_to_me"] else [f"closed to you ({partition['closed_by']})"]
    traits += ["whole nodes"] if partition["exclusive"] else []
    traits += [f"MaxNodes={partition['max_nodes']}"] if partition["max_nodes"] else []
    traits += [f"AllowQos={partition['allow_qos']}"] if partition["allow_qos"] else []
    traits += [f"JobDefaults={partition['job_defaults']}"] if partition["job_defaults"] else []
    traits += [f"time limit {partition['time_limit'] or 'unknown'}"]
    nodes = partition["nodes"]
    head = f"Partition {partition['name']}: {nodes} node{'s' * (nodes != 1)}, {', '.join(traits)}"
    return [head, *(report_group(group) for group in partition["groups"])]


def report_group(group: dict) -> str:
    if group["gpus"] is None:
        gpus = "GPUs unknown"
    else:
        counts = [f"{gpu['count']} x {gpu['type'] or 'GPU'}" for gpu in group["gpus"]]
        gpus = " + ".join(counts) or "no GPU"
    states = ", ".join(f"{count} {state}" for state, count in group["states"].items())
    threads, memory = group["threads_per_core"], group["memory_mb"]
    cells = [
        gpus,
        group["arch"] if group["arch"] not in (None, "x86_64") else "",
        f"{group['cpus'] or '?'} CPUs"
        + (f" ({threads} threads per core)" if (threads or 1) > 1 else ""),
        f"{memory / 1024:.0f} GiB" if memory else "memory unknown",
        f"features {','.join(group['features'])}" if group["features"] else "",
        f"({states})",
    ]
    return f"  {group['nodes']:>4} x  " + "  ".join(filter(None, cells))
