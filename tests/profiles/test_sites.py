"""The profiles of real sites: what each asks Slurm for, compared with what its sources say.

What a site makes of its job of two nodes, line by line, is in tests/golden/sites/: the difference
between its script and that of a cluster of which only GPUs and launcher are known. (Whole scripts
are beside that folder.) To make them again:

    PYTHONPATH=scripts .venv/bin/python tests/profiles/test_sites.py
"""

import difflib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.toml import tomllib
from profiles.cluster import LOCAL_KEYS, Cluster
from profiles.matrix import DoesNotFit, JobRow, Matrix, load_matrix, plan_job
from profiles.render_job import make_environment, render_job
from profiles.toml_model import parse_model, read_toml

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "templates/clusters"
GOLDEN = REPO / "tests/golden/sites"
ENVIRONMENT = make_environment(REPO / "templates")
COMMITTED = load_matrix(REPO / "experiments/matrix.toml")
NATURAL = load_matrix(GOLDEN / "matrix.toml")
# Without NAME.local.toml: what is somebody's own must not decide a test.
CLUSTERS = {
    path.stem: parse_model(read_toml(path, path.name), Cluster, path.name)
    for path in sorted(FOLDER.glob("*.toml"))
    if not path.stem.endswith(".local")
}
SITES = [name for name in CLUSTERS if name != "virtual"]

ACCOUNT = "--account=YOUR_ACCOUNT"  # a site that demands one has it so, with its prefix or suffix
SHIFTER = "--image=nersc/pytorch:24.08.01 --module=gpu,nccl-plugin"

