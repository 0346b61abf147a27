"""What every node runs, tried without a Slurm: the AMD tools' logs, and data copied to the node.

run_on_node is cut out of a rendered script and started with Slurm's variables set by hand. The
trainer, torchrun and the AMD tools are stand-ins; theirs print what their documentation shows
(AMD SMI CLI: `metric --csv --watch`; rocm-smi: `--showmeminfo vram --csv`).
"""

import re
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from profiles.cluster import Cluster
from profiles.matrix import load_matrix, plan_job
from profiles.render_job import make_environment, render_job

REPO = Path(__file__).resolve().parents[2]
NODE_SH = REPO / "scripts/node.sh"
MATRIX = load_matrix(REPO / "experiments/matrix.toml")
ENVIRONMENT = make_environment(REPO / "templates")

AMD_SMI = """\
#!/bin/bash
printf '%s\\n' "$*" >> "$TOLD"
[[ $* == *--watch* ]] || { echo 'timestamp,gpu'; exit; }
while printf 'timestamp,gpu,socket_power,total_vram,used_vram,free_vram\\r\\n'; do
  for gpu in 0 1; do printf '%s,%s,%s,65520,905,64615\\r\\n' "$(date +%s)" $gpu 90; done
  echo
  sleep 0.2
done
"""
ROCM_SMI = """\
#!/bin/bash
printf '%s\\n' "$*" >> "$TOLD"
echo 'device,GPU use (%),VRAM Total Memory (B),VRAM Total Used Memory (B)'
for gpu in 0 1; do echo "card$gpu,7,68702699520,948961280"; done
"""
TRAINER = """\
sleep "${S:-1}"
echo "sees $DATA_DIR"
cat "$DATA_DIR"/train/a 2> /dev/null
exit ${STATUS:-0}
"""


@pytest.fixture
def node(tmp_path: Path):
    """Returns run(name of job, tools, variables, **facts) -> the finished tasks of one node."""

    def run(job: str, tools: dict[str, str], variables: dict[str, str], **facts):
        cluster = Cluster(name="x", gpus_per_node=8, **facts)
        planned = plan_job(job, MATRIX, cluster)
        text = render_job(planned, cluster, ENVIRONMENT, "python render.py")
        function = re.search(r"^run_on_node\(\) \{\n.*?^\}\n", text, re.MULTILINE | re.DOTALL)[0]
        bin_dir = tmp_path / "bin"
        bin_dir.mkdir(exist_ok=True)
        trainer = dict.fromkeys(("torchrun", "python"), f"#!/bin/bash\n{TRAINER}\n")
        for name, script in {**trainer, "psrecord": "#!/bin/bash\nexec sleep 9\n", **tools}.items():
            (bin_dir / name).write_text(script)
            (bin_dir / name).chmod(0o755)
        folders = ("RESULTS_DIR", "GPU_DIR", "CPU_DIR", "TMPDIR")
        where = dict.fromkeys(folders, str(tmp_path)) | {"REPO_DIR": str(REPO)}
        asked = re.search(r"^export (NODES=.*)$", text, re.MULTILINE)[1]
        where |= dict(each.split("=") for each in asked.split())
        slurm = {"SLURM_NNODES": str(planned.nodes), "SLURM_NODEID": "0",
                 "SLURM_NTASKS": str(planned.nodes * planned.tasks_per_node),
                 "SLURMD_NODENAME": "node1", "SLURM_JOB_ID": "7",
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "SLURM_CPUS_PER_TASK": "1",
                 "TOLD": str(tmp_path / "told")}  # fmt: skip
        path = f"{bin_dir}:/usr/bin:/bin"
        tasks = []
        for task in range(planned.tasks_per_node):
            ids = {"SLURM_LOCALID": str(task), "SLURM_PROCID": str(task)}
            environment = {"PATH": path, **where, **slurm, **ids, **variables}
            tasks.append(
                subprocess.Popen(
                    ["bash", "-c", f"{function}export -f run_on_node\nexec bash {NODE_SH}"],
                    env=environment,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
        printed = [task.communicate(timeout=30)[0] for task in tasks]
        return [task.returncode for task in tasks], printed

    return run


# ---- AMD --------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_amd_smi_logs_the_jobs_gpus_once_a_node(node, tmp_path, launcher):
    status, _ = node(
        "ddp_2g1n", {"amd-smi": AMD_SMI, "rocm-smi": ROCM_SMI}, {"ROCR_VISIBLE_DEVICES": "0,1"},
        accelerator="amd", launcher=launcher,
    )  # fmt: skip
    assert set(status) == {0}
    query = "metric --gpu 0 1 --mem-usage --usage --power --csv"
    assert (tmp_path / "told").read_text().splitlines() == [query, f"{query} --watch 5"]
    rows = (tmp_path / "gpu_memory_log.csv").read_text().splitlines()
    assert rows[0] == "timestamp,gpu,socket_power,total_vram,used_vram,free_vram"
    assert re.fullmatch(r"\d{10},1,90,65520,905,64615", rows[2])


def test_rocm_smi_gets_the_time_before_each_row(node, tmp_path):
    status, _ = node("ddp_1g1n", {"rocm-smi": ROCM_SMI}, {}, accelerator="amd")
    assert status == [0]
    assert (tmp_path / "told").read_text().splitlines()[0] == (
        "--showmeminfo vram --showuse --showpower --csv"
    )
    header, *rows = (tmp_path / "gpu_memory_log.csv").read_text().splitlines()[:3]
    assert header == (
        "timestamp,device,GPU use (%),VRAM Total Memory (B),VRAM Total Used Memory (B)"
    )
    for gpu, row in enumerate(rows):
        when, rest = row.split(",", 1)
        assert abs(int(when) - time.time()) < 60
        assert rest == f"card{gpu},7,68702699520,948961280"


def test_rocm_smi_is_asked_where_amd_smi_prints_nothing(node, tmp_path):
    silent = "#!/bin/bash\nexit 0\n"
    node("ddp_1g1n", {"rocm-smi": ROCM_SMI, "amd-smi": silent}, {}, accelerator="amd")
    header, *rows = (tmp_path / "gpu_memory_log.csv").read_text().splitlines()
    assert header.startswith("timestamp,device,") and rows


# ---- Is it the job that was rendered? ----------------------------------------------------

FEWER = "error: node1 shows {} GPUs, but this job is 1 x 2 (SLURM_GPUS_ON_NODE={}, CUDA_"
OTHER = "error: node1 was given {} tasks on {} nodes ("


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ""),  # nothing tells: Slurm before 21.08, and no tool of the GPUs
        ({"SLURM_GPUS_ON_NODE": "2"}, ""),
        ({"SLURM_GPUS_ON_NODE": "a100:2", "CUDA_VISIBLE_DEVICES": "0,1"}, ""),
        ({"SLURM_GPUS_ON_NODE": "gpu:a100:1(IDX:0),gpu:v100:1"}, ""),
        ({"SLURM_GPUS_ON_NODE": "unreadable", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, ""),
        ({"SLURM_GPUS_ON_NODE": "4"}, "Slurm gave node1 4 GPUs; this job uses 2."),
        ({"SLURM_GPUS_ON_NODE": "1"}, FEWER.format("1", "1")),
        ({"SLURM_GPUS_ON_NODE": "a100:1"}, FEWER.format("1", "a100:1")),
        ({"CUDA_VISIBLE_DEVICES": "0"}, FEWER.format("1", "unset")),  # a session's
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, FEWER.format("0", "unset")),
        ({"ROCR_VISIBLE_DEVICES": "3"}, FEWER.format("1", "unset")),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, "error: node1 has slices (MIG)"),
        ({"SLURM_NTASKS": "2"}, OTHER.format(2, 1)),
        ({"SLURM_NNODES": "2", "SLURM_NTASKS": "2"}, OTHER.format(2, 2)),
    ],
)
def test_a_node_refuses_another_job_in_one_line(node, variables, said):
    (status,), (printed,) = node("ddp_2g1n", {}, {"S": "0", **variables})
    lines = printed.splitlines()
    if not said.startswith("error"):
        assert (status, said in printed) == (0, True)
        return
    assert status == 1
    assert len(lines) == 1 and lines[0].startswith(said)


