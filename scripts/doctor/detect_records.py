"""One record of scontrol at a time: a node, a partition, the configuration."""

import re
from dataclasses import dataclass, field

from doctor.detect_sources import name_source
from doctor.detect_text import (
    NOTHING,
    Gpus,
    parse_config,
    parse_gpus,
    parse_number,
    parse_state,
    parse_time,
    parse_tres_gpus,
)

NODE, PARTITION, SINFO = map(
    name_source, ["scontrol_show_node.txt", "scontrol_show_partition.txt", "sinfo.txt"]
)


@dataclass
class Node:
    """One node; None is what nobody said. `gpus_from` names the output and the field."""

    name: str
    cpus: int | None = None
    threads_per_core: int | None = None
    memory_mb: int | None = None
    gpus: Gpus | None = None
    gpus_from: str = ""
    features: tuple[str, ...] | None = None
    state: str | None = None


@dataclass
class Partition:
    """One partition; limits as parse_time and parse_number return them."""

    name: str
    default: bool = False
    up: bool = True
    open_to_me: bool = True
    time_limit: str | None = None
    default_time: str | None = None
    max_nodes: int | None = None
    min_nodes: int | None = None
    max_cpus_per_node: int | None = None
    max_mem_per_node_mb: int | None = None
    max_mem_per_cpu_mb: int | None = None
    cpus_per_gpu: int | None = None
    exclusive: bool = False
    qos: str | None = None
    limits_from: str = ""
    nodes: list[Node] = field(default_factory=list)


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


def read_node(name: str, record: dict[str, str]) -> Node:
    """Read a record of `scontrol show node`."""
    cpus = parse_number(record.get("CPUEfctv"))  # without those that Slurm keeps; since 22.05
    if not cpus and (cpus := parse_number(record.get("CPUTot"))):
        kept = parse_number(record.get("CoreSpecCount")) or 0
        cpus -= kept * (parse_number(record.get("ThreadsPerCore")) or 1)
    memory = parse_number(record.get("RealMemory"))
    gpus, source = None, ""
    if "Gres" in record:
        gpus, source = parse_gpus(record["Gres"]), f"{NODE}: Gres"
    if not gpus and (tres := parse_tres_gpus(record.get("CfgTRES", ""))):
        gpus, source = tres, f"{NODE}: CfgTRES"
    features = record.get("AvailableFeatures", record.get("Features"))
    return Node(
        name,
        cpus,
        parse_number(record.get("ThreadsPerCore")),
        memory - (parse_number(record.get("MemSpecLimit")) or 0) if memory else None,
        gpus,
        source,
        split_features(features),
        parse_state(record.get("State", "")),
    )


def split_features(text: str | None) -> tuple[str, ...] | None:
    """`a100,ib` -> ("a100", "ib"); `(null)` -> (); None stays."""
    if text is None:
        return None
    return () if text.lower() in NOTHING else tuple(filter(None, re.split(r"[,\s&]+", text)))


def read_partition(record: dict[str, str], accounts: set[str]) -> Partition:
    """Read a record of `scontrol show partition`, of old versions too (Shared=).

    `accounts` are the reader's own: a partition for one of them is open.
    """
    mine = is_open(record, accounts) and record.get("AllowGroups", "ALL") == "ALL"
    defaults = dict(
        part.split("=", 1) for part in record.get("JobDefaults", "").split(",") if "=" in part
    )
    qos = record.get("QoS", "N/A")
    return Partition(
        record["PartitionName"],
        default=record.get("Default") == "YES",
        up=record.get("State", "UP") == "UP",
        open_to_me=mine and record.get("RootOnly", "NO") == "NO",
        time_limit=parse_time(record.get("MaxTime")),
        default_time=parse_time(record.get("DefaultTime")),
        max_nodes=parse_number(record.get("MaxNodes")),
        min_nodes=parse_number(record.get("MinNodes")),
        max_cpus_per_node=parse_number(record.get("MaxCPUsPerNode")),
        max_mem_per_node_mb=parse_number(record.get("MaxMemPerNode")),
        max_mem_per_cpu_mb=parse_number(record.get("MaxMemPerCPU")),
        cpus_per_gpu=parse_number(defaults.get("DefCpuPerGPU")),
        exclusive=record.get("OverSubscribe", record.get("Shared", "")).startswith("EXCL"),
        qos=None if qos.lower() in NOTHING else qos,
        limits_from=PARTITION,
    )


def is_open(record: dict[str, str], accounts: set[str]) -> bool:
    """Say whether a partition takes one of my accounts: AllowAccounts, or else DenyAccounts.

    The database has accounts in small letters, slurm.conf may write them otherwise.
    """
    mine = {name.lower() for name in accounts}
    allowed = set(record.get("AllowAccounts", "ALL").lower().split(","))
    denied = set(record.get("DenyAccounts", "").lower().split(",")) - {"", "none", "(null)"}
    return bool(allowed & (mine | {"all"})) and not (mine and mine <= denied)


def read_config(text: str) -> Config:
    """Read `scontrol show config`."""
    values = parse_config(text)

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
