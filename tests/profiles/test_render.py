"""render.py: the right text for each scale, and one clear line for every wrong input."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from in_process import run_script
from profiles.cluster import Cluster, load_cluster
from profiles.matrix import Job, JobRow, load_matrix, plan_job
from profiles.render_job import make_environment, render_job
from profiles.repository import Repository, plan_scales

REPO = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPTS = sorted(REPO.glob("experiments/**/*.slurm"))
MATRIX = load_matrix(REPO / "experiments/matrix.toml")
ENVIRONMENT = make_environment(REPO / "templates")


def run_render(*args: str, repo: Path = REPO) -> subprocess.CompletedProcess:
    return run_script("render.py", *args, repo=repo)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what render.py reads, for tests that edit it."""
    (tmp_path / "scripts").mkdir()
    for trainer in REPO.glob("scripts/train*.py"):
        shutil.copy(trainer, tmp_path / "scripts")
    for name in ["render.py", "templates", "experiments", "scripts/training"]:
        source, target = REPO / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def read_directives(script: Path) -> set[str]:
    """The options of a job script's #SBATCH lines, comments off, as sbatch would take them."""
    lines = re.findall(r"^#SBATCH (\S+)(?: +#.*)?$", script.read_text(), re.MULTILINE)
    assert len(lines) == script.read_text().count("#SBATCH")
    return set(lines)


# ---- The committed jobs -----------------------------------------------------------------

COMMON = {
    "--output=log/%x_%j.out",
    "--open-mode=append",
    "--ntasks-per-node=1",
    "--mem=64G",
    "--constraint=v100",
}
REQUEUED = {"--signal=USR1@120", "--requeue"}


