"""Scaling evidence for a proposal for computing time, as computing centres ask for it: one page.

Software and hardware, problem size, strong and weak scaling, the job size by a stated rule, and
the GPU-hours that are asked for; every number with the job and the line that it comes from.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import pandas as pd

from common.errors import UserError
from common.rounding import round_half_even
from scaling.advise import estimate_s, find_epoch, find_largest_worth
from scaling.plots import MAIN, list_charts
from scaling.report.page import draw_pictures, render_page
from scaling.runs import Run, Study, make_study
from scaling.runs.compare import ABSENT, look_up
from scaling.runs.find import is_of_workload
from scaling.runs.frames import LOG
from scaling.runs.study import count
from scaling.tables import Cell, Table, make_fixed_work, say, show
from scaling.tables.table import escape_markdown, to_markdown

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
    """What the page says. The last table is the request, its definitions begin with the rule.

    studies: by their mode, strong, weak or None, as their tables stand.
    """

    title: str
    asked: str
    tables: Sequence[Table]
    studies: dict[str | None, Study]


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
    mode, study = next(iter(studies.items()))
    scale, advice = find_largest_worth(study.scales, target_pct)
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
    rule = (
        f"Rule: the largest measured job in {mode or 'unknown'} scaling whose parallel efficiency, "
        f"by throughput over {study.base_name}, is above {target_pct:g} %. {advice}"
    )
    row = next(each for each in study.scales.itertuples() if each.config == scale["config"])
    request = make_request(study, row, asked_runs, epochs, source, rule)
    tables = [
        _describe(study, "software", "Software and hardware", SOFTWARE, source),
        _describe(study, "problem", "Problem size", PROBLEM, source),
        *(make_scaling(each, name, source) for name, each in studies.items()),
        request,
    ]
    model = look_up(study.settings(row.latest), "model")
    asked = f"{request.rows[-1]['value'].text} {request.title}, each on {row.label}."
    return Proposal(f"Scaling evidence: {model}", asked, tables, studies)


def split_modes(runs: Sequence[Run], workload: str, source: str) -> dict[str | None, Study]:
    """Return a study of the strong and one of the weak runs, those that there are in this order."""
    ours = [run for run in runs if run.id and is_of_workload(run, workload)]
    found = {}
    for told in MODES:
        of_mode = [run for run in ours if (run.settings or {}).get("scaling") == told]
        if any(run.is_usable and run.gpus for run in of_mode):
            study = make_study(of_mode, workload, source=source)
            found[told or study.configs["mode"].iloc[0]] = study
    if not found:
        make_study(ours, workload, source=source)  # says why there is none
    return {k: v for k, v in found.items() if v.scales["efficiency_pct"].count() > 1} or found


# ---- The tables ---------------------------------------------------------------------------------


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
            file = name_file(study.sources[at].results_dir / "run.json", source)
            rows.append({
                "what": say(label + (f", on {gpus}" if here != there else "")),
                "value": say(text),
                "from": say(f"{file}, {key}"),
            })  # fmt: skip
    headers = {"what": "What", "value": "Value", "from": "From"}
    remarks = [] if rows else ["The trainer recorded no settings (run.json): write them yourself."]
    return Table(name, title, headers, rows, (), remarks)


def make_scaling(study: Study, mode: str | None, source: str) -> Table:
    """Return the fixed-work table of a study with its epochs' times, and each row's sources."""
    table, scales = make_fixed_work(study), list(study.scales.itertuples())
    rows = []
    for row, scale in zip(table.rows, scales, strict=True):
        epoch, note = find_epoch(study, scale)
        why = "the epochs' wall times are not recorded"
        rows.append(row | {
            "config": say(scale.label), "nodes": show(scale.nodes, 0, why="not recorded"),
            "ideal": show(scale.gpus / study.baseline.gpus),
            "epoch_s": show(epoch and epoch.mean, 2, note, why=why),
        })  # fmt: skip
    headers = {"config": "Configuration", "nodes": "Nodes"} | table.headers
    headers |= {"ideal": "Ideal speedup", "epoch_s": "Epoch (s)"}
    sources = [
        f"{scale.label}: {describe_source(study, at, source)}"
        for scale in scales
        for at in study.list_runs(scale)["run"]
    ]
    name, title = f"{mode or 'unknown'}_scaling", MODES.get(mode, MODES[None])
    return replace(table, name=name, title=title, headers=headers, rows=rows, sources=sources)


def make_request(
    study: Study, scale, asked_runs: int, epochs: int, source: str, rule: str
) -> Table:
    """Return how the GPU-hours come about, step by step, each step with its source.

    scale: the row of study.scales that was chosen.
    """
    gpus, jobs = int(scale.gpus), study.list_runs(scale)
    run_s, (epoch, _) = estimate_s(study, scale, epochs), find_epoch(study, scale)
    if run_s is None:
        raise UserError(f"{scale.label}: its epochs' wall times are not recorded, so there is no "
                        "estimate of GPU-hours")  # fmt: skip
    own = study.epochs[study.epochs["run"] == scale.latest]
    around = {}  # job -> seconds outside of its training
    for job in jobs.itertuples():
        elapsed_s = getattr(study.sources[job.run], "elapsed_s", None)
        if elapsed_s and elapsed_s >= job.wall_s:
            around[job.run] = elapsed_s - job.wall_s
    around_s = fmean(around.values()) if around else None
    files = [name_file(study.sources[at].results_dir / "job_end.json", source) for at in around]
    job_s = run_s + (around_s or 0.0)
    hours, half_h = asked_runs * gpus * job_s / 3600, None
    if epoch.kind == "repeats":
        steady = max(epochs - int(own["is_warmup"].sum()), 0)
        half_h = asked_runs * gpus * epoch.half_width * steady / 3600
    limits = ""
    if half_h is not None:
        low, high = (round_half_even(h, 1) for h in (hours - half_h, hours + half_h))
        limits = f" (95 % interval: {low} to {high})"
    total = math.ceil(round(hours + (half_h or 0.0), 6))
    no_end = "job_end.json is missing or too short: not counted"
    once = "one run of this scale: repeat it for an interval"
    steps = [
        ("GPUs of a job", say(gpus), "the rule below"),
        ("Epoch (s)", show(epoch.mean),
         "; ".join(describe_source(study, at, source) for at in jobs["run"])),
        (f"Training of {count(epochs, 'epoch')} (s)", show(run_s, 1),
         "warm-up as measured, then the mean epoch"),
        ("Start and end of a job (s)", show(around_s, 1, why=no_end),
         f"elapsed_s of {', '.join(files) or 'job_end.json'}, less the wall time"),
        (f"GPU-hours for {count(asked_runs, 'run')}", show(hours, 1),
         f"{asked_runs} x {gpus} GPUs x {round_half_even(job_s, 1)} s / 3600"),
        ("± of that (GPU-hours)", show(half_h, 1, why=once),
         "95 % interval of the mean epoch x its number"),
        ("Asked for", Cell(total, f"{total:,}{limits}"), "with its ±, rounded up"),
    ]  # fmt: skip
    rows = [{"what": say(what), "value": value, "from": say(told)} for what, value, told in steps]
    headers = {"what": "Step", "value": "Value", "from": "From"}
    definitions = [rule, "Not counted: the queue, failed jobs, and runs to find the settings."]
    if epochs > len(own):
        more = "More epochs than were measured: each further one is taken to last as long as those."
        definitions.append(more)
    title = f"GPU-hours for {count(asked_runs, 'run')} of {count(epochs, 'epoch')}"
    return Table("request", title, headers, rows, definitions)


def describe_source(study: Study, at: int, source: str) -> str:
    """Say from which job, file and lines a run's throughput and times are. at: its position."""
    run = study.sources[at]
    epochs = study.epochs[study.epochs["run"] == at]
    used = epochs[~epochs["is_warmup"]] if not epochs["is_warmup"].all() else epochs
    lines = [epoch.line_number for epoch in run.attempt.epochs
             if epoch.epoch in set(used["epoch"])] if run.attempt else []  # fmt: skip
    log = ""
    if run.log_path is not None and lines:
        log = f"{name_file(run.log_path, source)}, lines {min(lines)} to {max(lines)}"
    if used["source"].eq(LOG).all():
        return f"job {run.id}: {log or run.log_path}"
    name = used["source"].iloc[0]
    file = run.results_dir / name if name.endswith(".json") else run.results_dir
    numbers = f"epochs {used['epoch'].min()} to {used['epoch'].max()}"
    text = f"job {run.id}: {name_file(file, source)}, {numbers}"
    return f"{text} ({log})" if log else text


def name_file(path: Path, source: str) -> str:
    """Name a file from the folder of the runs on, where it lies in it."""
    return os.path.relpath(path, source) if path.is_relative_to(source) else str(path)


# ---- The page -----------------------------------------------------------------------------------


def to_html(proposal: Proposal, source: str) -> str:
    """Return the proposal as one page that needs nothing else."""
    figures = []
    for number, (mode, study) in enumerate(proposal.studies.items()):
        charts = [chart for chart in list_charts(study) if chart.name in MAIN[:2]]
        named = [replace(chart, title=f"{chart.title}, {mode or 'unknown'} scaling")
                 for chart in charts]  # fmt: skip
        figures += draw_pictures(named, f"p{number}")
    return render_page("proposal.html.j2", source, proposal=proposal, figures=figures)


def to_text(proposal: Proposal, source: str) -> str:
    """Return the proposal as Markdown."""
    title, folder, asked = map(escape_markdown, (proposal.title, source, proposal.asked))
    head = f"# {title}\n\nAsked for: {asked}\n\nFrom the runs below {folder}; paths start there.\n"
    return f"{head}\n{to_markdown(proposal.tables)}"
