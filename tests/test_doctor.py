"""doctor.py on saved outputs of seven clusters, on broken text, and on a real Slurm."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles.cluster import load_cluster
from profiles.detect_choice import choose
from profiles.detect_cluster import describe, detect
from profiles.detect_draft import write_draft
from profiles.detect_probe import check_script
from profiles.detect_records import Partition
from profiles.detect_report import report
from profiles.detect_sources import (
    COMMANDS,
    DetectError,
    Sources,
    describe_modules,
    list_interfaces,
    read_folder,
)
from profiles.detect_tables import read_associations, read_sinfo
from profiles.detect_text import (
    expand_hosts,
    is_slice,
    is_usable,
    name_models,
    parse_gpus,
    parse_records,
    parse_state,
    parse_time,
    parse_tres_gpus,
)
from profiles.toml_model import ProfileError
from slurm_cluster import VirtualSlurm

REPO = Path(__file__).resolve().parent.parent
DUMPS = REPO / "tests/slurm_dumps"
SHAPES = sorted(path.name for path in DUMPS.iterdir())


def doctor(*args, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, REPO / "scripts/doctor.py", *args]
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def read_shape(shape: str) -> dict:
    """What is found in a saved shape: its partitions by name, and the rest."""
    found = describe(detect(read_folder(DUMPS / shape)))
    return found | {"partitions": {place["name"]: place for place in found["partitions"]}}


def draft_shape(shape: str) -> tuple[str, dict]:
    """The draft profile for a saved shape: its text, and its values."""
    text = write_draft(detect(read_folder(DUMPS / shape)), "there", "00:30:00")
    return text, tomllib.loads(text)


def list_groups(place: dict) -> list[tuple]:
    """(nodes, usable, GPUs, CPUs, threads, MB) of a partition's groups."""
    groups = []
    for group in place["groups"]:
        gpus = {gpu["type"]: gpu["count"] for gpu in group["gpus"]}
        told = (group["cpus"], group["threads_per_core"], group["memory_mb"])
        groups.append((group["nodes"], group["usable"], gpus, *told))
    return groups


# ---- The words of Slurm -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("r[1-2]n[01-03],login1", "r1n01 r1n02 r1n03 r2n01 r2n02 r2n03 login1"),
        ("n0[004-006,100].savio[1]", "n0004.savio1 n0005.savio1 n0006.savio1 n0100.savio1"),
        ("a[08-10]-ib", "a08-ib a09-ib a10-ib"),
        ("one,two", "one two"),
        ("(null)", ""),
        ("gpu[01-", "gpu[01-"),  # cut to its column
        ("gpu[3-1]", "gpu[3-1]"),
        ("n[0-99999999]", "n[0-99999999]"),
    ],
)
def test_host_lists(text, hosts):
    assert expand_hosts(text) == hosts.split()


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:8(S:0)", {None: 8}),
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:(null):8(IDX:0-7)", {None: 8}),
        ("(null)", {}),
        ("", {}),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", {"a100": 4}),
        ("gpu:a100:4(S:0,2),gpu:t4:2,lscratch:3200", {"a100": 4, "t4": 2}),
        ("nvme:100,lscratch:3200,shard:24", {}),
        ("gpu:a100_1g.5gb:7(S:0),gpu:a100_3g.20gb:2", {"a100_1g.5gb": 7, "a100_3g.20gb": 2}),
        ("gpu:tesla:no_consume:2", {"tesla": 2}),
        ("gres/gpu:h100:4", {"h100": 4}),
        ("gpu", {None: 1}),
        ("gpu:v100-32:16", {"v100-32": 16}),
        ("gpu:0", {}),
    ],
)
def test_gpus_of_a_node(gres, gpus):
    assert parse_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("cpu=64,mem=500G,billing=64,gres/gpu=4,gres/gpu:a100=4", {"a100": 4}),
        ("cpu=64,mem=500G,gres/gpu=8", {None: 8}),
        ("cpu=64,gres/gpu=16,gres/gpu:b200=4", {None: 16}),  # the other 12 are not tracked
        ("cpu=64,mem=500G,billing=64", {}),
    ],
)
def test_gpus_of_a_nodes_tres(tres, gpus):
    assert parse_tres_gpus(tres) == gpus


@pytest.mark.parametrize(
    ("text", "state", "usable"),
    [
        ("MIXED+DRAIN", "mixed+drain", False),
        ("drain$", "drain+maintenance", False),
        ("mix-", "mixed+planned", True),
        ("idle~", "idle+powered_down", True),
        ("down*", "down+not_responding", False),
        ("DOWN*+DRAIN", "down+not_responding+drain", False),
        ("IDLE+CLOUD+POWERED_DOWN", "idle+cloud+powered_down", True),
        ("alloc", "allocated", True),
        ("drng", "draining", False),
        ("resv", "reserved", True),
        ("", None, True),
    ],
)
def test_states(text, state, usable):
    assert (parse_state(text), is_usable(parse_state(text))) == (state, usable)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1-00:00:00", "1-00:00:00"), ("UNLIMITED", "unlimited"), ("infinite", "unlimited"),
        ("NONE", None), ("n/a", None), (None, None), ("20:00", "00:20:00"), ("2:00:00", "02:00:00"),
        ("30", "00:30:00"), ("2-12", "2-12:00:00"), ("72:00:00", "3-00:00:00"), ("soon", None),
    ],
)  # fmt: skip
def test_times(text, limit):
    assert parse_time(text) == limit


