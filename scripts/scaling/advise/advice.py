"""How many GPUs are worth asking for, what they take, and whether the batch fits their memory."""

from pathlib import PurePath

import pandas as pd

from common.errors import UserError
from common.gpus import list_memory_gb
from common.memory import DEFINITION, find_largest_batch, judge_memory, predict_memory
from common.rounding import round_half_even
from common.slurm_time import format_time
from scaling.advise.laws import make_laws
from scaling.runs import Spread, Study
from scaling.runs.study import count
from scaling.tables.table import ROUNDING, Cell, Table, is_missing, join_notes, missing, say, show

DEFAULT_TARGET_PCT = 75.0
MIB_PER_GB = 1024


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
    scale, text = find_largest_worth(study.scales, target_pct)
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


def find_largest_worth(scales: pd.DataFrame, target_pct: float) -> tuple[pd.Series | None, str]:
    """Return the largest measured scale whose throughput efficiency is above the target.

    scales: of a study, or a series of its configs, the baseline first. A row of them, None when
    none can be compared with the baseline; and the advice.
    """
    known = scales.dropna(subset="efficiency_pct")
    above = known[known["efficiency_pct"] > target_pct]
    if above.empty:
        return None, "no scale can be compared with the baseline: see the notes"
    scale = above.sort_values(["gpus", "efficiency_pct"]).iloc[-1]
    text = (
        f"{scale.label} is the largest measured scale above {target_pct:g} % efficiency "
        f"({round_half_even(scale.efficiency_pct, 1)} %)."
    )
    larger = known[known["gpus"] > scale.gpus]
    if larger.empty:
        return (
            scale,
            f"{text} It is also the largest that was measured: a larger one may do as well.",
        )
    beyond = larger.iloc[0]
    text += f" {beyond.label} has {round_half_even(beyond.efficiency_pct, 1)} %."
    return scale, text


# ---- The plan -----------------------------------------------------------------------------------


def make_plan(study: Study, epochs: int) -> Table:
    """Return expected time and GPU-hours for a number of epochs at each measured scale."""
    headers = {
        "config": "Configuration", "gpus": "GPUs", "efficiency_pct": "Efficiency (%)",
        "epoch_s": "Epoch (s)", "expected_s": "Expected time (h:min:s)", "gpu_hours": "GPU-hours",
    }  # fmt: skip
    how_many, why = count(epochs, "epoch"), "its epochs' wall times are not recorded"
    definitions = (
        f"For {how_many}, training and validation: the warm-up as it was measured, then the mean "
        "epoch after it; ± is that mean's. Queue time and the start of the job are not included.",
        f"Efficiency: by throughput, over {study.base_name}. {study.define_throughput()}",
        ROUNDING,
    )
    rows = []
    for scale in study.scales.itertuples():
        epoch, note = find_epoch(study, scale)
        total_s = estimate_s(study, scale, epochs)
        hours = None if total_s is None else total_s * int(scale.gpus) / 3600
        rows.append({
            "config": say(scale.label),
            "gpus": say(int(scale.gpus)),
            "efficiency_pct": show(scale.efficiency_pct, 1, why=study.explain_no_ratio(scale)),
            "epoch_s": show(epoch and epoch.mean, 2, note, why=why),
            "expected_s": missing(why) if hours is None else Cell(total_s, format_time(total_s)),
            "gpu_hours": show(hours, 2, why=why),
        })  # fmt: skip
    title, remarks = f"Expected for {how_many}", tuple(study.list_remarks())
    return Table("plan", title, headers, rows, definitions, remarks)


def estimate_s(study: Study, scale, epochs: int) -> float | None:
    """Return the expected seconds of so many epochs; None when no epoch's time is known."""
    steady, _ = find_epoch(study, scale)
    own = study.epochs[study.epochs["run"] == scale.latest]
    warmup_s = own.loc[own["is_warmup"], "epoch_s"][:epochs]
    if steady is None:
        return None
    if own["is_warmup"].all() or not (warmup_s > 0).all():
        return epochs * steady.mean
    return float(warmup_s.sum()) + (epochs - len(warmup_s)) * steady.mean


