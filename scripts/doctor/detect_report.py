"""The doctor's report for people: what was found, partition by partition."""

from doctor.detect_cluster import Facts, describe


def report(facts: Facts) -> str:
    """Write the report: the configuration, each partition with its groups, what is missing."""
    found = describe(facts)
    lines = [f"Read from {facts.origin}.", *report_config(found["config"])]
    for partition in found["partitions"]:
        lines += ["", *report_partition(partition)]
    if not found["partitions"]:
        lines += ["", "No partition was found."]
    lines += ["", *report_around(found)]
    lines += [f"not read: {problem}" for problem in facts.problems]
    return "\n".join(clean(line) for line in lines) + "\n"


def clean(line: str) -> str:
    """Without control characters: a terminal must not obey a node's name."""
    return "".join(char if char.isprintable() else "?" for char in line)


def say(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known"}[value]


def report_config(config: dict) -> list[str]:
    if config["version"] is None and config["select_type"] is None:
        return ["The configuration is not known."]
    name = config["cluster"] or "without a name"
    return [
        f"Cluster {name}, Slurm {config['version'] or 'of an unknown version'}",
        f"  select {config['select_type']} ({config['select_parameters']}), "
        f"cons_tres: {say(config['cons_tres'])}",
        f"  accounting: {say(config['accounting'])}, enforced: {config['accounting_enforce']}; "
        f"EnforcePartLimits: {config['enforce_part_limits']}; "
        f"JobSubmitPlugins: {config['job_submit_plugins']}",
    ]


def report_partition(partition: dict) -> list[str]:
    traits = ["default"] if partition["default"] else []
    traits += [] if partition["up"] else ["not up"]
    traits += [] if partition["open_to_me"] else ["not open to everybody"]
    traits += ["whole nodes"] if partition["exclusive"] else []
    traits += [f"MaxNodes={partition['max_nodes']}"] if partition["max_nodes"] else []
    traits += [f"time limit {partition['time_limit'] or 'not known'}"]
    nodes = partition["nodes"]
    head = f"Partition {partition['name']}: {nodes} node{'s' * (nodes != 1)}, {', '.join(traits)}"
    return [head, *(report_group(group) for group in partition["groups"])]


def report_group(group: dict) -> str:
    if group["gpus"] is None:
        gpus = "GPUs not known"
    else:
        words = [f"{gpu['count']} x {gpu['type'] or 'GPU'}" for gpu in group["gpus"]]
        gpus = " + ".join(words) or "no GPU"
    states = ", ".join(f"{count} {state}" for state, count in group["states"].items())
    threads = group["threads_per_core"]
    memory = group["memory_mb"]
    parts = [
        gpus,
        f"{group['cpus'] or '?'} CPUs"
        + (f" ({threads} threads a core)" if (threads or 1) > 1 else ""),
        f"{memory / 1024:.0f} GiB" if memory else "memory not known",
        f"features {','.join(group['features'])}" if group["features"] else "",
        f"({states})",
    ]
    return f"  {group['nodes']:>4} x  " + "  ".join(filter(None, parts))


def report_around(found: dict) -> list[str]:
    accounts = list(dict.fromkeys(row["account"] for row in found["associations"]))
    names = [f"{link['name']} ({link['state']})" for link in found["interfaces"]]
    return [
        f"Your accounts: {', '.join(accounts) or 'none read'}",
        f"Modules: {found['modules']['system'] or 'no module system seen'}"
        + "".join(f", {name}" for name in found["modules"]["candidates"]),
        f"Network interfaces here: {', '.join(names) or 'none read'}",
    ]
