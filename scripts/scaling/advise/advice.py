"""How many GPUs are worth asking for: what was measured, and what a fitted law adds."""

import pandas as pd

from common.errors import UserError
from common.rounding import round_half_even
from scaling.advise.laws import FARTHEST, Fit, check_reach, find_peak, fit_laws
from scaling.runs import Study
from scaling.runs.study import count
from scaling.tables.table import ROUNDING, Cell, Table, join_notes, missing, say, show

DEFAULT_TARGET_PCT = 75.0


def list_advice(
    study: Study,
    target_pct: float = DEFAULT_TARGET_PCT,
    epochs: int | None = None,
    asked: int | None = None,
) -> list[Table]:
    """Return the advice, a plan, and from four scales on the scaling laws.

    epochs: of the plan; those of the baseline's run by default. asked: a number of GPUs to ask the
    law about. Raises UserError when the law cannot be asked: under four scales, or too far.
    """
    scale, text = find_largest_worth(study, target_pct)
    remarks, tables = (), []
    measured = study.runs.loc[study.baseline.latest, "epochs"]
    if epochs := epochs or (0 if pd.isna(measured) else int(measured)):
        tables.append(make_plan(study, epochs))
    try:
        tables += make_laws(study, asked)
    except UserError as error:
        if asked is not None:
            raise
        remarks = (f"No scaling law: {error}.",)
    row = {"advice": say(text), "gpus": say("—" if scale is None else int(scale.gpus))}
    headers = {"advice": "Advice", "gpus": "GPUs"}
    return [Table("advice", "How many GPUs", headers, [row], (), remarks), *tables]


def find_largest_worth(study: Study, target_pct: float) -> tuple[pd.Series | None, str]:
    """Return the largest measured scale whose throughput efficiency is above the target.

    A row of study.scales, None when none can be compared with the baseline; and the advice.
    """
    known = study.scales.dropna(subset="efficiency_pct")
    above = known[known["efficiency_pct"] > target_pct]
    if above.empty:
        return None, "no scale can be compared with the baseline: see the notes"
    scale = above.sort_values(["gpus", "efficiency_pct"]).iloc[-1]
    text = (
        f"{scale.label} is the largest measured scale above {target_pct:g} % efficiency "
        f"({round_half_even(scale.efficiency_pct, 1)} %)."
    )
    larger, smaller = known[known["gpus"] > scale.gpus], known[known["gpus"] < scale.gpus]
    if len(known) == 1:
        text += " No other scale can be compared with it."
    elif larger.empty:
        text += " It is also the largest that was measured: a larger one may do as well."
    else:
        if scale.config == study.baseline.config:
            text += " Nothing larger keeps the target."
        beyond = larger.iloc[0]
        text += f" {beyond.label} has {round_half_even(beyond.efficiency_pct, 1)} %."
    dips = smaller[smaller["efficiency_pct"] <= target_pct]
    if len(dips):
        text += f" Below the target, though smaller: {', '.join(dips['label'])}."
    return scale, text


# ---- The plan -----------------------------------------------------------------------------------


def make_plan(study: Study, epochs: int) -> Table:
    """Return expected time and GPU-hours for a number of epochs at each measured scale."""
    headers = {
        "config": "Configuration", "gpus": "GPUs", "efficiency_pct": "Efficiency (%)",
        "epoch_s": "Epoch (s)", "expected_s": "Expected time (s)", "expected": "Expected time",
        "gpu_hours": "GPU-hours",
    }  # fmt: skip
    how_many = count(epochs, "epoch")
    definitions = (
        f"For {how_many}, training and validation: the warm-up as it was measured, then the mean "
        "epoch after it; ± is that mean's. Queue time and the start of the job are not included.",
        f"Efficiency: by throughput, over {study.base_name}. {study.define_throughput()}",
        ROUNDING,
    )
    rows, why = [], "its epochs' wall times are not recorded"
    for scale in study.scales.itertuples():
        epoch_s, note = find_epoch_s(study, scale)
        total_s = estimate_s(study, scale, epochs)
        told = missing(why) if total_s is None else say(format_duration(total_s))
        hours = None if total_s is None else total_s * int(scale.gpus) / 3600
        rows.append({
            "config": say(scale.label),
            "gpus": say(int(scale.gpus)),
            "efficiency_pct": show(scale.efficiency_pct, 1, why=study.explain_no_ratio(scale)),
            "epoch_s": show(epoch_s, 2, note, why=why),
            "expected_s": show(total_s, 0, why=why),
            "expected": told,
            "gpu_hours": show(hours, 2, why=why),
        })  # fmt: skip
    title, remarks = f"Expected for {how_many}", tuple(study.list_remarks())
    return Table("plan", title, headers, rows, definitions, remarks)


