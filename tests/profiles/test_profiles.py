"""What profiles can say, and the text that it becomes (the mistakes are in test_render.py)."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from common.errors import UserError
from profiles.cluster import Cluster, load_cluster
from profiles.matrix import DoesNotFit, Matrix, load_matrix, plan_job
from profiles.render_job import NODE, make_environment, render_job
from profiles.toml_model import span_holds

REPO = Path(__file__).resolve().parents[2]
MATRIX = load_matrix(REPO / "experiments/matrix.toml")
ENVIRONMENT = make_environment(REPO / "templates")


def render(name: str = "ddp_2g2n", matrix: Matrix = MATRIX, **facts) -> str:
    cluster = Cluster(**({"name": "x", "gpus_per_node": 8} | facts))
    return render_job(plan_job(name, matrix, cluster), cluster, ENVIRONMENT, "python render.py")


def directives(text: str) -> set[str]:
    return set(re.findall(r"^#SBATCH (\S+)", text, re.MULTILINE))


# ---- Rules on scale ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "inside", "outside"),
    [("2", [2], [1, 3]), ("1-4", [1, 4], [5]), ("8+", [8, 80], [7]), (None, [1, 99], [])],
)
def test_spans(span, inside, outside):
    assert [n for n in inside + outside if span_holds(span, n)] == inside


RULES = [
    {"gpus_per_node": "1-2", "nodes": "1", "use": "gpusmall"},
    {"nodes": "4+", "use": "gpularge"},
    {"use": "gpumedium"},
]


@pytest.mark.parametrize(
    ("job", "partition"),
    [
        ("ddp_1g1n", "gpusmall"),
        ("ddp_2g1n", "gpusmall"),
        ("ddp_4g1n", "gpumedium"),
        ("ddp_2g2n", "gpumedium"),
        ("ddp_2g4n", "gpularge"),
    ],
)
def test_first_rule_that_holds_wins(job, partition):
    assert f"--partition={partition}" in directives(render(job, partition=RULES))


def test_no_rule_no_directive():
    text = render("ddp_1g1n", mem=[{"gpus_per_node": "8", "use": "512G"}])
    assert not [line for line in directives(text) if line.startswith("--mem")]


def test_time_and_environment_by_rule():
    text = render(
        "ddp_2g4n",
        time=[{"nodes": "4+", "use": "02:00:00"}],
        env={"NCCL_ALGO": [{"nodes": "2+", "use": "Ring now"}], "A": [{"nodes": "1", "use": "b"}]},
    )
    assert "--time=02:00:00" in directives(text)
    assert "export NCCL_ALGO='Ring now'\n" in text
    assert "export A=" not in text
    assert "--time=00:30:00" in directives(render("ddp_2g2n", time=[{"nodes": "4+", "use": "1"}]))


# ---- Fields and their text --------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"exclusive": True}, {"--exclusive"}),
        ({"exclusive": [{"nodes": "2+", "use": True}]}, {"--exclusive"}),
        ({"clusters": "wice"}, {"--clusters=wice"}),
        ({"export": "NONE"}, {"--export=NONE"}),
        ({"multi_node_gpus": "all"}, {"--gpus-per-node=8", "--ntasks-per-node=1"}),
        ({"gpu_request": ["gpus"]}, {"--gpus=4", "--gpus-per-node=2"}),  # not 3 and 1
        ({"extra_sbatch": [{"nodes": "2+", "use": "--switches=1"}]}, {"--switches=1"}),
        ({"gpu_request": ["gres"], "extra_sbatch": ["--gres=nvme:100"]}, {"--gres=gpu:2,nvme:100"}),
        ({"hint": "nomultithread"}, {"--hint=nomultithread"}),
        ({"threads_per_core": 1}, {"--threads-per-core=1"}),
        ({"mem_per_gpu": "60G"}, {"--mem-per-gpu=60G"}),
        ({"mem_per_gpu": [{"gpus_per_node": "1-7", "use": "60G"}]}, {"--mem-per-gpu=60G"}),
        ({"extra_sbatch": ["--nvmps", "--distribution=block:block"]}, {"--nvmps"}),
        ({"omit": ["nodes"]}, {"--ntasks=2"}),
        ({"gpu_request": ["gpus-per-task"], "launcher": "srun"}, {"--gpus-per-task=1"}),
    ],
)  # fmt: skip
def test_directive(facts, expected):
    assert expected <= directives(render(**facts))


def test_any_other_directive_is_left_out():
    facts = {"partition": "a", "exclusive": True, "clusters": "b"}
    assert not directives(render(omit=[*facts], **facts)) & {"--partition=a", "--exclusive"}
    with pytest.raises(ValueError, match="omit"):
        render(omit=["output"])  # the tables read that log


def test_omitted_directives_are_not_there():
    omitted = ["nodes", "ntasks-per-node", "time", "open-mode", "signal", "requeue"]
    assert directives(render(omit=omitted)) == {
        "--job-name=ddp_2g2n", "--output=log/%x_%j.out", "--ntasks=2", "--gpus-per-node=2",
    }  # fmt: skip


def test_one_task_a_gpu_without_torchrun():
    text = render(launcher="srun", cpus_per_gpu=10)
    assert {"--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=10"} <= directives(text)
    assert "torchrun --" not in text
    assert "export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS" in text
    assert '--num-workers="$SLURM_CPUS_PER_TASK"' in text
    assert "srun starts it once per GPU" in text


def test_gpus_asked_of_srun_alone():
    text = render(gpu_request=["srun"], gpu_type="a100")
    assert "gpu" not in "".join(directives(text))
    assert f"launch srun --kill-on-bad-exit=1 --gres=gpu:a100:2 {NODE}" in text
    assert "export NODES=2 TASKS_PER_NODE=1 GPUS_PER_NODE=2 " in text
    assert '--nproc-per-node="$GPUS_PER_NODE" ' in text  # SLURM_GPUS_ON_NODE may not be set


def test_srun_and_what_stands_instead_of_it():
    text = render(srun="/opt/my slurm/bin/srun", srun_args=["--cpu-bind=none"], cpus_per_gpu=4)
    assert text.endswith(
        "\nlaunch '/opt/my slurm/bin/srun' --kill-on-bad-exit=1 \\\n  "
        f'--cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=none {NODE}\n'
    )
    text = render(starter="ibrun -n 2", node_rank="PMI_RANK")
    assert text.endswith(f"\nlaunch ibrun -n 2 {NODE}\n")
    assert "\nexport NODE_RANK_IN=PMI_RANK\n" in text
    assert "srun starts" not in text
    assert "NODE_RANK_IN" not in render("ddp_2g1n", starter="ibrun")  # one node needs no number


def test_a_starter_gets_signals_only_where_the_site_says_so():
    signals = {"--signal=USR1@200", "--requeue"}
    facts = {"starter": "ibrun", "node_rank": "PMI_RANK"}
    asked = {line.partition("=")[0] for line in directives(render(**facts))}
    assert asked.isdisjoint({"--signal", "--requeue"})
    assert signals <= directives(render(**facts, requeue_margin_s=200))


# ---- What the site refuses as a directive goes to srun, where Slurm takes it -------------


def step_words(text: str) -> list[str]:
    """The words of srun's line, as a shell makes them, before the command."""
    words = shlex.split(text[text.index("\nlaunch srun ") :].replace("\\\n", " "))
    return words[2 : words.index("bash")]


