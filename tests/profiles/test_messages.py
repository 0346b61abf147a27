"""One line for each mistake in a profile: it names the key, and shows what to write."""

from pathlib import Path

import pytest

from common.errors import UserError
from profiles.cluster import load_cluster
from profiles.matrix import load_matrix, plan_job
from profiles.render_files import write_jobs
from profiles.repository import Repository

REPO = Path(__file__).resolve().parents[2]
HEAD = 'name = "x"\ngpus_per_node = 8\n'


def refuse(folder: Path, text: str | bytes, name: str = "x.toml") -> str:
    """Load a profile of these lines below name and gpus_per_node; return the refusal."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else (HEAD + text).encode())
    with pytest.raises(UserError) as refusal:
        load_cluster(str(path), REPO / "templates/clusters")
    message = str(refusal.value)
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


MISTAKES = [
    # A field below a [table] is one of the table's keys, for TOML.
    ('[env]\nqos = "normal"', '"qos" is a field of the profile, not a key of [env]: move it above'),
    ("[env]\nnodes = 4", '"nodes" is a field of the profile, not a key of [env]: move it'),
    ('[data_dir]\nmem = "64G"', '"mem" is a field of the profile, not a key of [data_dir]'),
    ('[expected.ddp_1g1n]\nhint = "x"', '"hint" is a field of the profile, not a key of [expected'),
    (
        '[container]\nruntime = "pyxis"\nimage = "x"\nqos = "a"',
        '"container.qos" is a key of the fi',
    ),
    ('[master]\nsuffix = "i"\naccount = "a"', '"master.account" is a key of the file itself: move'),
    ('[[partition]]\nuse = "a"\nmem = "1G"', '"partition.0.mem" is a key of the file itself: move'),
    # The value alone, once.
    ('gpu_type = "a100,h100"', "\"gpu_type\" = 'a100,h100': write one type, without count or list"),
    ('gpu_type = "a100:4"', "\"gpu_type\" = 'a100:4': write one type, without count"),
    ('hint = "--hint=nomultithread"', 'write the value alone, without its option: "nomultithread"'),
    ('mem = "mem=64G"', 'write the value alone, without its option: "64G"'),
    ('mem_per_gpu = "--mem-per-gpu=8G"', 'write the value alone, without its option: "8G"'),
    ('account = "-A abc"', 'write the value alone, without its option: "abc"'),
    ('partition = [{ use = "--partition=a" }]', 'write the value alone, without its option: "a"'),
    ('[env]\nA = "export A=1"', '"env": write the value alone: A = "1"'),
    ('srun_args = ["--cpu-bind none"]', 'one word holds one option; write "--cpu-bind=none"'),
    ('extra_sbatch = ["#SBATCH --nvmps"]', "'#SBATCH --nvmps': write one option, such as \"--nice"),
    # Rules that never decide, and spans that hold nothing.
    (
        'partition = [{ use = "a" }, { nodes = "2+", use = "b" }]',
        'rule 2 of "partition" never holds, since rule 1 does wherever it would',
    ),
    ('qos = [{ nodes = "1-4", use = "a" }, { nodes = "2", use = "b" }]', 'rule 2 of "qos" never'),
    ('[env]\nA = [{ use = "a" }, { use = "b" }]', 'rule 2 of "env.A" never holds'),
    ('mem = [{ nodes = "4-2", use = "1G" }]', 'holds no number; write "2-4"'),
    # A key that people try.
    ('modules = ["cuda"]', 'unknown key "modules"; write setup = ["module load …"]'),
    ('environment = { A = "1" }', 'unknown key "environment"; a variable stands below [env]'),
    ('network = "single_node_vni"', 'unknown key "network"; write extra_sbatch = ["--network=…"]'),
    ('queue = "gpu"', 'unknown key "queue"; write partition = "…"'),
    ("ntasks_per_node = 4", 'launcher says it: "torchrun" for one task per node, "srun" for one'),
    ("requeue = false", "requeue stands in experiments/matrix.toml; requeue_margin_s may stand"),
    ('NCCL_DEBUG = "INFO"', 'unknown key "NCCL_DEBUG"; a variable stands below [env]'),
    # Values of another type.
    ('account = ["abc"]', '"account" must be text, not a list: write account = "abc"'),
    (
        'partition = ["a", "b"]',
        '"partition" must be one text, or rules such as these: write partition = '
        '[{ nodes = "1", use = "a" }, { use = "b" }]',
    ),
    ('hint = ["a"]', '"hint" must be text, not a list: write hint = "a"'),
    ('qos = { use = "a" }', 'text or a list of rules: write qos = [{ use = "a" }]'),
    ('setup = "module load x"', '"setup" must be a list: write setup = ["module load x"]'),
    ('srun_args = "--x"', '"srun_args" must be a list: write srun_args = ["--x"]'),
    ('nodes = "4"', '"nodes" must be a number without quotes: write nodes = 4'),
    ('login_shell = "true"', '"login_shell" must stand without quotes: write login_shell = true'),
    ('time = "2h"', '"time" = \'2h\': Slurm does not read that; write "02:00:00"'),
    ('time = "1d 12h"', 'write "1-12:00:00"'),
    ('time = "1h30"', 'write "01:30:00"'),
    ('time = "90 min"', 'write "01:30:00"'),
    ('time = "2880"', 'write "2-00:00:00"'),
    ('time = "--time=01:00:00"', 'without its option: "01:00:00"'),
    (
        'time = [{ use = "1.5h" }]',
        '"time.0.use" = \'1.5h\': Slurm does not read that; write "01:30',
    ),
    ('time = "soon"', 'write "02:00:00" for two hours, "2-00:00:00" for two days'),
    ("constraint = 100", '"constraint" must be text in quotes, not 100: write constraint = "100"'),
    ("time = 120", '"time" must be text: write time = "02:00:00" for 120 minutes'),
    ('mem = [{ nodes = 2, use = "1G" }]', '"mem.0.nodes" must be text in quotes, not 2: write nod'),
    ('cpus_per_gpu = "--cpus-per-gpu=8"', "a number without quotes: write cpus_per_gpu = 8"),
    ("cpus_per_gpu = [8, 4]", "one value, or rules such as these: write cpus_per_gpu = [{"),
    ("cpus_per_gpu = 8.0", '"cpus_per_gpu" must be a whole number: write cpus_per_gpu = 8'),
    ('port_range = "2000-3000"', "must be a list: write port_range = [2000, 3000]"),
    ('[setup]\nmodules = ["a"]', '"setup" must be a list, not a table: write setup = ["…"]'),
    (
        '[container]\nruntime = "edf"\nimage = "x"\nbinds = ["/a"]',
        '"container": runtime = "edf" takes no binds: the file that image names has its mounts',
    ),
    ('master = "ib0"', 'must be a table: write { … = "ib0" }, with one of suffix, interface, comm'),
    ('container = ["apptainer", "exec"]', 'not a list: write container = "apptainer exec"'),
    ('cannot_run = [{ because = "a" }]', "a rule of cannot_run holds at every scale, so that no"),
    ('exclusive = "yes"', '"exclusive" must stand without quotes: write exclusive = true'),
    ('exclusive = "--exclusive"', '"exclusive" is yes or no: write exclusive = true, or false'),
    ('cannot_run = { because = "a" }', 'must be a list: write cannot_run = [{ because = "a" }]'),
    ('env = ["A=1"]', '"env" must be a table: write [env], and below it one line for each name'),
    ('omit = ["--nodes"]', '"omit.0" = \'--nodes\' is not known here; did you mean "nodes"?'),
    ('gpu_request = ["gpus_per_node"]', 'did you mean "gpus-per-node"?'),
    ('launcher = "mpirun"', '"launcher" = \'mpirun\' is not known here; known: "torchrun", "srun"'),
    ('srun = "srun --mpi=pmi2"', 'options stand apart: srun = "srun", srun_args = ["--mpi=pmi2"]'),
    ('setup = ["#SBATCH --mem=1G"]', 'a directive is no shell line: write "--mem=1G" as its field'),
    ('[env]\nmy-note = "a"', "'my-note': write a variable's name: letters, digits and _"),
    ("[train_args.gpt2]\n--lr = 4", "'--lr': write an option's name, without the --"),
    ('umask = "27"', "\"umask\" = '27': write an octal number, such as"),
    ('submit_command = "sbatch -M a"', "'sbatch -M a': write one command, without options"),
    # What is no TOML.
    ("gpus_per_node = 4", "gpus_per_node = 4; it stands in the file twice: keep one"),
    ("mem = 64G", '(at line 3, column 9): mem = 64G; text stands in quotes: mem = "64G"'),
    ("mem = \u201c64G\u201d", "mem = \u201c64G\u201d; write straight quotes"),
    # Two keys that exclude each other: the file as a whole is not repeated.
    ("cpus_per_gpu = 4\ncpus_per_task = 4", "cpus_per_gpu and cpus_per_task exclude each other"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_shows_what_to_write(text, message, tmp_path):
    said = refuse(tmp_path, text + "\n")
    assert message in said
    assert "'name': 'x'" not in said  # not the whole profile
    assert len(said) < 220


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(encoding, tmp_path):
    assert refuse(tmp_path, HEAD.encode(encoding)) == "is UTF-16 text; save it as UTF-8"


def test_other_encodings_and_a_byte_order_mark(tmp_path):
    assert refuse(tmp_path, f"{HEAD}# Zürich\n".encode("latin-1")) == (
        "line 3 is not UTF-8; save the file as UTF-8"
    )
    (tmp_path / "x.toml").write_text(HEAD, encoding="utf-8-sig")
    assert load_cluster(str(tmp_path / "x.toml"), tmp_path).gpus_per_node == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sub/mine", 'no cluster "sub/mine": a path ends in .toml; did you mean sub/mine.toml?'),
        ("./raven.toml", 'no file raven.toml; did you mean "raven", of templates/clusters?'),
        ("templates/clusters/raven", 'did you mean "raven"?'),
        ("sub/mine.local.toml", "sub/mine.local.toml is laid over mine.toml by itself; give mine"),
        ("sub/plain", 'no cluster "sub/plain": a profile\'s file is named NAME.toml'),
    ],
)
def test_a_path_that_is_not_there_names_what_is_meant(name, message, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/mine.toml").write_text(HEAD)
    (tmp_path / "sub/plain").write_text(HEAD)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        load_cluster(name, REPO / "templates/clusters")
    assert message in str(refusal.value)


def test_a_field_below_train_args_is_told_from_an_option(tmp_path):
    (tmp_path / "x.toml").write_text(f'{HEAD}[train_args.gpt2]\nmem = "64G"\n')
    with pytest.raises(UserError, match=r'x.toml: "mem" is a field .* key of \[train_args.gpt2\]'):
        Repository(REPO).plan("gpt2_1g1n", str(tmp_path / "x.toml"))


def test_every_message_names_the_file_where_it_is(tmp_path, capsys):
    """The profile of another folder, and its NAME.local.toml, are not in templates/clusters."""
    path = tmp_path / "x.toml"
    path.write_text(f'{HEAD}account = "YOUR_ACCOUNT"\ncpus_per_node = 4\ncpus_per_gpu = 1\n')
    matrix = load_matrix(REPO / "experiments/matrix.toml")
    cluster = load_cluster(str(path), tmp_path)
    with pytest.raises(UserError, match=f"edit {path}$"):
        plan_job("ddp_8g1n", matrix, cluster)
    repository = Repository(REPO)
    write_jobs([repository.plan("ddp_1g1n", str(path))], repository, str(path), tmp_path / "out")
    assert f"put yours in {tmp_path}/x.local.toml, then" in capsys.readouterr().err
    (tmp_path / "x.local.toml").write_text("account = 3\n")
    with pytest.raises(UserError, match=f'^{tmp_path}/x.local.toml: "account" must be text'):
        load_cluster(str(path), tmp_path)
