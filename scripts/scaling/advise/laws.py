"""Fit scaling laws to measured throughput: Amdahl, Gustafson, Universal Scalability.

X(p) is the throughput of p GPUs, X1 that of one (fitted as well: it was measured no better than
the others). Amdahl (1967): X1 p / (1 + s (p - 1)). Gustafson (1988): X1 (p - s (p - 1)). Gunther's
USL (1993): X1 p / (1 + s (p - 1) + k p (p - 1)), where k is what each pair of GPUs costs.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from scaling.runs.compare import quantile_t
from scaling.runs.study import count

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
    """A law's fit. intervals: 95 %, Student t with points - parameters degrees of freedom.

    error_pct: root mean square of the residuals in log throughput; loo_pct: of predicting each
    point from the others (leave-one-out).
    """

    law: Law
    values: tuple[float, ...]  # X1, then law.parameters
    intervals: tuple[tuple[float, float], ...]
    covariance: np.ndarray  # of log X1 and the parameters
    points: int
    error_pct: float
    loo_pct: float

    @property
    def _at(self) -> np.ndarray:
        return np.array([np.log(self.values[0]), *self.values[1:]])

    def predict(self, gpus: float) -> float:
        """Return the throughput at a number of GPUs."""
        return float(np.exp(self.law.log_throughput(float(gpus), *self._at)))

    def predict_interval(self, gpus: float) -> tuple[float, float]:
        """Return the 95 % interval of the law's value there, by the delta method."""
        from scipy.optimize import approx_fprime

        at = self._at
        steps = np.maximum(np.abs(at) * 1e-6, 1e-9)
        slope = approx_fprime(at, lambda at: self.law.log_throughput(float(gpus), *at), steps)
        deviation = np.sqrt(max(0.0, float(slope @ self.covariance @ slope)))
        # No further than a million times: beyond that, the data say nothing.
        half = min(quantile_t(max(1, self.points - len(at))) * deviation, np.log(1e6))
        middle = self.predict(gpus)
        return middle * float(np.exp(-half)), middle * float(np.exp(half))


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
    half = quantile_t(max(1, len(p) - len(at))) * np.sqrt(np.maximum(np.diag(covariance), 0))
    # s and k end at 0 and 1, where the law does.
    low, high = np.maximum(at - half, [-np.inf, *0 * at[1:]]), at + half
    high[1:] = np.minimum(high[1:], 1.0)
    for each in (at, low, high):
        each[0] = np.exp(each[0])
    others = [np.arange(len(p)) != out for out in range(len(p))]
    fits = [_solve(law, p[kept], log_x[kept])[0] for kept in others]
    errors = log_x - law.log_throughput(p, np.log(at[0]), *at[1:])
    missed = log_x - [law.log_throughput(gpus, *fit) for gpus, fit in zip(p, fits, strict=True)]
    error_pct, loo_pct = (float(np.sqrt(np.mean(each**2)) * 100) for each in (errors, missed))
    intervals = tuple(zip(low.tolist(), high.tolist(), strict=True))
    return Fit(law, tuple(at.tolist()), intervals, covariance, len(p), error_pct, loo_pct)


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


def check_reach(gpus: int, largest: int) -> None:
    """Raise UserError for a number of GPUs that no law here is asked about."""
    if gpus > FARTHEST * largest:
        raise UserError(
            f"{gpus} GPUs are more than {FARTHEST} times the {largest} that were measured: a law "
            f"says nothing there; ask for {FARTHEST * largest} or fewer, or measure a larger scale"
        )


def find_peak(fit: Fit) -> float | None:
    """Return where USL's throughput is highest: sqrt((1 - s) / k); None for the others."""
    if fit.law.name != "USL" or fit.values[2] <= 0 or fit.values[1] >= 1:
        return None
    return float(np.sqrt((1 - fit.values[1]) / fit.values[2]))
