"""What Slurm says of a cluster: its configuration, its partitions, and the nodes of each."""

import math
from dataclasses import dataclass, field

from common.counts import LineCounts
from common.errors import UserError
from common.slurm_time import parse_time
from doctor.slurm_text import (
    NOTHING,
    Gpus,
    expand_hosts,
    parse_gpus,
    parse_limit,
    parse_number,
    parse_state,
    parse_tres_gpus,
    split_features,
)
from doctor.sources import (
    NODES,
    PARTITIONS,
    SINFO,
    Record,
    Sources,
    describe_modules,
    name_source,
    read_associations,
    read_config,
    read_interfaces,
    read_records,
    read_sinfo,
    save_command,
)

FROM_NODE, FROM_PARTITION, FROM_SINFO = map(name_source, [NODES, PARTITIONS, SINFO])


@dataclass
class Node:
    """One node; None is what nothing states. `gpus_from` names the output and the field."""

    name: str
    cpus: int | None = None
    threads_per_core: int | None = None
    memory_mb: int | None = None
    gpus: Gpus | None = None
    gpus_from: str = ""
    features: tuple[str, ...] | None = None
    state: str | None = None
    arch: str | None = None


@dataclass
class Partition:
    """One partition; time limits as parse_limit returns them."""

    name: str
    default: bool = False
    up: bool = True
    closed_by: str = ""  # what keeps me out of it: `AllowGroups=staff`
    time_limit: str | None = None
    default_time: str | None = None
    max_nodes: int | None = None
    min_nodes: int | None = None
    max_cpus_per_node: int | None = None
    max_mem_per_node_mb: int | None = None
    max_mem_per_cpu_mb: int | None = None
    cpus_per_gpu: int | None = None
    job_defaults: str | None = None
    exclusive: bool = False
    qos: str | None = None
    allow_qos: str | None = None  # None: any
    limits_from: str = ""
    nodes: list[Node] = field(default_factory=list)

    @property
    def time_limit_s(self) -> float:
        """The time limit in seconds; infinite where it is unlimited or unknown."""
        return parse_time(self.time_limit) if self.time_limit else math.inf

    @property
    def open_to_me(self) -> bool:
        return not self.closed_by

    @property
    def has_gpus(self) -> bool:
        """Whether Slurm counts GPUs on one of its nodes."""
        return any(node.gpus for node in self.nodes)


def name_default(partitions: list[Partition]) -> str | None:
    """The default partition, where it has no GPUs and another one has; else None."""
    default = next((place for place in partitions if place.default), None)
    if default is None or default.has_gpus or not any(place.has_gpus for place in partitions):
        return None
    return default.name


@dataclass
class Config:
    """What `scontrol show config` says; None where it does not."""

    cluster: str | None = None
    version: str | None = None
    select_type: str | None = None
    select_parameters: str | None = None
    cons_tres: bool | None = None
    memory_is_counted: bool | None = None
    accounting: bool | None = None
    accounting_enforce: str | None = None
    enforce_part_limits: str | None = None
    job_submit_plugins: str | None = None
    gres_types: str | None = None


@dataclass
class Facts:
    """All that was found, and what was not (`problems`)."""

    origin: str
    problems: list[str]
    config: Config
    partitions: list[Partition]
    associations: list[dict[str, str]]
    modules: dict
    interfaces: list[dict]
    counts: dict[str, LineCounts]  # by output: what became of its lines
    clusters: str = ""  # the one of several that share a login node


def detect(sources: Sources) -> Facts:
    """Read all sources; raises UserError, with file and line, for what cannot be read."""
    config = make_config(read_config(sources))
    here = (config.cluster or "").lower()  # the database has all names in small letters
    associations = [
        row for row in read_associations(sources) if not here or row["cluster"].lower() == here
    ]  # sacctmgr lists those with sister clusters, too
    nodes: dict[str, Node] = {}
    members: dict[str, dict[str, None]] = {}  # partition -> its nodes' names, in order
    for record in read_records(sources, NODES):
        (name,) = record.read("NodeName", one_host)
        add_once(nodes, name, make_node(record), record)
        for partition in filter(None, record.get("Partitions").split(",")):
            members.setdefault(partition, {})[name] = None
    described = set(nodes)
    partitions: dict[str, Partition] = {}
    for record in read_records(sources, PARTITIONS):
        partition = make_partition(record, associations, sources.groups)
        add_once(partitions, partition.name, partition, record)
        hosts = list(nodes)
        if record.get("Nodes") != "ALL":
            hosts = record.read("Nodes", expand_hosts) or []
            check_total(record, hosts)
        members.setdefault(partition.name, {}).update(dict.fromkeys(hosts))
    close_others(partitions, associations)
    for row in read_sinfo(sources):
        add_sinfo_row(row, nodes, partitions, members)
    for name, hosts in members.items():
        partition = partitions.setdefault(name, Partition(name))
        partition.nodes = [nodes.setdefault(host, Node(host)) for host in hosts]
    check_members(sources, nodes, described, {host for hosts in members.values() for host in hosts})
    return Facts(
        sources.origin,
        list(sources.problems),
        config,
        list(partitions.values()),
        associations,
        describe_modules(sources.variables, sources.live),
        read_interfaces(sources),
        sources.counts,
        sources.cluster,
    )


