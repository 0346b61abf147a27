"""scripts/job.sh without a Slurm: what a job leaves, however it ends, and when it is requeued."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
# A job script's section "Paths", and after it what the test is about.
SCRIPT = """
set -euo pipefail
REPO_DIR={repo}
run_dir=$PWD/run run_id=7
RESULTS_DIR=$run_dir/results/7 GPU_DIR=$run_dir/gpu_memory/7 CPU_DIR=$run_dir/cpu_memory/7
{checkpoint_dir}
export REPO_DIR RESULTS_DIR GPU_DIR CPU_DIR
source "$REPO_DIR/scripts/job.sh" multi_gpu.slurm
{body}
"""
STANDINS = {
    # job_summary.py has tests of its own
    "python": '[[ $1 == -c ]] || printf "%s\\n" "$*" >> told',
    "squeue": "exit 1",
    "scontrol": 'printf "scontrol %s\\n" "$*" >> told; exit ${REFUSED:-0}',
}


@pytest.fixture
def start(tmp_path: Path):
    """Returns start(body, **variables) -> the started job script, in tmp_path/job."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "job").mkdir()
    for name, body in STANDINS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(body: str, checkpoint_dir: str = "", **variables: str) -> subprocess.Popen:
        text = SCRIPT.format(repo=REPO, checkpoint_dir=checkpoint_dir, body=body)
        slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "ddp_2g1n"}
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, **slurm, **variables}
        return subprocess.Popen(
            ["bash", "-c", text], cwd=tmp_path / "job", env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return run


def read_end(tmp_path: Path) -> int:
    """The exit status in job_end.json; nothing half-written is beside it."""
    (path,) = (tmp_path / "job/run/results/7").glob("job_end*")
    return json.loads(path.read_text())["exit_status"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("true", 0),
        ("(exit 3)", 3),  # srun's status, by set -e
        ("exit 2", 2),  # a check of the script
        ("echo $nothing_like_this", 1),  # set -u
        ("false | true", 1),  # pipefail
        ("kill -KILL $BASHPID | cat", 137),
    ],
)
def test_exit_status_is_the_trainings(start, tmp_path, body, status):
    process = start(body)
    printed, _ = process.communicate(timeout=20)
    assert (process.returncode, read_end(tmp_path)) == (status, status)
    assert printed == f"Results: {tmp_path}/job/run\n"
    told = (tmp_path / "job/told").read_text()
    assert re.fullmatch(
        rf"{REPO}/scripts/job_summary.py --run-dir {tmp_path}/job/run --run-id 7 "
        rf"--log log/ddp_2g1n_7.out --exit-status {status} --elapsed-s \d+\n", told,
    )  # fmt: skip
    assert {path.name for path in (tmp_path / "job/run").iterdir()} == {
        "results", "gpu_memory", "cpu_memory",
    }  # fmt: skip


@pytest.mark.parametrize("status", [0, 7])
def test_what_the_submitting_shell_exported_changes_no_status(start, tmp_path, status):
    process = start(f"(exit {status})", killed="9", job_file="x")
    process.communicate(timeout=20)
    assert (process.returncode, read_end(tmp_path)) == (status, status)


def test_a_full_disk_leaves_no_half_of_an_end(start, tmp_path):
    process = start("trap '' XFSZ; ulimit -f 0")
    process.communicate(timeout=20)
    assert not (tmp_path / "job/run/results/7/job_end.json").exists()


def test_term_waits_for_the_step_and_is_told(start, tmp_path):
    process = start("echo begun > begun; sleep 1; echo saved > saved")
    while not (tmp_path / "job/begun").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # to the job's shell alone, as scancel --batch sends it
    process.communicate(timeout=20)
    assert (tmp_path / "job/saved").is_file()
    assert (process.returncode, read_end(tmp_path)) == (143, 143)


CHECKPOINT_DIR = "export CHECKPOINT_DIR=$run_dir/checkpoints/it\\'s"
CUT_OFF = 'echo step > "$RESULTS_DIR/REQUEUE"'


@pytest.mark.parametrize("status", [0, 1])  # what went wrong after the save cost nothing
def test_training_that_saved_is_requeued(start, tmp_path, status):
    process = start(f"{CUT_OFF}; launch exit {status}", CHECKPOINT_DIR)
    printed, _ = process.communicate(timeout=20)
    assert (process.returncode, read_end(tmp_path)) == (0, status)
    assert ("had saved" in printed) == bool(status)
    assert (tmp_path / "job/told").read_text().endswith("\nscontrol requeue 7\n")