def test_three_gpus_here_and_one_there_are_not_two_and_two(node):
    """One task per GPU: a node with a task too many, one that sees its own GPU alone."""
    status, printed = node("ddp_2g1n", {}, {"CUDA_VISIBLE_DEVICES": "0"}, launcher="srun")
    assert (set(status), "sees" in printed[1]) == ({0}, True)
    status, printed = node("ddp_2g1n", {}, {"SLURM_NTASKS": "4"}, launcher="srun")
    assert set(status) == {1}
    assert "was given 4 tasks on 1 nodes" in printed[0]


def test_a_master_that_is_this_node_itself_is_one_line(node):
    variables = {"MASTER_ADDR": "127.0.1.1", "SLURM_NODEID": "1"}  # Debian's /etc/hosts
    status, (printed,) = node("ddp_2g2n", {}, variables)
    assert (status, printed) == (
        [1], "error: node1 takes 127.0.1.1, where all nodes meet, for itself (127.0.1.1); see "
        "master in the profile\n",
    )  # fmt: skip


def test_a_line_of_step_setup_that_fails_in_silence_is_named(node, tmp_path):
    (tmp_path / "site.sh").write_text('[ -n "$NOTHING" ] && export X=1\n')
    lines = [f"source {tmp_path}/site.sh"]
    status, (printed,) = node("ddp_1g1n", {}, {}, step_setup=lines)
    assert (status, printed) == (
        [1], f"error: node1: status 1 of: {lines[0]}\n",
    )  # fmt: skip


# ---- NVIDIA's log ------------------------------------------------------------------------

NVIDIA_SMI = """\
#!/bin/bash
for unknown in $UNKNOWN; do
  [[ $* != *$unknown* ]] || { echo "Field \\"$unknown\\" is not a valid field to query."; exit 2; }
done
[[ $* == *--loop=5* ]] || { echo 'timestamp, index'; exit; }
printf '%s\\n' "$*" >> "$TOLD"
echo "row of ${CUDA_VISIBLE_DEVICES:-all}"
exec sleep 9
"""
OLD, NEW = "clocks_throttle_reasons.active", "clocks_event_reasons.active"


