"""Three walks on a real Slurm: a participant's, from the README's first command to checked tables;
an organiser's, from saved outputs to six participants' page; and a researcher's, from a trainer of
their own to the page for a proposal. What trains is a stand-in; test_rehearse.py trains really.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doctor.sources import COMMANDS
from filled_tables import parse_markdown
from in_process import run_script
from readme_commands import list_commands
from scaling.runs import find_runs
from slurm_cluster import (
    REPO,
    TESTS,
    VirtualSlurm,
    copy_checkout,
    make_activate,
    make_checkout,
    render_jobs,
)  # fmt: skip
from slurm_shapes import doctor
from submission.ledger import read_ledger
from submit_command import run_submit

pytestmark = pytest.mark.slurm

# ---- The participant ---------------------------------------------------------------------------

SCALES = {
    "baseline": (1, "1 GPU, 1 Node (baseline)"),
    "multi_gpu/2_gpus": (2, "2 GPUs, 1 Node"),
    "multi_node/2_nodes": (4, "2 Nodes"),
}
LAST_EPOCH = re.compile(  # its training loss, training accuracy and throughput
    r"^Epoch \[3/3\].* \| Loss \(train, val\): (.+), .+"
    r" \| Accuracy \(train, val\): (.+), .+ \| Throughput: (.+) img/s$",
    re.MULTILINE,
)


def type_in(copy: Path, environment: dict, *begins: str) -> subprocess.CompletedProcess:
    """Run README commands in one shell, in the copy's top folder: those that begin like this."""
    commands = list_commands()
    typed = [next(text for text in commands if text.startswith(start)) for start in begins]
    lines = [f"({text})" if text.startswith("cd ") else text for text in typed]
    return subprocess.run(
        ["bash", "-c", "\n".join(["set -e", *lines])], cwd=copy, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def fill_in(tables: Path, values: dict[str, list[str]]) -> None:
    """Write the cells of rows, by their label, as a participant would."""
    lines = tables.read_text().split("\n")
    for at, line in enumerate(lines):
        label = line.strip("|").partition("|")[0].strip()
        if label in values:
            lines[at] = "| " + " | ".join([label, *values[label]]) + " |"
    tables.write_text("\n".join(lines))


def test_a_participant_from_the_readme_to_checked_tables(slurm, tmp_path):
    """Data, submit, read the log, fill in, check: with the README's own commands.

    The organiser has rendered the jobs for this cluster; the other scales' jobs run beside.
    """
    copy = copy_checkout(tmp_path / "check out")
    shutil.copy(TESTS / "standin/train.py", copy / "scripts")
    make_activate(copy, has_torchrun=False)
    command = [sys.executable, "render.py", "--cluster", "virtual", "--workload", "tinyimagenet"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    environment = slurm.environment | {"STANDIN_STEPS": "50"}  # psrecord looks every 5 s
    done = type_in(
        copy, environment, "source <(", "source .venv",
        "python scripts/prepare_data.py tinyimagenet --digits", "export DATA_DIR=$PWD",
        "cd experiments/baseline ",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = {"baseline": re.search(r"Submitted batch job (\d+)", done.stdout)[1]}
    for scale in list(SCALES)[1:]:
        given = {"DATA_DIR": str(copy / "data/digits"), "STANDIN_STEPS": "50"}
        jobs[scale] = slurm.submit(copy / "experiments" / scale, **given)
    read = {}
    for scale, job in jobs.items():
        state = slurm.wait(job)
        (log,) = (copy / "experiments" / scale).glob("log/*.out")
        text = log.read_text()
        assert state == "COMPLETED", text
        (epoch,) = LAST_EPOCH.findall(text)
        peak = re.search(r"^\[cpu_memory_log(?:_node0)?\] Peak = (.+) MiB", text, re.MULTILINE)
        read[scale] = (*epoch, peak[1])
    first = read["baseline"]
    filled = {}
    for scale, (loss, accuracy, rate, peak) in read.items():
        gpus, label = SCALES[scale]
        scaling = float(rate) / float(first[2])
        ratios = [f"{scaling:.2f}×", "—", f"{100 * scaling / gpus:.1f}"]
        filled[label] = [loss, accuracy, rate, "—", "—", "—", *ratios, peak]
    filled["1 Node (baseline)"] = filled["1 GPU, 1 Node (baseline)"]
    fill_in(copy / "experiments/TABLES.md", filled)
    checks = "python scripts/check_tables.py", "python scripts/fill_tables.py"
    done = type_in(copy, os.environ.copy(), "source .venv", *checks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) right", done.stdout)[1]) >= 16, done.stdout
    for _, _, rate, _ in read.values():  # as fill_tables.py has them, too
        assert f"| {rate} |" in re.sub(r" +", " ", done.stdout)
    assert len([run for run in find_runs(copy / "experiments") if run.is_usable]) == 3


# ---- The organiser -----------------------------------------------------------------------------

PEOPLE = ("anna", "ben", "chen", "dora", "emil", "fay")
ACTIVATE = """setup = ['source "$REPO_DIR/.venv/bin/activate"']"""


def test_an_organiser_from_saved_outputs_to_the_participants_page(slurm, data, tmp_path):
    # Two weeks before: the outputs that were saved on the login node, a draft, the jobs, a probe.
    (dumps := tmp_path / "dumps").mkdir()
    for file, command in COMMANDS.items():
        if file != "sacctmgr.txt" and shutil.which(command[0]):
            (dumps / file).write_text(slurm.run(*command) + "\n")
    profile = tmp_path / "here.toml"
    assert doctor("--from", dumps, "--write", profile).returncode == 0
    text = profile.read_text().replace('name = "here"', f'name = "here"\n{ACTIVATE}')
    profile.write_text(text)
    shown = doctor("--probe", profile, **slurm.environment)
    assert shown.returncode == 0, shown.stdout
    assert re.search(r"^ok +ddp_1g1n", shown.stdout, re.MULTILINE)

    # The day before: nothing is measured yet, so the estimate is the time limits.
    rendered = render_jobs(profile, tmp_path / "jobs", "--only", "ddp_*")
    options = ("--estimate", "--participants", len(PEOPLE), "--experiments", rendered)
    done = run_submit(*options, **slurm.environment)
    assert "Nothing is measured" in done.stdout

    # On the day: six at once on two nodes, each from a clone of their own.
    root = tmp_path / "workshop"
    entries = {}
    for name in PEOPLE:
        clone = make_checkout(root / name)
        shutil.copytree(rendered, clone / "experiments")
        given = {"DATA_DIR": str(data), "STANDIN_STEPS": "120", **slurm.environment}
        options = ("--experiments", clone / "experiments", "--", "--hold")
        done = run_submit("2_gpus", *options, **given)
        assert done.returncode == 0, done.stderr
        (entries[name],) = read_ledger(clone / "experiments")
    for entry in entries.values():
        slurm.run("scontrol", "release", entry.job_id)
    ports = wait_for_ports(slurm, len(PEOPLE))
    assert len(set(ports)) == len(PEOPLE), ports
    page = write_participants_page(root, tmp_path)  # while they run
    assert "0 of 6 participants have completed" in page and page.count(">running <a") == 6
    for name, entry in entries.items():
        assert slurm.wait(entry.job_id) == "COMPLETED"
        folder = root / name / "experiments/multi_gpu/2_gpus"
        assert [path.name for path in (folder / "results").iterdir()] == [entry.job_id]
        run = json.loads((folder / f"results/{entry.job_id}/run.json").read_text())
        assert f"/{name}/experiments/.frozen/" in run["argv"][0]

    # Afterwards: everybody's tables, and what the next workshop will take.
    done = run_script("scripts/fill_tables.py", "--participants", root)
    rows = {row[0]: row for row in parse_markdown(done.stdout)}
    assert all(float(rows[name][3].partition(" [")[0]) > 0 for name in PEOPLE), done.stdout
    assert "6 of 6" not in write_participants_page(root, tmp_path)  # of seven scales one
    options = ("2_gpus", "--estimate", "--participants", 60, "--study", root)
    done = run_submit(*options, "--experiments", rendered, **slurm.environment)
    assert "measured: 6 jobs on no known GPU" in done.stdout


def wait_for_ports(slurm: VirtualSlurm, jobs: int) -> list[tuple[str, str]]:
    """Wait until so many launchers run at once; returns the port of each."""
    deadline = time.monotonic() + 120
    while True:
        lines = [line for line in slurm.processes().values() if "/torchrun " in line]
        ports = re.findall(r"--master-port=(\d+)", "\n".join(lines))
        if len(set(ports)) >= jobs:
            return sorted(set(ports))
        assert time.monotonic() < deadline, lines
        time.sleep(0.2)


def write_participants_page(root: Path, folder: Path) -> str:
    page = folder / "participants.html"
    done = run_script("scripts/report.py", "--participants", root, "-o", page)
    assert (done.returncode, done.stderr) == (0, "")
    return page.read_text()


# ---- The researcher ----------------------------------------------------------------------------

OWN = """
import os, time
world_size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
began = time.monotonic()
for epoch in range(1, 4):
    time.sleep(0.1)
    if rank == 0:
        rate = 100 * world_size * (1 - 0.02 * world_size)
        print(f"Epoch [{epoch}/3] Throughput: {rate:.1f} samples/s", flush=True)
if rank == 0:
    print(f"Total training time: {30 / world_size:.1f} s", flush=True)
"""
MATRIX = """
cluster = "ibex"
[workloads.mine]
title = "My model"
trainer = "mine/train.py"
"""
JOB = """
[jobs.mine_{gpus}g1n]
workload = "mine"
template = "{template}"
folder = "mine/{gpus}"
nodes = 1
gpus_per_node = {gpus}
time = "00:10:00"
"""


def test_a_researcher_from_an_own_trainer_to_the_proposal(slurm, tmp_path):
    root = make_checkout(tmp_path / "root")
    (root / "mine").mkdir()
    (root / "mine/train.py").write_text(OWN)
    (root / "experiments").mkdir()
    jobs = [JOB.format(gpus=n, template="multi_gpu" if n > 1 else "baseline") for n in (1, 2, 4)]
    (root / "experiments/matrix.toml").write_text(MATRIX + "".join(jobs))
    (root / "templates").symlink_to(REPO / "templates")
    for name in ("render.py", "scripts/submit.py"):  # each works in the checkout that it lies in
        shutil.copy(REPO / name, root / name)
    for path in (REPO / "scripts").iterdir():
        if not (root / "scripts" / path.name).exists():
            (root / "scripts" / path.name).symlink_to(path)
    profile = tmp_path / "short.toml"
    profile.write_text((TESTS / "profiles/short.toml").read_text().partition("[train_args")[0])
    environment = {**slurm.environment, "PYTHONPATH": str(root / "scripts")}
    for words in (
        ("render.py", "--cluster", profile),
        ("scripts/submit.py", "--all", "--workload", "mine", "--repeat", "2", "--watch",
         "--interval", "0.5"),
    ):  # fmt: skip
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    page = tmp_path / "proposal.html"
    options = ("--proposal", "--runs", 5, "--epochs", 10, "--workload", "mine", "-o", page)
    done = run_script("scripts/report.py", root / "experiments", *options)
    assert done.returncode == 0, done.stderr
    text = page.with_suffix(".md").read_text()
    assert "4 GPUs (1 node) is the largest measured scale above 75 % efficiency (93.9 %)" in text
    # Ten epochs of 7.5 s / 3 on 4 GPUs, five times, and what a job takes around its training.
    assert re.search(r"Training of 10 epochs \(s\) +\| +25\.0 \|", text)
    assert re.search(r"Asked for: \d+ .*GPU-hours for 5 runs of 10 epochs", text)
    assert len(re.findall(r"mine/4/log/mine\\?_4g1n\\?_\d+.out, lines \d+ to \d+", text)) >= 2
