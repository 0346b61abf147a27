"""doctor.py on saved outputs of seven clusters, on broken text, and on a real Slurm."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.toml import tomllib
from doctor import detect, report_cluster, run_commands, write_draft
from doctor.partitions import select_partitions
from doctor.sources import Sources, describe_modules
from profiles import load_cluster
from slurm_shapes import (
    DUMPS,
    REPO,
    SHAPES,
    SINFO_HEADER,
    doctor,
    draft_shape,
    list_groups,
    read_shape,
)

# ---- Seven clusters, answers known ------------------------------------------------------

FOUND = {
    ("typed", "batch"): ("7-00:00:00", [(4, 4, {}, 64, 1, 257000)]),
    ("typed", "gpu"): ("2-00:00:00", [(6, 4, {"a100": 4}, 128, 2, 515000)]),
    ("typed", "gpu-debug"): ("00:20:00", [(2, 2, {"a100": 4}, 128, 2, 515000)]),
    ("untyped", "GPU"): ("2-00:00:00", [(10, 10, {None: 8}, 40, 1, 515000)]),
    ("untyped", "GPU-shared"): ("unlimited", [(10, 10, {None: 8}, 40, 1, 515000)]),
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
    ("odd_states", "gpu"): ("unlimited", [(4, 2, {"h100": 4}, 96, 2, 772000)]),
    ("odd_states", "long"): (
        "7-00:00:00", [(2, 1, {"h100": 4}, 96, 2, 772000), (1, 1, {}, 96, 2, 256000)],
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
    "untyped": {
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
        "# scontrol show node: CPUTot / GPUs; 2 threads per core",
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


PARTITION = "PartitionName={}\n   AllowGroups=ALL Nodes={} State=UP MaxTime=1:00:00 {}\n"
NODE = "NodeName={}\n   CPUTot=32 RealMemory=64000 Gres={} State=IDLE\n"
CONFIG = "Configuration data as of 2026-02-03T11:22:33\n"
ACCOUNTS = "Cluster|Account|Partition|QOS\n"


def detect_text(partitions: str, nodes: str = "", config: str = ""):
    """Detect in texts of scontrol."""
    return detect(
        Sources(
            "a test",
            {"scontrol_show_partition.txt": partitions, "scontrol_show_node.txt": nodes,
             "scontrol_show_config.txt": CONFIG + config},
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
    found = select_partitions(detect_text(text, nodes).partitions).rules
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
    mine = f"{ACCOUNTS}here|guests||normal\n"
    texts = {"scontrol_show_partition.txt": text, "sacctmgr.txt": mine}
    assert detect(Sources("a test", texts)).partitions[0].open_to_me
    assert not detect_text(text).partitions[0].open_to_me
    assert (
        not detect_text(text.replace("AllowGroups=ALL", "AllowGroups=x")).partitions[0].open_to_me
    )


SMALL_SITE = ("c1", "c2", "g1", "g2", "g3", "g4", "a1", "a2")
TACC = (  # whole nodes, none of whose GPUs Slurm counts: Vista, Lonestar6
    PARTITION.format("gg", "c[1-2]", "Default=YES OverSubscribe=EXCLUSIVE")
    + PARTITION.format("gh", "g[1-4]", "OverSubscribe=EXCLUSIVE MaxNodes=2")
    + PARTITION.format("gh-dev", "g[1-4]", "OverSubscribe=EXCLUSIVE")
    + PARTITION.format("gpu-a100", "a[1-2]", "OverSubscribe=EXCLUSIVE"),
    "".join(NODE.format(name, "(null) Arch=aarch64") for name in SMALL_SITE),
)


def test_gpus_that_slurm_does_not_count_are_not_asked_for():
    text = write_draft(detect_text(*TACC), "x", "00:30:00")
    assert tomllib.loads(text) == {
        "name": "x", "gpus_per_node": 1, "nodes": 2, "gpu_request": [], "partition": "gh",
        "cpus_per_node": 32, "cpus_per_gpu": 32,
    }  # fmt: skip
    comments = " ".join(line.removeprefix("# ") for line in text.splitlines())
    assert (
        "TO BE COUNTED: Slurm knows of no GPUs on these nodes (Gres); see srun --partition=gh"
        in (comments)
    )
    assert "The nodes are aarch64, not x86_64: install the software on one of them" in comments
    assert '# partition = "gpu-a100"' in text
    assert 'with multi_node_gpus = "all" they take one per node' in comments
    named = "NodeName=n1\n   AvailableFeatures=gh200,4gpus CPUTot=288 Gres=(null) State=IDLE\n"
    facts = detect_text(PARTITION.format("all", "n1", ""), named)
    values = tomllib.loads(write_draft(facts, "x", "00:30:00"))
    assert (values["gpus_per_node"], values["gpu_request"]) == (4, [])


@pytest.mark.parametrize(
    ("gres", "features", "constraint"),
    [
        ("gpu:4", ["a100_40", "a100_80"], "a100_40"),
        ("gpu:4", ["a100,a100_40", "a100,a100_80"], "a100_40"),
        ("gpu:a100:4", ["a100_40", "a100_80"], "a100_40"),  # of one type: the features part them
        ("gpu:4", ["a100", "a100,a100_80"], ""),  # `a100` would match both
        ("gpu:4", ["a100,old", "a100,a100_80"], "old"),
        ("gpu:4", ["a100,a30", "a100", "a30"], "a100&a30"),
        ("gpu:a100:4", ["a100", "a100,big"], None),  # no other GPUs: nothing to tell apart
        ("gpu:4", ["a100", "a100"], None),
    ],
)
def test_a_constraint_matches_only_the_nodes_that_are_meant(gres, features, constraint):
    count = max(3, 6 // len(features))  # the first kind has the most nodes
    names = [f"n{k}" for k in range(1, count + len(features))]
    each = [features[0]] * count + features[1:]
    nodes = "".join(
        NODE.format(name, f"{gres} AvailableFeatures={words}")
        for name, words in zip(names, each, strict=True)
    )
    text = write_draft(
        detect_text(PARTITION.format("gpu", ",".join(names), ""), nodes), "x", "00:30:00"
    )
    assert tomllib.loads(text).get("constraint", None if constraint is None else "") == constraint
    assert ("no features that only these nodes have" in text.replace("\n# ", " ")) == (
        constraint == ""
    )


def test_what_a_person_must_know_of_the_partitions():
    limits = "AllowGroups=staff OverSubscribe=NO JobDefaults=DefCpuPerGPU=4"
    places = PARTITION.replace("AllowGroups=ALL ", "")
    partitions = places.format("cpu", "c1", "Default=YES") + places.format("gpu", "g1", limits)
    nodes = NODE.format("c1", "(null)") + NODE.format("g1", "gpu:4").replace(
        "NodeName=g1", "NodeName=g1 Arch=aarch64"
    )
    facts = detect_text(partitions, nodes)
    said = " ".join(line.removeprefix("# ") for line in write_draft(facts, "x", "1").splitlines())
    for notice in [
        "gpu is closed to you: AllowGroups=staff; ask the site",
        "gpu gives a job that does not ask: DefCpuPerGPU=4",
        "The nodes are aarch64, not x86_64: install the software on one of them",
        "The default partition, cpu, has no GPUs: a job must name another",
    ]:
        assert notice in said
    report = report_cluster(facts)
    assert (
        "Partition gpu: 1 node, closed to you (AllowGroups=staff), JobDefaults=DefCpuPerGPU=4"
        in (report)
    )
    assert "1 x  4 x GPU  aarch64  32 CPUs" in report
    assert "The default partition, cpu, has no GPUs: a job must name another." in report


@pytest.mark.parametrize(
    ("limit", "closed_by"),
    [
        ("AllowGroups=staff", "AllowGroups=staff"),
        ("AllowGroups=staff,users", ""),
        ("AllowGroups=(null)", ""),
        ("AllowQos=staff", "AllowQos=staff"),
        ("AllowQos=normal,long", ""),
        ("RootOnly=YES", "RootOnly=YES"),
        ("DenyAccounts=physics", "DenyAccounts=physics"),
    ],
)
def test_who_may_use_a_partition(limit, closed_by):
    texts = {
        "scontrol_show_partition.txt": f"PartitionName=gpu\n   {limit} Nodes=g1 State=UP\n",
        "sacctmgr.txt": f"{ACCOUNTS}here|physics||normal\n",
    }
    (place,) = detect(Sources("a test", texts, groups={"users"})).partitions
    assert place.closed_by == closed_by


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
    assert "Partition gpu: 4 nodes, default, time limit unlimited" in done.stdout
    assert "   4 x  4 x h100  96 CPUs (2 threads per core)  754 GiB" in done.stdout
    assert "not read: scontrol_show_node.txt: missing" in done.stdout
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
        (["--from", "nowhere"], 1, "error: --from nowhere: no such folder; make it, and save "),
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
    assert done.stderr.startswith(f"error: --from {tmp_path}: no output of Slurm's; save there: ")
    assert "scontrol show node > scontrol_show_node.txt; sinfo --exact '--format=%P|" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_gpus_no_draft(tmp_path):
    row = "batch*|up|infinite|n/a|1-infinite|NO|4|idle|64|2:32:1|257000|(null)|(null)|c[1-4]"
    (tmp_path / "sinfo.txt").write_text(f"{SINFO_HEADER}\n{row}\n")
    assert "4 x  no GPU" in doctor("--from", tmp_path).stdout
    done = doctor("--from", tmp_path, "--write", tmp_path / "x.toml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: found no partition with GPUs")
    assert not (tmp_path / "x.toml").exists()


def test_not_on_a_cluster(tmp_path):
    done = doctor(PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: scontrol show config: no scontrol here; run this on a login node of the cluster; "
        "or use --from DIR: see --help\n"
    )


def make_command(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_command_that_fails_or_hangs_is_named(tmp_path, monkeypatch):
    """Stand-ins for a controller that is down: only sinfo answers, sacctmgr never does."""
    make_command(tmp_path, "scontrol", "echo scontrol: error: cannot connect >&2; exit 1")
    row = "g*|up|infinite|n/a|1-infinite|NO|1|idle|64|2:32:1|257000|gpu:2|(null)|n1"
    make_command(tmp_path, "sinfo", f"/bin/cat <<'END'\n{SINFO_HEADER}\n{row}\nEND")
    make_command(tmp_path, "sacctmgr", "exec /bin/sleep 30")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("doctor.sources.TIMEOUT_S", 0.5)
    facts = detect(run_commands())
    assert facts.partitions[0].nodes[0].gpus == {None: 2}
    assert facts.problems == [
        "scontrol show config: exit status 1: scontrol: error: cannot connect",
        "scontrol show partition: exit status 1: scontrol: error: cannot connect",
        "scontrol show node: exit status 1: scontrol: error: cannot connect",
        "sacctmgr --parsable2 show: sacctmgr did not answer for 0.5 s; try again",
        "ip -brief address: no ip here; run this on a login node of the cluster",
    ]