def add_once(table: dict, name: str, value: Node | Partition, record: Record) -> None:
    """Add what a whole record says; UserError for a record that is cut, or there twice."""
    line = next(iter(record.lines.values()))
    if name in table:
        raise record.sources.refuse(record.file, line, f"{name} again: a second output")
    if "State" not in record.fields:
        raise record.sources.refuse(record.file, line, f"{name} has no State: its record is cut")
    table[name] = value


def check_total(record: Record, hosts: list[str]) -> None:
    """Name a partition whose list of nodes is shorter, or longer, than it says."""
    total = record.read("TotalNodes", parse_number)
    if total is not None and total != len(hosts):
        record.sources.problems.append(
            f"{record.file}, line {record.lines['TotalNodes']}: {record.get('PartitionName')} has "
            f"TotalNodes={total}, but Nodes names {len(hosts)}"
        )


def check_members(
    sources: Sources, nodes: dict[str, Node], described: set[str], placed: set[str]
) -> None:
    """Name the nodes that stand in no partition, and those that only a partition names.

    UserError where no output has a partition: then nothing is known of any node's jobs.
    """
    alone = [name for name in nodes if name not in placed]
    if alone and not placed:
        place = sources.folder / NODES if sources.folder else NODES
        raise UserError(
            f"{place}, line 1: no output names a partition of {shorten_list(alone)}; save beside "
            f"it: {save_command(PARTITIONS)}; {save_command(SINFO)}"
        )
    if alone:
        sources.problems.append(f"{NODES}: in no partition, so not shown: {shorten_list(alone)}")
    bare = [name for name in nodes if name not in described and nodes[name].cpus is None]
    if bare and described:
        sources.problems.append(f"{NODES}: no record of {shorten_list(bare)}: cut?")


def shorten_list(names: list[str]) -> str:
    """`n1, n2, n3 and 4 more`."""
    more = f" and {len(names) - 3} more" if names[3:] else ""
    return ", ".join(names[:3]) + more


def one_host(text: str) -> list[str]:
    """The name of one node, in a list."""
    hosts = expand_hosts(text)
    if len(hosts) != 1:
        raise ValueError(f"{text!r} is not the name of one node")
    return hosts


def partition_name(text: str) -> str:
    """A partition's name; ValueError for what Slurm would not take as one."""
    if not text or any(char.isspace() or char in "[](),;|=" for char in text):
        raise ValueError(f"{text!r} is not the name of a partition")
    return text


def make_node(record: Record) -> Node:
    """Make a node from a record of `scontrol show node`."""
    cpus = record.read("CPUEfctv", parse_number)  # without those that Slurm keeps; since 22.05
    threads = record.read("ThreadsPerCore", parse_number)
    if not cpus and (cpus := record.read("CPUTot", parse_number)):
        cpus -= (record.read("CoreSpecCount", parse_number) or 0) * (threads or 1)
    memory = record.read("RealMemory", parse_number)
    gpus, source = record.read("Gres", parse_gpus), f"{FROM_NODE}: Gres"
    if not gpus and (tres := parse_tres_gpus(record.get("CfgTRES"))):
        gpus, source = tres, f"{FROM_NODE}: CfgTRES"
    features = "AvailableFeatures" if "AvailableFeatures" in record.fields else "Features"
    return Node(
        record.get("NodeName"),
        cpus,
        threads,
        memory - (record.read("MemSpecLimit", parse_number) or 0) if memory else None,
        gpus,
        "" if gpus is None else source,
        record.read(features, split_features),
        parse_state(record.get("State")),
        record.get("Arch") or None,
    )


def make_partition(
    record: Record, associations: list[dict[str, str]], groups: set[str]
) -> Partition:
    """Make a partition from a record of `scontrol show partition`, of old versions too (Shared=).

    `associations` and `groups` are the reader's own: a partition for one of them is open.
    """
    qos, defaults = record.get("QoS", "N/A"), record.get("JobDefaults")
    allowed = record.get("AllowQos", "ALL")
    return Partition(
        record.read("PartitionName", partition_name),
        default=record.get("Default") == "YES",
        up=record.get("State", "UP") == "UP",
        closed_by=find_bar(record, associations, groups),
        time_limit=record.read("MaxTime", parse_limit),
        default_time=record.read("DefaultTime", parse_limit),
        max_nodes=record.read("MaxNodes", parse_number),
        min_nodes=record.read("MinNodes", parse_number),
        max_cpus_per_node=record.read("MaxCPUsPerNode", parse_number),
        max_mem_per_node_mb=record.read("MaxMemPerNode", parse_number),
        max_mem_per_cpu_mb=record.read("MaxMemPerCPU", parse_number),
        cpus_per_gpu=record.read("JobDefaults", find_cpus_per_gpu),
        job_defaults=None if defaults.lower() in NOTHING else defaults,
        exclusive=record.get("OverSubscribe", record.get("Shared")).startswith("EXCL"),
        qos=None if qos.lower() in NOTHING else qos,
        allow_qos=None if allowed.lower() in {"all", *NOTHING} else allowed,
        limits_from=FROM_PARTITION,
    )


