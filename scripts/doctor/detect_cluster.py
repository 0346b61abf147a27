"""Put together what Slurm's commands say: partitions, and the nodes of each by their GPUs."""

from collections import Counter
from dataclasses import asdict, dataclass

from doctor.detect_records import (
    SINFO,
    Config,
    Node,
    Partition,
    read_config,
    read_node,
    read_partition,
    split_features,
)
from doctor.detect_sources import Sources, describe_modules, list_interfaces
from doctor.detect_tables import Row, read_associations, read_sinfo
from doctor.detect_text import (
    expand_hosts,
    is_usable,
    name_models,
    parse_gpus,
    parse_number,
    parse_records,
    parse_state,
    parse_time,
)


@dataclass
class Facts:
    """All that was found, and what was not (`problems`)."""

    origin: str
    problems: list[str]
    config: Config
    partitions: list[Partition]
    associations: list[Row]
    modules: dict
    interfaces: list[dict]


def detect(sources: Sources) -> Facts:
    """Read all sources; never raises on what stands in them."""
    texts = sources.texts
    rows = read_sinfo(texts.get("sinfo.txt", ""))
    records = parse_records(texts.get("scontrol_show_node.txt", ""), "NodeName")
    nodes: dict[str, Node] = {}
    members: dict[str, dict[str, None]] = {}  # partition -> its nodes' names, in order
    for record in records:
        for name in expand_hosts(record["NodeName"]):
            nodes.setdefault(name, read_node(name, record))
            for partition in expand_hosts(record.get("Partitions", "")):
                members.setdefault(partition, {})[name] = None
    config = read_config(texts.get("scontrol_show_config.txt", ""))
    associations, problems = find_mine(texts.get("sacctmgr.txt", ""), config)
    accounts = {row["account"] for row in associations}
    partitions = {
        record["PartitionName"]: read_partition(record, accounts)
        for record in parse_records(texts.get("scontrol_show_partition.txt", ""), "PartitionName")
    }
    for record in parse_records(texts.get("scontrol_show_partition.txt", ""), "PartitionName"):
        listed = record.get("Nodes", "")
        hosts = list(nodes) if listed == "ALL" else expand_hosts(listed)
        members.setdefault(record["PartitionName"], {}).update(dict.fromkeys(hosts))
    close_others(partitions, associations)
    for row in rows:
        add_sinfo_row(row, nodes, partitions, members)
    for name, hosts in members.items():
        partition = partitions.setdefault(name, Partition(name))
        # Rows of sinfo that name no nodes count only where nothing else names them.
        named = [host for host in hosts if not host.startswith("?")] or list(hosts)
        partition.nodes = [nodes.setdefault(host, Node(host)) for host in named]
    return Facts(
        sources.origin,
        [*sources.problems, *problems],
        config,
        list(partitions.values()),
        associations,
        describe_modules(sources.variables, sources.live),
        list_interfaces(texts.get("ip_address.txt", "")),
    )


def find_mine(text: str, config: Config) -> tuple[list[Row], list[str]]:
    """Read the associations with this cluster; sacctmgr lists those with its sisters, too."""
    rows = read_associations(text)
    problems = []
    if not rows and "|" in text:
        problems = ["sacctmgr.txt: its columns have no names; save it without --noheader"]
    here = (config.cluster or "").lower()  # the database has all names in small letters
    mine = [r for r in rows if not (here and r.get("cluster")) or r["cluster"].lower() == here]
    return mine, problems


def close_others(partitions: dict[str, Partition], associations: list[Row]) -> None:
    """Where each association is with one partition, the other partitions are not open to me."""
    named = {row.get("partition", "").lower() for row in associations}
    if named and "" not in named:
        for name, partition in partitions.items():
            partition.open_to_me &= name.lower() in named


def add_sinfo_row(
    row: Row,
    nodes: dict[str, Node],
    partitions: dict[str, Partition],
    members: dict[str, dict[str, None]],
) -> None:
    """Fill in from one row of sinfo what scontrol did not say."""
    name = row.get("partition", "").rstrip("*")
    if name and name not in partitions:
        low, dash, high = row.get("job_size", "").partition("-")
        partitions[name] = Partition(
            name,
            default=row["partition"].endswith("*"),
            up=row.get("avail", "up") == "up",
            time_limit=parse_time(row.get("time")),
            default_time=parse_time(row.get("default_time")),
            max_nodes=parse_number(high if dash else low),
            min_nodes=parse_number(low),
            exclusive=row.get("oversubscribe", "").upper().startswith("EXCL"),
            limits_from=SINFO,
        )
    count = parse_number(row.get("count"))
    hosts = expand_hosts(row.get("hosts", ""))
    if not hosts or (count is not None and count != len(hosts)):  # no column of names, or cut
        known = sum(len(names) for names in members.values())
        hosts = [f"?{known + number}" for number in range(min(count or 0, 4096))]
    for host in hosts:
        fill_node(nodes.setdefault(host, Node(host)), row)
        if name:
            members.setdefault(name, {})[host] = None


def fill_node(node: Node, row: Row) -> None:
    """Take from a row of sinfo what is not known of the node."""
    threads = parse_number(row.get("threads"))
    if threads is None and row.get("sct", "").count(":") == 2:
        threads = parse_number(row["sct"].split(":")[2])
    found = {
        "cpus": parse_number(row.get("cpus")),
        "threads_per_core": threads,
        "memory_mb": parse_number(row.get("memory")),
        "features": split_features(row.get("features")),
        "state": parse_state(row.get("state", "")),
    }
    for key, value in found.items():
        if getattr(node, key) is None:
            setattr(node, key, value)
    if node.gpus is None and "gres" in row:
        node.gpus, node.gpus_from = parse_gpus(row["gres"]), f"{SINFO}: GRES"


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
        "hosts": [node.name for node in group if not node.name.startswith("?")],
        "gpus": None if gpus is None else [{"type": k, "count": n} for k, n in gpus.items()],
        "gpus_from": first.gpus_from or None,
        "cpus": first.cpus,
        "threads_per_core": first.threads_per_core,
        "memory_mb": memory[0] if memory else None,
        "memory_mb_most": memory[-1] if memory else None,
        "features": [name for name in dict.fromkeys(first.features or ()) if name in shared],
        "states": dict(Counter(node.state or "unknown" for node in group)),
    }


def describe(facts: Facts) -> dict:
    """Describe what was found as plain data, for --json and for the report."""
    partitions = []
    for partition in facts.partitions:
        plain = {key: value for key, value in vars(partition).items() if key != "nodes"}
        groups = [describe_group(group) for group in group_nodes(partition.nodes)]
        partitions.append(plain | {"nodes": len(partition.nodes), "groups": groups})
    return {
        "origin": facts.origin,
        "problems": facts.problems,
        "config": asdict(facts.config),
        "partitions": partitions,
        "associations": facts.associations,
        "modules": facts.modules,
        "interfaces": facts.interfaces,
    }
