"""Scaling beyond what was measured: laws fitted to it, and a prediction from one GPU.

X(p) is the throughput of p GPUs, X1 that of one (fitted as well: it was measured no better than
the others); the laws are Amdahl's (1967), Gustafson's (1988) and Gunther's USL (1993).

The prediction is an alpha-beta model of the gradients' all-reduce. alpha: latency of a message in
s; beta: 1 / bandwidth. A ring of p sends 2 (p - 1) messages of n / p bytes (Patarasuk and Yuan,
2009), a double binary tree is 2 log2 p messages deep and passes 2 n bytes (Sanders, Speck and
Traff, 2009). Two bounds: nothing is hidden, or the backward pass hides all it can.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np

from common.errors import UserError
from scaling.runs import Study
from scaling.runs.compare import quantile_t
from scaling.runs.study import count
from scaling.tables.table import Cell, Table, missing, say, show

LEAST_POINTS = 4
FARTHEST = 8  # times the largest measured; beyond it, nothing is said
PARSIMONY = 0.9  # a law with more parameters must be at least that much better


@dataclass(frozen=True)
class Law:
    """name, its parameters, and X/X1 as a function of (p, *parameters without X1)."""

    name: str
    parameters: tuple[str, ...]
    shape: Callable[..., np.ndarray]

    def log_throughput(self, p: np.ndarray | float, log_x1: float, *parameters: float):
        return log_x1 + np.log(np.maximum(self.shape(p, *parameters), 1e-12))


LAWS = (
    Law("Amdahl", ("s",), lambda p, s: p / (1 + s * (p - 1))),
    Law("Gustafson", ("s",), lambda p, s: p - s * (p - 1)),
    Law("USL", ("s", "k"), lambda p, s, k: p / (1 + s * (p - 1) + k * p * (p - 1))),
)


@dataclass(frozen=True)
class Fit:
    """A law's fit; intervals are 95 %, Student t with points - parameters degrees of freedom.

    error_pct: root mean square of the residuals in log throughput; loo_pct: of predicting each
    point from the others (leave-one-out).
    """

    law: Law
    at: np.ndarray  # log X1, then law.parameters
    covariance: np.ndarray
    points: int
    error_pct: float
    loo_pct: float

    @property
    def values(self) -> tuple[float, ...]:
        """X1, then law.parameters."""
        return (float(np.exp(self.at[0])), *self.at[1:].tolist())

    @property
    def t(self) -> float:
        return quantile_t(max(1, self.points - len(self.at)))

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Low and high of each of `values`; s and k end at 0 and 1, where the law does."""
        half = self.t * np.sqrt(np.maximum(np.diag(self.covariance), 0))
        low, high = self.at - half, self.at + half
        low[0], high[0] = np.exp(low[0]), np.exp(high[0])
        low[1:], high[1:] = np.maximum(low[1:], 0.0), np.minimum(high[1:], 1.0)
        return list(zip(low.tolist(), high.tolist(), strict=True))

    def predict(self, gpus: float) -> float:
        """Return the throughput at a number of GPUs."""
        return float(np.exp(self.law.log_throughput(float(gpus), *self.at)))

    def predict_interval(self, gpus: float) -> tuple[float, float]:
        """Return the 95 % interval of the law's value there, by the delta method."""
        from scipy.optimize import approx_fprime

        steps = np.maximum(np.abs(self.at) * 1e-6, 1e-9)
        slope = approx_fprime(self.at, lambda at: self.law.log_throughput(float(gpus), *at), steps)
        deviation = np.sqrt(max(0.0, float(slope @ self.covariance @ slope)))
        # No further than a million times: beyond that, the data say nothing.
        factor = float(np.exp(min(self.t * deviation, np.log(1e6))))
        return self.predict(gpus) / factor, self.predict(gpus) * factor

    def find_peak(self) -> float | None:
        """Return where USL's throughput is highest: sqrt((1 - s) / k); None for the others."""
        if self.law.name != "USL" or self.values[2] <= 0 or self.values[1] >= 1:
            return None
        return float(np.sqrt((1 - self.values[1]) / self.values[2]))


def fit_laws(points: Sequence[tuple[int, float]]) -> list[Fit]:
    """Return the fits to (GPUs, throughput), the better one first.

    Least squares in log throughput, so that each scale counts by its relative error. The rule:
    the law that predicts each point best from the others (leave-one-out) is the better one; USL,
    with a parameter more, must do so by 10 % or more. Raises UserError for fewer than four
    different numbers of GPUs.
    """
    counts = {gpus for gpus, _ in points}
    if len(counts) < LEAST_POINTS:
        raise UserError(
            f"{count(len(counts), 'scale')} measured: a law is fitted to {LEAST_POINTS} different "
            "numbers of GPUs or more; run more scales"
        )
    p, x = np.array(sorted(points), dtype=float).T
    fits = [_fit(law, p, np.log(x)) for law in LAWS]
    return sorted(fits, key=lambda fit: fit.loo_pct / (PARSIMONY if len(fit.values) > 2 else 1.0))


