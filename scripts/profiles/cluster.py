"""What a job script has to say on one cluster: the schema of templates/clusters/*.toml.

templates/clusters/README.md lists each field with the text it makes and a site that needs it.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from common.errors import UserError
from profiles.container import STEP_RUNTIMES, Container
from profiles.toml_model import (
    Argument,
    Directive,
    EnvName,
    GpuType,
    Interface,
    MarginS,
    Name,
    Options,
    ShellLine,
    ShellPath,
    Span,
    Strict,
    Text,
    TimeLimit,
    Word,
    merge_toml,
    name_nearest,
    parse_model,
    read_span,
    read_toml,
    shaped,
    show,
    span_holds,
)

Launcher = Literal["torchrun", "srun"]
Omittable = Literal[  # any directive, but for the name and the log of a job
    "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus", "gpus-per-node",
    "gpus-per-task", "gres", "hint", "threads-per-core", "mem", "mem-per-gpu", "time", "open-mode",
    "signal", "requeue", "clusters", "partition", "qos", "account", "constraint", "reservation",
    "exclusive", "export",
]  # fmt: skip
SHORT = {  # sbatch's options of one letter
    "A": "account", "C": "constraint", "D": "chdir", "G": "gpus", "H": "hold", "J": "job-name",
    "L": "licenses", "M": "clusters", "N": "nodes", "W": "wait", "a": "array", "b": "begin",
    "c": "cpus-per-task", "d": "dependency", "e": "error", "i": "input", "k": "no-kill",
    "m": "distribution", "n": "ntasks", "o": "output", "p": "partition", "q": "qos",
    "s": "oversubscribe", "t": "time", "w": "nodelist", "x": "exclude",
}  # fmt: skip
# What an omitted directive becomes: an option of srun. The others are left to the site.
ON_SRUN = (
    *("ntasks", "ntasks-per-node", "cpus-per-task", "gpus", "gpus-per-node", "gpus-per-task"),
    *("gres", "hint", "threads-per-core", "mem", "mem-per-gpu"),
)
GpuRequest = Literal["gpus", "gpus-per-node", "gres", "gpus-per-task", "srun"]
Value = TypeVar("Value", str, int)
LOCAL_KEYS = {
    "account",
    "qos",
    "partition",
    "reservation",
    "data_dir",
    "stage_data",
    "env",
    "setup",
    "container",
}

# Fields whose value is one of Slurm's.
OPTIONS = (
    "clusters", "gpu_type", "partition", "qos", "account", "constraint", "reservation", "time",
    "hint", "mem", "mem_per_gpu",
)  # fmt: skip
WITH_FIELD = {*OPTIONS, "threads_per_core", "cpus_per_task", "export"} - {"gpu_type"}
EVERY_RULE = {"cannot_run", "srun_args", "extra_sbatch"}  # each rule counts, not the first alone
# What people write for a field of ours -> what to write instead.
INSTEAD = {
    word: advice
    for words, advice in (
        (
            "modules module module_load load conda conda_env venv activate software prolog "
            "prologue commands",
            'write setup = ["module load …"], the shell lines that activate the software',
        ),
        (
            "environment variables exports proxy http_proxy https_proxy ifname network_interface",
            "a variable stands below [env], such as NCCL_SOCKET_IFNAME or http_proxy",
        ),
        ("queue queues partitions", 'write partition = "…"'),
        ("walltime time_limit timelimit", 'write time = "02:00:00"'),
        ("memory ram mem_per_node", 'write mem = "64G", per node'),
        ("project budget charge", 'write account = "…"'),
        ("gpus ngpus num_gpus gpu", "write gpus_per_node = 4"),
        ("gres gpus_per_task", 'write gpu_request = ["gres"] or ["gpus-per-task"]'),
        ("max_nodes num_nodes", "write nodes = 4, the most a job may ask for"),
        ("cpus cores", "write cpus_per_gpu = 8"),
        ("image sif", 'write [container] with runtime = "…" and image = "…"'),
        ("interface", 'write master = { interface = "ib0" }, or NCCL_SOCKET_IFNAME below [env]'),
        (
            "ntasks ntasks_per_node tasks_per_node tasks",
            'launcher says it: "torchrun" for one task per node, "srun" for one per GPU',
        ),
        (
            "signal requeue no_requeue",
            "requeue stands in experiments/matrix.toml; requeue_margin_s may stand here",
        ),
        ("job_name output error log", "the matrix names jobs and their logs"),
    )
    for word in words.split()
} | {  # sbatch's own names of what has no field
    option.replace("-", "_"): f'write extra_sbatch = ["--{option}=…"]'
    for option in (
        "begin", "comment", "contiguous", "core-spec", "cpu-freq", "dependency", "distribution",
        "exclude", "gpu-bind", "gres-flags", "licenses", "mail-type", "mail-user", "mem-per-cpu",
        "network", "nice", "nodelist", "oversubscribe", "prefer", "priority", "sockets-per-node",
        "switches", "thread-spec", "tmp", "wckey",
    )
}  # fmt: skip

# ---- Values that depend on a job's size, and small tables ------------------------------


class Scales(Strict):
    """Conditions on a job: it must meet each one that is given. `"1-4"`, `"8+"` or `"2"`."""

    gpus_per_node: Span | None = None
    nodes: Span | None = None

    def hold(self, nodes: int, gpus_per_node: int) -> bool:
        """Say whether a job of `nodes` x `gpus_per_node` GPUs is meant."""
        return span_holds(self.nodes, nodes) and span_holds(self.gpus_per_node, gpus_per_node)

    def covers(self, other: "Scales") -> bool:
        """Say whether this holds wherever `other` does."""
        pairs = ((self.nodes, other.nodes), (self.gpus_per_node, other.gpus_per_node))
        spans = [(read_span(mine), read_span(theirs)) for mine, theirs in pairs]
        return all(a[0] <= b[0] and b[1] <= a[1] for a, b in spans)


class Rule(Scales):
    """A value for some scales; the first rule that holds wins, one without conditions always."""

    use: Directive


class TimeRule(Scales):
    """A time limit for some scales."""

    use: TimeLimit


class TextRule(Scales):
    """The value of an environment variable for some scales."""

    use: Text


class YesRule(Scales):
    """Whether something is so, for some scales."""

    use: bool


class OptionRule(Scales):
    """One more option for some scales: each rule that holds adds its own."""

    use: Word


class DirectiveRule(Scales):
    """One more directive for some scales: each rule that holds adds its own."""

    use: Argument


class CountRule(Scales):
    """A number for some scales."""

    use: Annotated[int, Field(ge=1)]


class LauncherRule(Scales):
    """A launcher for some scales."""

    use: Launcher


class Limit(Scales):
    """Scales that the site forbids, and its words for why."""

    because: Text


class Master(Strict):
    """How to name the address at which ranks of several nodes meet: one of these."""

    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")] | None = None
    interface: Interface | None = None
    command: ShellLine | None = None
    lookup: bool = False  # of a name with a suffix: its address instead

    @model_validator(mode="after")
    def name_one(self) -> "Master":
        if sum(value is not None for value in (self.suffix, self.interface, self.command)) != 1:
            raise ValueError("takes one of suffix, interface and command")
        if self.lookup and self.suffix is None:
            raise ValueError("looks up names with a suffix only; give suffix, or drop lookup")
        return self


class Expected(Strict):
    """What a job reached before on this cluster, for the tables to compare with."""

    throughput: float = Field(gt=0, description="global, in the workload's unit")
    tolerance_pct: float = Field(gt=0, le=100)
    source: Text = Field(description="who measured it, when, with what")


# ---- The profile -----------------------------------------------------------------------


class Cluster(Strict):
    """Facts of one cluster; what is absent renders nothing."""

    instead: ClassVar[dict[str, str]] = INSTEAD
    _shown: str = PrivateAttr("")  # the file it came from, as errors name it

    name: Name = Field(description="the file's name without .toml")
    gpus_per_node: int = Field(ge=1, le=64, description="GPUs of the largest node")
    nodes: int | None = Field(None, ge=1, description="the most nodes a job may ask for")
    cpus_per_node: int | None = Field(None, ge=1, description="CPUs that a job can have on a node")
    cannot_run: list[Limit] = Field([], description="scales that the site forbids, with its reason")

    gpu_request: list[GpuRequest] = Field(
        ["gpus-per-node"], description="how GPUs are asked for, in this order; [] for not at all"
    )
    multi_node_gpus: Literal["all"] | None = Field(
        None, description="jobs of several nodes take whole nodes, whatever the matrix says"
    )
    gpu_type: GpuType | None = Field(None, description="a100 in --gres=gpu:a100:4")
    gpu_memory_gb: Annotated[int, Field(ge=1, le=2048)] | list[CountRule] | None = Field(
        None, description="memory of one GPU, where its name does not tell"
    )

    clusters: Directive | list[Rule] | None = Field(
        None, description="--clusters: the one that is meant, where several share a Slurm"
    )
    partition: Directive | list[Rule] | None = None
    qos: Directive | list[Rule] | None = None
    account: Directive | list[Rule] | None = None
    constraint: Directive | list[Rule] | None = None
    reservation: Directive | list[Rule] | None = None
    exclusive: bool | list[YesRule] = Field(
        False, description="--exclusive: no other job on the nodes"
    )
    time: TimeLimit | list[TimeRule] | None = Field(None, description="instead of the matrix's")
    extra_sbatch: list[Argument | DirectiveRule] = Field(
        [], description="further directives, unchanged"
    )
    export: Literal["NONE"] | None = Field(
        None, description="--export=NONE: the job begins without the submitting shell's variables"
    )
    omit: list[Omittable] = Field(
        [], description="directives that the site refuses; srun is told instead where it can be"
    )
    submit_command: shaped(r"^[A-Za-z0-9_./-]+$", "one command, without options") = Field(
        "sbatch", description="the site's own command in place of sbatch"
    )
    requeue_margin_s: MarginS | None = Field(
        None, description="seconds before the time limit at which jobs save; least 60"
    )

    cpus_per_gpu: Annotated[int, Field(ge=1)] | list[CountRule] | None = Field(
        None, description="makes --cpus-per-task"
    )
    cpus_per_task: Annotated[int, Field(ge=1)] | list[CountRule] | None = Field(
        None, description="--cpus-per-task as it stands, instead of cpus_per_gpu"
    )
    hint: Directive | None = Field(None, description="--hint=nomultithread")
    threads_per_core: int | None = Field(None, ge=1, description="--threads-per-core")
    mem: Directive | list[Rule] | None = Field(None, description="--mem, memory per node")
    mem_per_gpu: Directive | list[Rule] | None = Field(None, description="--mem-per-gpu")

    launcher: Launcher | list[LauncherRule] = Field(
        "torchrun", description="one task per node with torchrun, or one per GPU without"
    )
    torchrun_args: list[Word] = Field([], description="for torchrun")
    rendezvous_s: int | None = Field(
        None, ge=60, le=7200, description="how long a ready node waits for the others"
    )
    srun: Text = Field("srun", description="path of srun, where modules take it off PATH")
    srun_args: list[Word | OptionRule] = Field([], description="for srun")
    starter: ShellLine | None = Field(None, description="a command instead of srun, such as ibrun")
    node_rank: EnvName | None = Field(
        None, description="the variable in which a starter numbers the nodes, such as PMI_RANK"
    )
    container: ShellLine | Container | None = Field(
        None, description="the command prefix inside the step, or what it is made from"
    )

    login_shell: bool = Field(False, description="#!/bin/bash -l")
    setup: list[ShellLine] = Field([], description="shell lines that activate the software")
    step_setup: list[ShellLine] = Field([], description="the same, again inside the step")
    env: dict[EnvName, Text | list[TextRule]] = Field({}, description="environment variables")
    umask: shaped(r"^0[0-7]{2,3}$", 'an octal number, such as "027"') = "027"

    master: Master | None = Field(None, description="default: the first host name of the job")
    port_range: list[Annotated[int, Field(ge=1024, le=65535)]] = Field(
        [10000, 29999], min_length=2, max_length=2, description="first and last port"
    )
    port_command: ShellLine | None = Field(None, description="a command that prints a free port")
    accelerator: Literal["nvidia", "amd", "none"] = Field(
        "nvidia", description="which tool logs the devices' memory"
    )

    data_dir: dict[Name, Text] = Field({}, description="workload = the folder of its data")
    stage_data: ShellPath | None = Field(
        None, description="folder on a node's own disk to which each node copies the data first"
    )
    train_args: dict[Name, Options] = Field({}, description="workload = options this site fixes")
    expected: dict[Name, Expected] = Field({}, description="job = its throughput on this cluster")

    @property
    def shown(self) -> str:
        """The file to edit, as a message names it."""
        return self._shown or f"templates/clusters/{self.name}.toml"

    @model_validator(mode="before")
    @classmethod
    def refuse_fields_in_tables(cls, data: Any) -> Any:
        """Refuse a field that stands below a [table]: TOML makes it one of the table's keys."""
        for place in ("env", "data_dir", "train_args", "expected"):
            table = data.get(place) if isinstance(data, dict) else None
            inner = [(place, table)] if isinstance(table, dict) else []
            if place == "expected":  # (an option of train_args may have any name)
                inner += [(f"expected.{job}", row) for _, t in inner for job, row in t.items()]
            for where, keys in inner:
                for key in keys if isinstance(keys, dict) else ():
                    if key in cls.model_fields:
                        raise ValueError(explain_place(key, where))
        return data

    @field_validator(*OPTIONS, mode="before")
    @classmethod
    def refuse_option_names(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a value that says its own option once more, `hint = "--hint=nomultithread"`."""
        rules = value if isinstance(value, list) else [{"use": value}]
        for text in (rule.get("use") for rule in rules if isinstance(rule, dict)):
            if isinstance(text, str):
                option, equals, rest = text.partition("=")
                names = {info.field_name, info.field_name.replace("_", "-")}
                if text.startswith("-") or (equals and option in names):
                    rest = rest or text.lstrip("-").partition(" ")[2] or text.lstrip("-")
                    raise ValueError(f"write the value alone, without its option: {show(rest)}")
        return value

    @field_validator("srun")
    @classmethod
    def refuse_options_of_srun(cls, value: str) -> str:
        """Refuse `srun = "srun --mpi=none"`: it would be the name of one program."""
        command, space, options = value.partition(" -")
        if space:
            words = show([f"-{word}" for word in options.split(" -")])
            raise ValueError(
                f"its options stand apart: srun = {show(command)}, srun_args = {words}"
            )
        return value

    @field_validator("setup", "step_setup")
    @classmethod
    def refuse_directives(cls, value: list[str]) -> list[str]:
        """Refuse a directive below "Software", where it is a comment."""
        for line in value:
            if line.lstrip().startswith("#SBATCH"):
                option = line.split("#SBATCH")[1].strip()
                raise ValueError(
                    f"a directive is no shell line: write {show(option)} as its field, "
                    "or into extra_sbatch"
                )
        return value

    @field_validator("env", mode="before")
    @classmethod
    def refuse_variable_names(cls, value: Any) -> Any:
        """Refuse `NAME = "NAME=value"` below [env]."""
        for name, text in value.items() if isinstance(value, dict) else ():
            for start in (f"{name}=", f"export {name}="):
                if isinstance(text, str) and text.startswith(start):
                    text = show(text.removeprefix(start))
                    raise ValueError(f"write the value alone: {name} = {text}")
        return value

    @model_validator(mode="after")
    def check_rules(self) -> "Cluster":
        """Refuse a rule that can never decide: one before it holds wherever it does."""
        fields = [(field, value) for field, value in self if isinstance(value, list)]
        fields += [(f"env.{n}", value) for n, value in self.env.items() if isinstance(value, list)]
        for field, rules in fields:
            rules = [rule for rule in rules if isinstance(rule, Scales)]
            if field == "cannot_run" and any(rule.covers(Scales()) for rule in rules):
                raise ValueError(
                    "a rule of cannot_run holds at every scale, so that no job is left; give it "
                    "nodes or gpus_per_node"
                )
            for later in range(1, 0 if field in EVERY_RULE else len(rules)):
                for earlier in range(later):
                    if rules[earlier].covers(rules[later]):
                        raise ValueError(
                            f'rule {later + 1} of "{field}" never holds, since rule {earlier + 1} '
                            "does wherever it would: the first that holds wins, so the general "
                            "rule stands last"
                        )
        return self

    @model_validator(mode="after")
    def check_cpus(self) -> "Cluster":
        if self.cpus_per_gpu is not None and self.cpus_per_task is not None:
            raise ValueError("cpus_per_gpu and cpus_per_task exclude each other; keep one")
        return self

    @model_validator(mode="after")
    def check_further(self) -> "Cluster":
        """Refuse a further option that has a field, which rules and the other commands know of."""
        for field in ("extra_sbatch", "srun_args"):
            for option in (getattr(each, "use", each) for each in getattr(self, field)):
                name = name_option(option)
                if name in ("nodes", "ntasks", "ntasks-per-node") and name not in self.omit:
                    raise ValueError(
                        f"{field} has {option}, but how many nodes and tasks a job has is the "
                        "matrix's and the launcher's; leave it out"
                    )
                if option == "--exclusive" and field == "extra_sbatch":
                    raise ValueError("extra_sbatch has --exclusive; write exclusive = true")
                if field == "srun_args" or name.replace("-", "_") not in WITH_FIELD:
                    continue
                value = option.removeprefix("--").partition("=")[2] or option[2:]
                value = value if value.isdigit() and name != "mem" else show(value)
                raise ValueError(
                    f"extra_sbatch has {option}; write {name.replace('-', '_')} = {value}"
                )
        return self

    @model_validator(mode="after")
    def check_starter(self) -> "Cluster":
        """Refuse what would not be used: a starter stands in place of srun and all its options."""
        if self.starter is None:
            if self.node_rank:
                raise ValueError("node_rank is a starter's; srun numbers the nodes itself")
            return self
        unused = [field for field in ("srun", "srun_args") if field in self.model_fields_set]
        unused += ['gpu_request = ["srun"]'] if "srun" in self.gpu_request else []
        unused += [f'omit = ["{name}"]' for name in self.omit if name in ON_SRUN[2:]]
        if isinstance(self.container, Container) and self.container.runtime in STEP_RUNTIMES:
            unused.append(f'runtime = "{self.container.runtime}", which is an option of srun,')
        launchers = self.launcher if isinstance(self.launcher, list) else [self.launcher]
        if "srun" in [getattr(each, "use", each) for each in launchers]:
            unused.append('launcher = "srun"')
        if unused:
            raise ValueError(
                f"starter stands in place of srun, so {unused[0]} would not be used; "
                "write what is meant into starter, or drop one of them"
            )
        return self

    @model_validator(mode="after")
    def check_ports(self) -> "Cluster":
        first, last = self.port_range
        if first >= last:
            raise ValueError(f"port_range = [{first}, {last}] must rise")
        return self


def name_option(option: str) -> str:
    """`--time=00:30:00` and `-t30` -> `time`."""
    if not option.startswith("--"):
        return SHORT.get(option[1:2], option[:2])
    name = option.removeprefix("--").partition("=")[0]
    return "ntasks-per-node" if name == "tasks-per-node" else name


def explain_place(key: str, table: str) -> str:
    """Say that a field of the profile stands below a [table]."""
    place = "move it above the first [table]"
    return f'"{key}" is a field of the profile, not a key of [{table}]: {place}'


def choose(value: Value | list | None, nodes: int, gpus_per_node: int) -> Value | None:
    """The value of a field at one scale: fixed, or that of the first rule that holds, or None."""
    if not isinstance(value, list):
        return value
    return next((rule.use for rule in value if rule.hold(nodes, gpus_per_node)), None)


def choose_words(words: list, nodes: int, gpus_per_node: int) -> list[str]:
    """The options of a list at one scale: those without a rule, and those whose rule holds."""
    chosen = [
        word if isinstance(word, str) else choose([word], nodes, gpus_per_node) for word in words
    ]
    return [word for word in chosen if word is not None]


def load_cluster(name_or_file: str, folder: Path) -> Cluster:
    """Load the profile `name_or_file`: a name in `folder` (templates/clusters) or a path to a file.

    What is personal (account, reservation, paths) may lie in NAME.local.toml beside it, which git
    ignores. Raises UserError naming the nearest profile when there is none of that name.
    """
    path, shown = find_profile(name_or_file, folder)
    facts = read_toml(path, shown)
    local = path.with_name(f"{path.stem}.local.toml")
    shown_local = name_local(shown)
    mine = read_toml(local, shown_local) if local.is_file() else {}
    if foreign := sorted(set(mine) - LOCAL_KEYS):
        allowed = ", ".join(sorted(LOCAL_KEYS))
        raise UserError(f'{shown_local}: "{foreign[0]}" is not a personal key; known: {allowed}')
    cluster = parse_model(facts, Cluster, shown)
    if mine:  # what is wrong only now is wrong in this file
        cluster = parse_model(merge_toml(facts, mine), Cluster, shown_local)
    if cluster.name != path.stem:
        raise UserError(f'{shown}: name = "{cluster.name}" must be "{path.stem}", as the file')
    cluster._shown = shown
    return cluster


def name_local(shown: str) -> str:
    """Name the file of what is personal, beside the profile `shown`."""
    return f"{shown.removesuffix('.toml')}.local.toml"


def find_profile(name_or_file: str, folder: Path) -> tuple[Path, str]:
    """Find a profile; returns its path, and how messages name it. UserError says what is meant."""
    if not name_or_file.isprintable():  # it becomes part of each script's header
        raise UserError(f"the profile {name_or_file!r} has a control character in its path")
    known = sorted(file.stem for file in folder.glob("*.toml") if not file.stem.endswith(".local"))
    path = Path(name_or_file)
    if not name_or_file.endswith(".toml"):
        inside = folder / f"{name_or_file}.toml"
        if name_or_file in known:
            return inside, f"templates/clusters/{name_or_file}.toml"
        if Path(f"{path}.toml").is_file():
            raise UserError(f'no cluster "{path}": a path ends in .toml; did you mean {path}.toml?')
        if path.is_file():
            raise UserError(f'no cluster "{path}": a profile\'s file is named NAME.toml')
        hint = name_nearest(path.name, known)
        raise UserError(f'no cluster "{name_or_file}" in templates/clusters; {hint}')
    if path.name.endswith(".local.toml"):
        whole = path.name.removesuffix(".local.toml")
        raise UserError(f"{path} is laid over {whole}.toml by itself; give {whole}")
    if not path.is_file() and path.stem in known:
        raise UserError(f'no file {path}; did you mean "{path.stem}", of templates/clusters?')
    return path, name_or_file
