"""The tables of the README, filled from a workload's runs: values, ratios, reasons and sources.

Each row shows the last epoch's line of the latest complete run at its scale: what a participant
copies by hand. What averages over runs and epochs is made from a Study.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from common.errors import UserError
from common.rounding import round_half_even, to_decimal
from scaling.read.foreign_log import Windows, show_rate
from scaling.read.gpu_log import GpuLog
from scaling.runs.compare import (
    DEFAULT_WORKLOAD,
    SUPERLINEAR_PCT,
    Workload,
    compare,
    compute_efficiency_pct,
    describe_workload,
    divide,
    is_profiled,
)
from scaling.runs.find import (
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
from scaling.runs.run import Run
from scaling.tables.table import Cell, Table, add_note, join_notes, missing, say, show

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
    """One row: its scale, the folder of its job below experiments/, and the choice of its run."""

    config: str
    nodes: int
    gpus_per_node: int
    folder: str
    site: Site
    choice: Choice | None = None

    @property
    def scale(self) -> Scale:
        return self.nodes, self.gpus_per_node

    @property
    def run(self) -> Run | None:
        return self.choice.run

    @property
    def is_impossible(self) -> bool:
        """Whether the cluster cannot run it, and nobody tried."""
        return not self.choice.was_started and self.folder in self.site.cannot_run

    @property
    def reason(self) -> str | None:
        """Why no run fills the row."""
        if self.run or self.is_impossible:
            return None if self.run else self.site.cannot_run[self.folder]
        kind = self.folder.split("/")[-1 if self.scale == BASELINE else -2]
        script = f"{self.folder}/{kind}.slurm"
        no_script = f"no run yet, and no job file {script}: write it with python render.py"
        return self.choice.reason or no_script

    @property
    def source(self) -> str:
        """Which job and log the row was read from, and a later run that it does not show."""
        if self.is_impossible:
            return "no run: this cluster cannot run it"
        if self.run is None:
            log = self.choice.latest_log
            return "no complete run" + (f"; the latest log is {log}" if log else "")
        log = self.run.log_path or f"{self.run.results_dir} (no Slurm log)"
        if isinstance(self.run.attempt, Windows):
            log = f"{log} (log format {self.run.attempt.log.format.name})"
        later = f"; later and not shown: {self.choice.later}" if self.choice.later else ""
        return f"job {self.run.id}, {log}{later}"

    @property
    def keys(self) -> dict[str, object]:
        last = self.run.attempt.last if self.run and self.run.attempt else None
        return {
            "nodes": self.nodes,
            "gpus_per_node": self.gpus_per_node,
            "job_id": self.run.id if self.run else None,
            "epoch": (last.epoch or None) if last else None,
            "log": self.run.log_path if self.run else None,
        }


@dataclass(frozen=True)
class ReadmeTable(Table):
    """A table of the README; `shown` says of each of its rows which run it shows."""

    shown: Sequence[Shown] = ()


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
    scales = {row.scale for *_, rows in layouts for row in rows}
    at_scale = {scale: [run for run in ours if has_scale(run, scale)] for scale in scales}
    left_out = [
        _name_left_out(run)
        for run in ours
        if run.id and not any(run in candidates for candidates in at_scale.values())
    ]
    named = resolve_jobs(ours, list(jobs), scales)
    base = choose(at_scale[BASELINE], named).run
    choices, others = {}, []
    for scale, candidates in at_scale.items():
        if not any(run in named for run in candidates):
            candidates, rest = part_by_strategy(candidates, find_strategy(base) if base else "ddp")
            others += [f"job {run.id} ({find_strategy(run)})" for run in rest]
        choices[scale] = choose(candidates, named)
    if others:
        how = "python scripts/scaling_tables.py --strategies"
        names = ", ".join(others)
        left_out.append(f"of another strategy, not in these tables: {names}; see {how}")
    if growing:
        names = ", ".join(f"job {name}" for name in growing)
        how = "python scripts/scaling_tables.py --growing"
        left_out.append(f"the model grew with the GPUs, not in these tables: {names}; see {how}")
    layouts = [
        (*told, [replace(row, choice=choices[row.scale]) for row in rows])
        for *told, rows in layouts
    ]
    filler = _Filler(describe_workload(workload, ours), choices, layouts[0][-1][0], allow_unlike)
    tables = [filler.fill(*layout) for layout in layouts]
    return [*tables[:-1], replace(tables[-1], remarks=left_out)]


def _list_layouts(workload: str, runs: Sequence[Run], site: Site) -> list[tuple]:
    """List (name, title, what ratios are over, rows) of a workload's tables, in its own folders.

    TinyImageNet has all rows of the README. Another workload has the baseline's, those at which
    it has a job or a run, and those of its jobs that the cluster cannot run.
    """
    is_default = workload == DEFAULT_WORKLOAD
    top, per_node = "" if is_default else f"{workload}/", usual_gpus_per_node(list(runs))
    one_node = [(f"{n} GPUs, 1 Node", 1, n, f"{top}multi_gpu/{n}_gpus") for n in (2, 4, 8)]
    nodes = [(f"{n} Nodes", n, per_node, f"{top}multi_node/{n}_nodes") for n in (2, 4, 8)]
    layouts = []
    for told, baseline, others in (
        (("multi_gpu", "Multi-GPU Scaling (1 Node)", "1G"), "1 GPU, 1 Node", one_node),
        (("multi_node", "Multi-Node Scaling (Fixed GPUs per Node)", "1N"), "1 Node", nodes),
    ):
        rows = [Shown(f"{baseline} (baseline)", *BASELINE, f"{top}baseline", site)]
        for row in (Shown(*other, site) for other in others):
            has_run = any(has_scale(run, row.scale) for run in runs)
            if is_default or has_run or row.folder in site.cannot_run:
                rows.append(row)
        if len(rows) > 1 or not layouts:
            layouts.append((*told, rows))
    return layouts


def _name_left_out(run: Run) -> str:
    scale = f"{run.nodes or 'unknown'} nodes × {run.gpus_per_node or 'unknown'} GPUs"
    how = ""
    if run.gpus is None and run.log_path:
        how = f"; say its GPUs with --gpus {run.log_path.name}=N"
    return f"not in these tables: job {run.id} ({scale} has no row): {run.reason}{how}"


class _Filler:
    """Fills the rows of one workload, each from the choice at its scale."""

    def __init__(self, workload: Workload, choices: dict, baseline: Shown, allow_unlike: bool):
        self.workload, self.baseline, self.allow_unlike = workload, baseline, allow_unlike
        self.epochs = _find_epochs(choices)
        runs = (choice.run for choice in choices.values() if choice.run)
        self.measured = {run: measure(run, workload) for run in runs}

    def fill(self, name: str, title: str, base: str, shown: list[Shown]) -> ReadmeTable:
        score = self.workload.score
        of = f"Epoch {self.epochs}" if self.epochs else "last"  # windows are not counted
        headers = {
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
        of_epoch = (
            f"Throughput: {self.workload.noun} of all ranks / seconds of the slowest rank, "
            "training part of the epoch only, last epoch."
        )
        of_log = "Throughput: of the whole job, the mean of its log's windows after the warm-up."
        rows = [self._fill_row(row) for row in shown]
        return ReadmeTable(
            name,
            title,
            headers,
            [{name: row[name] for name in headers} for row in rows],
            (of_epoch if self.epochs else of_log, MEMORY_DEFINITION),
            sources=[f"{row.config}: {row.source}" for row in shown],
            keys=[row.keys for row in shown],
            facts={
                "epochs": self.epochs or None,
                "workload": self.workload.name,
                "throughput_unit": self.workload.unit,
            },
            shown=shown,
        )

    def _fill_row(self, row: Shown) -> dict[str, Cell]:
        run = row.run
        if run is None:
            note = row.reason if row.is_impossible else None
            none = missing(row.reason)
            return defaultdict(lambda: none, config=say(row.config, note))
        cells = {**self.measured[run], **self._compare(run)}
        if expected := row.site.expected.get(row.folder):
            cells["throughput_per_s"] = check_expected(
                cells["throughput_per_s"], expected, self.workload.unit
            )
        config = row.config if run.nodes else f"{run.gpus} GPUs"  # by a log that names no nodes
        return cells | {"config": say(config, join_notes(*self._list_notes(run)))}

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
        base = self.baseline.run
        if base is None:
            why = f"no complete 1-GPU run to compare with: {self.baseline.reason}"
            return dict.fromkeys(RATIOS, missing(why))
        difference, note = compare(run, base)
        if difference is not None and not self.allow_unlike:
            return dict.fromkeys(RATIOS, missing(f"not compared with job {base.id}: {difference}"))
        if difference is not None:
            note = f"unlike, and compared (--allow-unlike) with job {base.id}: {difference}"
        cells = {
            name: _divide_cells(self.measured[run][of], self.measured[base][of], 2 - (run is base))
            for name, of in RATIOS.items()
        }
        speedup = cells["efficiency_pct"].value
        if run.gpus is None:
            cells["efficiency_pct"] = missing("the number of GPUs is unknown: no run.json")
        elif speedup is not None:
            pct = compute_efficiency_pct(speedup, run.gpus)
            text = round_half_even(pct, 1)
            cells["efficiency_pct"] = Cell(pct, text, explain_superlinear(pct, text))
        return {
            name: cell if cell.value is None else add_note(cell, note)
            for name, cell in cells.items()
        }


def _find_epochs(choices: dict[Scale, Choice]) -> int:
    """Return the epochs of the baseline, else of most runs, else those of the job files."""
    lasts = {
        scale: choice.run.attempt.last
        for scale, choice in choices.items()
        if choice.run and choice.run.attempt and choice.run.attempt.last
    }
    counts = Counter(last.epochs for last in lasts.values())
    if BASELINE in lasts:
        return lasts[BASELINE].epochs
    return max(counts, key=lambda n: (counts[n], n), default=DEFAULT_EPOCHS)


# ---- One run's cells -------------------------------------------------------------------------


def measure(run: Run, workload: Workload) -> dict[str, Cell]:
    """Return the seven measured cells of a complete run, by column name."""
    return _measure_epoch(run, workload) | _measure_gpu(run) | {"cpu_peak_mib": _measure_cpu(run)}


def _measure_epoch(run: Run, workload: Workload) -> dict[str, Cell]:
    score, reason = workload.score, None
    last = run.attempt.last if run.attempt else None
    if last is None:
        reason = "the log has no readable epoch line" if run.log else _explain_no_log(run)
        reason = run.log_problem or reason
    elif last.epoch != last.epochs:
        reason = f"the log has no readable line for epoch {last.epochs} of {last.epochs}"
    if reason:
        return dict.fromkeys(("train_loss", score.log_key, "throughput_per_s"), missing(reason))
    value, rate, is_mean = last.get(score.log_key), last.throughput_per_s, isinstance(
        run.attempt, Windows)  # fmt: skip
    if value is None:
        shown = missing(f"the {'log' if is_mean else 'epoch line'} holds no {score.name}")
    else:
        shown = _show_logged(value, "%" if score.log_key.endswith("_pct") else "")
    throughput = Cell(rate, show_rate(rate)) if is_mean else _show_logged(rate)
    if last.unit != workload.unit:
        throughput = missing(f"logged as {rate} {last.unit}, not in {workload.unit}")
    return {
        "train_loss": _show_logged(last.train_loss),
        score.log_key: shown,
        "throughput_per_s": throughput,
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
    try:
        if 0 not in run.gpu_logs:
            is_on_cpu = (run.settings or {}).get("device") == "cpu"
            where = "node0 (the run used the CPU)" if is_on_cpu else "node0"
            raise UserError(f"no nvidia-smi on {where}: there is no GPU log of job {run.id}")
        log = take_gpu_log(run, 0)
        gpu = log.gpus[0]
        check_covers(run, "GPU", gpu.covered_s, gpu.interval_s)
    except UserError as error:
        names = ("gpu0_peak_mib", "gpu0_avg_mib", "gpu0_mode_mib")
        return dict.fromkeys(names, missing(str(error)))
    # The last line, in which the logger is stopped, is most often cut.
    is_whole = all(reason.startswith("cut") for reason in log.counts.dropped)
    note = None if is_whole else f"GPU log {run.gpu_log_paths[0]}: {log.counts.describe_dropped()}"
    return {
        "gpu0_peak_mib": Cell(gpu.peak_mib, str(gpu.peak_mib), note),
        "gpu0_avg_mib": show(to_decimal(gpu.average_mib), note=note),
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
    try:
        if log.problem:
            raise UserError(_name_problem("CPU", path, log.problem))
        check_covers(run, "CPU", log.covered_s, log.interval_s)
    except UserError as error:
        return missing(str(error))
    return show(log.peak_mib, 1)


def _divide_cells(cell: Cell, base: Cell, places: int) -> Cell:
    """Return cell / base, rounded once from the exact digits; or why there is none."""
    if cell.value is None:
        return missing(cell.note or "no value")
    if base.value is None:
        return missing(f"no baseline value: {base.note}")
    is_finite = Decimal(cell.value).is_finite() and Decimal(base.value).is_finite()
    ratio = divide(cell.value, base.value) if is_finite else None
    return show(ratio, places, sign="×", why=f"{cell.text} / {base.text} is no number")


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