@pytest.mark.parametrize(
    ("facts", "given", "moved"),
    [
        (
            {"launcher": "srun", "omit": ["ntasks-per-node"], "cpus_per_gpu": 4},
            {"--nodes=2", "--cpus-per-task=8"},  # a node's: --ntasks=4 was seen to place 3 + 1
            ["--ntasks-per-node=2", "--cpus-per-task=4"],
        ),
        ({"omit": ["ntasks-per-node"]}, {"--nodes=2"}, ["--ntasks-per-node=1"]),
        (
            {"launcher": "srun", "omit": ["ntasks-per-node", "cpus-per-task"], "cpus_per_gpu": 4},
            {"--nodes=2"},
            ["--ntasks-per-node=2", "--cpus-per-task=4"],
        ),
        (
            {"omit": ["nodes", "ntasks-per-node"]},
            {"--ntasks=2"},
            ["--nodes=2", "--ntasks-per-node=1"],
        ),
        ({"omit": ["cpus-per-task"], "cpus_per_gpu": 9}, set(), ["--cpus-per-task=18"]),
        (
            {"launcher": "srun", "omit": ["gpus-per-task"], "gpu_request": ["gpus-per-task"]},
            {"--ntasks-per-node=2"},
            ["--gpus-per-task=1"],
        ),
        ({"omit": ["gres"], "gpu_request": ["gres"], "gpu_type": "a"}, set(), ["--gres=gpu:a:2"]),
        ({"omit": ["mem", "hint"], "mem": "0", "hint": "x"}, set(), ["--hint=x", "--mem=0"]),
    ],
)
def test_omitted_sizes_go_to_srun(facts, given, moved):
    text = render(**facts)
    assert given <= directives(text)
    assert {name for name in facts["omit"] if f"--{name}=" in "".join(directives(text))} == set()
    assert step_words(text)[1:] == moved
    if set(facts["omit"]) & {"gpus-per-task", "gres"}:
        assert "SLURM_GPUS_ON_NODE" not in text  # the batch step has none


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"mem": "1G", "mem_per_gpu": "1G"}, "x.toml: mem and mem_per_gpu exclude each other, and"),
        (
            {"mem": [{"nodes": "2", "use": "1G"}], "mem_per_gpu": "1G"},
            "both hold for 2 nodes x 2 GPUs; keep one",
        ),
        ({"extra_sbatch": ["--nice=1", "--nice=2"]}, "--nice=1 is there already"),
        ({"extra_sbatch": ["--mem-per-cpu=4G"], "mem": "1G"}, "--mem=1G is there already"),
        ({"extra_sbatch": ["--cpus-per-gpu=4"], "cpus_per_gpu": 4}, "--cpus-per-task=8 is there"),
        ({"extra_sbatch": ["--no-requeue"]}, "--requeue is there already"),
        ({"extra_sbatch": ["--gpus-per-node=2"]}, "--gpus-per-node=2 is there already"),
        ({"extra_sbatch": ["--gres=gpu:4"]}, "--gpus-per-node=2 is there already, and"),
        ({"extra_sbatch": ["-G4"], "gpu_request": ["gres"]}, "--gres=gpu:2 is there already"),
        ({"srun_args": ["--kill-on-bad-exit=0"]}, "and srun_args has --kill-on-bad-exit=0; keep"),
        (
            {"srun_args": ["--cpus-per-task=1"], "cpus_per_gpu": 4},
            '--cpus-per-task="$SLURM_CPUS_PER_TASK" is there already',
        ),
        (
            {"omit": ["ntasks-per-node"], "launcher": "srun", "gpu_request": ["gpus-per-task"]},
            'write gpu_request = ["gres"]',
        ),
        ({"starter": "mpirun"}, "with a starter, node_rank must name the variable that numbers"),
    ],
)
def test_what_slurm_would_pass_over_is_refused(facts, message):
    with pytest.raises(UserError) as refusal:
        render(**facts)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "option", "message"),
    [
        ("extra_sbatch", "--partition=b", 'extra_sbatch has --partition=b; write partition = "b"'),
        ("extra_sbatch", "-pb", 'extra_sbatch has -pb; write partition = "b"'),
        ("extra_sbatch", "--time=01:00:00", 'write time = "01:00:00"'),
        ("extra_sbatch", "--mem=64", 'write mem = "64"'),
        ("extra_sbatch", "--exclusive", "write exclusive = true"),
        ("extra_sbatch", "--cpus-per-task=8", "write cpus_per_task = 8"),
        ("extra_sbatch", "--export=NONE", 'write export = "NONE"'),
        ("extra_sbatch", "-N2", "but how many nodes and tasks a job has is the matrix's"),
        ("srun_args", "--ntasks=8", "but how many nodes and tasks a job has is the matrix's"),
        ("extra_sbatch", "--tasks-per-node=4", "but how many nodes and tasks a job has is"),
    ],
)
def test_what_has_a_field_is_no_further_option(field, option, message):
    for value in ([option], [{"nodes": "2+", "use": option}]):
        with pytest.raises(ValueError, match=re.escape(message)):
            Cluster(name="x", gpus_per_node=4, partition="a", **{field: value})
    assert Cluster(name="x", gpus_per_node=4, omit=["nodes"], extra_sbatch=["--nodes=2-4"])