@pytest.mark.parametrize(
    ("body", "checkpoint_dir"),
    [
        ("true", CHECKPOINT_DIR),
        (CUT_OFF, ""),  # the job has no --requeue
        (f'{CUT_OFF}; touch "$RESULTS_DIR/RUN_COMPLETE.txt"', CHECKPOINT_DIR),
        (f"{CUT_OFF}; kill -TERM $$", CHECKPOINT_DIR),  # somebody cancels it after it has saved
    ],
)
def test_only_a_training_that_saved_is_requeued(start, tmp_path, body, checkpoint_dir):
    start(body, checkpoint_dir).communicate(timeout=20)
    assert "scontrol" not in (tmp_path / "job/told").read_text()


def test_refused_requeue_fails_and_says_what_to_type(start, tmp_path):
    process = start(CUT_OFF, CHECKPOINT_DIR, REFUSED="1")
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, read_end(tmp_path)) == (75, 0)
    folder = str(tmp_path / "job/run/checkpoints/it's").replace("'", "'\\''")
    assert errors == f"Not requeued; type: CHECKPOINT_DIR='{folder}' sbatch multi_gpu.slurm\n"


def test_one_task_of_an_array_is_requeued_alone(start, tmp_path):
    variables = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
    start(CUT_OFF, CHECKPOINT_DIR, **variables).communicate(timeout=20)
    assert (tmp_path / "job/told").read_text().endswith("\nscontrol requeue 5_2\n")


def test_what_the_header_did_not_ask_for_is_forgotten(start, tmp_path):
    """srun reads these as options; sbatch hands on those of a session it is typed in."""
    (tmp_path / "job/header").write_text("#SBATCH --gpus-per-node=2\n#SBATCH --mem=8G\n")
    names = """CPU_BIND CPU_BIND_TYPE CPUS_PER_TASK GPUS GPUS_PER_TASK GRES HINT DISTRIBUTION
        MEM_PER_CPU NTASKS_PER_NODE THREADS_PER_CORE MEM_PER_NODE GPUS_PER_NODE CONF NNODES"""
    leaked = {f"SLURM_{name}": "1" for name in names.split()}
    process = start("compgen -v SLURM_", "BASH_ARGV0=header", **leaked, CPUS_PER_TASK="4")
    printed, _ = process.communicate(timeout=20)
    left = "EXPORT_ENV MEM_PER_NODE GPUS_PER_NODE CONF NNODES CPUS_PER_TASK JOB_ID JOB_NAME"
    assert set(printed.split()[2:]) == {f"SLURM_{name}" for name in left.split()}


def test_a_line_that_fails_in_silence_is_named(start, tmp_path):
    (tmp_path / "job/site.sh").write_text('[ -n "$NOTHING" ] && export X=1\n')
    process = start("set +u; source ./site.sh")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert re.match(r"error: line \d+ failed with status 1: source ./site.sh\n", errors)


def test_the_launchers_status_is_no_line_of_its_own(start):
    process = start('launch bash -c "exit 3"')
    assert (process.communicate(timeout=20)[1], process.returncode) == ("", 3)


def test_a_summary_runs_where_a_python_is_or_says_that_none_is(start, tmp_path):
    """A site with containers alone: the image's Python; without one, a line."""
    path = f"{tmp_path / 'bin'}:{tmp_path / 'none'}"
    (tmp_path / "bin/image").write_text('#!/bin/bash\necho "image: $*" | cut -c 1-60\n')
    (tmp_path / "bin/image").chmod(0o755)
    for name in ("mkdir", "mv", "bash", "sed", "tr", "cut"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    (tmp_path / "bin/python").write_text("#!/bin/bash\nexit 1\n")
    printed, _ = start('in_container() { image "$@"; }', PATH=path).communicate(timeout=20)
    assert f"\nimage: python {REPO}"[:50] in printed
    printed, _ = start("true", PATH=path).communicate(timeout=20)
    assert "\nJob 7: ended with exit status 0 after " in printed


def test_full_disk_costs_neither_the_summary_nor_the_status(start, tmp_path):
    process = start('rmdir -- "$RESULTS_DIR"; exit 3')
    process.communicate(timeout=20)
    assert process.returncode == 3
    assert "--exit-status 3" in (tmp_path / "job/told").read_text()


# ---- What stops a job before its training ------------------------------------------------


def test_folder_that_cannot_be_made_is_one_line_with_the_fix(start, tmp_path):
    (tmp_path / "job/run").write_text("a file")
    process = start("true")
    printed, errors = process.communicate(timeout=20)
    assert (process.returncode, printed) == (2, "")
    assert errors.count("error: ") == 1 and "RUN_DIR=… sbatch multi_gpu.slurm" in errors


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("source /no/such/activate", 1),
        ("false  # module load", 1),
        ("echo $nothing_like_this", 1),
        ("launch no-such-srun", 127),
        ("no-such-module load", 127),
    ],
)
def test_missing_software_names_the_setup_script(start, tmp_path, body, status):
    process = start(body)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert len(re.findall(r"^error: .*bash scripts/setup_env\.sh$", errors, re.MULTILINE)) == 1