# Cluster; scales (nodes x GPUs of each); what the site's source says; what the render says where
# the source is silent, elides, or where its reader guessed. Options are in their long form
# (-p, -C, --tasks-per-node), accounts as our profiles have them; in `--nodes=N` N is the scale's.
#
# Left out of the second column are 12 facts that nobody read:
#   guessed (9): Big Purple's 1x4 and its nodes of 8 GPUs; Bridges-2's 2x4; Jean Zay's H100 nodes;
#     the cores of Snellius' H100 nodes, and --exclusive; Anvil's 4 GPUs and 128 CPUs of a node;
#     Della's constraint;
#   elided (3): Della's CPUs and memory at 1x4; Cannon's CPUs; Cannon's memory.
# What a source gives as optional (a reservation, a QOS, an account that has a default) is left out
# too, and so are second forms of one request, such as LUMI's 2x8 in small-g. LUMI's 1x4 has a task
# a GPU there (4 of 7 CPUs), here one launcher with the same 28.
TABLE = [
    ("ibex-a100", "1x4", "--gpus=4 --gpus-per-node=4 --ntasks=1 --ntasks-per-node=1 "
     "--cpus-per-task=16 --mem=128G --constraint=a100,4gpus", ""),
    ("ibex-a100", "1x8", "--gpus=8 --gpus-per-node=8 --ntasks=1 --ntasks-per-node=1 "
     "--cpus-per-task=32 --mem=512G --constraint=a100,8gpus", ""),
    ("ibex-a100", "2x2", "--gpus=4 --gpus-per-node=2 --ntasks=2 --ntasks-per-node=1 "
     "--cpus-per-task=8 --mem=64G --constraint=a100,4gpus", ""),
    ("bigpurple", "2x4", "--partition=gpu4_short --nodes=2 --gres=gpu:4 --ntasks-per-node=1 "
     "--cpus-per-task=16 --mem=64G", ""),
    ("raven", "1x1", "--gres=gpu:a100:1 --cpus-per-task=18 --mem=125000",
     "--constraint=gpu --ntasks-per-node=1 --nvmps"),
    ("raven", "1x4 2x4", "--nodes=N --constraint=gpu --gres=gpu:a100:4 --ntasks-per-node=4 "
     "--cpus-per-task=18 --nvmps --mem=500000", ""),
    ("bridges2", "1x4", "--partition=GPU-shared --gpus=v100-32:4 --cpus-per-task=20",
     "--ntasks-per-node=1"),
    ("bridges2", "2x8", "--partition=GPU --nodes=2 --gpus=v100-32:16",
     "--ntasks-per-node=1 --cpus-per-task=40"),
    ("perlmutter", "1x4 2x4", f"--constraint=gpu {ACCOUNT} --qos=regular --nodes=N "
     f"--ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=32 {SHIFTER}", ""),
    ("juwels-booster", "2x4", f"{ACCOUNT} --partition=booster --nodes=2 --ntasks-per-node=1 "
     "--cpus-per-task=48 --threads-per-core=1 --gres=gpu:4", ""),
    ("jureca", "1x4", "--partition=dc-gpu --gres=gpu:4", f"{ACCOUNT} --ntasks-per-node=1"),
    ("jupiter", "1x4 2x4", f"--partition=booster {ACCOUNT} --nodes=N --ntasks-per-node=1 "
     "--gres=gpu:4 --cpus-per-task=288", ""),
    ("lumi", "1x4", "--account=project_YOUR_ACCOUNT --partition=small-g --gpus-per-node=4 "
     "--mem-per-gpu=60G", "--ntasks-per-node=1 --cpus-per-task=28"),
    ("lumi", "1x8", "--partition=standard-g --nodes=1 --gpus-per-node=8 --ntasks=1 "
     "--cpus-per-task=56 --mem=480G", "--account=project_YOUR_ACCOUNT"),
    ("lumi", "2x8", "--partition=standard-g --nodes=2 --gpus-per-node=8 --ntasks-per-node=1 "
     "--cpus-per-task=56 --mem=480G", "--account=project_YOUR_ACCOUNT"),
    ("puhti", "1x4", f"{ACCOUNT} --partition=gpu --ntasks=1 --cpus-per-task=40 --mem=320G "
     "--gres=gpu:v100:4", ""),
    ("puhti", "2x4", f"{ACCOUNT} --partition=gpu --nodes=2 --ntasks-per-node=1 "
     "--cpus-per-task=40 --mem=320G --gres=gpu:v100:4", ""),
    ("mahti", "1x2", "--partition=gpusmall",
     f"{ACCOUNT} --ntasks-per-node=1 --cpus-per-task=64 --gres=gpu:a100:2"),
    ("mahti", "1x4", f"{ACCOUNT} --partition=gpumedium --ntasks=1 --cpus-per-task=128 "
     "--gres=gpu:a100:4", ""),
    ("mahti", "2x4", f"{ACCOUNT} --partition=gpumedium --nodes=2 --ntasks-per-node=1 "
     "--cpus-per-task=128 --gres=gpu:a100:4", ""),
    ("roihu", "1x4", f"{ACCOUNT} --partition=gpumedium --ntasks=1 --cpus-per-task=288 "
     "--gres=gpu:gh200:4", ""),
    ("roihu", "2x4", f"{ACCOUNT} --partition=gpularge --nodes=2 --ntasks-per-node=1 "
     "--cpus-per-task=288 --gres=gpu:gh200:4", ""),
    ("jeanzay-v100", "1x4 2x4", f"{ACCOUNT}@v100 --nodes=N --ntasks-per-node=4 --gres=gpu:4 "
     "--cpus-per-task=10 --hint=nomultithread", ""),
    ("jeanzay-v100", "1x8", "--partition=gpu_p2 --cpus-per-task=3", f"{ACCOUNT}@v100 "
     "--ntasks-per-node=8 --gres=gpu:8 --hint=nomultithread"),
    ("jeanzay-a100", "1x8 2x8", f"{ACCOUNT}@a100 --constraint=a100 --nodes=N "
     "--ntasks-per-node=8 --gres=gpu:8 --cpus-per-task=8 --hint=nomultithread", ""),
    ("snellius-a100", "1x1", "--partition=gpu_a100 --gpus-per-node=1 --cpus-per-task=18 "
     "--mem=120G", "--ntasks-per-node=1"),
    ("snellius-a100", "1x4 2x4", "--partition=gpu_a100 --nodes=N --gpus-per-node=4 "
     "--ntasks-per-node=1 --cpus-per-task=72", ""),
    ("snellius-h100", "1x4 2x4", "--partition=gpu_h100 --nodes=N --gpus-per-node=4 "
     "--ntasks-per-node=1", "--cpus-per-task=64"),
    ("anvil", "1x1", f"{ACCOUNT}-gpu --partition=gpu --nodes=1 --gpus-per-node=1 "
     "--ntasks-per-node=1", "--cpus-per-task=32"),
    ("della", "1x4", "--nodes=1 --ntasks-per-node=4 --gres=gpu:4", "--cpus-per-task=8 --mem=32G"),
    ("della", "2x2", "--nodes=2 --ntasks-per-node=2 --cpus-per-task=8 --mem=32G --gres=gpu:2", ""),
    ("cannon", "1x4", "--partition=gpu --gres=gpu:4",
     "--ntasks-per-node=1 --cpus-per-task=16 --mem=64G"),
    ("narval", "1x4 2x4", "--account=def-YOUR_ACCOUNT_gpu --nodes=N --gpus-per-node=a100:4 "
     "--ntasks-per-node=1 --cpus-per-task=48 --mem=0", ""),
    ("tamia", "1x4 2x4", "--account=aip-YOUR_ACCOUNT --nodes=N --gpus-per-node=h100:4 "
     "--ntasks-per-node=1 --cpus-per-task=48 --mem=0", ""),
    ("mila", "2x2", "--ntasks=4 --ntasks-per-node=2 --cpus-per-task=4 --gpus-per-task=l40s:1 "
     "--mem-per-gpu=16G", ""),
    ("workstation", "1x4", "", "--ntasks-per-node=1 --gpus-per-node=4"),
    ("leonardo", "1x4", f"--partition=boost_usr_prod {ACCOUNT} --ntasks-per-node=1 --gres=gpu:4 "
     "--cpus-per-task=32", "--mem=0"),
    ("leonardo", "1x1", "--gres=gpu:1 --cpus-per-task=8 --ntasks-per-node=1",
     f"--partition=boost_usr_prod {ACCOUNT} --mem=120G"),
    ("marenostrum5", "1x4", f"--partition=acc --qos=acc_ehpc {ACCOUNT} --ntasks-per-node=1 "
     "--gres=gpu:4 --cpus-per-task=80", ""),
    ("marenostrum5", "2x4", f"--partition=acc --qos=acc_ehpc {ACCOUNT} --nodes=2 --gres=gpu:4 "
     "--exclusive", "--ntasks-per-node=1 --cpus-per-task=80"),
    ("delta", "1x4", f"--partition=gpuA100x4 {ACCOUNT}-delta-gpu --mem=208G --ntasks-per-node=1 "
     "--cpus-per-task=64 --constraint=scratch --gpus-per-node=4", ""),
    ("vista", "2x1", "--partition=gh --nodes=2 --ntasks-per-node=1", ""),
    ("frontier", "2x8", f"{ACCOUNT} --partition=batch --nodes=2 --network=disable_rdzv_get",
     "--ntasks-per-node=8 --cpus-per-task=7"),
    ("alps", "2x4", f"{ACCOUNT} --nodes=2 --ntasks-per-node=4", "--cpus-per-task=72"),
    ("alps-uenv", "2x4", f"{ACCOUNT} --nodes=2 --ntasks-per-node=4", "--cpus-per-task=72"),
    ("kestrel", "1x4", "--gres=gpu:4 --mem=0", f"{ACCOUNT} --ntasks-per-node=1 "
     "--cpus-per-task=128"),
    ("kestrel", "1x2", "--gres=gpu:2 --mem=184000", f"{ACCOUNT} --ntasks-per-node=1 "
     "--cpus-per-task=64"),
    ("sherlock", "1x4", "--partition=gpu --gpus=4 --gpus-per-node=4 --constraint=GPU_SKU:H100_SXM5",
     "--ntasks-per-node=1 --cpus-per-task=32 --mem=256G"),
    ("archer2-gpu", "1x2", f"--gpus=2 {ACCOUNT} --partition=gpu --qos=gpu-shd --time=01:00:00",
     "--ntasks-per-node=1"),
    # The page's job of two nodes says --gpus=4, and means eight.
    ("archer2-gpu", "2x4", f"--nodes=2 --exclusive {ACCOUNT} --partition=gpu --qos=gpu-exc "
     "--time=01:00:00", "--gpus=8 --ntasks-per-node=1"),
    ("setonix", "1x8", f"{ACCOUNT}-gpu --partition=gpu --exclusive --ntasks-per-node=8 "
     "--gres=gpu:8", ""),
    ("isambard-ai", "1x4 2x4", "--nodes=N --gpus-per-node=4",
     "--ntasks-per-node=1 --cpus-per-task=288"),
    ("wice", "1x3", "--clusters=wice --account=lp_YOUR_ACCOUNT --nodes=1 --gpus-per-node=3 "
     "--partition=gpu_a100 --cpus-per-task=54", "--ntasks-per-node=1"),
    ("triton", "1x1", "--partition=gpu-h100-80g --gpus=1", "--ntasks-per-node=1 --cpus-per-task=8 "
     "--mem=120G"),
    ("alex", "1x8", "--partition=a100 --gres=gpu:a100:8 --constraint=a100_80 --export=NONE "
     "--cpus-per-task=128", "--ntasks-per-node=1"),
    ("alex", "2x8", "--nodes=2 --partition=a100 --gres=gpu:a100:8 --qos=a100multi --export=NONE",
     "--constraint=a100_80 --ntasks-per-node=1 --cpus-per-task=128"),
    ("lrz-ai", "1x2", "--partition=lrz-hgx-h100-94x4 --nodes=1 --gres=gpu:2 --cpus-per-task=32 "
     "--mem=240G", "--ntasks-per-node=1"),
    ("tinygpu", "1x4", "--partition=a100 --gres=gpu:a100:4 --export=NONE",
     "--clusters=tinygpu --ntasks-per-node=1 --cpus-per-task=128"),
    ("bede", "1x1 2x4", f"{ACCOUNT} --partition=gpu --nodes=N --gres=gpu:G", ""),
]  # fmt: skip
ROWS = [(name, scale, *said) for name, scales, *said in TABLE for scale in scales.split()]


