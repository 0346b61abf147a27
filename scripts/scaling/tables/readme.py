"""The tables of the README, filled from a workload's runs: values, ratios, reasons and sources.

Each row shows the last epoch's line of the latest complete run at its scale: what a participant
copies by hand. Beside them stands the memory of every GPU of these runs. What averages over runs
and epochs is made from a Study.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from common.errors import UserError
from common.rounding import round_half_even, to_decimal
from scaling.read.cpu_log import CpuLog
from scaling.read.foreign_log import show_rate
from scaling.read.gpu_log import GpuLog, GpuUse, list_labels
from scaling.runs.compare import (
    SUPERLINEAR_PCT,
    compare,
    compute_efficiency_pct,
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
from scaling.runs.workloads import DEFAULT_WORKLOAD, Workload, describe_workload
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
GPU_COLUMNS = ("gpu0_peak_mib", "gpu0_avg_mib", "gpu0_mode_mib")


@dataclass(frozen=True)
class Site:
    """What the cluster's profile says, by the job's folder below experiments/.

    cannot_run: why the cluster cannot run a job. expected: `throughput`, `tolerance_pct` and
    perhaps `source` of one.
    """

    cannot_run: dict[str, str] = field(default_factory=dict)
    expected: dict[str, dict] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One row: its scale, the folder of its job below experiments/, and the choice of its run.

    cannot_run: why the cluster cannot run it; None when it can, or somebody tried.
    """

    config: str
    scale: Scale
    folder: str
    choice: Choice
    cannot_run: str | None = None

    @property
    def run(self) -> Run | None:
        return self.choice.run

    @property
    def reason(self) -> str:
        """Why no run fills the row."""
        kind = self.folder.split("/")[-1 if self.scale == BASELINE else -2]
        script = f"{self.folder}/{kind}.slurm"
        no_script = f"no run yet, and no job file {script}: write it with python render.py"
        return self.cannot_run or self.choice.reason or no_script

    @property
    def source(self) -> str:
        """Which job and log the row was read from, and a later run that it does not show."""
        if self.cannot_run:
            return "no run: this cluster cannot run it"
        if self.run is None:
            log = self.choice.latest_log
            return "no complete run" + (f"; the latest log is {log}" if log else "")
        log = self.run.log_path or f"{self.run.results_dir} (no Slurm log)"
        if self.run.is_of_others:
            log = f"{log} (log format {self.run.attempt.format.name})"
        later = f"; later and not shown: {self.choice.later}" if self.choice.later else ""
        return f"job {self.run.id}, {log}{later}"

    @property
    def keys(self) -> dict[str, object]:
        last = find_last(self.run)
        return {
            "nodes": self.scale[0],
            "gpus_per_node": self.scale[1],
            "job_id": self.run.id if self.run else None,
            "epoch": (last.epoch or None) if last else None,
            "log": self.run.log_path if self.run else None,
        }


@dataclass(frozen=True)
class ReadmeTable(Table):
    """A table of the README; `shown` says of each of its rows which run it shows."""

    shown: Sequence[Row] = ()