def test_no_python_still_says_how_the_job_ended(start, tmp_path):
    (tmp_path / "few").mkdir()
    for tool in ("bash", "mkdir", "mv", "stat", "ls", "tail", "grep"):
        (tmp_path / "few" / tool).symlink_to(shutil.which(tool))
    process = start("launch exit 3", PATH=f"{tmp_path}/few")
    printed, errors = process.communicate(timeout=20)
    assert (process.returncode, read_end(tmp_path)) == (3, 3)
    assert re.search(r"^Job 7: ended with exit status 3 after \d+ s$", printed, re.MULTILINE)
    assert re.fullmatch(r"error: no Python 3\.10 .* bash scripts/setup_env\.sh\n", errors)


def test_the_end_tells_the_signal_that_the_job_got(start, tmp_path):
    process = start("kill -TERM $$")
    process.communicate(timeout=20)
    end = json.loads((tmp_path / "job/run/results/7/job_end.json").read_text())
    assert (end["exit_status"], end["signal"]) == (143, "TERM")


# ---- Two jobs that are after the same port -----------------------------------------------

# Binds in the "network", a process of the test's: bash can connect, not bind.
BINDING = """
cd {folder}; set -uo pipefail; REPO_DIR={repo}; run_dir=$PWD; run_id=$SLURM_JOB_ID; SLURM_JOB_NAME=x
RESULTS_DIR=$PWD/r$run_id GPU_DIR=$RESULTS_DIR CPU_DIR=$RESULTS_DIR
mkdir -p log; exec > "log/x_$run_id.out" 2>&1
python() {{ :; }}
source "$REPO_DIR/scripts/job.sh" x.slurm
MASTER_ADDR=127.0.0.1
choose_port {first} {last}
bind() {{
  exec 5<> /dev/tcp/127.0.0.1/{control}
  echo "$MASTER_PORT" >&5; read -r answer <&5; exec 5>&-
  echo "$answer"; [[ $answer == bound ]]
}}
launch bind
"""


def test_two_hundred_pairs_of_jobs_that_start_together_lose_none(tmp_path):
    bound, taken = [], []

    def serve(control: socket.socket) -> None:
        while True:
            try:
                client, _ = control.accept()
            except OSError:
                return
            with client, client.makefile("rw") as stream:
                listener = socket.socket()
                try:
                    listener.bind(("127.0.0.1", int(stream.readline())))
                    listener.listen()
                    bound.append(listener)
                    stream.write("bound\n")
                except OSError:
                    taken.append(1)
                    listener.close()
                    stream.write("EADDRINUSE\n")

    with socket.create_server(("127.0.0.1", 0)) as control:
        threading.Thread(target=serve, args=(control,), daemon=True).start()
        first = 12000 + os.getpid() % 15 * 1000  # others may run this test, too
        for pair in range(200):
            ids = (1000 + pair, 1000 + pair + (1000 if pair % 2 else 1))  # same port, or next
            text = BINDING.format(
                folder=tmp_path, repo=REPO, first=first, last=first + 999,
                control=control.getsockname()[1],
            )  # fmt: skip
            jobs = [
                subprocess.Popen(
                    ["bash", "-c", text], env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": str(job)}
                )
                for job in ids
            ]
            assert [job.wait(timeout=30) for job in jobs] == [0, 0], pair
            assert len({each.getsockname()[1] for each in bound}) == 2
            while bound:
                bound.pop().close()
    assert taken, "no pair met: nothing was tried"


@pytest.mark.parametrize(("left_s", "said"), [("150", True), ("600", False)])
def test_a_time_limit_that_leaves_no_time_is_told_at_once(tmp_path, left_s, said):
    header = f"{tmp_path}/header.slurm"
    Path(header).write_text("#SBATCH --signal=USR1@120       # s before the limit\n")
    text = f"squeue() {{ date --date='{left_s} seconds' +%FT%T; }}\nSLURM_JOB_ID=7\n"
    job_sh = (REPO / "scripts/job.sh").read_text()
    function = re.search(r"^tell_short_time\(\) \{\n.*?^\}\n", job_sh, re.MULTILINE | re.DOTALL)[0]
    done = subprocess.run(
        ["bash", "-c", f"{text}{function}tell_short_time", header], capture_output=True, text=True
    )
    assert (done.stdout.startswith("Short: the time limit is in "), done.stderr) == (said, "")