# The workload's options, then its jobs: script, name, nodes, GPUs per node, the job's own options.
JOBS = {
    ("tinyimagenet", "train.py", "00:30:00", "--epochs=3 --batch-size=512 --lr=0.001"): [
        ("baseline/baseline", "ddp_1g1n", 1, 1, ""),
        ("multi_gpu/2_gpus/multi_gpu", "ddp_2g1n", 1, 2, ""),
        ("multi_gpu/4_gpus/multi_gpu", "ddp_4g1n", 1, 4, ""),
        ("multi_gpu/8_gpus/multi_gpu", "ddp_8g1n", 1, 8, ""),
        ("multi_node/2_nodes/multi_node", "ddp_2g2n", 2, 2, ""),
        ("multi_node/4_nodes/multi_node", "ddp_2g4n", 4, 2, ""),
        ("multi_node/8_nodes/multi_node", "ddp_2g8n", 8, 2, ""),
    ],
    ("minimal", "train_minimal.py", "01:00:00", "--epochs=3 --batch-size=512 --lr=0.001"): [
        ("minimal/baseline/baseline", "minimal_1g1n", 1, 1, ""),
        ("minimal/multi_gpu/4_gpus/multi_gpu", "minimal_4g1n", 1, 4, ""),
    ],
    ("gpt2", "train_gpt2.py", "02:00:00", "--global-batch-size=16"): [
        ("gpt2/baseline/baseline", "gpt2_1g1n", 1, 1, " --batch-size=4"),
        ("gpt2/multi_gpu/2_gpus/multi_gpu", "gpt2_2g1n", 1, 2, " --batch-size=4"),
        ("gpt2/multi_gpu/4_gpus/multi_gpu", "gpt2_4g1n", 1, 4, " --batch-size=4"),
        ("gpt2/multi_node/2_nodes/multi_node", "gpt2_4g2n", 2, 4, " --batch-size=2"),
        *(
            (
                f"gpt2/strategies/{name}/multi_gpu",
                f"gpt2_{name}_4g1n",
                1,
                4,
                f" --strategy={name} --batch-size=4 --epochs=4 --profile=4",
            )
            for name in ("ddp", "zero1", "zero2", "fsdp")
        ),
        (
            "gpt2/strategies/tp/multi_gpu",
            "gpt2_tp_4g1n",
            1,
            4,
            " --strategy=tp --batch-size=16 --epochs=4 --profile=4",
        ),
        (
            "gpt2/strategies/hsdp/multi_node",
            "gpt2_hsdp_4g2n",
            2,
            4,
            " --strategy=hsdp --batch-size=2 --epochs=4 --profile=4",
        ),
    ],
    ("gpt2", "train_gpt2.py", "00:30:00", "--global-batch-size=16"): [
        (
            "gpt2/nsys/multi_gpu",
            "gpt2_nsys_4g1n",
            1,
            4,
            " --strategy=ddp --batch-size=4 --steps=60 --epochs=2 --nvtx",
        ),
    ],
    ("gpt2", "train_gpt2.py", "01:00:00", "--growing"): [
        (
            f"gpt2/growing/{nodes * gpus}_gpus/multi_{'node' if nodes > 1 else 'gpu'}",
            f"gpt2_growing_{gpus}g{nodes}n",
            nodes,
            gpus,
            f" --layers={layers} --strategy=fsdp --scaling=weak --batch-size=4 --steps=400"
            " --epochs=4",
        )
        for nodes, gpus, layers in ((1, 2, 3), (1, 4, 6), (2, 4, 12), (4, 4, 24))
    ],
    ("translation", "train_translation.py", "02:00:00", "--n-epochs=5"): [
        ("translation/baseline/baseline", "translation_1g1n", 1, 1, " --batch-size=64"),
        ("translation/multi_gpu/2_gpus/multi_gpu", "translation_2g1n", 1, 2, " --batch-size=128"),
    ],
    ("spiral", "train_spiral.py", "00:15:00", "--epochs=50 --batch-size=32"): [
        ("spiral/baseline/baseline", "spiral_mlp_1gpu", 1, 1, ""),
        ("spiral/multi_gpu/4_gpus/multi_gpu", "spiral_mlp_4gpu", 1, 4, ""),
        ("spiral/multi_node/2_nodes/multi_node", "spiral_mlp_8gpu", 2, 4, ""),
    ],
    ("exercises", "train.py", "00:15:00", "--epochs=3 --lr=0.001 --limit-batches=60"): [
        *(
            (
                f"exercises/1_batch_size/batch_{batch}/{folder}",
                f"ex1_b{batch}_{gpus}g1n",
                1,
                gpus,
                f" --batch-size={batch}",
            )
            for batch in (32, 256)
            for gpus, folder in ((1, "1_gpu/baseline"), (2, "2_gpus/multi_gpu"))
        ),
        *(
            (
                f"exercises/2_loader_workers/workers_{folder}/baseline",
                f"ex2_{name}_1g1n",
                1,
                1,
                f" --batch-size=128 --input=jpeg{own}",
            )
            for folder, name, own in (
                ("0", "w0", " --num-workers=0"),
                ("1", "w1", " --num-workers=1"),
                ("all", "all", ""),
            )
        ),
        *(
            (
                f"exercises/4_strong_or_weak/{mode}/{folder}",
                f"ex4_{mode}_{gpus}g1n",
                1,
                gpus,
                f" --batch-size=128{own}",
            )
            for mode, own in (("weak", ""), ("strong", " --scaling=strong"))
            for gpus, folder in ((1, "1_gpu/baseline"), (4, "4_gpus/multi_gpu"))
        ),
        ("exercises/6_slow_link/1_gpu/baseline", "ex6_link_1g1n", 1, 1, " --batch-size=32"),
        ("exercises/6_slow_link/2_nodes/multi_node", "ex6_link_1g2n", 2, 1, " --batch-size=32"),
    ],
    ("gpt2", "train_gpt2.py", "00:15:00", "--global-batch-size=16"): [
        (
            f"exercises/3_buckets/{name}/multi_node",
            f"ex3_{name}_2g2n",
            2,
            2,
            f" --batch-size=4 --steps=120 --epochs=3{own}",
        )
        for name, own in (
            ("usual", ""),
            ("small", " --bucket-cap-mb=1"),
            ("fp16", " --grad-compression=fp16"),
        )
    ],
}
OTHERS = {"ex5_broken_2g1n"}  # its trainer is beside it
COMMITTED = [(*kind, *job) for kind, jobs in JOBS.items() for job in jobs]


@pytest.mark.parametrize(
    ("workload", "trainer", "time", "options", "script", "name", "nodes", "gpus", "own"), COMMITTED
)
def test_committed_job(workload, trainer, time, options, script, name, nodes, gpus, own):
    path = REPO / f"experiments/{script}.slurm"
    requeued = set() if workload == "minimal" else REQUEUED  # it writes no checkpoint
    assert read_directives(path) == COMMON | requeued | {
        f"--job-name={name}",
        f"--time={time}",
        f"--gpus={nodes * gpus}",
        f"--gpus-per-node={gpus}",
        f"--ntasks={nodes}",
        f"--cpus-per-task={4 * gpus}",
    }
    text = path.read_text()
    assert MATRIX.jobs[name].workload == workload
    assert f'"$REPO_DIR/scripts/{trainer}"' in text
    assert f" {options}{own} &\n" in text.replace(" \\\n    ", " ")  # in one line or in two
    assert f"cd {path.parent.relative_to(REPO)} && sbatch {path.name}" in text
    root = re.search(r"REPO_DIR:-([./]+)\}", text)[1]
    assert (path.parent / root).resolve() == REPO


