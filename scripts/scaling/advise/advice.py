"""How many GPUs are worth asking for: what was measured, and what a fitted law adds."""

from dataclasses import dataclass
from fractions import Fraction

from common.errors import UserError
from scaling.advise.laws import Fit, check_reach, find_peak, fit_laws, list_extrapolated
from scaling.read.numbers import round_half_even
from scaling.runs.study import Scale, Study, count
from scaling.tables.cells import Cell, missing
from scaling.tables.fixed_work import (
    compute_efficiency,
    define_throughput,
    explain_no_ratio,
    list_remarks,
)
from scaling.tables.grid import ROUNDING, Grid, say, show

DEFAULT_TARGET_PCT = 75.0


@dataclass(frozen=True)
class Advice:
    """The largest scale above a target efficiency (None: no comparable scale), in words."""

    scale: Scale | None
    text: str


def advise(study: Study, target_pct: float = DEFAULT_TARGET_PCT) -> Advice:
    """Return the largest measured scale whose throughput efficiency is above the target."""
    known = [
        (scale, efficiency * 100)
        for scale in study.scales
        if study.is_compared(scale)
        and (efficiency := compute_efficiency(study, scale, "throughput")) is not None
    ]
    above = [(scale, pct) for scale, pct in known if pct > target_pct]
    if not above:
        return Advice(None, "no scale can be compared with the baseline: see the notes")
    scale, pct = max(above, key=lambda found: (found[0].gpus, found[1]))
    text = (
        f"{scale.label} is the largest measured scale above {target_pct:g} % efficiency "
        f"({round_half_even(pct, 1)} %)."
    )
    if scale is study.baseline:
        text += " Nothing larger keeps the target."
    beyond = [(other, low) for other, low in known if other.gpus > scale.gpus]
    if beyond:
        text += f" {beyond[0][0].label} has {round_half_even(beyond[0][1], 1)} %."
    elif len(known) > 1:
        text += " It is also the largest that was measured: a larger one may do as well."
    dips = [other.label for other, low in known if other.gpus < scale.gpus and low <= target_pct]
    if dips:
        text += f" Below the target, though smaller: {', '.join(dips)}."
    return Advice(scale, text)


def make_plan(study: Study, epochs: int) -> Grid:
    """Return expected time and GPU-hours for a number of epochs at each measured scale."""
    headers = {
        "config": "Configuration",
        "gpus": "GPUs",
        "efficiency_pct": "Efficiency (%)",
        "epoch_s": "Epoch (s)",
        "expected_s": "Expected time (s)",
        "expected": "Expected time",
        "gpu_hours": "GPU-hours",
    }
    definitions = (
        f"For {count(epochs, 'epoch')}, training and validation: the warm-up as it was measured, "
        "then the mean epoch after it; ± is that mean's. Queue and start of the job come on top.",
        f"Efficiency: by throughput, over {study.base_name}. {define_throughput(study)}",
        ROUNDING,
    )
    rows = [_make_row(study, scale, epochs) for scale in study.scales]
    title = f"Expected for {count(epochs, 'epoch')}"
    return Grid("plan", title, headers, rows, definitions, list_remarks(study))


def _make_row(study: Study, scale: Scale, epochs: int) -> dict[str, Cell]:
    efficiency = compute_efficiency(study, scale, "throughput")
    if not study.is_compared(scale):
        efficiency = None
    why = "its epochs' wall times are not recorded"
    epoch_s, note = find_epoch_s(scale)
    expected_s = expect_s(scale, epochs)
    hours = None if expected_s is None else expected_s * scale.gpus / 3600
    ratio_why = explain_no_ratio(study, scale, "throughput")
    return {
        "config": say(scale.label),
        "gpus": say(scale.gpus),
        "efficiency_pct": show(efficiency and efficiency * 100, 1, why=ratio_why),
        "epoch_s": show(epoch_s, 2, note, why=why),
        "expected_s": show(expected_s, 0, why=why),
        "expected": missing(why) if expected_s is None else say(format_duration(expected_s)),
        "gpu_hours": show(hours, 2, why=why),
    }


def expect_s(scale: Scale, epochs: int) -> Fraction | None:
    """Return the expected seconds of so many epochs; None when no epoch's time is known."""
    steady, _ = find_epoch_s(scale)
    warmup = scale.latest.first_epochs_s
    if steady is None or not all(warmup) or (scale.latest.epochs or 0) <= len(warmup):
        return None if steady is None else epochs * steady
    first = [Fraction(repr(float(seconds))) for seconds in warmup[:epochs]]
    return sum(first, Fraction(0)) + (epochs - len(first)) * steady


def find_epoch_s(scale: Scale) -> tuple[Fraction | None, str | None]:
    """Return the mean seconds of an epoch and what they are; of a bare log, wall time / epochs."""
    if scale.epoch_s is not None:
        steady = (scale.latest.epochs or 0) > len(scale.latest.first_epochs_s)
        unsteady = None if steady else "no steady state: only warm-up epochs"
        return scale.epoch_s.mean, "; ".join(
            filter(None, [scale.epoch_s.describe(), unsteady])
        ) or None
    if scale.wall_s is not None and scale.latest.epochs:
        return scale.wall_s.mean / scale.latest.epochs, "wall time / epochs, warm-up included"
    return None, None


