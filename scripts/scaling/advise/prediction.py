"""Predict efficiency from one measured GPU: an alpha-beta model of the gradients' all-reduce.

alpha: latency of a message in s; beta: 1 / bandwidth. A ring of p sends 2 (p - 1) messages of
n / p bytes (Patarasuk and Yuan, 2009), a double binary tree is 2 log2 p messages deep and passes
2 n bytes (Sanders, Speck and Traff, 2009). Two bounds: nothing is hidden, or the backward pass
hides all it can.
"""

from dataclasses import dataclass
from math import ceil, log2

from common.errors import UserError
from scaling.runs import Study
from scaling.tables.table import Table, say, show

BACKWARD_SHARE = 2 / 3  # of a step: two of the three matrix products of each layer
SCALES = tuple(2**power for power in range(13))  # 1 to 4,096


@dataclass(frozen=True)
class Link:
    """One direction of a GPU's link: bytes/s, and seconds per message."""

    bandwidth: float
    latency_s: float


@dataclass(frozen=True)
class Machine:
    """GPUs of a node share `inside`; a ring or tree over several nodes goes at `between`'s pace."""

    gpus_per_node: int
    inside: Link
    between: Link

    def link(self, gpus: int) -> Link:
        return self.inside if gpus <= self.gpus_per_node else self.between


def predict_ring_s(gpus: int, gradient_bytes: float, link: Link) -> float:
    """Return seconds of a ring all-reduce: 2 (p - 1) (alpha + n / p beta); 0 for one GPU."""
    return 2 * (gpus - 1) * (link.latency_s + gradient_bytes / gpus / link.bandwidth)


def predict_tree_s(gpus: int, gradient_bytes: float, link: Link) -> float:
    """Return seconds of a pipelined double binary tree: 2 log2 p alpha + 2 n beta."""
    if gpus == 1:
        return 0.0
    return 2 * ceil(log2(gpus)) * link.latency_s + 2 * gradient_bytes / link.bandwidth


def predict_efficiency(step_s: float, comm_s: float, hidden_s: float = 0.0) -> float:
    """Return step / (step + exposed communication), 0 to 1."""
    return step_s / (step_s + max(0.0, comm_s - hidden_s))


def make_prediction(
    study: Study | None, step_s: float, gradient_bytes: float, machine: Machine
) -> Table:
    """Return predicted efficiencies from 1 to 4,096 GPUs, beside what `study` measured.

    Raises UserError for a step time, size or link that is not above 0.
    """
    links = (machine.inside, machine.between)
    figures = (step_s, gradient_bytes, *(link.bandwidth for link in links))
    if min(figures) <= 0 or min(link.latency_s for link in links) < 0:
        raise UserError(
            "step time, gradient bytes and bandwidth must be above 0, latency not below"
        )
    measured = {}
    if study and study.baseline.gpus == 1:
        known = study.scales.dropna(subset="efficiency_pct").drop_duplicates("gpus")
        measured = dict(zip(known["gpus"].astype(int), known["efficiency_pct"], strict=True))
    rows = []
    for gpus in sorted({*SCALES, *measured}):
        row = {"gpus": say(gpus)}
        for name, predict_s in (("ring", predict_ring_s), ("tree", predict_tree_s)):
            comm_s = predict_s(gpus, gradient_bytes, machine.link(gpus))
            row[f"{name}_ms"] = show(comm_s * 1000, 3)
            for hidden, share in (("none", 0.0), ("all", BACKWARD_SHARE)):
                pct = predict_efficiency(step_s, comm_s, share * step_s) * 100
                row[f"{name}_{hidden}_pct"] = show(pct, 1)
        rows.append(row | {"measured_pct": show(measured.get(gpus), 1, why="not measured")})
    headers = {
        "gpus": "GPUs",
        "ring_ms": "Ring (ms)",
        "ring_none_pct": "Ring, nothing hidden (%)",
        "ring_all_pct": "Ring, hidden in backward (%)",
        "tree_ms": "Tree (ms)",
        "tree_none_pct": "Tree, nothing hidden (%)",
        "tree_all_pct": "Tree, hidden in backward (%)",
        "measured_pct": "Measured (%)",
    }
    title = "Predicted efficiency (weak scaling, alpha-beta model)"
    definitions = _define(step_s, gradient_bytes, machine)
    return Table("prediction", title, headers, rows, definitions)


def _define(step_s: float, gradient_bytes: float, machine: Machine) -> tuple[str, ...]:
    inside, between = (
        f"{link.bandwidth / 1e9:.4g} GB/s, {link.latency_s * 1e6:.4g} us"
        for link in (machine.inside, machine.between)
    )
    return (
        f"A prediction, not a measurement: step {step_s * 1000:.4g} ms on one GPU, "
        f"{gradient_bytes / 1e6:.4g} MB of gradients; up to {machine.gpus_per_node} GPUs over "
        f"{inside}, beyond over {between}.",
        "Ring: 2 (p - 1) (latency + bytes / p / bandwidth). Tree: 2 log2 p latency + 2 bytes / "
        "bandwidth. Efficiency: step / (step + communication that is not hidden); at most the "
        "backward pass, 2/3 of a step, hides any.",
        "Not in it: data loading, stragglers, other jobs on the network, a smaller batch per GPU.",
    )


def find_step_s(study: Study) -> float:
    """Return the seconds of a step on one GPU, as measured.

    From the metrics file, else batch / throughput where both count samples. Raises UserError
    when neither is there.
    """
    one = study.scales[study.scales["gpus"] == 1]
    if one.empty:
        raise UserError("no run on one GPU to take the step time from; give it as --step-ms X")
    latest = one["latest"].iloc[0]
    run, batch = study.runs.loc[latest], study.settings(latest).get("global_batch_size")
    if run.step_s > 0:
        return float(run.step_s)
    counts_samples = study.noun != "tokens" and run.throughput_per_s > 0
    if isinstance(batch, int) and batch > 0 and counts_samples:
        return float(batch / run.throughput_per_s)
    raise UserError(f"job {run['name']} does not say how long a step took; give it as --step-ms X")
