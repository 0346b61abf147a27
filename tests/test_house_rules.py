"""What DESIGN and README promise of the repository itself, checked."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.toml import tomllib
from readme_commands import (
    EXCERPTS,
    NOT_RUN,
    ON_A_CLUSTER,
    ON_A_STUDY,
    ORGANISERS,
    list_blocks,
    list_commands,
)

REPO = Path(__file__).resolve().parent.parent
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=REPO, capture_output=True, text=True, check=True,
).stdout.split("\n")[:-1]  # fmt: skip
FILES = [REPO / name for name in LISTED if (REPO / name).is_file()]
# What each package may import of this repository besides itself; no sideways imports in scaling/.
MAY_IMPORT = {
    "common": set(),
    "training": {"common"},
    "preparation": {"common"},
    "profiles": {"common"},
    "doctor": {"common", "profiles", "submission"},
    "submission": {"common", "profiles"},
    "scaling.read": {"common"},
    "scaling.runs": {"common", "scaling.read"},
    "scaling.tables": {"common", "scaling.read", "scaling.runs"},
}
MAY_IMPORT |= {
    f"scaling.{name}": {"common", "scaling.read", "scaling.runs", "scaling.tables"}
    for name in ("plots", "diagnose", "advise")
}
BELOW_REPORT = {name for name in MAY_IMPORT if name.startswith(("common", "scaling"))}
MAY_IMPORT["scaling.report"] = BELOW_REPORT
FORBIDDEN = {
    "common": {"pandas", "torch", "pydantic", "rich"},
    "training": {"pandas", "pydantic"},
    "preparation": {"torch", "pandas"},
    "profiles": {"torch", "pandas"},
    "doctor": {"torch", "pandas"},
    "submission": {"torch", "pandas"},
    "scaling": {"torch"},
    "scaling.read": {"pandas", "pydantic", "numpy", "scipy", "jinja2", "rich"},
}
RUNS_TEXT = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load",
    "yaml.unsafe_load", "marshal.loads",
}  # fmt: skip
SECTIONS = [
    "Distributed Initialization",
    "Model + AMP + DDP Wrapper",
    "Data Pipeline & DistributedSampler",
    "Training Loop",
    "Validation Loop",
    "Metrics & Logging",
]


def list_imports(path: Path) -> set[str]:
    """The modules that a Python file imports, anywhere in it, by their dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def name_package(module: str) -> str:
    """`scaling.read` of `scaling.read.gpu_log`, `training` of `training.images.cached`."""
    parts = module.split(".")
    return ".".join(parts[:2] if parts[0] == "scaling" else parts[:1])


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_packages_import_only_what_is_below_them(package):
    folder = REPO / "scripts" / package.replace(".", "/")
    modules = list(folder.rglob("*.py"))
    assert len(modules) > 1
    ours = {*MAY_IMPORT, "scaling"}
    for path in modules:
        imported = list_imports(path)
        packages = {name_package(name) for name in imported} & ours - {package}
        assert packages <= MAY_IMPORT[package], path
        outside = FORBIDDEN.get(package, set()) | FORBIDDEN.get(package.partition(".")[0], set())
        assert {name.partition(".")[0] for name in imported} & (outside | {"torchvision"}) <= (
            {"torchvision"} if package == "training" else set()
        ), path


@pytest.mark.parametrize("package", ["profiles", "submission", "doctor", "preparation"])
def test_commands_import_what_a_package_names(package):
    names = ast.literal_eval(
        re.search(
            r"^__all__ = (\[.*?\])",
            (REPO / f"scripts/{package}/__init__.py").read_text(),
            re.M | re.S,
        )[1]
    )
    for path in [REPO / "render.py", *REPO.glob("scripts/*.py")]:
        used = {name for name in list_imports(path) if name.partition(".")[0] == package}
        assert used <= {f"{package}.{name}" for name in names}, path


