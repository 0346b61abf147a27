"""What a job script has to say on one cluster: the schema of templates/clusters/*.toml."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from profiles.toml_model import (
    Directive,
    EnvName,
    Name,
    Options,
    ProfileError,
    ShellLine,
    Strict,
    Text,
    name_nearest,
    read_toml,
)

GpuRequest = Literal["gpus", "gpus-per-node", "gres"]


class Cluster(Strict):
    """Facts of one cluster. Only `name` and `gpus_per_node` are required; an absent field renders
    no directive."""

    name: Name = Field(description="the file's name without .toml")
    gpus_per_node: int = Field(ge=1, le=16, description="GPUs of the largest node")
    nodes: int | None = Field(None, ge=1, description="the most nodes a job may ask for")
    cpus_per_node: int | None = Field(None, ge=1, description="CPUs a job can have on a node")

    gpu_request: list[GpuRequest] = Field(
        ["gpus-per-node"],
        description='in this order: --gpus=TOTAL, --gpus-per-node=N, --gres=gpu:N',
    )
    gpu_type: Directive | None = Field(None, description="a100 in --gres=gpu:a100:4")
    cpus_per_gpu: int | None = Field(None, ge=1, description="makes --cpus-per-task")
    mem: Directive | None = Field(None, description="--mem, memory a node")
    partition: Directive | None = None
    qos: Directive | None = None
    account: Directive | None = None
    constraint: Directive | None = None
    reservation: Directive | None = None
    omit: list[Literal["nodes", "time"]] = Field([], description="directives this site refuses")

    setup: list[ShellLine] = Field([], description="shell lines that activate the software")
    env: dict[EnvName, Text] = Field({}, description="environment variables of every job")
    umask: str = Field("027", pattern=r"^0[0-7]{2,3}$")
    data_dir: dict[Name, Text] = Field({}, description="workload = the folder of its data")
    train_args: dict[Name, Options] = Field({}, description="workload = options this site fixes")


def load_cluster(name_or_file: str, folder: Path) -> Cluster:
    """Load the profile `name_or_file`: a name in `folder` (templates/clusters) or a path to a file.

    Raises ProfileError naming the nearest profile when there is none of that name.
    """
    if name_or_file.endswith(".toml"):
        path = Path(name_or_file)
        shown = name_or_file
    else:
        path = folder / f"{name_or_file}.toml"
        shown = f"templates/clusters/{name_or_file}.toml"
        if not path.is_file():
            known = sorted(file.stem for file in folder.glob("*.toml"))
            hint = name_nearest(name_or_file, known)
            raise ProfileError(f'no cluster "{name_or_file}" in templates/clusters; {hint}')
    cluster = read_toml(path, Cluster, shown)
    if cluster.name != path.stem:
        raise ProfileError(f'{shown}: name = "{cluster.name}" must be "{path.stem}", as the file')
    return cluster
