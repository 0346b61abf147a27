"""A scaling study: the runs of a workload, which of them may be compared, and what they give.

The README's two tables show one run per row; everything that averages reads a Study. Its frames
have a column `run`, the position in `sources`; a configuration is a number of GPUs and nodes with
one set of settings; configurations that differ in scale alone are a series.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import UserError
from common.rounding import round_half_even
from scaling.runs import frames
from scaling.runs.compare import (
    ABSENT,
    COMPARED_SETTINGS,
    Spread,
    compare,
    compute_efficiency_pct,
    divide,
    is_profiled,
    is_same_unit,
    list_work_differences,
    look_up,
    over_epochs,
    over_repeats,
    pooled_deviation,
)
from scaling.runs.find import is_growing, is_of_workload, order_in_time
from scaling.runs.records import TrainingMetrics, describe_settings, read_training_metrics
from scaling.runs.run import Run
from scaling.runs.workloads import DEFAULT_WORKLOAD, WORKLOADS, name_noun

MOST_PER_S = 1e15  # no throughput is larger
WORK_LIMIT = 0.10  # beyond WORK_TOLERANCE; the last batches are some percent on many GPUs
_FIGURES = {"throughput": "throughput_per_s", "walltime": "wall_s"}  # basis of a ratio -> column
MEASURES = {"throughput": "throughput_per_s", "wall": "wall_s", "epoch": "epoch_s"}
_SCALE = ["gpus", "nodes_key"]
_RATIOS = ["speedup", "efficiency_pct", "wall_speedup", "wall_efficiency_pct"]


@dataclass(eq=False)
class TableRow:
    """A run that is known by two numbers of a table, or by its training_metrics.json alone.

    Its throughput and wall time are what the table, or the summary of the file, says.
    """

    name: str
    nodes: int | None
    gpus: int
    unit: str | None
    throughput_per_s: float | None = None
    wall_s: float | None = None
    notes: list[str] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    metrics: TrainingMetrics | None = None

    # What a Run has besides:
    is_of_others = False
    restarts = 0
    log = attempt = None
    rank_epochs = ()

    @property
    def id(self) -> str:
        return self.name

    folder = id

    @property
    def warmup_epochs(self) -> int:
        return self.metrics.warmup_epochs if self.metrics else 1


@dataclass(eq=False)
class Study:
    """What a workload's complete runs measured; see the columns at each frame.

    runs: one row per run: its scale, means over the epochs after warm-up, wall time (all epochs
    with validation), last losses, and why it differs from the baseline. epochs, rank_epochs: as
    in frames. configs: one row per configuration, repeats averaged, ratios over its own series'
    smallest scale. scales: the rows of configs that tables show, one per number of GPUs and
    nodes, ratios over the baseline and missing where runs may not be compared.
    """

    sources: list
    runs: pd.DataFrame
    epochs: pd.DataFrame
    configs: pd.DataFrame
    scales: pd.DataFrame
    unit: str | None
    workload: str | None = None
    source: str = ""
    allow_unlike: bool = False
    left_out: list[str] = field(default_factory=list)
    definition: str | None = None  # of throughput, when it is not the run contract's

    @cached_property
    def baseline(self):
        """The smallest scale that has a throughput: 1 GPU when there is one."""
        return self.find_baseline()

    @property
    def base_name(self) -> str:
        """`1 GPU`: what ratios of throughputs are over."""
        return count(int(self.baseline.gpus), "GPU")

    def find_baseline(self, basis: str = "throughput"):
        """Return the smallest scale that has what ratios by `basis` are made from."""
        place = _find_base_row(self.scales, _FIGURES[basis])
        return next(self.scales.iloc[place : place + 1].itertuples())

    @property
    def noun(self) -> str:
        """What throughput counts: tokens or samples."""
        return name_noun(self.unit)

    @cached_property
    def rank_epochs(self) -> pd.DataFrame:
        """One row per rank and epoch of the runs, read when it is first asked for."""
        rows = [len(source.rank_epochs) for source in self.sources]
        frame = frames.make_rank_epochs_frame(self.sources)
        return frame.assign(run=np.repeat(range(len(rows)), rows).astype("int64"))

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The GPU and CPU samples of each configuration's latest run, read when first asked for."""
        latest = [(at, self.sources[at]) for at in self.configs["latest"]]
        found = [
            frames.make_samples(run).assign(run=at) for at, run in latest if isinstance(run, Run)
        ]
        none = frames.make_samples_frame([]).assign(run=pd.Series(dtype="int64"))
        return pd.concat([none, *found], ignore_index=True)

    def settings(self, run: int) -> dict:
        """Return the settings of a run by its position: run.json's fields, {} when unknown."""
        return self.sources[run].settings or {}

    def find_run(self, row) -> Run | None:
        """Return the latest run of a row of configs or scales, None when only a file is known."""
        source = self.sources[row.latest]
        return source if isinstance(source, Run) else None

    def list_runs(self, row) -> pd.DataFrame:
        """Return the rows of `runs` that a row of configs or scales averages, oldest first."""
        return self.runs[self.runs["config"] == row.config]

    def spread(self, row, measure: str) -> Spread | None:
        """Return throughput, wall (s) or epoch (s) of a row of configs or scales with its ±."""
        found = getattr(row, f"{measure}_spread")
        return found if found.mean == found.mean else None

    def explain_no_ratio(self, row, basis: str = "throughput") -> str:
        """Say why a row of scales has no speedup."""
        if not row.is_compared:
            return f"not compared with the baseline: {row.difference}; --allow-unlike compares it"
        if basis == "walltime" and abs(row.work) > WORK_LIMIT:
            return f"not the same work: {self.describe_work(row)}; --allow-unlike divides it"
        return f"no {'wall time' if basis == 'walltime' else 'throughput'} of this scale"

    def describe_work(self, row) -> str:
        """Say how much more a scale trained on than the baseline."""
        side = "more" if row.work > 0 else "fewer"
        pct = round_half_even(abs(row.work) * 100, 1)
        return f"trained on {pct} % {side} {self.noun} than the baseline"

    def define_throughput(self) -> str:
        """Say what the throughput is: the run contract's, else what its source says."""
        if any(source.is_of_others for source in self.sources):
            return (
                f"Throughput: {self.noun} of the whole job, as its log has it: the mean over the "
                "windows after warm-up, then over repeated runs."
            )
        return self.definition or (
            f"Throughput: {self.noun} of all ranks / seconds of the slowest rank, training part of "
            "the epoch only, mean over the epochs after warm-up, then over repeated runs."
        )

    def list_remarks(self) -> list[str]:
        """List runs that are not in the tables, what differs, and what asks for a second look."""
        remarks = list(self.left_out)
        for row in self.scales.itertuples():
            remarks += row.left_out
            remarks += [f"{row.label}: {note}" for note in row.notes]
            if row.difference and not self.allow_unlike:
                remarks.append(f"{row.label}: unlike the baseline: {row.difference}")
        remarks += [text for text in compare_quality(self) if text.startswith("FLAG")]
        remarks += self._list_commits()
        is_of_others = any(source.is_of_others for source in self.sources)
        if self.scales["wall_s"].isna().all() and is_of_others:
            remarks.append("their logs have no wall time: --fixed-work divides the throughputs")
        smallest = self.scales.iloc[0]
        if smallest["config"] != self.baseline.config:
            none = f"{smallest['label']} has no throughput"
            remarks.append(f"{none}: ratios of throughputs are over {self.base_name}")
        elif self.baseline.gpus != 1:
            remarks.append(f"no 1-GPU run: ratios are over {self.base_name}")
        return list(dict.fromkeys(remarks))

    def _list_commits(self) -> list[str]:
        """Show the runs' git commits: they may differ, since the sources' hash is compared."""
        scales: dict[str, dict[str, None]] = {}
        for row in self.scales.itertuples():
            for run in self.list_runs(row)["run"]:
                commit = self.settings(run).get("git_commit")
                if isinstance(commit, str) and commit not in ("", "unknown"):
                    scales.setdefault(commit[:48], {})[row.label] = None
        if len(scales) == 1:
            return [f"git commit: {next(iter(scales))}"]
        return [f"git commit {commit}: {', '.join(labels)}" for commit, labels in scales.items()]