@pytest.mark.parametrize(
    "unused",
    [
        {"srun_args": ["--cpu-bind=none"]}, {"srun": "/usr/bin/srun"}, {"launcher": "srun"},
        {"gpu_request": ["srun"]}, {"omit": ["cpus-per-task"]},
        {"container": {"runtime": "pyxis", "image": "x"}},
        {"launcher": [{"nodes": "2+", "use": "srun"}]},
    ],
)  # fmt: skip
def test_nothing_for_srun_stands_beside_a_starter(unused):
    with pytest.raises(ValueError, match="starter stands in place of srun, so "):
        Cluster(name="x", gpus_per_node=4, starter="ibrun", node_rank="PMI_RANK", **unused)
    with pytest.raises(ValueError, match="node_rank is a starter's"):
        Cluster(name="x", gpus_per_node=4, node_rank="PMI_RANK")


def test_each_rule_of_srun_args_that_holds_adds_its_word():
    rules = ["--cpu-bind=none", {"nodes": "2+", "use": "--network=a"}, {"use": "--b"},
             {"nodes": "3+", "use": "--c"}]  # fmt: skip
    assert step_words(render(srun_args=rules))[1:] == ["--cpu-bind=none", "--network=a", "--b"]
    assert step_words(render("ddp_2g1n", srun_args=rules))[1:] == ["--cpu-bind=none", "--b"]