def format_duration(seconds: Fraction | float) -> str:
    """Return 45 s, 12 min 5 s, 3 h 20 min or 2 d 4 h."""
    whole = round(seconds)
    for size, unit, small, small_unit in (
        (86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"),
    ):  # fmt: skip
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {small_unit}"
    return f"{whole} s"


def list_points(study: Study) -> list[tuple[int, float]]:
    """Return (GPUs, mean throughput) of the comparable scales; one point a number of GPUs.

    Where the same number of GPUs was run on fewer and on more nodes, the fewer count.
    """
    points: dict[int, float] = {}
    for scale in study.scales:
        if study.is_compared(scale) and scale.throughput is not None:
            points.setdefault(scale.gpus, float(scale.throughput.mean))
    return sorted(points.items())


def make_laws(study: Study, asked: int | None = None) -> list[Grid]:
    """Return the fits, and the better law beside what was measured and up to 8 times beyond.

    asked: a further number of GPUs. Raises UserError under four points, or beyond 8 times.
    """
    points = list_points(study)
    fits = fit_laws(points)
    largest = points[-1][0]
    if asked is not None:
        check_reach(asked, largest)
    return [_make_fits(study, fits), _make_curve(study, fits[0], points, asked)]


def _make_fits(study: Study, fits: list[Fit]) -> Grid:
    rows = []
    for place, fit in enumerate(fits):
        named = zip(fit.law.parameters, fit.values[1:], fit.intervals[1:], strict=True)
        cells = {
            name: Cell(value, f"{value:.4g} ({low:.3g} to {high:.3g})")
            for name, value, (low, high) in named
        }
        rows.append({
            "law": say(fit.law.name + (" (the better)" if place == 0 else "")),
            "x1": Cell(fit.values[0], f"{fit.values[0]:.6g} ({fit.intervals[0][0]:.5g} to "
                       f"{fit.intervals[0][1]:.5g})"),
            "s": cells["s"],
            "k": cells.get("k", missing("this law has no such parameter")),
            "error_pct": show(fit.error_pct, 2),
            "loo_pct": show(fit.loo_pct, 2),
        })  # fmt: skip
    headers = {
        "law": "Law",
        "x1": f"X1 ({study.unit or 'per s'}), 95 %",
        "s": "s, 95 %",
        "k": "k, 95 %",
        "error_pct": "Fit error (%)",
        "loo_pct": "Leave-one-out error (%)",
    }
    definitions = (
        "Amdahl: X1 p / (1 + s (p - 1)). Gustafson: X1 (p - s (p - 1)). USL: X1 p / (1 + s (p - 1) "
        "+ k p (p - 1)). s: serial part; k: cost of each pair of GPUs.",
        "The better law predicts each point best from the others (leave-one-out, root mean square "
        "in log throughput); USL, with one parameter more, must win by 10 %.",
        f"Intervals: Student t with {fits[0].points} points less the parameters; they end at 0 "
        "and 1, where the law does.",
    )
    peak = find_peak(fits[0])
    shown = f"USL's throughput is highest at {peak:.0f} GPUs" if peak else None
    return Grid("laws", "Scaling laws", headers, rows, definitions, (shown,) if shown else ())


def _make_curve(study: Study, fit: Fit, points: list, asked: int | None) -> Grid:
    measured, largest = dict(points), points[-1][0]
    extra = {*list_extrapolated(largest), *([asked] if asked else [])}
    rows = []
    for gpus in sorted({*measured, *extra}):
        value, (low, high) = fit.predict(gpus), fit.predict_interval(gpus)
        pct = value / fit.values[0] / gpus * 100
        is_beyond = gpus > largest
        rows.append({
            "gpus": say(gpus),
            "measured": show(measured.get(gpus), 1, why="not measured"),
            "law": show(value, 1),
            "interval": say(f"{low:.1f} to {high:.1f}"),
            "efficiency_pct": show(pct, 1),
            "kind": say("EXTRAPOLATED" if is_beyond else
                        "measured" if gpus in measured else "interpolated"),
        })  # fmt: skip
    unit = study.unit or "per s"
    headers = {
        "gpus": "GPUs",
        "measured": f"Measured ({unit})",
        "law": f"{fit.law.name} ({unit})",
        "interval": "95 % of the law",
        "efficiency_pct": "Efficiency over X1 (%)",
        "kind": "Kind",
    }
    definition = (
        f"EXTRAPOLATED rows are beyond the {largest} GPUs that were measured, at most 8 times; a "
        "slower link or a full network there is in no law."
    )
    definitions = (definition, define_throughput(study))
    return Grid("curve", f"{fit.law.name}, the better law", headers, rows, definitions)


def try_laws(study: Study, asked: int | None = None) -> tuple[list[Grid], str | None]:
    """Return the laws' tables, or none and the reason; a number asked for must be possible."""
    try:
        return make_laws(study, asked), None
    except UserError as error:
        if asked is not None:
            raise
        return [], str(error)
