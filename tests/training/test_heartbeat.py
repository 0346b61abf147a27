"""A rank that hangs is named: by real ranks that wait in vain, and from heartbeats by hand."""

import json
import re
import sys
import time
from pathlib import Path

import pytest

from common.heartbeat import name_hung, read_heartbeats
from torch_server import TESTS, find_server, run_python
from training.flight_recorder import sum_up

WAIT, ASLEEP = {"in": "all_reduce", "line": "train.py:245"}, {"in": None, "line": "train.py:231"}
NEWEST, OLDEST = Path(sys.executable), TESTS.parent / ".venv-oldest/bin/python"
AFTER = ", where 3 ranks wait"


@pytest.mark.parametrize("python", [NEWEST, OLDEST], ids=["newest", "oldest"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("stopped", r"stopped answering (\d+ s before the others )?in epoch 1, step 2, at"),
        ("asleep", r"hangs in epoch 1, step 2, at time.sleep\(600\) \(faulty_spiral.py:\d+\);"),
        ("elsewhere", r"waits elsewhere in epoch 1, step 2, at all_gather_object \(faulty_sp"),
    ],
)
def test_a_rank_that_hangs_is_named(tmp_path, python, how, said):
    if not python.exists():
        pytest.skip("no .venv-oldest; make it with: bash scripts/setup_env.sh --oldest")
    find_server(python)  # its start is not part of the 40 s
    began = time.monotonic()
    done = run_python(
        TESTS / "faulty_spiral.py", "--epochs=2", "--timeout-s=4", f"--workdir={tmp_path}",
        ranks=4, python=python, HANG=how,
    )  # fmt: skip
    assert done.returncode == 1
    assert time.monotonic() - began < 40
    named = [line for line in done.stderr.splitlines() if "it never reached" in line]
    assert len(named) == 1, done.stderr
    assert re.search(rf"^\[rank [0-3] on \S+\] error: rank 2 on \S+ {said}", named[0])
    assert re.search(r"; it never reached .*train_spiral.py:\d+\), where [123] rank", named[0])
    if python == NEWEST:  # 2.5 records NCCL's collectives alone
        began = r" of which it began \d+$" if how != "elsewhere" else r" where it began \w+ of "
        assert re.search(r": all_?reduce of float\[\d+\], number \d+ of gloo group \d," + began,
                         named[0])  # fmt: skip
    assert done.stderr.index(named[0]) < done.stderr.index("Traceback")


def test_the_end_is_bounded_and_a_complete_run_stays_complete(tmp_path):
    done = run_python(
        TESTS / "faulty_spiral.py", "--epochs=1", f"--workdir={tmp_path}",
        ranks=4, HANG="at the end",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "did not end within 1 s" in line]
    assert "[rank 2 on " in said and "faulty_spiral.py:" in said and "train_spiral.py:" in said
    assert (tmp_path / "RUN_COMPLETE.txt").exists()
    assert not (tmp_path / "heartbeat").exists()


def beat(rank: int, place: dict, utc_s: float = 100.0, ended: str | None = None) -> dict:
    facts = {"rank": rank, "world_size": 4, "node": f"node{rank // 2 + 1}", "pid": 9, "code": "x()"}
    return {**facts, "epoch": 2, "step": 14, **place, "utc_s": utc_s, "ended": ended}


def record(begun: int, waits: str | None = None) -> dict:
    waits_for = {"number": begun, "what": waits} if waits else None
    return {"collectives": {"gloo group 0": {"begun": begun, "waits": waits_for}}}


def entry(number: int, name: str, retired: bool, group: int = 0, **more) -> dict:
    sizes = {"input_dtypes": ["Float"], "input_sizes": [[4, 2]]}
    return {"collective_seq_id": number, "profiling_name": name, "retired": retired,
            "pg_id": group, "is_p2p": False, **sizes, **more}  # fmt: skip


def test_the_record_by_group():
    entries = [
        entry(7, "gloo:all_reduce", True), entry(8, "gloo:all_reduce", False),
        entry(9, "gloo:broadcast", False), entry(3, "nccl:all_gather", True),
        entry(40, "nccl:send", False, is_p2p=True),
    ]  # fmt: skip
    assert sum_up(entries) == {
        "gloo group 0": {
            "begun": 9, "waits": {"number": 8, "what": "all_reduce of float[4, 2]"},
        },
        "nccl group 0": {"begun": 3, "waits": None},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("beats", "said"),
    [
        ([], None),
        ([beat(rank, WAIT) for rank in range(4)], None),  # the network, say
        ([beat(rank, ASLEEP) for rank in range(4)], None),  # all are busy
        (
            [beat(0, WAIT), beat(1, WAIT), beat(2, ASLEEP), beat(3, WAIT)],
            "rank 2 on node2 hangs in epoch 2, step 14, at x() (train.py:231); it never reached "
            f"all_reduce (train.py:245){AFTER}",
        ),
        (  # those that gave up have a last word
            [*[beat(rank, WAIT, 112.0, "timed out") for rank in (0, 1, 3)],
             beat(2, WAIT, 100.0)],
            "rank 2 on node2 stopped answering 12 s before the others in epoch 2, step 14, at "
            f"all_reduce (train.py:245); it never reached all_reduce (train.py:245){AFTER}",
        ),
        (  # killed long after it by their launcher
            [*[beat(rank, WAIT, 112.0) for rank in (0, 1)], beat(2, WAIT, 100.0),
             beat(3, WAIT, 130.0)],
            "rank 2 on node2 stopped answering 30 s before the others in epoch 2, step 14, at "
            f"all_reduce (train.py:245); it never reached all_reduce (train.py:245){AFTER}",
        ),
        (
            [beat(0, WAIT), beat(1, WAIT | {"in": "all_gather"}), beat(2, WAIT), beat(3, WAIT)],
            "rank 1 on node1 waits elsewhere in epoch 2, step 14, at all_gather (train.py:245); "
            f"it never reached all_reduce (train.py:245){AFTER}",
        ),
        (  # PyTorch has recorded the collectives
            [beat(0, WAIT | record(21, "all_reduce of float[1000]")),
             beat(1, WAIT | record(21, "all_reduce of float[1000]")), beat(2, ASLEEP | record(20)),
             beat(3, WAIT | record(21, "all_reduce of float[1000]"))],
            "rank 2 on node2 hangs in epoch 2, step 14, at x() (train.py:231); it never reached "
            f"all_reduce (train.py:245){AFTER}: all_reduce of float[1000], number 21 of gloo group "
            "0, of which it began 20",
        ),
        (
            [beat(0, WAIT | record(21, "all_reduce of float[9]")), beat(2, WAIT),
             beat(1, WAIT | {"in": "all_gather"} | record(21, "allgather of long[1]"))],
            "rank 1 on node1 waits elsewhere in epoch 2, step 14, at all_gather (train.py:245); "
            "it never reached all_reduce (train.py:245), where 2 ranks wait: all_reduce of "
            "float[9], number 21 of gloo group 0, where it began allgather of long[1] instead",
        ),
    ],
)  # fmt: skip
def test_named_from_what_the_ranks_wrote(tmp_path, beats, said):
    (tmp_path / "heartbeat").mkdir()
    for each in beats:
        (tmp_path / f"heartbeat/rank{each['rank']}.json").write_text(json.dumps(each))
    (tmp_path / "heartbeat/rank9.json").write_text("{")  # cut
    assert name_hung(read_heartbeats(tmp_path)) == said