def test_the_header_names_the_sites_own_sbatch():
    text = render(submit_command="sbatch.tinygpu", export="NONE")
    assert "&& sbatch.tinygpu multi_node.slurm\n" in text
    assert "set -euo pipefail\nunset SLURM_EXPORT_ENV " in text
    assert " 'sbatch.tinygpu --export=RUN_DIR,CHECKPOINT_DIR'\n" in text
    assert 'job.sh" multi_node.slurm  # makes folders' in render()


def test_arguments_of_torchrun():
    text = render(torchrun_args=["--numa-binding=exclusive", "--log-dir=a*"])
    assert "    --numa-binding=exclusive '--log-dir=a*' \\\n    \"$REPO_DIR/scripts/" in text


def test_software_inside_and_outside_the_step():
    text = render(
        login_shell=True,
        setup=["module load apptainer"],
        step_setup=["module load cuda"],
        container='apptainer exec --nv "$SIF"',
    )
    assert text.startswith("#!/bin/bash -l\n")
    outside, _, inside = text.partition("run_on_node() {")
    assert "set +u " in outside and "\nmodule load apptainer\nset -u\n" in outside
    assert "  set +u\n  module load cuda\n  set -u\n" in inside
    assert '  apptainer exec --nv "$SIF" torchrun --nnodes=' in inside


@pytest.mark.parametrize(
    ("master", "expected"),
    [
        (None, "export MASTER_ADDR=${hosts[0]}\n"),
        ({"suffix": "i"}, "export MASTER_ADDR=${hosts[0]}i "),
        ({"interface": "ib0"}, "ip -4 -oneline address show dev ib0)\n"),
        ({"command": "hostname -s"}, "MASTER_ADDR=$(hostname -s)\nexport MASTER_ADDR\n"),
    ],
)
def test_master_address(master, expected):
    assert expected in render(master=master)
    assert "export MASTER_ADDR=127.0.0.1 " in render("ddp_2g1n", master=master)


def test_ports_stay_in_their_range():
    assert "\nchoose_port 20000 20999\n" in render(port_range=[20000, 20999])
    with pytest.raises(ValueError, match="must rise"):
        Cluster(name="x", gpus_per_node=1, port_range=[3000, 2000])


def test_a_ready_node_waits_for_one_that_copies_its_data():
    assert "--rdzv-conf=timeout=120 " in render()
    assert "--rdzv-conf=timeout=1800 " in render(stage_data="$TMPDIR")
    assert "--rdzv-conf=timeout=600 " in render(stage_data="$TMPDIR", rendezvous_s=600)


def test_no_accelerator_no_tool():
    assert "ACCELERATOR=none" in render(accelerator="none")


# ---- Scales that a cluster cannot run ---------------------------------------------------


