"""The commands of README.md, and where each is run; test_house_rules.py compares the two."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
README = (REPO / "README.md").read_text(encoding="utf-8")
ORGANISERS = (REPO / "experiments/ORGANISERS.md").read_text(encoding="utf-8")

# What a command prints or a file holds, in both files: its first line -> how it is compared.
EXCERPTS = {
    "Epoch [3/3] LR: ": "a line of a real log; test_readme.py reads it as the log reader does",
    "[gpu_memory_log - GPU 0] ": "test_readme.py",
    "FAIL    data ": "test_readme.py",
    "4 GPUs (1 node) against Single GPU": "test_readme.py",
}

# On a made study, in this process: test_readme.py.
ON_A_STUDY = (
    "python scripts/check_tables.py experiments/TABLES.md",
    "python scripts/fill_tables.py",
    "python scripts/report.py",
    "python scripts/check_exercise.py 1",
    "python scripts/scaling_tables.py",
    "python scripts/scaling_tables.py --fixed-work",
    "python scripts/scaling_tables.py --cost --price 2.50",
    "python scripts/scaling_tables.py --target-accuracy 40%",
    "python scripts/scaling_tables.py --from-csv paper.csv",
    "python scripts/advise.py --target 75 --epochs 90",
    "python scripts/diagnose.py",
    "python scripts/export_runs.py -o tidy",
    "python scripts/inspect_log.py train.log",
    "python scripts/fill_tables.py runs --log-format nanogpt --gpus 'run1.log=1' "
    "--gpus 'run8.log=2x4'",
    "python scripts/submit.py --all --dry-run",
    "python scripts/submit.py --workload gpt2 --all --dry-run",
)

# By real jobs on a virtual cluster: slurm/test_walks.py; the first by slurm/test_rehearse.py.
ON_A_CLUSTER = (
    "bash scripts/rehearse.sh",
    "source <(scripts/virtual_cluster.sh env)",
    "source .venv/bin/activate",
    "python scripts/prepare_data.py tinyimagenet --digits data/digits",
    "export DATA_DIR=$PWD/data/digits REPO_DIR=$PWD",
    "cd experiments/baseline && sbatch baseline.slurm",
    "python scripts/check_tables.py experiments/TABLES.md",
    "python scripts/fill_tables.py",
)

# Not as it stands there, and why; what is like it is run by the file that is named.
NOT_RUN = {
    "bash scripts/test.sh": "it runs these tests",
    "conda env create": "3 GB; test_house_rules.py compares the lists of packages",
    "conda activate": "as above",
    "python scripts/prepare_data.py tinyimagenet --download": "a download: preparation/",
    "export DATA_DIR=/shared/tinyimagenet": "a folder of another machine",
    "cd experiments/multi_gpu": "a job of each kind: slurm/test_rehearse.py; all: profiles/",
    "cd experiments/multi_node": "as above",
    "python scripts/submit.py baseline 2_gpus 4_gpus --watch": "slurm/test_submit_slurm.py",
    "python scripts/submit.py --all --after -- --reservation": "submission/test_submit.py",
    "python scripts/submit.py --cancel": "submission/test_submit.py",
    "python scripts/submit.py 'exercises/": "submission/test_submit.py, with other scales",
    "python scripts/submit.py 'gpt2/strategies/*'": "submission/test_submit.py, with other scales",
    "torchrun --standalone": "training/test_train.py, in fewer steps",
    "bash scripts/rehearse.sh --keep": "slurm/test_rehearse.py, without --keep",
    "cd rehearsal/multi_node/2_nodes": "a job of rehearse.sh: slurm/test_rehearse.py",
    "scripts/virtual_cluster.sh down": "slurm/test_virtual_cluster.py",
    "python scripts/plot_scaling.py --out plots": "scaling/plots/, and rehearse.sh types it",
    "python scripts/report.py --proposal": "slurm/test_walks.py, with other numbers",
    "bash scripts/setup_env.sh --workloads": "test_house_rules.py has the list; it downloads",
    "python scripts/prepare_data.py gpt2 /shared/gpt2": "preparation/test_prepare_gpt2.py",
    "python scripts/fill_tables.py --workload gpt2": "scaling/tables/test_fill_tables.py",
    "python scripts/scaling_tables.py --workload gpt2 --strategies": "tables/test_scaling.py",
    "bash scripts/rehearse.sh --workload gpt2": "slurm/test_workloads_slurm.py runs its jobs",
}


def list_blocks(text: str = README) -> list[str]:
    """The blocks of README.md that have no language: commands, and what a command prints."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [text for language, text in blocks if not language]


def list_commands(text: str = README) -> list[str]:
    """Each command of README.md, without its comment and in one line."""
    commands = []
    for block in list_blocks(text):
        if not block.startswith(tuple(EXCERPTS)):
            whole = re.sub(r" \\\n +", " ", block)
            lines = (re.sub(r"(^|\s)#\s.*", "", line) for line in whole.splitlines())
            commands += [" ".join(line.split()) for line in lines if line.strip()]
    return commands