def test_features_that_name_a_gpu():
    names = "a100 v100-32g mi250x rtx_a6000 gh200 t4 l40s gtx1080ti titan_rtx h100 gpu_v100"
    others = "amd ib icelake rack1 mem512GB 4gpus 48core gpu avx512 bigmem edr hdr100 c6420 n1"
    assert name_models(tuple(names.split())) == tuple(sorted(names.split()))
    assert name_models(tuple(others.split())) == ()
    assert is_slice("1g.5gb") and is_slice("nvidia_b200_3g.90gb") and not is_slice("v100-32g")


def test_what_people_write_is_no_field():
    text = "NodeName=g1 State=DOWN Reason=bad State=IDLE Gres=gpu:9 [root@2026-01-01T00:00:00]\n"
    assert parse_records(text, "NodeName") == [
        {"NodeName": "g1", "State": "DOWN",
         "Reason": "bad State=IDLE Gres=gpu:9 [root@2026-01-01T00:00:00]"}
    ]  # fmt: skip


# ---- Tables -----------------------------------------------------------------------------


def test_sinfo_in_its_formats():
    default = "PARTITION AVAIL  TIMELIMIT  NODES  STATE NODELIST\ngpu*  up 1:00 2 idle~ g[1-2]\n"
    assert read_sinfo(default) == [
        {"partition": "gpu*", "avail": "up", "time": "1:00", "count": "2", "state": "idle~",
         "hosts": "g[1-2]"}
    ]  # fmt: skip
    reason = "HOSTNAMES REASON USER\ng1 Kill task failed root\n"
    assert read_sinfo(reason) == [{"hosts": "g1", "reason": "Kill task failed"}]
    empty_cell = (
        "PARTITION AVAIL  JOB_SIZE STATE RESERVATION NODELIST\n"
        "gpu*      up   1-infinite  idle             g1\n"
    )
    assert read_sinfo(empty_cell)[0]["hosts"] == "g1"
    commas = "HOSTNAMES,CPUS,GRES\ng1,64,gpu:4(S:0,1)\n"
    assert read_sinfo(commas) == [{"hosts": "g1", "cpus": "64", "gres": "gpu:4(S:0,1)"}]
    summary = "PARTITION AVAIL TIMELIMIT NODES(A/I/O/T) NODELIST\ngpu up 5:00 1/2/0/3 g[1-3]\n"
    assert read_sinfo(summary)[0]["hosts"] == "g[1-3]"
    assert read_sinfo("sinfo: error: Unable to contact slurm controller\n") == []


def test_sinfo_without_names_of_nodes():
    text = "PARTITION NODES GRES CPUS\ngpu* 10 gpu:v100:4 40+\ngpu* 2 (null) 40\ncpu 3 (null) 64\n"
    found = describe(detect(Sources("a test", {"sinfo.txt": text})))
    gpu, cpu = found["partitions"]
    assert list_groups(gpu) == [(10, 10, {"v100": 4}, 40, None, None), (2, 2, {}, 40, None, None)]
    assert (gpu["nodes"], gpu["groups"][0]["hosts"], cpu["nodes"]) == (12, [], 3)


def test_associations_in_columns():
    text = """   Cluster    Account       User  Partition                  QOS
---------- ---------- ---------- ---------- --------------------
   aurelia    physics         me                  normal,long
"""
    (row,) = read_associations(text)
    assert (row["account"], row["user"], row["partition"]) == ("physics", "me", "")


def test_interfaces_without_loopback_and_bridges():
    text = (DUMPS / "typed/ip_address.txt").read_text()
    assert [(link["name"], link["state"]) for link in list_interfaces(text)] == [
        ("eno1", "UP"), ("ib0", "UP"),
    ]  # fmt: skip


# ---- Seven clusters, answers known ------------------------------------------------------

