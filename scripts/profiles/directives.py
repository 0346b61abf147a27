"""The #SBATCH lines of one job on one cluster, and what goes to srun instead of being one.

All dialects of asking for GPUs are here.
"""

from common.errors import UserError
from profiles.cluster import ON_SRUN, Cluster, choose, choose_words, name_option
from profiles.matrix import Job

Line = tuple[str, str]  # the option, and what to say of it at the end of its line ("" = nothing)
# Of each family Slurm takes one; of any other option, the last.
FAMILIES = (
    {"mem", "mem-per-gpu", "mem-per-cpu"},
    {"cpus-per-task", "cpus-per-gpu"},
    {"exclusive", "oversubscribe"},
    {"requeue", "no-requeue"},
    {"gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "gres=gpu"},
)


def list_directives(job: Job, cluster: Cluster) -> list[str]:
    """List what follows `#SBATCH ` on each line, comments aligned.

    Raises UserError when an option stands there twice, which Slurm would not say.
    """
    lines = [line for line in ask(job, cluster) if name_option(line[0]) not in cluster.omit]
    further = choose_words(cluster.extra_sbatch, job.nodes, job.gpus_per_node)
    refuse_twice(job, cluster, [option for option, _ in lines], further, "extra_sbatch")
    lines = add_further(lines, further)
    width = max((len(option) for option, comment in lines if comment), default=0)
    return [f"{option:<{width}}  # {text}" if text else option for option, text in lines]


def list_step_options(job: Job, cluster: Cluster) -> list[str]:
    """List what srun is told about sizes: what is no directive here, and what it does not inherit.

    Words for a shell, to which `$SLURM_…` means what Slurm granted.
    """
    moved = [
        option
        for option, _ in ask(job, cluster)
        if (name := name_option(option)) in cluster.omit
        and name in ON_SRUN
        and name != "cpus-per-task"
    ]
    if {"nodes", "ntasks-per-node"} <= set(cluster.omit):  # else all tasks may be on one node
        moved.insert(0, f"--nodes={job.nodes}")
    if job.cpus_per_task:  # srun does not inherit it
        typed = "cpus-per-task" in cluster.omit or shares_node(job, cluster)
        granted = job.cpus_per_task if typed else '"$SLURM_CPUS_PER_TASK"'
        moved.append(f"--cpus-per-task={granted}")
    if "srun" in cluster.gpu_request:
        moved.append(f"--gres=gpu:{format_type(cluster)}{job.gpus_per_node}")
    return moved


def shares_node(job: Job, cluster: Cluster) -> bool:
    """Say whether srun alone starts several tasks on a node, which sbatch counts as one.

    Told of all tasks without a number per node, Slurm may place 3 and 1 of them: that was seen.
    """
    omitted = "ntasks-per-node" in cluster.omit and "nodes" not in cluster.omit
    return omitted and job.tasks_per_node > 1


def ask(job: Job, cluster: Cluster) -> list[Line]:
    """List all that the profile's own fields ask for, whether or not it is a directive here."""
    return [
        (f"--job-name={job.name}", ""),
        ("--output=log/%x_%j.out", "log/ must be there before sbatch: it is committed"),
        ("--open-mode=append", "a requeued attempt continues the same log"),
        (f"--time={job.time}", ""),
        *ask_requeue(job),
        *request_nodes(job, cluster),
        *request_gpus(job, cluster),
        *request_cpus(job, cluster),
        *choose_queue(job, cluster),
        *([(f"--export={cluster.export}", "")] if cluster.export else []),
    ]


def add_further(lines: list[Line], further: list[str]) -> list[Line]:
    """Add the site's own directives. Slurm takes the last `--gres`: other kinds join the GPUs'."""
    lines = list(lines)
    for option in further:
        kinds = option.removeprefix("--gres=")
        gres = next((n for n, (old, _) in enumerate(lines) if name_option(old) == "gres"), None)
        if kinds != option and gres is not None and "gpu" not in kinds:
            lines[gres] = (f"{lines[gres][0]},{kinds}", lines[gres][1])
        else:
            lines.append((option, ""))
    return lines


def refuse_twice(
    job: Job, cluster: Cluster, ours: list[str], further: list[str], field: str
) -> None:
    """Refuse further options of which Slurm would take one, and pass over the other of `ours`."""
    scale = (job.nodes, job.gpus_per_node)
    where = f"for {job.nodes} nodes x {job.gpus_per_node} GPUs"
    if choose(cluster.mem, *scale) and choose(cluster.mem_per_gpu, *scale):
        raise UserError(
            f"{cluster.shown}: mem and mem_per_gpu exclude each other, and both hold {where}; "
            "keep one"
        )
    seen = list(ours)
    for option in further:
        other = next((each for each in seen if exclude_each_other(each, option)), None)
        if other is not None:
            raise UserError(
                f"{cluster.shown}: {where} {other} is there already, and {field} has {option}; "
                "keep one"
            )
        seen.append(option)


def exclude_each_other(one: str, other: str) -> bool:
    """Say whether Slurm takes one of two options at most."""
    names = {
        "gres=gpu" if each.startswith("--gres=gpu") else name_option(each) for each in (one, other)
    }
    if names == {"gres=gpu", "gres"}:  # another kind of resource, which joins the GPUs
        return False
    return len(names) == 1 or any(names <= family for family in FAMILIES)


def ask_requeue(job: Job) -> list[Line]:
    """A signal in good time before the limit, and leave to queue the job again after it."""
    if job.requeue_margin_s is None:
        return []
    signal = f"--signal=USR1@{job.requeue_margin_s}"
    return [(signal, "s before the limit: save; the next attempt goes on"), ("--requeue", "")]


def request_nodes(job: Job, cluster: Cluster) -> list[Line]:
    """Nodes and tasks: one launcher per node, which starts a process per GPU, or a task per GPU."""
    comment = "one launcher per node; torchrun starts one process per GPU"
    if job.launcher == "srun":
        comment = "one task per GPU"
    lines = [(f"--nodes={job.nodes}", "")]
    if "nodes" in cluster.omit:  # then the number of tasks says how many nodes
        lines.append((f"--ntasks={job.nodes * job.tasks_per_node}", ""))
    return [*lines, (f"--ntasks-per-node={job.tasks_per_node}", comment)]


def request_gpus(job: Job, cluster: Cluster) -> list[Line]:
    """GPUs, in each form that the site wants in the directives."""
    kind = format_type(cluster)
    forms = {
        "gpus": (f"--gpus={kind}{job.world_size}", "in all"),
        "gpus-per-node": (f"--gpus-per-node={kind}{job.gpus_per_node}", ""),
        "gres": (f"--gres=gpu:{kind}{job.gpus_per_node}", "per node"),
        "gpus-per-task": (f"--gpus-per-task={kind}{job.gpus_per_node // job.tasks_per_node}", ""),
    }
    wanted = [form for form in cluster.gpu_request if form in forms]
    if (
        "gpus-per-task" in wanted
        and shares_node(job, cluster)
        and "gpus-per-task" not in cluster.omit
    ):
        raise UserError(
            f'{cluster.shown}: with omit = ["ntasks-per-node"] gpu_request = ["gpus-per-task"] '
            'asks for one GPU per node; write gpu_request = ["gres"]'
        )
    part = job.nodes > 1 and job.gpus_per_node < cluster.gpus_per_node
    if wanted == ["gpus"] and part:  # in all alone, nodes that others use may give 3 and 1
        wanted.append("gpus-per-node")
    return [forms[form] for form in wanted]


def format_type(cluster: Cluster) -> str:
    """The GPU's type before its number, as in `a100:4`, or nothing."""
    return f"{cluster.gpu_type}:" if cluster.gpu_type else ""


def request_cpus(job: Job, cluster: Cluster) -> list[Line]:
    """CPUs of each task, and memory."""
    lines: list[Line] = []
    if job.cpus_per_task:
        each = job.cpus_per_task * job.tasks_per_node // job.gpus_per_node
        comment = "" if cluster.cpus_per_task else f"{each} per GPU, to load data"
        tasks = job.tasks_per_node if shares_node(job, cluster) else 1
        lines.append((f"--cpus-per-task={job.cpus_per_task * tasks}", comment))
    if cluster.hint:
        lines.append((f"--hint={cluster.hint}", ""))
    if cluster.threads_per_core:
        lines.append((f"--threads-per-core={cluster.threads_per_core}", ""))
    mem = choose(cluster.mem, job.nodes, job.gpus_per_node)
    if mem is not None:
        lines.append((f"--mem={mem}", "all of a node's" if mem == "0" else "per node"))
    mem_per_gpu = choose(cluster.mem_per_gpu, job.nodes, job.gpus_per_node)
    if mem_per_gpu is not None:
        lines.append((f"--mem-per-gpu={mem_per_gpu}", ""))
    return lines


def choose_queue(job: Job, cluster: Cluster) -> list[Line]:
    """Who pays, and where the job waits."""
    lines = []
    for name in ("clusters", "partition", "qos", "account", "constraint", "reservation"):
        value = choose(getattr(cluster, name), job.nodes, job.gpus_per_node)
        if value is not None:
            lines.append((f"--{name}={value}", ""))
    if choose(cluster.exclusive, job.nodes, job.gpus_per_node):
        lines.append(("--exclusive", "no other job on these nodes"))
    return lines