def find_last(run: Run | None):
    """Return the last epoch of a run's log, None when it has none."""
    return run.attempt.last if run and run.attempt else None


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
    growing = [f"job {run.id}" for run in ours if is_growing(run) and run.id]
    ours = [run for run in ours if not is_growing(run)]
    if not ours and not site.cannot_run and workload != DEFAULT_WORKLOAD:
        known = sorted({run.workload or DEFAULT_WORKLOAD for run in runs})
        raise UserError(
            f"{source}: no job file and no run of workload {workload}; there are those of: "
            f"{', '.join(known)}"
        )
    layouts = _list_layouts(workload, ours, site)
    scales = {scale for *_, rows in layouts for _, scale, _ in rows}
    choices, others = _choose_runs(ours, scales, jobs)
    remarks = [
        _name_left_out(run)
        for run in ours
        if run.id and not any(has_scale(run, scale) for scale in choices)
    ]
    for what, names, option in (
        ("of another strategy", others, "--strategies"),
        ("the model grew with the GPUs", growing, "--growing"),
    ):
        if names:
            how = f"see python scripts/scaling_tables.py {option}"
            remarks.append(f"{what}, not in these tables: {', '.join(names)}; {how}")
    described, epochs = describe_workload(workload, ours), _find_epochs(choices)
    measured = {c.run: measure(c.run, described) for c in choices.values() if c.run}
    of_epoch = (
        f"Throughput: {described.noun} of all ranks / seconds of the slowest rank, training "
        "part of the epoch only, last epoch."
    )
    of_log = "Throughput: of the whole job, the mean of its log's windows after the warm-up."
    tables = []
    for name, title, base, places in layouts:
        rows = []
        for config, scale, folder in places:
            cannot = None if choices[scale].was_started else site.cannot_run.get(folder)
            rows.append(Row(config, scale, folder, choices[scale], cannot))
        headers = _name_columns(described, base, epochs)
        cells = []
        for row in rows:
            if row.run is None:
                none = dict.fromkeys(headers, missing(row.reason))
                cells.append(none | {"config": say(row.config, row.cannot_run)})
                continue
            ratios = _compare(row.run, rows[0], measured, allow_unlike)
            found = measured[row.run] | ratios
            if expected := site.expected.get(row.folder):
                rate = check_expected(found["throughput_per_s"], expected, described.unit)
                found["throughput_per_s"] = rate
            config = row.config if row.run.nodes else f"{row.run.gpus} GPUs"  # no nodes in its log
            notes = join_notes(*_list_notes(row.run, epochs))
            cells.append(found | {"config": say(config, notes)})
        tables.append(ReadmeTable(
            name, title, headers, cells, (of_epoch if epochs else of_log, MEMORY_DEFINITION),
            remarks=remarks if name == layouts[-1][0] else (),
            sources=[f"{row.config}: {row.source}" for row in rows],
            keys=[row.keys for row in rows],
            facts={"epochs": epochs or None, "workload": described.name,
                   "throughput_unit": described.unit},
            shown=rows,
        ))  # fmt: skip
    return tables


def _list_layouts(workload: str, runs: Sequence[Run], site: Site) -> list[tuple]:
    """List (name, title, what ratios are over, (config, scale, folder) of each row) per table.

    TinyImageNet has all rows of the README. Another workload, in its own folders, has the
    baseline's, those at which it has a job or a run, and those that the cluster cannot run.
    """
    is_default = workload == DEFAULT_WORKLOAD
    top, per_node = "" if is_default else f"{workload}/", usual_gpus_per_node(list(runs))
    one_node = [(f"{n} GPUs, 1 Node", (1, n), f"{top}multi_gpu/{n}_gpus") for n in (2, 4, 8)]
    nodes = [(f"{n} Nodes", (n, per_node), f"{top}multi_node/{n}_nodes") for n in (2, 4, 8)]
    layouts = []
    for told, baseline, others in (
        (("multi_gpu", "Multi-GPU Scaling (1 Node)", "1G"), "1 GPU, 1 Node", one_node),
        (("multi_node", "Multi-Node Scaling (Fixed GPUs per Node)", "1N"), "1 Node", nodes),
    ):
        rows = [
            (config, scale, folder) for config, scale, folder in others
            if is_default or folder in site.cannot_run
            or any(has_scale(run, scale) for run in runs)
        ]  # fmt: skip
        if rows or not layouts:
            base = (f"{baseline} (baseline)", BASELINE, f"{top}baseline")
            layouts.append((*told, [base, *rows]))
    return layouts


def _choose_runs(
    runs: list[Run], scales: set[Scale], jobs: Sequence[str]
) -> tuple[dict[Scale, Choice], list[str]]:
    """Return the choice at each scale, of the baseline's strategy, and the jobs of others."""
    at_scale = {scale: [run for run in runs if has_scale(run, scale)] for scale in scales}
    named = resolve_jobs(runs, list(jobs), scales)
    base = choose(at_scale[BASELINE], named).run
    choices, others = {}, []
    for scale, candidates in at_scale.items():
        if not any(run in named for run in candidates):
            candidates, rest = part_by_strategy(candidates, find_strategy(base) if base else "ddp")
            others += [f"job {run.id} ({find_strategy(run)})" for run in rest]
        choices[scale] = choose(candidates, named)
    return choices, others