FOUND = {
    ("typed", "batch"): ("7-00:00:00", [(4, 4, {}, 64, 1, 257000)]),
    ("typed", "gpu"): ("2-00:00:00", [(6, 4, {"a100": 4}, 128, 2, 515000)]),
    ("typed", "gpu-debug"): ("00:20:00", [(2, 2, {"a100": 4}, 128, 2, 515000)]),
    ("untyped_oneline", "GPU"): ("2-00:00:00", [(10, 10, {None: 8}, 40, 1, 515000)]),
    ("untyped_oneline", "GPU-shared"): ("unlimited", [(10, 10, {None: 8}, 40, 1, 515000)]),
    ("heterogeneous", "gpu"): (
        "12:00:00",
        [
            (1, 1, {"a100_1g.5gb": 7, "a100_3g.20gb": 2}, 56, 1, 256000),
            (4, 4, {"a100": 8}, 64, 1, 1031000),
            (1, 1, {"rtx_a6000": 4, "tesla_t4": 2}, 48, 1, 384000),
            (10, 10, {"v100": 4}, 32, 1, 192000),
            (2, 2, {"a100": 4}, 32, 1, 256000),
        ],
    ),
    ("no_accounting", "debug"): (
        "unlimited", [(3, 3, {None: 4}, 32, 1, 128000), (1, 1, {None: 4}, 32, 1, 128000)],
    ),
    ("odd_states", "gpu"): (None, [(4, 2, {"h100": 4}, 96, 2, 772000)]),
    ("odd_states", "long"): (
        None, [(2, 1, {"h100": 4}, 96, 2, 772000), (1, 1, {}, 96, 2, 256000)],
    ),
    ("minimal_old", "old"): ("00:10:00", [(2, 1, {None: 2}, 16, 1, 64000)]),
    ("whole_nodes", "single"): ("02:00:00", [(2, 2, {"gh200": 1}, 16, 1, 128000)]),
    ("whole_nodes", "eight"): ("1-00:00:00", [(21, 20, {"gh200": 8}, 128, 1, 1000000)]),
}  # fmt: skip


def test_every_partition_of_the_shapes():
    found = {
        (shape, name): (place["time_limit"], list_groups(place))
        for shape in SHAPES
        for name, place in read_shape(shape)["partitions"].items()
    }
    assert found == FOUND


def test_configuration_and_surroundings():
    found = read_shape("typed")
    assert found["config"] == {
        "cluster": "aurelia", "version": "23.11.4", "select_type": "select/cons_tres",
        "select_parameters": "CR_CORE_MEMORY", "cons_tres": True, "memory_is_counted": True,
        "accounting": True, "accounting_enforce": "associations,limits,qos",
        "enforce_part_limits": "ALL", "job_submit_plugins": "lua", "gres_types": "gpu",
    }  # fmt: skip
    assert [row["account"] for row in found["associations"]] == ["physics", "teaching"]
    assert found["modules"]["system"] == "Lmod"
    assert found["problems"] == []
    gpu = found["partitions"]["gpu"]
    assert (gpu["max_nodes"], gpu["qos"], gpu["default"]) == (4, "gpu_part", False)
    assert gpu["groups"][0]["features"] == ["amd", "ib", "a100"]
    states = {"mixed": 4, "mixed+drain": 1, "down+not_responding": 1}
    assert gpu["groups"][0]["states"] == states
    config = read_shape("no_accounting")["config"]
    assert (config["accounting"], config["cons_tres"]) == (False, False)
    assert set(read_shape("odd_states")["config"].values()) == {None}


DRAFTED = {
    "typed": {
        "gpus_per_node": 4, "nodes": 4, "gpu_request": ["gres"], "gpu_type": "a100",
        "partition": "gpu", "cpus_per_node": 128, "cpus_per_gpu": 32, "mem_per_gpu": "128750M",
    },
    "untyped_oneline": {
        "gpus_per_node": 8, "nodes": 10, "gpu_request": ["gpus-per-node"],
        "partition": [
            {"gpus_per_node": "1-7", "nodes": "1", "use": "GPU-shared"}, {"use": "GPU"},
        ],
        "cpus_per_node": 40, "cpus_per_gpu": 5, "mem_per_gpu": "64375M",
    },
    "heterogeneous": {
        "gpus_per_node": 8, "nodes": 6, "gpu_request": ["gres"], "gpu_type": "a100",
        "cannot_run": [
            {"gpus_per_node": "5-8", "nodes": "5+",
             "because": "only 4 nodes can be had with 5-8 GPUs each"},
        ],
        "partition": "gpu", "cpus_per_node": 64, "cpus_per_gpu": 8, "mem_per_gpu": "64000M",
    },
    "no_accounting": {
        "gpus_per_node": 4, "nodes": 3, "gpu_request": ["gres"], "partition": "debug",
        "constraint": "titan_rtx", "cpus_per_node": 32, "cpus_per_gpu": 8,
        "mem": [{"gpus_per_node": str(n), "use": f"{32000 * n}M"} for n in range(1, 5)],
    },
    "odd_states": {
        "gpus_per_node": 4, "nodes": 4, "gpu_request": ["gres"], "gpu_type": "h100",
        "partition": "gpu", "cpus_per_node": 96, "cpus_per_gpu": 24,
        "mem": [{"gpus_per_node": str(n), "use": f"{193000 * n}M"} for n in range(1, 5)],
    },
    "minimal_old": {
        "gpus_per_node": 2, "nodes": 2, "gpu_request": ["gres"], "partition": "old",
        "time": "00:10:00", "cpus_per_node": 16, "cpus_per_gpu": 8,
        "mem": [{"gpus_per_node": str(n), "use": f"{32000 * n}M"} for n in range(1, 3)],
    },
    "whole_nodes": {
        "gpus_per_node": 8, "nodes": 16, "gpu_request": ["gres"], "gpu_type": "gh200",
        "partition": [
            {"gpus_per_node": "1", "nodes": "1-2", "use": "single"}, {"use": "eight"},
        ],
        "cpus_per_node": 128, "cpus_per_gpu": 16, "mem": "0",
    },
}  # fmt: skip