def render(name: str, matrix: Matrix, job: str) -> str:
    cluster = CLUSTERS[name]
    command = f"python render.py --cluster {name}"
    return render_job(plan_job(job, matrix, cluster), cluster, ENVIRONMENT, command)


def render_scale(name: str, nodes: int, gpus_per_node: int) -> str:
    """Render a job of any size, whether or not a matrix has it."""
    template = "multi_node" if nodes > 1 else "multi_gpu" if gpus_per_node > 1 else "baseline"
    row = JobRow(
        workload="tinyimagenet", template=template, folder="a/b",
        nodes=nodes, gpus_per_node=gpus_per_node, time="00:30:00",
    )  # fmt: skip
    return render(name, Matrix(cluster=name, workloads=NATURAL.workloads, jobs={"any": row}), "any")


def choose_job(site: Cluster) -> str:
    """Two whole nodes, or as many as the site has."""
    return "ddp_1n" if site.nodes == 1 else "ddp_2n"


def render_golden(name: str) -> str:
    return render(name, NATURAL, choose_job(CLUSTERS[name]))


def list_options(text: str) -> list[str]:
    return re.findall(r"^#SBATCH (\S+)", text, re.MULTILINE)


# ---- What each site's source says -------------------------------------------------------


@pytest.mark.parametrize(("name", "scale", "stated", "silent"), ROWS)
def test_job_asks_for_what_the_site_wants(name, scale, stated, silent):
    nodes, gpus = map(int, scale.split("x"))
    stated = stated.replace("--nodes=N", f"--nodes={nodes}").replace("gpu:G", f"gpu:{gpus}")
    expected = {*stated.split(), *silent.split()}
    if nodes == 1 and "nodes" not in CLUSTERS[name].omit:  # on one node these say the same
        expected = {o.replace("--ntasks=", "--ntasks-per-node=") for o in expected} | {"--nodes=1"}
    ours = ("--job-name=", "--output=", "--open-mode=", "--time=", "--signal=", "--requeue")
    options = list_options(render_scale(name, nodes, gpus))
    assert {o for o in options if o in expected or not o.startswith(ours)} == expected