def _name_left_out(run: Run) -> str:
    scale = f"{run.nodes or 'unknown'} nodes × {run.gpus_per_node or 'unknown'} GPUs"
    how = ""
    if run.gpus is None and run.log_path:
        how = f"; say its GPUs with --gpus {run.log_path.name}=N"
    return f"not in these tables: job {run.id} ({scale} has no row): {run.reason}{how}"


def _find_epochs(choices: dict[Scale, Choice]) -> int:
    """Return the epochs of the baseline, else of most runs, else those of the job files."""
    found = {scale: find_last(choice.run) for scale, choice in choices.items()}
    counts = Counter(last.epochs for last in found.values() if last)
    if found[BASELINE]:
        return found[BASELINE].epochs
    return max(counts, key=lambda n: (counts[n], n), default=DEFAULT_EPOCHS)


def _name_columns(workload: Workload, base: str, epochs: int) -> dict[str, str]:
    of = f"Epoch {epochs}" if epochs else "last"  # windows are not counted
    return {
        "config": "Config",
        "train_loss": f"Train Loss ({of})",
        workload.score.log_key: workload.score.header.format(of=of),
        "throughput_per_s": f"Throughput ({workload.unit})",
        "gpu0_peak_mib": "GPU 0 Peak (MiB)",
        "gpu0_avg_mib": "GPU 0 Avg (MiB)",
        "gpu0_mode_mib": "GPU 0 Mode (MiB)",
        "throughput_scaling": f"Throughput Scaling vs {base}",
        "memory_avg_scaling": f"Memory Avg Scaling vs {base}",
        "efficiency_pct": "Parallel Efficiency (%)",
        "cpu_peak_mib": "CPU Peak (MiB)",
    }


def _list_notes(run: Run, epochs: int) -> list[str]:
    """List what is to know of a run: rank files that cannot be used, other epochs."""
    run.rank_epochs  # noqa: B018 - reading them names those that cannot be used
    notes, last = [*run.lost_records, *run.end_note, *run.fault_notes], find_last(run)
    if is_profiled(run):
        notes.append("this run was profiled, which slows it down")
    if run.nodes is None:
        log = run.log_path.name if run.log_path else run.id
        notes.append(f"its number of nodes is unknown: --gpus {log}=NODESxGPUS says it")
    if run.is_of_others:
        notes += [run.attempt.describe(), *run.attempt.notes]
    elif last is not None and last.epochs != epochs:
        notes.append(f"this run has {last.epochs} epochs: its values are of epoch {last.epoch}")
    return notes


def _compare(run: Run, baseline: Row, measured: dict, allow_unlike: bool) -> dict[str, Cell]:
    """Return the three cells that set a run against the 1-GPU run."""
    base = baseline.run
    if base is None:
        why = f"no complete 1-GPU run to compare with: {baseline.reason}"
        return dict.fromkeys(RATIOS, missing(why))
    difference, note = compare(run, base)
    if difference is not None and not allow_unlike:
        return dict.fromkeys(RATIOS, missing(f"not compared with job {base.id}: {difference}"))
    if difference is not None:
        note = f"unlike, and compared (--allow-unlike) with job {base.id}: {difference}"
    cells = {
        name: _divide_cells(measured[run][of], measured[base][of], 2 - (run is base))
        for name, of in RATIOS.items()
    }
    speedup = cells["efficiency_pct"].value
    if run.gpus is None:
        cells["efficiency_pct"] = missing("the number of GPUs is unknown: no run.json")
    elif speedup is not None:
        pct = compute_efficiency_pct(speedup, run.gpus)
        source = f"{cells['efficiency_pct'].source}, over the GPUs in all, times 100"
        cells["efficiency_pct"] = replace(show(pct, 1, explain_superlinear(pct)), source=source)
    return {
        name: cell if cell.value is None else add_note(cell, note) for name, cell in cells.items()
    }


