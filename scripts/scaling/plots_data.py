"""What the charts draw: runs grouped into configurations, and configurations into series.

A series holds what may be compared: the same settings at other numbers of GPUs. Repeats of
one configuration give a mean with its 95 % interval; a single run gives its epochs' spread.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
from scipy.stats import t as student_t

from scaling.comparing import COMPARED_SETTINGS
from scaling.errors import ScalingError
from scaling.frames import make_epochs_frame, make_rank_epochs_frame
from scaling.metrics_json import TrainingMetrics, read_training_metrics
from scaling.runs import Run, find_runs, order_in_time

UNKNOWN = "settings unknown"
_RUN = ["folder", "run_id"]


@dataclass(frozen=True)
class Source:
    """One complete run: its scale, settings (None: not recorded), epochs and ranks' epochs.

    `home` and `id` say where it is from. `run` is None for a run that is known only by its
    training_metrics.json.
    """

    home: str
    id: str
    workload: str
    nodes: int | None
    gpus_per_node: int | None
    gpus: int
    settings: dict | None
    epochs: pd.DataFrame
    ranks: pd.DataFrame
    run: Run | None = None

    @property
    def steady_epochs(self) -> pd.DataFrame:
        """Its epochs after the warm-up; of a run that has no other, the warm-up's."""
        steady = self.epochs[~self.epochs["is_warmup"]]
        return steady if len(steady) else self.epochs

    @property
    def is_steady(self) -> bool:
        return bool((~self.epochs["is_warmup"]).any())


@dataclass(frozen=True)
class Config:
    """A scale at one setting, over its repeats (oldest first): throughput in the study's unit.

    `spread_per_s`: half of the 95 % interval (Student t) with repeats, else the sample standard
    deviation over the epochs of the one run; None when there is neither.
    """

    sources: tuple[Source, ...]
    throughput_per_s: float
    spread_per_s: float | None

    @property
    def latest(self) -> Source:
        return self.sources[-1]

    @property
    def gpus(self) -> int:
        return self.latest.gpus

    @property
    def nodes(self) -> int | None:
        return self.latest.nodes

    @property
    def is_steady(self) -> bool:
        return all(source.is_steady for source in self.sources)

    @property
    def label(self) -> str:
        text = f"{self.gpus} GPU{'s' if self.gpus != 1 else ''}"
        return f"{text}, {self.nodes} nodes" if (self.nodes or 1) > 1 else text


@dataclass(frozen=True)
class Series:
    """Configurations that may be compared, smallest first; `name` says what sets it apart."""

    name: str
    mode: str | None  # weak, strong, or None where nothing says
    configs: tuple[Config, ...]

    @property
    def baseline(self) -> Config:
        """The one on the fewest GPUs, on one node if there is a choice."""
        return self.configs[0]

    def speedup(self, config: Config) -> float:
        return config.throughput_per_s / self.baseline.throughput_per_s

    def efficiency_pct(self, config: Config) -> float:
        return 100 * self.speedup(config) * self.baseline.gpus / config.gpus


@dataclass(frozen=True)
class Study:
    """All that is drawn of one workload; `skipped` has a line for each run left out."""

    workload: str
    unit: str
    series: tuple[Series, ...]
    skipped: tuple[str, ...] = field(default=())

    @property
    def configs(self) -> list[Config]:
        return [config for series in self.series for config in series.configs]

    def label(self, config: Config) -> str:
        """Return the configuration's name, with its series where there are several."""
        name = next(series.name for series in self.series if config in series.configs)
        return f"{config.label} ({name})" if name else config.label


def load_studies(folder: Path) -> list[Study]:
    """Return a study for each workload with a complete run below a folder, by name.

    Raises ScalingError when the folder does not exist.
    """
    return make_studies(find_runs(Path(folder)))


