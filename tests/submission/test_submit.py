"""submit.py: what it asks for, what it refuses, how it follows; test_submit_slurm.py has jobs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from profiles import Repository
from scaling.read.job_log import Progress, read_progress
from submission.ledger import Entry, append_entry, read_ledger, read_our_states, watch
from submission.options import (
    keep_environment,
    keep_queue_options,
    list_overrides,
    parse_options,
)
from submission.slurm import (
    FORGOTTEN,
    JobState,
    SlurmError,
    cluster_of,
    count_tasks,
    join_tasks,
    number_of,
    read_states,
    submit_script,
)
from submission.tables_job import render_tables
from submit_command import REPO, render_short, run_submit

CLUSTERS = REPO / "templates/clusters"
SHELLCHECK = Path(sys.executable).parent / "shellcheck"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """Job scripts of the profile tests/profiles/short.toml."""
    return render_short(tmp_path_factory.mktemp("jobs"))


@pytest.fixture
def jobs(rendered: Path, tmp_path: Path) -> Path:
    """A copy of them for one test."""
    return shutil.copytree(rendered, tmp_path / "jobs")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like TinyImageNet from outside."""
    for part in ("train", "val"):
        (tmp_path / "tiny" / part).mkdir(parents=True)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "tiny"))
    return tmp_path / "tiny"


def test_dry_run_says_what_it_may_cost_and_submits_nothing(jobs):
    done = run_submit("--all", "--dry-run", "--experiments", jobs, "--repeat", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "ddp_1g1n", "1", "node", "x", "1", "GPU", "00:30:00", "0.5", "GPU-hours",
    ]  # fmt: skip
    assert lines[-1] == "14 jobs, at most 43.0 GPU-hours"  # 2 x (1+2+4+8+4+8+16) x 0.5
    assert not (jobs / "submitted.jsonl").exists()


@pytest.mark.parametrize(
    ("scales", "names"),
    [
        (["ddp_4g1n"], ["ddp_4g1n"]),
        (["multi_node/4_nodes"], ["ddp_2g4n"]),
        (["4_gpus", "baseline"], ["ddp_1g1n", "ddp_4g1n"]),
        (["multi_gpu/*", "ddp_2g1n"], ["ddp_2g1n", "ddp_4g1n", "ddp_8g1n"]),
        (["--all", "--max-gpus=4"], ["ddp_1g1n", "ddp_2g1n", "ddp_4g1n", "ddp_2g2n"]),
        (["baseline", "--workload=tinyimagenet"], ["ddp_1g1n"]),
    ],
)
def test_ways_to_name_a_scale(jobs, scales, names):
    done = run_submit(*scales, "--dry-run", "--experiments", jobs)
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == names


def test_all_means_the_scales_that_were_rendered(jobs):
    shutil.rmtree(jobs / "multi_gpu/8_gpus")
    done = run_submit("--all", "--dry-run", "--experiments", jobs)
    assert done.returncode == 0
    assert done.stdout.startswith("left out: ddp_8g1n, which has no ")
    assert done.stdout.splitlines()[-1].startswith("6 jobs, ")


def test_log_folder_is_made_again(jobs):
    shutil.rmtree(jobs / "baseline/log")
    assert run_submit("baseline", "--dry-run", "--experiments", jobs).returncode == 0
    assert (jobs / "baseline/log").is_dir()


@pytest.mark.parametrize(
    ("spoil", "warning"),
    [
        (shutil.rmtree, "{} is not visible from this machine; is it from the nodes?"),
        (lambda data: (data / "val").rmdir(), "{} has no val, which tinyimagenet needs; make "),
    ],
)
def test_data_that_cannot_be_seen_is_one_warning(jobs, data, spoil, warning):
    spoil(data)
    done = run_submit("--all", "--dry-run", "--experiments", jobs)
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: {warning.format(data)}")
    assert done.stderr.count("warning") == 1


def test_no_data_named_anywhere_is_a_warning(jobs, monkeypatch):
    monkeypatch.delenv("DATA_DIR")
    done = run_submit("baseline", "--dry-run", "--experiments", jobs)
    assert done.stderr.startswith('warning: no data for workload "tinyimagenet": export DATA_DIR=')