def _divide_cells(cell: Cell, base: Cell, places: int) -> Cell:
    """Return cell / base, rounded once from the exact digits; or why there is none."""
    if cell.value is None:
        return missing(cell.note or "no value")
    if base.value is None:
        return missing(f"no baseline value: {base.note}")
    is_finite = Decimal(cell.value).is_finite() and Decimal(base.value).is_finite()
    ratio = divide(cell.value, base.value) if is_finite else None
    found = show(ratio, places, sign="×", why=f"{cell.text} / {base.text} is no number")
    return replace(found, source=f"{cell.source}, over {base.source}")


# ---- One run's cells -------------------------------------------------------------------------


def measure(run: Run, workload: Workload) -> dict[str, Cell]:
    """Return the seven measured cells of a complete run, by column name."""
    of_epoch = ("train_loss", workload.score.log_key, "throughput_per_s")
    found = {}
    for names, measure_them in (
        (of_epoch, lambda: _measure_epoch(run, workload)),
        (GPU_COLUMNS, lambda: _measure_gpu(run)),
        (("cpu_peak_mib",), lambda: _measure_cpu(run)),
    ):
        try:
            cells, source = measure_them()
            found |= {
                name: replace(cell, source=source) for name, cell in zip(names, cells, strict=True)
            }
        except UserError as error:
            found |= dict.fromkeys(names, missing(str(error)))
    return found


def _measure_epoch(run: Run, workload: Workload) -> tuple[list[Cell], str]:
    """Return loss, score and throughput of the last epoch's line, and where it is."""
    score, last = workload.score, find_last(run)
    if last is None:
        reason = f"no Slurm log: {run.folder / 'log'} has no *_{run.job}.out"
        if run.log:
            reason = "the log has no readable epoch line"
        elif run.log_path:
            told = (problem for problem in run.problems if str(run.log_path) in problem)
            reason = next(told, "its log cannot be read")
        raise UserError(run.log_problem or reason)
    if last.epoch != last.epochs:
        raise UserError(f"the log has no readable line for epoch {last.epochs} of {last.epochs}")
    where, rate = "log" if run.is_of_others else "epoch line", last.throughput_per_s
    of_score = "%" if score.log_key.endswith("_pct") else ""
    cells = [
        _show_logged(last.get("train_loss"), f"the {where} holds no training loss"),
        _show_logged(last.get(score.log_key), f"the {where} holds no {score.name}", of_score),
        Cell(rate, show_rate(rate)) if run.is_of_others else _show_logged(rate),
    ]
    if last.unit != workload.unit:
        cells[-1] = missing(f"logged as {rate} {last.unit}, not in {workload.unit}")
    return cells, f"{run.log_path}, line {last.line_number}"


def _show_logged(number: Decimal | None, why: str = "", unit: str = "") -> Cell:
    if number is None:
        return missing(why)
    text = f"{number}".lower() + unit
    return Cell(number, text, None if number.is_finite() else f"{text} in the log")


def _measure_gpu(run: Run) -> tuple[list[Cell], str]:
    """Return peak, average and mode of the job's lowest GPU on node0, and where they are from."""
    log = take_log(run, "GPU")
    gpu = log.gpus[0]
    check_covers(run, "GPU", gpu.covered_s, gpu.interval_s)
    # The last line, in which the logger is stopped, is most often cut.
    is_whole = all(reason.startswith("cut") for reason in log.counts.dropped)
    note = None if is_whole else f"GPU log {run.gpu_log_paths[0]}: {log.counts.describe_dropped()}"
    return _show_memory(gpu, note), _find_line(run, "gpu", log.path, f" - GPU {gpu.index}")


def _show_memory(gpu: GpuUse, note: str | None = None) -> list[Cell]:
    peak, mode = (Cell(mib, str(mib), note) for mib in (gpu.peak_mib, gpu.mode_mib))
    return [peak, show(to_decimal(gpu.average_mib), note=note), mode]


def _measure_cpu(run: Run) -> tuple[list[Cell], str]:
    log = take_log(run, "CPU")
    check_covers(run, "CPU", log.covered_s, log.interval_s)
    return [show(log.peak_mib, 1)], _find_line(run, "cpu", log.path)