def make_studies(runs: list[Run]) -> list[Study]:
    """Return a study for each workload that has a complete run, by name."""
    usable = [run for run in order_in_time([run for run in runs if run.id]) if run.is_usable]
    epochs = _group(make_epochs_frame(usable))
    ranks = _group(make_rank_epochs_frame(usable))
    none = (make_epochs_frame([]), make_rank_epochs_frame([]))
    sources, skipped = [], []
    for run in usable:
        key = (str(run.folder), run.id)
        found = epochs.get(key, none[0])
        found = found[~found["is_superseded"] & found["throughput_per_s"].notna()]
        if run.gpus is None or found.empty:
            what = "the number of GPUs" if run.gpus is None else "any epoch's throughput"
            skipped.append(f"job {run.id}: nothing says {what}")
            continue
        workload = run.workload or "tinyimagenet"
        scale = (run.nodes, run.gpus_per_node, run.gpus)
        at = ranks.get(key, none[1])
        sources.append(Source(key[0], run.id, workload, *scale, run.settings, found, at, run))
    return _part_workloads(sources, skipped)


def load_metrics(files: list[Path]) -> list[Study]:
    """Return a study for each workload in training_metrics.json files, whoever wrote them.

    Raises ScalingError that names the first file that cannot be used.
    """
    return _part_workloads([_read_metrics(Path(path)) for path in files], [])


