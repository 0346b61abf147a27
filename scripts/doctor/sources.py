"""Where the doctor reads: commands on a login node, or a folder with what exactly these printed.

Each command is read in the form that it prints when it is called as COMMANDS says, and in no
other: what cannot be read is refused by file and line.
"""

import grp
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from common.console import shorten
from common.counts import LineCounts
from common.errors import UserError
from submission import SlurmError, call

TIMEOUT_S = 20
# sinfo's columns: conversion, our name, and its headers in the versions of Slurm. With --exact,
# one row is one group of equal nodes of one partition in one state.
SINFO_COLUMNS = [
    ("%P", "partition", ["PARTITION"]),
    ("%a", "avail", ["AVAIL"]),
    ("%l", "time", ["TIMELIMIT"]),
    ("%L", "default_time", ["DEFAULTTIME"]),
    ("%s", "job_size", ["JOB_SIZE"]),
    ("%h", "oversubscribe", ["OVERSUBSCRIBE", "SHARE"]),
    ("%D", "count", ["NODES"]),
    ("%T", "state", ["STATE"]),
    ("%c", "cpus", ["CPUS"]),
    ("%z", "sct", ["S:C:T"]),
    ("%m", "memory", ["MEMORY"]),
    ("%G", "gres", ["GRES"]),
    ("%f", "features", ["AVAIL_FEATURES", "FEATURES"]),
    ("%N", "hosts", ["NODELIST"]),
]
ASSOCIATION_COLUMNS = ["Cluster", "Account", "Partition", "QOS"]
CONFIG, PARTITIONS, NODES, SINFO, ASSOCIATIONS, INTERFACES = (
    "scontrol_show_config.txt",
    "scontrol_show_partition.txt",
    "scontrol_show_node.txt",
    "sinfo.txt",
    "sacctmgr.txt",
    "ip_address.txt",
)
COMMANDS = {
    CONFIG: ["scontrol", "show", "config"],
    PARTITIONS: ["scontrol", "show", "partition"],
    NODES: ["scontrol", "show", "node"],
    SINFO: ["sinfo", "--exact", "--format=" + "|".join(column[0] for column in SINFO_COLUMNS)],
    ASSOCIATIONS: ["sacctmgr", "--parsable2", "show", "associations", "user=USER",
                   "format=" + ",".join(ASSOCIATION_COLUMNS)],
    INTERFACES: ["ip", "-brief", "address"],
}  # fmt: skip
ENVIRONMENT = "environment.txt"  # what `env` prints: of it only the module system is read
MODULE_VARIABLES = ("MODULEPATH", "LMOD_CMD", "LMOD_VERSION", "MODULESHOME", "LOADEDMODULES")
SLURM_FILES = [CONFIG, PARTITIONS, NODES, SINFO]
LOOPBACK = ("lo", "docker", "veth", "virbr", "br-", "cni", "podman")

KEY = re.compile(r"(?:^|(?<=\s))([A-Za-z][A-Za-z0-9_]*)=")
# What people write: to the end of its line, and on deeper indented lines below it. In each
# version of scontrol nothing that is needed follows on the same line.
FREE_TEXT = {"Reason", "Comment", "Extra"}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LINK_STATES = {"UP", "DOWN", "UNKNOWN", "LOWERLAYERDOWN", "DORMANT", "NOTPRESENT", "TESTING"}
CONFIG_HEADING = re.compile(r"(Slurmctld\(.*\) at \S+ is \w+|.*\bConfiguration:?|Account Gather)")
Value = TypeVar("Value")