@pytest.mark.parametrize(
    ("unknown", "field"), [("", OLD), (OLD, NEW), (f"{OLD} {NEW}", ",clocks.sm,uuid")]
)
def test_a_field_that_the_driver_lacks_costs_no_other(node, tmp_path, unknown, field):
    variables = {"UNKNOWN": unknown, "CUDA_VISIBLE_DEVICES": "0,1"}
    node("ddp_2g1n", {"nvidia-smi": NVIDIA_SMI}, variables)
    assert (tmp_path / "gpu_memory_log.csv").read_text() == "row of 0,1\n"
    told = (tmp_path / "told").read_text()
    assert told.startswith("--id=0,1 --query-gpu=timestamp,index,name,memory.used,memory.total,")
    assert field in told and told.count("\n") == 1


def test_each_task_logs_the_gpu_that_it_alone_sees(node, tmp_path):
    """One task per GPU: in one file of the node all the job's GPUs; else once per node."""
    node("ddp_2g1n", {"nvidia-smi": NVIDIA_SMI}, {"CUDA_VISIBLE_DEVICES": "5"}, launcher="srun")
    log = tmp_path / "gpu_memory_log.csv"
    assert log.read_text() == "row of 5\nrow of 5\n"
    log.unlink()
    node("ddp_2g1n", {"nvidia-smi": NVIDIA_SMI}, {"CUDA_VISIBLE_DEVICES": "0,1"}, launcher="srun")
    assert log.read_text() == "row of 0,1\n"


def test_no_amd_tool_is_said_and_costs_nothing_else(node):
    status, (printed,) = node("ddp_1g1n", {}, {}, accelerator="amd")
    assert status == [0]
    assert "No amd-smi and no rocm-smi on node1: GPU memory is not logged.\n" in printed


# ---- Data on the node's own disk --------------------------------------------------------


def make_data(folder: Path) -> Path:
    """A data set of one file, reached through a link, that nobody may write to."""
    (folder / "real").mkdir(parents=True)
    (folder / "real/a").write_text("one image\n")
    data = folder / "tiny set"
    data.mkdir()
    (data / "train").symlink_to("../real")
    data.chmod(0o555)
    return data


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_data_is_copied_once_a_node_and_removed(node, tmp_path, launcher, is_packed):
    source = make_data(tmp_path / "shared")
    if is_packed:
        with tarfile.open(tmp_path / "shared/tiny set.tar.gz", "w:gz", dereference=True) as packed:
            packed.add(source, arcname=".")
        source = tmp_path / "shared/tiny set.tar.gz"
    status, printed = node(
        "ddp_2g1n", {}, {"DATA_DIR": str(source)}, launcher=launcher, stage_data="$TMPDIR/disk"
    )
    copy = tmp_path / "disk/data_7_node1/tiny set"
    assert set(status) == {0}, printed
    assert len(printed) == (2 if launcher == "srun" else 1)
    for text in printed:
        assert f"sees {copy}\none image\n" in text
    assert "".join(printed).count(f"Data: node1 copied {source} to {copy.parent} in ") == 1
    assert list((tmp_path / "disk").iterdir()) == []


def test_failed_training_leaves_no_copy_and_keeps_its_status(node, tmp_path):
    source = make_data(tmp_path / "shared")
    variables = {"DATA_DIR": str(source), "STATUS": "7"}
    status, _ = node("ddp_1g1n", {}, variables, stage_data="${TMPDIR}/disk")
    assert status == [7]
    assert list((tmp_path / "disk").iterdir()) == []


def test_data_that_cannot_be_copied_is_one_line_more(node, tmp_path):
    status, (printed,) = node("ddp_1g1n", {}, {"DATA_DIR": "/no/such"}, stage_data="$TMPDIR/disk")
    assert status == [1]
    assert printed.splitlines()[1] == (
        f"error: cannot copy /no/such to {tmp_path}/disk/data_7_node1 on node1; see stage_data"
    )
    assert "sees" not in printed


def test_a_workload_without_data_copies_none(node, tmp_path):
    status, (printed,) = node("ddp_1g1n", {}, {"DATA_DIR": ""}, stage_data="$TMPDIR/disk")
    assert (status, "copied" in printed) == ([0], False)
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize(
    "value", ["$(touch canary)", "`touch canary`", "a b", "a;b", 'a"b', "a\nb", "", "~/x", "a&b"]
)
def test_stage_data_is_a_path_with_variables_only(value):
    with pytest.raises(ValueError, match="write a folder"):
        Cluster(name="x", gpus_per_node=1, stage_data=value)


def test_nothing_of_it_without_the_field():
    cluster = Cluster(name="x", gpus_per_node=8)
    text = render_job(plan_job("ddp_2g2n", MATRIX, cluster), cluster, ENVIRONMENT, "")
    assert [word for word in ("$disk", "copy=", "DATA_DIR=$") if word in text] == []
