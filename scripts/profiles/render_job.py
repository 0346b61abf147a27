"""Turn one job on one cluster into the text of its job script."""

import shlex
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from profiles.cluster import Cluster
from profiles.directives import list_directives
from profiles.matrix import Job
from profiles.toml_model import ProfileError

# What nvidia-smi is asked for, in two lines of the script (see nvidia-smi --help-query-gpu).
GPU_FIELDS = (
    "timestamp,index,name,memory.used,memory.total,utilization.gpu",
    "power.draw,temperature.gpu,clocks.sm,clocks_throttle_reasons.active,uuid",
)


def make_environment(templates: Path) -> Environment:
    """Make the Jinja environment; load it once, since making one costs a hundred renders."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML: values pass through the filter `sh`
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    environment.filters["banner"] = draw_banner
    return environment


def draw_banner(title: str) -> str:
    """Draw the line that opens a section of a job script."""
    return f"# ---- {title} ".ljust(88, "-")


def format_options(job: Job) -> list[str]:
    """Format the trainer's options as `--name=value` words, quoted for the shell, in lines.

    `true` becomes a bare flag and `false` nothing. A line is at most 84 columns, if its words are.
    """
    words = [
        f"--{name}" if value is True else shlex.quote(f"--{name}={value}")
        for name, value in job.args.items()
        if value is not False
    ]
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 83:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def render_job(job: Job, cluster: Cluster, environment: Environment, command: str) -> str:
    """Render the job script of `job`. `command` renders the same file again; the header shows it.

    Raises ProfileError naming the template when it uses a name that does not exist.
    """
    template = f"{job.template}.slurm.j2"
    try:
        return environment.get_template(template).render(
            job=job,
            cluster=cluster,
            command=command,
            directives=list_directives(job, cluster),
            option_lines=format_options(job),
            data_dir=cluster.data_dir.get(job.workload),
            gpu_fields=GPU_FIELDS,
            repo_dir="/".join([".."] * (len(PurePosixPath(job.folder).parts) + 1)),
        )
    except TemplateError as error:
        raise ProfileError(f"templates/{template}: {error}") from None
