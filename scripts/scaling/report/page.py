"""The report: all runs below a folder on one HTML page that needs nothing else."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import gmtime, strftime

import pandas as pd
from markupsafe import Markup

from common.errors import UserError
from scaling.advise import list_advice
from scaling.diagnose import DEFINITIONS, Finding, diagnose
from scaling.plots import list_charts
from scaling.plots.scaling_charts import list_compared, list_configs
from scaling.report.run_page import flatten, make_run_page, show_as
from scaling.report.svg import draw_figure
from scaling.report.verdict import count_states, state_loss, state_verdict
from scaling.runs import Run, Study, make_frames, make_study, order_in_time
from scaling.runs.compare import (
    COMPARED_SETTINGS,
    DEFAULT_WORKLOAD,
    GOOD_NODES_PCT,
    GOOD_ONE_NODE_PCT,
    POOR_PCT,
    name_band,
)
from scaling.tables import (
    Cell,
    Table,
    add_hardware,
    make_cost,
    make_fixed_work,
    make_readme_tables,
    make_strategies,
    make_summary_tables,
    say,
)
from scaling.tables.table import make_environment

TEMPLATE = "report.html.j2"
# They differ from run to run by their nature, or follow from the scale.
OWN_SETTINGS = (
    "run_id", "start_utc", "argv", "hosts", "slurm", "nodes", "gpus_per_node", "world_size",
    "gpus_visible", "resumed_from", "schema_version", "workload", "unit",
)  # fmt: skip
LOSS_COLUMNS = ("cause", "points", "here_s", "base_s")
MOST_NAMED = 12  # runs in a row; more are counted
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def make_page(
    runs: list[Run], source: str, describe_site: Callable | None = None, reload_s: int | None = None
) -> str:
    """Return the report on some runs as one HTML document. source: where they are, in words.

    describe_site(workload): what the cluster's profile says, as make_readme_tables takes it.
    reload_s: the page reloads itself after so many seconds. Texts from logs and records are
    escaped by the template; a script in them could not run either, for the page's own policy
    allows one script by its hash and no connection. Raises UserError when there is nothing.
    """
    if not runs:
        raise UserError(
            f"{source}: no job file (*.slurm) and no run in it; name the folder that holds them"
        )
    started = order_in_time([run for run in runs if run.id])
    by_workload: dict[str, list[Run]] = {}
    for run in started:
        by_workload.setdefault(run.workload or DEFAULT_WORKLOAD, []).append(run)
    studies, losses, parts = [], [], []
    for number, (name, ours) in enumerate(sorted(by_workload.items()), start=1):
        site = describe_site(name) if describe_site else None
        tables = make_readme_tables(runs, name, site=site, source=source)
        part = {"name": name, "readme_tables": tables, "differences": make_differences(ours)}
        try:
            study = make_study(started, name, source=source)
        except UserError as error:
            part["no_study"] = str(error)
        else:
            studies.append(study)
            part |= _describe_study(study, f"w{number}")
            losses.append(state_loss(name, part["findings"]))
        parts.append(part)
    epochs = make_frames(started, ["epochs"])["epochs"]
    by_run: dict[tuple, list[dict]] = {}
    for row in epochs[~epochs["is_superseded"]].to_dict("records"):
        by_run.setdefault((row["folder"], row["run_id"]), []).append(row)
    return render_page(TEMPLATE, {
        "folder": source,
        "made_utc": strftime("%Y-%m-%d %H:%M:%S UTC", gmtime()),
        "reload_s": reload_s,
        "verdict": state_verdict(studies, runs, filter(None, losses)),
        "good_one_node_pct": GOOD_ONE_NODE_PCT,
        "good_nodes_pct": GOOD_NODES_PCT,
        "poor_pct": POOR_PCT,
        "loss_table": make_loss_table,
        "loss_definitions": DEFINITIONS,
        "states": count_states(started),
        "waiting": [run.reason for run in runs if not run.id],
        "parts": parts,
        "pages": [
            make_run_page(run, by_run.get((str(run.folder), run.id), []))
            for run in reversed(started)
        ],
    })  # fmt: skip


def _describe_study(study: Study, key: str) -> dict[str, object]:
    """Return what a workload's part of the page shows besides the README's tables."""
    charts, findings = list_charts(study), diagnose(study)
    return {
        "means": make_means(study),
        "findings": findings,
        "worst": max(findings, key=lambda finding: finding.lost_points, default=None),
        "tables": list_study_tables(study),
        "figures": [draw_figure(chart, key) for chart in charts if not chart.reason],
        "not_drawn": "; ".join(f"{c.title}: {c.reason}" for c in charts if c.reason),
    }


def list_study_tables(study: Study) -> list[Table]:
    """Return advice, fixed work, runs, ideal, cost, plan and, from four scales on, the laws.

    Last, where several strategies ran at one scale: these side by side.
    """
    advice, *others = list_advice(study)
    with suppress(UserError):
        others += make_strategies(study)
    summary = make_summary_tables(study)
    return [advice, make_fixed_work(study), *summary, make_cost(study, energy_runs=1), *others]


def make_loss_table(finding: Finding) -> Table:
    """Return a finding's table in numbers alone: the sentences above it say the rest."""
    table = finding.table()
    headers = {name: text for name, text in table.headers.items() if name in LOSS_COLUMNS}
    return replace(table, headers=headers, definitions=(), remarks=())