def test_every_site_is_in_the_table():
    assert {name for name, *_ in TABLE} == set(SITES) - {"ibex"}  # test_render.py has ibex


# ---- Every profile at every scale -------------------------------------------------------


@pytest.mark.parametrize("name", CLUSTERS)
def test_profile_renders_every_scale_it_can_run(name):
    texts = []
    for matrix in (COMMITTED, NATURAL):
        for job, row in matrix.jobs.items():
            try:
                text = render(name, matrix, job)
            except DoesNotFit as misfit:
                assert re.search(r"exceed|cannot run: \w", str(misfit))
                assert (row.nodes, row.gpus_per_node) != (1, 1)
                continue
            texts.append(text)
            check_directives(text)
    assert len(texts) >= 3
    done = subprocess.run(["bash", "-n"], input="".join(texts), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def check_directives(text: str) -> None:
    """Assert what sbatch would pass over without a word, or take the last of."""
    head, _, body = text.partition("\nset -euo pipefail\n")
    assert all(line.startswith("#") for line in head.splitlines())
    assert "#SBATCH" not in body
    lines = re.findall(r"^#SBATCH.*$", head, re.MULTILINE)
    assert head.count("SBATCH") == len(lines)
    shape = re.compile(r"#SBATCH --[a-z-]+(=[^\s#]+)?( +# .+)?")
    assert [line for line in lines if not shape.fullmatch(line)] == []
    names = [option.partition("=")[0] for option in list_options(head)]
    assert len(names) == len(set(names))


# ---- What a site makes of its job -------------------------------------------------------


def render_bare(site: Cluster) -> str:
    """Render the job of two nodes for a cluster with the site's GPUs and launcher, no more."""
    same = {name: getattr(site, name) for name in ("gpus_per_node", "launcher", "accelerator")}
    cluster = Cluster(name="bare", **same)
    job = plan_job(choose_job(site), NATURAL, cluster)
    return render_job(job, cluster, ENVIRONMENT, "python render.py --cluster bare")


def compare_with_bare(name: str) -> str:
    """List what the site's job has besides the bare one (+), and what it lacks (-)."""
    bare, own = render_bare(CLUSTERS[name]).splitlines(), render_golden(name)
    lines = difflib.unified_diff(bare, own.splitlines(), n=0)
    own = [line for line in lines if not line.startswith(("@@", "---", "+++"))]
    return "\n".join(own) + "\n"


@pytest.mark.parametrize("name", SITES)
def test_golden(name):
    path = GOLDEN / f"{name}.diff"
    old = path.read_text() if path.is_file() else ""
    again = "to accept it: PYTHONPATH=scripts python tests/profiles/test_sites.py"
    assert old == compare_with_bare(name), again


def test_every_golden_belongs_to_a_site():
    assert sorted(path.stem for path in GOLDEN.glob("*.diff")) == sorted(SITES)


def test_jobs_of_every_site_pass_shellcheck(tmp_path):
    files = [tmp_path / f"{name}.slurm" for name in SITES]
    for file in files:
        file.write_text(render_golden(file.stem))
    checker = Path(sys.executable).parent / "shellcheck"
    # SC1091: scripts/job.sh is not beside them.
    command = [checker, "--exclude=SC1091", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
    assert done.stdout + done.stderr == ""


# ---- The profiles as texts, and their README --------------------------------------------


@pytest.mark.parametrize("name", SITES)
def test_profile_is_short_and_names_its_source(name):
    lines = (FOLDER / f"{name}.toml").read_text().splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines[: lines.index(f'name = "{name}"')])
    assert re.search(r"Source: .+\bread in 2026\b", comment)
    assert len(lines) <= 25


def test_nothing_personal_is_in_a_profile():
    for cluster in CLUSTERS.values():
        assert cluster.account is None or "YOUR_ACCOUNT" in cluster.account
        assert cluster.reservation is None


def read_readme_table() -> dict[str, list[str]]:
    """The rows of the README's table of fields: the field's name -> its other cells."""
    rows = re.findall(r"^\| `(\w+)` \|(.+)\|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {field: cells.replace("\\|", "/").split(" | ") for field, cells in rows}


def test_readme_explains_every_field_with_a_site_that_needs_it():
    table = read_readme_table()
    assert set(table) == set(Cluster.model_fields)
    for field, (text, site) in table.items():
        assert text.strip()
        for name in re.findall(r"`([a-z0-9-]+)`", site):
            assert field in tomllib.loads((FOLDER / f"{name}.toml").read_text()), (field, name)
    used = {field for cluster in CLUSTERS.values() for field in cluster.model_fields_set}
    assert {field for field, (_, site) in table.items() if "`" not in site} == set(table) - used


def test_readme_example_becomes_what_it_says():
    blocks = re.findall(r"```(\w+)\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    example = next(text for language, text in blocks if language == "toml")
    assert len(example.splitlines()) <= 10
    cluster = Cluster(**tomllib.loads(example))
    job = plan_job("ddp_2n", NATURAL, cluster)
    text = render_job(job, cluster, ENVIRONMENT, "python render.py")
    lines = re.findall(r"^#SBATCH .*$", text, re.MULTILINE)
    shown = next(text for language, text in blocks if language == "bash" and "#SBATCH" in text)
    assert shown.splitlines() == lines


def test_readme_names_what_a_local_file_may_hold():
    text = (FOLDER / "README.md").read_text()
    section = text[text.index("It takes `account`") :].partition(":\n")[0]
    assert set(re.findall(r"`(\w+)`", section)) == LOCAL_KEYS


def test_readme_lists_every_profile():
    text = (FOLDER / "README.md").read_text()
    section = text[text.index("## The profiles here") :]
    assert sorted(re.findall(r"^- `([a-z0-9-]+)`", section, re.MULTILINE)) == sorted(CLUSTERS)


def test_schema_is_fresh():
    command = [sys.executable, REPO / "render.py", "--schema"]
    schema = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    path = FOLDER / "schema.json"
    assert path.read_text() == schema, f"python render.py --schema > {path.relative_to(REPO)}"
    assert json.loads(schema)["additionalProperties"] is False


if __name__ == "__main__":
    for site in SITES:
        (GOLDEN / f"{site}.diff").write_text(compare_with_bare(site))
