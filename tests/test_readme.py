"""README.md's commands on a made study, and what it shows of logs, compared with their source."""

import shlex
import shutil
from pathlib import Path

import pytest

from diagnosis_runs import find, rank, write_known_run
from in_process import run_script, without_torch
from readme_commands import ON_A_STUDY, ORGANISERS, README, REPO, list_blocks
from scaling.read.job_log import read_job_log
from study_folders import write_study
from trainer_logs import nanogpt

# The only ones that end with another status, and what they then say.
STATUS = {"python scripts/check_exercise.py 1": (1, "no run yet: cd experiments/exercises/")}


def show_block(start: str) -> str:
    blocks = [*list_blocks(), *list_blocks(ORGANISERS)]
    (block,) = (block for block in blocks if block.startswith(start))
    return block


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout after the workshop: its experiments/ has a run at each scale."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("scripts", "templates", "render.py"):
        (folder / name).symlink_to(REPO / name)
    unwanted = shutil.ignore_patterns("results", "gpu_memory", "cpu_memory", "*.out")
    shutil.copytree(REPO / "experiments", folder / "experiments", ignore=unwanted)
    jobs = {path: path.read_bytes() for path in folder.glob("experiments/**/*.slurm")}
    write_study(folder / "experiments")
    for path, text in jobs.items():
        path.write_bytes(text)
    shutil.copy(REPO / "tests/cases/csv/nodes_times_per_node.csv", folder / "paper.csv")
    (folder / "runs").mkdir()
    (folder / "train.log").write_text(nanogpt(1))
    (folder / "runs/run1.log").write_text(nanogpt(1))
    (folder / "runs/run8.log").write_text(nanogpt(8))
    return folder


@pytest.mark.parametrize("command", ON_A_STUDY)
def test_command_works_as_it_is_typed(checkout, tmp_path, command):
    """Without PyTorch, as on a login node: --dry-run would spend a minute on predicting memory."""
    _, script, *words = shlex.split(command)
    done = run_script(script, *words, repo=checkout, **without_torch(tmp_path))
    status, said = STATUS.get(command, (0, ""))
    assert done.returncode == status, done.stderr
    assert said in done.stdout and len(done.stdout) > 20


def test_memory_line_is_what_the_summary_prints(tmp_path):
    line = show_block("[gpu_memory_log - GPU 0]").strip()
    (tmp_path / "mem").mkdir()
    rows = "\n".join(
        f"2026/11/21 10:00:{second:02d}.000, 0, V100, {used}, 32510"
        for second, used in enumerate([26532] * 5 + [12275, 12276, 26532])
    )
    header = "timestamp, index, name, memory.used [MiB], memory.total [MiB]"
    (tmp_path / "mem/gpu_memory_log.csv").write_text(f"{header}\n{rows}\n")
    printed = run_script("scripts/analyze_memory.py", tmp_path / "mem").stdout
    (shown,) = (text for text in printed.splitlines() if "GPU 0" in text)
    assert shown.partition("Peak = ")[0] == line.partition("Peak = ")[0]
    assert [word.partition(" = ")[0] for word in shown.split(", ")] == [
        word.partition(" = ")[0] for word in line.split(", ")
    ]


def test_epoch_line_is_read(tmp_path):
    log = tmp_path / "job.out"
    log.write_text(show_block("Epoch [3/3]"))
    last = read_job_log(log).last_attempt.last
    assert (float(last.throughput_per_s), last.unit) == (131.8, "img/s")


def test_diagnosis_is_what_the_command_prints(tmp_path):
    write_known_run(tmp_path, 1, 1, "11", [rank()])
    write_known_run(tmp_path, 1, 4, "12", [rank(data=0.13, comm=0.08)] * 4)
    printed = find(tmp_path)[-1].text().splitlines()
    assert show_block("4 GPUs (1 node)").splitlines() == printed[:2]


def test_verdict_of_preflight_is_one_of_its_own():
    _, advice = show_block("FAIL    data").strip().split("\n")
    source = (REPO / "scripts/doctor/verdicts.py").read_text(encoding="utf-8")
    assert f'"{advice.strip().removeprefix("-> ")}"' in source


def test_table_has_the_columns_of_the_blank_one():
    head = next(line for line in README.splitlines() if line.startswith("| Config |"))
    blank = (REPO / "experiments/TABLES.md").read_text(encoding="utf-8")
    blank = next(line for line in blank.splitlines() if line.startswith("| Config "))
    columns = [cell.strip() for cell in blank.split("|")]
    shown = [cell.strip() for cell in head.split("|")]
    assert [name for name in columns if name in shown] == shown