def find_epoch(study: Study, scale) -> tuple[Spread | None, str | None]:
    """Return the seconds of an epoch and what they are; of a bare log, wall time / epochs."""
    run = study.runs.loc[scale.latest]
    if spread := study.spread(scale, "epoch"):
        unsteady = None if run.is_steady else "no steady state: only warm-up epochs"
        return spread, join_notes(spread.describe(), unsteady)
    wall = study.spread(scale, "wall")
    if not (wall and wall.mean > 0 and run.epochs > 0):
        return None, None
    half_s = None if wall.half_width is None else wall.half_width / run.epochs
    epoch = Spread(wall.mean / run.epochs, wall.n, half_s, wall.kind)
    return epoch, "wall time / epochs, warm-up included"


# ---- Memory -------------------------------------------------------------------------------------


def make_memory_advice(study: Study) -> Table:
    """Return what each scale's batch takes of a GPU's memory: predicted, measured, what would fit.

    It starts PyTorch once, in a program of its own.
    """
    headers = {
        "config": "Configuration", "batch": "Batch per GPU",
        "predicted_mib": "Predicted peak (MiB)", "measured_mib": "Measured peak (MiB)",
        "error_pct": "Error (%)", "gpu_mib": "GPU memory (MiB)", "verdict": "Verdict",
        "largest": "Largest batch that fits",
    }  # fmt: skip
    definitions = (
        DEFINITION,
        "Measured: the most that PyTorch had allocated on a rank's GPU. Error: of the prediction, "
        "over the measured peak.",
    )
    rows = list(study.scales.itertuples())
    requests = [make_request(study.settings(row.latest)) for row in rows]
    answers = iter(predict_memory([each for each in requests if each]))
    none = {"error": "no command line is recorded"}
    cells = [
        _judge_batch(study, row, next(answers) if request else none)
        for row, request in zip(rows, requests, strict=True)
    ]
    return Table("memory_advice", "Memory of a GPU", headers, cells, definitions)


def make_request(settings: dict) -> dict | None:
    """What memory_estimate.py is asked about a run, None where the run does not say enough."""
    argv, dataset = settings.get("argv"), settings.get("dataset")
    if not isinstance(argv, list) or not argv:
        return None
    words = [str(word) for word in argv[1:]]
    dataset = dataset if isinstance(dataset, dict) else {}
    for name, value in (
        ("precision", settings.get("precision")), ("vocab-size", dataset.get("vocab_size")),
    ):  # fmt: skip
        words += [f"--{name}={value}"] if value else []
    return {
        "trainer": PurePath(str(argv[0])).name,
        "words": words,
        "world_size": settings.get("world_size") or 1,
        "local_world_size": settings.get("gpus_per_node"),
        "device": settings.get("device") or "cuda",
        **({"classes": dataset["classes"]} if dataset.get("classes") else {}),
    }


def _judge_batch(study: Study, row, answer: dict) -> dict[str, Cell]:
    """answer: of predict_memory() on a row of study.scales."""
    settings, why = study.settings(row.latest), "no rank recorded its peak"
    ranks = study.rank_epochs
    measured = ranks[ranks["run"] == row.latest]["peak_mib"].max()
    if settings.get("device") != "cuda":
        measured = None
        why = "on a CPU the peak is that of the process, its libraries among it"
    # The GPUs' memory as their log has it, else by their name.
    name = settings.get("gpu_name")
    gpu_mib = study.samples[study.samples["run"] == row.latest]["total_mib"].min()
    if is_missing(gpu_mib):
        sizes = list_memory_gb(str(name)) if name else []
        gpu_mib = sizes[0] * MIB_PER_GB if len(sizes) == 1 else None
    unknown = f"the memory of {name} is unknown" if name else "no GPU is recorded"
    cells = {
        "config": say(row.label),
        "measured_mib": show(measured, 0, why=why),
        "gpu_mib": show(gpu_mib, 0, why=unknown),
    }
    if "error" in answer:
        asked = ("batch", "predicted_mib", "error_pct", "verdict", "largest")
        return cells | dict.fromkeys(asked, missing(answer["error"]))
    error = None if is_missing(measured) else (answer["peak_mib"] / measured - 1) * 100
    cells |= {
        "batch": say(answer["batch"]),
        "predicted_mib": show(answer["peak_mib"], 0),
        "error_pct": show(error, 1, why=why),
    }
    if gpu_mib is None:
        return cells | dict.fromkeys(("verdict", "largest"), missing(unknown))
    verdict, largest = judge_memory(answer, gpu_mib), find_largest_batch(answer, gpu_mib)
    return cells | {"verdict": say(verdict), "largest": say(largest)}
