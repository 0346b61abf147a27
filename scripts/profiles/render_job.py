"""Turn one job on one cluster into the text of its job script."""

import re
import shlex
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from common.errors import UserError
from profiles.cluster import Cluster, choose, choose_words
from profiles.container import fill_lines, format_prefix, list_srun_args, pass_variables
from profiles.directives import list_directives, list_step_options, refuse_twice
from profiles.matrix import Job

NSYS = 'bash "$REPO_DIR/scripts/nsys.sh"'  # the first rank of a node below nsys
NODE = 'bash "$REPO_DIR/scripts/node.sh"'  # runs run_on_node


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

    `true` becomes a bare flag and `false` nothing.
    """
    words = [
        f"--{name}" if value is True else shlex.quote(f"--{name}={value}")
        for name, value in job.args.items()
        if value is not False
    ]
    return fill_lines(words, 84) if words else []


def format_program(job: Job, workers: str | None) -> str:
    """Format what each process runs, with its options: a word that torchrun or bash takes.

    torchrun starts a script, a module (--module) or, with --no-python, any other command.
    """
    words = shlex.split(job.command)
    is_torchrun = job.launcher == "torchrun"
    if job.trainer:
        folder = "scripts/" if job.is_own else ""
        script = f'"$REPO_DIR/{folder}{job.trainer}"'
        script = job.trainer if job.trainer.startswith("/") else script
        parts = [script if is_torchrun and not job.profiler else f"python {script}"]
    elif job.profiler:
        parts = [shlex.join(words)]
    elif is_torchrun and re.fullmatch(r"python[\d.]*", words[0]):
        words = ["--module", *words[2:]] if words[1:2] == ["-m"] else words[1:]
        parts = [shlex.join(words)]
    else:
        parts = [("--no-python " if is_torchrun else "") + shlex.join(words)]
    if job.profiler:  # a script that decides what the rank runs
        parts.insert(0, ("--no-python " if is_torchrun else "") + NSYS)
    if workers and job.is_own:
        parts.append(f"--num-workers={workers}")
    return " \\\n    ".join([*parts, *format_options(job)])


def format_launch(job: Job, cluster: Cluster) -> str:
    """Format the command that starts run_on_node on every node, or once per GPU."""
    if cluster.starter:
        return " \\\n  ".join(fill_lines([f"launch {cluster.starter}", NODE], 90))
    own = ["--kill-on-bad-exit=1", *list_step_options(job, cluster)]
    further = choose_words(cluster.srun_args, job.nodes, job.gpus_per_node)
    refuse_twice(job, cluster, own, further, "srun_args")
    words = ["launch", shlex.quote(cluster.srun), *own, *map(shlex.quote, further)]
    words += list_srun_args(cluster.container)
    words.append(NODE)
    return " \\\n  ".join(fill_lines(words, 90))


def format_sbatch(cluster: Cluster) -> str:
    """What is typed in place of `sbatch`, with a space before it: a job names it in its advice."""
    words = cluster.submit_command
    if cluster.export:  # what stands before the command would not reach the job
        words += " --export=RUN_DIR,CHECKPOINT_DIR"
    return "" if words == "sbatch" else f" {shlex.quote(words)}"


def format_workers(job: Job) -> str | None:
    """Format the loader workers of each rank: its share of the CPUs; None when not known."""
    if job.cpus_per_task is None or "num-workers" in job.args:
        return None
    if job.launcher == "srun":
        return '"$SLURM_CPUS_PER_TASK"'
    return '"$((SLURM_CPUS_PER_TASK / GPUS_PER_NODE))"'


def render_job(job: Job, cluster: Cluster, environment: Environment, command: str) -> str:
    """Render the job script of `job`. `command` renders the same file again; the header shows it.

    Raises UserError naming the template when it uses a name that does not exist.
    """
    template = f"{job.template}.slurm.j2"
    scale = (job.nodes, job.gpus_per_node)
    try:
        return environment.get_template(template).render(
            job=job,
            cluster=cluster,
            command=command,
            directives=list_directives(job, cluster),
            sbatch=format_sbatch(cluster),
            launch=format_launch(job, cluster),
            passed=pass_variables(
                cluster.container, cluster.env, [*cluster.setup, *cluster.step_setup]
            ),
            container=format_prefix(cluster.container, cluster.accelerator),
            program=format_program(job, format_workers(job)),
            env={name: choose(value, *scale) for name, value in cluster.env.items()},
            data_dir=cluster.data_dir.get(job.workload),
            repo_dir="/".join([".."] * (len(PurePosixPath(job.folder).parts) + 1)),
        )
    except TemplateError as error:
        raise UserError(f"templates/{template}: {error}") from None