def spoil_script(jobs: Path) -> None:
    script = jobs / "baseline/baseline.slurm"
    script.write_text(script.read_text().replace("--time=00:30:00", "--time=00:10:00"))


def spoil_letters(jobs: Path) -> None:
    script = jobs / "baseline/baseline.slurm"
    script.write_bytes(script.read_bytes() + b"\xff\xfe")


def replace_log(jobs: Path) -> None:
    shutil.rmtree(jobs / "baseline/log")
    (jobs / "baseline/log").touch()


@pytest.mark.parametrize(
    ("args", "spoil", "message"),
    [
        (["4_gpu"], None, 'no job matches the scale "4_gpu"; known: '),
        (["baseline"], spoil_script, "baseline.slurm is not what its template and profile make"),
        (["baseline"], lambda jobs: shutil.rmtree(jobs / "baseline"), "baseline.slurm is missing;"),
        (["--all"], None, "not submitted; say --yes, or fewer scales"),
        (["8_gpus", "--max-gpus=4"], None, "no scale is left; see --workload and --max-gpus"),
        (["--watch"], None, "nothing submitted yet; name scales, or --all"),
        (["--all", "--workload=tiny"], None, 'no workload "tiny" in experiments/matrix.toml; '),
        (["baseline"], spoil_letters, "baseline.slurm is not what its template and profile make"),
        (["baseline"], lambda jobs: (jobs / "submitted.jsonl").write_text("{"), "line 1 is not an"),
        (["baseline"], lambda jobs: shutil.rmtree(jobs), "no such folder; see render.py --to"),
        (["baseline"], replace_log, "baseline/log cannot be made: File exists; a job without it"),
    ],
)
def test_refusal_is_one_line(jobs, fake, args, spoil, message):
    if spoil:
        spoil(jobs)
    done = run_submit(*args, "--experiments", jobs)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (fake / "sbatch.args").exists()


def test_without_slurm_it_says_so(jobs, tmp_path):
    done = run_submit("baseline", "--experiments", jobs, PATH=str(tmp_path))
    assert done.stderr == "error: no sbatch here; run this on a login node of the cluster\n"


