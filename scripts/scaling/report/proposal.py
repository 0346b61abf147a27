"""Scaling evidence for a proposal for computing time, as computing centres ask for it: one page.

Software and hardware, problem size, strong and weak scaling, the job size by a stated rule, and
the GPU-hours that are asked for; every number with the job and the line that it comes from.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import gmtime, strftime

import pandas as pd

from common.errors import UserError
from common.rounding import round_half_even
from scaling.advise import estimate_s, find_largest_worth
from scaling.plots import MAIN, list_charts
from scaling.report.page import render_page
from scaling.report.svg import draw_figure
from scaling.runs import Run, Study, make_study
from scaling.runs.compare import ABSENT, look_up
from scaling.runs.find import is_of_workload
from scaling.runs.frames import LOG
from scaling.runs.study import count
from scaling.tables.table import Cell, Table, escape_markdown, missing, say, show, to_markdown

TEMPLATE = "proposal.html.j2"
MODES = {
    "strong": "Strong scaling: the same problem on more GPUs",
    "weak": "Weak scaling: the problem grows with the GPUs",
    None: "Scaling: whether the problem grows with the GPUs is not recorded",
}
SOFTWARE = {
    "Cluster": "slurm.cluster_name", "GPU": "gpu_name", "GPUs per node": "gpus_per_node",
    "Driver": "driver", "Python": "versions.python", "PyTorch": "versions.torch",
    "CUDA": "versions.cuda", "NCCL": "versions.nccl", "Sources (SHA-256)": "trainer_sha256",
    "Git commit": "git_commit",
}  # fmt: skip
PROBLEM = {
    "Workload": "workload", "Model": "model", "Model size": "model_size",
    "Sequence length": "seq_len", "Image size": "image_size", "Data set": "dataset.name",
    "Training samples": "dataset.train", "Validation samples": "dataset.val",
    "Batch per GPU": "batch_size_per_gpu", "Global batch": "global_batch_size",
    "Precision": "precision", "Strategy": "strategy", "Optimizer": "optimizer",
    "Epochs": "epochs", "Operations per sample": "flops_per_sample",
}  # fmt: skip
MOST_CHARS = 60


@dataclass(frozen=True)
class Proposal:
    """What the page says. rule: how the job size was chosen, and the result, in sentences."""

    title: str
    asked: str
    rule: str
    tables: Sequence[Table]
    studies: Sequence[Study]


def make_proposal(
    runs: Sequence[Run], workload: str, source: str, asked_runs: int, epochs: int | None,
    target_pct: float,
) -> Proposal:  # fmt: skip
    """Return the evidence of a workload's runs, and the request of `asked_runs` x `epochs`.

    The job size is chosen in strong scaling where it was measured, else in weak: the largest scale
    above target_pct. epochs: those of the measured runs by default. Raises UserError when no two
    scales can be compared.
    """
    studies = split_modes(runs, workload, source)
    study = studies[0]
    scale, advice = find_largest_worth(study, target_pct)
    if scale is None or study.scales["efficiency_pct"].count() < 2:
        raise UserError(
            f"{source}: no two scales of workload {workload} can be compared, so there is no "
            "scaling to show; see: python scripts/scaling_tables.py"
        )
    if epochs is None:
        measured = study.runs.loc[scale["latest"], "epochs"]
        if pd.isna(measured):
            raise UserError("how many epochs were measured is not recorded: say --epochs N")
        epochs = int(measured)
    mode = _find_mode(study) or "unknown"
    tables = [
        _describe(study, "software", "Software and hardware", SOFTWARE, source),
        _describe(study, "problem", "Problem size", PROBLEM, source),
        *(make_scaling(each, source) for each in studies),
        make_request(study, scale, asked_runs, epochs, source),
    ]
    rule = (
        f"Rule: the largest measured job in {mode} scaling whose parallel efficiency, by "
        f"throughput over {study.base_name}, is above {target_pct:g} %. {advice}"
    )
    hours = tables[-1].rows[-1]["value"].text
    asked = f"{hours} GPU-hours for {count(asked_runs, 'run')} of {count(epochs, 'epoch')}, " + (
        f"each on {scale['label']}."
    )
    title = f"Scaling evidence: {look_up(study.settings(scale['latest']), 'model')}"
    return Proposal(title, asked, rule, tables, studies)


def split_modes(runs: Sequence[Run], workload: str, source: str) -> list[Study]:
    """Return a study of the strong and one of the weak runs, those that there are in this order."""
    ours = [run for run in runs if run.id and is_of_workload(run, workload)]
    found = {}
    for mode in MODES:
        of_mode = [run for run in ours if (run.settings or {}).get("scaling") == mode]
        if any(run.is_usable and run.gpus for run in of_mode):
            found[mode] = make_study(of_mode, workload, source=source)
    if not found:
        make_study(ours, workload, source=source)  # says why there is none
    scaled = [each for each in found.values() if each.scales["efficiency_pct"].count() > 1]
    return scaled or list(found.values())


def _find_mode(study: Study) -> str | None:
    return study.settings(study.baseline.latest).get("scaling") or study.configs["mode"].iloc[0]


# ---- The tables --------------------------------------------------------------------------------


def _describe(study: Study, name: str, title: str, fields: dict[str, str], source: str) -> Table:
    """Return a table of settings, of the baseline and of the largest scale where they differ."""
    first, last = study.baseline.latest, int(study.scales.sort_values("gpus").iloc[-1]["latest"])
    rows = []
    for label, key in fields.items():
        here, there = (look_up(study.settings(at), key) for at in (first, last))
        for value, at in [(here, first)] + [(there, last)] * (here != there):
            if value in (None, ABSENT):
                continue
            gpus = count(int(study.runs.loc[at, "gpus"]), "GPU")
            text = str(value) if len(str(value)) <= MOST_CHARS else f"{str(value)[:16]}…"
            rows.append({
                "what": say(label + (f", on {gpus}" if here != there else "")),
                "value": say(text),
                "from": say(f"{_name_file(study.sources[at].results_dir / 'run.json', source)}, "
                            f"{key}"),
            })  # fmt: skip
    headers = {"what": "What", "value": "Value", "from": "From"}
    remarks = [] if rows else ["The trainer recorded no settings (run.json): write them yourself."]
    return Table(name, title, headers, rows, (), remarks)


def make_scaling(study: Study, source: str) -> Table:
    """Return a row per scale of a study: throughput, epoch time, speed-up, efficiency."""
    mode = _find_mode(study)
    headers = {
        "config": "Configuration", "nodes": "Nodes", "gpus": "GPUs", "batch": "Global batch",
        "throughput": f"Throughput ({study.unit})", "plus": "±", "epoch_s": "Epoch (s)",
        "speedup": "Speed-up", "ideal": "Ideal", "efficiency": "Efficiency (%)", "runs": "Runs",
    }  # fmt: skip
    rows, sources = [], []
    for row in study.scales.itertuples():
        spread = study.spread(row, "throughput")
        half = spread.half_width if spread and spread.kind == "repeats" else None
        why = study.explain_no_ratio(row)
        batch = study.settings(row.latest).get("global_batch_size")
        rows.append({
            "config": say(row.label), "gpus": say(int(row.gpus)),
            "nodes": show(row.nodes, 0, why="not recorded"),
            "batch": missing("not recorded") if batch is None else say(batch),
            "throughput": show(row.throughput_per_s, 1, why="no throughput is recorded"),
            "plus": show(half, 1, why="one run: no interval"),
            "epoch_s": show(row.epoch_s, 2, why="the epochs' wall times are not recorded"),
            "speedup": show(row.speedup, why=why), "runs": say(int(row.n_runs)),
            "ideal": show(row.gpus / study.baseline.gpus),
            "efficiency": show(row.efficiency_pct, 1, why=why),
        })  # fmt: skip
        sources += [
            f"{row.label}: {describe_source(study, at, source)}"
            for at in study.list_runs(row)["run"]
        ]
    definitions = (
        study.define_throughput(),
        "±: half of the 95 % interval of the mean over repeated runs (Student t). Epoch: wall time "
        "of an epoch after warm-up, training and validation, mean over runs.",
        f"Speed-up: throughput over that of {study.base_name}; efficiency: speed-up over ideal.",
    )
    title = MODES.get(mode, MODES[None])
    remarks = study.list_remarks()
    return Table(
        f"{mode or 'unknown'}_scaling", title, headers, rows, definitions, remarks, sources
    )


def make_request(study: Study, scale, asked_runs: int, epochs: int, source: str) -> Table:
    """Return how the GPU-hours come about, step by step, each step with its source.

    scale: the row of study.scales that was chosen.
    """
    gpus = int(scale["gpus"])
    row = next(each for each in study.scales.itertuples() if each.config == scale["config"])
    jobs = study.list_runs(row)
    origin = "; ".join(describe_source(study, at, source) for at in jobs["run"])
    run_s = estimate_s(study, row, epochs)
    if run_s is None:
        raise UserError(f"{row.label}: its epochs' wall times are not recorded, so there is no "
                        "estimate of GPU-hours")  # fmt: skip
    own = study.epochs[study.epochs["run"] == row.latest]
    epoch_s, epoch_half_s, around_epoch = _find_epoch(study, row, len(own))
    steady = max(epochs - int(own["is_warmup"].sum()), 0)
    half_s = None if epoch_half_s is None else epoch_half_s * steady
    around_s, around_from = _find_overhead(study, jobs, source)
    job_s = run_s + (around_s or 0.0)
    hours = asked_runs * gpus * job_s / 3600
    half_h = None if half_s is None else asked_runs * gpus * half_s / 3600
    no_interval = "one run of this scale: repeat it for an interval"
    asked = f"{asked_runs} x {gpus} GPUs x {round_half_even(job_s, 1)} s / 3600"
    steps = [
        ("GPUs of a job", say(gpus), "the rule above"),
        (f"Epoch{around_epoch} (s)", show(epoch_s), origin),
        (f"Training of {count(epochs, 'epoch')} (s)", show(run_s, 1),
         "warm-up as measured, then the mean epoch"),
        ("± of that (s)", show(half_s, 1, why=no_interval),
         "95 % interval of the mean epoch x its number"),
        ("Start and end of a job (s)",
         show(around_s, 1, why="job_end.json is missing or too short: not counted"), around_from),
        (f"GPU-hours for {count(asked_runs, 'run')}", show(hours, 1), asked),
        ("± of that (GPU-hours)", show(half_h, 1, why=no_interval), "as above"),
    ]  # fmt: skip
    low_high = "" if half_h is None else (
        f" (95 % interval: {round_half_even(hours - half_h, 1)} to "
        f"{round_half_even(hours + half_h, 1)})"
    )  # fmt: skip
    total = math.ceil(round(hours + (half_h or 0.0), 6))
    end = "rounded up" if half_h is None else "the interval's upper end, rounded up"
    steps.append(("Asked for", Cell(total, f"{total:,}{low_high}"), end))
    rows = [{"what": say(what), "value": value, "from": say(told)} for what, value, told in steps]
    headers = {"what": "Step", "value": "Value", "from": "From"}
    definitions = (
        "Not counted: the queue, failed jobs, and runs to find the settings.",
        *(
            ["More epochs than were measured: each further one is taken to last as long as those."]
            if epochs > len(own)
            else []
        ),
    )
    title = f"GPU-hours for {count(asked_runs, 'run')} of {count(epochs, 'epoch')}"
    return Table("request", title, headers, rows, definitions)


def _find_epoch(study: Study, row, epochs: int) -> tuple[float, float | None, str]:
    """Return the mean seconds of an epoch, half its 95 % interval over repeats, and what it is.

    epochs: of a measured run. Of a bare log the wall time / epochs.
    """
    if spread := study.spread(row, "epoch"):
        return (
            spread.mean,
            spread.half_width if spread.kind == "repeats" else None,
            " after warm-up",
        )
    wall = study.spread(row, "wall")
    half_s = wall.half_width / epochs if wall.kind == "repeats" else None
    return wall.mean / epochs, half_s, ": wall time / epochs"


def _find_overhead(study: Study, jobs: pd.DataFrame, source: str) -> tuple[float | None, str]:
    """Return the mean seconds of jobs outside of their training, and where they are from."""
    found = []
    for job in jobs.itertuples():
        elapsed_s = getattr(study.sources[job.run], "elapsed_s", None)
        if elapsed_s and job.wall_s == job.wall_s and elapsed_s >= job.wall_s:
            found.append((elapsed_s - job.wall_s, study.sources[job.run]))
    if not found:
        return None, "job_end.json"
    names = ", ".join(_name_file(run.results_dir / "job_end.json", source) for _, run in found)
    return sum(each for each, _ in found) / len(found), f"elapsed_s of {names}, less the wall time"


def describe_source(study: Study, at: int, source: str) -> str:
    """Say from which job, file and lines a run's throughput and times are. at: its position."""
    run = study.sources[at]
    epochs = study.epochs[study.epochs["run"] == at]
    used = epochs[~epochs["is_warmup"]] if not epochs["is_warmup"].all() else epochs
    numbers = f"epochs {used['epoch'].min()} to {used['epoch'].max()}"
    lines = [epoch.line_number for epoch in run.attempt.epochs
             if epoch.epoch in set(used["epoch"])] if run.attempt else []  # fmt: skip
    log = ""
    if run.log_path is not None and lines:
        log = f"{_name_file(run.log_path, source)}, lines {min(lines)} to {max(lines)}"
    if used["source"].eq(LOG).all():
        return f"job {run.id}: {log or run.log_path}"
    name = used["source"].iloc[0]
    file = run.results_dir / name if name.endswith(".json") else run.results_dir
    text = f"job {run.id}: {_name_file(file, source)}, {numbers}"
    return f"{text} ({log})" if log else text