def _find_line(run: Run, kind: str, path: Path, end: str = "") -> str:
    """Name the line with node0's memory that the job printed, else the log that it is made from."""
    printed = run.log.memory_lines if run.log else {}
    for node in ("", "_node0"):
        if number := printed.get(f"{kind}_memory_log{node}{end}"):
            return f"{run.log_path}, line {number}"
    return str(path)


def take_log(run: Run, what: str, node: int = 0) -> GpuLog | CpuLog:
    """Return a node's CPU log, or GPU log of the job's own GPUs; UserError when it has none."""
    log = (run.gpu_logs if what == "GPU" else run.cpu_logs).get(node)
    if log is None:
        is_on_cpu = what == "GPU" and (run.settings or {}).get("device") == "cpu"
        why = ": the run used the CPU" if is_on_cpu else ""
        raise UserError(f"no {what} log of node {node} of job {run.id}{why}")
    if log.problem:
        is_named = str(log.path) in log.problem
        raise UserError(log.problem if is_named else f"{what} log {log.path}: {log.problem}")
    if what == "GPU" and run.gpus_per_node and len(log.gpus) > run.gpus_per_node:
        raise UserError(
            f"GPU log {log.path} shows {len(log.gpus)} GPUs and the job had {run.gpus_per_node} "
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


# ---- What asks for a second look -------------------------------------------------------------


def explain_superlinear(efficiency_pct: Decimal | float) -> str | None:
    """Return the note on an efficiency that cannot be; more GPUs do not make each one faster."""
    if efficiency_pct <= SUPERLINEAR_PCT:
        return None
    return (
        f"{round_half_even(efficiency_pct, 1)} % is above {SUPERLINEAR_PCT} %, more than ideal: "
        "most often the 1-GPU run was slowed down. Look there for data_wait_s, other jobs "
        "on the node and a cold file cache, and run it again before you believe the ratio"
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


# ---- The memory of every GPU -----------------------------------------------------------------

MEMORY_HEADERS = {
    "config": "Config", "node": "Node", "gpu": "GPU", "peak_mib": "Peak (MiB)",
    "avg_mib": "Avg (MiB)", "mode_mib": "Mode (MiB)", "avg_of_gpu0": "Avg vs GPU 0",
}  # fmt: skip
EVERY_GPU_DEFINITION = (
    "Memory in use on the whole GPU, sampled by nvidia-smi over the whole job. Node 0 is the "
    "head node. Avg vs GPU 0: over that of node 0's lowest GPU."
)


def make_memory_table(tables: Sequence[ReadmeTable]) -> Table:
    """Return one row per GPU of each run in the README's tables, the baseline once.

    A log that cannot be used, or is missing, has one row with the reason.
    """
    by_run: dict[Run, Row] = {}
    for row in (row for table in tables for row in table.shown if row.run):
        by_run.setdefault(row.run, row)
    rows, remarks = [], []
    for run, row in by_run.items():
        if run.gpu_log_paths:
            rows += _list_gpus(row)
        else:
            remarks.append(f"{row.config}: no GPU log of job {run.id}")
    definitions = (EVERY_GPU_DEFINITION,)
    return Table("gpu_memory", "Memory of every GPU", MEMORY_HEADERS, rows, definitions, remarks)


def _list_gpus(row: Row) -> Iterator[dict[str, Cell]]:
    first: Decimal | None = None
    why = "the memory of node 0's lowest GPU is unknown"
    for node in range(row.run.nodes or 1):
        place = {"config": say(row.config), "node": say(node)}
        try:
            log = take_log(row.run, "GPU", node)
            for gpu in log.gpus:
                check_covers(row.run, "GPU", gpu.covered_s, gpu.interval_s)
        except UserError as error:
            yield dict.fromkeys(MEMORY_HEADERS, missing(str(error))) | place
            continue
        for label, gpu in zip(list_labels(log.gpus), log.gpus, strict=True):
            peak, average, mode = _show_memory(gpu)
            first = average.value if node == 0 and first is None else first
            yield place | {
                "gpu": say(gpu.index if label == f"GPU {gpu.index}" else label),
                "peak_mib": peak, "avg_mib": average, "mode_mib": mode,
                "avg_of_gpu0": show(divide(average.value, first), sign="×", why=why),
            }  # fmt: skip