def test_drafts_state_what_is_known():
    assert {shape: draft_shape(shape)[1] for shape in SHAPES} == {
        shape: {"name": "there"} | values for shape, values in DRAFTED.items()
    }


def test_a_draft_names_its_sources_and_what_it_could_not_know():
    text, _ = draft_shape("typed")
    for line in [
        "# scontrol show node: Gres",
        "# nodes of partition gpu; MaxNodes=4 of gpu; 2 down or drained now",
        '# At most time = "2-00:00:00" (scontrol show partition: MaxTime of gpu).',
        "# scontrol show node: CPUTot / GPUs; 2 threads a core",
        "# gpu has the QOS gpu_part, whose limits apply: sacctmgr show qos",
        "# JobSubmitPlugins = lua: the site may change or refuse what a job asks for",
        '# partition = "gpu-debug"',
        "# - the account: sacctmgr: yours are physics, teaching; one is needed.",
        '#     NCCL_SOCKET_IFNAME = "ib0"',
        "#     [data_dir]",
    ]:
        assert line in text
    assert max(map(len, text.splitlines())) <= 100
    assert "no associations were read" in draft_shape("minimal_old")[0]


def test_other_gpus_are_a_choice_not_an_average():
    text, _ = draft_shape("heterogeneous")
    block = text[text.index("# Or v100") :].split("\n\n")[0]
    values = tomllib.loads("\n".join(line[2:] for line in block.splitlines()[1:]))
    assert values == {
        "gpus_per_node": 4, "nodes": 10, "gpu_request": ["gres"], "gpu_type": "v100",
        "partition": "gpu", "cpus_per_node": 32, "cpus_per_gpu": 8, "mem_per_gpu": "48000M",
    }  # fmt: skip
    assert "# Or a100_3g.20gb: 1 node of partition gpu, time limit 12:00:00; slices" in text


PARTITION = "PartitionName={} AllowGroups=ALL Nodes={} State=UP MaxTime=1:00:00 {}\n"
NODE = "NodeName={} CPUTot=32 RealMemory=64000 Gres={} State=IDLE\n"


