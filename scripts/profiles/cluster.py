"""What a job script has to say on one cluster: the schema of templates/clusters/*.toml.

templates/clusters/README.md lists each field with the text it makes and a site that needs it.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from profiles.container import Container
from profiles.rules import (
    CountRule,
    Expected,
    Launcher,
    LauncherRule,
    Limit,
    Master,
    Rule,
    TextRule,
    TimeRule,
)
from profiles.toml_model import (
    Argument,
    Directive,
    EnvName,
    MarginS,
    Name,
    Options,
    ProfileError,
    ShellLine,
    ShellPath,
    Strict,
    Text,
    TimeLimit,
    Word,
    merge_toml,
    name_nearest,
    parse_model,
    read_toml,
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
    extra_sbatch: list[Argument] = Field([], description="further directives, as they stand")
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
    mem: Directive | list[Rule] | None = Field(None, description="--mem, memory a node")
    mem_per_gpu: Directive | list[Rule] | None = Field(None, description="--mem-per-gpu")

    launcher: Launcher | list[LauncherRule] = Field(
        "torchrun", description="one task a node with torchrun, or one task a GPU without"
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
    ignores. Raises ProfileError naming the nearest profile when there is none of that name.
    """
    if not name_or_file.isprintable():  # it becomes part of each script's header
        raise ProfileError(f"the profile {name_or_file!r} has a control character in its path")
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
            raise ProfileError(f'no cluster "{name_or_file}" in templates/clusters; {hint}')
    facts = read_toml(path, shown)
    local = path.with_name(f"{path.stem}.local.toml")
    if local.is_file():
        shown_local = f"{shown.removesuffix('.toml')}.local.toml"
        mine = read_toml(local, shown_local)
        if foreign := sorted(set(mine) - LOCAL_KEYS):
            allowed = ", ".join(sorted(LOCAL_KEYS))
            raise ProfileError(
                f'{shown_local}: "{foreign[0]}" is no personal key; known: {allowed}'
            )
        facts = merge_toml(facts, mine)
        shown = f"{shown} with {local.name}"
    cluster = parse_model(facts, Cluster, shown)
    if cluster.name != path.stem:
        raise ProfileError(f'{shown}: name = "{cluster.name}" must be "{path.stem}", as the file')
    return cluster