@pytest.mark.parametrize(
    ("job", "facts", "why"),
    [
        ("ddp_8g1n", {"gpus_per_node": 4}, "gpus_per_node = 8 exceeds gpus_per_node = 4"),
        ("ddp_2g4n", {"nodes": 2}, "nodes = 4 exceeds nodes = 2"),
        (
            "ddp_2g8n",
            {"cannot_run": [{"nodes": "5+", "because": "the develop queue has 4 nodes"}]},
            "8 nodes x 2 GPUs cannot run: the develop queue has 4 nodes; this is a limit",
        ),
    ],
)
def test_a_job_that_does_not_fit_says_why(job, facts, why):
    with pytest.raises(DoesNotFit) as caught:
        render(job, **facts)
    assert str(caught.value) == f'job "{job}": {why} of cluster "x"; edit experiments/matrix.toml'


def test_a_job_without_gpus_takes_the_nodes_own(tmp_path):
    text = (REPO / "experiments/matrix.toml").read_text()
    (tmp_path / "matrix.toml").write_text(text.replace("nodes = 2\ngpus_per_node = 2", "nodes = 2"))
    matrix = load_matrix(tmp_path / "matrix.toml")
    assert "2 nodes x 3 GPUs = 6 processes." in render(matrix=matrix, gpus_per_node=3)


def test_cpus_and_launcher_by_rule():
    facts = {
        "cpus_per_gpu": [{"gpus_per_node": "5+", "use": 3}, {"use": 10}],
        "launcher": [{"nodes": "2+", "use": "srun"}, {"use": "torchrun"}],
    }
    several = render("ddp_2g2n", **facts)
    assert {"--ntasks-per-node=2", "--cpus-per-task=10"} <= directives(several)
    assert "torchrun --nnodes" not in several
    assert "srun starts it once per GPU" in several
    one = render("ddp_8g1n", **facts)
    assert {"--ntasks-per-node=1", "--cpus-per-task=24"} <= directives(one)
    assert "#SBATCH --cpus-per-task=24      # 3 per GPU, to load data" in one
    assert "torchrun --nnodes" in one
    none = {
        "cpus_per_gpu": [{"nodes": "9+", "use": 3}],
        "launcher": [{"nodes": "9", "use": "srun"}],
    }
    assert "--cpus-per-task" not in render(**none)  # no rule holds: the site's and our defaults
    assert "torchrun --nnodes" in render(**none)


def test_cpus_of_a_task_as_they_stand():
    rules = [{"nodes": "1", "use": 6}, {"use": 40}]
    assert "#SBATCH --cpus-per-task=6\n" in render("ddp_2g1n", cpus_per_task=rules)
    assert "#SBATCH --cpus-per-task=40\n" in render("ddp_2g2n", cpus_per_task=rules)
    assert "--cpus-per-task=40" in directives(render(cpus_per_task=40, launcher="srun"))
    with pytest.raises(UserError, match="4 GPUs take 40 CPUs, which exceeds"):
        render("ddp_4g1n", cpus_per_task=40, cpus_per_node=36)
    with pytest.raises(ValueError, match="exclude each other"):
        Cluster(name="x", gpus_per_node=1, cpus_per_gpu=1, cpus_per_task=1)


def test_containers_of_pyxis_come_as_arguments_of_srun():
    image = "--container-image=nvcr.io#nvidia/pytorch:24.01-py3"
    assert f" '{image}' \\\n  {NODE}\n" in render(srun_args=[image])


IMAGE = shlex.quote("/it's/p.sif")
CONTAINERS = [
    ("apptainer", "nvidia", f"apptainer exec --nv --bind=/d --bind=/s:/t:ro --x=a {IMAGE} "),
    ("singularity", "amd", "singularity exec --rocm --bind=/d --bind=/s:/t:ro --x=a "),
    ("shifter", "nvidia", "shifter --image=/p.sif --volume=/d:/d --volume=/s:/t:ro --x=a "),
    ("podman-hpc", "nvidia", "podman-hpc run --rm --gpu --env-host --net=host --ipc=host "),
    ("podman-hpc", "none", "podman-hpc run --rm --env-host "),
]


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_binds_name_variables_of_the_node(runtime):
    binds = ["$TMPDIR:/scratch", "${SLURM_TMPDIR}/x", "/it's"]
    text = render(container={"runtime": runtime, "image": "i", "binds": binds})
    start = text.index("apptainer exec" if runtime == "apptainer" else "srun --kill")
    words = text[start:].partition("torchrun" if runtime == "apptainer" else "bash -c run")[0]
    program = f"TMPDIR=/t SLURM_TMPDIR=/s; printf '%s\\n' {words.strip()}"
    shown = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    given = shown.stdout.splitlines()
    if runtime == "pyxis":
        assert "--container-mounts=/t:/scratch,/s/x:/s/x,/it's:/it's" in given
    else:
        assert given[3:6] == ["--bind=/t:/scratch", "--bind=/s/x", "--bind=/it's"]