def detect_text(partitions: str, nodes: str = "", config: str = ""):
    """Detect in texts of scontrol."""
    return detect(
        Sources(
            "a test",
            {"scontrol_show_partition.txt": partitions, "scontrol_show_node.txt": nodes,
             "scontrol_show_config.txt": config},
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("partitions", "rules"),
    [
        (  # short and long, the same nodes: the larger one alone, nothing is gained by a rule
            [("long", "n[1-4]", ""), ("short", "n[1-2]", "")], [({}, "long")],
        ),
        (  # one node at most in the default: more nodes go further
            [("one", "n[1-4]", "MaxNodes=1 Default=YES"), ("many", "n[1-4]", "")],
            [({"nodes": "1"}, "one"), ({}, "many")],
        ),
        (  # at least two nodes: one node goes elsewhere
            [("many", "n[1-4]", "MinNodes=2 Default=YES"), ("one", "n[1-4]", "MaxNodes=1")],
            [({"nodes": "1"}, "one"), ({}, "many")],
        ),
        (  # of three: parts of a node, few nodes, many nodes
            [("part", "n[1-4]", "MaxNodes=1"), ("few", "n[1-4]", "MaxNodes=2 Default=YES "
              "OverSubscribe=EXCLUSIVE"), ("many", "n[1-4]", "OverSubscribe=EXCLUSIVE")],
            [({"gpus_per_node": "1-3", "nodes": "1"}, "part"), ({"nodes": "1-2"}, "few"),
             ({}, "many")],
        ),
        (  # a group's own, one that is not up, one for trying out: never by a rule
            [("gpu", "n[1-2]", "MaxNodes=1 Default=YES"), ("lab", "n[1-4]", "AllowAccounts=lab"),
             ("gputest", "n[1-4]", ""), ("gone", "n[1-4]", "State=DOWN")],
            [({}, "gpu")],
        ),
    ],
)  # fmt: skip
def test_rules_of_partitions(partitions, rules):
    nodes = "".join(NODE.format(f"n{k}", "gpu:4") for k in range(1, 5))
    text = "".join(PARTITION.format(*place) for place in partitions)
    text = text.replace("State=UP MaxTime=1:00:00 State=DOWN", "State=DOWN")
    found = choose(detect_text(text, nodes).partitions).rules
    assert [(where, kind.partition.name) for where, kind in found] == rules


@pytest.mark.parametrize(
    ("limits", "shares"),
    [
        ("", (32, 8, "16000M")),
        ("MaxCPUsPerNode=24", (24, 6, "16000M")),
        ("JobDefaults=DefCpuPerGPU=5,DefMemPerGPU=9000", (32, 5, "16000M")),
        ("MaxMemPerNode=40000", (32, 8, "10000M")),
        ("MaxMemPerCPU=1500", (32, 8, "12000M")),
    ],
)
def test_shares_keep_to_the_partitions_limits(limits, shares):
    partition, node = PARTITION.format("gpu", "n1", limits), NODE.format("n1", "gpu:4")
    config = "SelectType = select/cons_tres\nSelectTypeParameters = CR_CORE_MEMORY\n"
    values = tomllib.loads(write_draft(detect_text(partition, node, config), "x", "00:30:00"))
    keys = ("cpus_per_node", "cpus_per_gpu", "mem_per_gpu")
    assert tuple(values[key] for key in keys) == shares


def test_a_partition_for_my_account_is_open_to_me():
    text = PARTITION.format("lab", "n1", "AllowAccounts=lab,guests")
    texts = {"scontrol_show_partition.txt": text, "sacctmgr.txt": "Account|QOS\nguests|normal\n"}
    assert detect(Sources("a test", texts)).partitions[0].open_to_me
    assert not detect_text(text).partitions[0].open_to_me
    assert (
        not detect_text(text.replace("AllowGroups=ALL", "AllowGroups=x")).partitions[0].open_to_me
    )


def test_modules_are_looked_for_on_this_machine_only(tmp_path):
    for name in ("pytorch", "gcc", "miniconda3"):
        (tmp_path / name).mkdir()
    variables = {"MODULEPATH": f"{tmp_path}:/nowhere", "LMOD_CMD": "/lmod"}
    found = describe_modules(variables, live=True)
    assert (found["system"], found["candidates"]) == ("Lmod", ["miniconda3", "pytorch"])
    assert describe_modules(variables, live=False)["candidates"] == []
    assert describe_modules({}, live=True)["system"] is None


def test_amd_gpus_are_not_nvidias():
    facts = detect_text(PARTITION.format("g", "n1", ""), NODE.format("n1", "gpu:mi250x:8"))
    assert tomllib.loads(write_draft(facts, "x", "00:30:00"))["accelerator"] != "nvidia"


# ---- The command ------------------------------------------------------------------------


def test_report_and_json_and_what_to_run_next():
    done = doctor("--from", DUMPS / "odd_states")
    assert done.returncode == 0, done.stderr
    assert "Partition gpu: 4 nodes, default, time limit not known" in done.stdout
    assert "   4 x  4 x h100  96 CPUs (2 threads a core)  754 GiB" in done.stdout
    assert "not read: scontrol_show_node.txt: not there" in done.stdout
    assert "--write NAME" in done.stdout
    done = doctor("--from", DUMPS / "odd_states", "--json")
    assert json.loads(done.stdout)["partitions"][0]["name"] == "gpu"


def test_write_refuses_to_overwrite_and_the_draft_renders(tmp_path):
    path = tmp_path / "there.toml"
    done = doctor("--from", DUMPS / "whole_nodes", "--write", path)
    assert done.returncode == 0, done.stderr
    assert load_cluster(str(path), tmp_path).partition[1].use == "eight"
    render = [sys.executable, REPO / "render.py", "--cluster", path, "--to", tmp_path / "jobs"]
    subprocess.run(render, check=True, capture_output=True)
    assert len(list(tmp_path.glob("jobs/**/*.slurm"))) >= 7
    before = path.read_text()
    again = doctor("--from", DUMPS / "typed", "--write", path)
    assert (again.returncode, path.read_text()) == (1, before)
    assert again.stderr == f"error: {path} is there already; delete it or choose another NAME\n"


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["--from", "nowhere"], 1, "error: --from nowhere: no such folder\n"),
        (["--write", "../x"], 2, "--write '../x': use letters, digits"),
        (["--json", "--write", "x"], 2, "not allowed with argument"),
    ],
)
def test_mistakes_in_one_line(args, status, said):
    done = doctor(*args)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_slurms_outputs(tmp_path):
    (tmp_path / "sinfo.txt").write_text(" \n")
    done = doctor("--from", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: --from {tmp_path}: has none of scontrol_show_config.txt")


def test_no_gpus_no_draft(tmp_path):
    (tmp_path / "sinfo.txt").write_text("PARTITION NODES GRES\nbatch* 4 (null)\n")
    assert "4 x  no GPU" in doctor("--from", tmp_path).stdout
    done = doctor("--from", tmp_path, "--write", tmp_path / "x.toml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: found no partition with GPUs")
    assert not (tmp_path / "x.toml").exists()


def test_not_on_a_cluster(tmp_path):
    done = doctor(PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: not on a Slurm cluster (scontrol show config: scontrol is not found); "
        "run it on a login node, or use --from DIR\n"
    )


def make_command(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_command_that_fails_or_hangs_is_named(tmp_path, monkeypatch):
    """Stand-ins for a controller that is down: only sinfo answers, sacctmgr never does."""
    make_command(tmp_path, "scontrol", "echo scontrol: error: cannot connect >&2; exit 1")
    make_command(tmp_path, "sinfo", "echo 'PARTITION|NODES|GRES|NODELIST'; echo 'g*|1|gpu:2|n1'")
    make_command(tmp_path, "sacctmgr", "exec /bin/sleep 30")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("profiles.detect_sources.TIMEOUT_S", 0.5)
    from profiles.detect_sources import run_commands

    facts = detect(run_commands())
    assert facts.partitions[0].nodes[0].gpus == {None: 2}
    assert facts.problems == [
        "scontrol show config: exit status 1: scontrol: error: cannot connect",
        "scontrol show partition: exit status 1: scontrol: error: cannot connect",
        "scontrol show node: exit status 1: scontrol: error: cannot connect",
        "sacctmgr --parsable2 show: no answer within 0.5 s",
        "ip -brief address: ip is not found",
    ]


def test_help_loads_nothing_slow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", REPO / "scripts/doctor.py", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--from DIR" in done.stdout
    assert not re.search(r"\b(pydantic|jinja2|profiles)\b", done.stderr)


# ---- Whatever stands in the files -------------------------------------------------------

TEXTS = [path.read_bytes().decode() for path in sorted(DUMPS.glob("*/*.txt"))]
NUMBERS = st.integers(0, 120)


@st.composite
def damaged(draw) -> str:
    """A real-looking output with a piece cut out and another put in."""
    text = draw(st.sampled_from(TEXTS))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 200)))
    words = ["gpu:", "(", "[1-", "]", "=", "\r", "\n", "|", ",", "NodeName=", "UNLIMITED", "9" * 20]
    piece = st.lists(st.one_of(st.sampled_from(words), st.text(max_size=5)), max_size=6)
    return text[:start] + "".join(draw(piece)) + text[end:]