def test_committed_jobs_are_those_of_the_matrix_and_up_to_date():
    done = run_render("--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {job[5] for job in COMMITTED} | OTHERS == set(MATRIX.jobs)
    assert len(SCRIPTS) == len(MATRIX.jobs)
    assert sum(row.workload == "tinyimagenet" for row in MATRIX.jobs.values()) == 7


def test_readme_of_the_experiments_names_every_key_of_a_job():
    text = (REPO / "experiments/README.md").read_text(encoding="utf-8")
    for key in JobRow.model_fields:
        assert re.search(rf"^{key} = |`{key}\b", text, re.MULTILINE), key


def test_global_batch_of_gpt2_is_the_same_at_every_scale():
    rows = [
        row for row in MATRIX.jobs.values() if row.workload == "gpt2" and "growing" not in row.args
    ]
    total = MATRIX.workloads["gpt2"].args["global-batch-size"]
    sizes = [
        row.args["batch-size"] * row.nodes * (row.args.get("strategy") == "tp" or row.gpus_per_node)
        for row in rows
    ]
    assert [total // size for size in sizes] == [4, 2, *[1] * 12]  # steps that are accumulated
    assert [total % size for size in sizes] == [0] * 14


def test_the_growing_model_has_as_many_blocks_per_gpu_at_every_scale():
    rows = [row for row in MATRIX.jobs.values() if "growing" in row.args]
    assert [row.nodes * row.gpus_per_node for row in rows] == [2, 4, 8, 16]
    assert {row.args["layers"] / (row.nodes * row.gpus_per_node) for row in rows} == {1.5}
    assert not any(row.in_all for row in rows)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_committed_job_reads_well(script):
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert "eval" not in text
    assert len(text.splitlines()) <= 110
    lines = [line for line in text.splitlines() if 'echo "error: no ' not in line]  # and its path
    assert max(map(len, lines)) <= 92
    assert (script.parent / "log/.gitkeep").is_file()


def test_job_scripts_and_shell_scripts_pass_shellcheck():
    files = [*SCRIPTS, *REPO.glob("scripts/*.sh"), *GOLDEN.glob("virtual*.slurm"), REPO / ".ci/run"]
    assert run_shellcheck(*files) == ""


def test_awkward_values_pass_shellcheck():
    # SC2016 only wonders about a "$(" that single quotes keep as text, which is what they are for.
    assert run_shellcheck("--exclude=SC2016", *GOLDEN.glob("awkward*.slurm")) == ""


def run_shellcheck(*args) -> str:
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, *args], capture_output=True, text=True, cwd=REPO, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["baseline", "multi_gpu", "multi_node"])
def test_template_of_a_kind_is_short(name):
    assert len((REPO / f"templates/{name}.slurm.j2").read_text().splitlines()) <= 25


# ---- Other clusters ---------------------------------------------------------------------


def test_virtual_cluster_changes_only_what_its_profile_says(tmp_path):
    assert run_render("--cluster", "virtual", "--to", str(tmp_path)).returncode == 0
    old = (REPO / "experiments/multi_node/2_nodes/multi_node.slurm").read_text().splitlines()
    new = (tmp_path / "multi_node/2_nodes/multi_node.slurm").read_text().splitlines()
    assert {" ".join(line.split()[:2]) for line in set(old) - set(new)} == {
        "# Rendered",
        "#SBATCH --ntasks=2", "#SBATCH --gpus=4", "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=64G", "#SBATCH --constraint=v100", "module load",
        "export DATA_DIR=${DATA_DIR:-/ibex/reference/CV/tinyimagenet}",
        "export NODES=2",  # and CPUS_PER_TASK
        "export NCCL_SOCKET_IFNAME=ib0", "export NCCL_DEBUG=INFO", "--epochs=3 --batch-size=512",
    }  # fmt: skip
    assert (tmp_path / "multi_node/2_nodes/log/.gitkeep").is_file()


@pytest.mark.parametrize("script", sorted(GOLDEN.glob("*.slurm")), ids=lambda path: path.stem)
def test_golden_render(script, tmp_path):
    """Golden files show what a template change does; make them again as their header says."""
    cluster, _, job = script.stem.partition("-")
    profile = GOLDEN / f"{cluster}.toml"
    cluster = str(profile.relative_to(REPO)) if profile.is_file() else cluster
    assert run_render("--cluster", cluster, "--only", job, "--to", str(tmp_path)).returncode == 0
    rendered = tmp_path / MATRIX.jobs[job].folder / f"{MATRIX.jobs[job].template}.slurm"
    assert rendered.read_text() == script.read_text()