def test_as_a_command(tmp_path):
    command = [sys.executable, REPO / "scripts/submit.py", "--cancel", "--experiments", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("cancelled 0 jobs\n", "")


# ---- What sbatch is given ----------------------------------------------------------------

FAKE = """#!/bin/bash
# Speaks as sbatch(1), squeue(1) and scancel(1) say, of jobs that are numbered from 7 on.
name=${0##*/}
env | sort > "$FAKE/$name.env"
echo "$*" >> "$FAKE/$name.args"
if [[ $name == sbatch && $* != *--test-only* ]]; then
  echo "Welcome to a site that prints this first"
  echo "$((6 + $(wc -l < "$FAKE/sbatch.args")))$FAKE_CLUSTER"
elif [[ $name == squeue ]]; then
  printf '%s\\n' "CLUSTER: alpha" "$FAKE_STATES"
fi
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins of Slurm's commands, first on PATH; they note how they are called."""
    (folder := tmp_path / "fake").mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def read_calls(fake: Path, name: str) -> list[str]:
    """The arguments of each call of a command."""
    return (fake / f"{name}.args").read_text().splitlines()


def test_the_submitting_shell_does_not_decide_the_job(jobs, fake):
    session = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_CPU_BIND": "x", "SLURM_GPUS": "1"}
    given = {"SLURM_CONF": "/a", "SLURM_CLUSTERS": "b", "SBATCH_ACCOUNT": "me", "SLURMX": "c"}
    given |= {"DATA_DIR": "/data"}
    lost = {"SBATCH_TIMELIMIT": "1", "SBATCH_GPUS": "1", "CUDA_VISIBLE_DEVICES": "0"}
    done = run_submit("baseline", "--experiments", jobs, **session, **given, **lost)
    assert done.returncode == 0, done.stderr
    seen = dict(x.split("=", 1) for x in (fake / "sbatch.env").read_text().splitlines() if "=" in x)
    assert {name: seen.get(name) for name in given} == given
    assert not (session | lost).keys() & seen.keys()
    assert "SBATCH_ACCOUNT='me' in this shell is used: the job scripts have no --a" in done.stderr
    assert "SBATCH_TIMELIMIT='1' in this shell overrides the job scripts where" in done.stderr
    # On a login node CUDA_VISIBLE_DEVICES is the user's own word.
    run_submit("baseline", "--experiments", jobs, CUDA_VISIBLE_DEVICES="0")
    assert "CUDA_VISIBLE_DEVICES=0\n" in (fake / "sbatch.env").read_text()


def test_what_a_script_names_is_not_the_shells(monkeypatch):
    names = ("SBATCH_PARTITION", "SBATCH_EXPORT", "SLURM_HINT", "SLURM_CLUSTERS", "XSBATCH_QOS")
    for name in names:
        monkeypatch.setenv(name, "x y")
    script = "#!/bin/bash\n#SBATCH -p gpu\n#SBATCH --clusters=a\nset -e\n#SBATCH --hint=x\n"
    says = "in this shell overrides the job scripts where sbatch is typed: unset"
    assert list_overrides(script) == [
        f"{name}='x y' {says} {name}" for name in sorted({*names} - {"SBATCH_EXPORT", names[-1]})
    ]
    assert list_overrides(script, parse_options(["-p", "x", "-Ma"])) == [
        f"SLURM_HINT='x y' {says} SLURM_HINT"
    ]
    assert keep_environment(script).keys() & {*names} == {"XSBATCH_QOS"}
    assert keep_environment().keys() & {*names} == {"SLURM_CLUSTERS", "XSBATCH_QOS"}


def test_an_empty_job_gets_by_name_what_it_takes(fake, tmp_path, monkeypatch):
    script = tmp_path / "job.slurm"
    script.write_text("#!/bin/bash\n#SBATCH --export=NONE\n")
    monkeypatch.setenv("RUN_DIR", "/run")
    monkeypatch.setenv("DATA_DIR", "/data")
    submit_script(script, [])
    submit_script(script, ["--export=ALL"])
    submit_script(script, ["--export=NONE"])
    script.write_text("#!/bin/bash\n")
    submit_script(script, [])
    assert read_calls(fake, "sbatch") == [
        "--parsable --export=RUN_DIR,DATA_DIR job.slurm", "--parsable --export=ALL job.slurm",
        "--parsable --export=NONE --export=RUN_DIR,DATA_DIR job.slurm",
        "--parsable job.slurm",
    ]  # fmt: skip


def test_a_federations_jobs_are_followed_and_ended_on_their_cluster(jobs, fake):
    options = ("--experiments", jobs, "--no-tables", "--after", "--", "--dependency=singleton")
    done = run_submit("baseline", "2_gpus", *options, FAKE_CLUSTER=";alpha")
    assert done.returncode == 0, done.stderr
    assert [entry.job_id for entry in read_ledger(jobs)] == ["7;alpha", "8;alpha"]
    assert read_calls(fake, "sbatch")[1] == (
        "--parsable --dependency=singleton --dependency=singleton,afterany:7 --clusters=alpha "
        "multi_gpu.slurm"
    )
    states = f"7|7|COMPLETED|None|{jobs}/baseline\n8|8|RUNNING|None|{jobs}/multi_gpu/2_gpus"
    done = run_submit("--cancel", "--experiments", jobs, FAKE_STATES=states)
    assert done.stdout == "cancelled 1 job 8;alpha\n"
    assert "--clusters=alpha" in read_calls(fake, "squeue")[0]
    assert read_calls(fake, "scancel") == ["--clusters=alpha --quiet 8"]
    done = run_submit("--watch", "--experiments", jobs, FAKE_STATES=states.replace("RUNN", "FAIL"))
    assert "job 7;alpha  COMPLETED" in done.stdout


def test_an_array_is_one_entry_with_one_state(jobs, fake, monkeypatch):
    done = run_submit("baseline", "--experiments", jobs, "--", "-a", "0-2%1")
    assert done.stdout.endswith("submitted ddp_1g1n as job 7_[0-2%1]\n")
    words = ("COMPLETED", "FAILED", "COMPLETED")
    states = [f"7_{k}|7|{state}|None|{jobs}/baseline" for k, state in enumerate(words)]
    monkeypatch.setenv("FAKE_STATES", "\n".join(states))
    done = run_submit("--watch", "--experiments", jobs)
    assert done.returncode == 1
    assert "job 7_[0-2%1]  FAILED" in done.stdout
    found = read_states(["7_1", "7_2", "7_3"])
    assert [state.state for state in found.values()] == ["FAILED", "COMPLETED", "UNKNOWN"]


@pytest.mark.parametrize(
    ("states", "state", "reason"),
    [
        ("COMPLETED COMPLETED COMPLETED", "COMPLETED", "3 of 3 tasks"),
        ("COMPLETED RUNNING PENDING", "RUNNING", "1 of 3 tasks"),
        ("FAILED PENDING PENDING", "PENDING", "2 of 3 tasks"),
        ("COMPLETED TIMEOUT COMPLETED", "TIMEOUT", "1 of 3 tasks"),
        ("COMPLETED COMPLETED", "UNKNOWN", "Slurm has forgotten 1 of 3 tasks"),
        ("FAILED COMPLETED", "FAILED", "1 of 3 tasks"),
    ],
)
def test_the_state_of_an_array(states, state, reason):
    tasks = [JobState(word, "", "here") for word in states.split()]
    assert join_tasks(tasks, 3) == JobState(state, reason, "here")


@pytest.mark.parametrize(
    ("job", "number", "cluster", "tasks"),
    [
        ("7", "7", "", 0), ("7;alpha", "7", "alpha", 0), ("7_[0-3];alpha", "7", "alpha", 4),
        ("7_[0-9:3,12%2]", "7", "", 5), ("7_[5]", "7", "", 1), ("7_5;b", "7_5", "b", 0),
        ("7_[1,3,5-6]", "7", "", 4),
    ],
)  # fmt: skip
def test_how_a_job_is_written(job, number, cluster, tasks):
    assert (number_of(job), cluster_of(job), count_tasks(job)) == (number, cluster, tasks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-J", "a/b"], '--job-name=a/b for sbatch: "/" names a folder that log/ does not have'),
        (["--job-name=a/b"], "write --job-name=a_b"),
        (["--job=a/b"], "write --job-name=a_b"),
        (["-t1"], 'job "ddp_1g1n": time = "1" is less than 2 x requeue_margin_s = 120, which a'),
        (["--time", "00:03:59"], "needs to start and to save; write a longer --time"),
        (["--time-min=1"], "write a longer --time"),
        (["--signal=USR1@1000"], 'time = "00:30:00" is less than 2 x requeue_margin_s = 1000'),
        (["--time=2h"], "--time for sbatch: '2h' is not a time of Slurm's; write 02:00:00"),
        (["-o", "x.out"], "--output for sbatch: the tables and --watch read log/"),
        (["--err=x"], "--error for sbatch: the tables"),
        (["--chdir=/tmp"], "--chdir for sbatch: a job starts in its own folder; leave it out"),
        (["-W"], "--wait for sbatch: say --watch"),
        (["--test-only"], "--test-only for sbatch: say --dry-run"),
        (["--hold", "4_gpus"], "'4_gpus' is no option of sbatch: scales stand before the --"),
    ],
)
def test_options_that_would_spoil_a_job_are_refused(jobs, fake, options, message):
    done = run_submit("baseline", "--experiments", jobs, "--", *options)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert not (fake / "sbatch.args").exists()


