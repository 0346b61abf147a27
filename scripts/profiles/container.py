"""A container around the trainer: which runtime, which image, and what it sees of the node."""

import shlex
from typing import Annotated, Literal

from pydantic import Field

from profiles.toml_model import Strict, Text, Word

# A folder that the container sees: /data, or /host/path:/path/inside, as each runtime takes it.
Bind = Annotated[str, Field(pattern=r"^/[^:\s,]*(:/[^:\s,]*)?(:r[ow])?$")]
GPU_OPTION = {"nvidia": ["--nv"], "amd": ["--rocm"], "none": []}


class Container(Strict):
    """How a node's processes run in an image. `$HOME` is there only if the runtime brings it."""

    runtime: Literal["apptainer", "singularity", "podman-hpc", "shifter", "pyxis"]
    image: Text = Field(description="a file, or a name that the runtime knows")
    binds: list[Bind] = Field([], description="folders of the node: /data, or /data:/inside")
    args: list[Word] = Field([], description="for the runtime; with pyxis for srun")


def format_prefix(container: str | Container | None, accelerator: str) -> str:
    """Format what stands before `torchrun` or `python` in the step, with a space at its end.

    A text is shell, and stays as it is. pyxis wraps the whole step, by arguments of srun.
    """
    if container is None or isinstance(container, str):
        return f"{container} " if container else ""
    if container.runtime == "pyxis":
        return ""
    folders = [*map(add_target, container.binds)]
    gpu = GPU_OPTION[accelerator]
    words = {
        "apptainer": ["apptainer", "exec", *gpu, *[f"--bind={each}" for each in container.binds]],
        "singularity": ["singularity", "exec", *gpu, *[f"--bind={e}" for e in container.binds]],
        "shifter": ["shifter", f"--image={container.image}", *[f"--volume={e}" for e in folders]],
        # podman brings neither the job's variables nor its network by itself.
        "podman-hpc": ["podman-hpc", "run", "--rm", *["--gpu"] * bool(gpu), "--env-host",
                       "--net=host", "--ipc=host", *[f"--volume={each}" for each in folders]],
    }[container.runtime]  # fmt: skip
    words += container.args
    if container.runtime != "shifter":
        words.append(container.image)
    return shlex.join(words) + " "


def list_srun_args(container: str | Container | None) -> list[str]:
    """List what srun is asked for besides, where its plug-in pyxis makes the container."""
    if not isinstance(container, Container) or container.runtime != "pyxis":
        return []
    mounts = ",".join(map(add_target, container.binds))
    image = [f"--container-image={container.image}"]
    return image + [f"--container-mounts={mounts}"] * bool(mounts) + container.args


def add_target(bind: str) -> str:
    """Write `/data` as `/data:/data`, for runtimes that want both sides."""
    return bind if ":" in bind else f"{bind}:{bind}"