def count(number: int, noun: str) -> str:
    """Return `1 GPU`, `4 GPUs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ---- From runs, and from metrics files -------------------------------------------------------


def make_study(
    runs: Iterable[Run],
    workload: str = DEFAULT_WORKLOAD,
    allow_unlike: bool = False,
    source: str = "these runs",
    growing: bool = False,
) -> Study:
    """Return the study of a workload's complete runs; raises UserError when there is none.

    growing: of the runs whose model grew with the GPUs, instead of those with one model.
    """
    runs = [run for run in runs if run.id and is_of_workload(run, workload)]
    others = [run for run in runs if is_growing(run) != growing]
    runs = [run for run in runs if is_growing(run) == growing]
    left_out = [run.account for run in runs if not run.is_usable]
    if others and not growing:
        names = ", ".join(f"job {run.id}" for run in others)
        how = "python scripts/scaling_tables.py --growing"
        left_out.append(f"the model grew with the GPUs, not in these tables: {names}; see {how}")
    known: dict[tuple, Run] = {}
    for run in order_in_time([run for run in runs if run.is_usable]):
        first = known.get(key := (run.id, run.start, str(run.settings)))
        if run.gpus is None:
            say = f"--gpus {run.id}=N says it"
            left_out.append(f"job {run.id}: how many GPUs it had is unknown: {say}")
        elif first is not None:
            places = f"{first.folder} and {run.folder}"
            left_out.append(f"job {run.id} is there twice, in {places}: counted once")
        else:
            known[key] = run
    left_out += [f"job {run.id}: {note}" for run in known.values() for note in run.fault_notes]
    if not known:
        why = f": {left_out[-1]}" if left_out else ""
        raise UserError(
            f"{source}: no complete run of workload {workload}{why}; submit one with "
            "python scripts/submit.py"
        )
    unit = WORKLOADS[workload].unit if workload in WORKLOADS else None
    about = {"workload": workload, "source": source, "left_out": left_out}
    return build_study(list(known.values()), allow_unlike, unit, **about)


def make_studies(runs: Sequence[Run], allow_unlike: bool = False) -> list[Study]:
    """Return a study for each workload that has a complete run, by name."""
    started = [run for run in runs if run.id]
    return [
        make_study(started, name, allow_unlike)
        for name in sorted({run.workload or DEFAULT_WORKLOAD for run in started})
        if any(run.is_usable and run.gpus and is_of_workload(run, name) for run in started)
    ]


def read_metrics_file(path: Path, gpus: int | None = None, per: str | None = None) -> TableRow:
    """Return a training_metrics.json, of schema 1 or 2, ours or another's.

    gpus: what the user says it ran on; the file's own world_size must not differ. per: gpu or job,
    what its throughput is of. Raises UserError when they differ, when neither says the GPUs, and
    when the file cannot be read.
    """
    metrics = read_training_metrics(path)
    if per is not None:
        metrics = replace(metrics, is_per_gpu=per == "gpu")
    notes, told = [], metrics.world_size
    if gpus is None and told is None:
        raise UserError(f"{path}: it does not say its world_size; name its number of GPUs")
    if gpus is not None and told not in (None, gpus):
        raise UserError(
            f"{path}: its world_size is {told}, and it is given as that of {count(gpus, 'GPU')}; "
            f"give it as --gpu{told}"
        )
    if told is None:
        notes.append(f"{path}: world_size is not recorded, {gpus} GPUs as given")
    if metrics.completed is False:
        notes.append(f"{path}: the run is not complete: its wall time is that of its first epochs")
    gpus = gpus or told
    return describe_file(metrics.of_job(gpus), gpus, notes)


def describe_file(metrics: TrainingMetrics, gpus: int, notes: Sequence[str] = ()) -> TableRow:
    """Return a run that is known by its metrics file alone."""
    return TableRow(
        str(metrics.path), metrics.nodes, gpus, metrics.unit, metrics.mean_throughput_per_s,
        metrics.total_wall_s, [*metrics.notes, *metrics.dropped, *notes],
        describe_settings(metrics), metrics,
    )  # fmt: skip


def make_metrics_study(
    named: Sequence[tuple[int | None, Path]], allow_unlike: bool = False, per: str | None = None
) -> Study:
    """Return the study of metrics files, each with its number of GPUs or None (its own word).

    per: gpu or job, what their throughputs are of. Raises UserError for throughputs of which
    nothing says it and that do not rise with the GPUs.
    """
    definition = (
        "Throughput: of all processes, as each file has it; mean over its epochs after warm-up, "
        "then over the files of a scale."
    )
    files = [read_metrics_file(path, gpus, per) for gpus, path in named]
    study = build_study(files, allow_unlike, definition=definition)
    unclear = [file.name for file in files if file.metrics.is_per_gpu is None]
    if unclear and rises_not(study.scales["gpus"], study.scales["throughput_per_s"]):
        raise UserError(
            f"{unclear[-1]}: its throughput does not rise with the GPUs: is it of one GPU "
            "or of the job? Say --per gpu or --per job"
        )
    return study


def rises_not(gpus: Iterable[int], rates: Iterable[float]) -> bool:
    """Whether twice the GPUs and more never have a higher rate, as one GPU's rate would have it."""
    rated = [(number, rate) for number, rate in zip(gpus, rates, strict=True) if rate == rate]
    least = min((number for number, _ in rated), default=0)
    base = max((rate for number, rate in rated if number == least), default=0)
    larger = [rate for number, rate in rated if number >= 2 * least]
    return bool(larger) and float(max(larger)) <= 1.1 * float(base)