@pytest.mark.parametrize("folder", ["scaling", "profiles", "doctor", "submission"])
def test_tests_of_the_analysis_load_no_torch(folder):
    for path in [REPO / "tests/conftest.py", *(REPO / "tests" / folder).rglob("*.py")]:
        assert {name.partition(".")[0] for name in list_imports(path)} & {"torch"} == set(), path


def test_render_imports_only_profiles():
    ours = {name.partition(".")[0] for name in MAY_IMPORT} | {"torch", "pandas"}
    found = {name.partition(".")[0] for name in list_imports(REPO / "render.py")}
    assert found & ours <= {"profiles", "common"}


@pytest.mark.parametrize(
    ("glob", "most"),
    [
        ("scripts/train.py", 310),
        ("scripts/train_*.py", 350),
        ("experiments/**/*.slurm", 110),
    ],
)
def test_files_are_short_enough_to_read(glob, most):
    for path in REPO.glob(glob):
        assert len(path.read_text().splitlines()) <= most, path


def test_top_level_is_what_it_should_be():
    top = {path.relative_to(REPO).parts[0] for path in FILES}
    assert {name for name in top if not name.startswith(".")} - {"LICENSE", "pyproject.toml"} == {
        "README.md", "environment.yml", "experiments", "templates", "scripts", "render.py", "tests",
    }  # fmt: skip


def test_train_has_the_readmes_sections_in_order():
    train = (REPO / "scripts/train.py").read_text()
    readme = (REPO / "README.md").read_text()
    assert re.findall(r"^# ---- \d\. (.+?) -+$", train, re.MULTILINE) == SECTIONS
    walk = readme[readme.index("## The training script") : readme.index("## The job script")]
    assert re.findall(r"^### (.+)$", walk, re.MULTILINE) == SECTIONS
    for literal in ["init_process_group(", "DistributedDataParallel(", "DistributedSampler(",
                    "torch.autocast(", "GradScaler(", "all_reduce(", "set_epoch("]:  # fmt: skip
        assert literal in train


