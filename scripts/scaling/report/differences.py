"""What differs between the settings of runs, so that nobody compares unlike ones."""

from collections import defaultdict
from dataclasses import dataclass

from scaling.report.runs import flatten
from scaling.runs.comparing import COMPARED_SETTINGS
from scaling.runs.find import Run

# They differ from run to run by their nature, or follow from the scale.
_OWN = (
    "run_id", "start_utc", "argv", "hosts", "slurm", "nodes", "gpus_per_node", "world_size",
    "gpus_visible", "resumed_from", "schema_version", "workload", "unit",
)  # fmt: skip
ABSENT = "not recorded"
MOST_RUNS = 12  # named in a row; more are counted


@dataclass(frozen=True)
class Differences:
    """Columns (setting, whether it must agree) and a row a combination: values, runs in words."""

    columns: list[tuple[str, bool]]
    rows: list[tuple[list[str], str]]


def find_differences(runs: list[Run]) -> Differences | None:
    """Return how the settings of a workload's runs differ, None when there is no difference."""
    known = [(run, dict(flatten(run.settings))) for run in runs if run.settings]
    names = list(dict.fromkeys(name for _, settings in known for name in settings))
    names = [name for name in names if name.split(".")[0] not in _OWN]
    # Of the two batches only the one that scaling keeps fixed can differ by choice.
    strong = {run.settings.get("scaling") == "strong" for run, _ in known}
    follows = {True: "batch_size_per_gpu", False: "global_batch_size"}
    if len(strong) == 1:
        names = [name for name in names if name != follows[strong.copy().pop()]]
    values = {name: {settings.get(name, ABSENT) for _, settings in known} for name in names}
    differing = [name for name in names if len(values[name]) > 1]
    if not differing:
        return None
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run, settings in known:
        groups[tuple(settings.get(name, ABSENT) for name in differing)].append(run)
    columns = [(name, name in (*COMPARED_SETTINGS, *follows.values())) for name in differing]
    return Differences(columns, [(list(key), _name(found)) for key, found in groups.items()])


def _name(runs: list[Run]) -> str:
    names = ", ".join(run.id for run in runs[:MOST_RUNS])
    return f"{names} and {len(runs) - MOST_RUNS} more" if len(runs) > MOST_RUNS else names
