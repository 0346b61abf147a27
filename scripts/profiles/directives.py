"""The #SBATCH lines of one job on one cluster. All dialects of asking for GPUs are here."""

from profiles.cluster import Cluster, choose
from profiles.matrix import Job

Line = tuple[str, str]  # the option, and what to say of it at the end of its line ("" = nothing)


def list_directives(job: Job, cluster: Cluster) -> list[str]:
    """List what follows `#SBATCH ` on each line, comments aligned."""
    lines: list[Line] = [
        (f"--job-name={job.name}", ""),
        ("--output=log/%x_%j.out", "log/ must be there before sbatch: it is committed"),
        ("--open-mode=append", "a requeued attempt continues the same log"),
        (f"--time={job.time}", ""),
        *ask_requeue(job),
        *request_nodes(job, cluster),
        *request_gpus(job, cluster),
        *request_cpus(job, cluster),
        *choose_queue(job, cluster),
        *((option, "") for option in cluster.extra_sbatch),
    ]
    lines = [line for line in lines if name_option(line[0]) not in cluster.omit]
    width = max((len(option) for option, comment in lines if comment), default=0)
    return [f"{option:<{width}}  # {text}" if text else option for option, text in lines]


def name_option(option: str) -> str:
    """`--time=00:30:00` -> `time`."""
    return option.removeprefix("--").partition("=")[0]


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
    lines = [(f"--ntasks-per-node={job.tasks_per_node}", comment)]
    if "nodes" in cluster.omit:  # then the number of tasks is what says how many nodes
        lines.insert(0, (f"--ntasks={job.nodes * job.tasks_per_node}", ""))
    else:
        lines.insert(0, (f"--nodes={job.nodes}", ""))
    return lines


def request_gpus(job: Job, cluster: Cluster) -> list[Line]:
    """GPUs, in each form that the site wants in the directives."""
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    forms = {
        "gpus": (f"--gpus={kind}{job.world_size}", "in all"),
        "gpus-per-node": (f"--gpus-per-node={kind}{job.gpus_per_node}", ""),
        "gres": (f"--gres=gpu:{kind}{job.gpus_per_node}", "per node"),
        "gpus-per-task": (f"--gpus-per-task={kind}{job.gpus_per_node // job.tasks_per_node}", ""),
    }
    return [forms[form] for form in cluster.gpu_request if form in forms]


def request_cpus(job: Job, cluster: Cluster) -> list[Line]:
    """CPUs of each task, and memory."""
    lines: list[Line] = []
    if job.cpus_per_task:
        each = job.cpus_per_task * job.tasks_per_node // job.gpus_per_node
        comment = "" if cluster.cpus_per_task else f"{each} per GPU, to load data"
        lines.append((f"--cpus-per-task={job.cpus_per_task}", comment))
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
    for name in ("partition", "qos", "account", "constraint", "reservation"):
        value = choose(getattr(cluster, name), job.nodes, job.gpus_per_node)
        if value is not None:
            lines.append((f"--{name}={value}", ""))
    if cluster.exclusive:
        lines.append(("--exclusive", "no other job on these nodes"))
    return lines