@pytest.mark.parametrize(
    ("language", "source"),
    [("python", "scripts/train.py"), ("bash", "experiments/multi_node/2_nodes/multi_node.slurm")],
)
def test_code_that_the_readme_explains_is_the_code(language, source):
    blocks = re.findall(rf"```{language}\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    code = [line.strip() for line in (REPO / source).read_text().splitlines()]
    assert len(lines) >= 7
    assert [line for line in lines if line not in code] == []


def test_every_command_of_the_readme_is_run_or_says_why_not():
    """A new one belongs into one of the lists of readme_commands.py."""
    commands = list_commands()
    run = {*ON_A_STUDY, *ON_A_CLUSTER}
    assert [c for c in commands if c not in run and not c.startswith(tuple(NOT_RUN))] == []
    assert run - set(commands) == set()
    assert [why for why in NOT_RUN if not any(c.startswith(why) for c in commands)] == []
    blocks = [*list_blocks(), *list_blocks(ORGANISERS)]
    shown = [block for block in blocks if block.startswith(tuple(EXCERPTS))]
    assert len(shown) == len(EXCERPTS)


READMES = [path for path in FILES if path.suffix == ".md"]


def name_anchor(heading: str) -> str:
    """What a link to a heading says behind its #."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(REPO)))
def test_links_lead_somewhere(readme):
    for link in re.findall(r"\]\(([^)\s]+)\)", readme.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        path = (readme.parent / name).resolve() if name else readme
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(name_anchor, headings), link


@pytest.mark.parametrize(
    "readme",
    [path for path in READMES if path.name != "TROUBLESHOOTING.md"],  # which shows logs
    ids=lambda path: str(path.relative_to(REPO)),
)
def test_paths_in_the_readmes_exist(readme):
    named = re.findall(
        r"(?<![\w/.~-])(?:scripts|experiments|templates|tests)/[\w./-]*\w",
        readme.read_text(encoding="utf-8"),
    )
    missing = {name for name in named if not (REPO / name).exists()}
    assert missing <= {
        "templates/clusters/NAME.toml",
        "templates/clusters/NAME.local.toml",
        "experiments/baseline/gpu_memory",
    }


@pytest.mark.parametrize(
    "folder", ["scripts/scaling", "scripts/training", "templates", "experiments", "tests"]
)
def test_readme_of_a_folder_names_what_is_there(folder):
    """Files and folders in backticks, and no module or template of the folder is left out."""
    here = REPO / folder
    text = (here / "README.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([\w./]+(?:\.(?:py|toml|j2|md|sh|ipynb|rot13|csv)|/))`", text))
    roots = (here, REPO, REPO / "scripts", REPO / "experiments/baseline")
    of_a_run = {"results/", "gpu_memory/", "cpu_memory/", "checkpoints/"}
    words -= of_a_run
    assert [word for word in words if not any((root / word).exists() for root in roots)] == []
    if folder != "tests":
        children = {path.relative_to(here).parts[0] for path in FILES if here in path.parents}
        assert [
            child
            for child in children - {"README.md", "__init__.py"}
            if Path(child).stem.partition(".")[0] not in text
        ] == []


def test_environment_and_setup_script_list_the_same():
    environment = yaml.safe_load((REPO / "environment.yml").read_text())
    assert environment["name"] == "deepspeed-finetune"
    (listed,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    script = (REPO / "scripts/setup_env.sh").read_text()
    (reader,) = re.findall(r"^  sed -n '/.*$", script, re.MULTILINE)
    done = subprocess.run(
        ["bash", "-c", f"repo={REPO}\n{reader}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == listed
    form = r"[a-z0-9-]+>=[\d.]+,<[\d.]+(; python_version < \"3\.11\")?"
    assert all(re.fullmatch(form, requirement) for requirement in listed)


@pytest.mark.parametrize("group", ["workloads", "test"])
def test_setup_script_lists_the_groups_of_pyproject(group):
    script = (REPO / "scripts/setup_env.sh").read_text()
    function = re.search(r"^list_requirements\(\) \{.*?^\}", script, re.MULTILINE | re.DOTALL)[0]
    command = f"repo={REPO}\npython={sys.executable}\n{function}\nlist_requirements --{group}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    groups = tomllib.loads((REPO / "pyproject.toml").read_text())["dependency-groups"]
    wanted = groups["workloads"] + ([] if group == "workloads" else groups["test"][1:])
    assert groups["test"][0] == {"include-group": "workloads"}
    assert done.stdout.splitlines()[-len(wanted) :] == wanted
    assert "torch>=" in done.stdout and "{" not in done.stdout


def test_nothing_names_a_machine():
    # Spelt in pieces, or this file would name them itself.
    banned = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", "far" + "m-", r"\bpypi\.org\b"]))
    for path in FILES:
        if path.suffix not in {".png", ".jpeg"}:
            found = banned.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{path}: {found}"


def name_calls(path: Path) -> list[str]:
    """What a file calls that runs text as code: `line: name`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in RUNS_TEXT or given.get("shell", "False") != "False":
            found.append(f"{node.lineno}: {name}")
        elif name == "torch.load" and given.get("weights_only") != "True":
            found.append(f"{node.lineno}: torch.load without weights_only=True")
    return found


def test_no_text_is_run_as_code():
    found = {path.name: name_calls(path) for path in FILES if path.suffix == ".py"}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_no_two_test_files_share_a_name():
    """pytest imports them by it: two of one name, and no test at all is run."""
    names = [path.name for path in FILES if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_every_job_folder_has_its_log_folder():
    for script in REPO.glob("experiments/**/*.slurm"):
        assert (script.parent / "log/.gitkeep").is_file()
        assert str((script.parent / "log/.gitkeep").relative_to(REPO)) in LISTED


def test_python_is_formatted_and_linted():
    ruff = REPO / ".venv/bin/ruff"
    done = subprocess.run([ruff, "check", "."], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