def make_metrics_studies(paths: Sequence[Path]) -> list[Study]:
    """Return a study for each model in metrics files, by its name; each needs a throughput."""
    by_model: dict[str, list[TableRow]] = {}
    for path in paths:
        file = read_metrics_file(path)
        if not any(epoch.throughput_per_s for epoch in file.metrics.epochs):
            raise UserError(f"{path}: no epoch in it has a throughput")
        by_model.setdefault(file.settings.get("model") or "runs", []).append(file)
    return [build_study(files, workload=name) for name, files in sorted(by_model.items())]


# ---- One row per run -------------------------------------------------------------------------


def build_study(
    sources: Sequence, allow_unlike: bool = False, unit: str | None = None, **about: object
) -> Study:
    """Group runs, metrics files or table rows (oldest first) into configurations and series.

    The baseline is 1 GPU when there is one, else the smallest; of several runs there, the
    latest says which settings are meant. Raises UserError for no run at all.
    """
    if not sources:
        raise UserError("no run to make a table of")
    sources = sorted(sources, key=is_profiled, reverse=True)  # the latest shall be one without
    counted = Counter(source.unit for source in sources if source.unit)
    if counted and (unit is None or not any(is_same_unit(unit, each) for each in counted)):
        unit = counted.most_common(1)[0][0]
    records = (
        {**record, "run": at} for at, source in enumerate(sources)
        for record in frames.list_epochs(source) if not record["is_superseded"]
    )  # fmt: skip
    epochs = frames.make_frame(records, [*frames.EPOCH_COLUMNS, "run"]).astype({"run": "int64"})
    runs = _measure(sources, epochs)
    runs["series"] = _part_into_series(sources)
    base = _find_base(sources, range(len(sources)))
    runs[["difference", "like_note"]] = [compare(source, base) for source in sources]
    configs = _make_configs(sources, runs)
    runs["config"] = runs.merge(configs, on=["series", *_SCALE], how="left")["config"]
    scales = _choose_scales(configs, runs, sources, allow_unlike)
    # A chart has one axis: what counts something else stands in the tables alone, not compared.
    configs = configs[[is_same_unit(sources[at].unit, unit) for at in configs["latest"]]]
    return Study(sources, runs, epochs, configs, scales, unit, allow_unlike=allow_unlike, **about)