def render_for(cluster: Cluster, name: str = "ddp_2g2n") -> str:
    job = plan_job(name, MATRIX, cluster)
    return render_job(job, cluster, make_environment(REPO / "templates"), "python render.py")


@pytest.mark.parametrize(
    ("request_form", "expected"),
    [
        (["gres"], ["--nodes=2", "--gres=gpu:a100:2"]),
        (["gpus-per-node"], ["--nodes=2", "--gpus-per-node=a100:2"]),
        (["gpus"], ["--nodes=2", "--gpus=a100:4"]),
    ],
)
def test_forms_of_asking_for_gpus(request_form, expected):
    cluster = Cluster(name="x", gpus_per_node=4, gpu_type="a100", gpu_request=request_form)
    text = render_for(cluster)
    assert [line for line in expected if f"#SBATCH {line}" not in text] == []
    assert "gpu" not in "".join(re.findall(r"#SBATCH --(?!g)\S+", text))


def test_absent_fields_render_no_directive():
    text = render_for(Cluster(name="x", gpus_per_node=4))
    for word in ["mem", "partition", "qos", "account", "constraint", "cpus-per-task"]:
        assert f"--{word}" not in text
    assert "SLURM_CPUS_PER_TASK" not in text  # unset without --cpus-per-task: set -u would end it


# ---- Values stay values -----------------------------------------------------------------

AWKWARD = [
    "$(touch canary)", "`touch canary`", "a b", "it's", 'say "hi"', "back\\slash", "*", "~", "#x",
    "a;touch canary", "a\u00e9\u4e2d", "${HOME}", "-n", "!!", "{{ job }}", "}",
]  # fmt: skip


def run_assignments(text: str, names: list[str], folder: Path) -> dict[str, str]:
    """Run a rendered script's `export NAME=…` lines in bash; return what arrived."""
    lines = [line for line in text.splitlines() if line.startswith("export ") and "=" in line]
    wanted = [line for line in lines if line.split("=")[0].removeprefix("export ") in names]
    shown = [f"printf '%s\\0' \"${name}\"" for name in names]
    program = "\n".join(["set -euo pipefail", *wanted, *shown])
    done = subprocess.run(["bash", "-c", program], capture_output=True, cwd=folder, check=True)
    return dict(zip(names, done.stdout.decode().split("\0"), strict=False))


@pytest.mark.parametrize("value", AWKWARD)
def test_value_arrives_as_text(value, tmp_path, monkeypatch):
    monkeypatch.delenv("DATA_DIR", raising=False)
    cluster = Cluster(
        name="x", gpus_per_node=4, env={"SITE_NOTE": value}, data_dir={"tinyimagenet": value}
    )
    arrived = run_assignments(render_for(cluster), ["SITE_NOTE", "DATA_DIR"], tmp_path)
    assert arrived == {"SITE_NOTE": value, "DATA_DIR": value}
    assert list(tmp_path.iterdir()) == []


