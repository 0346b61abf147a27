"""What the doctor reads: Slurm's words, its tables, and whatever else stands in the files."""

import json
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doctor.detect_cluster import describe, detect
from doctor.detect_draft import write_draft
from doctor.detect_report import report
from doctor.detect_sources import (
    COMMANDS,
    DetectError,
    Sources,
    list_interfaces,
)
from doctor.detect_tables import read_associations, read_sinfo
from doctor.detect_text import (
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
from slurm_shapes import DUMPS, list_groups

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
