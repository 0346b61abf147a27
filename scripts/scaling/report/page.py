"""The report: everything below a folder on one HTML page that needs nothing else."""

import base64
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.console import printable
from common.errors import UserError
from scaling.diagnose.loss import RULE
from scaling.diagnose.text import BATCH_DEFINITION, DEFINITION
from scaling.plots.charts import list_charts
from scaling.plots.data import Study
from scaling.plots.load import make_studies
from scaling.plots.scaling_charts import list_compared
from scaling.read.state import State
from scaling.report.diagnosis import DiagnosisPart, list_diagnoses, state_loss
from scaling.report.differences import Differences, find_differences
from scaling.report.figures import Figure, draw_figures
from scaling.report.runs import make_run_page
from scaling.report.study_grids import list_study_grids
from scaling.report.verdict import state_verdict
from scaling.runs.comparing import name_band
from scaling.runs.find import Run, find_runs, order_in_time
from scaling.runs.study import make_study_of_runs
from scaling.tables.grid import Grid
from scaling.tables.readme import MEMORY_DEFINITION, build_report
from scaling.tables.table_parts import Report, Site
from scaling.tables.table_text import describe_source

TEMPLATE = "report.html.j2"
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True)
class WorkloadPart:
    """One workload's part: the README's tables, means, losses, charts, what differs."""

    name: str
    tables: Report
    means: list[list[str]]
    unit: str
    figures: list[Figure]
    not_drawn: list[str]
    differences: Differences | None
    grids: list[Grid]
    no_grids: str
    diagnoses: list[DiagnosisPart]


def make_page(
    folder: Path, templates: Path, describe_site=None, reload_s: int | None = None
) -> str:
    """Return the report on the runs below a folder as one HTML document.

    describe_site(workload): what the cluster's profile says, as build_report takes it.
    reload_s: the page reloads itself after so many seconds. Texts from logs and records are
    escaped by the template; a script in them could not run either, for the page's own policy
    allows one script by its hash and no connection. Raises UserError when there is nothing.
    """
    runs = find_runs(Path(folder))
    if not runs:
        raise UserError(
            f"{folder}: no job file (*.slurm) and no run in it; name the folder that holds them"
        )
    started = order_in_time([run for run in runs if run.id])
    studies = {study.workload: study for study in make_studies(runs)}
    names = sorted({run.workload or "tinyimagenet" for run in runs if run.id})
    parts = [
        _make_part(folder, name, studies.get(name), started, describe_site, f"w{number}")
        for number, name in enumerate(names, start=1)
    ]
    context = {
        "folder": str(folder),
        "made_utc": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "reload_s": reload_s,
        "verdict": state_verdict(list(studies.values()), runs, _list_losses(parts)),
        "loss_definitions": (DEFINITION, BATCH_DEFINITION, RULE),
        "states": [(str(s), n) for s in State if (n := Counter(r.state for r in started)[s])],
        "waiting": [run.reason for run in runs if not run.id],
        "parts": parts,
        "pages": [make_run_page(run, number) for number, run in enumerate(reversed(started), 1)],
        "memory_definition": MEMORY_DEFINITION,
        "describe_source": describe_source,
    }
    return _render(templates, context)


def _make_part(
    folder: Path, workload: str, study: Study | None, started: list[Run], describe_site, key: str
) -> WorkloadPart:
    site = describe_site(workload) if describe_site else Site()
    ours = [run for run in started if (run.workload or "tinyimagenet") == workload]
    grids, diagnoses, no_grids = _list_grids(started, workload)
    figures, not_drawn = draw_figures(list_charts(study), key) if study else ([], [])
    return WorkloadPart(
        workload,
        build_report(folder, workload=workload, site=site),
        _list_means(study) if study else [],
        study.unit if study else "",
        figures,
        not_drawn,
        find_differences(ours),
        grids,
        no_grids,
        diagnoses,
    )


def _list_grids(started: list[Run], workload: str) -> tuple[list[Grid], list[DiagnosisPart], str]:
    """Return every other table of the workload and what its scales lose, or why there is none."""
    try:
        study = make_study_of_runs(started, workload)
        return list_study_grids(study), list_diagnoses(study), ""
    except UserError as error:
        return [], [], str(error)


def _list_losses(parts: list[WorkloadPart]) -> list[str]:
    found = (state_loss(part.name, part.diagnoses) for part in parts if part.diagnoses)
    return [text for text in found if text]


def _list_means(study: Study) -> list[list[str]]:
    """Return a row a configuration: name, GPUs, n, throughput, its spread, ratios, a verdict."""
    rows = []
    compared = list_compared(study)
    for series in study.series:
        for config in series.configs:
            spread = config.spread_per_s
            row = [
                study.label(config), str(config.gpus), str(len(config.sources)),
                f"{config.throughput_per_s:,.1f}" + ("" if config.is_steady else " (warm-up)"),
                "—" if spread is None else f"± {spread:,.1f}",
            ]  # fmt: skip
            if series in compared:
                efficiency = series.efficiency_pct(config)
                word = "baseline"
                if config is not series.baseline:
                    word = name_band(efficiency, config.nodes)
                row += [f"{series.speedup(config):.2f}×", f"{efficiency:.1f}", word]
            else:
                row += ["—", "—", "not compared"]
            rows.append(row)
    return rows


def _render(templates: Path, context: dict) -> str:
    environment = Environment(
        loader=FileSystemLoader(templates), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["line"] = printable
    environment.filters["drawn"] = Markup  # only for SVG that this package has drawn
    template = environment.get_template(TEMPLATE)
    source = (templates / TEMPLATE).read_text(encoding="utf-8")
    (script,) = _SCRIPT.findall(source)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(**context, script_sha256=digest)
