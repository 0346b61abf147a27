"""Whatever a profile says is refused with one line, or arrives exactly as it was written.

Values go the whole way: a TOML file, the schema, the template, and then bash or the directives
as sbatch reads them. A value that were run would make a file called canary.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from profiles.cluster import SHORT, load_cluster, name_option
from profiles.matrix import load_matrix, plan_job
from profiles.render_job import make_environment, render_job

REPO = Path(__file__).resolve().parents[2]
MATRIX = load_matrix(REPO / "experiments/matrix.toml")
ENVIRONMENT = make_environment(REPO / "templates")

NASTY = [
    "$(touch canary)", "`touch canary`", "; touch canary;", "\n touch canary\n",
    "${x:-$(touch canary)}", "\n#SBATCH --account=other\n", "{{ job.name }}", "{% raw %}", "{#",
    "'", '"', "\\", " ", "  ", "\t", "\r", "\n", "#", "..", "../..", "/", "é", "\u4e2d",
    "\U0001f600", "\u00a0", "\u2028", "\u202e", "\x00", "\x1b[0m", "*", "?", "~", "!", "&", "|",
    "<", ">", "(", ")", "}", "-", "=", ",", "@", "a100", "gpu",
]  # fmt: skip
values = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=4)), max_size=5).map("".join)
property_test = settings(
    max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def quote(value: str) -> str:
    """A TOML text of `value` (JSON's escapes are TOML's, but for DEL and half characters)."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def render_profile(folder: Path, *lines: str, job: str = "ddp_2g2n") -> str | None:
    """Render a job for a profile of these lines; None when it is refused, with one line."""
    path = folder / "x.toml"
    text = "\n".join(['name = "x"', "gpus_per_node = 8", *lines, ""])
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except UnicodeEncodeError:  # half a surrogate pair cannot stand in a file
        return None
    try:
        cluster = load_cluster(str(path), folder)
        return render_job(plan_job(job, MATRIX, cluster), cluster, ENVIRONMENT, "python render.py")
    except UserError as refusal:
        assert len(str(refusal).splitlines()) == 1
        assert str(refusal).isprintable()
        return None


def read_directives(text: str) -> list[str]:
    """The directives of a script as sbatch finds them: lines before the first command."""
    head = text.partition("\nset -euo pipefail\n")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    return [line.removeprefix("#SBATCH ").split(" ")[0] for line in head if line[:7] == "#SBATCH"]


def run_bash(program: str, folder: Path) -> list[str]:
    """Run a program in an empty folder; returns what it printed, split at NUL characters."""
    home = folder / "empty"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash", "-c", program], cwd=home, capture_output=True, check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "REPO_DIR": ""},
    )  # fmt: skip
    assert list(home.iterdir()) == []
    return done.stdout.decode().split("\0")[:-1]


# ---- Directives -------------------------------------------------------------------------

DIRECTIVES = {
    "partition": "--partition={}", "qos": "--qos={}", "account": "--account={}",
    "constraint": "--constraint={}", "reservation": "--reservation={}", "mem": "--mem={}",
    "mem_per_gpu": "--mem-per-gpu={}", "hint": "--hint={}",
    "gpu_type": "--gpus-per-node={}:2",
}  # fmt: skip


@pytest.mark.parametrize("field", DIRECTIVES)
@property_test
@given(value=values)
@example(value="gpu,gpu-long")
@example(value="[rack1|rack2]&a100*2")
@example(value="gpu\n#SBATCH --account=other")
def test_directive_is_refused_or_exact(field, value, tmp_path):
    text = render_profile(tmp_path, f"{field} = {quote(value)}")
    if text is None:
        return
    usual = read_directives(render_profile(tmp_path))
    found = read_directives(text)
    ours = DIRECTIVES[field].format(value)
    assert found.count(ours) == 1
    assert len(found) == len(usual) + (field != "gpu_type")
    assert set(found) - {ours} <= set(usual)


def test_what_sites_use_is_not_refused(tmp_path):
    for value in ["gpu", "abc@v100", "a100,4gpus", "[a|b]&c", "normal+", "workshop_2026:a", "0"]:
        assert f"--constraint={value}" in read_directives(
            render_profile(tmp_path, f"constraint = {quote(value)}")
        )


# ---- Values for the shell ---------------------------------------------------------------


@property_test
@given(value=values)
def test_environment_and_data_folder_are_refused_or_exact(value, tmp_path):
    lines = ["[env]", f"NOTE = {quote(value)}", "[data_dir]", f"tinyimagenet = {quote(value)}"]
    text = render_profile(tmp_path, *lines)
    if text is None:
        assert not value.isprintable()
        return
    exports = re.findall(r"^export (?:NOTE|DATA_DIR)=.*$", text, re.MULTILINE)
    show = """printf '%s\\0' "$NOTE" "${DATA_DIR-}" """
    assert run_bash("\n".join(["set -eu", *exports, show]), tmp_path) == [value, value]


@property_test
@given(value=values)
def test_options_and_srun_are_refused_or_exact(value, tmp_path):
    lines = [f"srun = {quote(value)}", "[train_args.tinyimagenet]", f"note = {quote(value)}"]
    text = render_profile(tmp_path, *lines)
    if text is None:
        assert not value.isprintable() or " -" in value  # options, which stand in srun_args
        return
    options = re.search(r"^    (--epochs=3 (?:.|\n)*?) &\n  launcher=", text, re.MULTILINE)[1]
    launch = text[text.index("\n", text.index("# srun starts it")) :]
    assert run_bash(f"printf '%s\\0' {options}", tmp_path)[3:] == [f"--note={value}"]
    assert run_bash(f"printf '%s\\0' {launch.strip()}", tmp_path) == [
        "launch", value, "--kill-on-bad-exit=1", "bash", "/scripts/node.sh",
    ]  # fmt: skip