def find_cpus_per_gpu(defaults: str) -> int | None:
    """DefCpuPerGPU of JobDefaults: `DefCpuPerGPU=5,DefMemPerGPU=62000` -> 5."""
    pairs = dict(part.split("=", 1) for part in defaults.split(",") if "=" in part)
    return parse_number(pairs.get("DefCpuPerGPU", ""))


def find_bar(record: Record, associations: list[dict[str, str]], groups: set[str]) -> str:
    """What keeps me out of a partition, as scontrol writes it; "" where nothing is seen to.

    The database has accounts in small letters, slurm.conf may write them otherwise.
    """
    accounts = {row["account"].lower() for row in associations}
    qos = {name for row in associations for name in row["qos"].lower().split(",")}
    denied = set(record.get("DenyAccounts").lower().split(",")) - {"", "none", "(null)"}
    bars = {
        "RootOnly": record.get("RootOnly") == "YES",
        "AllowGroups": not allows(record.get("AllowGroups", "ALL"), {g.lower() for g in groups}),
        "AllowAccounts": not allows(record.get("AllowAccounts", "ALL"), accounts),
        "DenyAccounts": bool(accounts) and accounts <= denied,
        # Without associations nothing is known of mine.
        "AllowQos": bool(associations) and not allows(record.get("AllowQos", "ALL"), qos),
    }
    return next((f"{name}={record.get(name)}" for name, bar in bars.items() if bar), "")


def allows(names: str, mine: set[str]) -> bool:
    """Say whether a list of names is of all, or has one of `mine`."""
    return bool(set(names.lower().split(",")) & (mine | {"all", *NOTHING}))


def close_others(partitions: dict[str, Partition], associations: list[dict[str, str]]) -> None:
    """Where each association is with one partition, the other partitions are not open to me."""
    named = {row["partition"].lower() for row in associations}
    if named and "" not in named:
        for name, partition in partitions.items():
            if name.lower() not in named:
                partition.closed_by = partition.closed_by or "your associations name others"


def add_sinfo_row(
    row: Record,
    nodes: dict[str, Node],
    partitions: dict[str, Partition],
    members: dict[str, dict[str, None]],
) -> None:
    """Fill in from one row of sinfo what scontrol did not say."""
    name = partition_name_of(row)
    if name not in partitions:
        low, dash, high = row.get("job_size").partition("-")
        row.fields |= {"min_nodes": low, "max_nodes": high if dash else low}
        row.lines |= dict.fromkeys(["min_nodes", "max_nodes"], row.lines["job_size"])
        partitions[name] = Partition(
            name,
            default=row.get("partition").endswith("*"),
            up=row.get("avail") == "up",
            time_limit=row.read("time", parse_limit),
            default_time=row.read("default_time", parse_limit),
            max_nodes=row.read("max_nodes", parse_number),
            min_nodes=row.read("min_nodes", parse_number),
            exclusive=row.get("oversubscribe").upper().startswith("EXCL"),
            limits_from=FROM_SINFO,
        )
    count, hosts = row.read("count", parse_number), row.read("hosts", expand_hosts)
    if count != len(hosts):
        why = f"{count} NODES, but NODELIST names {len(hosts)}"
        raise row.sources.refuse(row.file, row.lines["hosts"], why)
    for host in hosts:
        fill_node(nodes.setdefault(host, Node(host)), row)
        members.setdefault(name, {})[host] = None


def partition_name_of(row: Record) -> str:
    """The partition of a row of sinfo, without the mark of the default."""
    return row.read("partition", lambda text: partition_name(text.rstrip("*")))


def fill_node(node: Node, row: Record) -> None:
    """Take from a row of sinfo what is unknown of the node."""
    found = {
        "cpus": row.read("cpus", parse_number),
        "threads_per_core": row.read("sct", lambda text: parse_number(text.rpartition(":")[2])),
        "memory_mb": row.read("memory", parse_number),
        "features": row.read("features", split_features),
        "state": row.read("state", parse_state),
    }
    for key, value in found.items():
        if getattr(node, key) is None:
            setattr(node, key, value)
    if node.gpus is None:
        node.gpus, node.gpus_from = row.read("gres", parse_gpus), f"{FROM_SINFO}: GRES"


def make_config(values: dict[str, str]) -> Config:
    """Make the configuration from the values of `scontrol show config`."""

    def get(key: str) -> str | None:
        value = values.get(key, "")
        return None if value.lower() in NOTHING else value

    select, parameters = get("selecttype"), get("selecttypeparameters") or ""
    tres = "cons_tres" in f"{select} {parameters}".lower()
    storage = values.get("accountingstoragetype")
    return Config(
        get("clustername"),
        get("slurm_version"),
        select,
        parameters or None,
        tres if select else None,
        "memory" in parameters.lower() if select else None,
        "slurmdbd" in storage if storage is not None else None,
        get("accountingstorageenforce"),
        get("enforcepartlimits"),
        get("jobsubmitplugins"),
        get("grestypes"),
    )
