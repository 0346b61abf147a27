"""Part runs into configurations and series: only runs whose settings agree share a line.

Which runs may be compared and how repeats are averaged are the rules of the tables (study.py).
"""

import re
from collections import Counter, defaultdict
from dataclasses import replace

from scaling.plots.data import Config, Series, Source, Study
from scaling.runs.spread import over_epochs, over_repeats
from scaling.runs.study import LIKENESS, part_alike

_IN_NAMES = (*LIKENESS, "implementation")
_SHORT = {
    "batch_size_per_gpu": "batch per GPU", "global_batch_size": "global batch",
    "trainer_sha256": "trainer", "versions.torch": "torch", "implementation": "",
}  # fmt: skip
_TELLING = ("scaling", "precision", "strategy", "model", "gpu_name")  # whose values say it alone


def part_workloads(sources: list[Source], skipped: list[str]) -> list[Study]:
    """Return a study a workload, by name; `skipped` are the lines on runs left out so far."""
    by_workload: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        by_workload[source.workload].append(source)
    return [_make_study(name, found, skipped) for name, found in sorted(by_workload.items())]


def _make_study(workload: str, sources: list[Source], skipped: list[str]) -> Study:
    unit = Counter(source.unit for source in sources).most_common(1)[0][0]
    odd = [s for s in sources if s.unit != unit]
    lines = [f"job {s.id}: it counts {s.unit}, the others {unit}" for s in odd]
    series = part_series([source for source in sources if source.unit == unit])
    return Study(workload, unit, tuple(series), (*skipped, *lines))


def part_series(sources: list[Source]) -> list[Series]:
    """Part runs into series whose settings agree; each is named by what differs between them."""
    groups = part_alike(sources)
    modes = [_find_mode(group) for group in groups]
    named = [_describe(group[0], mode) for group, mode in zip(groups, modes, strict=True)]
    names = dict.fromkeys(name for each in named for name in each)
    differing = [name for name in names if len({each.get(name) for each in named}) > 1]
    found = []
    for group, mode, each in zip(groups, modes, named, strict=True):
        words = [_word(name, each[name]) for name in differing if name in each]
        name = ", ".join(words) or "settings unknown" if len(groups) > 1 else ""
        found.append(Series(name, mode, _make_configs(group)))
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
    if name in _TELLING:
        return value[:24]
    return f"{_SHORT.get(name, name)} {value[:7] if 'sha256' in name else value[:16]}".strip()


def _find_mode(group: list[Source]) -> str | None:
    """Return weak or strong; of runs that do not say, strong where the global batch is one."""
    settings = [source.settings or {} for source in group]
    if told := settings[0].get("scaling"):
        return str(told)
    batches = {str(each.get("global_batch_size")) for each in settings}
    has_scales = len({source.gpus for source in group}) > 1
    return "strong" if has_scales and len(batches) == 1 and batches != {"None"} else None


def _describe(source: Source, mode: str | None) -> dict[str, str]:
    """Return the settings that a series can be named by; what is not recorded is left out."""
    batch = "global_batch_size" if mode == "strong" else "batch_size_per_gpu"
    found = {}
    for name in (*_IN_NAMES, batch):
        value: object = source.settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found[name] = str(value)
    return found


def _make_configs(sources: list[Source]) -> tuple[Config, ...]:
    by_scale: dict[tuple, list[Source]] = defaultdict(list)
    for source in sources:
        by_scale[(source.gpus, source.nodes or 1, source.gpus_per_node or 0)].append(source)
    return tuple(_measure(by_scale[scale]) for scale in sorted(by_scale))


def _measure(repeats: list[Source]) -> Config:
    runs = [over_epochs(list(source.steady_epochs["throughput_per_s"])) for source in repeats]
    found = runs[0] if len(runs) == 1 else over_repeats([run.mean for run in runs])
    return Config(tuple(repeats), float(found.mean), found.half_width)
