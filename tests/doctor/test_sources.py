"""What the doctor reads: Slurm's notations, the form of each command, and refusals of others."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.toml import tomllib
from doctor import describe_cluster, detect, read_folder, report_cluster, write_draft
from doctor.slurm_text import (
    expand_hosts,
    is_slice,
    is_usable,
    name_models,
    parse_gpus,
    parse_limit,
    parse_number,
    parse_state,
    parse_tres_gpus,
)
from doctor.sources import COMMANDS, NODES, Sources, read_interfaces, read_records, save_command
from slurm_shapes import DUMPS, SHAPES, SINFO_HEADER, doctor, list_groups

# ---- Slurm's notations ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("r[1-2]n[01-03],login1", "r1n01 r1n02 r1n03 r2n01 r2n02 r2n03 login1"),
        ("n0[004-006,100].savio[1]", "n0004.savio1 n0005.savio1 n0006.savio1 n0100.savio1"),
        ("a[08-10]-ib", "a08-ib a09-ib a10-ib"),
        ("one,two", "one two"),
        ("(null)", ""),
    ],
)
def test_host_lists(text, hosts):
    assert expand_hosts(text) == hosts.split()


@pytest.mark.parametrize(
    "text",
    ["gpu[01-", "n[0001-0002,00", "gpu[3-1]", "[...]", "n[0-99999999]", "n[0-999]m[0-999]", "a b"],
)
def test_host_lists_that_are_cut_or_malformed(text):
    with pytest.raises(ValueError, match=r"is cut|is not a|names more than"):
        expand_hosts(text)


def test_numbers():
    assert [parse_number(text) for text in ("64", "UNLIMITED", "(null)", "n/a")] == [
        64, None, None, None,
    ]  # fmt: skip
    for text in ("64+", "1.5", "many", "1 2"):
        with pytest.raises(ValueError, match="is not a whole number"):
            parse_number(text)


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
        ("NONE", None), ("n/a", None), ("20:00", "00:20:00"), ("2:00:00", "02:00:00"),
        ("30", "00:30:00"), ("2-12", "2-12:00:00"), ("72:00:00", "3-00:00:00"),
    ],
)  # fmt: skip
def test_time_limits(text, limit):
    assert parse_limit(text) == limit


def test_features_that_name_a_gpu():
    names = "a100 v100-32g mi250x rtx_a6000 gh200 t4 l40s gtx1080ti titan_rtx h100 gpu_v100"
    others = "amd ib icelake rack1 mem512GB 4gpus 48core gpu avx512 bigmem edr hdr100 c6420 n1"
    assert name_models(tuple(names.split())) == tuple(sorted(names.split()))
    assert name_models(tuple(others.split())) == ()
    assert is_slice("1g.5gb") and is_slice("nvidia_b200_3g.90gb") and not is_slice("v100-32g")


# ---- The form of each command -----------------------------------------------------------


def test_what_people_write_is_no_field():
    text = (
        "NodeName=g1 Arch=x86_64 CoresPerSocket=16\n   State=DOWN Gres=gpu:4\n"
        "   Reason=bad State=IDLE Gres=gpu:9 [root@2026-01-01T00:00:00]\n"
        "          Gres=gpu:8 its second line\n\n"
        "NodeName=g2 CoresPerSocket=16\n   State=IDLE\n"
    )
    one, two = read_records(Sources("a test", {NODES: text}), NODES)
    assert one.fields == {
        "NodeName": "g1", "Arch": "x86_64", "CoresPerSocket": "16", "State": "DOWN",
        "Gres": "gpu:4",
        "Reason": "bad State=IDLE Gres=gpu:9 [root@2026-01-01T00:00:00] Gres=gpu:8 its second line",
    }  # fmt: skip
    assert (two.fields["State"], two.lines["State"]) == ("IDLE", 7)


CONFIG = "Configuration data as of 2026-02-03T11:22:33\n"
NODE = "NodeName=n1 CoresPerSocket=8\n   CPUTot=16 RealMemory=64000 Gres=gpu:4 State=IDLE\n"
ROW = "gpu*|up|infinite|n/a|1-infinite|NO|2|idle|64|2:32:1|257000|gpu:a100:4(S:0-1)|ib|n[1-2]"
REFUSED = {
    # forms that neither doctor.py asks for nor Slurm prints then: file, content, what is said
    "a row without a header": (
        "sinfo.txt", "n01|gpu:a100:4(S:0-1)|idle|64|515000\n", "line 1: not the header that",
    ),
    "commas, the header below": (
        "sinfo.txt",
        "n01,40,10,128638,idle,2.03,testq\nHOSTNAMES,CPUS,CORES,MEMORY,STATE,CPU_LOAD,PARTITION\n",
        "line 1: not the header that",
    ),
    "scontrol on one line": (
        "scontrol_show_node.txt",
        "NodeName=r1 Arch=x86_64 CoresPerSocket=4 CPUAlloc=0 CPUTot=16 Features=IB Gres=gpu:4 "
        "RealMemory=37000 Sockets=2 State=IDLE ThreadsPerCore=2\n",
        "line 1: a whole record on one line, as --oneliner prints it",
    ),
    "a terminal's text": (
        "sinfo.txt",
        "login$ sinfo\nPARTITION AVAIL TIMELIMIT NODES STATE NODELIST\n[...]\n"
        "work* up 1-00:00:00 2 idle node[08-09]\nlogin$ exit\n",
        "line 1: not the header that",
    ),
    "JSON": (
        "sinfo.txt",
        '{"meta": {}, "errors": [], "nodes": [{"name": "n01", "cpus": 16, "gres": "gpu:a100:4", '
        '"partitions": ["gpu"], "state": "idle"}]}\n',
        "line 1: not the header that",
    ),
    "columns, the list cut": (
        "sinfo.txt",
        "PARTITION NODES CPUS NODELIST\ngpu 18 28 n[0001-0002,00\ngpu 2 28 n[0101-0102]\n",
        "line 1: not the header that",
    ),
    "sinfo's default form": (
        "sinfo.txt",
        "PARTITION AVAIL  TIMELIMIT  NODES  STATE NODELIST\ngpu*  up 1:00 2 idle g[1-2]\n",
        "line 1: not the header that",
    ),
    "an error message": (
        "sinfo.txt", "slurm_load_partitions: Unable to contact slurm controller\n",
        "line 1: not the header that",
    ),
    "a row that is cut": (
        "sinfo.txt", f"{SINFO_HEADER}\n{ROW}\n{ROW[:40]}\n", "line 3: 8 cells instead of 14",
    ),
    "a list of hosts that is cut": (
        "sinfo.txt", f"{SINFO_HEADER}\n{ROW[:-1]}\n", "line 2: hosts: 'n[1-2' is cut",
    ),
    "fewer hosts than NODES": (
        "sinfo.txt", f"{SINFO_HEADER}\n{ROW.replace('[1-2]', '1')}\n",
        "line 2: 2 NODES, but NODELIST names 1",
    ),
    "a mark of something left out": (
        "sinfo.txt", f"{SINFO_HEADER}\n{ROW}\n[...]\n", "line 3: 1 cells instead of 14",
    ),
    "a second cluster": (
        "sinfo.txt", f"CLUSTER: a\n{SINFO_HEADER}\n{ROW}\n\nCLUSTER: b\n{SINFO_HEADER}\n",
        "line 5: a second cluster; name one: export SLURM_CLUSTERS=NAME",
    ),
    "minimum values, without --exact": (
        "sinfo.txt", f"{SINFO_HEADER}\n{ROW.replace('|64|', '|64+|')}\n",
        "line 2: cpus: '64+' is not a whole number",
    ),
    "text before the first record": (
        "scontrol_show_node.txt", f"login$ scontrol show node\n{NODE}",
        "line 1: not a line of scontrol show node: 'login$ scontrol show node'",
    ),
    "text within a record": (
        "scontrol_show_node.txt", f"{NODE}   [...]\n", "line 3: no Key=Value: '[...]'",
    ),
    "a number that is none": (
        "scontrol_show_node.txt", NODE.replace("=64000", "=64G"),
        "line 2: RealMemory: '64G' is not a whole number",
    ),
    "a time that is none": (
        "scontrol_show_partition.txt", "PartitionName=gpu\n   Nodes=n1\n   MaxTime=soon\n",
        "line 3: MaxTime: 'soon' is not a time of Slurm's",
    ),
    "a partition's list that is cut": (
        "scontrol_show_partition.txt", "PartitionName=gpu\n   Nodes=n[1-4 State=UP\n",
        "line 2: Nodes: 'n[1-4' is cut",
    ),
    "partitions on one line": (
        "scontrol_show_partition.txt", "PartitionName=gpu Nodes=n1 MaxTime=1:00 State=UP\n",
        "line 1: a whole record on one line",
    ),
    "slurm.conf itself": (
        "scontrol_show_config.txt", "ClusterName=there\nSelectType=select/cons_tres\n",
        "line 1: not the first line of scontrol show config",
    ),
    "accounts in columns": (
        "sacctmgr.txt", "   Cluster    Account       User\n---------- ----------\n",
        "line 1: not the header that",
    ),
    "two outputs in one file": (
        "scontrol_show_node.txt", f"{NODE}\n{NODE}", "line 4: n1 again: a second output",
    ),
    "two outputs of partitions": (
        "scontrol_show_partition.txt", "PartitionName=gpu\n   Nodes=n1 State=UP\n" * 2,
        "line 3: gpu again: a second output",
    ),
    "two outputs of sinfo": (
        "sinfo.txt", f"{SINFO_HEADER}\n{ROW}\n{SINFO_HEADER}\n{ROW}\n",
        "line 3: time: 'TIMELIMIT' is not a time of Slurm's",
    ),
    "two configurations": (
        "scontrol_show_config.txt", f"{CONFIG}ClusterName = a\n{CONFIG}ClusterName = b\n",
        "line 3: a second output",
    ),
    "two lists of accounts": (
        "sacctmgr.txt", "Cluster|Account|Partition|QOS\na|b||\nCluster|Account|Partition|QOS\n",
        "line 3: the header again: a second output",
    ),
    "two lists of interfaces": (
        "ip_address.txt", "ib0 UP 192.0.2.1/24\nib0 UP 192.0.2.1/24\n", "line 2: ib0 again",
    ),
    "a prompt before the interfaces": (
        "ip_address.txt", "login$ ip -brief address\nib0 UP\n", "line 1: no state: 'login$ ip ",
    ),
    "a record cut at its line's end": (
        "scontrol_show_node.txt", f"{NODE}NodeName=n2 CoresPerSocket=8\n   CPUTot=16\n",
        "line 3: n2 has no State: its record is cut",
    ),
    "a record cut within a number": (
        "scontrol_show_node.txt", f"{NODE}   CfgTRES=cpu=16,mem=64",
        "line 3: cut: no line end after '   CfgTRES=cpu=16,mem=64'",
    ),
    "a row cut within a name": (
        "sinfo.txt", f"{SINFO_HEADER}\n{ROW.replace('|2|', '|1|').replace('n[1-2]', 'n1')}",
        "line 2: cut: no line end after",
    ),
    "lines that a terminal wrapped": (
        "scontrol_show_node.txt", NODE.replace("Gres=gpu:4 ", "Gres=gp\nu:4 "),
        "line 3: not a line of scontrol show node: 'u:4 State=IDLE'",
    ),
    "rows that a terminal wrapped": (
        "sinfo.txt", f"{SINFO_HEADER}\n{ROW[:30]}\n{ROW[30:]}\n", "line 2: 5 cells instead of 14",
    ),
    "a pager's mark": (
        "scontrol_show_node.txt", f"{NODE}\x1b[7m--More--\x1b[27m\n", "line 3: not a line of",
    ),
    "a terminal's other codes": (
        "sinfo.txt", f"\x1b]0;login\x07{SINFO_HEADER}\n{ROW}\n", "line 1: not plain text: ",
    ),
    "NULs": ("scontrol_show_node.txt", f"{NODE}\0\0\n", "line 3: not plain text: "),
    "a locale's numbers": (
        "scontrol_show_node.txt", NODE.replace("=64000", "=64.000"),
        "line 2: RealMemory: '64.000' is not a whole number",
    ),
    "nodes whose partition nothing names": (
        "scontrol_show_node.txt", NODE, "line 1: no output names a partition of n1; save beside it",
    ),
    "other columns": (
        "sacctmgr.txt", "Account|User|QOS\nroot||normal\n", "line 1: not the header that",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_other_forms_are_refused_by_file_and_line(form, tmp_path):
    file, content, said = REFUSED[form]
    (tmp_path / "scontrol_show_config.txt").write_text(CONFIG)
    (tmp_path / file).write_text(content)
    done = doctor("--from", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path / file}, {said}")
    command = COMMANDS[file][0]
    if form != "nodes whose partition nothing names":
        assert f"; save it again: {command} " in done.stderr
        assert done.stderr.endswith(f" > {file}\n")
    assert "scontrol show partition > " in done.stderr or " again: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_case_of_a_wrong_dump_is_refused_by_file_and_line(tmp_path):
    text = (DUMPS / "typed/scontrol_show_node.txt").read_text()
    (tmp_path / "scontrol_show_partition.txt").write_bytes(
        (DUMPS / "typed/scontrol_show_partition.txt").read_bytes()
    )
    whole = detect(read_folder(DUMPS / "typed")).partitions
    for end in range(0, len(text), 61):  # wherever it is cut: refused, or told what is missing
        (tmp_path / "scontrol_show_node.txt").write_text(text[:end])
        try:
            facts = detect(read_folder(tmp_path))
        except UserError as error:
            assert f"{tmp_path}/scontrol_show_node.txt, line " in str(error)
        else:
            same = [p.nodes for p in facts.partitions] == [p.nodes for p in whole]
            assert same or any("scontrol_show_node.txt: " in said for said in facts.problems)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("gpu", "\x1b[1;31mgpu\x1b[0m").encode(),
    ],
    ids=["CR LF", "BOM", "UTF-16", "colours"],
)
def test_how_a_file_is_written_changes_nothing(shape, change, tmp_path):
    for path in (DUMPS / shape).iterdir():
        (tmp_path / path.name).write_bytes(change(path.read_text()))
    found, meant = (describe_cluster(detect(read_folder(f))) for f in (tmp_path, DUMPS / shape))
    assert found == meant | {"origin": f"the files of {tmp_path}"}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_line_is_accounted_for(shape):
    sources = read_folder(DUMPS / shape)
    detect(sources)
    lines = {path.name: len(path.read_text().splitlines()) for path in (DUMPS / shape).iterdir()}
    assert {file: counts.lines for file, counts in sources.counts.items()} == lines
    assert all(counts.is_whole for counts in sources.counts.values())
    dropped = sum(counts.dropped.total() for counts in sources.counts.values())
    assert dropped == len([said for said in sources.problems if ", line " in said])


def test_what_people_write_may_have_any_letters(tmp_path):
    shutil.copytree(DUMPS / "minimal_old", tmp_path / "old")
    path = tmp_path / "old/scontrol_show_node.txt"
    path.write_bytes(path.read_bytes().replace(b"Reason=no power", b"Reason=d\xe9fectueux\x07"))
    assert detect(read_folder(tmp_path / "old")).partitions[0].nodes[1].state.startswith("down")


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "scontrol_show_node.txt").write_text(
        "NodeName=n1\n   CPUTot=8 State=IDLE Partitions=gpu\nNodeName=n2\n   CPUTot=8 State=IDLE\n"
    )
    (tmp_path / "scontrol_show_partition.txt").write_text(
        "PartitionName=gpu\n   Nodes=n[1,3-9] State=UP TotalNodes=9\n"
    )
    for name in ("sinfo_2.txt", "notes.txt"):
        (tmp_path / name).touch()
    said = detect(read_folder(tmp_path)).problems
    assert [line for line in said if not line.endswith(": missing")] == [
        "notes.txt: not a file that doctor.py knows",
        "sinfo_2.txt: not a file that doctor.py knows",
        "scontrol_show_partition.txt, line 2: gpu has TotalNodes=9, but Nodes names 8",
        "scontrol_show_node.txt: in no partition, so not shown: n2",
        "scontrol_show_node.txt: no record of n3, n4, n5 and 4 more: cut?",
    ]


def test_the_help_names_the_commands_that_the_tool_asks():
    shown = " ".join(doctor("--help").stdout.replace("\\\n", " ").replace("'", "").split())
    for file in COMMANDS:
        assert save_command(file).replace("'", "") in shown


def test_what_a_command_here_prints_wrongly_is_refused():
    sources = Sources("this login node", {"sinfo.txt": "Welcome!\n"}, live=True)
    with pytest.raises(UserError) as refusal:
        detect(sources)
    said = str(refusal.value)
    assert said.startswith("sinfo --exact '--format=%P|")
    assert ", line 1: not the header that this command prints; is it a wrapper" in said


def test_sinfo_alone():
    cpu = "cpu|up|infinite|n/a|1-4|EXCLUSIVE|3|mix|64|2:16:2|257000|(null)|(null)|c[1-3]"
    empty = "new|drain|1:00:00|n/a|1-infinite|NO|0|n/a|0|0:0:0|0|(null)|(null)|"
    text = f"CLUSTER: there\n{SINFO_HEADER}\n{ROW}\n{cpu}\n{empty}\n"
    found = describe_cluster(detect(Sources("a test", {"sinfo.txt": text})))
    gpu, cpu, new = found["partitions"]
    assert list_groups(gpu) == [(2, 2, {"a100": 4}, 64, 1, 257000)]
    assert list_groups(cpu) == [(3, 3, {}, 64, 2, 257000)]
    assert (gpu["default"], gpu["groups"][0]["hosts"], gpu["max_nodes"]) == (
        True, ["n1", "n2"], None,
    )  # fmt: skip
    assert (cpu["exclusive"], cpu["max_nodes"], cpu["up"]) == (True, 4, True)
    assert (new["nodes"], new["up"], new["time_limit"]) == (0, False, "01:00:00")
    draft = write_draft(detect(Sources("a test", {"sinfo.txt": text})), "x", "00:30:00")
    assert tomllib.loads(draft)["clusters"] == "there"


def test_a_line_of_the_configuration_that_is_not_read_is_named():
    text = f"{CONFIG}SLURM_VERSION = 24.11.1\nSlurmctldHost[0] = ctl1(198.51.100.1)\n"
    text += "Cgroup Support Configuration:\nsomething else\n\nSlurmctld(primary) at ctl1 is UP\n"
    facts = detect(Sources("a test", {"scontrol_show_config.txt": text}))
    assert facts.config.version == "24.11.1"
    why = "neither Key = Value nor a heading"
    assert facts.problems == [f"scontrol_show_config.txt, line 5: 'something else': {why}"]
    assert facts.counts["scontrol_show_config.txt"].describe() == (
        f"7 lines: 2 kept; dropped: 1 {why}; ignored: 1 blank, 3 heading"
    )


def test_interfaces_without_loopback_and_bridges():
    text = (DUMPS / "typed/ip_address.txt").read_text()
    found = read_interfaces(Sources("a test", {"ip_address.txt": text}))
    assert [(link["name"], link["state"]) for link in found] == [
        ("eno1", "UP"), ("ib0", "UP"),
    ]  # fmt: skip


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


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is slow
@given(texts=st.dictionaries(st.sampled_from(list(COMMANDS)), st.one_of(damaged(), st.text())))
def test_any_text_is_read_or_refused_in_one_line(texts):
    try:
        facts = detect(Sources("a test", texts))
    except UserError as error:
        assert ".txt, line " in str(error)
        assert str(error).isprintable()
        return
    json.dumps(describe_cluster(facts))
    assert all(counts.is_whole for counts in facts.counts.values())
    assert report_cluster(facts).replace("\n", "").isprintable()
    try:
        text = write_draft(facts, "there", "00:30:00")
    except UserError as error:
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
