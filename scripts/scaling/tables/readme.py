"""The tables of the README, filled from a workload's runs: values, ratios, reasons and sources.

Each row shows the last epoch's line of the latest complete run at its scale: what a participant
copies by hand. What averages over runs and epochs is made from a Study.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from common.errors import UserError
from common.rounding import round_half_even, to_decimal
from scaling.read.foreign_log import Windows, show_rate
from scaling.read.gpu_log import GpuLog
from scaling.runs.alike import compare, is_profiled
from scaling.runs.ratios import SUPERLINEAR_PCT, compute_efficiency_pct, divide
from scaling.runs.run import Run
from scaling.runs.select import (
    Choice,
    Scale,
    choose,
    find_strategy,
    has_scale,
    is_growing,
    is_of_workload,
    part_by_strategy,
    resolve_jobs,
    usual_gpus_per_node,
)
from scaling.runs.workloads import DEFAULT_WORKLOAD, Workload, describe_workload
from scaling.tables.table import Cell, Table, add_note, join_notes, missing, say

MEMORY_DEFINITION = (
    "GPU 0: the lowest index in node0's log. CPU Peak: resident memory, summed over node0's "
    "processes (a page that they share counts once for each)."
)
DEFAULT_EPOCHS = 3
BASELINE: Scale = (1, 1)
SLACK_S = 5  # besides two sampling intervals: loggers start and stop around the training
SAMPLING_INTERVAL_S = 5  # the run contract's, for a log with too few samples to show its own
# Column -> what it is a ratio of, to the baseline's; the efficiency is made from the throughput.
RATIOS = {
    "throughput_scaling": "throughput_per_s",
    "memory_avg_scaling": "gpu0_avg_mib",
    "efficiency_pct": "throughput_per_s",
}


@dataclass(frozen=True)
class Site:
    """What the cluster's profile says, by the job's folder below experiments/.

    cannot_run: why the cluster cannot run a job. expected: `throughput`, `tolerance_pct` and
    perhaps `source` of one.
    """

    cannot_run: dict[str, str] = field(default_factory=dict)
    expected: dict[str, dict] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """One row: its scale, and the run that fills it (None: see `reason`)."""

    config: str
    nodes: int
    gpus_per_node: int | None
    run: Run | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ReadmeTable(Table):
    """A table of the README; `shown` says of each of its rows which run it shows."""

    shown: Sequence[Shown] = ()


@dataclass(frozen=True)
class _Row:
    config: str
    nodes: int
    gpus_per_node: int | None  # None: the multi-node jobs' own number
    folder: str  # where the committed job file stands below experiments/
    script: str

    @property
    def scale(self) -> Scale:
        return self.nodes, self.gpus_per_node


@dataclass(frozen=True)
class _Layout:
    name: str
    title: str
    base: str
    rows: tuple[_Row, ...]


_LAYOUTS = (
    _Layout(
        "multi_gpu",
        "Multi-GPU Scaling (1 Node)",
        "1G",
        (
            _Row("1 GPU, 1 Node (baseline)", 1, 1, "baseline", "baseline.slurm"),
            _Row("2 GPUs, 1 Node", 1, 2, "multi_gpu/2_gpus", "multi_gpu.slurm"),
            _Row("4 GPUs, 1 Node", 1, 4, "multi_gpu/4_gpus", "multi_gpu.slurm"),
            _Row("8 GPUs, 1 Node", 1, 8, "multi_gpu/8_gpus", "multi_gpu.slurm"),
        ),
    ),
    _Layout(
        "multi_node",
        "Multi-Node Scaling (Fixed GPUs per Node)",
        "1N",
        (
            _Row("1 Node (baseline)", 1, 1, "baseline", "baseline.slurm"),
            _Row("2 Nodes", 2, None, "multi_node/2_nodes", "multi_node.slurm"),
            _Row("4 Nodes", 4, None, "multi_node/4_nodes", "multi_node.slurm"),
            _Row("8 Nodes", 8, None, "multi_node/8_nodes", "multi_node.slurm"),
        ),
    ),
)


def make_readme_tables(
    runs: Sequence[Run],
    workload: str = DEFAULT_WORKLOAD,
    jobs: Sequence[str] = (),
    site: Site | None = None,
    allow_unlike: bool = False,
    source: str = "these runs",
) -> list[ReadmeTable]:
    """Return the README's tables for a workload: one or two, with the runs that they show.

    Each row shows the latest complete run at its scale, or the job named in `jobs`. `site`
    tells what the cluster cannot run, and what it should reach. allow_unlike: divide runs
    whose settings differ, too; the note names what differs. source: where the runs are from.
    Raises UserError when there is neither job file nor run (of another workload than
    TinyImageNet: of that workload), and for a job that no row can show.
    """
    site = site or Site()
    if not runs:
        raise UserError(
            f"{source}: no job file (*.slurm) and no run in it; name the folder that holds "
            "them, or write the job files with: python render.py"
        )
    ours = [run for run in runs if is_of_workload(run, workload)]
    growing = [run.id for run in ours if is_growing(run) and run.id]
    ours = [run for run in ours if not is_growing(run)]
    if not ours and not site.cannot_run and workload != DEFAULT_WORKLOAD:
        known = sorted({run.workload or DEFAULT_WORKLOAD for run in runs})
        raise UserError(
            f"{source}: no job file and no run of workload {workload}; there are those of: "
            f"{', '.join(known)}"
        )
    layouts = _list_layouts(workload, ours, site)
    scales = {row.scale for layout in layouts for row in layout.rows}
    at_scale = {scale: [run for run in ours if has_scale(run, scale)] for scale in scales}
    named = resolve_jobs(ours, list(jobs), scales)
    base = choose(at_scale[BASELINE], named).run
    parted = {
        scale: part_by_strategy(candidates, find_strategy(base) if base else "ddp")
        for scale, candidates in at_scale.items()
        if not any(run in named for run in candidates)
    }
    others = [run for _, rest in parted.values() for run in rest]
    choices = {
        scale: choose(parted[scale][0] if scale in parted else candidates, named)
        for scale, candidates in at_scale.items()
    }
    described = describe_workload(workload, ours)
    filler = _Filler(described, site, choices, layouts[0].rows[0], allow_unlike)
    tables = [filler.fill(layout) for layout in layouts]
    placed = {run for candidates in at_scale.values() for run in candidates}
    left_out = [_name_left_out(run) for run in ours if run.id and run not in placed]
    if others:
        names = ", ".join(f"job {run.id} ({find_strategy(run)})" for run in others)
        how = "python scripts/scaling_tables.py --strategies"
        left_out.append(f"of another strategy, not in these tables: {names}; see {how}")
    if growing:
        names = ", ".join(f"job {name}" for name in growing)
        how = "python scripts/scaling_tables.py --growing"
        left_out.append(f"the model grew with the GPUs, not in these tables: {names}; see {how}")
    return [*tables[:-1], replace(tables[-1], remarks=left_out)]


def _list_layouts(workload: str, runs: Sequence[Run], site: Site) -> list[_Layout]:
    """List the tables of a workload: the README's, in its own folders.

    TinyImageNet has all of their rows. Another workload has the baseline's, those at which it
    has a job or a run, and those of its jobs that the cluster cannot run.
    """
    usual_gpus = usual_gpus_per_node(list(runs))
    is_default = workload == DEFAULT_WORKLOAD
    layouts = []
    for layout in _LAYOUTS:
        rows = [
            replace(
                row,
                gpus_per_node=row.gpus_per_node or usual_gpus,
                folder=row.folder if is_default else f"{workload}/{row.folder}",
            )
            for row in layout.rows
        ]
        kept = tuple(
            row
            for row in rows
            if is_default
            or row.scale == BASELINE
            or row.folder in site.cannot_run
            or any(has_scale(run, row.scale) for run in runs)
        )
        if len(kept) > 1 or layout is _LAYOUTS[0]:
            layouts.append(replace(layout, rows=kept))
    return layouts


def _name_left_out(run: Run) -> str:
    nodes, gpus = run.nodes or "unknown", run.gpus_per_node or "unknown"
    scale = f"{nodes} nodes × {gpus} GPUs"
    how = ""
    if run.gpus is None and run.log_path:
        how = f"; say its GPUs with --gpus {run.log_path.name}=N"
    return f"not in these tables: job {run.id} ({scale} has no row): {run.reason}{how}"


class _Filler:
    """Fills the rows of one workload, each from the choice at its scale."""

    def __init__(
        self,
        workload: Workload,
        site: Site,
        choices: dict[Scale, Choice],
        baseline_row: _Row,
        allow_unlike: bool,
    ):
        self.workload = workload
        self.site = site
        self.choices = choices
        self.baseline_row = baseline_row
        self.allow_unlike = allow_unlike
        self.epochs = _find_epochs(choices)
        self.baseline = choices[BASELINE].run
        self.measured = {
            choice.run: measure(choice.run, workload) for choice in choices.values() if choice.run
        }

    def fill(self, layout: _Layout) -> ReadmeTable:
        headers = self._list_headers(layout.base)
        shown = [self._show(row) for row in layout.rows]
        return ReadmeTable(
            layout.name,
            layout.title,
            headers,
            [self._fill_row(row, headers) for row in layout.rows],
            (
                self._define_throughput(),
                MEMORY_DEFINITION,
            ),
            sources=[f"{row.config}: {self._name_source(row)}" for row in layout.rows],
            keys=[_list_keys(each) for each in shown],
            facts={
                "epochs": self.epochs or None,
                "workload": self.workload.name,
                "throughput_unit": self.workload.unit,
            },
            shown=shown,
        )

    def _define_throughput(self) -> str:
        if not self.epochs:
            return "Throughput: of the whole job, the mean of its log's windows after the warm-up."
        return (
            f"Throughput: {self.workload.noun} of all ranks / seconds of the slowest rank, "
            "training part of the epoch only, last epoch."
        )

    def _list_headers(self, base: str) -> dict[str, str]:
        score = self.workload.score
        of = f"Epoch {self.epochs}" if self.epochs else "last"  # windows are not counted
        return {
            "config": "Config",
            "train_loss": f"Train Loss ({of})",
            score.log_key: score.header.format(of=of),
            "throughput_per_s": f"Throughput ({self.workload.unit})",
            "gpu0_peak_mib": "GPU 0 Peak (MiB)",
            "gpu0_avg_mib": "GPU 0 Avg (MiB)",
            "gpu0_mode_mib": "GPU 0 Mode (MiB)",
            "throughput_scaling": f"Throughput Scaling vs {base}",
            "memory_avg_scaling": f"Memory Avg Scaling vs {base}",
            "efficiency_pct": "Parallel Efficiency (%)",
            "cpu_peak_mib": "CPU Peak (MiB)",
        }

    def _show(self, row: _Row) -> Shown:
        run = self.choices[row.scale].run
        return Shown(row.config, *row.scale, run, None if run else self._explain_no_run(row))

    def _explain_no_run(self, row: _Row) -> str:
        if self._cannot_run(row):
            return self.site.cannot_run[row.folder]
        script = f"{row.folder}/{row.script}"
        no_script = f"no run yet, and no job file {script}: write it with python render.py"
        return self.choices[row.scale].reason or no_script

    def _cannot_run(self, row: _Row) -> bool:
        choice = self.choices[row.scale]
        return not choice.was_started and row.folder in self.site.cannot_run

    def _name_source(self, row: _Row) -> str:
        """Return which job and log a row was read from, and a later run that it does not show."""
        if self._cannot_run(row):
            return "no run: this cluster cannot run it"
        choice = self.choices[row.scale]
        if choice.run is None:
            latest = f"; the latest log is {choice.latest_log}" if choice.latest_log else ""
            return f"no complete run{latest}"
        log = choice.run.log_path or f"{choice.run.results_dir} (no Slurm log)"
        if isinstance(choice.run.attempt, Windows):
            log = f"{log} (log format {choice.run.attempt.log.format.name})"
        later = f"; later and not shown: {choice.later}" if choice.later else ""
        return f"job {choice.run.id}, {log}{later}"

    def _fill_row(self, row: _Row, columns: Iterable[str]) -> dict[str, Cell]:
        run = self.choices[row.scale].run
        if run is None:
            why = self._explain_no_run(row)
            note = why if self._cannot_run(row) else None
            return dict.fromkeys(columns, missing(why)) | {"config": say(row.config, note)}
        cells = {**self.measured[run], **self._compare(run)}
        if row.folder in self.site.expected:
            cells["throughput_per_s"] = check_expected(
                cells["throughput_per_s"], self.site.expected[row.folder], self.workload.unit
            )
        config = row.config if run.nodes else f"{run.gpus} GPUs"  # by a log that names no nodes
        cells["config"] = say(config, join_notes(*self._list_notes(run)))
        return {name: cells[name] for name in columns}

    def _list_notes(self, run: Run) -> list[str]:
        """List what is to know of a run: rank files that cannot be used, other epochs."""
        run.rank_epochs  # noqa: B018 - reading them names those that cannot be used
        notes = [*run.lost_records, *run.end_note, *run.fault_notes]
        if is_profiled(run):
            notes.append("this run was profiled, which slows it down")
        last = run.attempt.last if run.attempt else None
        if run.nodes is None:
            log = run.log_path.name if run.log_path else run.id
            notes.append(f"its number of nodes is unknown: --gpus {log}=NODESxGPUS says it")
        if isinstance(run.attempt, Windows):
            notes += [run.attempt.describe(), *run.attempt.notes]
        elif last is not None and last.epochs != self.epochs:
            notes.append(f"this run has {last.epochs} epochs: its values are of epoch {last.epoch}")
        return notes

    def _compare(self, run: Run) -> dict[str, Cell]:
        """Return the three cells that set a run against the 1-GPU run."""
        base = self.baseline
        if base is None:
            why = self._explain_no_run(self.baseline_row)
            return dict.fromkeys(RATIOS, missing(f"no complete 1-GPU run to compare with: {why}"))
        difference, note = compare(run, base)
        if difference is not None and not self.allow_unlike:
            return dict.fromkeys(RATIOS, missing(f"not compared with job {base.id}: {difference}"))
        if difference is not None:
            note = f"unlike, and compared (--allow-unlike) with job {base.id}: {difference}"
        cells = self._divide(run, base)
        return {
            name: cell if cell.value is None else add_note(cell, note)
            for name, cell in cells.items()
        }

    def _divide(self, run: Run, base: Run) -> dict[str, Cell]:
        places = 1 if run is base else 2
        cells = {
            name: _divide_cells(self.measured[run][of], self.measured[base][of], places)
            for name, of in RATIOS.items()
        }
        if run.gpus is None:
            unknown = missing("the number of GPUs is unknown: no run.json")
            return {**cells, "efficiency_pct": unknown}
        speedup = cells["efficiency_pct"]
        if speedup.value is not None:
            pct = compute_efficiency_pct(speedup.value, run.gpus)
            text = round_half_even(pct, 1)
            cells["efficiency_pct"] = Cell(pct, text, explain_superlinear(pct, text))
        return cells


def _find_epochs(choices: dict[Scale, Choice]) -> int:
    """Return the epochs of the baseline, else of most runs, else those of the job files."""

    def count(choice: Choice) -> int | None:
        attempt = choice.run.attempt if choice.run else None
        return attempt.last.epochs if attempt and attempt.last else None

    counts = Counter(count(choice) for choice in choices.values())
    counts.pop(None, None)
    usual = max(counts, key=lambda n: (counts[n], n), default=DEFAULT_EPOCHS)
    told = count(choices[BASELINE])
    return usual if told is None else told


def _list_keys(shown: Shown) -> dict[str, object]:
    run = shown.run
    last = run.attempt.last if run and run.attempt else None
    return {
        "nodes": shown.nodes,
        "gpus_per_node": shown.gpus_per_node,
        "job_id": run.id if run else None,
        "epoch": (last.epoch or None) if last else None,
        "log": run.log_path if run else None,
    }


# ---- One run's cells -------------------------------------------------------------------------


def measure(run: Run, workload: Workload) -> dict[str, Cell]:
    """Return the seven measured cells of a complete run, by column name."""
    return {
        **_measure_epoch(run, workload),
        **_measure_gpu(run),
        "cpu_peak_mib": _measure_cpu(run),
    }


def _measure_epoch(run: Run, workload: Workload) -> dict[str, Cell]:
    score = workload.score
    names = ("train_loss", score.log_key, "throughput_per_s")
    last = run.attempt.last if run.attempt else None
    if last is None:
        reason = "the log has no readable epoch line" if run.log else _explain_no_log(run)
        reason = run.log_problem or reason
        return dict.fromkeys(names, missing(reason))
    if last.epoch != last.epochs:
        reason = f"the log has no readable line for epoch {last.epochs} of {last.epochs}"
        return dict.fromkeys(names, missing(reason))
    value = last.get(score.log_key)
    rate, is_mean = last.throughput_per_s, isinstance(run.attempt, Windows)
    shown = Cell(rate, show_rate(rate)) if is_mean else _show_logged(rate)
    return {
        "train_loss": _show_logged(last.train_loss),
        score.log_key: missing(f"the {'log' if is_mean else 'epoch line'} holds no {score.name}")
        if value is None
        else _show_logged(value, "%" if score.log_key.endswith("_pct") else ""),
        "throughput_per_s": shown
        if last.unit == workload.unit
        else missing(f"logged as {last.throughput_per_s} {last.unit}, not in {workload.unit}"),
    }


def _explain_no_log(run: Run) -> str:
    if run.log_path:
        return next((p for p in run.problems if str(run.log_path) in p), "its log cannot be read")
    return f"no Slurm log: {run.folder / 'log'} has no *_{run.job}.out"


def _show_logged(number: Decimal | None, unit: str = "") -> Cell:
    if number is None:
        return missing("the epoch line does not hold it")
    text = f"{number}".lower() + unit
    return Cell(number, text, None if number.is_finite() else f"{text} in the log")


def _measure_gpu(run: Run) -> dict[str, Cell]:
    names = ("gpu0_peak_mib", "gpu0_avg_mib", "gpu0_mode_mib")
    try:
        if 0 not in run.gpu_logs:
            is_on_cpu = (run.settings or {}).get("device") == "cpu"
            where = "node0 (the run used the CPU)" if is_on_cpu else "node0"
            raise UserError(f"no nvidia-smi on {where}: there is no GPU log of job {run.id}")
        log = take_gpu_log(run, 0)
        gpu = log.gpus[0]
        check_covers(run, "GPU", gpu.covered_s, gpu.interval_s)
    except UserError as error:
        return dict.fromkeys(names, missing(str(error)))
    # The last line, in which the logger is stopped, is most often cut.
    is_whole = all(reason.startswith("cut") for reason in log.counts.dropped)
    note = None if is_whole else f"GPU log {run.gpu_log_paths[0]}: {log.counts.describe_dropped()}"
    average = to_decimal(gpu.average_mib)
    return {
        "gpu0_peak_mib": Cell(gpu.peak_mib, str(gpu.peak_mib), note),
        "gpu0_avg_mib": Cell(average, round_half_even(average, 2), note),
        "gpu0_mode_mib": Cell(gpu.mode_mib, str(gpu.mode_mib), note),
    }


def take_gpu_log(run: Run, node: int) -> GpuLog:
    """Return a node's log of the job's own GPUs; UserError when it has no such samples."""
    log, path = run.gpu_logs.get(node), run.gpu_log_paths.get(node)
    if log is None:
        raise UserError(f"no GPU log of node {node} of job {run.id}")
    if log.problem:
        raise UserError(_name_problem("GPU", path, log.problem))
    if run.gpus_per_node and len(log.gpus) > run.gpus_per_node:
        raise UserError(
            f"GPU log {path} shows {len(log.gpus)} GPUs and the job had {run.gpus_per_node} "
            "a node: which are its own is unknown"
        )
    return log


def check_covers(run: Run, what: str, covered_s: float | None, interval_s: float | None) -> None:
    """Refuse a log that ends long before the training did, where both lengths are known."""
    training_s = run.attempt.totals.get("total_training_s") if run.attempt else None
    if training_s is None or not training_s.is_finite() or covered_s is None:
        return
    allowed_s = float(covered_s) + 2 * float(interval_s or SAMPLING_INTERVAL_S) + SLACK_S
    if allowed_s < training_s:
        stops = f"{what} log stops after {covered_s:.0f} s"
        raise UserError(f"{stops} of {training_s:.0f} s of training")


def _name_problem(what: str, path: Path, problem: str) -> str:
    return problem if str(path) in problem else f"{what} log {path}: {problem}"


def _measure_cpu(run: Run) -> Cell:
    log, path = run.cpu_logs.get(0), run.cpu_log_paths.get(0)
    if log is None:
        return missing(f"no psrecord log of node0 of job {run.id}")
    if log.problem:
        return missing(_name_problem("CPU", path, log.problem))
    try:
        check_covers(run, "CPU", log.covered_s, log.interval_s)
    except UserError as error:
        return missing(str(error))
    return Cell(log.peak_mib, round_half_even(log.peak_mib, 1))


def _divide_cells(cell: Cell, base: Cell, places: int) -> Cell:
    """Return cell / base, rounded once from the exact digits; or why there is none."""
    if cell.value is None:
        return missing(cell.note or "no value")
    if base.value is None:
        return missing(f"no baseline value: {base.note}")
    ratio = None
    if Decimal(cell.value).is_finite() and Decimal(base.value).is_finite():
        ratio = divide(cell.value, base.value)
    if ratio is None:
        return missing(f"{cell.text} / {base.text} is no number")
    return Cell(ratio, round_half_even(ratio, places) + "×")


# ---- What asks for a second look -------------------------------------------------------------


def explain_superlinear(efficiency_pct: Decimal | float, text: str) -> str | None:
    """Return the note on an efficiency that cannot be; more GPUs do not make each one faster."""
    if efficiency_pct <= SUPERLINEAR_PCT:
        return None
    return (
        f"{text} % is above {SUPERLINEAR_PCT} %, more than ideal: most often the 1-GPU run "
        "was slowed down. Look there for data_wait_s, other jobs on the node and a cold file "
        "cache, and run it again before you believe the ratio"
    )


def check_expected(cell: Cell, expected: dict, unit: str) -> Cell:
    """Note a throughput outside of what the cluster's profile expects, with both numbers.

    expected: `throughput`, `tolerance_pct` (of it), and perhaps `source`.
    """
    usual, tolerance_pct = (to_decimal(expected[key]) for key in ("throughput", "tolerance_pct"))
    if cell.value is None or not cell.value.is_finite() or not usual:
        return cell
    off_pct = (divide(cell.value, usual) - 1) * 100
    if abs(off_pct) <= tolerance_pct:
        return cell
    side = "above" if off_pct > 0 else "below"
    source = f", {expected['source']}" if expected.get("source") else ""
    return add_note(
        cell,
        f"{cell.text} {unit} is {round_half_even(abs(off_pct), 1)} % {side} the "
        f"{expected['throughput']:.10g} {unit} that the cluster's profile expects "
        f"(± {expected['tolerance_pct']:.10g} %{source})",
    )