def _measure(sources: list, epochs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per source: its scale, and its figures as means over the steady epochs."""
    epochs = epochs.set_index("run")
    by_run = epochs.groupby(level="run")
    is_whole = by_run["is_warmup"].transform("all").astype(bool)  # nothing but warm-up
    used = epochs[~epochs["is_warmup"] | is_whole]

    def total(values: pd.Series, how: str) -> pd.Series:
        """Return the sum, mean or std per run, missing where any value of the run is."""
        grouped = values.groupby(level="run")
        found = getattr(grouped, how)().astype("float64")
        return found.where(grouped.count() == grouped.size())

    frame = pd.DataFrame({
        "epochs": by_run.size(),
        "is_steady": ~by_run["is_warmup"].all(),
        "val_loss": by_run["val_loss"].last(skipna=False),
        "val_accuracy": by_run["val_accuracy"].last(skipna=False),
        "samples": total(epochs["samples"], "sum"),
        "wall_s": total(epochs["epoch_s"], "sum"),
        "step_s": used["step_s"].groupby(level="run").mean(),
    })  # fmt: skip
    for name, most in (("throughput", MOST_PER_S), ("epoch", float("inf"))):
        values = used[MEASURES[name]]
        values = values.where(values.between(0, most, inclusive="neither"))
        frame[MEASURES[name]] = total(values, "mean")
        frame[f"{name}_std"] = total(values, "std")
        frame[f"{name}_n"] = values.groupby(level="run").size()
    frame = frame.reindex(range(len(sources)))
    frame.insert(0, "run", range(len(sources)))
    frame["gpus"], frame["nodes_key"] = zip(*map(_find_scale, sources), strict=True)
    for name in ("name", "nodes"):
        frame[name] = _as_objects(getattr(source, name) for source in sources)
    frame["is_steady"] = frame["is_steady"].astype("boolean").fillna(True).astype(bool)
    told = [_settle(source, row) for source, row in zip(sources, frame.itertuples(), strict=True)]
    columns = ["throughput_per_s", "wall_s", "samples", "note", "epochs"]
    frame[columns] = pd.DataFrame(told, columns=columns).astype({"note": object})
    return frame


def _as_objects(values: Iterable) -> pd.Series:
    """Return a column of Python objects: None stays None beside texts and whole numbers."""
    return pd.Series(list(values), dtype=object)


def _settle(source, row) -> tuple[float, float, float, str | None, float]:
    """Return throughput, wall time, samples, notes and epochs of a row of runs.

    Besides the epochs counts what its source says of itself.
    """
    rate, wall_s, samples, epochs = row.throughput_per_s, row.wall_s, row.samples, row.epochs
    notes, told = list(source.notes), getattr(source, "throughput_per_s", None)
    if source.is_of_others:
        # Of logs of others the work is seldom known, and unlike work has no common time; their
        # epochs are windows.
        wall_s = wall_s if samples == samples else float("nan")
        return rate, wall_s, samples, "; ".join(notes), float("nan")
    if samples != samples:
        samples = _plan_samples(source.settings or {})
    if rate == rate and not row.is_steady:
        n = int(epochs)
        only = "its only epoch is warm-up" if n == 1 else f"all of its {n} epochs are warm-up"
        notes.append(f"no steady state: {only}, and stands here since there is no other")
    elif rate != rate and told is not None:
        rate = float(told)
        if source.metrics:
            notes.append("the mean of its summary: no epoch has a throughput")
    elif rate == rate and told is not None and abs(rate / told - 1) > 1e-6:
        shown = round_half_even(told, 2)
        notes.append(f"its summary says {shown}, a mean of other epochs than those after warm-up")
    wall_s = float(source.wall_s or wall_s)
    return rate, wall_s, samples, "; ".join(dict.fromkeys(notes)) or None, epochs


def _plan_samples(settings: dict) -> float:
    """Return data set x epochs of a run whose epochs do not say what they trained on."""
    size, epochs = look_up(settings, "dataset.train"), settings.get("epochs")
    is_told = not settings.get("limit_batches") and settings.get("unit") in ("img/s", "samples/s")
    is_told = is_told and isinstance(size, int) and isinstance(epochs, int)
    return float(size * epochs) if is_told else float("nan")


# ---- One row per configuration, one per scale ------------------------------------------------


def _find_scale(source) -> tuple[int, int]:
    """Return (GPUs, nodes) of a source, 0 nodes where they are unknown; one GPU is on one node."""
    return source.gpus, 1 if source.gpus == 1 else source.nodes or 0


def _find_base(sources: list, places: Sequence[int]):
    """Return the latest source at the smallest scale among these places."""
    return min((sources[at] for at in reversed(places)), key=_find_scale)


def _part_into_series(sources: list) -> list[int]:
    """Return the number of each source's series: those that may be compared share one.

    The latest run at the smallest scale says which settings series 0 has; so it goes on with
    those that are left.
    """
    series, rest, number = [0] * len(sources), list(range(len(sources))), 0
    while rest:
        base = _find_base(sources, rest)
        alike = [at for at in rest if compare(sources[at], base)[0] is None]
        # Alike to one GPU, which shares nothing; among each other they may still differ.
        how = {at: (sources[at].settings or {}).get("implementation") for at in alike}
        shared = [at for at in alike if sources[at].gpus > 1]
        alike = [at for at in alike if at not in shared or how[at] == how[shared[-1]]]
        latest = {_find_scale(sources[at]): sources[at] for at in alike}
        for at in alike:
            if not list_work_differences(sources[at], latest[_find_scale(sources[at])]):
                series[at] = number
                rest.remove(at)
        number += 1
    return series


def _make_configs(sources: list, runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per series, number of GPUs and nodes, with means over its runs."""
    names, modes = _name_series(sources, runs)
    rows = []
    for (series, gpus, nodes), group in runs.groupby(["series", *_SCALE]):
        unknown = group["name"][group["throughput_per_s"].isna()] if len(group) > 1 else ()
        missing = [f"job {name}: not every epoch has a throughput, so it is not in the mean"
                   for name in unknown]  # fmt: skip
        nodes_text = f" ({count(nodes, 'node')})" if nodes else ""
        spreads = {name: _average(group, name) for name in MEASURES}
        rate = spreads["throughput"]
        rows.append({
            "config": len(rows),
            "series": series,
            "series_name": names[series],
            "mode": modes[series],
            "gpus": gpus,
            "nodes_key": nodes,
            "nodes": nodes or None,
            "label": "Single GPU" if gpus == 1 else f"{gpus} GPUs{nodes_text}",
            "short_label": count(gpus, "GPU") + (f", {nodes} nodes" if nodes > 1 else ""),
            "n_runs": len(group),
            "latest": int(group["run"].iloc[-1]),
            "is_steady": bool(group["is_steady"].all()),
            "samples": group["samples"].iloc[-1],
            "run_notes": [*dict.fromkeys(group["note"].dropna()), *missing],
            "throughput_half": float("nan") if rate.half_width is None else rate.half_width,
            "throughput_kind": rate.kind,
            **{MEASURES[name]: spread.mean for name, spread in spreads.items()},
            **{f"{name}_spread": spread for name, spread in spreads.items()},
        })  # fmt: skip
    configs = _make_frame(rows)
    # In charts a series begins where it has figures; tables keep to the baseline, see below.
    has_rate = configs.sort_values("throughput_per_s", key=pd.Series.isna, kind="stable")
    bases = has_rate.drop_duplicates("series").set_index("series").loc[configs["series"]]
    return _add_ratios(configs, *[bases.reset_index(drop=True)] * 2)


def _make_frame(rows: list[dict]) -> pd.DataFrame:
    """Return rows as a frame in which None beside a text or a number stays None."""
    objects = {name: _as_objects(row[name] for row in rows)
               for name in ("nodes", "mode", "difference") if name in rows[0]}  # fmt: skip
    return pd.DataFrame(rows).assign(**objects)


def _average(group: pd.DataFrame, measure: str) -> Spread:
    """Return the mean over the runs that have the measure; of a single run over its epochs."""
    column = MEASURES[measure]
    group = group.dropna(subset=[column])
    if group.empty:
        return Spread(float("nan"), 0, None, "single")
    if len(group) > 1 or measure == "wall":
        return over_repeats(group[column].tolist())
    mean, n, deviation = group[[column, f"{measure}_n", f"{measure}_std"]].iloc[0].tolist()
    if deviation != deviation:  # of one epoch, or of a file without epochs
        return Spread(mean, 1, None, "single")
    return Spread(mean, int(n), deviation, "epochs")


def _add_ratios(frame: pd.DataFrame, base, timed) -> pd.DataFrame:
    """Add speedups and efficiencies over baselines: of the throughput, and of the wall time."""
    frame["speedup"] = divide(frame["throughput_per_s"], base["throughput_per_s"])
    frame["wall_speedup"] = divide(timed["wall_s"], frame["wall_s"])
    for name, by in (("", base), ("wall_", timed)):
        pct = compute_efficiency_pct(frame[f"{name}speedup"], frame["gpus"], by["gpus"])
        frame[f"{name}efficiency_pct"] = pct
    return frame


def _choose_scales(
    configs: pd.DataFrame, runs: pd.DataFrame, sources: list, allow_unlike: bool
) -> pd.DataFrame:
    """Return the configurations that tables show: like the baseline, else like the latest run."""
    rows = []
    for _, group in configs.groupby(_SCALE):
        row = group.iloc[0] if group["series"].iloc[0] == 0 else group.loc[group["latest"].idxmax()]
        difference = None if row["series"] == 0 else runs["difference"][row["latest"]]
        at_scale = runs[runs["config"].isin(group["config"])]
        is_mine = at_scale["config"] == row["config"]
        latest, left_out = sources[row["latest"]], []
        name = f"job {latest.name}"
        for other in at_scale[~is_mine].itertuples():
            work = list_work_differences(sources[other.run], latest, name)
            why = other.difference or "; ".join(work) or f"unlike {name}"
            left_out.append(f"job {other.name}: not in the means: {why}")
        rows.append(row.to_dict() | {
            "difference": difference,
            "is_compared": difference is None or allow_unlike,
            "notes": list(dict.fromkeys(at_scale[is_mine]["like_note"].dropna())),
            "left_out": left_out,
        })  # fmt: skip
    scales = _make_frame(rows)
    base, timed = (scales.iloc[_find_base_row(scales, name)] for name in _FIGURES.values())
    work = scales["samples"] / timed["samples"] - 1
    scales["work"] = work.where(work.notna() & (timed["samples"] > 0), 0.0)
    _add_ratios(scales, base, timed)
    scales.loc[~scales["is_compared"], _RATIOS] = None
    if not allow_unlike:
        scales.loc[scales["work"].abs() > WORK_LIMIT, _RATIOS[2:]] = None
    return scales


def _find_base_row(scales: pd.DataFrame, figure: str) -> int:
    """Return the position of the smallest scale that has a figure and may be compared, else 0."""
    has = scales[figure].notna() & scales["difference"].isna()
    return int(has.to_numpy().argmax())


# ---- Names of series, and how well the scales learn ------------------------------------------

# How a series is named by a setting that tells it apart, where not by the setting's own name.
_SHORT = {
    "batch_size_per_gpu": "batch per GPU ", "global_batch_size": "global batch ",
    "trainer_sha256": "trainer ", "versions.torch": "torch ",
    **dict.fromkeys(
        ("implementation", "scaling", "precision", "strategy", "model", "gpu_name"), ""),
}  # fmt: skip


def _name_series(sources: list, runs: pd.DataFrame) -> tuple[dict[int, str], dict[int, str | None]]:
    """Return the name of each series, by what differs between them, and weak, strong or None."""
    told, modes = {}, {}
    for number, group in runs.groupby("series"):
        own = [sources[at] for at in group["run"]]
        modes[number] = _find_mode(own)
        batch = "global_batch_size" if modes[number] == "strong" else "batch_size_per_gpu"
        found = {name: look_up(own[0].settings, name)
                 for name in (*COMPARED_SETTINGS, "implementation", batch)}  # fmt: skip
        told[number] = {k: str(v) for k, v in found.items() if v not in (None, ABSENT)}
    keys = dict.fromkeys(key for each in told.values() for key in each)
    differing = [key for key in keys if len({each.get(key) for each in told.values()}) > 1]
    names, seen = {}, Counter()
    for number, each in told.items():
        words = [_name_setting(key, each[key]) for key in differing if key in each]
        name = "" if len(told) == 1 else ", ".join(words) or "settings unknown"
        seen[name] += 1
        names[number] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    return names, modes


def _find_mode(group: list) -> str | None:
    """Return weak or strong; of runs that do not say, strong where the global batch is one."""
    settings = [source.settings or {} for source in group]
    if told := settings[0].get("scaling"):
        return str(told)
    batches = {str(each.get("global_batch_size")) for each in settings}
    has_scales = len({source.gpus for source in group}) > 1
    return "strong" if has_scales and len(batches) == 1 and batches != {"None"} else None


def _name_setting(name: str, value: str) -> str:
    short = _SHORT.get(name, f"{name} ")
    limit = 7 if "sha256" in name else 16 if short or name == "implementation" else 24
    return (short + value[:limit]).strip()


def sort_naturally(name: str) -> list:
    """Return a key that sorts `batch 64` before `batch 128`."""
    parts = (part for part in re.split(r"(\d+)", name) if part)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def compare_quality(study: Study) -> list[str]:
    """Say whether the scales learn equally well: validation loss and accuracy of the last epoch.

    The rule: the sample standard deviation of the scales' means is set against that of the
    repeats (pooled over the scales that have any). Only comparable scales take part.
    """
    found = []
    for column, name in (("val_loss", "validation loss"), ("val_accuracy", "validation accuracy")):
        groups = {row.label: study.list_runs(row)[column].dropna().tolist()
                  for row in study.scales.itertuples() if row.is_compared}  # fmt: skip
        groups = {label: values for label, values in groups.items() if values}
        if len(groups) > 1 and len({value for values in groups.values() for value in values}) > 1:
            found.append(_judge_quality(name, groups))
    return found


def _judge_quality(name: str, groups: dict[str, list[float]]) -> str:
    means = {label: over_epochs(values).mean for label, values in groups.items()}
    across = over_epochs(list(means.values())).half_width
    repeats = pooled_deviation(list(groups.values()))
    low, high = min(means, key=means.get), max(means, key=means.get)
    found = (
        f"{name}: from {round_half_even(means[low], 4)} ({low}) to "
        f"{round_half_even(means[high], 4)} ({high}); standard deviation across scales "
        f"{across:.2g}"
    )
    if repeats is None:
        return f"{found}; no scale has repeats, so whether that is more than chance is unknown"
    if across <= repeats:
        return f"{found}, of repeats {repeats:.2g}: no more than the repeats spread"
    return (
        f"FLAG {found}, of repeats {repeats:.2g}: the scales do not learn alike. A larger "
        "global batch with the same schedule does that"
    )