printable = st.text(max_size=30).filter(str.isprintable)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(printable, min_size=1, max_size=4))
def test_any_printable_option_arrives_as_one_word(values):
    options = {f"note-{chr(97 + i)}": value for i, value in enumerate(values)}
    cluster = Cluster(name="x", gpus_per_node=4, train_args={"tinyimagenet": options})
    launcher = " &\n  launcher=$!"
    _, _, after = render_for(cluster).partition("--epochs=3")
    program = f"printf '%s\\0' --epochs=3{after.partition(launcher)[0]}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, check=True)
    words = done.stdout.decode().split("\0")
    assert words[3:-1] == [f"--{name}={value}" for name, value in options.items()]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\tb", "\x1b[0m", "a\x00b", "a\u2028b"])
def test_control_characters_are_refused(value):
    with pytest.raises(ValueError, match="control character"):
        Cluster(name="x", gpus_per_node=1, env={"A": value})
    with pytest.raises(ValueError, match="control character"):
        Cluster(name="x", gpus_per_node=1, setup=[f"module load {value}"])


@pytest.mark.parametrize("value", [*AWKWARD[:6], "a\n#SBATCH --account=other", ""])
def test_directive_values_are_an_allow_list(value):
    with pytest.raises(ValueError, match="write letters, digits and"):
        Cluster(name="x", gpus_per_node=1, partition=value)


# ---- One line for every mistake ---------------------------------------------------------

PROFILE = "templates/clusters/ibex.toml"
MISTAKES = {
    "misspelt key": (
        PROFILE, 'mem = "64G"', 'memm = "64G"',
        f'error: {PROFILE}: unknown key "memm"; did you mean "mem"?',
    ),
    "missing key": (
        PROFILE, "gpus_per_node = 8", "",
        f'error: {PROFILE}: missing key "gpus_per_node"; add it',
    ),
    "more CPUs than a node has": (
        PROFILE, "cpus_per_gpu = 4", "cpus_per_gpu = 4\ncpus_per_node = 20",
        'error: job "ddp_8g1n": 8 GPUs take 32 CPUs, which exceeds cpus_per_node = 20; '
        f"edit {PROFILE}",
    ),
    "more workers than CPUs": (
        "experiments/matrix.toml", "lr = 0.001", "lr = 0.001, num-workers = 5",
        'error: job "ddp_1g1n": 1 ranks x num-workers = 5 exceeds 4 CPUs; edit num-workers in '
        f"experiments/matrix.toml or the CPUs in {PROFILE}",
    ),
    "a TOML time": (
        "experiments/matrix.toml", 'time = "00:30:00"', "time = 00:30:00",
        'error: experiments/matrix.toml: "jobs.ddp_1g1n.time" must be text: '
        'write time = "00:30:00"',
    ),
    "a bare number": (
        PROFILE, 'constraint = "v100"', "constraint = 100",
        f'error: {PROFILE}: "constraint" must be text in quotes, not 100',
    ),
    "not TOML": (
        PROFILE, 'mem = "64G"', "mem = 64G",
        f"error: {PROFILE}: not valid TOML: ",
    ),
    "misspelt job key": (
        "experiments/matrix.toml", "nodes = 1\n", "node = 1\n",
        'error: experiments/matrix.toml: unknown key "jobs.ddp_1g1n.node"; did you mean "nodes"?',
    ),
    "misspelt required key": (
        PROFILE, "gpus_per_node = 8", "gpus_per_nodes = 8",
        f'error: {PROFILE}: unknown key "gpus_per_nodes"; did you mean "gpus_per_node"?',
    ),
    "workload that is not there": (
        PROFILE, 'tinyimagenet = "', 'tinyimagnet = "',
        f'error: {PROFILE}: data_dir names workload "tinyimagnet"; did you mean "tinyimagenet"?',
    ),
    "misspelt option of the trainer": (
        "experiments/matrix.toml", "batch-size = 512", "batch-sise = 512",
        'error: job "ddp_1g1n": scripts/train.py has no option "batch-sise"; '
        'did you mean "batch-size"?',
    ),
    "a TOML time in a profile": (
        PROFILE, 'mem = "64G"', 'mem = "64G"\ntime = 01:30:00',
        f'error: {PROFILE}: "time" must be text: write time = "01:30:00"',
    ),
    "extra job key": (
        "experiments/matrix.toml", "nodes = 1\n", "nodes = 1\ntimme = 3\n",
        'error: experiments/matrix.toml: unknown key "jobs.ddp_1g1n.timme"; did you mean "time"?',
    ),
    "unknown workload": (
        "experiments/matrix.toml", 'workload = "tinyimagenet"', 'workload = "tinyimagnet"',
        'error: experiments/matrix.toml: job "ddp_1g1n" has workload = "tinyimagnet"; '
        'did you mean "tinyimagenet"?',
    ),
    "wrong template": (
        "experiments/matrix.toml", 'template = "baseline"', 'template = "multi_gpu"',
        'error: job "ddp_1g1n": 1 x 1 GPUs does not fit template "multi_gpu"; '
        'write template = "baseline" in experiments/matrix.toml',
    ),
    "one folder for two jobs": (
        "experiments/matrix.toml", 'folder = "multi_gpu/2_gpus"', 'folder = "baseline"',
        'error: experiments/matrix.toml: jobs "ddp_1g1n" and "ddp_2g1n" share the folder '
        '"baseline"; give each its own',
    ),
    "unknown name in a template": (
        "templates/base.slurm.j2", "{{ job.headline }}", "{{ job.titel }}",
        "error: templates/baseline.slurm.j2: 'profiles.matrix.Job object' has no attribute 'titel'",
    ),
    "profile under another name": (
        PROFILE, 'name = "ibex"', 'name = "ibix"',
        f'error: {PROFILE}: name = "ibix" must be "ibex", as the file',
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_and_writes_nothing(mistake, checkout):
    file, old, new, message = MISTAKES[mistake]
    edit(checkout / file, old, new)
    done = run_render("--to", "out", repo=checkout)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (checkout / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--cluster", "ibexx"], 'no cluster "ibexx" in templates/clusters; did you mean "ibex"?'),
        (["--cluster", "zzz"], 'no cluster "zzz" in templates/clusters; known: alex, alps'),
        (["--cluster", "no/such.toml"], "no/such.toml: cannot be read ("),
        (["--workload", "gpt"], 'no workload "gpt" in experiments/matrix.toml; did you mean "gpt2'),
        (
            ["--workload", "gpt2", "--only", "ddp_1g1n"],
            'no job of workload "gpt2" matches --only "ddp_1g1n"; ',
        ),
        (["--only", "ddp_3g1n"], 'no job matches --only "ddp_3g1n"; did you mean "ddp_'),
        (["--to", "render.py"], "cannot write render.py/baseline/baseline.slurm: "),
    ],
)
def test_wrong_argument_is_one_line(args, message, checkout):
    done = run_render(*args, repo=checkout)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


# ---- --check, --diff, --only, --list ----------------------------------------------------


def test_check_shows_what_is_stale(checkout):
    script = checkout / "experiments/baseline/baseline.slurm"
    edit(script, "--mem=64G", "--mem=32G")
    (checkout / "experiments/multi_gpu/2_gpus/multi_gpu.slurm").unlink()
    (checkout / "experiments/old").mkdir()
    shutil.copy(script, checkout / "experiments/old/old.slurm")
    done = run_render("--check", repo=checkout)
    assert done.returncode == 1
    assert "-#SBATCH --mem=32G " in done.stdout
    assert "+#SBATCH --mem=64G " in done.stdout
    assert "experiments/multi_gpu/2_gpus/multi_gpu.slurm is missing" in done.stdout
    assert "experiments/old/old.slurm belongs to no job" in done.stdout
    assert done.stderr == "error: 3 stale job scripts; run: python render.py\n"
    assert run_render("--diff", repo=checkout).returncode == 0


def test_check_renders_for_the_cluster_in_the_header(checkout):
    assert run_render("--cluster", "virtual", repo=checkout).returncode == 0
    assert run_render("--check", repo=checkout).returncode == 0
    assert run_render("--check", "--cluster", "ibex", repo=checkout).returncode == 1


def test_only_renders_matching_jobs(checkout):
    done = run_render("--only", "multi_gpu/*", "--to", "out", repo=checkout)
    assert done.stdout == "3 job scripts for cluster ibex in out\n"
    assert len(list((checkout / "out").rglob("*.slurm"))) == 3


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--workload=spiral"], ["spiral_mlp_1gpu", "spiral_mlp_4gpu", "spiral_mlp_8gpu"]),
        (["--workload=gpt2", "--only=baseline"], ["gpt2_1g1n"]),
        (["--workload=gpt2", "--only=multi_gpu/*"], ["gpt2_2g1n", "gpt2_4g1n"]),
        (["--only=baseline"], ["ddp_1g1n"]),  # short forms mean the first workload
        (["--only=translation/*"], ["translation_1g1n", "translation_2g1n"]),
        (["--only=gpt2_4g2n"], ["gpt2_4g2n"]),
        (["--only=2_nodes"], ["ddp_2g2n"]),
    ],
)
def test_ways_to_choose_jobs(args, names):
    listed = run_render("--list", *args).stdout.splitlines()[1:]
    assert [line.split()[0] for line in listed] == names