@dataclass
class Sources:
    """Texts by file name, the module system's variables, and what could not be read."""

    origin: str
    texts: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    live: bool = False  # of this machine, whose folders of modules can be looked at
    folder: Path | None = None
    groups: set[str] = field(default_factory=set)  # the reader's own, on this machine
    cluster: str = ""  # of several that share a login node: the one that was asked
    # By file what became of its lines: what is dropped is named in `problems`.
    counts: dict[str, LineCounts] = field(default_factory=dict)

    def read_lines(self, file: str) -> list[tuple[int, str]]:
        """List a text's lines that are not blank, with their numbers; line ends of any system.

        Colours are taken off. UserError for other control characters, and for a last line
        without an end: a command ends each, so that one is cut.
        """
        *lines, rest = re.split(r"\r\n|\n|\r", COLOUR.sub("", self.texts.get(file, "")))
        found = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        if file in self.texts:
            blank = Counter(blank=len(lines) - len(found))
            self.counts[file] = LineCounts(len(lines), len(found), ignored=+blank)
        for number, line in found:
            plain = line.replace("\t", " ").isprintable() and "\ufffd" not in line
            if not plain and not FREE_TEXT.intersection(KEY.findall(line)):
                why = f"not plain text: {shorten(line, 60)!r}"
                raise self.refuse(file, number, why)
        if rest:
            raise self.refuse(file, len(lines) + 1, f"cut: no line end after {rest[-60:]!r}")
        return found

    def ignore(self, file: str, rule: str) -> None:
        """Count a line of a file as ignored, not kept."""
        self.counts[file].kept -= 1
        self.counts[file].ignored[rule] += 1

    def drop(self, file: str, number: int, reason: str, line: str) -> None:
        """Count a line of a file as dropped, not kept, and name it."""
        self.counts[file].kept -= 1
        self.counts[file].dropped[reason] += 1
        self.problems.append(f"{file}, line {number}: {shorten(line, 60)!r}: {reason}")

    def refuse(self, file: str, line: int, why: str) -> UserError:
        """Name the line of a file or a command's output that cannot be read, and the fix."""
        if self.live:
            command = shlex.join(COMMANDS[file])
            fix = "is it a wrapper here? Save what Slurm's own prints and use --from DIR"
            return UserError(f"{command}, line {line}: {why}; {fix}")
        place = self.folder / file if self.folder else file
        return UserError(f"{place}, line {line}: {why}; save it again: {save_command(file)}")


@dataclass
class Record:
    """Fields of one record of scontrol or row of sinfo, and the line of each in its source."""

    sources: Sources
    file: str
    fields: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def get(self, name: str, default: str = "") -> str:
        return self.fields.get(name, default)

    def read(self, name: str, parse: Callable[[str], Value]) -> Value | None:
        """Parse a field, None where there is none; UserError where it cannot be read."""
        if name not in self.fields:
            return None
        try:
            return parse(self.fields[name])
        except ValueError as error:
            raise self.sources.refuse(self.file, self.lines[name], f"{name}: {error}") from None


# ---- Where the texts come from ----------------------------------------------------------


def name_source(file: str) -> str:
    """`scontrol_show_node.txt` -> `scontrol show node`."""
    return {INTERFACES: "ip address", ENVIRONMENT: "environment"}.get(
        file, file.removesuffix(".txt").replace("_", " ")
    )


def save_command(file: str) -> str:
    """The command that saves what the doctor reads as `file`."""
    return f"{shlex.join(COMMANDS[file])} > {file}".replace("user=USER", 'user="$USER"')


def read_folder(folder: Path) -> Sources:
    """Read saved outputs; UserError when the folder has none of Slurm's."""
    sources = Sources(f"the files of {folder}", folder=folder)
    commands = "; ".join(map(save_command, SLURM_FILES))
    if not folder.is_dir():
        raise UserError(f"--from {folder}: no such folder; make it, and save there: {commands}")
    for file in [*COMMANDS, ENVIRONMENT]:
        try:
            data = (folder / file).read_bytes()
            utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # as PowerShell's > writes
            text = data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
        except FileNotFoundError:
            sources.problems.append(f"{file}: missing")
        except OSError as error:
            sources.problems.append(f"{file}: cannot be read ({error.strerror})")
        else:
            sources.texts[file] = text
            if not text.strip():
                sources.problems.append(f"{file}: empty")
    try:
        others = sorted({path.name for path in folder.iterdir()} - {*COMMANDS, ENVIRONMENT})
    except OSError as error:
        fix = f"see ls -ld {folder}"
        raise UserError(f"--from {folder}: cannot be read: {error.strerror}; {fix}") from None
    for name in others[:3]:
        sources.problems.append(f"{shorten(name, 60)}: not a file that doctor.py knows")
    if others[3:]:
        sources.problems.append(f"{len(others) - 3} more files that doctor.py does not know")
    read_variables(sources)
    if not any(sources.texts.get(file, "").strip() for file in SLURM_FILES):
        raise UserError(f"--from {folder}: no output of Slurm's; save there: {commands}")
    return sources


def read_variables(sources: Sources) -> None:
    """Read the module system's variables of what `env` printed; a value may have many lines."""
    text = sources.texts.pop(ENVIRONMENT, "")
    for line in text.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        if name in MODULE_VARIABLES:
            sources.variables[name] = value.strip().strip("\"'")
    if lines := len(text.splitlines()):
        kept = len(sources.variables)
        ignored = Counter({"other variable": lines - kept})
        sources.counts[ENVIRONMENT] = LineCounts(lines, kept, ignored=ignored)