def test_an_interrupted_submission_leaves_no_job_that_the_ledger_does_not_know(jobs, fake):
    slow = FAKE.replace("env | sort", "sleep 0.3; env | sort").replace("#!/bin/bash", "", 1)
    (fake / "sbatch").write_text(f'#!/bin/bash\ntouch "$FAKE/began"\n{slow}')
    command = [sys.executable, REPO / "scripts/submit.py", "baseline", "2_gpus"]
    child = subprocess.Popen([*command, "--experiments", jobs], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    while not (fake / "began").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.communicate()[1] == (
        "\nstopped; what was submitted goes on; to end it: scripts/submit.py --cancel\n"
    )
    assert child.returncode == 130
    assert [entry.job_id for entry in read_ledger(jobs)] == ["7"]


def test_an_answer_without_a_job_id_is_refused(jobs, fake):
    (fake / "sbatch").write_text("#!/bin/sh\necho Held for review\n")
    done = run_submit("baseline", "--experiments", jobs)
    said = "error: sbatch printed no job id but 'Held for review'; look with squeue\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_all_that_sbatch_says_is_kept(jobs, fake):
    words = "sbatch: error: name your project\nsbatch: error: Batch"
    (fake / "sbatch").write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
    done = run_submit("baseline", "--experiments", jobs)
    assert done.stderr == (
        "error: sbatch: error: name your project; error: Batch; doctor.py --probe PROFILE says "
        "which line\n"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--cancel", "baseline"], "--cancel ends all jobs submitted so far; leave out the rest"),
        (["--watch", "--", "--hold"], "options for sbatch follow scales, or --all"),
        (["baseline", "--interval=nan"], "--interval must be above 0"),
        ([], "name scales, or --all; --watch and --cancel need none"),
    ],
)
def test_wrong_use_ends_with_status_2(args, message):
    done = run_submit(*args)
    assert (done.returncode, message in done.stderr) == (2, True)