def _fit(law: Law, p: np.ndarray, log_x: np.ndarray) -> Fit:
    at, covariance = _solve(law, p, log_x)
    others = [_solve(law, np.delete(p, n), np.delete(log_x, n))[0] for n in range(len(p))]
    left_out = [law.log_throughput(*each) for each in zip(p, *np.transpose(others), strict=True)]
    error_pct, loo_pct = (
        float(np.sqrt(np.mean((log_x - found) ** 2)) * 100)
        for found in (law.log_throughput(p, *at), left_out)
    )
    return Fit(law, at, covariance, len(p), error_pct, loo_pct)


def _solve(law: Law, p: np.ndarray, log_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters (the first a logarithm) and their covariance from the residuals.

    s and k are from 0 to 1: no law here gets faster than ideal, and s near 1 makes Gustafson's X
    negative for many GPUs.
    """
    from scipy.optimize import OptimizeWarning, curve_fit  # slow to import

    n = len(law.parameters)
    start = [log_x[0] - np.log(p[0]), *(0.02, 0.0005)[:n]]
    bounds = ([-np.inf, *[0.0] * n], [np.inf, *[1.0] * n])
    exact = {"x_scale": "jac", "xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}
    with warnings.catch_warnings():
        # Leave-one-out may leave as many points as parameters: no covariance, and none is asked.
        warnings.simplefilter("ignore", OptimizeWarning)
        return curve_fit(law.log_throughput, p, log_x, start, bounds=bounds, **exact)


def list_points(study: Study) -> list[tuple[int, float]]:
    """Return (GPUs, mean throughput) of the comparable scales; one point per number of GPUs.

    Where the same number of GPUs was run on fewer and on more nodes, the fewer count.
    """
    known = study.scales[study.scales["is_compared"]].dropna(subset="throughput_per_s")
    known = known.drop_duplicates("gpus")  # smallest first, then by nodes
    return list(zip(known["gpus"].astype(int), known["throughput_per_s"], strict=True))


def make_laws(study: Study, asked: int | None = None) -> list[Table]:
    """Return the fits, and the better law beside what was measured and up to 8 times beyond.

    asked: a further number of GPUs. Raises UserError under four points, or beyond 8 times.
    """
    points = list_points(study)
    fits, largest = fit_laws(points), points[-1][0]
    if asked is not None and asked > FARTHEST * largest:
        raise UserError(
            f"{asked} GPUs are more than {FARTHEST} times the {largest} that were measured: a law "
            f"says nothing there; ask for {FARTHEST * largest} or fewer, or measure a larger scale"
        )
    return [_make_fits(study, fits), _make_curve(study, fits[0], dict(points), asked)]


def _make_fits(study: Study, fits: list[Fit]) -> Table:
    headers = {
        "law": "Law", "x1": f"X1 ({study.unit or 'per s'}), 95 %", "s": "s, 95 %", "k": "k, 95 %",
        "error_pct": "Fit error (%)", "loo_pct": "Leave-one-out error (%)",
    }  # fmt: skip
    rows = []
    for fit in fits:
        cells = {"k": missing("this law has no such parameter")}
        names = ("x1", *fit.law.parameters)
        for name, value, (low, high) in zip(names, fit.values, fit.intervals, strict=True):
            digits = 6 if name == "x1" else 4
            text = f"{value:.{digits}g} ({low:.{digits - 1}g} to {high:.{digits - 1}g})"
            cells[name] = Cell(value, text)
        rows.append({
            "law": say(fit.law.name + (" (the better)" if fit is fits[0] else "")),
            **cells,
            "error_pct": show(fit.error_pct, 2),
            "loo_pct": show(fit.loo_pct, 2),
        })  # fmt: skip
    definitions = (
        "Amdahl: X1 p / (1 + s (p - 1)). Gustafson: X1 (p - s (p - 1)). USL: X1 p / (1 + s (p - 1) "
        "+ k p (p - 1)). s: serial part; k: cost of each pair of GPUs.",
        "The better law predicts each point best from the others (leave-one-out, root mean square "
        "in log throughput); USL, with one parameter more, must win by 10 %.",
        f"Intervals: Student t with {fits[0].points} points minus the parameters; they end at 0 "
        "and 1, where the law does.",
    )
    peak = fits[0].find_peak()
    remarks = (f"USL's throughput is highest at {peak:.0f} GPUs",) if peak else ()
    return Table("laws", "Scaling laws", headers, rows, definitions, remarks)


def _make_curve(study: Study, fit: Fit, measured: dict[int, float], asked: int | None) -> Table:
    unit, largest = study.unit or "per s", max(measured)
    headers = {
        "gpus": "GPUs", "measured": f"Measured ({unit})", "law": f"{fit.law.name} ({unit})",
        "interval": "95 % of the law", "efficiency_pct": "Efficiency over X1 (%)", "kind": "Kind",
    }  # fmt: skip
    beyond = [largest * 2**n for n in range(1, FARTHEST.bit_length())]
    rows = []
    for gpus in sorted({*measured, *beyond, *([asked] if asked else [])}):
        value, (low, high) = fit.predict(gpus), fit.predict_interval(gpus)
        kind = "measured" if gpus in measured else "interpolated"
        rows.append({
            "gpus": say(gpus),
            "measured": show(measured.get(gpus), 1, why="not measured"),
            "law": show(value, 1),
            "interval": say(f"{low:.1f} to {high:.1f}"),
            "efficiency_pct": show(value / fit.values[0] / gpus * 100, 1),
            "kind": say("EXTRAPOLATED" if gpus > largest else kind),
        })  # fmt: skip
    definitions = (
        f"EXTRAPOLATED rows are beyond the {largest} GPUs that were measured, at most "
        f"{FARTHEST} times; no law knows of a slower link or a full network there.",
        study.define_throughput(),
    )
    return Table("curve", f"{fit.law.name}, the better law", headers, rows, definitions)


# ---- Prediction from one GPU --------------------------------------------------------------------

BACKWARD_SHARE = 2 / 3  # of a step: two of the three matrix products of each layer
SCALES = tuple(2**power for power in range(13))  # 1 to 4,096


@dataclass(frozen=True)
class Link:
    """One direction of a GPU's link: bytes/s, and seconds per message."""

    bandwidth: float
    latency_s: float

    def __str__(self) -> str:
        return f"{self.bandwidth / 1e9:.4g} GB/s, {self.latency_s * 1e6:.4g} us"


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
    study: Study | None, step_s: float, gradient_bytes: float, links: tuple[Link, Link],
    gpus_per_node: int,
) -> Table:  # fmt: skip
    """Return predicted efficiencies from 1 to 4,096 GPUs, beside what `study` measured.

    links: inside a node, shared by its GPUs, and between nodes; a ring or tree over several nodes
    goes at the latter's pace.
    """
    inside, between = links
    measured = {}
    if study and study.baseline.gpus == 1:
        known = study.scales.dropna(subset="efficiency_pct").drop_duplicates("gpus")
        measured = dict(zip(known["gpus"].astype(int), known["efficiency_pct"], strict=True))
    headers, rows = {"gpus": "GPUs"}, []
    for name in ("Ring", "Tree"):
        headers |= {
            f"{name.lower()}_ms": f"{name} (ms)",
            f"{name.lower()}_none_pct": f"{name}, nothing hidden (%)",
            f"{name.lower()}_all_pct": f"{name}, hidden in backward (%)",
        }
    for gpus in sorted({*SCALES, *measured}):
        row, link = {"gpus": say(gpus)}, inside if gpus <= gpus_per_node else between
        for name, predict_s in (("ring", predict_ring_s), ("tree", predict_tree_s)):
            comm_s = predict_s(gpus, gradient_bytes, link)
            row[f"{name}_ms"] = show(comm_s * 1000, 3)
            for hidden, share in (("none", 0.0), ("all", BACKWARD_SHARE)):
                pct = predict_efficiency(step_s, comm_s, share * step_s) * 100
                row[f"{name}_{hidden}_pct"] = show(pct, 1)
        rows.append(row | {"measured_pct": show(measured.get(gpus), 1, why="not measured")})
    definitions = (
        f"A prediction, not a measurement: step {step_s * 1000:.4g} ms on one GPU, "
        f"{gradient_bytes / 1e6:.4g} MB of gradients; up to {gpus_per_node} GPUs over "
        f"{inside}, beyond over {between}.",
        "Ring: 2 (p - 1) (latency + bytes / p / bandwidth). Tree: 2 log2 p latency + 2 bytes / "
        "bandwidth. Efficiency: step / (step + communication that is not hidden); at most the "
        "backward pass, 2/3 of a step, hides any.",
        "Not in it: data loading, stragglers, other jobs on the network, a smaller batch per GPU.",
    )
    title = "Predicted efficiency (weak scaling, alpha-beta model)"
    headers["measured_pct"] = "Measured (%)"
    return Table("prediction", title, headers, rows, definitions)


def find_step_s(study: Study) -> float:
    """Return the seconds of a step on one GPU, as its metrics file has it; UserError without."""
    one = study.runs.loc[study.scales.loc[study.scales["gpus"] == 1, "latest"], "step_s"]
    if not (one > 0).any():
        raise UserError("no run on one GPU says how long a step took; give it as --step-ms X")
    return float(one.iloc[0])