def test_list_and_schema_write_nothing(checkout):
    done = run_render("--list", "--to", "out", "--cluster", "lumi", repo=checkout)
    lines = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert lines[0] == [
        "job", "nodes", "GPUs", "CPUs/node", "memory", "time", "partition", "script",
    ]  # fmt: skip
    assert [len(line) for line in lines] == [8] * (1 + len(MATRIX.jobs))
    rows = {line[0]: line[1:7] for line in lines}
    assert rows["ddp_8g1n"] == ["1", "8", "56", "480G", "00:30:00", "standard-g"]
    assert rows["ddp_2g8n"] == ["8", "16", "14", "60G per GPU", "00:30:00", "small-g"]
    assert '"gpus_per_node"' in run_render("--schema", repo=checkout).stdout
    assert not (checkout / "out").exists()


def test_what_a_cluster_cannot_run_is_left_out_and_its_old_script_goes(checkout):
    script = checkout / "experiments/multi_gpu/8_gpus/multi_gpu.slurm"
    reason = 'job "ddp_8g1n": gpus_per_node = 8 exceeds gpus_per_node = 4 of cluster "ibex"'
    edit(checkout / PROFILE, "gpus_per_node = 8", "gpus_per_node = 4")
    listed = run_render("--list", repo=checkout)
    assert listed.stdout.endswith(f"left out: {reason}\n")
    stale = run_render("--check", repo=checkout)
    assert stale.returncode == 1
    assert f"8_gpus/multi_gpu.slurm should not be there: {reason[16:]}\n" in stale.stdout
    assert script.exists()  # neither has written, or removed, anything

    (script.parent / "results/7").mkdir(parents=True)
    done = run_render(repo=checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{len(MATRIX.jobs) - 1} job scripts for cluster ibex in experiments\n"
        f"left out: {reason}\n"
        "  removed experiments/multi_gpu/8_gpus/multi_gpu.slurm, which was for another cluster\n"
    )
    assert sorted(path.name for path in script.parent.iterdir()) == ["log", "results"]
    assert run_render("--check", repo=checkout).returncode == 0

    script.write_text("#!/bin/bash\n# my own\n")  # not ours to remove
    done = run_render(repo=checkout)
    assert done.stdout.endswith("is not from render.py; delete it yourself\n")
    assert script.exists()
    assert run_render("--check", repo=checkout).returncode == 1