# ---- The ledger -------------------------------------------------------------------------


def test_ledger_keeps_every_job_in_order(tmp_path):
    entries = [Entry(str(n), "ddp_1g1n", "baseline", 1, "2026-11-21T10:00:00Z") for n in (7, 8)]
    for entry in entries:
        append_entry(tmp_path, entry)
    assert read_ledger(tmp_path) == entries


@pytest.mark.parametrize(
    "line",
    [
        b'{"job_id": "1"}', b'{"job_id": "1", "job', b"\xff\xfe", b"[]",
        b'{"job_id": 1, "job": "a", "folder": "b", "gpus": 1, "submitted_utc": ""}',
        b'{"job_id": "x", "job": "a", "folder": "b", "gpus": 1, "submitted_utc": ""}',
    ],
)  # fmt: skip
def test_damaged_ledger_names_its_line(tmp_path, line):
    (tmp_path / "submitted.jsonl").write_bytes(line + b"\n")
    with pytest.raises(UserError, match=r"submitted\.jsonl: line 1 is not an entry"):
        read_ledger(tmp_path)


def test_a_folder_that_is_not_there_has_no_ledger():
    done = run_submit("--cancel", "--experiments", "nowhere")
    assert done.returncode == 1
    assert done.stderr == "error: --experiments nowhere: no such folder; name that of the jobs\n"


# ---- Watching ---------------------------------------------------------------------------

ENTRY = Entry("5", "ddp_1g1n", "baseline", 1, "")


def watch_one(folder: Path, states: list, steps: list[Progress] | None = None) -> list[JobState]:
    """Watch ENTRY; Slurm and the log give these answers one after the other."""
    answers, progress = iter(states), iter(steps or [Progress()] * len(states))

    def read_states(entries: list[Entry]) -> dict[str, JobState]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return {entry.job_id: answer for entry in entries}

    return watch([ENTRY], folder, read_states, lambda *_: next(progress), interval_s=0)


def read_lines(capsys) -> list[str]:
    """What was printed, without the clock."""
    return [line.split("  ", 1)[-1].strip() for line in capsys.readouterr().out.splitlines()]


def test_watching_prints_states_epochs_and_the_end_of_a_failed_log(tmp_path, capsys):
    steps = [[], ["Epoch [1/3] a"], ["Epoch [1/3] a", "Epoch [2/3] b"]]
    tail = ["First cause: [disk] is full"]
    last = watch_one(
        tmp_path,
        [JobState("PENDING", "Dependency"), JobState("RUNNING", ""), JobState("FAILED", "Non0")],
        [Progress(Path("x.out"), lines, tail=tail) for lines in steps],
    )
    assert last == [JobState("FAILED", "Non0")]
    assert read_lines(capsys) == [
        "baseline             job 5  PENDING (Dependency)",
        "Epoch [1/3] a",
        "baseline             job 5  RUNNING",
        "Epoch [2/3] b",
        "baseline             job 5  FAILED",
        "ddp_1g1n (job 5) ended as FAILED; the end of x.out:",
        "First cause: [disk] is full",
    ]


