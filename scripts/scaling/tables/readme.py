"""The tables of the README, filled from a workload's runs: values, ratios, reasons and sources."""

from collections import Counter
from fractions import Fraction
from pathlib import Path

from common.errors import UserError
from scaling.runs.choosing import (
    Choice,
    Scale,
    choose,
    has_scale,
    is_of_workload,
    resolve_jobs,
    usual_gpus_per_node,
)
from scaling.runs.comparing import check_efficiency, check_expected, compare_settings
from scaling.runs.find import Run, check_rank_records, describe_no_run, find_runs
from scaling.runs.workloads import (
    DEFAULT_WORKLOAD,
    TABLES,
    RowSpec,
    Subject,
    TableSpec,
    describe_workload,
    list_tables,
)
from scaling.tables.cells import Cell, add_note, measure, missing, ratio_cell
from scaling.tables.table_parts import MEMORY_DEFINITION, Report, Row, Site, Table

__all__ = ["MEMORY_DEFINITION", "Report", "Row", "Site", "Table", "build_report"]
DEFAULT_EPOCHS = 3
BASELINE: Scale = (1, 1)


def build_report(
    folder: Path,
    jobs: list[str] | None = None,
    now_s: float | None = None,
    workload: str = DEFAULT_WORKLOAD,
    site: Site | None = None,
    allow_unlike: bool = False,
) -> Report:
    """Return the README's two tables for a workload, filled from the runs below a folder.

    Each row shows the last epoch's line of the latest complete run at its scale, or of the
    job named in `jobs`. `site` tells what the cluster cannot run, and what it should reach.
    allow_unlike: divide runs whose settings differ, too; the note names what differs.
    Raises UserError when the folder does not exist or holds neither job file nor run (of
    another workload than TinyImageNet: of that workload), and for a job that no row can show.
    """
    folder, site = Path(folder), site or Site()
    runs = find_runs(folder, now_s)
    if not runs:
        raise UserError(
            f"{folder}: no job file (*.slurm) and no run in it; name the folder that holds "
            "them, or write the job files with: python render.py"
        )
    ours = _keep_workload(runs, workload, site, folder)
    subject = describe_workload(workload, ours)
    usual_gpus = usual_gpus_per_node(ours)
    found = {scale for scale in _list_scales(usual_gpus) if any(has_scale(r, scale) for r in ours)}
    specs = list_tables(subject, found, set(site.cannot_run), usual_gpus)
    scales = {row.scale(usual_gpus) for table in specs for row in table.rows}
    at_scale = {scale: [run for run in ours if has_scale(run, scale)] for scale in scales}
    named = resolve_jobs(ours, jobs or [], scales)
    choices = {scale: choose(candidates, named) for scale, candidates in at_scale.items()}
    filler = _Filler(folder, subject, site, specs, choices, usual_gpus, allow_unlike)
    placed = {run for candidates in at_scale.values() for run in candidates}
    return Report(
        filler.epochs,
        [filler.fill(table) for table in specs],
        [_name_left_out(run) for run in ours if run.id and run not in placed],
        subject,
    )


def _keep_workload(runs: list[Run], workload: str, site: Site, folder: Path) -> list[Run]:
    """Keep a workload's runs; raise UserError when one that was asked for has none."""
    ours = [run for run in runs if is_of_workload(run, workload)]
    if not ours and not site.cannot_run and workload != DEFAULT_WORKLOAD:
        known = sorted({run.workload or DEFAULT_WORKLOAD for run in runs})
        raise UserError(
            f"{folder}: no job file and no run of workload {workload}; there are those of: "
            f"{', '.join(known)}"
        )
    return ours


def _list_scales(usual_gpus: int) -> set[Scale]:
    return {row.scale(usual_gpus) for table in TABLES for row in table.rows}


def _find_epochs(choices: dict[Scale, Choice]) -> int:
    """Return the epochs of the baseline, else of most runs, else those of the job files."""

    def count(choice: Choice) -> int | None:
        attempt = choice.run.attempt if choice.run else None
        return attempt.last.epochs if attempt and attempt.last else None

    counts = Counter(count(choice) for choice in choices.values())
    counts.pop(None, None)
    usual = max(counts, key=lambda n: (counts[n], n), default=DEFAULT_EPOCHS)
    return count(choices[BASELINE]) or usual