@given(texts=st.dictionaries(st.sampled_from(list(COMMANDS)), st.one_of(damaged(), st.text())))
def test_no_text_breaks_it(texts):
    facts = detect(Sources("a test", texts))
    json.dumps(describe(facts))
    assert report(facts).replace("\n", "").isprintable()
    try:
        text = write_draft(facts, "there", "00:30:00")
    except (DetectError, ProfileError) as error:
        assert str(error).count("\n") == 0
    else:
        assert tomllib.loads(text)["name"] == "there"


@given(
    names=st.lists(
        st.tuples(
            st.from_regex(r"[a-z]{1,4}", fullmatch=True),
            st.lists(st.tuples(NUMBERS, st.integers(0, 5)), max_size=3),
            st.integers(1, 4),
            st.from_regex(r"(-[a-z]{1,3})?", fullmatch=True),
        ),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_host_lists_expand_to_what_they_were_made_of(names):
    parts, hosts = [], []
    for prefix, spans, width, suffix in names:
        if not spans:
            parts.append(prefix + suffix)
            hosts.append(prefix + suffix)
            continue
        words = []
        for first, more in spans:
            last = first + more
            words.append(f"{first:0{width}}-{last:0{width}}" if more else f"{first:0{width}}")
            hosts += [f"{prefix}{number:0{width}}{suffix}" for number in range(first, last + 1)]
        parts.append(f"{prefix}[{','.join(words)}]{suffix}")
    assert expand_hosts(",".join(parts)) == hosts


# ---- A real Slurm -----------------------------------------------------------------------


@pytest.mark.slurm
def test_the_draft_for_a_real_slurm_states_it_and_renders(slurm, tmp_path):
    """The virtual cluster: 2 nodes, each 8 GPUs without a type, 64 CPUs, 262144 MB; 4 h."""
    path = tmp_path / "here.toml"
    command = [sys.executable, REPO / "scripts/doctor.py", "--write", path]
    slurm.run(*command)
    values = tomllib.loads(path.read_text())
    assert values == {
        "name": "here", "gpus_per_node": 8, "nodes": 2, "gpu_request": ["gpus-per-node"],
        "partition": "main", "cpus_per_node": 64, "cpus_per_gpu": 8, "mem_per_gpu": "32768M",
    }  # fmt: skip
    assert '# At most time = "04:00:00" (scontrol show partition: MaxTime of main).' in (
        path.read_text()
    )
    jobs = tmp_path / "jobs"
    render = [sys.executable, REPO / "render.py", "--cluster", path, "--to", jobs]
    shown = slurm.run(*render, "--only", "ddp_*", "--skip")
    left_out = [line for line in shown.splitlines() if line.startswith("left out")]
    assert [line.split('"')[1] for line in left_out] == ["ddp_2g4n", "ddp_2g8n"]
    scripts = sorted(jobs.glob("**/*.slurm"))
    assert len(scripts) == 5
    for script in scripts:
        slurm.run("sbatch", "--test-only", script.name, cwd=script.parent)


@pytest.mark.slurm
def test_saved_outputs_say_what_the_live_cluster_says(slurm, tmp_path):
    live = json.loads(slurm.run(sys.executable, REPO / "scripts/doctor.py", "--json"))
    for file, command in COMMANDS.items():
        if file != "sacctmgr.txt" and shutil.which(command[0]):
            (tmp_path / file).write_text(slurm.run(*command))
    saved = json.loads(doctor("--from", tmp_path, "--json").stdout)
    assert saved["partitions"] == live["partitions"]
    assert saved["config"] == live["config"]
    (main,) = live["partitions"]
    assert list_groups(main) == [(2, 2, {None: 8}, 64, 1, 262144)]
    assert main["groups"][0]["hosts"] == ["node1", "node2"]


class ShapedSlurm(VirtualSlurm):
    """A virtual cluster of two nodes whose configuration is exchanged: another site."""

    def start(self, host: str, *daemon: str) -> None:
        """Start a daemon as virtual_cluster.sh does: in the host's network, with its name."""
        script = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'
        command = [
            "nsenter", f"--net=/run/netns/vs-{self.name}-{host}", "unshare", "--uts", "--mount",
            "sh", "-c", script, "sh", self.folder / "hosts", host, *daemon,
        ]  # fmt: skip
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        subprocess.run(
            command, env=self.environment, stderr=subprocess.DEVNULL, check=True, **quiet
        )

    @property
    def folder(self) -> Path:
        return Path(self.environment["SLURM_CONF"]).parent

    def stop(self) -> None:
        """End slurmctld and both slurmd, whose state would not fit the next configuration."""
        for file in self.folder.glob("slurm*.pid"):
            pid = int(file.read_text())
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        shutil.rmtree(self.folder / "slurmctld")

    def reshape(self, gres: str, nodes: list[str], partitions: str, select: str) -> None:
        """Run the cluster with other GPUs, nodes and partitions; wait until its nodes are idle."""
        self.stop()
        conf = self.folder / "slurm.conf"
        text = conf.read_text()
        addresses = sorted(set(re.findall(r"NodeAddr=[0-9.]+", text)))
        kept = [x for x in text.splitlines() if not x.startswith(("NodeName", "PartitionName"))]
        kept = [re.sub(r"^SelectType=.*", f"SelectType=select/{select}", line) for line in kept]
        for number, (address, node) in enumerate(zip(addresses, nodes, strict=True), start=1):
            kept.append(f"NodeName=node{number} {address} {node}")
        conf.write_text("\n".join([*kept, partitions]) + "\n")
        devices = gres.replace("File=", f"File={self.folder}/dev/nvidia")
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\n{devices}\n")
        self.start("controller", "slurmctld")
        for number in (1, 2):
            self.start(f"node{number}", "slurmd", "-N", f"node{number}")
        deadline = time.monotonic() + 60
        while True:
            idle = ["sinfo", "--noheader", "--states=idle", "--Node", "--format=%n %t"]
            done = subprocess.run(idle, env=self.environment, capture_output=True, text=True)
            names = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" idle")}
            if names == {"node1", "node2"}:
                return
            assert time.monotonic() < deadline, (done.stdout, done.stderr)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def shaped():
    cluster = ShapedSlurm("shapes")
    check = cluster.control("check")
    if check.returncode != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(check.stderr.strip())
    cluster.up(nodes=2, gpus=4)
    yield cluster
    cluster.control("down")


