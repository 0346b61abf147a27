"""The report: all runs below a folder on one HTML page that needs nothing else."""

import base64
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import gmtime, strftime

import pandas as pd
from markupsafe import Markup

from common.errors import UserError
from scaling.advise import list_advice
from scaling.diagnose import DEFINITIONS, Finding, diagnose
from scaling.plots import list_charts
from scaling.plots.scaling_charts import list_compared, list_configs
from scaling.report.run_page import flatten, make_run_page
from scaling.report.svg import Figure, draw_figure
from scaling.report.verdict import state_loss, state_verdict
from scaling.runs import Run, State, Study, make_frames, make_study, order_in_time
from scaling.runs.alike import COMPARED_SETTINGS
from scaling.runs.ratios import GOOD_NODES_PCT, GOOD_ONE_NODE_PCT, POOR_PCT, name_band
from scaling.runs.workloads import DEFAULT_WORKLOAD
from scaling.tables import (
    Cell,
    Table,
    make_cost,
    make_fixed_work,
    make_readme_tables,
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


@dataclass(frozen=True)
class WorkloadPart:
    """One workload's part of the page. no_study: why it has nothing but the README's tables."""

    name: str
    readme_tables: Sequence[Table]
    differences: Table | None
    no_study: str = ""
    means: Table | None = None
    findings: Sequence[Finding] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    not_drawn: Sequence[str] = ()

    @property
    def worst(self) -> Finding | None:
        """The scale that loses most: it is open, and leads the verdict."""
        return max(self.findings, key=lambda finding: finding.lost_points, default=None)


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
    studies, parts = [], []
    for number, name in enumerate(sorted({_name_workload(run) for run in started}), start=1):
        site = describe_site(name) if describe_site else None
        ours = [run for run in started if _name_workload(run) == name]
        readme_tables = make_readme_tables(runs, name, site=site, source=source)
        known = (name, readme_tables, make_differences(ours))
        try:
            study = make_study(started, name, source=source)
        except UserError as error:
            parts.append(WorkloadPart(*known, no_study=str(error)))
        else:
            studies.append(study)
            parts.append(_make_part(study, known, f"w{number}"))
    losses = [state_loss(part.name, part.findings) for part in parts]
    epochs = make_frames(started, ["epochs"])["epochs"]
    by_run = dict(tuple(epochs.groupby(["folder", "run_id"])))
    pages = [
        make_run_page(run, by_run.get((str(run.folder), run.id), epochs.iloc[:0]), number)
        for number, run in enumerate(reversed(started), start=1)
    ]
    counts = Counter(run.state for run in started)
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
        "states": [(str(state), counts[state]) for state in State if counts[state]],
        "waiting": [run.reason for run in runs if not run.id],
        "parts": parts,
        "pages": pages,
    })  # fmt: skip


def _name_workload(run: Run) -> str:
    return run.workload or DEFAULT_WORKLOAD


def _make_part(study: Study, known: tuple, key: str) -> WorkloadPart:
    charts = list_charts(study)
    return WorkloadPart(
        *known,
        means=make_means(study),
        findings=diagnose(study),
        tables=list_study_tables(study),
        figures=[draw_figure(chart, key) for chart in charts if not chart.reason],
        not_drawn=[f"{chart.title}: {chart.reason}" for chart in charts if chart.reason],
    )


def list_study_tables(study: Study) -> list[Table]:
    """Return advice, fixed work, runs, ideal, cost, plan and, from four scales on, the laws."""
    advice, *others = list_advice(study)
    return [
        advice,
        make_fixed_work(study),
        *make_summary_tables(study),
        make_cost(study, energy_runs=1),
        *others,
    ]


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
    compared, rows = set(list_compared(study)["config"]), []
    baselines = set(study.configs.drop_duplicates("series")["config"])
    for row in list_configs(study).itertuples():
        half, warm_up = row.throughput_half, "" if row.is_steady else " (warm-up)"
        cells = {
            "config": say(row.title), "gpus": say(row.gpus), "runs": say(row.n_runs),
            "throughput": _show(row.throughput_per_s, "{:,.1f}" + warm_up),
            "spread": Cell(None, "—") if pd.isna(half) else _show(half, "± {:,.1f}"),
        }  # fmt: skip
        if row.config in compared:
            band = name_band(row.efficiency_pct, row.nodes)
            cells |= {
                "speedup": _show(row.speedup, "{:.2f}×"),
                "efficiency": _show(row.efficiency_pct, "{:.1f}"),
                "verdict": say("baseline" if row.config in baselines else band),
            }
        else:
            cells |= dict.fromkeys(("speedup", "efficiency"), Cell(None, "—"))
            cells["verdict"] = say("not compared")
        rows.append(cells)
    definitions = (
        "Throughput: the mean over runs of each run's mean over epochs. With several runs ± is "
        "half of the 95 % interval (Student t), with one the sample standard deviation over its "
        "epochs. Ratios are against the smallest scale with equal settings.",
    )
    return Table("means", "Means over the epochs after the warm-up", headers, rows, definitions)


def _show(value: float, form: str) -> Cell:
    return Cell(value, form.format(value))


def make_differences(runs: Sequence[Run]) -> Table | None:
    """Return a row for each combination of settings of a workload's runs, None when all agree."""
    known = [(run, dict(flatten(run.settings))) for run in runs if run.settings]
    names = list(dict.fromkeys(name for _, settings in known for name in settings))
    names = [name for name in names if name.split(".")[0] not in OWN_SETTINGS]
    # Of the two batches only the one that scaling keeps fixed can differ by choice.
    follows = {True: "batch_size_per_gpu", False: "global_batch_size"}
    is_strong = {run.settings.get("scaling") == "strong" for run, _ in known}
    if len(is_strong) == 1:
        names = [name for name in names if name != follows[min(is_strong)]]
    differing = [name for name in names if len({settings.get(name) for _, settings in known}) > 1]
    if not differing:
        return None
    groups: dict[tuple, list[str]] = defaultdict(list)
    for run, settings in known:
        groups[tuple(settings.get(name) for name in differing)].append(run.id)
    must_agree = (*COMPARED_SETTINGS, *follows.values())
    headers = {name: f"{name} *" if name in must_agree else name for name in differing}
    rows = []
    for values, ids in groups.items():
        more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
        cells = (say("not recorded" if value is None else value) for value in values)
        rows.append({
            " ": say(", ".join(ids[:MOST_NAMED]) + more),  # no setting is called that
            **dict(zip(differing, cells, strict=True)),
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