def test_a_new_reason_to_wait_is_told_once(tmp_path, capsys):
    waits = [JobState("PENDING", reason) for reason in ("Priority", "Priority", "Resources")]
    watch_one(tmp_path, [*waits, JobState("COMPLETED", "")])
    words = [line.partition("job 5  ")[2] for line in read_lines(capsys)]
    assert words == ["PENDING (Priority)", "PENDING (Resources)", "COMPLETED"]


def test_on_a_terminal_there_is_one_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    reason = "ReqNodeNotAvail, node[a,1-2]"
    watch_one(
        tmp_path,
        [JobState("PENDING", reason), JobState("RUNNING", ""), JobState("COMPLETED", "")],
        [
            Progress(),
            Progress(tmp_path / "x.out", ["a"], "1/3", "704.9 img/s"),
            Progress(tmp_path / "x.out", ["a", "b", "c"], "3/3", "705.1 img/s"),
        ],
    )
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    lines = [line.split() for line in shown.splitlines() if "ddp_1g1n" in line]
    assert lines[0] == ["ddp_1g1n", "5", "1", "PENDING", *f"({reason})".split()]
    assert ["ddp_1g1n", "5", "1", "RUNNING", "1/3", "704.9", "img/s"] in lines
    assert lines[-1] == ["ddp_1g1n", "5", "1", "COMPLETED", "3/3", "705.1", "img/s"]


def test_slurm_may_be_silent_for_a_while(tmp_path, monkeypatch):
    silence, running = SlurmError("squeue: Unable to contact slurm controller"), [RUNNING]
    answers = [*running, silence, silence, JobState("COMPLETED", "")]
    assert watch_one(tmp_path, answers)[0].state == "COMPLETED"
    monkeypatch.setattr("submission.ledger.PATIENCE", 2)
    with pytest.raises(SlurmError, match="Unable to contact"):
        watch_one(tmp_path, answers)
    with pytest.raises(SlurmError):  # nothing known yet: most likely no cluster at all
        watch_one(tmp_path, [silence])


RUNNING = JobState("RUNNING", "")


@pytest.mark.parametrize(
    ("exit_status", "state"), [(0, "COMPLETED"), (1, "FAILED"), (None, "UNKNOWN")]
)
def test_a_job_that_slurm_has_forgotten_is_judged_by_its_files(tmp_path, exit_status, state):
    last = watch_one(tmp_path, [FORGOTTEN], [Progress(exit_status=exit_status)])
    assert last[0].state == state


def test_the_exit_status_is_that_of_the_last_attempt(tmp_path):
    for attempt, status in [("7", 1), ("7.2", 0), ("7.10", 3), ("71", 9)]:
        folder = tmp_path / "results" / attempt
        folder.mkdir(parents=True)
        (folder / "job_end.json").write_text(json.dumps({"exit_status": status, "elapsed_s": 1}))
    assert read_progress(tmp_path, "7").exit_status == 3
    assert read_progress(tmp_path, "8").exit_status is None
    (tmp_path / "job_end_8.json").write_text('{"exit_status": 4}')  # of the tables' job
    assert read_progress(tmp_path, "8").exit_status == 4


def test_a_job_of_the_same_number_elsewhere_is_not_ours(tmp_path):
    here, there = str(tmp_path / "baseline"), str(tmp_path / "other/baseline")
    for folder, state in [(here, "RUNNING"), (there, "UNKNOWN"), ("", "RUNNING")]:
        found = read_our_states(
            tmp_path, lambda _, f=folder: {"5": JobState("RUNNING", "", f)}, [ENTRY]
        )
        assert found["5"].state == state


def test_progress_of_a_log_that_is_being_written(tmp_path):
    assert read_progress(tmp_path, "3") == Progress()
    (tmp_path / "log").mkdir()
    line = (
        "Epoch [1/3] LR: 0.001000 | Loss (train, val): 5.149, 5.664 | "
        "Accuracy (train, val): 2.16%, 0.98% | Throughput: 704.9 img/s"
    )
    (tmp_path / "log/ddp_1g1n_3.out").write_text(f"NCCL INFO\n{line}\nEpoch [2/3] LR: 0.0")
    progress = read_progress(tmp_path, "3")
    assert progress.epoch_lines == [line]
    assert (progress.epochs, progress.throughput) == ("1/3", "704.9 img/s")


# ---- The job that writes the tables -----------------------------------------------------


