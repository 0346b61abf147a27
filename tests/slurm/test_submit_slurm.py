"""submit.py on a real Slurm: what it starts, chains, follows and ends."""

import json
import os
from pathlib import Path

import pytest

from submission.ledger import read_ledger
from submit_command import REPO, render_short, run_submit

pytestmark = pytest.mark.slurm


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return render_short(tmp_path / "jobs")


@pytest.fixture
def variables(slurm, checkout, data) -> dict[str, str]:
    return {"REPO_DIR": str(checkout), "DATA_DIR": str(data), **slurm.environment}


def test_submit_chain_and_cancel_only_our_own(slurm, jobs, variables):
    other = slurm.submit(jobs / "baseline", "--hold")
    done = run_submit(
        *("baseline", "2_gpus", "--after", "--experiments", jobs, "--", "--comment=ours"),
        **variables, STANDIN_STEPS="600",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, tables = read_ledger(jobs)
    assert (first.job, second.job, second.gpus) == ("ddp_1g1n", "ddp_2g1n", 2)
    assert (tables.job, tables.folder, tables.gpus) == ("scaling_tables", "tables", 0)
    ids = (first.job_id, second.job_id)
    for entry, waits in [(second, ids[:1]), (tables, ids)]:
        shown = slurm.run("scontrol", "show", "job", "--oneliner", entry.job_id)
        assert [f"afterany:{job_id}" in shown for job_id in waits] == [True] * len(waits)
        assert "Comment=ours" in shown
    assert "gres/gpu" not in slurm.run("scontrol", "show", "job", "--oneliner", tables.job_id)
    done = run_submit("--cancel", "--experiments", jobs, **variables)
    assert done.stdout == f"cancelled 3 jobs {' '.join([*ids, tables.job_id])}\n"
    assert [slurm.wait(job_id) for job_id in (*ids, tables.job_id)] == ["CANCELLED"] * 3
    assert not (jobs / "tables/tinyimagenet.md").exists()  # cancelled before the others
    assert slurm.state(other) == "PENDING"
    slurm.run("scancel", other)


def test_last_job_writes_the_tables_though_one_before_it_failed(slurm, jobs, variables, tmp_path):
    done = run_submit(
        *("baseline", "2_gpus", "--after", "--watch", "--interval=0.5", "--experiments", jobs),
        **variables,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Epoch [") == 6
    assert done.stdout.count("  COMPLETED\n") == 3
    one, two = (
        (jobs / folder / "log").glob("*.out") for folder in ("baseline", "multi_gpu/2_gpus")
    )
    table = (jobs / "tables/tinyimagenet.md").read_text()
    for log in (*one, *two):
        throughput = log.read_text().rpartition("Throughput: ")[2].split()[0]
        assert f" {throughput} |" in table
    assert (jobs / "tables/tinyimagenet.csv").read_text().startswith("table,config,")
    assert "Not in these tables" not in table  # the tables' own job is no run
    # Again, with data that is not there: the job fails, and the tables say so.
    (data := tmp_path / "nothing").mkdir()
    done = run_submit(
        *("4_gpus", "--after", "--watch", "--interval=0.5", "--experiments", jobs),
        **variables | {"DATA_DIR": str(data)},
    )
    assert done.returncode == 1
    assert "ended as FAILED; the end of " in done.stdout
    failed, tables = read_ledger(jobs)[-2:]
    assert f"job {failed.job_id}: failed: " in (jobs / "tables/tinyimagenet.md").read_text()
    assert slurm.state(tables.job_id) == "COMPLETED"
    end = jobs / f"tables/job_end_{tables.job_id}.json"
    assert json.loads(end.read_text()) == {"exit_status": 0}


def test_an_array_is_followed_to_the_end_of_each_task(jobs, variables):
    options = ("--watch", "--interval=0.5", "--experiments", jobs, "--", "--array=0-1")
    done = run_submit("baseline", *options, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = read_ledger(jobs)
    assert entry.job_id.endswith("_[0-1]")
    assert f"job {entry.job_id}  COMPLETED\n" in done.stdout
    assert len(list((jobs / "baseline/log").glob("*.out"))) == 2


def test_without_tables(jobs, variables):
    done = run_submit(
        "baseline", "--after", "--no-tables", "--experiments", jobs, "--", "--hold", **variables
    )
    assert done.returncode == 0, done.stderr
    assert [entry.job for entry in read_ledger(jobs)] == ["ddp_1g1n"]
    assert run_submit("--cancel", "--experiments", jobs, **variables).returncode == 0


def test_a_refusal_in_the_middle_names_what_was_submitted(jobs, variables):
    # The test cluster has two nodes: a job of four is refused.
    done = run_submit("baseline", "4_nodes", "--experiments", jobs, "--", "--hold", **variables)
    assert done.returncode == 1
    (first,) = read_ledger(jobs)
    assert f"submitted before that and not cancelled: {first.job_id} (scripts/" in done.stderr
    warning, error = done.stderr.splitlines()
    assert (warning[:9], error[:7]) == ("warning: ", "error: ")
    run_submit("--cancel", "--experiments", jobs, **variables)


def test_slurm_is_asked_whether_it_takes_a_job_without_gpus(jobs, variables):
    done = run_submit(
        *("baseline", "--after", "--dry-run", "--experiments", jobs, "--", "--partition=nogpu"),
        **variables,
    )
    assert done.returncode == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("scaling_tables"))
    assert "asks for no GPU, but Slurm says: " in line
    assert "partition" in line
    done = run_submit("baseline", "--after", "--dry-run", "--experiments", jobs, **variables)
    assert "asks for no GPU, which Slurm accepts" in done.stdout
    assert not (jobs / "tables").exists()


def test_watch_follows_a_job_to_its_end(jobs, variables):
    """From within a session of one GPU, whose variables would be srun's options in the job."""
    session = {
        "SLURM_JOB_ID": "1",
        "SLURM_GPUS": "8",
        "SLURM_MEM_PER_CPU": "1",
        "SLURM_NNODES": "9",
    }
    session |= {"SBATCH_TIMELIMIT": "1", "SLURM_CPU_BIND": "mask_cpu:0x80000000"}
    options = ("--watch", "--interval=0.5", "--experiments", jobs)
    done = run_submit("baseline", *options, **variables, **session)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Epoch [") == 3
    assert "  COMPLETED\n" in done.stdout
    ledger = (jobs / "submitted.jsonl").read_text().splitlines()
    assert len(ledger) == 1
    assert json.loads(ledger[0])["folder"] == "baseline"
    # From another place, by another way to name the folder: still ours.
    again = run_submit("--watch", "--experiments", os.path.relpath(jobs, REPO), **variables)
    assert again.returncode == 0


def test_an_edit_after_submission_changes_no_waiting_job(jobs, checkout, variables, slurm):
    """The same edit reaches the job that was submitted with --no-freeze, whose log says so."""
    for option in ((), ("--no-freeze",)):
        done = run_submit("baseline", *option, "--experiments", jobs, "--", "--hold", **variables)
        assert done.returncode == 0, done.stderr
    frozen, other = read_ledger(jobs)
    assert frozen.sources == other.sources
    trainer = checkout / "scripts/train.py"
    trainer.write_text(trainer.read_text().replace("begins at", "edited, begins at"))
    logs = []
    for entry in (frozen, other):
        slurm.run("scontrol", "release", entry.job_id)
        assert slurm.wait(entry.job_id) == "COMPLETED"
        logs.append((jobs / f"baseline/log/ddp_1g1n_{entry.job_id}.out").read_text())
    run_json = jobs / "baseline/results" / frozen.job_id / "run.json"
    where = f"{jobs.resolve()}/.frozen/{frozen.sources}"
    assert json.loads(run_json.read_text())["argv"][0] == f"{where}/scripts/train.py"
    assert f"Sources: as they were at submission, in {where}\n" in logs[0]
    assert ["rank 0 edited" in log for log in logs] == [False, True]
    assert "Sources: changed since submission: scripts/train.py\n" in logs[1]