def estimate_s(study: Study, scale, epochs: int) -> float | None:
    """Return the expected seconds of so many epochs; None when no epoch's time is known."""
    steady_s, _ = find_epoch_s(study, scale)
    own = study.epochs[study.epochs["run"] == scale.latest]
    warmup_s = own.loc[own["is_warmup"], "epoch_s"][:epochs]
    if steady_s is None:
        return None
    if own["is_warmup"].all() or not (warmup_s > 0).all():
        return epochs * steady_s
    return float(warmup_s.sum()) + (epochs - len(warmup_s)) * steady_s


def find_epoch_s(study: Study, scale) -> tuple[float | None, str | None]:
    """Return the mean seconds of an epoch and what they are; of a bare log, wall time / epochs."""
    run = study.runs.loc[scale.latest]
    if spread := study.spread(scale, "epoch"):
        unsteady = None if run.is_steady else "no steady state: only warm-up epochs"
        return spread.mean, join_notes(spread.describe(), unsteady)
    if scale.wall_s > 0 and run.epochs > 0:
        return scale.wall_s / run.epochs, "wall time / epochs, warm-up included"
    return None, None


def format_duration(seconds: float) -> str:
    """Return 45 s, 12 min 5 s, 3 h 20 min or 2 d 4 h."""
    whole = round(seconds)
    for size, unit, small, small_unit in (
        (86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"),
    ):  # fmt: skip
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {small_unit}"
    return f"{whole} s"


# ---- The laws -----------------------------------------------------------------------------------


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
    fits = fit_laws(points)
    if asked is not None:
        check_reach(asked, points[-1][0])
    return [_make_fits(study, fits), _make_curve(study, fits[0], points, asked)]


def _make_fits(study: Study, fits: list[Fit]) -> Table:
    headers = {
        "law": "Law",
        "x1": f"X1 ({study.unit or 'per s'}), 95 %",
        "s": "s, 95 %",
        "k": "k, 95 %",
        "error_pct": "Fit error (%)",
        "loo_pct": "Leave-one-out error (%)",
    }
    rows = []
    for fit in fits:
        cells = {"k": missing("this law has no such parameter")}
        names = ("x1", *fit.law.parameters)
        for name, value, (low, high) in zip(names, fit.values, fit.intervals, strict=True):
            digits, about = (6, 5) if name == "x1" else (4, 3)
            text = f"{value:.{digits}g} ({low:.{about}g} to {high:.{about}g})"
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
    peak = find_peak(fits[0])
    remarks = (f"USL's throughput is highest at {peak:.0f} GPUs",) if peak else ()
    return Table("laws", "Scaling laws", headers, rows, definitions, remarks)


def _make_curve(study: Study, fit: Fit, points: list, asked: int | None) -> Table:
    unit, measured, largest = study.unit or "per s", dict(points), points[-1][0]
    headers = {
        "gpus": "GPUs",
        "measured": f"Measured ({unit})",
        "law": f"{fit.law.name} ({unit})",
        "interval": "95 % of the law",
        "efficiency_pct": "Efficiency over X1 (%)",
        "kind": "Kind",
    }
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