def _group(frame: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    return dict(tuple(frame.groupby(_RUN))) if len(frame) else {}


def _read_metrics(path: Path) -> Source:
    metrics = read_training_metrics(path)
    if metrics.world_size is None:
        raise ScalingError(f"{path}: it does not say on how many GPUs (hardware.world_size)")
    warmup = metrics.record.get("summary")
    warmup = warmup.get("warmup_epochs_excluded") if isinstance(warmup, dict) else None
    warmup = warmup if isinstance(warmup, int) else 1
    rows = [
        {
            **{key: value for key, value in vars(epoch).items() if key != "record"},
            "is_warmup": epoch.epoch <= warmup,
            "is_superseded": False,
            **_read_steps(epoch.record),
        }
        for epoch in metrics.epochs
        if epoch.throughput_per_s is not None
    ]
    if not rows:
        raise ScalingError(f"{path}: no epoch in it has a throughput")
    frame = pd.DataFrame(rows)
    for name in set(frame) - {"unit", "is_warmup", "is_superseded"}:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    settings = _describe_settings(metrics)
    nodes = _count_nodes(metrics.record)
    shape = (nodes, metrics.world_size // nodes if nodes else None, metrics.world_size)
    name = metrics.run_id or path.parent.name
    ranks = make_rank_epochs_frame([])
    return Source(str(path), name, settings["model"] or "", *shape, settings, frame, ranks)


def _read_steps(record: dict) -> dict:
    """Return rank 0's mean step time and wait for data, where an entry holds them."""
    names = {"step_s": "step_time_mean_sec", "step_wait_s": "dataload_time_mean_sec",
             "peak_mib": "peak_memory_mib_rank0"}  # fmt: skip
    return {ours: record.get(theirs) for ours, theirs in names.items()}


def _count_nodes(record: dict) -> int | None:
    host = record.get("host")
    nodes = host.get("nodes") if isinstance(host, dict) else None
    return len(set(map(str, nodes))) if isinstance(nodes, list) and nodes else None


def _describe_settings(metrics: TrainingMetrics) -> dict:
    """Return a metrics file's settings under the names that run.json has for them."""
    config = metrics.record.get("training_config")
    config = config if isinstance(config, dict) else {}
    environment = metrics.record.get("env")
    environment = environment if isinstance(environment, dict) else {}
    sizes = config.get("dataset_subset_sizes")
    return {
        **{name: config.get(name) for name in ("scaling", "strategy", "precision", "optimizer",
                                               "epochs", "global_batch_size")},
        "model": config.get("model_name") or config.get("model_size"),
        "batch_size_per_gpu": config.get("micro_batch_size_per_gpu"),
        "gpu_name": metrics.gpu_name,
        "versions": {"torch": environment.get("torch_version")},
        "dataset": {"train": sizes.get("train") if isinstance(sizes, dict) else None},
    }  # fmt: skip


def _part_workloads(sources: list[Source], skipped: list[str]) -> list[Study]:
    by_workload: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        by_workload[source.workload].append(source)
    return [_make_study(name, found, skipped) for name, found in sorted(by_workload.items())]


def _make_study(workload: str, sources: list[Source], skipped: list[str]) -> Study:
    skipped = list(skipped)
    units = [str(source.epochs["unit"].iloc[-1]) for source in sources]
    unit = max(set(units), key=units.count)
    for source, other in zip(sources, units, strict=True):
        if other != unit:
            skipped.append(f"job {source.id}: it counts {other}, the others {unit}")
    kept = [source for source, other in zip(sources, units, strict=True) if other == unit]
    series = part_series(kept)
    return Study(workload, unit, tuple(series), tuple(skipped))


def part_series(sources: list[Source]) -> list[Series]:
    """Part runs into series whose settings agree; each is named by what differs between them."""
    strong = _find_strong(sources)
    by_settings: dict[tuple, list[Source]] = defaultdict(list)
    for source in sources:
        by_settings[_describe_likeness(source, strong)].append(source)
    keys = list(by_settings)
    named = [dict(key) for key in keys]
    names = list(dict.fromkeys(name for each in named for name in each))
    differing = [name for name in names if len({each.get(name, "—") for each in named}) > 1]
    found = []
    for key, each in zip(keys, named, strict=True):
        words = [_word(name, each[name]) for name in differing if name in each]
        mode = each.get("scaling")
        configs = _make_configs(by_settings[key])
        found.append(Series(", ".join(words) if len(keys) > 1 else "", mode, configs))
    found.sort(key=lambda series: (-len(series.configs), _natural(series.name)))
    return _tell_apart(found)


def _natural(name: str) -> list:
    """Return a key that sorts `batch 64` before `batch 128`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part)
            for part in re.split(r"(\d+)", name) if part]  # fmt: skip


def _tell_apart(series: list[Series]) -> list[Series]:
    """Number the names that became equal when they were shortened."""
    seen: Counter[str] = Counter()
    found = []
    for each in series:
        seen[each.name] += 1
        count = seen[each.name]
        found.append(each if count == 1 else replace(each, name=f"{each.name} #{count}"))
    return found


def _word(name: str, value: str) -> str:
    short = {"batch_size_per_gpu": "batch per GPU", "global_batch_size": "global batch",
             "trainer_sha256": "trainer", "versions.torch": "torch"}  # fmt: skip
    if name in ("scaling", "precision", "strategy", "model", "gpu_name", UNKNOWN):
        return value[:24]
    return f"{short.get(name, name)} {value[:7] if 'sha256' in name else value[:16]}"


def _find_strong(sources: list[Source]) -> bool:
    """Whether runs that do not say how they scale had one global batch at several scales."""
    silent = [s for s in sources if s.settings and not s.settings.get("scaling")]
    batches = {str(s.settings.get("global_batch_size")) for s in silent}
    return len({s.gpus for s in silent}) > 1 and len(batches) == 1 and batches != {"None"}


def _describe_likeness(source: Source, strong: bool) -> tuple[tuple[str, str], ...]:
    """Return the settings that must agree, as (name, value); what is not recorded is left out."""
    settings = source.settings
    if settings is None:
        return ((UNKNOWN, UNKNOWN),)
    mode = settings.get("scaling") or ("strong" if strong else None)
    batch = "global_batch_size" if mode == "strong" else "batch_size_per_gpu"
    pairs = []
    for name in (*COMPARED_SETTINGS, batch):
        value: object = settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            pairs.append((name, str(value)))
    return tuple(pairs)


def _make_configs(sources: list[Source]) -> tuple[Config, ...]:
    by_scale: dict[tuple, list[Source]] = defaultdict(list)
    for source in sources:
        by_scale[(source.gpus, source.nodes or 1, source.gpus_per_node or 0)].append(source)
    return tuple(_measure(by_scale[scale]) for scale in sorted(by_scale))


def _measure(repeats: list[Source]) -> Config:
    means = [float(source.steady_epochs["throughput_per_s"].mean()) for source in repeats]
    if len(means) > 1:
        half = float(student_t.ppf(0.975, len(means) - 1)) * stdev(means) / sqrt(len(means))
    else:
        half = float(repeats[0].steady_epochs["throughput_per_s"].std(ddof=1))
    return Config(tuple(repeats), mean(means), half if isfinite(half) else None)
