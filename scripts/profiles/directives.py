"""The #SBATCH lines of one job on one cluster. All dialects of requesting GPUs are here."""

from profiles.cluster import Cluster
from profiles.matrix import Job

Line = tuple[str, str]  # the option, and what to say of it at the end of its line ("" = nothing)


def list_directives(job: Job, cluster: Cluster) -> list[str]:
    """List what follows `#SBATCH ` on each line, comments aligned."""
    lines: list[Line] = [
        (f"--job-name={job.name}", ""),
        ("--output=log/%x_%j.out", "log/ must be there before sbatch: it is committed"),
        ("--open-mode=append", "a requeued attempt continues the same log"),
    ]
    if "time" not in cluster.omit:
        lines.append((f"--time={job.time}", ""))
    lines += [
        *request_nodes(job, cluster),
        *request_gpus(job, cluster),
        *request_cpus(job, cluster),
        *choose_queue(cluster),
    ]
    width = max(len(option) for option, comment in lines if comment)
    return [f"{option:<{width}}  # {text}" if text else option for option, text in lines]


def request_nodes(job: Job, cluster: Cluster) -> list[Line]:
    """Nodes and tasks: one launcher a node, which starts one process a GPU."""
    tasks = ("--ntasks-per-node=1", "one launcher a node; torchrun starts a process a GPU")
    if "nodes" in cluster.omit:
        return [(f"--ntasks={job.nodes}", ""), tasks]
    return [(f"--nodes={job.nodes}", ""), tasks]


def request_gpus(job: Job, cluster: Cluster) -> list[Line]:
    """GPUs, in each form that the site wants."""
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    forms = {
        "gpus": (f"--gpus={kind}{job.world_size}", "in all"),
        "gpus-per-node": (f"--gpus-per-node={kind}{job.gpus_per_node}", ""),
        "gres": (f"--gres=gpu:{kind}{job.gpus_per_node}", "a node"),
    }
    return [forms[form] for form in cluster.gpu_request]


def request_cpus(job: Job, cluster: Cluster) -> list[Line]:
    """CPUs and memory of each launcher task."""
    lines: list[Line] = []
    if job.cpus_per_task:
        lines.append(
            (
                f"--cpus-per-task={job.cpus_per_task}",
                f"{cluster.cpus_per_gpu} a GPU, to load images",
            )
        )
    if cluster.mem:
        lines.append((f"--mem={cluster.mem}", "a node"))
    return lines


def choose_queue(cluster: Cluster) -> list[Line]:
    """Who pays, and where the job waits."""
    names = ("partition", "qos", "account", "constraint", "reservation")
    return [
        (f"--{name}={value}", "") for name in names if (value := getattr(cluster, name)) is not None
    ]
