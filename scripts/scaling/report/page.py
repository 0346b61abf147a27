"""The report on the runs below a folder, and a workshop's page: HTML that needs nothing else."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import gmtime, strftime
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from common.errors import UserError
from scaling.advise import find_largest_worth, list_advice
from scaling.diagnose import DEFINITIONS, NAMED_POINTS, Finding, diagnose
from scaling.plots import (
    MAIN,
    Chart,
    draw_picture,
    list_charts,
    list_compared,
    list_configs,
    list_left_out,
    make_spread_chart,
)
from scaling.report.run_page import flatten, make_run_page, show_as
from scaling.runs import Run, State, Study, make_frames, make_study, order_in_time
from scaling.runs.compare import (
    COMPARED_SETTINGS,
    GOOD_NODES_PCT,
    GOOD_ONE_NODE_PCT,
    POOR_PCT,
    name_band,
)
from scaling.runs.study import count
from scaling.runs.workloads import DEFAULT_WORKLOAD
from scaling.tables import (
    Cell,
    Table,
    Workshop,
    add_hardware,
    make_cost,
    make_fixed_work,
    make_participants_tables,
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
MOST_NAMED = 12  # runs or participants in a row; more are counted
MOST_SERIES = 6  # with a sentence of their own
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class Sentence(NamedTuple):
    """One sentence of a page's first words; `kind` is good, fair, poor or note."""

    kind: str
    text: str


def make_page(
    runs: list[Run], source: str, describe_site: Callable | None = None, reload_s: int | None = None
) -> str:
    """Return the report on some runs as one HTML document. source: where they are, in words.

    describe_site(workload): what the cluster's profile says, as make_readme_tables takes it.
    reload_s: the page reloads itself after so many seconds. Raises UserError when there is nothing.
    """
    if not runs:
        raise UserError(
            f"{source}: no job file (*.slurm) and no run in it; name the folder that holds them"
        )
    started = order_in_time([run for run in runs if run.id])
    by_workload: dict[str, list[Run]] = {}
    for run in started:
        by_workload.setdefault(run.workload or DEFAULT_WORKLOAD, []).append(run)
    judged, parts = [], []
    for number, (name, ours) in enumerate(sorted(by_workload.items()), start=1):
        site = describe_site(name) if describe_site else None
        tables = make_readme_tables(runs, name, site=site, source=source)
        part = {"name": name, "readme_tables": tables, "differences": make_differences(ours)}
        try:
            study = make_study(started, name, source=source)
        except UserError as error:
            part["no_study"] = str(error)
        else:
            part |= _describe_study(study, f"w{number}")
            judged.append((study, [finding for finding, _ in part["findings"]]))
        parts.append(part)
    epochs = make_frames(started, ["epochs"])["epochs"]
    by_run: dict[tuple, list[dict]] = {}
    for row in epochs[~epochs["is_superseded"]].to_dict("records"):
        by_run.setdefault((row["folder"], row["run_id"]), []).append(row)
    return render_page(
        TEMPLATE,
        source,
        reload_s,
        verdict=state_verdict(judged, runs),
        good_one_node_pct=GOOD_ONE_NODE_PCT,
        good_nodes_pct=GOOD_NODES_PCT,
        poor_pct=POOR_PCT,
        loss_definitions=DEFINITIONS,
        states=count_states(started),
        waiting=[run.reason for run in runs if not run.id],
        parts=parts,
        pages=[
            make_run_page(run, by_run.get((str(run.folder), run.id), []))
            for run in reversed(started)
        ],
    )


def _describe_study(study: Study, key: str) -> dict[str, object]:
    """Return what a workload's part of the page shows besides the README's tables."""
    charts, findings = list_charts(study), diagnose(study)
    tables = [finding.table() for finding in findings]
    return {
        "means": make_means(study),
        "worst": find_worst(findings),
        # The page has the first remark, the headline, above the table.
        "findings": [(each, replace(table, definitions=(), remarks=table.remarks[1:]))
                     for each, table in zip(findings, tables, strict=True)],
        "tables": list_study_tables(study),
        "figures": draw_pictures(charts, key),
        "not_drawn": "; ".join(f"{c.title}: {c.reason}" for c in charts if c.reason),
    }  # fmt: skip


def draw_pictures(charts: Iterable[Chart], key: str) -> list[tuple[Chart, Markup]]:
    """Return the charts that have data, each with its SVG. key: a page's own name for the part."""
    return [(chart, Markup(draw_picture(chart, key))) for chart in charts if not chart.reason]


def list_study_tables(study: Study) -> list[Table]:
    """Return advice, fixed work, runs, ideal, cost, plan and, from four scales on, the laws.

    Last, where several strategies ran at one scale: these side by side.
    """
    advice, *others = list_advice(study)
    with suppress(UserError):
        others += make_strategies(study)
    summary = make_summary_tables(study)
    return [advice, make_fixed_work(study), *summary, make_cost(study, energy_runs=1), *others]


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
    rows = [
        {" ": say(name_some([runs[at].id for at in places])),  # no setting is called that
         **{name: say(settings[name].iloc[places[0]]) for name in differing}}
        for places in settings.groupby(differing, sort=False).indices.values()
    ]  # fmt: skip
    definitions = ("Settings marked * must agree before two runs are compared.",)
    title = "What differs between the runs"
    return Table("differences", title, {" ": "Runs", **headers}, rows, definitions)