def make_means(study: Study) -> Table:
    """Return a row for each configuration: throughput over its repeats, ratios, a verdict."""
    headers = {
        "config": "Configuration", "gpus": "GPUs", "runs": "Runs",
        "throughput": f"Throughput ({study.unit})", "spread": "±", "speedup": "Speedup",
        "efficiency": "Efficiency (%)", "verdict": "Verdict",
    }  # fmt: skip
    configs, rows, none = list_configs(study), [], Cell(None, "—")
    baselines = set(configs.drop_duplicates("series")["config"])
    compared = set(list_compared(study)["config"])
    for row in configs.itertuples():
        is_compared, warm_up = row.config in compared, "" if row.is_steady else " (warm-up)"
        band = name_band(row.efficiency_pct, row.nodes) if is_compared else "not compared"
        rows.append({
            "config": say(row.title), "gpus": say(row.gpus), "runs": say(row.n_runs),
            "throughput": show_as("{:,.1f}" + warm_up, row.throughput_per_s),
            "spread": show_as("± {:,.1f}", row.throughput_half),
            "speedup": show_as("{:.2f}×", row.speedup) if is_compared else none,
            "efficiency": show_as("{:.1f}", row.efficiency_pct) if is_compared else none,
            "verdict": say("baseline" if is_compared and row.config in baselines else band),
        })  # fmt: skip
    definitions = (
        "Throughput: the mean over runs of each run's mean over epochs. With several runs ± is "
        "half of the 95 % interval (Student t), with one the sample standard deviation over its "
        "epochs. Ratios are against the smallest scale with equal settings.",
    )
    table = Table("means", "Means over the epochs after the warm-up", headers, rows, definitions)
    return add_hardware(study, table, configs.itertuples())


def make_differences(runs: Sequence[Run]) -> Table | None:
    """Return a row for each combination of settings of a workload's runs, None when all agree."""
    runs = [run for run in runs if run.settings]
    settings = pd.DataFrame([dict(flatten(run.settings)) for run in runs], dtype=object)
    settings = settings.fillna("not recorded")
    # Of the two batches only the one that scaling keeps fixed can differ by choice.
    follows = {True: "batch_size_per_gpu", False: "global_batch_size"}
    is_strong = {run.settings.get("scaling") == "strong" for run in runs}
    own = {*OWN_SETTINGS, *((follows[min(is_strong)],) if len(is_strong) == 1 else ())}
    differing = [name for name in settings
                 if name.split(".")[0] not in own and settings[name].nunique() > 1]  # fmt: skip
    if not differing:
        return None
    must_agree = (*COMPARED_SETTINGS, *follows.values())
    headers = {name: f"{name} *" if name in must_agree else name for name in differing}
    rows = []
    for values, places in settings.groupby(differing, sort=False).indices.items():
        ids = [runs[at].id for at in places]
        more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
        values = values if isinstance(values, tuple) else (values,)
        rows.append({
            " ": say(", ".join(ids[:MOST_NAMED]) + more),  # no setting is called that
            **{name: say(value) for name, value in zip(differing, values, strict=True)},
        })  # fmt: skip
    definitions = ("Settings marked * must agree before two runs are compared.",)
    title = "What differs between the runs"
    return Table("differences", title, {" ": "Runs", **headers}, rows, definitions)


def render_page(template: str, context: dict) -> str:
    """Return a page of the report's style and script as one document that needs nothing else."""
    environment = make_environment()
    environment.filters["drawn"] = Markup  # only for SVG that this package has drawn
    source, *_ = environment.loader.get_source(environment, TEMPLATE)
    (script,) = _SCRIPT.findall(source)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(**context, script_sha256=digest)