def _name_left_out(run: Run) -> str:
    nodes, gpus = run.nodes or "unknown", run.gpus_per_node or "unknown"
    return f"job {run.id} ({nodes} nodes × {gpus} GPUs has no row): {run.reason}"


class _Filler:
    def __init__(
        self,
        folder: Path,
        subject: Subject,
        site: Site,
        specs: tuple[TableSpec, ...],
        choices: dict[Scale, Choice],
        usual_gpus: int,
        allow_unlike: bool,
    ):
        self.folder = folder
        self.specs = specs  # the first row of the first is the baseline's
        self.subject = subject
        self.site = site
        self.choices = choices
        self.epochs = _find_epochs(choices)
        self.usual_gpus = usual_gpus
        self.allow_unlike = allow_unlike
        self.baseline = choices[BASELINE].run
        self.measured = {
            choice.run: measure(choice.run, subject.score, subject.unit)
            for choice in choices.values()
            if choice.run
        }

    def fill(self, spec: TableSpec) -> Table:
        headers = self.subject.list_columns(self.epochs, spec.base)
        rows = [self._fill_row(row, list(headers)) for row in spec.rows]
        return Table(spec.name, spec.title, headers, rows)

    def _fill_row(self, spec: RowSpec, columns: list[str]) -> Row:
        scale = spec.scale(self.usual_gpus)
        choice = self.choices[scale]
        if choice.run is None:
            return self._explain_row(spec, choice, columns)
        run = choice.run
        cells = {**self.measured[run], **self._compare(run)}
        if spec.folder in self.site.expected:
            cells["throughput_per_s"] = check_expected(
                cells["throughput_per_s"], self.site.expected[spec.folder], self.subject.unit
            )
        notes = tuple(check_rank_records(run))
        last = run.attempt.last if run.attempt else None
        if last is not None and last.epochs != self.epochs:
            notes += (f"this run has {last.epochs} epochs: its values are of epoch {last.epoch}",)
        cells = {name: cells[name] for name in columns}
        return Row(spec.config, *scale, run, cells, notes=notes, later=choice.later)

    def _explain_row(self, spec: RowSpec, choice: Choice, columns: list[str]) -> Row:
        """Return the row of a scale that has no complete run."""
        reason = self._explain_no_run(spec)
        cannot = not choice.was_started and spec.folder in self.site.cannot_run
        return Row(
            spec.config,
            *spec.scale(self.usual_gpus),
            None,
            dict.fromkeys(columns, missing(reason)),
            reason=reason,
            notes=(reason,) if cannot else (),
            latest_log=choice.latest_log,
            cannot_run=cannot,
        )

    def _divide(self, run: Run, base: Run) -> dict[str, Cell]:
        here, there = self.measured[run], self.measured[base]
        throughputs = here["throughput_per_s"], there["throughput_per_s"]
        places = 1 if run is base else 2
        return {
            "throughput_scaling": ratio_cell(*throughputs, places),
            "memory_avg_scaling": ratio_cell(here["gpu0_avg_mib"], there["gpu0_avg_mib"], places),
            "efficiency_pct": missing("the number of GPUs is not known: no run.json")
            if run.gpus is None
            else check_efficiency(
                ratio_cell(*throughputs, places=1, factor=Fraction(100, run.gpus), sign="")
            ),
        }

    def _explain_no_run(self, spec: RowSpec) -> str:
        choice = self.choices[spec.scale(self.usual_gpus)]
        if not choice.was_started and spec.folder in self.site.cannot_run:
            return self.site.cannot_run[spec.folder]
        return choice.reason or describe_no_run(self.folder / spec.folder, spec.script)

    def _compare(self, run: Run) -> dict[str, Cell]:
        """Return the three cells that set a run against the 1-GPU run."""
        names = ("throughput_scaling", "memory_avg_scaling", "efficiency_pct")
        base = self.baseline
        if base is None:
            why = self._explain_no_run(self.specs[0].rows[0])
            return dict.fromkeys(names, missing(f"no complete 1-GPU run to compare with: {why}"))
        comparable, note = (True, None) if run is base else compare_settings(run, base)
        if not comparable and not self.allow_unlike:
            return dict.fromkeys(names, missing(note))
        if not comparable:
            note = note.replace("not compared", "unlike, and compared (--allow-unlike)", 1)
        cells = self._divide(run, base)
        return {
            name: cell if cell.value is None else add_note(cell, note)
            for name, cell in cells.items()
        }
