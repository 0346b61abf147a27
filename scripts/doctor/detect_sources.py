"""Where the doctor reads: commands on a login node, or a folder with what they printed."""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_S = 20
# With --exact, one row is one group of equal nodes of one partition in one state.
SINFO = "%P|%a|%l|%L|%s|%h|%D|%T|%c|%z|%m|%G|%f|%N"
COMMANDS = {
    "scontrol_show_config.txt": ["scontrol", "show", "config"],
    "scontrol_show_partition.txt": ["scontrol", "show", "partition"],
    "scontrol_show_node.txt": ["scontrol", "show", "node"],
    "sinfo.txt": ["sinfo", "--exact", f"--format={SINFO}"],
    "sacctmgr.txt": ["sacctmgr", "--parsable2", "show", "associations", "user=USER",
                     "format=Cluster,Account,Partition,QOS"],
    "ip_address.txt": ["ip", "-brief", "address"],
}  # fmt: skip
ENVIRONMENT = "environment.txt"  # what `env` prints: of it only the module system is read
MODULE_VARIABLES = ("MODULEPATH", "LMOD_CMD", "LMOD_VERSION", "MODULESHOME", "LOADEDMODULES")
SLURM_FILES = [name for name in COMMANDS if name.startswith(("scontrol", "sinfo"))]
LOOPBACK = ("lo", "docker", "veth", "virbr", "br-", "cni", "podman")


class DetectError(Exception):
    """Nothing could be detected; the message is one line and names the fix."""


@dataclass
class Sources:
    """Texts by file name, the module system's variables, and what could not be had."""

    origin: str
    texts: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    live: bool = False  # of this machine, whose folders of modules can be looked at


def name_source(file: str) -> str:
    """`scontrol_show_node.txt` -> `scontrol show node`."""
    return {"ip_address.txt": "ip address", ENVIRONMENT: "environment"}.get(
        file, file.removesuffix(".txt").replace("_", " ")
    )


def read_folder(folder: Path) -> Sources:
    """Read saved outputs; DetectError when the folder has none of Slurm's."""
    sources = Sources(f"the files of {folder}")
    if not folder.is_dir():
        raise DetectError(f"--from {folder}: no such folder")
    for file in [*COMMANDS, ENVIRONMENT]:
        try:
            text = (folder / file).read_bytes().decode("utf-8-sig", errors="replace")
        except FileNotFoundError:
            sources.problems.append(f"{file}: not there")
        except OSError as error:
            sources.problems.append(f"{file}: cannot be read ({error.strerror})")
        else:
            sources.texts[file] = text.replace("\0", "")
            if not text.strip():
                sources.problems.append(f"{file}: empty")
    for line in sources.texts.pop(ENVIRONMENT, "").splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        if name in MODULE_VARIABLES:
            sources.variables[name] = value.strip().strip("\"'")
    if not any(sources.texts.get(file, "").strip() for file in SLURM_FILES):
        raise DetectError(f"--from {folder}: has none of {', '.join(SLURM_FILES)}")
    return sources


def run_commands() -> Sources:
    """Ask this login node; DetectError when there is no Slurm here, or none that answers."""
    sources = Sources("this login node", live=True)
    for file, command in COMMANDS.items():
        if file == "sacctmgr.txt" and not has_accounting(sources.texts):
            continue
        command = [word.replace("user=USER", f"user={find_user()}") for word in command]
        text, problem = run(command)
        sources.texts[file] = text
        if problem:
            sources.problems.append(f"{' '.join(command[:3])}: {problem}")
    sources.variables = {n: os.environ[n] for n in MODULE_VARIABLES if os.environ.get(n)}
    if not any(sources.texts.get(file, "").strip() for file in SLURM_FILES):
        raise DetectError(
            f"not on a Slurm cluster ({sources.problems[0]}); "
            "run it on a login node, or use --from DIR"
        )
    return sources


def find_user() -> str:
    """The user's name as associations have it."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid())


def has_accounting(texts: dict[str, str]) -> bool:
    """Say whether a database of accounts may exist: sacctmgr without one waits for long."""
    kind = re.search(
        r"^AccountingStorageType\s*=\s*(.*)", texts.get("scontrol_show_config.txt", ""), re.M
    )
    return kind is None or "slurmdbd" in kind[1]


def run(command: list[str]) -> tuple[str, str | None]:
    """Run a command for at most TIMEOUT_S; returns what it printed, and what went wrong."""
    # A user's defaults for sinfo (SINFO_PARTITION, …) would hide a part of the cluster.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SINFO_")}
    try:
        done = subprocess.run(
            command, env=clean | {"LC_ALL": "C"}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return "", f"{command[0]} is not found"
    except subprocess.TimeoutExpired:
        return "", f"no answer within {TIMEOUT_S} s"
    except OSError as error:
        return "", f"cannot be run ({error.strerror})"
    text = done.stdout.decode(errors="replace").replace("\0", "")
    if done.returncode == 0:
        return text, None
    said = done.stderr.decode(errors="replace").strip() or text.strip()
    return text, f"exit status {done.returncode}: {said.splitlines()[-1] if said else 'no message'}"


def list_interfaces(text: str) -> list[dict]:
    """Read `ip -brief address`: name, state and addresses, without loopback and bridges."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and not words[0].startswith(LOOPBACK):
            name = words[0].partition("@")[0]
            found.append({"name": name, "state": words[1], "addresses": words[2:]})
    return found


def describe_modules(variables: dict[str, str], live: bool) -> dict:
    """Say which module system there is, and its modules whose name speaks of PyTorch or conda."""
    if not variables.get("MODULEPATH") and not variables.get("LMOD_CMD"):
        return {"system": None, "path": [], "candidates": []}
    system = "Lmod" if variables.get("LMOD_CMD") else "Environment Modules"
    path = [folder for folder in variables.get("MODULEPATH", "").split(":") if folder]
    return {"system": system, "path": path, "candidates": find_modules(path) if live else []}


def find_modules(path: list[str], most: int = 5000) -> list[str]:
    """List modules such as `pytorch/2.4` below `path`, looking at `most` folder entries at most."""
    found: dict[str, None] = {}
    for folder in path[:40]:
        try:
            names = sorted(os.listdir(folder))[:most]  # noqa: PTH208 - names only, a slow disk
        except OSError:
            continue
        most -= len(names)
        wanted = re.compile(r"(pytorch|torch|conda|mamba|\bdl\b|cuda)", re.IGNORECASE)
        found |= dict.fromkeys(name.removesuffix(".lua") for name in names if wanted.search(name))
    return list(found)[:12]