@pytest.mark.parametrize("bind", ["$(touch canary)", "`x`", '/a"b', "$", "$1", "a", "/a\\b"])
def test_binds_hold_nothing_but_names(bind):
    with pytest.raises(ValueError, match="write a folder of the node"):
        Cluster(name="x", gpus_per_node=1,
                container={"runtime": "pyxis", "image": "x", "binds": [bind]})  # fmt: skip


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
@pytest.mark.parametrize(
    ("container", "prefix"),
    [
        ({"runtime": "apptainer", "image": "i", "args": ["--cleanenv"]}, "APPTAINERENV_"),
        ({"runtime": "singularity", "image": "i", "args": ["-eC"]}, "SINGULARITYENV_"),
        ("/opt/bin/apptainer exec --containall i", "APPTAINERENV_"),
    ],
)
def test_a_clean_container_gets_what_the_job_needs_by_name(container, prefix, launcher):
    """The line before the container starts, run in bash: what goes in, and what does not."""
    own = {"env": {"MY_NOTE": "a b"}, "step_setup": ["export MIOPEN=/tmp/$USER"]}
    text = render(container=container, launcher=launcher, **own)
    (line,) = re.findall(r"^  pass_by_name .*$", text, re.MULTILINE)
    function = (REPO / "scripts/node.sh").read_text().partition("pass_by_name() {")[2]
    program = f"pass_by_name() {{{function.partition('export -f')[0]}\n{line}\nenv"
    needed = {"DATA_DIR": "/d", "RESULTS_DIR": "/r", "RANK": "1", "SLURM_JOB_ID": "7",
              "NCCL_DEBUG": "INFO", "MY_NOTE": "a b", "MIOPEN": "/m"}  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{program}"],
        env=needed | {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/host"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    given = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    passed = {name: value for name, value in given.items() if name.startswith(prefix)}
    assert passed == {prefix + name: value for name, value in needed.items()}


@pytest.mark.parametrize("args", [[], ["--env=A=b"], ["--contain"], ["--no-home"]])
def test_a_container_that_keeps_the_environment_needs_no_names(args):
    container = {"runtime": "apptainer", "image": "i", "args": args}
    assert "pass_by_name" not in render(container=container)


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"runtime": "edf", "image": "/e/p.toml"}, ["--environment=/e/p.toml"]),
        (
            {"runtime": "uenv", "image": "pytorch/v2.6.0:v1", "args": ["--view=default"]},
            ["--uenv=pytorch/v2.6.0:v1", "--view=default"],
        ),
    ],
)
def test_containers_of_cscs_come_as_arguments_of_srun(container, words):
    text = render(container=container)
    assert step_words(text)[1:] == words
    assert "\n  torchrun --nnodes=" in text
    with pytest.raises(ValueError, match="takes no binds"):
        Cluster(name="x", gpus_per_node=1, container=container | {"binds": ["/d"]})


@pytest.mark.parametrize(("runtime", "accelerator", "prefix"), CONTAINERS)
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_container_from_its_facts(runtime, accelerator, prefix, launcher):
    image = "/p.sif" if runtime == "shifter" else "/it's/p.sif"
    facts = {"runtime": runtime, "image": image, "binds": ["/d", "/s:/t:ro"]}
    text = render(container=facts | {"args": ["--x=a"]}, accelerator=accelerator, launcher=launcher)
    commands = re.sub(r" \\\n +", " ", text).splitlines()
    (line,) = [line for line in commands if line.strip().startswith(runtime)]
    assert line.strip().startswith(prefix)
    assert ("python " if launcher == "srun" else "torchrun ") in line


