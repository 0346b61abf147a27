"""check_exercise.py on runs whose times are known, and the texts of the exercises."""

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from common.toml import tomllib
from diagnosis_runs import rank, write_known_run
from in_process import run_script
from run_folders import put, scale_folder
from scaling.exercises import EXERCISE_LIST, find_answer, judge, read_facts

REPO = Path(__file__).resolve().parents[2]
TEXT = (REPO / "experiments/EXERCISES.md").read_text(encoding="utf-8")
JOBS = tomllib.loads((REPO / "experiments/matrix.toml").read_text(encoding="utf-8"))["jobs"]
BROKEN = REPO / "experiments/exercises/5_broken_job/src/train_broken.py"


def write_exercise(root: Path, number: int) -> None:
    """The runs of an exercise; a step of one GPU takes 0.32 s."""
    folder = root / "exercises" / EXERCISE_LIST[number].folder
    if number in (1, 4):  # 0.40 s per step: 80 % efficient, and 0.64 s: 50 %
        for name, comm in zip({1: ("batch_256", "batch_32"), 4: ("weak", "strong")}[number],
                              (0.08, 0.32), strict=True):  # fmt: skip
            write_known_run(folder / name, 1, 1, "11", [rank()])
            write_known_run(folder / name, 1, 4, "12", [rank(comm=comm)] * 4)
    elif number == 2:  # 0.29 of 0.58 s
        for name, data in (("workers_0", 0.29), ("workers_1", 0.1), ("workers_all", 0.01)):
            write_known_run(folder / name, 1, 1, "11", [rank(data=data)], input="jpeg")
    elif number == 3:  # fp16 and usual are as near as single runs can tell
        for name, comm in (("usual", 0.104), ("small", 0.2), ("fp16", 0.1)):
            write_known_run(folder / name, 2, 2, "11", [rank(comm=comm)] * 4)
    elif number == 5:
        put(scale_folder(folder, 1, 2) / "log/ddp_2g1n_11.out", "Traceback\n")
        put(scale_folder(folder, 1, 2) / "results/11/job_end.json", '{"exit_status": 1}')
    else:
        write_known_run(folder, 1, 1, "11", [rank()])
        write_known_run(folder, 2, 1, "12", [rank(comm=3.0)] * 2)


def check(root: Path, *words: object):
    return run_script("scripts/check_exercise.py", *words, "--experiments", root)


@pytest.mark.parametrize(
    ("number", "right", "wrong", "said"),
    [
        (1, ["30", "30.4", "29,6 %"], "-30", "its sign is not"),
        (2, ["50", "50.0%"], "12", "it is more than that"),
        (3, ["fp16", "usual", "FP16"], "small", "not yet"),
        (4, ["30.0"], "some", "is no number"),
        (5, ["40", "41"], "66", "not yet"),
        (6, ["communication", "exposed communication"], "data", "not yet"),
    ],
)
def test_answer_is_judged_by_the_runs(tmp_path, number, right, wrong, said):
    write_exercise(tmp_path, number)
    answer = find_answer(number, tmp_path)
    assert [judge(answer, text) for text in right] == [(True, "right")] * len(right)
    is_right, why = judge(answer, wrong)
    assert not is_right and said in why
    shown = check(tmp_path, number, "--show")
    assert f"\nAnswer: {answer.text}\n" in shown.stdout
    assert shown.returncode == 0
    assert read_facts(number)["why"] in shown.stdout


def test_command_says_what_is_there_right_and_not_yet(tmp_path):
    write_exercise(tmp_path, 5)
    for words, status, said in (
        ([], 0, "All its runs are there. Your answer: python scripts/check_exercise.py 5 ANSWER"),
        (["41"], 0, "41: right; what is behind it: python scripts/check_exercise.py 5 --show"),
        (["66"], 1, "66: not yet: look once more at what to look for"),
    ):
        done = check(tmp_path, 5, *words)
        assert (done.returncode, done.stderr) == (status, "")
        assert done.stdout.splitlines()[1:] == [said]


def test_missing_runs_are_named_with_what_to_type():
    done = run_script("scripts/check_exercise.py", 2)  # nobody has run them in this checkout
    assert (done.returncode, done.stderr) == (1, "")
    jobs = "\n".join(done.stdout.splitlines()[2:])
    assert jobs.count("no run yet: cd experiments/exercises/2_loader_workers/workers_") == 3


def find_section(number: int) -> str:
    return re.search(rf"^## {number}\. .*\n(?:(?!^## ).*\n)*", TEXT, re.MULTILINE)[0]


@pytest.mark.parametrize("number", EXERCISE_LIST)
def test_commands_of_an_exercise_work_as_they_are_typed(tmp_path, number):
    """Those that read runs, on made ones; those that submit name jobs of the matrix."""
    write_exercise(tmp_path / "experiments", number)
    (tmp_path / "rehearsal").symlink_to("experiments")
    (tmp_path / "scripts").symlink_to(REPO / "scripts")
    submitted = set()
    for line in re.findall(r"^python scripts/(.*)$", find_section(number), re.MULTILINE):
        script, *words = shlex.split(line)
        if script == "submit.py":
            scale = next(word for word in words if word.startswith("exercises/"))
            submitted |= {name for name, job in JOBS.items() if fnmatch(job["folder"], scale)}
        elif script in ("scaling_tables.py", "diagnose.py", "check_exercise.py"):
            done = run_script(f"scripts/{script}", *words, repo=tmp_path)
            assert (done.returncode, done.stderr) == (0, ""), line
            assert number not in (1, 4) or script != "diagnose.py" or "% efficient" in done.stdout
    assert submitted == {
        name for name, job in JOBS.items() if EXERCISE_LIST[number].folder in job["folder"]
    }


@pytest.mark.parametrize("number", EXERCISE_LIST)
def test_text_and_jobs_of_an_exercise_belong_together(number):
    exercise = EXERCISE_LIST[number]
    part = find_section(number)
    assert part.startswith(f"## {number}. {exercise.title}\n")
    assert f"exercises/{exercise.folder}" in part
    assert f"python scripts/check_exercise.py {number}" in part
    assert part.count("**Question.**") == part.count("**What to look for.**") == 1
    jobs = [job for job in JOBS.values() if f"exercises/{exercise.folder}" in job["folder"]]
    assert jobs and not any(job["in_all"] for job in jobs)
    named = set(re.findall(r"experiments/exercises/[\w/.]*\w", part))
    assert all((REPO / name).exists() for name in named)


def test_broken_job_is_broken_where_the_answer_says():
    lines = BROKEN.read_text(encoding="utf-8").splitlines()
    first, second = (lines[int(number) - 1].strip() for number in read_facts(5)["right"])
    assert first == "if rank == 0:"
    assert second.startswith("loss = validate(")


def test_answers_are_no_spoiler_at_a_glance():
    text = (REPO / "scripts/scaling/answers.rot13").read_text(encoding="utf-8")
    facts = [read_facts(number) for number in EXERCISE_LIST]
    for word in {word for fact in facts for word in fact["why"].split() if len(word) > 4}:
        assert word not in text.partition("[1]")[2]