def list_directives(cluster: str, with_gpu: bool = False) -> list[str]:
    repository = Repository(REPO)
    job = repository.plan("ddp_1g1n", cluster)
    text = render_tables(repository, [job], cluster, REPO / "experiments", with_gpu)
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("#SBATCH")]


SMALL = [
    *("--job-name=scaling_tables", "--output=%x_%j.out", "--time=00:10:00", "--nodes=1"),
    *("--ntasks=1", "--cpus-per-task=1"),
]


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("virtual", SMALL),
        ("lumi", [*SMALL, "--mem=4G", "--partition=small-g", "--account=project_YOUR_ACCOUNT"]),
        ("perlmutter", [*SMALL, "--qos=regular", "--account=YOUR_ACCOUNT", "--constraint=gpu"]),
        ("narval", [*SMALL, "--mem=4G", "--account=def-YOUR_ACCOUNT_gpu"]),
    ],
)
def test_tables_wait_in_the_queue_of_a_one_gpu_job(cluster, expected):
    assert list_directives(cluster) == expected


@pytest.mark.parametrize(
    ("cluster", "option"), [("virtual", "--gpus-per-node=1"), ("puhti", "--gres=gpu:v100:1")]
)
def test_tables_take_one_gpu_where_they_must(cluster, option):
    assert set(list_directives(cluster, True)) - set(list_directives(cluster)) == {option}


def test_tables_job_of_every_site_is_sound_shell(tmp_path):
    repository, scripts = Repository(REPO), []
    for cluster in sorted(path.stem for path in CLUSTERS.glob("*.toml")):
        job = repository.plan("ddp_1g1n", cluster)
        scripts.append(tmp_path / f"{cluster}.sh")
        text = render_tables(repository, [job], cluster, tmp_path / "a b$(c)", True)
        assert f"'{tmp_path}/a b$(c)'" in text
        scripts[-1].write_text(text)
    command = [SHELLCHECK, "--exclude=SC2016", *scripts]  # $() in single quotes is meant
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        (["--reservation=workshop", "--time=02:00:00"], ["--reservation=workshop"]),
        (["-A", "me", "--mem", "4G"], ["--account=me"]),
        (["-Ame", "--gres=gpu:4"], ["--account=me"]),
        (["--account", "me", "-N2", "-p", "gpu"], ["--account=me", "--partition=gpu"]),
    ],
)
def test_options_of_the_queue_reach_the_tables_too(given, kept):
    assert keep_queue_options(parse_options(given)) == kept


@pytest.fixture
def picky_sbatch(tmp_path: Path) -> Path:
    """A folder with an sbatch that, as some sites' job filters do, refuses jobs without GPUs.

    The virtual cluster has no such filter; its words are those of a Slurm submit plugin.
    """
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        "#!/bin/bash\nif grep -q -- --gpus-per-node=1; then exit 0; fi\n"
        "echo 'sbatch: error: this partition is for GPU jobs' >&2\nexit 1\n"
    )
    sbatch.chmod(0o755)
    return sbatch.parent


def test_where_a_job_without_gpus_is_refused_the_tables_take_one(jobs, picky_sbatch):
    path = f"{picky_sbatch}:{os.environ['PATH']}"
    done = run_submit("baseline", "--after", "--dry-run", "--experiments", jobs, PATH=path)
    words = "1 GPU, since without one Slurm says: sbatch: error: this partition is for GPU jobs"
    assert done.stdout.splitlines()[-2].endswith(f"  asks for {words}")
    assert done.stdout.endswith("1 job and the tables, at most 0.7 GPU-hours\n")  # + 10 minutes


def test_dry_run_without_slurm_says_that_it_could_not_ask(jobs, tmp_path):
    done = run_submit("baseline", "--after", "--dry-run", "--experiments", jobs, PATH=str(tmp_path))
    line = done.stdout.splitlines()[-2]
    assert line.startswith("scaling_tables     1 node x 1 CPU     00:10:00  asks for no GPU (no ")
    assert line.endswith("and there is no sbatch to ask)")
    assert done.stdout.endswith("1 job and the tables, at most 0.5 GPU-hours\n")
    done = run_submit("baseline", "--after", "--no-tables", "--dry-run", "--experiments", jobs)
    assert "tables" not in done.stdout