def test_a_job_asked_for_by_name_that_the_cluster_cannot_run_is_an_error(checkout):
    for only in ("ddp_8g1n", "multi_gpu/8_gpus"):
        done = run_render("--cluster", "raven", "--only", only, repo=checkout)
        assert done.returncode == 1
        assert done.stderr == (
            'error: job "ddp_8g1n": gpus_per_node = 8 exceeds gpus_per_node = 4 of cluster '
            '"raven"; edit experiments/matrix.toml\n'
        )
    done = run_render("--cluster", "raven", "--only", "multi*8_gpus", repo=checkout)
    assert done.returncode == 1  # nothing is left
    done = run_render("--cluster", "raven", "--only", "multi_gpu/*", "--to", "out", repo=checkout)
    assert done.returncode == 0
    assert len(list((checkout / "out").rglob("*.slurm"))) == 2


def test_check_misses_nothing_that_the_other_scripts_cluster_cannot_run(checkout):
    assert run_render("--cluster", "raven", repo=checkout).returncode == 0
    done = run_render("--check", repo=checkout)  # matrix.toml still says ibex
    assert (done.returncode, done.stdout) == (0, "")


def test_repository_tells_what_cannot_run():
    repository = Repository(REPO)
    assert repository.list_unrunnable("ibex") == {}
    found = repository.list_unrunnable("workstation")
    assert list(found) == [
        "ddp_8g1n", "ddp_2g2n", "ddp_2g4n", "ddp_2g8n", "gpt2_4g2n", "gpt2_hsdp_4g2n",
        "gpt2_growing_4g2n", "gpt2_growing_4g4n", "spiral_mlp_8gpu", "ex3_usual_2g2n",
        "ex3_small_2g2n", "ex3_fp16_2g2n", "ex6_link_1g2n",
    ]  # fmt: skip
    assert found["gpt2_4g2n"] == 'nodes = 2 exceeds nodes = 1 of cluster "workstation"'
    reasons = repository.list_unrunnable("bridges2").values()
    assert all("several nodes are whole nodes of 8 GPUs" in reason for reason in reasons)


def test_options_that_a_trainer_adds_in_a_loop_are_known(checkout):
    (checkout / "scripts/train_loop.py").write_text(
        'for name in ("layers", "width"):\n    add(f"--{name}", type=int)\n'
    )
    known = Repository(checkout).options_of("train_loop.py")
    assert {"layers", "width", "batch-size"} <= known
    assert "heads" not in known


def test_a_trainer_that_is_not_written_yet_does_not_stop_render(checkout):
    edit(checkout / "experiments/matrix.toml", '"train_spiral.py"', '"train_nothing.py"')
    done = run_render("--workload", "spiral", "--to", "out", repo=checkout)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_left_to_fill_in_is_named(checkout):
    done = run_render("--cluster", "perlmutter", "--to", "out", repo=checkout)
    assert done.returncode == 0
    assert (
        "the jobs say YOUR_ACCOUNT; put yours in templates/clusters/perlmutter.local" in done.stderr
    )
    (checkout / "templates/clusters/perlmutter.local.toml").write_text('account = "m1234"\n')
    done = run_render("--cluster", "perlmutter", "--to", "out", repo=checkout)
    assert "warning" not in done.stderr
    assert "--account=m1234\n" in (checkout / "out/baseline/baseline.slurm").read_text()