@pytest.mark.parametrize("field", ["srun_args", "torchrun_args", "extra_sbatch"])
@property_test
@given(value=values)
@example(value="-cpu-bind=mask_cpu=0x7e,0x7e00")
@example(value="x=[a*]")
@example(value="N2")
def test_further_arguments_are_refused_or_exact(field, value, tmp_path):
    value = f"-{value}"
    text = render_profile(tmp_path, f"{field} = [{quote(value)}]")
    if text is None:
        two_words = re.match(r"--[a-z][a-z-]* ", value)
        has_field = field != "torchrun_args" and name_option(value) in SHORT.values()
        assert field == "extra_sbatch" or not value.isprintable() or two_words or has_field
        return
    if field == "extra_sbatch":
        assert read_directives(text).count(value) == 1
        return
    start = "launch srun --kill" if field == "srun_args" else "torchrun --nnodes"
    command = re.search(rf"^ *({start}(?:.*\\\n)*.*)$", text, re.MULTILINE)[1]
    words = run_bash(f"printf '%s\\0' {command.removesuffix('&')}", tmp_path)
    assert words.count(value) == 1
    usual = 6 if field == "srun_args" else 12
    assert len(words) == usual  # counting the value


@pytest.mark.parametrize("table", ["master = {{ suffix = {} }}", "master = {{ interface = {} }}",
                                   "umask = {}", "stage_data = {}"])  # fmt: skip
@property_test
@given(value=values)
def test_words_that_stand_bare_in_the_script_are_harmless(table, value, tmp_path):
    text = render_profile(tmp_path, table.format(quote(value)))
    if text is not None:
        assert re.fullmatch(r"[A-Za-z0-9._${}/-]+", value)
        assert "$(" not in value
        check = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert (check.returncode, check.stderr) == (0, "")


SHELL = ["setup = [{}]", "step_setup = [{}]", "container = {}",
         "starter = {}\nnode_rank = 'PMI_RANK'\nrequeue_margin_s = 120",
         "master = {{ command = {} }}", "port_command = {}"]  # fmt: skip


@pytest.mark.parametrize("table", SHELL)
@property_test
@given(value=values)
def test_shell_lines_stay_one_line_and_as_they_stand(table, value, tmp_path):
    text = render_profile(tmp_path, table.format(quote(value)))
    if text is None:
        assert not value.isprintable()
        return
    usual = render_profile(tmp_path).splitlines()
    lines = text.splitlines()
    assert len(lines) <= len(usual) + 4  # set +u, the line, set -u, and an export
    assert value.strip() in text
    assert read_directives(text) == read_directives(render_profile(tmp_path))


@pytest.mark.parametrize("value", ["..", "a/..", "../x", "/etc", "a//b", "a b", "a$b", "a\n", ""])
def test_folders_of_jobs_stay_below_experiments(value, tmp_path):
    text = (REPO / "experiments/matrix.toml").read_text()
    (tmp_path / "matrix.toml").write_text(
        text.replace('folder = "baseline"', f"folder = {quote(value)}")
    )
    with pytest.raises(UserError, match=r"jobs\.ddp_1g1n\.folder"):
        load_matrix(tmp_path / "matrix.toml")


def test_a_path_with_a_line_break_cannot_leave_the_header(tmp_path):
    folder = tmp_path / "a\n#SBATCH --account=other\n"
    folder.mkdir()
    (folder / "x.toml").write_text('name = "x"\ngpus_per_node = 1\n')
    command = [sys.executable, REPO / "render.py", "--cluster", folder / "x.toml", "--to"]
    done = subprocess.run([*command, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the profile '")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---- Samples through the real tools -----------------------------------------------------

SAMPLES = [
    "$(touch canary)", "`touch canary`", "it's \"quoted\" \\ here", "a;touch canary", "\u4e2d",
    "../..", "*", "~", "{{ job.name }} {# x", "'$(touch canary)'", "!! & | < > #", "",
]  # fmt: skip


def render_sample(folder: Path, value: str) -> str:
    return render_profile(
        folder, f"srun = {quote(value or 'srun')}", "account = 'abc@v100'",
        "[env]", f"NOTE = {quote(value)}", "[data_dir]", f"tinyimagenet = {quote(value)}",
        "[train_args.tinyimagenet]", f"note = {quote(value)}", job="ddp_2g2n",
    )  # fmt: skip


@pytest.mark.parametrize("value", SAMPLES)
def test_sample_is_good_bash(value, tmp_path):
    text = render_sample(tmp_path, value)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # Single quotes keep "$(" and a backslash as text (SC2016, SC1003); a command may have any
    # name (SC2288); scripts/job.sh is not beside it (SC1091).
    checker = Path(sys.executable).parent / "shellcheck"
    (tmp_path / "job.slurm").write_text(text)
    done = subprocess.run(
        [checker, "--exclude=SC2016,SC1003,SC2288,SC1091", tmp_path / "job.slurm"],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout + done.stderr == ""


@pytest.mark.slurm
def test_samples_are_taken_by_sbatch(slurm, tmp_path):
    for value in SAMPLES:
        (tmp_path / "job.slurm").write_text(render_sample(tmp_path, value))
        slurm.run("sbatch", "--test-only", "job.slurm", cwd=tmp_path)
    assert list(tmp_path.rglob("canary")) == []