LARGE, SMALL = "CPUs=64 RealMemory=262144", "CPUs=16 RealMemory=65536"
SITES = {
    "typed gres, the time limit below the jobs'": (
        "Name=gpu Type=a100 File=[0-3]",
        [f"{LARGE} Gres=gpu:a100:4"] * 2,
        "PartitionName=batch Default=YES Nodes=ALL MaxTime=20\n"
        "PartitionName=debug Nodes=node1 MaxTime=5",
        "cons_tres",
        {"gpus_per_node": 4, "nodes": 2, "gpu_request": ["gres"], "gpu_type": "a100",
         "partition": "batch", "time": "00:20:00", "cpus_per_node": 64, "cpus_per_gpu": 16,
         "mem_per_gpu": "65536M"},
        ["1x1", "1x2", "1x4", "2x2"],
    ),
    "GPUs told apart by a constraint": (
        "Name=gpu File=[0-3]",
        [f"{LARGE} Gres=gpu:4 Feature=v100,4gpus", f"{LARGE} Gres=gpu:4 Feature=a100,4gpus"],
        "PartitionName=gpu Default=YES Nodes=ALL MaxTime=INFINITE",
        "cons_tres",
        {"gpus_per_node": 4, "nodes": 1, "gpu_request": ["gpus-per-node"], "partition": "gpu",
         "constraint": "v100", "cpus_per_node": 64, "cpus_per_gpu": 16, "mem_per_gpu": "65536M"},
        ["1x1", "1x2", "1x4"],
    ),
    "whole nodes by rule, one with one GPU": (
        "NodeName=node1 Name=gpu File=0\nNodeName=node2 Name=gpu File=[0-3]",
        [f"{SMALL} Gres=gpu:1", f"{LARGE} Gres=gpu:4"],
        "PartitionName=single Default=YES Nodes=node1 MaxTime=2:00:00 OverSubscribe=EXCLUSIVE\n"
        "PartitionName=four Nodes=node2 MaxTime=1-0 OverSubscribe=EXCLUSIVE",
        "cons_tres",
        {"gpus_per_node": 4, "nodes": 1, "gpu_request": ["gpus-per-node"],
         "partition": [{"gpus_per_node": "1", "use": "single"}, {"use": "four"}],
         "cpus_per_node": 64, "cpus_per_gpu": 16, "mem": "0"},
        ["1x1", "1x2", "1x4"],
    ),
    "two types on a node, a limit of CPUs, no cons_tres": (
        "Name=gpu Type=a100 File=[0-1]\nName=gpu Type=t4 File=[2-3]",
        [f"{LARGE} Gres=gpu:a100:2,gpu:t4:2"] * 2,
        "PartitionName=mix Default=YES Nodes=ALL MaxTime=2:00:00 MaxCPUsPerNode=32",
        "cons_res",
        {"gpus_per_node": 2, "nodes": 2, "gpu_request": ["gres"], "gpu_type": "a100",
         "partition": "mix", "cpus_per_node": 32, "cpus_per_gpu": 16,
         "mem": [{"gpus_per_node": "1", "use": "65536M"},
                 {"gpus_per_node": "2", "use": "131072M"}]},
        ["1x1", "1x2", "2x2"],
    ),
}  # fmt: skip