def test_profiles_load():
    for path in (REPO / "templates/clusters").glob("*.toml"):
        load_cluster(path.stem, path.parent)


def test_job_numbers():
    job = plan_job("ddp_2g8n", MATRIX, load_cluster("ibex", REPO / "templates/clusters"))
    assert isinstance(job, Job)
    assert (job.world_size, job.cpus_per_task, job.script) == (
        16,
        8,
        "multi_node/8_nodes/multi_node.slurm",
    )


def test_too_many_nodes_is_refused():
    with pytest.raises(UserError, match=r"nodes = 8 exceeds nodes = 4 .* edit experiments"):
        plan_job("ddp_2g8n", MATRIX, Cluster(name="x", gpus_per_node=4, nodes=4))


OWN = [  # what the matrix says of a reader's own trainer, the launcher, what each process runs
    ('trainer = "/opt/my train.py"', "torchrun", None),
    ('trainer = "/opt/my_train.py"', "torchrun", "    /opt/my_train.py \\\n    --batch_size=64 &"),
    ('trainer = "mine/go.py"', "srun", '  python "$REPO_DIR/mine/go.py" \\\n    --batch_size=64 &'),
    ('command = "python -m my.train --fast"', "torchrun",
     "    --module my.train --fast \\\n    --batch_size=64 &"),
    ('command = "python -m my.train"', "srun", "  python -m my.train \\\n    --batch_size=64 &"),
    ('command = "python3 my.py \'a b\'"', "torchrun", "    my.py 'a b' \\\n    --batch_size=64 &"),
    ('command = "bash run.sh"', "torchrun",
     "    --no-python bash run.sh \\\n    --batch_size=64 &"),
    ('command = "bash run.sh"', "srun", "  bash run.sh \\\n    --batch_size=64 &"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "launcher", "line"), OWN, ids=[f"{s} {x}" for s, x, _ in OWN])
def test_a_trainer_of_the_readers_own_is_launched_as_ours(checkout, said, launcher, line):
    edit(checkout / "experiments/matrix.toml", 'trainer = "train_minimal.py"\nargs = { epochs = 3, '
         "batch-size = 512, lr = 0.001 }", f"{said}\nargs = {{ batch_size = 64 }}")  # fmt: skip
    path = checkout / "experiments/matrix.toml"
    if line is None:
        with pytest.raises(UserError, match="trainer"):
            load_matrix(path)
        return
    cluster = Cluster(name="x", gpus_per_node=8, cpus_per_gpu=4, launcher=launcher)
    job = plan_job("minimal_4g1n", load_matrix(path), cluster)
    text = render_job(job, cluster, ENVIRONMENT, "python render.py")
    assert line in text and "--num-workers" not in text
    bash = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert bash.returncode == 0, bash.stderr


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('trainer = "train.py"\ncommand = "python x.py"', "has both of trainer and command"),
        ("", "has neither of trainer and command"),
        ('command = "torchrun x.py"', "leave out torchrun"),
        ('command = "python \'x.py"', "No closing quotation"),
    ],
)
def test_a_workload_says_once_what_trains(checkout, said, words):
    edit(checkout / "experiments/matrix.toml", 'trainer = "train_minimal.py"', said)
    with pytest.raises(UserError, match=words) as caught:
        load_matrix(checkout / "experiments/matrix.toml")
    assert 'workload "minimal"' in str(caught.value)


def test_all_leaves_out_what_has_to_be_asked_for():
    repository, experiments = Repository(REPO), REPO / "experiments"
    jobs, left_out = plan_scales(repository, ["*"], experiments, "gpt2", every=True)
    assert [job.name for job in jobs] == ["gpt2_1g1n", "gpt2_2g1n", "gpt2_4g1n", "gpt2_4g2n"]
    assert left_out == []
    asked, _ = plan_scales(repository, ["gpt2/strategies/*"], experiments)
    assert [job.args["strategy"] for job in asked] == [
        "ddp", "zero1", "zero2", "fsdp", "tp", "hsdp",
    ]  # fmt: skip


def test_a_job_script_that_bash_runs_says_sbatch(tmp_path):
    job = REPO / "experiments/baseline"
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["bash", "baseline.slurm"], cwd=job, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert re.fullmatch(
        r"baseline\.slurm: line \d+: SLURM_JOB_ID: is not set; this is a job script: "
        r"sbatch baseline\.slurm\n", done.stderr,
    )  # fmt: skip