def _name_file(path: Path, source: str) -> str:
    """Name a file from the folder of the runs on, where it lies in it."""
    return os.path.relpath(path, source) if path.is_relative_to(source) else str(path)


# ---- The page ----------------------------------------------------------------------------------


def to_html(proposal: Proposal, source: str) -> str:
    """Return the proposal as one page that needs nothing else."""
    figures = []
    for number, study in enumerate(proposal.studies):
        charts = [chart for chart in list_charts(study) if chart.name in MAIN[:2]]
        mode = _find_mode(study)
        for chart in (chart for chart in charts if not chart.reason):
            figure = draw_figure(chart, f"p{number}")
            figures.append((f"{chart.title}, {mode} scaling" if mode else chart.title, figure))
    return render_page(TEMPLATE, {
        "proposal": proposal, "folder": source, "figures": figures, "reload_s": None,
        "made_utc": strftime("%Y-%m-%d %H:%M:%S UTC", gmtime()),
    })  # fmt: skip


def to_text(proposal: Proposal, source: str) -> str:
    """Return the proposal as Markdown."""
    *tables, request = proposal.tables
    made = strftime("%Y-%m-%d", gmtime())
    return "\n".join([
        f"# {escape_markdown(proposal.title)}",
        "",
        f"From the runs below {escape_markdown(source)}, {made}. Paths are below that folder.",
        "",
        f"Asked for: {escape_markdown(proposal.asked)}",
        "",
        to_markdown(tables),
        f"## Job size\n\n{escape_markdown(proposal.rule)}\n",
        to_markdown([request]),
    ])  # fmt: skip
