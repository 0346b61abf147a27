"""submit.py: what it asks for, what it refuses, and (on a real Slurm) what it starts and ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from profiles.ledger import Entry, append_entry, read_ledger
from profiles.slurm import JobState, limit_to_hours
from profiles.toml_model import ProfileError
from profiles.watching import watch
from scaling.progress import Progress, read_progress

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Job scripts of the profile tests/profiles/short.toml."""
    folder = tmp_path / "jobs"
    command = [sys.executable, "render.py", "--cluster", "tests/profiles/short.toml"]
    subprocess.run([*command, "--to", folder], check=True, capture_output=True, cwd=REPO)
    return folder


def run_submit(*args: str, **variables: str) -> subprocess.CompletedProcess:
    # From the checkout's top, as the profile's path in the scripts' headers is relative to it.
    return subprocess.run(
        [sys.executable, "scripts/submit.py", *map(str, args)],
        cwd=REPO, env=os.environ | variables, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "hours"),
    [
        ("30", 0.5),
        ("30:00", 0.5),
        ("01:30:00", 1.5),
        ("2-00", 48),
        ("2-12:00:00", 60),
        ("1-06:30", 30.5),
        ("90:30", 90.5 / 60),
    ],
)
def test_time_limits_as_slurm_reads_them(limit, hours):
    assert limit_to_hours(limit) == pytest.approx(hours)


def test_dry_run_says_what_it_may_cost_and_submits_nothing(jobs):
    done = run_submit("--all", "--dry-run", "--experiments", jobs, "--repeat", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "ddp_1g1n", "1", "nodes", "x", "1", "GPUs", "00:30:00", "0.5", "GPU-hours",
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


def test_data_that_cannot_be_seen_is_a_warning(jobs):
    done = run_submit("baseline", "--dry-run", "--experiments", jobs, DATA_DIR="/no/such")
    assert done.stdout.startswith("warning: /no/such is not visible from this machine")


def spoil_script(jobs: Path) -> None:
    script = jobs / "baseline/baseline.slurm"
    script.write_text(script.read_text().replace("--time=00:30:00", "--time=00:10:00"))


@pytest.mark.parametrize(
    ("args", "spoil", "message"),
    [
        (["4_gpu"], None, 'no job matches the scale "4_gpu"; known: '),
        (["baseline"], spoil_script, "baseline.slurm is not what its template and profile make"),
        (["baseline"], lambda jobs: shutil.rmtree(jobs / "baseline"), "baseline.slurm is missing;"),
        (["--all"], None, "not submitted; say --yes, or fewer scales"),
        (["8_gpus", "--max-gpus=4"], None, "no scale is left; see --workload and --max-gpus"),
        (["--watch"], None, "nothing submitted yet; name scales, or --all"),
    ],
)
def test_refusal_is_one_line(jobs, args, spoil, message):
    if spoil:
        spoil(jobs)
    done = run_submit(*args, "--experiments", jobs)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (jobs / "submitted.jsonl").exists()


def test_without_slurm_it_says_so(jobs, tmp_path):
    done = run_submit("baseline", "--experiments", jobs, PATH=str(tmp_path))
    assert done.stderr == "error: no sbatch here; run this on a login node of the cluster\n"


# ---- The ledger -------------------------------------------------------------------------


def test_ledger_keeps_every_job_in_order(tmp_path):
    entries = [Entry(str(n), "ddp_1g1n", "baseline", 1, "2026-11-21T10:00:00Z") for n in (7, 8)]
    for entry in entries:
        append_entry(tmp_path, entry)
    assert read_ledger(tmp_path) == entries


def test_damaged_ledger_names_its_line(tmp_path):
    (tmp_path / "submitted.jsonl").write_text('{"job_id": "1"}\n')
    with pytest.raises(ProfileError, match=r"submitted\.jsonl: line 1 is no entry"):
        read_ledger(tmp_path)


# ---- Watching ---------------------------------------------------------------------------


def test_watching_prints_states_epochs_and_the_end_of_a_failed_log(tmp_path, capsys):
    entry = Entry("5", "ddp_1g1n", "baseline", 1, "")
    states = iter([("PENDING", "Dependency"), ("RUNNING", ""), ("FAILED", "NonZeroExitCode")])
    steps = iter([[], ["Epoch [1/3] a"], ["Epoch [1/3] a", "Epoch [2/3] b"]])
    last = watch(
        [entry],
        tmp_path,
        lambda _: JobState(*next(states)),
        lambda *_: Progress(Path("x.out"), next(steps), tail=["First cause: [disk] is full"]),
        interval_s=0,
    )
    assert last == [JobState("FAILED", "NonZeroExitCode")]
    printed = [line.split("  ", 1)[-1].strip() for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "baseline             job 5  PENDING (Dependency)",
        "Epoch [1/3] a",
        "baseline             job 5  RUNNING",
        "Epoch [2/3] b",
        "baseline             job 5  FAILED",
        "ddp_1g1n (job 5) ended as FAILED; the end of x.out:",
        "First cause: [disk] is full",
    ]


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


# ---- On a real Slurm --------------------------------------------------------------------


@pytest.mark.slurm
def test_submit_chain_and_cancel_only_our_own(slurm, jobs, digits):
    variables = {"REPO_DIR": str(REPO), "DATA_DIR": str(digits), **slurm.environment}
    other = slurm.submit(jobs / "baseline", "--hold")
    done = run_submit(
        "baseline", "2_gpus", "--after", "--experiments", jobs, "--", "--comment=ours", **variables
    )
    assert done.returncode == 0, done.stderr
    first, second = read_ledger(jobs)
    assert (first.job, second.job, second.gpus) == ("ddp_1g1n", "ddp_2g1n", 2)
    shown = slurm.run("scontrol", "show", "job", "--oneliner", second.job_id)
    assert f"Dependency=afterany:{first.job_id}" in shown
    assert "Comment=ours" in shown
    done = run_submit("--cancel", "--experiments", jobs, **variables)
    assert done.stdout == f"cancelled 2 jobs {first.job_id} {second.job_id}\n"
    assert [slurm.wait(entry.job_id) for entry in (first, second)] == ["CANCELLED"] * 2
    assert slurm.state(other) == "PENDING"
    slurm.run("scancel", other)


@pytest.mark.slurm
def test_watch_follows_a_job_to_its_end(slurm, jobs, digits):
    variables = {"REPO_DIR": str(REPO), "DATA_DIR": str(digits), **slurm.environment}
    done = run_submit("baseline", "--watch", "--interval=0.5", "--experiments", jobs, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Epoch [") == 3
    assert "  COMPLETED\n" in done.stdout
    ledger = (jobs / "submitted.jsonl").read_text().splitlines()
    assert len(ledger) == 1
    assert json.loads(ledger[0])["folder"] == "baseline"
