"""What the doctor reads in a job script, and what it says where sbatch says nothing."""

import pytest

from doctor.cluster import Partition
from doctor.probe import check_script, drop_directives
from submission import read_directives


def script(*options: str) -> str:
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "set -e", ""])


def test_directives_in_the_forms_that_sbatch_takes():
    text = script("--mem=64G   # a node", "--gres gpu:2", "--exclusive", "--exclusive  # alone",
                  "--time=1:00 --x=2", "-N 2")  # fmt: skip
    assert read_directives(text) == {
        "mem": "64G", "gres": "gpu:2", "exclusive": "", "time": "1:00", "x": "2", "nodes": "2",
    }  # fmt: skip
    assert read_directives("#!/bin/sh\ntrue\n#SBATCH --mem=1\n") == {}


def test_one_option_is_dropped_and_not_those_that_begin_like_it():
    text = script("--gpus=4   # in all", "--gpus-per-node=2", "--mem=1G")
    assert read_directives(drop_directives(text, {"gpus"})) == {"gpus-per-node": "2", "mem": "1G"}
    assert read_directives(drop_directives(text, {"mem", "gpus-per-node"})) == {"gpus": "4"}


GPUS = [
    # directives, and whether they contradict each other
    (["--gres=gpu:4", "--gpus-per-node=4"], False),
    (["--gres=gpu:a100:4", "--gpus-per-node=4"], False),
    (["--gres=gpu:4,lscratch:100", "--gpus-per-node=4"], False),
    (["--gres=lscratch:100", "--gpus-per-node=4"], False),
    (["--gres=gpu:2", "--gpus-per-node=4"], True),
    (["--gres=gpu:a100:4", "--gpus-per-node=v100:4"], True),
    (["--nodes=2", "--gpus=8", "--gpus-per-node=4"], False),
    (["--nodes=2", "--gpus=4", "--gpus-per-node=4"], True),
    (["--ntasks=2", "--ntasks-per-node=1", "--gpus=4", "--gpus-per-node=2"], False),
    (["--ntasks=2", "--ntasks-per-node=1", "--gpus=4", "--gpus-per-node=4"], True),
    (["--gpus=4", "--gpus-per-node=4"], False),  # of how many nodes it does not say
    (["--ntasks-per-node=4", "--gpus-per-task=1", "--gpus-per-node=4"], False),
    (["--ntasks-per-node=4", "--gpus-per-task=4", "--gpus-per-node=4"], True),
    (["--gpus-per-node=4"], False),
    ([], False),
]


@pytest.mark.parametrize(("options", "wrong"), GPUS, ids=[" ".join(row[0]) for row in GPUS])
def test_gpu_requests_that_contradict_each_other(options, wrong):
    remarks = check_script(script(*options), [])
    assert [("contradict each other" in remark) for remark in remarks] == [True] * wrong


PLACES = [
    Partition("short", time_limit="01:00:00"),
    Partition("long", default=True, time_limit="2-00:00:00"),
    Partition("endless", time_limit="unlimited"),
    Partition("silent"),
]


@pytest.mark.parametrize(
    ("partition", "time", "over"),
    [
        ("short", "60", None),
        ("short", "61", "--time=01:01:00 is over 01:00:00, MaxTime of short: set time"),
        ("", "2-00:00:01", "--time=2-00:00:01 is over 2-00:00:00, MaxTime of long: set time"),
        ("short,long", "10:00:00", None),  # long takes it
        ("short,long", "3-0", "--time=3-00:00:00 is over 2-00:00:00, MaxTime of long: set time"),
        ("endless", "30-0", None),
        ("silent", "30-0", None),
        ("elsewhere", "30-0", None),
        ("short", "", None),
    ],
)
def test_time_over_the_partitions(partition, time, over):
    options = [f"--partition={partition}"] * bool(partition) + [f"--time={time}"] * bool(time)
    assert check_script(script(*options), PLACES) == ([over] if over else [])
