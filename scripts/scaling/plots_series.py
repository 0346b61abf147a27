"""Part runs into configurations and series: only runs whose settings agree share a line."""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from math import isfinite, sqrt
from statistics import mean, stdev

from scipy.stats import t as student_t

from scaling.comparing import COMPARED_SETTINGS
from scaling.plots_data import Config, Series, Source, Study

UNKNOWN = "settings unknown"


def part_workloads(sources: list[Source], skipped: list[str]) -> list[Study]:
    """Return a study a workload, by name; `skipped` are the lines on runs left out so far."""
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
