"""profiler = "nsys" in a job: one rank per node runs below nsys, here a stand-in on PATH."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from common.errors import UserError
from profiles.cluster import load_cluster
from profiles.matrix import MATRIX, load_matrix, plan_job

REPO = Path(__file__).parents[2]
# nsys profile [options] PROGRAM… leaves OUTPUT.nsys-rep and exits as the program does;
# nsys stats … --output BASE REPORT leaves BASE_<report>.csv. (User Guide, "CLI options".)
NSYS = """#!/bin/bash
printf '%s\\n' "$*" >> calls
if [[ $1 == stats ]]; then
  while (($#)); do [[ $1 == --output ]] && base=$2; shift; done
  echo 'Total Time (ns),Instances,Name' > "${base}_cuda_gpu_kern_sum.csv"
  exit
fi
shift
while [[ $1 == --* ]]; do [[ $1 == --output=* ]] && base=${1#*=}; shift; done
trap 'kill -TERM $child' TERM
"$@" & child=$!
while kill -0 $child 2> /dev/null; do wait $child; done
wait $child; status=$?
: > "$base.nsys-rep"
exit $status
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start scripts/nsys.sh with a rank's command in tmp_path, where the stand-in is."""
    (tmp_path / "nsys").write_text(NSYS)
    (tmp_path / "nsys").chmod(0o755)

    def start(*command: str, local_rank: int = 0, path: str = f"{tmp_path}:{os.environ['PATH']}"):
        environment = {"PATH": path, "LOCAL_RANK": str(local_rank), "RESULTS_DIR": str(tmp_path),
                       "SLURM_NODEID": "1", "HOSTNAME": "node1"}  # fmt: skip
        return subprocess.Popen(
            ["/bin/bash", REPO / "scripts/nsys.sh", *command], cwd=tmp_path, env=environment,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


@pytest.mark.parametrize("status", [0, 3])
def test_the_first_rank_runs_below_nsys(start, tmp_path, status):
    program = start("bash", "-c", f"echo 'a  rank'; exit {status}")
    assert program.communicate(timeout=60) == ("a  rank\n", "")
    assert program.returncode == status
    profile, stats = (tmp_path / "calls").read_text().splitlines()
    assert profile.startswith("profile --trace=cuda,nvtx ")
    assert {"--capture-range=cudaProfilerApi", "--capture-range-end=stop"} < set(profile.split())
    assert stats.startswith("stats --report cuda_gpu_kern_sum --format csv ")
    assert (tmp_path / "nsys_node1_cuda_gpu_kern_sum.csv").is_file()


def test_the_others_run_as_they_are(start, tmp_path):
    program = start("echo", "a rank", local_rank=1)
    assert program.communicate(timeout=60)[0] == "a rank\n"
    assert not (tmp_path / "calls").exists()


def test_a_node_without_nsys_is_one_line(start, tmp_path):
    (tmp_path / "nsys").unlink()
    program = start("echo", path="/nowhere")
    assert program.communicate(timeout=60)[1].startswith("error: node1 has no nsys: load its mod")
    assert program.returncode == 1


def test_signals_reach_the_trainer_which_saves(start, tmp_path):
    """USR1 comes from Slurm to all processes: the script and nsys outlive it. TERM is passed on."""
    # 5 s: a failed test leaves nothing behind
    save = "trap 'echo saved; exit 143' TERM; echo begun; while ((SECONDS < 5)); do sleep .1; done"
    program = start("bash", "-c", save)
    assert program.stdout.readline() == "begun\n"
    program.send_signal(signal.SIGUSR1)
    program.send_signal(signal.SIGTERM)
    assert program.communicate(timeout=60)[0] == "saved\n"
    assert program.returncode == 143
    assert (tmp_path / "nsys_node1.nsys-rep").exists()


def test_the_job_starts_its_ranks_by_the_script():
    text = (REPO / "experiments/gpt2/nsys/multi_gpu.slurm").read_text()
    command = re.search(r"^  torchrun (?:.*\\\n)*.*", text, re.MULTILINE)[0]
    assert (
        '    --no-python bash "$REPO_DIR/scripts/nsys.sh" \\\n'
        '    python "$REPO_DIR/scripts/train_gpt2.py" \\\n'
    ) in command
    assert command.endswith(" --nvtx &")


@pytest.mark.parametrize(
    ("workload", "args", "fits"),
    [
        ("gpt2", {}, True),
        ("minimal", {}, False),
        ("mine", {}, False),
        ("mine", {"nvtx": True}, True),
    ],
)
def test_a_trainer_that_bounds_no_recording_is_refused(workload, args, fits):
    matrix = load_matrix(REPO / MATRIX)
    mine = matrix.workloads["gpt2"].model_copy(update={"trainer": "/my/train.py"})
    matrix = matrix.model_copy(update={"workloads": matrix.workloads | {"mine": mine}})
    row = matrix.jobs["gpt2_nsys_4g1n"].model_copy(update={"workload": workload, "args": args})
    matrix.jobs["gpt2_nsys_4g1n"] = row
    cluster = load_cluster("ibex", REPO / "templates/clusters")
    if fits:
        assert plan_job("gpt2_nsys_4g1n", matrix, cluster).args["nvtx"] is True
        return
    with pytest.raises(UserError, match="write nvtx = true in its args if its trainer has"):
        plan_job("gpt2_nsys_4g1n", matrix, cluster)