def name_some(names: Sequence[str]) -> str:
    """Return names in a row: the first MOST_NAMED, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def render_page(template: str, folder: str, reload_s: int | None = None, **context: object) -> str:
    """Return a page of the report's style and script as one document that needs nothing else.

    Texts are escaped by the template, but for the SVG that scaling/ has drawn; a script in them
    could not run either, for the page's own policy allows one script by its hash and no connection.
    """
    environment = make_environment()
    source, *_ = environment.loader.get_source(environment, TEMPLATE)
    (script,) = _SCRIPT.findall(source)
    context |= {
        "folder": folder,
        "reload_s": reload_s,
        "made_utc": strftime("%Y-%m-%d %H:%M:%S UTC", gmtime()),
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment.get_template(template).render(context)


# ---- The verdict --------------------------------------------------------------------------------


def state_verdict(
    judged: Iterable[tuple[Study, Sequence[Finding]]], runs: Sequence[Run]
) -> list[Sentence]:
    """Return what scales how far, what costs it efficiency, what became of the runs.

    judged: each workload's study with its findings.
    """
    found, losses, left_out = [], [], []
    for study, findings in judged:
        found += _judge_study(study)
        losses += filter(None, [state_loss(study.workload, findings)])
        left_out += [f"{study.workload}: left out: {each}." for each in list_left_out(study)]
    notes = [*losses, _count_runs(runs), *left_out]
    return found + [Sentence("note", text) for text in notes]


def _judge_study(study: Study) -> list[Sentence]:
    """Say up to how many GPUs each series is worth asking for."""
    compared, found = list_compared(study), []
    series = [rows for _, rows in compared.groupby("series", sort=False)]
    for rows in series[:MOST_SERIES]:
        chosen, text = find_largest_worth(rows, GOOD_NODES_PCT)
        is_smallest = chosen.config == rows["config"].iloc[0]
        kind = "poor" if is_smallest else name_band(chosen.efficiency_pct, chosen.nodes)
        of_series = f" ({chosen.series_name})" if chosen.series_name else ""
        found.append(Sentence(kind, f"{study.workload}{of_series}: {text}"))
    if not series:
        scales = ", ".join(list_configs(study)["short_label"].unique()) or "no known throughput"
        found.append(Sentence("note", (
            f"{study.workload}: nothing to compare yet. A speedup needs two runs with equal "
            f"settings at different numbers of GPUs; there are complete runs at {scales}."
        )))  # fmt: skip
    elif len(series) > MOST_SERIES:
        more = f"{study.workload}: {len(series) - MOST_SERIES} more series are in the tables."
        found.append(Sentence("note", more))
    return found


def count_states(started: Iterable[Run]) -> str:
    """Return `7 complete, 1 out of memory`."""
    counts = Counter(run.state for run in started)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])


def _count_runs(runs: Sequence[Run]) -> str:
    started = [run for run in runs if run.id]
    bad = [run for run in started if run.state not in (State.COMPLETE, State.RUNNING)]
    if not started:
        return "No run has been started yet."
    text = f"{count(len(started), 'run')}: {count_states(started)}."
    return text + (f" The last that did not end well: {bad[-1].account}." if bad else "")


def find_worst(findings: Sequence[Finding]) -> Finding | None:
    """Return the scale that loses most of its efficiency, None where none is compared."""
    compared = [finding for finding in findings if finding.base is not None]
    return min(compared, key=lambda finding: finding.efficiency_pct, default=None)


def state_loss(workload: str, findings: Sequence[Finding]) -> str | None:
    """Return the sentences on the scale that loses most, None when little is lost."""
    worst = find_worst(findings)
    if worst is None or 100 - worst.efficiency_pct < NAMED_POINTS:
        return None
    why = worst.causes[0][0] if worst.causes else worst.rest or f"{'. '.join(worst.gaps[:1])}."
    seen = [f"Seen: {each}." for each in worst.seen]
    return " ".join([f"{workload}: {worst.headline}.", why, *seen])


# ---- A workshop's page --------------------------------------------------------------------------


def make_participants_page(workshop: Workshop, source: str, reload_s: int | None = None) -> str:
    """Return the page of a workshop. source: where the clones are, in words.

    reload_s: the page reloads itself after so many seconds.
    """
    tables = make_participants_tables(workshop)
    charts = [make_spread_chart(workshop)]
    if workshop.study is not None:
        charts += [chart for chart in list_charts(workshop.study) if chart.name in MAIN]
    return render_page(
        "participants.html.j2",
        source,
        reload_s,
        verdict=_describe_workshop(workshop, tables[0]),
        tables=tables,
        figures=draw_pictures(charts, "p"),
    )


def _describe_workshop(workshop: Workshop, progress: Table) -> list[Sentence]:
    """Return what an organiser must know first: progress, slow nodes, who is stuck."""
    done = [row["done"].value for row in progress.rows]
    scales = len(progress.headers) - 2
    whole = sum(each == scales for each in done) if scales else 0
    found = [Sentence("good" if whole == len(done) else "note", (
        f"{whole} of {count(len(done), 'participant')} have completed all {scales} scales; "
        f"{sum(done)} of {len(done) * scales} are done. {sum(each == 0 for each in done)} have "
        "none yet."
    ))]  # fmt: skip
    for host, pct in workshop.slow_hosts.items():
        runs = [row for row in workshop.ratios.itertuples() if host in row.hosts]
        found.append(Sentence("poor", (
            f"{host} is slow: the median of the {count(len(runs), 'run')} on it is {pct:.0f} % of "
            f"equal runs. Leave it out (sbatch --exclude={host}) and tell the site."
        )))  # fmt: skip
    if workshop.study is not None and not workshop.slow_hosts and len(workshop.ratios):
        found.append(Sentence("good", "No node is slow."))
    failed = [
        row["participant"].text
        for row in progress.rows
        if any(row[name].text == "failed" for name in progress.headers)
    ]
    if failed:
        text = f"The latest job did not end well for: {name_some(failed)}."
        found.append(Sentence("fair", text))
    return found + [Sentence("fair", f"{problem}.") for problem in workshop.problems]