@pytest.mark.slurm
@pytest.mark.parametrize("site", SITES)
def test_drafts_for_contrasting_sites_are_accepted_as_they_stand(shaped, tmp_path, site):
    gres, nodes, partitions, select, expected, scales = SITES[site]
    plugins = shaped.run("scontrol", "show", "config")
    if select == "cons_res" and not re.search(r"SLURM_VERSION\s*= (20|21|22)\.", plugins):
        pytest.skip("this Slurm has no cons_res any more")
    shaped.reshape(gres, nodes, partitions, select)
    path = tmp_path / "here.toml"
    shaped.run(sys.executable, REPO / "scripts/doctor.py", "--write", path)
    assert tomllib.loads(path.read_text()) == {"name": "here"} | expected
    jobs = tmp_path / "jobs"
    render = [sys.executable, REPO / "render.py", "--cluster", path, "--to", jobs]
    shaped.run(*render, "--only", "ddp_*", "--skip")
    accepted = []
    for script in sorted(jobs.glob("**/*.slurm")):
        shaped.run("sbatch", "--test-only", script.name, cwd=script.parent)
        name = re.search(r"--job-name=ddp_(\d+)g(\d+)n", script.read_text())
        accepted.append(f"{name[2]}x{name[1]}")
    assert sorted(accepted) == scales
    shown = shaped.run(sys.executable, REPO / "scripts/doctor.py", "--probe", path)
    assert len(re.findall(r"^ok +ddp_", shown, re.MULTILINE)) == len(scales)
    assert "refused" not in shown
    if select == "cons_res":  # where --gpus is not known
        text = path.read_text().replace('name = "here"', 'name = "gpus"')
        path = tmp_path / "gpus.toml"
        path.write_text(text.replace('gpu_request = ["gres"]', 'gpu_request = ["gpus"]'))
        done = subprocess.run(
            [sys.executable, REPO / "scripts/doctor.py", "--probe", path],
            env=shaped.environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1
        assert 'gpu_request = ["gpus-per-node"] is accepted' in done.stdout


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('partition = "gpuu"', "accepted without --partition=gpuu; partition: write one of main"),
        ('constraint = "a100"', "accepted without --constraint=a100; constraint: write"),
        ("cpus_per_gpu = 100", "accepted without --cpus-per-task=100; cpus_per_gpu: write less"),
        ('gpu_type = "h100"', "accepted without --gpus-per-node=h100:1; gpu_request or gpu_type"),
        ('mem = "900G"', "accepted without --mem=900G; mem: write less"),
        ('mem = "900G"\nconstraint = "a100"', "no single directive is the reason"),
        ('time = "05:00:00"', "--time=05:00:00 is over 04:00:00, MaxTime of main: set time"),
        ('gpu_request = ["gpus", "gpus-per-task"]\nlauncher = "srun"', None),
    ],
)
def test_refusals_are_translated(slurm, tmp_path, wrong, said):
    path = tmp_path / "wrong.toml"
    path.write_text(f'name = "wrong"\ngpus_per_node = 1\nnodes = 1\n{wrong}\n')
    done = subprocess.run(
        [sys.executable, REPO / "scripts/doctor.py", "--probe", path],
        env=slurm.environment | {"SBATCH_QOS": "high"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == (said is not None), done.stdout
    assert said is None or said in done.stdout
    assert "SBATCH_QOS='high' in this shell overrides the job scripts" in done.stdout


def test_directives_that_sbatch_does_not_see():
    text = """#!/bin/bash
#SBATCH --time=2:00:00
# SBATCH --mem=4G
##SBATCH --mem=4G
#SBATCH --gres=gpu:a100:2
#SBATCH --gpus-per-node=4
set -e
#SBATCH --partition=gpu
"""
    remarks = check_script(text, [Partition("main", default=True, time_limit="01:00:00")])
    assert remarks == [
        "'#SBATCH --partition=gpu' stands after the first command: sbatch ignores it",
        "'# SBATCH --mem=4G' is a comment to sbatch: write '#SBATCH --option'",
        "'##SBATCH --mem=4G' is a comment to sbatch: write '#SBATCH --option'",
        "--time=02:00:00 is over 01:00:00, MaxTime of main: set time",
        "--gres=gpu:a100:2 and --gpus-per-node=4 contradict each other: keep one in gpu_request",
    ]
