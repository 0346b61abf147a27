"""What a job script has to say on one cluster: the schema of templates/clusters/*.toml.

templates/clusters/README.md lists each field with the text it makes and a site that needs it.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from common.errors import UserError
from profiles.container import Container
from profiles.toml_model import (
    Argument,
    Directive,
    EnvName,
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
    read_toml,
    span_holds,
)

Launcher = Literal["torchrun", "srun"]
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

# ---- Values that depend on a job's size, and small tables ------------------------------


class Scales(Strict):
    """Conditions on a job: it must meet each one that is given. `"1-4"`, `"8+"` or `"2"`."""

    gpus_per_node: Span | None = None
    nodes: Span | None = None

    def hold(self, nodes: int, gpus_per_node: int) -> bool:
        """Say whether a job of `nodes` x `gpus_per_node` GPUs is meant."""
        return span_holds(self.nodes, nodes) and span_holds(self.gpus_per_node, gpus_per_node)


class Rule(Scales):
    """A value for some scales; the first rule that holds wins, one without conditions always."""

    use: Directive


class TimeRule(Scales):
    """A time limit for some scales."""

    use: TimeLimit


class TextRule(Scales):
    """The value of an environment variable for some scales."""

    use: Text


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

    name: Name = Field(description="the file's name without .toml")
    gpus_per_node: int = Field(ge=1, le=64, description="GPUs of the largest node")
    nodes: int | None = Field(None, ge=1, description="the most nodes a job may ask for")
    cpus_per_node: int | None = Field(None, ge=1, description="CPUs that a job can have on a node")
    cannot_run: list[Limit] = Field([], description="scales that the site forbids, with its reason")

    gpu_request: list[GpuRequest] = Field(
        ["gpus-per-node"], description="how GPUs are asked for, in this order; [] for not at all"
    )
    gpu_type: Directive | None = Field(None, description="a100 in --gres=gpu:a100:4")

    partition: Directive | list[Rule] | None = None
    qos: Directive | list[Rule] | None = None
    account: Directive | list[Rule] | None = None
    constraint: Directive | list[Rule] | None = None
    reservation: Directive | list[Rule] | None = None
    exclusive: bool = Field(False, description="--exclusive: no other job on the nodes")
    time: TimeLimit | list[TimeRule] | None = Field(None, description="instead of the matrix's")
    extra_sbatch: list[Argument] = Field([], description="further directives, unchanged")
    omit: list[Literal["nodes", "ntasks-per-node", "time", "open-mode", "signal", "requeue"]] = (
        Field([], description="directives that the site refuses or does without")
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
    srun: Text = Field("srun", description="path of srun, where modules take it off PATH")
    srun_args: list[Word] = Field([], description="for srun")
    starter: ShellLine | None = Field(None, description="a command instead of srun, such as ibrun")
    container: ShellLine | Container | None = Field(
        None, description="the command prefix inside the step, or what it is made from"
    )

    login_shell: bool = Field(False, description="#!/bin/bash -l")
    setup: list[ShellLine] = Field([], description="shell lines that activate the software")
    step_setup: list[ShellLine] = Field([], description="the same, again inside the step")
    env: dict[EnvName, Text | list[TextRule]] = Field({}, description="environment variables")
    umask: str = Field("027", pattern=r"^0[0-7]{2,3}$")

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

    @model_validator(mode="after")
    def check_cpus(self) -> "Cluster":
        if self.cpus_per_gpu is not None and self.cpus_per_task is not None:
            raise ValueError("cpus_per_gpu and cpus_per_task exclude each other; keep one")
        return self

    @model_validator(mode="after")
    def check_ports(self) -> "Cluster":
        first, last = self.port_range
        if first >= last:
            raise ValueError(f"port_range = [{first}, {last}] must rise")
        return self


def choose(value: Value | list | None, nodes: int, gpus_per_node: int) -> Value | None:
    """The value of a field at one scale: fixed, or that of the first rule that holds, or None."""
    if not isinstance(value, list):
        return value
    return next((rule.use for rule in value if rule.hold(nodes, gpus_per_node)), None)


def load_cluster(name_or_file: str, folder: Path) -> Cluster:
    """Load the profile `name_or_file`: a name in `folder` (templates/clusters) or a path to a file.

    What is personal (account, reservation, paths) may lie in NAME.local.toml beside it, which git
    ignores. Raises UserError naming the nearest profile when there is none of that name.
    """
    if not name_or_file.isprintable():  # it becomes part of each script's header
        raise UserError(f"the profile {name_or_file!r} has a control character in its path")
    if name_or_file.endswith(".toml"):
        path = Path(name_or_file)
        shown = name_or_file
    else:
        path = folder / f"{name_or_file}.toml"
        shown = f"templates/clusters/{name_or_file}.toml"
        if not path.is_file():
            known = sorted(
                file.stem for file in folder.glob("*.toml") if not file.stem.endswith(".local")
            )
            hint = name_nearest(name_or_file, known)
            raise UserError(f'no cluster "{name_or_file}" in templates/clusters; {hint}')
    facts = read_toml(path, shown)
    local = path.with_name(f"{path.stem}.local.toml")
    if local.is_file():
        shown_local = f"{shown.removesuffix('.toml')}.local.toml"
        mine = read_toml(local, shown_local)
        if foreign := sorted(set(mine) - LOCAL_KEYS):
            allowed = ", ".join(sorted(LOCAL_KEYS))
            why = f'"{foreign[0]}" is not a personal key; known: {allowed}'
            raise UserError(f"{shown_local}: {why}")
        facts = merge_toml(facts, mine)
        shown = f"{shown} with {local.name}"
    cluster = parse_model(facts, Cluster, shown)
    if cluster.name != path.stem:
        raise UserError(f'{shown}: name = "{cluster.name}" must be "{path.stem}", as the file')
    return cluster
