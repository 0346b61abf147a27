"""The preflight's jobs: what is rendered, when one waits for ever, and what is said of its end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doctor.preflight import (
    NEVER,
    Cause,
    Preflight,
    find_line,
    find_status,
    format_table,
    judge_preflight,
    plan_preflight,
    render_preflight,
)
from preflight_records import make_rank, make_task, put
from profiles import Cluster, DoesNotFit, Job, load_matrix, make_environment
from slurm_shapes import doctor
from submission import JobState

REPO = Path(__file__).resolve().parents[2]


def make_cluster(**facts) -> Cluster:
    return Cluster.model_validate({"name": "there", "gpus_per_node": 4} | facts)


MATRIX = load_matrix(REPO / "experiments/matrix.toml")
JOBS = {name: row for name, row in MATRIX.jobs.items() if row.workload == "tinyimagenet"}
MATRIX = MATRIX.model_copy(update={"jobs": JOBS})  # 1, 2, 4, 8 GPUs of a node; 2 of 2, 4, 8 nodes
TEMPLATES = make_environment(REPO / "templates")


def test_the_preflight_is_the_real_job_with_another_trainer(tmp_path):
    cluster = make_cluster(
        gpu_request=["gres"], gpu_type="a100", cpus_per_gpu=8, setup=["module load pytorch"],
        partition=[{"nodes": "1", "use": "small"}, {"use": "large"}], srun_args=["--cpu-bind=none"],
        container="apptainer exec --nv image.sif", master={"suffix": "i"}, env={"A": "b c"},
        step_setup=["ulimit -l unlimited"], data_dir={"tinyimagenet": "/d"},
    )  # fmt: skip
    job = plan_preflight(2, MATRIX, cluster, None)
    text = render_preflight(job, cluster, TEMPLATES, tmp_path)
    assert (job.nodes, job.gpus_per_node, job.name) == (2, 2, "preflight_2n")
    for line in [
        "#SBATCH --time=00:05:00", "#SBATCH --partition=large", "#SBATCH --gres=gpu:a100:2",
        "module load pytorch", "export A='b c'", "export MASTER_ADDR=${hosts[0]}i",
        "  ulimit -l unlimited", "export DATA_DIR=${DATA_DIR:-/d}",
    ]:  # fmt: skip
        assert line in text
    look, launch = text.index('preflight.py" --node'), text.index("torchrun --nnodes")
    assert text.index("ulimit") < look < launch
    assert 'apptainer exec --nv image.sif python "$REPO_DIR/scripts/preflight.py" --node' in text
    assert 'REPO_DIR=$(cd -P -- "${REPO_DIR:-../../..}"' in text  # from preflight/there/2_nodes
    assert text.count("scripts/preflight.py") == 4  # the check of $REPO_DIR says it twice
    (tmp_path / "job.slurm").write_text(text)
    subprocess.run(["bash", "-n", tmp_path / "job.slurm"], check=True)


@pytest.mark.parametrize(
    ("facts", "nodes", "gpus", "found"),
    [
        ({}, 1, None, (1, 4, "multi_gpu")),  # the largest of the matrix that fits
        ({"gpus_per_node": 8}, 1, None, (1, 8, "multi_gpu")),
        ({"gpus_per_node": 1}, 1, None, (1, 1, "baseline")),
        ({}, 1, 3, (1, 3, "multi_gpu")),
        ({}, 2, None, (2, 2, "multi_node")),
        ({}, 2, 4, (2, 4, "multi_node")),
        ({"nodes": 1}, 2, None, "exceeds nodes = 1"),
        ({"gpus_per_node": 1}, 2, None, "exceeds gpus_per_node = 1"),
        ({}, 1, 5, "exceeds gpus_per_node = 4"),
        (
            {"cannot_run": [{"gpus_per_node": "3+", "because": "shared"}]}, 1, None,
            (1, 2, "multi_gpu"),
        ),
    ],
)  # fmt: skip
def test_sizes_of_the_jobs(facts, nodes, gpus, found):
    if isinstance(found, str):
        with pytest.raises(DoesNotFit, match=found):
            plan_preflight(nodes, MATRIX, make_cluster(**facts), gpus)
    else:
        job = plan_preflight(nodes, MATRIX, make_cluster(**facts), gpus)
        assert (job.nodes, job.gpus_per_node, job.template) == found


def test_data_of_other_workloads_is_looked_at_too(tmp_path):
    folders = {"tinyimagenet": "/d", "gpt2": "/it's here"}
    cluster = make_cluster().model_copy(update={"data_dir": folders})
    matrix = MATRIX.model_copy(
        update={"workloads": MATRIX.workloads | {"gpt2": MATRIX.workloads["tinyimagenet"]}}
    )
    job = plan_preflight(1, matrix, cluster, None)
    text = render_preflight(job, cluster, TEMPLATES, tmp_path)
    script = next(line for line in text.splitlines() if "--node '--data" in line)
    shown = subprocess.run(
        ["bash", "-c", f'python() {{ printf "%s\\n" "$@"; }}; REPO_DIR=/x; {script}'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.splitlines() == [
        "/x/scripts/preflight.py", "--node", '--data-dirs={"gpt2": "/it\'s here"}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "never"),
    [
        ("Resources", False), ("Priority", False), ("ReqNodeNotAvail", False),
        ("AssocGrpGRES", False), ("QOSMaxJobsPerUserLimit", False), ("QOSMaxGRESPerUser", False),
        ("BadConstraints", True), ("InvalidAccount", True), ("PartitionTimeLimit", True),
        ("JobHeldAdmin", True), ("QOSMaxCpuPerJobLimit", True), ("QOSMaxNodePerJobLimit", True),
        ("AssocMaxWallDurationPerJobLimit", True), ("BeginTime", False), ("", False),
    ],
)  # fmt: skip
def test_reasons_for_which_a_job_waits_for_ever(reason, never):
    assert bool(NEVER.match(reason)) == never


# ---- What is said of a job ---------------------------------------------------------------


def make_flight(tmp_path: Path, state: str, problem: str = "") -> Preflight:
    job: Job = plan_preflight(2, MATRIX, make_cluster(), None)
    text = render_preflight(job, make_cluster(setup=["module load torch"]), TEMPLATES, tmp_path)
    return Preflight(job, tmp_path, text, "12", JobState(state, ""), problem)


def number_of(text: str, line: str) -> int:
    return text.splitlines().index(line) + 1


def test_the_line_at_which_a_script_stopped(tmp_path):
    text = make_flight(tmp_path, "FAILED").text
    setup = number_of(text, "module load torch")
    log = (
        f"Results: /x\n/var/spool/job12/slurm_script: line {setup}: module: command not found\n"
        "/repo/scripts/job.sh: line 33: python: command not found\n"  # the exit trap's
    )
    stop = f"module: command not found (line {setup}: module load torch)"
    assert find_line(text, log) == ("Software", stop)
    flight = make_flight(tmp_path, "FAILED")
    (job, *rest) = judge_preflight(flight, make_cluster(), ([], []), log, Cause("other", "other"))
    assert (job.status, job.todo) == ("FAIL", "fix setup, env or data_dir in the profile")
    assert job.found == f'FAILED, in "Software": {stop}'
    assert {verdict.status for verdict in rest} == {"not run"}
    assert find_line(text, "environment: line 6: torchrun: command not found\n") == (
        "What every node runs", "torchrun: command not found",
    )  # fmt: skip
    assert find_line(text, "slurm_script: line 99999: x\nslurm_script: line 0: y\n") is None


@pytest.mark.parametrize(
    ("state", "log", "steps", "words"),
    [
        ("FAILED", None, ([], []), "before its script began: there is no log"),
        ("FAILED", "error: no scripts/\n", ([], []), 'in "Paths"'),
        ("FAILED", "Results: /x\n", ([], []), "in the setup lines, or at the launch"),
        ("FAILED", "Results: /x\nNodes: a b\n", ([], []), "at the launch"),
        ("FAILED", "Results: /x\n", (["torch"], []), "while looking at the nodes (torch)"),
        ("FAILED", "Results: /x\n", ([None], []), "when the launcher started the ranks"),
        ("TIMEOUT", "Results: /x\n", ([None], ["clock"]), "in the ranks (clock) (its limit is"),
        ("OUT_OF_MEMORY", "Results: /x\n", ([None], [None]), "OUT_OF_MEMORY, after the checks"),
    ],
)
def test_the_stage_at_which_a_job_stopped(tmp_path, state, log, steps, words):
    tasks = [make_task(0) | ({"in": step} if step else {}) for step in steps[0]]
    ranks = [make_rank(0) | ({"in": step} if step else {}) for step in steps[1]]
    flight = make_flight(tmp_path, state)
    job, *_ = judge_preflight(flight, make_cluster(), (tasks, ranks), log, None)
    assert (job.check, job.status, words in job.found) == ("job", "FAIL", True), job.found
    assert job.todo


def test_a_job_that_was_refused_or_given_up(tmp_path):
    flight = make_flight(tmp_path, "", "not submitted: sbatch: error: invalid partition")
    flight.job_id = ""
    (job,) = judge_preflight(flight, make_cluster(), ([], []), None, None)
    assert (job.status, job.todo) == (
        "FAIL",
        "ask doctor.py --probe which line is refused, and why",
    )
    flight = make_flight(tmp_path, "PENDING", "cancelled: still PENDING (Priority) after 30 min")
    (job,) = judge_preflight(flight, make_cluster(), ([], []), None, None)
    assert "--timeout" in job.todo
    flight.state = JobState("PENDING", "InvalidAccount")
    (job,) = judge_preflight(flight, make_cluster(), ([], []), None, None)
    assert job.todo.startswith("account: ")


def test_a_job_that_slurm_has_forgotten_is_judged_by_its_files(tmp_path):
    files = ([make_task(k) for k in range(2)], [make_rank(k) for k in range(4)])
    job, *_ = judge_preflight(make_flight(tmp_path, "UNKNOWN"), make_cluster(), files, "", None)
    assert job.status == "ok"
    job, *_ = judge_preflight(
        make_flight(tmp_path, "UNKNOWN"), make_cluster(), (files[0], []), "", None
    )
    assert job.status == "FAIL"


def test_table_and_status(tmp_path):
    flight = make_flight(tmp_path, "COMPLETED")
    files = ([make_task(k) for k in range(2)], [make_rank(k) for k in range(4)])
    verdicts = judge_preflight(flight, make_cluster(cpus_per_gpu=8), files, "", None)
    assert find_status(verdicts) == 0
    put(files[0], "1.shm.free_mib", 600)
    verdicts = judge_preflight(flight, make_cluster(cpus_per_gpu=8), files, "", None)
    assert find_status(verdicts) == 0  # a warning
    put(files[0], "1.data", [{"name": "gpt2", "path": "/d\x1b[2J", "error": "gone"}])
    files[1].pop()
    verdicts = judge_preflight(flight, make_cluster(cpus_per_gpu=8), files, "", None)
    assert find_status(verdicts) == 1
    lines = format_table(flight, verdicts).splitlines()
    assert lines[0] == "2 nodes x 2 GPUs (job 12)"
    assert "warn    /dev/shm        n2: 600 MiB of 256.0 GiB free" in lines
    assert "FAIL    data of gpt2    n2: /d [2J: gone" in lines
    assert lines[-1] == ("not run all-reduce, bandwidth, transport: only 3 of 4 ranks reported")
    lines = format_table(flight, verdicts, files[1]).splitlines()
    assert lines[-5] == "all-reduce over 4 ranks:"
    assert [line.split() for line in lines[-4:]] == [
        ["payload", "time", "algbw", "GB/s", "busbw", "GB/s"],
        ["1", "KiB", "0.02", "ms", "0.0512", "0.0768"],
        ["16", "MiB", "1", "ms", "16.8", "25.2"],
        ["256", "MiB", "10", "ms", "26.8", "40.3"],
    ]


def test_files_of_a_job(tmp_path):
    """Cut files count as absent, and a requeued job's last attempt is the one that counts."""
    flight = make_flight(tmp_path, "COMPLETED")
    for folder, text in [("12", '{"host": "old"}'), ("12.1", '{"host": "new"}')]:
        (tmp_path / "results" / folder).mkdir(parents=True)
        (tmp_path / "results" / folder / "preflight_task0.json").write_text(text)
    for other in ("123", "12.x", "12.0"):  # other jobs', and nobody's
        (tmp_path / "results" / other).mkdir()
    (tmp_path / "results/12.1/preflight_rank0.json").write_text('{"host": ')
    (tmp_path / "results/12.1/preflight_rank1.json").write_text("[]")
    assert flight.read_files() == ([{"host": "new"}], [])
    flight.job_id = ""
    assert flight.read_files() == ([], [])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--submit", "--from", "x"], "--submit asks the Slurm of this login node"),
        (["--submit", "--probe", "x"], "not allowed with argument"),
        (["--submit", "--timeout", "0"], "must be above 0"),
        (["--submit", "--gpus", "0"], "must be above 0"),
        (["--timeout", "5"], "--timeout is for --submit"),
        (["--write", "x", "--to", "y"], "--to is for --submit"),
    ],
)
def test_mistakes_in_one_line(args, said):
    done = doctor(*args)
    assert done.returncode == 2
    assert said in done.stderr


def test_no_slurm_no_profile(tmp_path):
    command = [sys.executable, REPO / "scripts/doctor.py", "--to", tmp_path / "jobs", "--submit"]
    done = subprocess.run([*command, "ibx"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1, 'error: no cluster "ibx" in templates/clusters; did you mean "ibex"?\n',
    )  # fmt: skip
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*command[:2], "--submit", "ibex", "--to", tmp_path / "file"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Not a directory; choose a folder that all nodes see, --to DIR" in done.stderr
    done = subprocess.run([*command, "workstation", "--gpus", "9"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("left out: job"), "Trace" in done.stderr) == (
        1, 2, False,
    )  # fmt: skip
    environment = os.environ | {"PATH": str(tmp_path)}
    start = time.monotonic()
    done = subprocess.run([*command, "ibex"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "FAIL    job             not submitted: no sbatch here" in done.stdout
    assert time.monotonic() - start < 15