def test_pyxis_makes_the_container_of_the_step():
    image = "nvcr.io#nvidia/pytorch:24.01-py3"
    facts = {"runtime": "pyxis", "image": image, "binds": ["/d", "/s:/t"]}
    text = render(container=facts)
    words = shlex.split(text[text.index("\nlaunch srun ") :].replace("\\\n", " "))
    assert f"--container-image={image}" in words
    assert "--container-mounts=/d:/d,/s:/t" in words
    assert "\n  torchrun --nnodes=" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runtime": "docker"}, "apptainer"),
        ({"binds": ["data"]}, "binds"),
        ({"image": "a\nb"}, "image"),
        ({"mounts": []}, "mounts"),
    ],
)
def test_container_that_cannot_be(change, said):
    facts = {"runtime": "pyxis", "image": "x"} | change
    with pytest.raises(ValueError, match=said):
        Cluster(name="x", gpus_per_node=1, container=facts)


def test_port_from_a_command_of_the_site():
    text = render(port_command="get_free_port")
    assert "\nMASTER_PORT=$(get_free_port)\nexport MASTER_PORT\n" in text
    assert "SLURM_JOB_ID %" not in text


def look_up(suffix: str) -> subprocess.CompletedProcess:
    """Run the lines of a rendered script that find the master, on a host called local."""
    text = render(master={"suffix": suffix, "lookup": True})
    lines = text[text.index("# The address that belongs") : text.index('echo "Nodes:')]
    program = f'set -euo pipefail\nhosts=(local)\n{lines}echo "$MASTER_ADDR"'
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)


def test_a_suffixed_name_is_looked_up():
    assert look_up("host").stdout == "127.0.0.1\n"  # getent knows localhost everywhere
    done = look_up(".invalid")
    assert done.returncode == 2
    assert done.stderr == "error: local.invalid has no address; see master in the profile\n"


def test_expected_throughput_names_a_job_of_the_matrix():
    row = {"throughput": 2800, "tolerance_pct": 20, "source": "three runs"}
    cluster = Cluster(name="x", gpus_per_node=8, expected={"ddp_4g1n": row})
    assert dict(cluster.expected["ddp_4g1n"]) == row
    with pytest.raises(UserError, match='expected names job "ddp_4g1"; did you mean "ddp_4g1n"'):
        render(expected={"ddp_4g1": row})
    for wrong in ({"throughput": 0}, {"tolerance_pct": 101}, {"source": "a\nb"}, {"unit": "img/s"}):
        with pytest.raises(ValueError):
            Cluster(name="x", gpus_per_node=8, expected={"ddp_4g1n": row | wrong})


# ---- Going on after the time limit -------------------------------------------------------


def matrix_with(job: dict, workload: dict, top: dict) -> Matrix:
    """The committed matrix, with more keys in job ddp_2g2n, in its workload and at the top."""
    data = MATRIX.model_dump(exclude_unset=True) | top
    data["jobs"]["ddp_2g2n"] |= job
    data["workloads"]["tinyimagenet"] |= workload
    return Matrix(**data)


NEVER = {"requeue": False}
OFTEN = {"requeue": True}


@pytest.mark.parametrize(
    ("job", "workload", "top", "facts", "margin_s"),
    [
        ({}, {}, {}, {}, 120),
        ({}, {}, {"requeue_margin_s": 90}, {}, 90),
        ({}, {"requeue_margin_s": 300}, {"requeue_margin_s": 90}, {}, 300),
        ({"requeue_margin_s": 60}, {"requeue_margin_s": 300}, {}, {}, 60),
        ({"requeue_margin_s": 60}, {}, {}, {"requeue_margin_s": 200}, 200),  # the site wants more
        ({"requeue_margin_s": 900}, {}, {}, {"requeue_margin_s": 200}, 900),
        (OFTEN, NEVER, NEVER, {}, 120),
        ({}, OFTEN, NEVER, {}, 120),
        (NEVER, OFTEN, {}, {}, None),
        ({}, NEVER, {}, {}, None),
        ({}, {}, NEVER, {"requeue_margin_s": 200}, None),
    ],
)
def test_who_says_whether_a_job_goes_on(job, workload, top, facts, margin_s):
    text = render(matrix=matrix_with(job, workload, top), **facts)
    if margin_s is None:
        for word in ["--requeue", "--signal", "USR1", "CHECKPOINT_DIR"]:
            assert word not in text
    else:
        assert {f"--signal=USR1@{margin_s}", "--requeue"} <= directives(text)
        assert "GPU_DIR CPU_DIR CHECKPOINT_DIR\n" in text  # exported: scripts/job.sh requeues
        assert '  set -euo pipefail\n  trap "" USR1 ' in text  # before any child is started


