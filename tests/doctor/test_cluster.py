"""What scontrol and sacctmgr print from 20.11 to 24.11, and what the doctor reads there.

The records are written after the manual pages and public outputs of each release; no line of
them is a real cluster's.
"""

import pytest

from doctor import describe_cluster, detect
from doctor.cluster import make_node, make_partition
from doctor.sources import NODES, PARTITIONS, Sources, read_associations, read_records
from slurm_shapes import SINFO_HEADER

# One node per release; where the lines break differs, which the reader must not mind.
RECORDS = {
    "20.11": (
        """NodeName=old1 Arch=x86_64 CoresPerSocket=16
   CPUAlloc=0 CPUTot=64 CPULoad=0.01
   AvailableFeatures=v100,ib
   ActiveFeatures=v100,ib
   Gres=gpu:v100:4(S:0-1),lscratch:3200
   NodeAddr=old1 NodeHostName=old1 Version=20.11.9
   OS=Linux 3.10.0-1160.el7.x86_64 #1 SMP Mon Oct 19 16:18:59 UTC 2020
   RealMemory=192000 AllocMem=0 FreeMem=180000 Sockets=2 Boards=1
   CoreSpecCount=2 MemSpecLimit=2000
   State=IDLE+DRAIN ThreadsPerCore=2 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   Partitions=gpu,debug
   CfgTRES=cpu=64,mem=187.50G,billing=64,gres/gpu=4
   CapWatts=n/a
   Comment=(null)
   Reason=Gres=gpu:9 lost State=IDLE [root@2021-06-01T10:00:00]
""",
        (60, 2, 190000, {"v100": 4}, ("v100", "ib"), "idle+drain"),
    ),
    "21.08, with -d": (
        """NodeName=k1 Arch=x86_64 CoresPerSocket=14
   CPUAlloc=0 CPUTot=28 CPULoad=N/A
   AvailableFeatures=(null)
   Gres=gpu:k80:7(S:0-1)
   GresDrain=N/A
   GresUsed=gpu:k80:0(IDX:N/A)
   NodeAddr=k1 NodeHostName=k1 Version=21.08.8-2
   RealMemory=512000 AllocMem=0 FreeMem=N/A Sockets=2 Boards=1
   State=MIXED*+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=6
   Partitions=gpu
   CfgTRES=cpu=28,mem=500G,billing=728,gres/gpu=7
""",
        (28, 1, 512000, {"k80": 7}, (), "mixed+not_responding+drain"),
    ),
    "22.05, nothing tracked": (
        """NodeName=a1 Arch=x86_64 CoresPerSocket=64
   CPUAlloc=8 CPUEfctv=124 CPUTot=128 CPULoad=8.01
   AvailableFeatures=a100&80gb
   Gres=gpu:8(S:0)
   NodeAddr=a1 NodeHostName=a1 Version=22.05.8
   RealMemory=1031000 AllocMem=8192 FreeMem=900000 Sockets=2 Boards=1
   CoreSpecCount=4 CPUSpecList=124-127
   State=MIXED ThreadsPerCore=1 TmpDisk=0 Weight=1
   CfgTRES=cpu=124,mem=1031000M,billing=124
""",
        (124, 1, 1031000, {None: 8}, ("a100", "80gb"), "mixed"),
    ),
    "23.02, no CfgTRES": (
        "NodeName=h1 Arch=x86_64 CoresPerSocket=48\n   CPUAlloc=0 CPUEfctv=96 CPUTot=96 "
        "AvailableFeatures=(null) Gres=gpu:(null):8(IDX:0-7) NodeAddr=h1 Version=23.02.7\n"
        "   OS=Linux 5.15.0-91-generic #101-Ubuntu SMP  RealMemory=2063000 State=IDLE+PLANNED "
        "ThreadsPerCore=1 Partitions=gpu\n",
        (96, 1, 2063000, {None: 8}, (), "idle+planned"),
    ),
    "23.11": (
        """NodeName=m1 Arch=x86_64 CoresPerSocket=32
   CPUAlloc=0 CPUEfctv=64 CPUTot=64 CPULoad=0.00
   AvailableFeatures=a100,mig
   Gres=gpu:a100_3g.20gb:4(S:0),gpu:a100:2(S:1),nvme:1
   RealMemory=515000 Sockets=2 Boards=1
   State=IDLE+CLOUD+POWERED_DOWN ThreadsPerCore=1 TmpDisk=0 Weight=1
   LastBusyTime=2024-01-23T11:37:06 ResumeAfterTime=None
   CfgTRES=cpu=64,mem=515000M,billing=64,gres/gpu=6,gres/gpu:a100=2
   ExtSensorsJoules=n/a ExtSensorsWatts=0 ExtSensorsTemp=n/a
""",
        (64, 1, 515000, {"a100_3g.20gb": 4, "a100": 2}, ("a100", "mig"),
         "idle+cloud+powered_down"),
    ),
    "24.05, no Gres but CfgTRES": (
        """NodeName=g1 Arch=aarch64 CoresPerSocket=72
   CPUAlloc=0 CPUEfctv=288 CPUTot=288 CPULoad=0.00
   AvailableFeatures=gh200
   Gres=(null)
   RealMemory=870000 State=DOWN+NOT_RESPONDING ThreadsPerCore=1
   CfgTRES=cpu=288,mem=870000M,billing=288,gres/gpu=4,gres/gpu:gh200=4
   Extra=Gres=gpu:1
   InstanceId= InstanceType=
""",
        (288, 1, 870000, {"gh200": 4}, ("gh200",), "down+not_responding"),
    ),
    "24.11": (
        """NodeName=b1 Arch=x86_64 CoresPerSocket=56
   CPUAlloc=0 CPUEfctv=224 CPUTot=224 CPULoad=0.00
   AvailableFeatures=b200,location=local
   ActiveFeatures=b200,location=local
   Gres=gpu:b200:8(S:0-1),shard:64
   RealMemory=2000000 State=IDLE+DYNAMIC_NORM ThreadsPerCore=2
   CfgTRES=cpu=224,mem=2000000M,billing=224,gres/gpu=8,gres/gpu:b200=8,gres/shard=64
   Topology=default:leaf1
""",
        (224, 2, 2000000, {"b200": 8}, ("b200", "location=local"), "idle+dynamic_norm"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("version", RECORDS)
def test_a_node_of_each_release(version):
    text, expected = RECORDS[version]
    (record,) = read_records(Sources("a test", {NODES: text}), NODES)
    node = make_node(record)
    assert expected == (
        node.cpus, node.threads_per_core, node.memory_mb, node.gpus, node.features, node.state,
    )  # fmt: skip


LIMITS = {
    "20.11": (
        "PartitionName=gpu\n   AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL\n   AllocNodes=ALL "
        "Default=YES QoS=N/A\n   DefaultTime=01:00:00 MaxNodes=UNLIMITED MaxTime=2-00:00:00 "
        "MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED\n   OverSubscribe=NO State=UP "
        "JobDefaults=(null)\n   DefMemPerCPU=4000 MaxMemPerNode=UNLIMITED\n",
        (True, True, "2-00:00:00", None, None, None),
    ),
    "22.05, of others": (
        "PartitionName=lab\n   AllowGroups=ALL AllowAccounts=Lab,guests AllowQos=ALL\n   "
        "Default=NO QoS=lab MaxNodes=2 MaxTime=UNLIMITED MaxCPUsPerNode=32\n   "
        "OverSubscribe=EXCLUSIVE State=UP\n   JobDefaults=DefCpuPerGPU=8,DefMemPerGPU=64000\n",
        (False, False, "unlimited", 2, 32, 8),
    ),
    "23.11, who may not": (
        "PartitionName=gpu\n   AllowGroups=ALL DenyAccounts=students,mine DenyQos=debug\n   "
        "Default=NO QoS=N/A MaxNodes=UNLIMITED MaxTime=12:00:00 MaxCPUsPerNode=UNLIMITED "
        "MaxCPUsPerSocket=UNLIMITED\n   ExclusiveTopo=NO State=UP\n",
        (False, False, "12:00:00", None, None, None),
    ),
    "24.11, closed": (
        "PartitionName=gpu\n   AllowGroups=ALL AllowAccounts=ALL Default=NO MaxTime=NONE "
        "MaxNodes=UNLIMITED PowerDownOnIdle=NO State=INACTIVE RootOnly=YES\n",
        (False, False, None, None, None, None),
    ),
}  # fmt: skip


def read_limits(version: str, accounts: set[str]):
    text = LIMITS[version][0]
    (record,) = read_records(Sources("a test", {PARTITIONS: text}), PARTITIONS)
    return make_partition(record, [{"account": name, "qos": ""} for name in accounts], set())


@pytest.mark.parametrize("version", LIMITS)
def test_a_partition_of_each_release(version):
    place = read_limits(version, {"mine"})
    assert LIMITS[version][1] == (
        place.default, place.open_to_me, place.time_limit, place.max_nodes,
        place.max_cpus_per_node, place.cpus_per_gpu,
    )  # fmt: skip


def test_accounts_are_compared_in_small_letters_as_the_database_has_them():
    assert read_limits("22.05, of others", {"lab"}).open_to_me
    assert read_limits("23.11, who may not", {"mine", "other"}).open_to_me
    assert read_limits("23.11, who may not", set()).open_to_me  # nobody knows


def test_nodes_that_each_partition_lists_again_are_counted_once_in_each():
    row = "{}|up|1:00|n/a|1-infinite|NO|{}|idle|64|2:32:1|257000|gpu:a100:4(S:0-1)|(null)|{}\n"
    rows = [("gpu*", 2, "g[1-2]"), ("debug", 1, "g1"), ("gpu*", 1, "g1")]
    sinfo = f"{SINFO_HEADER}\n" + "".join(row.format(*cells) for cells in rows)
    found = describe_cluster(detect(Sources("a test", {"sinfo.txt": sinfo})))
    assert [(p["name"], p["default"], p["nodes"]) for p in found["partitions"]] == [
        ("gpu", True, 2), ("debug", False, 1),
    ]  # fmt: skip


def test_a_partitions_total_is_never_its_nodes_gpus():
    node = "NodeName=g{}\n   CPUTot=64 Gres=gpu:4 State=IDLE Partitions=gpu\n"
    texts = {
        PARTITIONS: "PartitionName=gpu\n   Nodes=g[1-4] MaxTime=1:00:00 State=UP\n"
        "   TRES=cpu=256,gres/gpu=16\n",
        NODES: "".join(node.format(k) for k in range(1, 5)),
    }
    (group,) = describe_cluster(detect(Sources("a test", texts)))["partitions"][0]["groups"]
    assert (group["nodes"], group["gpus"]) == (4, [{"type": None, "count": 4}])


# ---- sacctmgr ---------------------------------------------------------------------------

HEAD = "Cluster|Account|Partition|QOS\n"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("there|physics|gpu|long,normal\n",
         [{"cluster": "there", "account": "physics", "partition": "gpu", "qos": "long,normal"}]),
        ("there|physics||normal\r\n",
         [{"cluster": "there", "account": "physics", "partition": "", "qos": "normal"}]),
        ("", []),
    ],
)  # fmt: skip
def test_associations(text, rows):
    assert read_associations(Sources("a test", {"sacctmgr.txt": HEAD + text})) == rows


def detect_associations(text: str):
    partition = "PartitionName={}\n   Nodes=g1 MaxTime=1:00:00 State=UP AllowGroups=ALL\n"
    config = "Configuration data as of 2026-02-03T11:22:33\n"
    texts = {
        "sacctmgr.txt": HEAD + text,
        "scontrol_show_config.txt": f"{config}ClusterName = There\nSLURM_VERSION = 24.11.1\n",
        PARTITIONS: partition.format("gpu") + partition.format("CPU"),
    }
    return detect(Sources("a test", texts))


def test_associations_with_sister_clusters_are_not_mine_here():
    facts = detect_associations("there|physics||normal\nelsewhere|chemistry||normal\n")
    assert [row["account"] for row in facts.associations] == ["physics"]
    assert facts.problems == []


@pytest.mark.parametrize(
    ("rows", "is_open"),
    [
        ("there|physics|gpu|", {"gpu": True, "CPU": False}),
        ("there|physics|cpu|", {"gpu": False, "CPU": True}),
        ("there|physics|gpu|\nthere|maths||", {"gpu": True, "CPU": True}),
        ("elsewhere|physics|gpu|", {"gpu": True, "CPU": True}),
        ("", {"gpu": True, "CPU": True}),
    ],
)
def test_associations_with_one_partition_each_close_the_others(rows, is_open):
    facts = detect_associations(f"{rows}\n")
    assert {place.name: place.open_to_me for place in facts.partitions} == is_open
