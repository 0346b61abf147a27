"""A container around the trainer: which runtime, which image, and what it sees of the node."""

import re
import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, model_validator

from profiles.toml_model import Strict, Text, Word, shaped

_VARIABLE = r"\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\}"
_SIDE = rf"(/|{_VARIABLE})([^:\s,$`\"\\]|{_VARIABLE})*"
# A folder that the container sees: /data, or /host/path:/path/inside, as each runtime takes it.
# It may name variables of the node: $TMPDIR:/scratch.
Bind = shaped(
    rf"^{_SIDE}(:{_SIDE})?(:r[ow])?$", 'a folder of the node, "/data", "/data:/inside" or "$TMPDIR"'
)
GPU_OPTION = {"nvidia": ["--nv"], "amd": ["--rocm"], "none": []}
STEP_RUNTIMES = ("pyxis", "edf", "uenv")  # srun makes the container, of the whole step
# Options of apptainer and singularity that drop the job's variables.
CLEAN = re.compile(r"(?:^|\s)(?:--cleanenv|--containall|-[a-zA-Z]*[eC][a-zA-Z]*)(?=[\s=]|$)")


class Container(Strict):
    """How a node's processes run in an image. `$HOME` is there only if the runtime brings it."""

    runtime: Literal["apptainer", "singularity", "podman-hpc", "shifter", "pyxis", "edf", "uenv"]
    image: Text = Field(description="a file, or a name that the runtime knows")
    binds: list[Bind] = Field([], description="folders of the node: /data, or /data:/inside")
    args: list[Word] = Field([], description="for the runtime; with pyxis, edf and uenv for srun")

    @model_validator(mode="after")
    def check_runtime(self) -> "Container":
        if self.binds and self.runtime in ("edf", "uenv"):
            raise ValueError(
                f'runtime = "{self.runtime}" takes no binds: '
                + (
                    "the file that image names has its mounts"
                    if self.runtime == "edf"
                    else "a uenv sees the node's own folders"
                )
            )
        if self.runtime == "shifter" and "--clearenv" in self.args:
            raise ValueError("--clearenv drops what the job exports; leave it out")
        return self


def format_prefix(container: str | Container | None, accelerator: str) -> str:
    """Format what stands before `torchrun` or `python` in the step, with a space at its end.

    A text is shell, and stays as it is. pyxis, edf and uenv wrap the whole step: see
    `list_srun_args`.
    """
    if container is None or isinstance(container, str):
        return f"{container} " if container else ""
    if container.runtime in STEP_RUNTIMES:
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
    return " \\\n    ".join(fill_lines([*map(quote_variables, words)], 76)) + " "


def fill_lines(words: list[str], columns: int) -> list[str]:
    """Join words with spaces to lines of at most so many columns, if the words are no longer."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= columns:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def quote_variables(word: str) -> str:
    """Quote a word for the shell. In a bind a variable stays one; all else means itself."""
    is_bind = word.startswith(("--bind=", "--volume=", "--container-mounts="))
    return f'"{word}"' if is_bind and "$" in word else shlex.quote(word)


def list_srun_args(container: str | Container | None) -> list[str]:
    """List the words, quoted, that srun gets where a plug-in of its own makes the container."""
    if not isinstance(container, Container) or container.runtime not in STEP_RUNTIMES:
        return []
    mounts = ",".join(map(add_target, container.binds))
    option = {"pyxis": "container-image", "edf": "environment", "uenv": "uenv"}[container.runtime]
    words = [f"--{option}={container.image}"]
    words += [f"--container-mounts={mounts}"] * bool(mounts) + container.args
    return [*map(quote_variables, words)]


def pass_variables(container: str | Container | None, env: Iterable[str], lines: list[str]) -> str:
    """Format the line that hands a container by name what it was told to drop; "" for no need.

    `env` names the profile's own variables, and `lines` of its shell export more. What every job
    needs, scripts/node.sh knows.
    """
    if isinstance(container, Container):
        runtime, words = container.runtime, " ".join(container.args)
    else:
        runtime, _, words = (container or "").partition(" ")
        runtime = PurePosixPath(runtime).name
    if runtime not in ("apptainer", "singularity") or not CLEAN.search(words):
        return ""
    exported = [name for line in lines for name in re.findall(r"\bexport (\w+)=", line)]
    names = dict.fromkeys((f"{runtime.upper()}ENV_", *env, *exported))
    return " \\\n    ".join(fill_lines(["pass_by_name", *names], 80))


def add_target(bind: str) -> str:
    """Write `/data` as `/data:/data`, for runtimes that want both sides."""
    return bind if ":" in bind else f"{bind}:{bind}"