@pytest.mark.parametrize(
    ("time", "margin_s", "fits"),
    [
        ("00:04:00", 120, True),
        ("00:03:59", 120, False),
        ("5", 120, True),
        ("3", 120, False),
        ("00:30:00", 901, False),
        ("0", 120, True),  # Slurm's way to say: no limit
    ],
)
def test_a_limit_has_room_for_training_and_saving(time, margin_s, fits):
    matrix = matrix_with({"time": time, "requeue_margin_s": margin_s}, {}, {})
    if fits:
        assert f"--time={time}" in directives(render(matrix=matrix))
        return
    with pytest.raises(UserError) as caught:
        render(matrix=matrix)
    assert str(caught.value) == (
        f'job "ddp_2g2n": time = "{time}" is less than 2 x requeue_margin_s = {margin_s}, which a '
        "job needs to start and to save; write a longer time, or requeue = false, in "
        "experiments/matrix.toml"
    )
    assert render(matrix=matrix, omit=["time"])  # then the partition has the last word
    assert render(matrix=matrix_with({"time": time} | NEVER, {}, {}))


def test_a_margin_is_a_minute_at_least():
    for make in (lambda: matrix_with({"requeue_margin_s": 59}, {}, {}),
                 lambda: Cluster(name="x", gpus_per_node=1, requeue_margin_s=59)):  # fmt: skip
        with pytest.raises(ValueError, match="greater than or equal to 60"):
            make()


# ---- NAME.local.toml --------------------------------------------------------------------


def write_profile(folder: Path, local: str) -> Path:
    path = folder / "raven.toml"
    path.write_text('name = "raven"\ngpus_per_node = 4\naccount = "none"\n[env]\nA = "1"\n')
    (folder / "raven.local.toml").write_text(local)
    return path


def test_local_file_overlays_what_is_personal(tmp_path):
    path = write_profile(tmp_path, 'account = "abc@v100"\n[env]\nB = "2"\n')
    cluster = load_cluster(str(path), tmp_path)
    assert cluster.account == "abc@v100"
    assert cluster.env == {"A": "1", "B": "2"}


def test_local_file_changes_nothing_else(tmp_path):
    path = write_profile(tmp_path, "gpus_per_node = 8\n")
    with pytest.raises(UserError, match=r'raven\.local\.toml: "gpus_per_node" is not a personal'):
        load_cluster(str(path), tmp_path)


def test_a_mistake_in_the_local_file_names_it(tmp_path):
    path = write_profile(tmp_path, "account = 3\n")
    with pytest.raises(UserError, match=r"/raven\.local\.toml: .account"):
        load_cluster(str(path), tmp_path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"partition": [{"node": "1", "use": "a"}]},
            'unknown key "partition.0.node"; did you mean "nodes"?',
        ),
        ({"master": {"interface": "ib0", "lookup": True}}, "looks up names with a suffix only"),
        ({"launcher": "mpirun"}, '"launcher" = \'mpirun\' is not known here; known: "torchrun'),
        ({"cpus_per_gpu": [{"use": 0}]}, '"cpus_per_gpu.0.use" = 0: Input should be greater'),
        ({"master": {}}, "takes one of suffix, interface and command"),
        ({"master": {"suffix": "i", "interface": "ib0"}}, "takes one of"),
        ({"extra_sbatch": ["nvmps"]}, '"extra_sbatch.0" = \'nvmps\': write one option, such as'),
        ({"partition": [{"nodes": "many", "use": "a"}]}, "many"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_line(tmp_path, facts, message):
    lines = [f"{key} = {json.dumps(value).replace(': ', ' = ')}" for key, value in facts.items()]
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\ngpus_per_node = 1\n' + "\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        load_cluster(str(path), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