def run_commands(cluster: str = "") -> Sources:
    """Ask this login node, of `cluster` where several share it.

    UserError when there is no Slurm here, or none that answers.
    """
    sources = Sources("this login node", live=True, groups=find_groups())
    for file, command in COMMANDS.items():
        if file == ASSOCIATIONS and not has_accounting(sources.texts):
            continue
        command = [word.replace("user=USER", f"user={find_user()}") for word in command]
        sources.texts[file], problem = run(command, cluster)
        if problem:
            sources.problems.append(f"{' '.join(command[:3])}: {problem}")
    sources.variables = {n: os.environ[n] for n in MODULE_VARIABLES if os.environ.get(n)}
    if not any(sources.texts.get(file, "").strip() for file in SLURM_FILES):
        raise UserError(f"{sources.problems[0]}; or use --from DIR: see --help")
    return sources


def find_user() -> str:
    """The user's name as associations have it."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid())


def find_groups() -> set[str]:
    """The user's Unix groups, which a partition's AllowGroups may name."""
    names = set()
    for number in os.getgroups():
        with suppress(KeyError):  # a group without a name
            names.add(grp.getgrgid(number).gr_name)
    return names


def has_accounting(texts: dict[str, str]) -> bool:
    """Say whether a database of accounts may exist: sacctmgr without one waits for long."""
    kind = re.search(r"^AccountingStorageType\s*=\s*(.*)", texts.get(CONFIG, ""), re.MULTILINE)
    return kind is None or "slurmdbd" in kind[1]


def run(command: list[str], cluster: str = "") -> tuple[str, str | None]:
    """Run a command for at most TIMEOUT_S; returns what it printed, and what went wrong."""
    try:
        done = call(*command, timeout_s=TIMEOUT_S, cluster=cluster)
    except SlurmError as error:
        return "", str(error)
    if done.returncode == 0:
        return done.stdout, None
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return "", f"exit status {done.returncode}: {said[-1] if said else 'no message'}"


# ---- What each command prints -----------------------------------------------------------


def read_records(sources: Sources, file: str) -> list[Record]:
    """Read `scontrol show node` or `… partition`: records of several lines, indented by three.

    The form of --oneliner is refused: text that people wrote cannot be told from fields there.
    """
    first = {NODES: "NodeName", PARTITIONS: "PartitionName"}[file]
    records: list[Record] = []
    last = ""  # the field that stands last on the line above
    for number, line in sources.read_lines(file):
        if line.startswith(f"{first}="):
            records.append(Record(sources, file))
        elif records and last in FREE_TEXT and line.startswith("    "):
            records[-1].fields[last] += f" {line.strip()}"
            sources.ignore(file, "people's words")
            continue
        elif not records or not line.startswith("   "):
            why = f"not a line of {name_source(file)}: {shorten(line, 60)!r}"
            raise sources.refuse(file, number, why)
        pairs = split_fields(line.strip())
        if pairs is None:
            raise sources.refuse(file, number, f"no Key=Value: {shorten(line, 60)!r}")
        if line.startswith(f"{first}=") and "State" in dict(pairs):
            why = "a whole record on one line, as --oneliner prints it"
            raise sources.refuse(file, number, why)
        for key, value in pairs:
            records[-1].fields.setdefault(key, value)
            records[-1].lines.setdefault(key, number)
        last = pairs[-1][0]
    return records


def split_fields(line: str) -> list[tuple[str, str]] | None:
    """Split `OS=Linux 6.1 RealMemory=64` at its keys, as values may hold spaces; None: no key."""
    keys = list(KEY.finditer(line))
    if not keys or keys[0].start():
        return None
    pairs = []
    for found, following in zip(keys, [*keys[1:], None], strict=True):
        if found[1] in FREE_TEXT:
            return [*pairs, (found[1], line[found.end() :].strip())]
        end = following.start() if following else len(line)
        pairs.append((found[1], line[found.end() : end].strip()))
    return pairs


def read_sinfo(sources: Sources) -> list[Record]:
    """Read the rows of `sinfo --exact --format=…` under its header, columns by our names."""
    lines = sources.read_lines(SINFO)
    named = [number for number, line in lines if line.startswith("CLUSTER: ")]
    if named[1:]:
        why = "a second cluster; name one: export SLURM_CLUSTERS=NAME"
        raise sources.refuse(SINFO, named[1], why)
    if named and named[0] == lines[0][0]:  # where SLURM_CLUSTERS names one
        sources.cluster = lines.pop(0)[1].removeprefix("CLUSTER: ").strip()
        sources.ignore(SINFO, "header")
    rows: list[Record] = []
    for position, (number, line) in enumerate(lines):
        cells = [cell.strip() for cell in line.split("|")]
        if position == 0:
            known = [headers for _, _, headers in SINFO_COLUMNS]
            matches = [cell in headers for cell, headers in zip(cells, known, strict=False)]
            if len(cells) != len(known) or not all(matches):
                raise sources.refuse(SINFO, number, "not the header that this command prints")
            sources.ignore(SINFO, "header")
            continue
        if len(cells) != len(SINFO_COLUMNS):
            why = f"{len(cells)} cells instead of {len(SINFO_COLUMNS)}: {shorten(line, 60)!r}"
            raise sources.refuse(SINFO, number, why)
        names = [name for _, name, _ in SINFO_COLUMNS]
        fields = dict(zip(names, cells, strict=True))
        rows.append(Record(sources, SINFO, fields, dict.fromkeys(names, number)))
    return rows


def read_config(sources: Sources) -> dict[str, str]:
    """Read the `Key = Value` lines of `scontrol show config`, keys in small letters.

    A line that is neither that nor a heading joins the sources' problems.
    """
    lines = sources.read_lines(CONFIG)
    values: dict[str, str] = {}
    for number, line in lines:
        heading = line.startswith("Configuration data as of ")
        if heading != (number == lines[0][0]):
            why = "a second output" if heading else "not the first line of scontrol show config"
            raise sources.refuse(CONFIG, number, why)
        found = re.fullmatch(r"\s*([A-Za-z]\S*)\s+=(.*)", line)
        if found and values.setdefault(found[1].lower(), found[2].strip()) == found[2].strip():
            continue
        if heading or CONFIG_HEADING.fullmatch(line.strip()):
            sources.ignore(CONFIG, "heading")
        else:
            why = "a second value" if found else "neither Key = Value nor a heading"
            sources.drop(CONFIG, number, why, line)
    return values


def read_associations(sources: Sources) -> list[dict[str, str]]:
    """Read `sacctmgr --parsable2 show associations format=…`: one row per account."""
    lines = sources.read_lines(ASSOCIATIONS)
    rows = []
    for position, (number, line) in enumerate(lines):
        cells = [cell.strip() for cell in line.split("|")]
        if (cells == ASSOCIATION_COLUMNS) != (position == 0):
            why = "the header again: a second output" if position else "not the header that this "
            why += "" if position else "command prints"
            raise sources.refuse(ASSOCIATIONS, number, why)
        if len(cells) != len(ASSOCIATION_COLUMNS):
            raise sources.refuse(ASSOCIATIONS, number, f"{len(cells)} cells instead of 4")
        if not position:
            sources.ignore(ASSOCIATIONS, "header")
        else:
            names = [name.lower() for name in ASSOCIATION_COLUMNS]
            rows.append(dict(zip(names, cells, strict=True)))
    return rows


def read_interfaces(sources: Sources) -> list[dict]:
    """Read `ip -brief address`: name, state and addresses, without loopback and bridges."""
    found: dict[str, dict] = {}
    for number, line in sources.read_lines(INTERFACES):
        words = line.split()
        if len(words) < 2 or words[1] not in LINK_STATES:
            raise sources.refuse(INTERFACES, number, f"no state: {shorten(line, 60)!r}")
        name = words[0].partition("@")[0]
        if name in found:
            raise sources.refuse(INTERFACES, number, f"{name} again: a second output")
        if words[0].startswith(LOOPBACK):
            sources.ignore(INTERFACES, "loopback or bridge")
        else:
            found[name] = {"name": name, "state": words[1], "addresses": words[2:]}
    return list(found.values())


def describe_modules(variables: dict[str, str], live: bool) -> dict:
    """Say which module system there is, and its modules whose name speaks of PyTorch or conda."""
    if not variables.get("MODULEPATH") and not variables.get("LMOD_CMD"):
        return {"system": None, "path": [], "candidates": []}
    system = "Lmod" if variables.get("LMOD_CMD") else "Environment Modules"
    path = [folder for folder in variables.get("MODULEPATH", "").split(":") if folder]
    return {"system": system, "path": path, "candidates": find_modules(path) if live else []}


def find_modules(path: list[str], most: int = 5000) -> list[str]:
    """List modules such as `pytorch/2.4` below `path`, looking at `most` folder entries at most."""
    wanted = re.compile(r"(pytorch|torch|conda|mamba|\bdl\b|cuda)", re.IGNORECASE)
    found: dict[str, None] = {}
    for folder in path[:40]:
        try:
            names = sorted(os.listdir(folder))[:most]  # noqa: PTH208 - names only, a slow disk
        except OSError:
            continue
        most -= len(names)
        found |= dict.fromkeys(name.removesuffix(".lua") for name in names if wanted.search(name))
    return list(found)[:12]
