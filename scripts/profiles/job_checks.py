"""Can this cluster run a job of that size? What is wrong is said in one line, with the fix."""

from profiles.cluster import Cluster, choose
from profiles.toml_model import Options, ProfileError

MATRIX = "experiments/matrix.toml"


class DoesNotFit(ProfileError):
    """A job that the cluster cannot run: it is left out. `reason` says why, without advice."""

    def __init__(self, job: str, reason: str):
        super().__init__(f'job "{job}": {reason}; edit {MATRIX}')
        self.reason = reason


def check_fits(name: str, nodes: int, gpus_per_node: int, cluster: Cluster) -> None:
    """Refuse a job that the cluster is too small for, or that its site forbids."""
    if gpus_per_node > cluster.gpus_per_node:
        why = f"gpus_per_node = {gpus_per_node} exceeds gpus_per_node = {cluster.gpus_per_node}"
    elif cluster.nodes is not None and nodes > cluster.nodes:
        why = f"nodes = {nodes} exceeds nodes = {cluster.nodes}"
    else:
        limit = next((lim for lim in cluster.cannot_run if lim.hold(nodes, gpus_per_node)), None)
        if limit is None:
            return
        why = f"{nodes} nodes x {gpus_per_node} GPUs cannot run: {limit.because}; this is a limit"
    raise DoesNotFit(name, f'{why} of cluster "{cluster.name}"')


def check_template(name: str, template: str, nodes: int, gpus_per_node: int) -> None:
    """Refuse a job whose template does not fit its scale."""
    fits = {
        "baseline": (nodes, gpus_per_node) == (1, 1),
        "multi_gpu": nodes == 1 and gpus_per_node > 1,
        "multi_node": nodes > 1,
    }
    if not fits[template]:
        right = next(candidate for candidate, fit in fits.items() if fit)
        raise ProfileError(
            f'job "{name}": {nodes} x {gpus_per_node} GPUs is no job for template '
            f'"{template}"; write template = "{right}" in {MATRIX}'
        )


def count_cpus(nodes: int, gpus_per_node: int, tasks: int, cluster: Cluster) -> int | None:
    """CPUs of the job on a node; None when the profile leaves them to the site."""
    per_gpu = choose(cluster.cpus_per_gpu, nodes, gpus_per_node)
    per_task = choose(cluster.cpus_per_task, nodes, gpus_per_node)
    return per_gpu * gpus_per_node if per_gpu else per_task * tasks if per_task else None


def check_cpus(
    name: str, gpus_per_node: int, cpus: int | None, cluster: Cluster, args: Options
) -> None:
    """Refuse a job that wants more CPUs than a node has, or more loader workers than CPUs."""
    profile = f"templates/clusters/{cluster.name}.toml"
    if cpus is None:
        return
    if cluster.cpus_per_node and cpus > cluster.cpus_per_node:
        raise ProfileError(
            f'job "{name}": {gpus_per_node} GPUs take {cpus} CPUs, which exceeds '
            f"cpus_per_node = {cluster.cpus_per_node}; edit {profile}"
        )
    workers = args.get("num-workers")
    if isinstance(workers, int) and workers * gpus_per_node > cpus:
        raise ProfileError(
            f'job "{name}": {gpus_per_node} ranks x num-workers = {workers} exceeds '
            f"{cpus} CPUs; edit num-workers in {MATRIX} or the CPUs in {profile}"
        )
